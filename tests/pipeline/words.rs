//! What the kernel's own words and the table tell of the same connection, in the orders in which they may come.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use portreeve::connection::{Cookie, Counts, Inode, Netns, TcpState, Tuple};
use portreeve::ebpf::event::{Ancestor, Ended, Fault, Opening, Sight, Word};
use portreeve::event::{Event, What};
use portreeve::netlink::Destroyed;
use portreeve::pipeline::{Outside, Pipeline};
use portreeve::secrets::Masker;
use portreeve::source::{Filter, Kind, Observation, Selection};
use portreeve::ssh::Route;

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
    Observation::Word(Word::Open(Box::new(opening_of_ssh(millis))))
}

fn opening_of_ssh(millis: u64) -> Opening {
    *kernel::opening(sight(millis, "0.0.0.0:0", TcpState::Close), 300, &["ssh", "git.example.net"])
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

/// A machine that is so busy that the time for reading is spent before the client's turn comes.
struct Busy {
    kernel: Kernel,
    pipeline: Pipeline,
    /// What each look at the processor's clock finds spent since the one before.
    step: Rc<Cell<Duration>>,
}

impl Busy {
    fn new(client: &[&str]) -> Self {
        let mut kernel = Kernel::new();
        kernel.spawn(298, 100, "git", &["git"]);
        kernel.spawn(299, 100, "ssh", &["ssh", "-J", "bastion", "bob@target"]);
        kernel.spawn(300, 299, "ssh", client);
        let step = Rc::new(Cell::new(Duration::ZERO));
        let (steps, spent) = (Rc::clone(&step), Cell::new(Duration::ZERO));
        let mut ids = 0;
        let outside = Outside {
            new_id: Box::new(move |_| {
                ids += 1;
                uuid::Uuid::from_u128(ids)
            }),
            user_name: Box::new(|_| None),
            boottime: Box::new(|| Duration::ZERO),
            cputime: Box::new(move || {
                spent.set(spent.get() + steps.get());
                spent.get()
            }),
        };
        let select = Selection::new("22".parse().unwrap(), Filter::default());
        let time = Duration::from_secs(1);
        let pipeline = Pipeline::new(&kernel.proc(), select, Masker::new(&[]), outside, time, 100);
        let mut busy = Self { kernel, pipeline, step };
        assert!(busy.tick(0).is_empty());
        busy
    }

    fn tick(&mut self, millis: u64) -> Vec<Event> {
        self.kernel.write();
        self.pipeline.tick(&self.kernel.proc(), moment(millis)).unwrap()
    }

    /// The client connects, behind another process, and is told by the kernel's word alone.
    fn connect(&mut self, client: &[&str]) -> Vec<Event> {
        self.kernel.connect(300, OURS, THEIRS, INODE);
        self.kernel.establish(INODE);
        self.kernel.write();
        let of_git = Opening {
            sight: Sight {
                cookie: Cookie::new(8),
                inode: Inode::new(6),
                ..sight(1, "0.0.0.0:0", TcpState::Close)
            },
            pid: 298,
            start_ticks: 1_298,
            ..opening_of_ssh(1)
        };
        let word = |opening| Observation::Word(Word::Open(Box::new(opening)));
        let observed = vec![word(of_git), word(self.opening(client)), established(3)];
        self.step.set(Duration::from_secs(2));
        let told = self.pipeline.observe(&self.kernel.proc(), moment(4), observed);
        self.step.set(Duration::ZERO);
        told
    }

    fn opening(&self, client: &[&str]) -> Opening {
        Opening {
            args: client.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            ancestors: vec![Ancestor { pid: 299, start_ticks: 1_299, comm: b"ssh".to_vec() }],
            ..opening_of_ssh(2)
        }
    }
}

/// Action, holders, route and parent of each.
fn ways(events: &[Event]) -> Vec<(&'static str, usize, Option<Route>, Option<u32>)> {
    let connections = events.iter().filter_map(|event| Some((&event.what, event.what.connection()?)));
    connections
        .map(|(what, connection)| {
            let portreeve::process::Attribution::Owned { lineage, holders, .. } = &connection.attribution
            else {
                panic!("{connection:?}")
            };
            let route = connection.way.as_ref().and_then(|way| way.route);
            (what.action(), holders.len(), route, lineage.ancestry.first().map(|parent| parent.pid))
        })
        .collect()
}

#[test]
fn of_a_client_that_is_read_when_its_parent_has_ended_it_is_told_what_that_asked_for() {
    let client = ["ssh", "-W", "[target]:22", "bastion"];
    let mut busy = Busy::new(&client);
    let told = busy.connect(&client);
    assert_eq!(ways(&told), [("connection-opened", 0, Some(Route::Jump), Some(299))]);
    // Its parent ends before there is time to read it.
    busy.kernel.exit(299);
    busy.kernel.spawn(300, 1, "ssh", &client);
    let told: Vec<Event> = (1..30).flat_map(|tick| busy.tick(tick * 100)).collect();
    assert_eq!(ways(&told), [("connection-changed", 1, Some(Route::Jump), Some(299))], "{told:#?}");
    let What::Changed { connection, .. } = &told[0].what else { panic!("{told:#?}") };
    let asked = connection.way.as_ref().and_then(|way| way.ssh.clone()).unwrap();
    assert_eq!(asked.target.as_deref(), Some(&b"bob@target"[..]));
}

#[test]
fn what_a_client_that_there_was_no_time_to_read_opens_for_its_server_is_told_as_that() {
    let client = ["ssh", "-R", "8082:192.0.2.2:80", "target"];
    let mut busy = Busy::new(&client);
    let told = busy.connect(&client);
    assert_eq!(ways(&told), [("connection-opened", 0, Some(Route::Direct), Some(299))]);
    let local = "192.0.2.10:40001";
    busy.kernel.connect(300, local, THEIRS, INODE + 1);
    busy.kernel.establish(INODE + 1);
    let sight =
        Sight { cookie: Cookie::new(10), inode: Inode::new(INODE + 1), ..sight(50, local, TcpState::Close) };
    let opening = Opening { sight, ..busy.opening(&client) };
    let observed = vec![
        Observation::Word(Word::Open(Box::new(opening))),
        Observation::Word(Word::Established(Sight {
            at: moment(51).boot,
            before: TcpState::SynSent,
            ..sight
        })),
    ];
    busy.kernel.write();
    let routes = |told: &[Event]| {
        let local = |event: &Event| event.what.connection().unwrap().tuple.local.port();
        let ports: Vec<_> = told.iter().map(local).collect();
        let routes = ports
            .into_iter()
            .zip(ways(told))
            .map(|(port, (action, _, route, _))| (port, action, route.unwrap()));
        let mut routes: Vec<_> = routes.collect();
        routes.sort_unstable_by_key(|(port, ..)| *port);
        routes
    };
    let told = busy.pipeline.observe(&busy.kernel.proc(), moment(52), observed);
    assert_eq!(routes(&told)[0], (40_001, "connection-opened", Route::Forwarded));
    // Once both are read, the first one is its client's own all the same.
    let told: Vec<Event> = (1..30).flat_map(|tick| busy.tick(tick * 100)).collect();
    let wanted =
        [(40_000, "connection-changed", Route::Direct), (40_001, "connection-changed", Route::Forwarded)];
    assert_eq!(routes(&told), wanted, "{told:#?}");
}
