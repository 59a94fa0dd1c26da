//! What an SSH client opens beside its own connection it opens for its server (`-R`): told apart by evidence, in whatever
//! order, and by whatever source, the two come to be known.

use std::sync::Arc;

use portreeve::connection::{Connection, Cookie, Inode, Netns, TcpState, Tuple};
use portreeve::ebpf::event::{Sight, Word};
use portreeve::event::{Event, What};
use portreeve::pipeline::Pipeline;
use portreeve::process::{Attribution, Recorded, Told};
use portreeve::source::{Filter, Observation};
use serde_json::json;

use super::kernel::{self, Kernel, moment, pipeline};

const SERVER: &str = "203.0.113.7:22";
const TARGET: &str = "192.0.2.2:22";
/// The lower port is the forward's, so that its row, and its key, come first.
const MAIN: &str = "192.0.2.10:50000";
const FORWARD: &str = "192.0.2.10:40000";
const CLIENT: &[&str] = &["ssh", "-R", "8082:192.0.2.2:22", "bastion"];

struct Watch {
    kernel: Kernel,
    pipeline: Pipeline,
}

impl Watch {
    fn new() -> Self {
        let kernel = Kernel::new();
        let mut watch = Self { pipeline: pipeline(&kernel, "22", Filter::default()), kernel };
        assert_eq!(watch.tick(0), [""; 0]);
        watch
    }

    fn with_client() -> Self {
        let mut watch = Self::new();
        watch.kernel.spawn(300, 100, "ssh", CLIENT);
        watch
    }

    fn connect(&mut self, pid: u32, local: &str, remote: &str, inode: u64) {
        self.kernel.connect(pid, local, remote, inode);
        self.kernel.establish(inode);
    }

    fn tick(&mut self, millis: u64) -> Vec<String> {
        self.kernel.write();
        stories(&self.pipeline.tick(&self.kernel.proc(), moment(millis)).unwrap())
    }

    fn hear(&mut self, millis: u64, words: Vec<Word>) -> Vec<String> {
        self.kernel.write();
        let observed = words.into_iter().map(Observation::Word).collect();
        stories(&self.pipeline.observe(&self.kernel.proc(), moment(millis), observed))
    }
}

/// What is told of each, to whom, and by which way.
fn stories(events: &[Event]) -> Vec<String> {
    let of =
        |event: &Event| event.what.connection().map(|connection| (event.what.clone(), connection.clone()));
    events
        .iter()
        .filter_map(of)
        .map(|(what, connection)| format!("{}{}", verb(&what), end(&connection)))
        .collect()
}

fn verb(what: &What) -> String {
    match what {
        What::Opened(_) => String::new(),
        What::Changed { changed, .. } => format!("{}: ", changed.join(",")),
        other => format!("{}: ", other.action()),
    }
}

/// Its name at the far end, as typed, too: a forward's target has none.
fn end(connection: &Connection) -> String {
    let way = connection.way.as_ref();
    let route = way.and_then(|way| way.route).map_or("-", |route| route.name());
    let name = way.and_then(|way| way.ssh.as_ref()?.destination.clone());
    let name = name.map_or(String::new(), |name| format!(" {}", String::from_utf8(name).unwrap()));
    format!("{} {route}{name}", connection.tuple.remote)
}

fn direct() -> String {
    format!("{SERVER} direct bastion")
}

fn forwarded() -> String {
    format!("{TARGET} forwarded")
}

/// A socket of which the kernel tells.
fn sight(millis: u64, local: &str, remote: &str, inode: u64, before: TcpState) -> Sight {
    Sight {
        at: moment(millis).boot,
        cookie: Cookie::new(inode),
        tuple: Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() },
        inode: Inode::new(inode),
        netns: Netns(4_026_531_840),
        device: 0,
        before,
        is_known: true,
    }
}

fn opening(millis: u64, local: &str, remote: &str, inode: u64) -> Word {
    Word::Open(kernel::opening(sight(millis, local, remote, inode, TcpState::Close), 300, CLIENT))
}

fn established(millis: u64, local: &str, remote: &str, inode: u64) -> Word {
    Word::Established(sight(millis, local, remote, inode, TcpState::SynSent))
}

const ANY: &str = "0.0.0.0:0";

#[test]
fn of_two_that_one_reading_shows_the_first_is_the_client_s_own() {
    let mut watch = Watch::with_client();
    watch.connect(300, MAIN, SERVER, 7_001);
    watch.connect(300, FORWARD, TARGET, 7_002);
    let mut told = watch.tick(1_000);
    told.sort_unstable();
    assert_eq!(told, [forwarded(), direct()]);
    // Whichever row comes first.
    let mut watch = Watch::with_client();
    watch.connect(300, MAIN, SERVER, 7_002);
    watch.connect(300, FORWARD, TARGET, 7_001);
    watch.kernel.rows.reverse();
    let mut told = watch.tick(1_000);
    told.sort_unstable();
    assert_eq!(told, [forwarded(), direct()]);
}

