//! What the kernel's own words and the table tell of the same connection, in the orders in which they may come.

use portreeve::connection::{Cookie, Counts, Inode, Netns, TcpState, Tuple};
use portreeve::ebpf::event::{Ended, Fault, Sight, Word};
use portreeve::event::Event;
use portreeve::netlink::Destroyed;
use portreeve::pipeline::Pipeline;
use portreeve::source::{Filter, Kind, Observation};

use super::kernel::{self, Kernel, moment, pipeline, story};

const OWN: Netns = Netns(4_026_531_840);
const OURS: &str = "192.0.2.10:40000";
const THEIRS: &str = "203.0.113.7:22";
const INODE: u64 = 7_001;
/// When the tick began that read the table; it went on for some milliseconds.
const TICK: u64 = 1_000;

struct Watch {
    kernel: Kernel,
    pipeline: Pipeline,
}

impl Watch {
    /// The table has shown a connection of the process 300.
    fn new() -> (Self, Vec<String>) {
        let mut kernel = Kernel::new();
        kernel.spawn(300, 100, "ssh", &["ssh", "git.example.net"]);
        let mut watch = Self { pipeline: pipeline(&kernel, "22", Filter::default()), kernel };
        watch.tick(0);
        watch.kernel.connect(300, OURS, THEIRS, INODE);
        watch.kernel.establish(INODE);
        let told = watch.tick(TICK);
        (watch, told)
    }

    fn tick(&mut self, millis: u64) -> Vec<String> {
        self.kernel.write();
        stories(&self.pipeline.tick(&self.kernel.proc(), moment(millis)).unwrap())
    }

    fn hear(&mut self, millis: u64, observed: Vec<Observation>) -> Vec<String> {
        stories(&self.pipeline.observe(&self.kernel.proc(), moment(millis), observed))
    }
}

fn stories(events: &[Event]) -> Vec<String> {
    events.iter().filter(|event| event.what.connection().is_some()).map(story).collect()
}

/// The socket, so many milliseconds after the first moment.
fn sight(millis: u64, local: &str, before: TcpState) -> Sight {
    Sight {
        at: moment(millis).boot,
        cookie: Cookie::new(9),
        tuple: Tuple { local: local.parse().unwrap(), remote: THEIRS.parse().unwrap() },
        inode: Inode::new(INODE),
        netns: OWN,
        device: 0,
        before,
        is_known: true,
    }
}

fn established(millis: u64) -> Observation {
    Observation::Word(Word::Established(sight(millis, OURS, TcpState::SynSent)))
}

fn opening(millis: u64) -> Observation {
    Observation::Word(Word::Open(kernel::opening(
        sight(millis, "0.0.0.0:0", TcpState::Close),
        300,
        &["ssh", "git.example.net"],
    )))
}

fn closed(millis: u64) -> Observation {
    let counts = Counts { established: true, ..Counts::default() };
    let sight = sight(millis, OURS, TcpState::LastAck);
    Observation::Word(Word::Closed(Ended { sight, counts, fault: Fault::None, has_fin: true }))
}

#[test]
fn a_connection_that_a_table_showed_while_it_was_read_is_not_told_again_by_its_opening() {
    let (mut watch, told) = Watch::new();
    assert_eq!(told, [format!("{OURS} connection-opened by 300 poll established")]);
    // It began after the tick did, and the row was read after that: its words are younger than what the table told.
    assert_eq!(watch.hear(TICK + 20, vec![established(TICK + 4)]), [""; 0]);
    assert_eq!(watch.hear(TICK + 21, vec![opening(TICK + 3)]), [""; 0]);
    watch.kernel.peer_fin(INODE);
    watch.kernel.close(INODE);
    let end = format!("{OURS} connection-closed by 300 closed Some(true)");
    assert_eq!(watch.hear(TICK + 60, vec![closed(TICK + 50)]), [end]);
    assert_eq!(watch.tick(TICK + 100), [""; 0]);
}

#[test]
fn a_socket_that_connects_again_after_words_were_lost_is_another_connection() {
    let (mut watch, _) = Watch::new();
    let lost = Observation::Lost { kind: Kind::Ebpf, netns: OWN, count: Some(2) };
    assert_eq!(watch.hear(TICK + 20, vec![established(TICK + 4), lost]), [""; 0]);
    // The word of the end is lost; a table cannot be read for so long.
    let told = watch.hear(TICK + 900, vec![opening(TICK + 800), established(TICK + 801)]);
    let end = format!("{OURS} connection-closed by 300 closed Some(true)");
    assert_eq!(told, [end, format!("{OURS} connection-opened by 300 ebpf established")]);
    // As young as a reading may be, it is what the table showed, whatever was lost.
    let (mut watch, _) = Watch::new();
    let lost = Observation::Lost { kind: Kind::Ebpf, netns: OWN, count: Some(2) };
    assert_eq!(watch.hear(TICK + 20, vec![established(TICK + 4), lost, opening(TICK + 3)]), [""; 0]);
    assert!(watch.tick(TICK + 100).is_empty());
}

#[test]
fn of_one_whose_end_is_told_when_the_next_on_its_ports_stands_nothing_is_told_and_it_is_counted() {
    let (mut watch, _) = Watch::new();
    assert_eq!(watch.hear(TICK + 20, vec![opening(TICK + 3), established(TICK + 4)]), [""; 0]);
    let counts = Some(Counts { established: true, ..Counts::default() });
    let tuple = Tuple { local: OURS.parse().unwrap(), remote: THEIRS.parse().unwrap() };
    let ended = Destroyed { tuple, cookie: Cookie::new(8), device: 0, counts, attempted: true };
    assert_eq!(watch.hear(TICK + 30, vec![Observation::Destroyed { netns: OWN, ended }]), [""; 0]);
    assert_eq!(watch.pipeline.totals().notices_lost, 1);
    let end = format!("{OURS} connection-closed by 300 closed Some(true)");
    assert_eq!(watch.hear(TICK + 60, vec![closed(TICK + 50)]), [end]);
}