#[test]
fn of_a_client_that_only_words_told_of_the_second_is_its_server_s() {
    // Nobody has read its process, which has gone from `/proc` by the time.
    let mut watch = Watch::new();
    let own = vec![opening(100, ANY, SERVER, 7_001), established(101, MAIN, SERVER, 7_001)];
    assert_eq!(watch.hear(110, own), [direct()]);
    let second = vec![opening(400, ANY, TARGET, 7_002), established(401, FORWARD, TARGET, 7_002)];
    assert_eq!(watch.hear(410, second), [forwarded()]);
}

#[test]
fn both_in_one_batch_of_words_are_told_apart_too() {
    let mut watch = Watch::new();
    let own = [opening(100, ANY, SERVER, 7_001), established(101, MAIN, SERVER, 7_001)];
    let second = [opening(400, ANY, TARGET, 7_002), established(401, FORWARD, TARGET, 7_002)];
    assert_eq!(watch.hear(410, own.into_iter().chain(second).collect()), [direct(), forwarded()]);
}

#[test]
fn whoever_connects_elsewhere_while_it_holds_a_socket_has_been_connected_by_that_whatever_was_seen_last() {
    let mut watch = Watch::with_client();
    watch.kernel.connect(300, MAIN, SERVER, 7_001);
    // It is bound to its port, and that it was answered is not told yet.
    assert_eq!(watch.hear(110, vec![opening(100, MAIN, SERVER, 7_001)]), [direct()]);
    watch.kernel.establish(7_001);
    watch.connect(300, FORWARD, TARGET, 7_002);
    let second = vec![opening(400, ANY, TARGET, 7_002), established(401, FORWARD, TARGET, 7_002)];
    assert_eq!(watch.hear(410, second), [forwarded()]);
}

#[test]
fn the_next_address_of_a_server_whose_first_did_not_answer_is_the_client_s_own() {
    let mut watch = Watch::with_client();
    watch.kernel.connect(300, FORWARD, TARGET, 7_001);
    assert_eq!(watch.tick(100), [format!("{TARGET} direct bastion")]);
    // A client lets go of the one before it tries the next.
    watch.kernel.give_up(7_001);
    watch.connect(300, MAIN, SERVER, 7_002);
    let told = watch.hear(400, vec![opening(390, ANY, SERVER, 7_002), established(391, MAIN, SERVER, 7_002)]);
    assert_eq!(told, [direct()]);
}

#[test]
fn a_client_in_the_background_has_the_connection_of_the_one_that_it_came_from() {
    let mut watch = Watch::with_client();
    watch.connect(300, MAIN, SERVER, 7_001);
    assert_eq!(watch.tick(1_000), [direct()]);
    // `ssh -f`: its child goes on, and nobody has asked yet who holds the socket now.
    watch.kernel.spawn(301, 1, "ssh", CLIENT);
    watch.kernel.hold(301, 7_001);
    watch.kernel.exit(300);
    watch.connect(301, FORWARD, TARGET, 7_002);
    assert!(watch.tick(1_050).contains(&forwarded()));
}

#[test]
fn a_client_whose_connection_the_run_before_told_of_is_connected() {
    let mut watch = Watch::with_client();
    watch.connect(300, MAIN, SERVER, 7_001);
    assert_eq!(watch.tick(1_000), [direct()]);
    let process = json!({ "process": { "pid": 300, "entity_id": "boot-300-1300" } });
    let fields = process.as_object().unwrap().clone();
    let recorded = Arc::new(Recorded::new(&Told { fields, ..Told::default() }));
    let mut live = watch.pipeline.live();
    for connection in &mut live {
        let connection = Arc::make_mut(connection);
        connection.attribution = Attribution::Recorded(Arc::clone(&recorded));
        connection.way = None;
    }
    watch.pipeline = pipeline(&watch.kernel, "22", Filter::default());
    assert_eq!(watch.pipeline.restore(&live, moment(2_000)).len(), 0);
    watch.tick(2_000);
    watch.connect(300, FORWARD, TARGET, 7_002);
    assert!(watch.tick(2_050).contains(&forwarded()));
}

#[test]
fn a_first_connection_that_is_known_after_the_second_is_the_client_s_own_still() {
    let mut watch = Watch::new();
    // The words of the first are late: another processor had begun them.
    let second = vec![opening(400, ANY, TARGET, 7_002), established(401, FORWARD, TARGET, 7_002)];
    assert_eq!(
        watch.hear(410, second),
        [format!("{TARGET} direct bastion")],
        "it is the first for all that is known"
    );
    let own = vec![opening(100, ANY, SERVER, 7_001), established(101, MAIN, SERVER, 7_001)];
    let changed = format!("portreeve.route,portreeve.ssh: {}", forwarded());
    assert_eq!(watch.hear(420, own), [direct(), changed]);
}
