//! Connections that follow each other between the same ends, when what tells of them is taken late: no two are open at
//! once, and none begins before one that was told sooner was seen last. What cannot be told so is counted.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portreeve::connection::{Cookie, Moment, Tuple};
use portreeve::event::{Event, What};
use portreeve::netlink::Destroyed;
use portreeve::pipeline::{Outside, Pipeline};
use portreeve::proc::Proc;
use portreeve::secrets::Masker;
use portreeve::source::poll::Source;
use portreeve::source::tally::Watched;
use portreeve::source::{Events, Filter, Kind, Observation, Selection};
use uuid::Uuid;

use super::kernel::{Kernel, moment};

const OURS: &str = "192.0.2.10:40000";
const THEIRS: &str = "203.0.113.7:22";
const INODE: u64 = 7_001;

struct Watch {
    kernel: Kernel,
    proc: Proc,
    pipeline: Pipeline,
    /// As of when each id was made.
    made: Rc<RefCell<Vec<u64>>>,
}

impl Watch {
    fn new() -> Self {
        let mut kernel = Kernel::new();
        kernel.spawn(300, 100, "ssh", &["ssh", "git.example.net"]);
        kernel.write();
        let made = Rc::<RefCell<Vec<u64>>>::default();
        let ids = Rc::clone(&made);
        let new_id = move |at| {
            let mut ids = ids.borrow_mut();
            ids.push(millis(at));
            Uuid::from_u128(ids.len() as u128)
        };
        let outside = Outside {
            new_id: Box::new(new_id),
            user_name: Box::new(|_| None),
            boottime: Box::new(|| Duration::ZERO),
            cputime: Box::new(|| Duration::ZERO),
        };
        let select = Selection::new("22".parse().unwrap(), Filter::default());
        let proc = kernel.proc();
        let masker = Masker::new(&[]);
        let pipeline = Pipeline::new(&proc, select, masker, outside, Duration::from_secs(1), 100);
        let mut watch = Self { kernel, proc, pipeline, made };
        assert_eq!(watch.tick(0), [""; 0]);
        watch
    }

    /// A table has shown a connection.
    fn with_one_open(at: u64) -> Self {
        let mut watch = Self::new();
        watch.kernel.connect(300, OURS, THEIRS, INODE);
        watch.kernel.establish(INODE);
        assert_eq!(watch.tick(at), [format!("open poll from {at}")]);
        watch
    }

    /// Audit records are read, of which none comes: what is over without an owner waits for them.
    fn audited() -> Self {
        let mut watch = Self::new();
        let log = watch.kernel.path("audit.log");
        std::fs::write(&log, "").unwrap();
        let events = Events::new(vec![Kind::Audit], Arc::new(Watched::new(&[]))).unwrap();
        let events = Some(Rc::new(events.reading(Some(log))));
        watch.pipeline.attach(&watch.proc, events, Some(Source::Procfs), false, moment(1));
        assert_eq!(watch.pipeline.state_of(Kind::Audit), "on");
        assert_eq!(watch.tick(1), [""; 0]);
        watch
    }

    /// A connection that nobody is seen to hold.
    fn connect(&mut self, inode: u64) {
        self.kernel.connect(300, OURS, THEIRS, inode);
        self.kernel.let_go(inode);
        self.kernel.establish(inode);
    }

    fn tick(&mut self, millis: u64) -> Vec<String> {
        self.kernel.write();
        stories(&self.pipeline.tick(&self.proc, moment(millis)).unwrap())
    }

    /// A SYN that is taken now, behind which no socket stands any more.
    fn syn(&mut self, millis: u64) -> Vec<String> {
        let (netns, tuple) = (self.proc.own_netns().unwrap(), tuple(THEIRS));
        self.hear(millis, Observation::Syn { kind: Kind::Syn, netns, tuple, device: 0, uid: None })
    }

    /// The notice of the end of a socket that was reset: it tells no more than our port.
    fn reset(&mut self, millis: u64) -> Vec<String> {
        let ended = Destroyed {
            tuple: tuple("0.0.0.0:0"),
            cookie: Cookie::new(millis),
            device: 0,
            counts: None,
            attempted: true,
        };
        self.hear(millis, Observation::Destroyed { netns: self.proc.own_netns().unwrap(), ended })
    }

    fn hear(&mut self, millis: u64, observation: Observation) -> Vec<String> {
        self.kernel.write();
        stories(&self.pipeline.observe(&self.proc, moment(millis), vec![observation]))
    }

    /// How many notices are counted as lost.
    fn notices_lost(&self) -> u64 {
        self.pipeline.totals().notices_lost
    }
}

fn tuple(remote: &str) -> Tuple {
    Tuple { local: OURS.parse().unwrap(), remote: remote.parse().unwrap() }
}

fn millis(at: Moment) -> u64 {
    u64::try_from((at.boot - moment(0).boot).as_millis()).unwrap()
}

fn stories(events: &[Event]) -> Vec<String> {
    let story = |event: &Event| match &event.what {
        What::Opened(connection) => {
            Some(format!("open {} from {}", connection.seen.name(), millis(connection.opened)))
        }
        What::Closed { connection, ending } => {
            let seen = ending.last_seen.map_or(0, millis);
            Some(format!("close {} seen {seen} gone {}", connection.seen.name(), millis(ending.gone_by)))
        }
        _ => None,
    };
    events.iter().filter_map(story).collect()
}

#[test]
fn of_two_that_are_over_the_first_is_told_first() {
    let mut watch = Watch::new();
    assert_eq!(watch.syn(100), [""; 0]);
    assert_eq!(watch.syn(200), [""; 0]);
    assert_eq!(watch.reset(9_000), ["open syn from 100", "close syn seen 100 gone 9000"]);
    assert_eq!(watch.reset(9_001), ["open syn from 200", "close syn seen 200 gone 9001"]);
    assert_eq!(watch.notices_lost(), 0);
}

#[test]
fn a_syn_that_is_taken_behind_the_end_of_what_it_began_is_told_at_once() {
    let mut watch = Watch::new();
    assert_eq!(watch.reset(1_000), [""; 0]);
    assert_eq!(watch.syn(1_200), ["open syn from 1200", "close syn seen 1200 gone 1200"]);
    // One notice is of one connection, and of none that begins long after.
    assert_eq!(watch.syn(1_300), [""; 0]);
    assert_eq!(watch.reset(1_400).len(), 2);
    assert_eq!(watch.reset(1_500), [""; 0]);
    assert_eq!(watch.syn(2_600), [""; 0]);
    assert_eq!(watch.reset(2_700).len(), 2);
    assert_eq!(watch.notices_lost(), 0);
}

#[test]
fn an_id_is_of_the_time_of_its_record_however_late_that_is() {
    let mut watch = Watch::new();
    assert_eq!(watch.syn(100), [""; 0]);
    assert_eq!(watch.reset(9_000).len(), 2);
    assert_eq!(*watch.made.borrow(), [9_000]);
}

#[test]
fn what_stood_before_is_closed_before_the_next_is_told() {
    let mut watch = Watch::with_one_open(1_000);
    assert_eq!(watch.syn(1_500), [""; 0]);
    let told = watch.reset(1_600);
    let last = "close poll seen 1000 gone 1600";
    assert_eq!(told, [last, "open syn from 1500", "close syn seen 1500 gone 1600"]);
    assert_eq!(watch.notices_lost(), 0);
}

#[test]
fn one_that_was_before_what_stands_is_counted_and_not_told() {
    let mut watch = Watch::with_one_open(1_000);
    assert_eq!(watch.syn(1_500), [""; 0]);
    // The table shows that the other stands; a notice of another socket comes late.
    assert_eq!(watch.tick(2_000), [""; 0]);
    assert_eq!(watch.reset(2_100), [""; 0]);
    assert_eq!(watch.notices_lost(), 1);
    watch.kernel.close(INODE);
    assert_eq!(watch.tick(3_000), ["close poll seen 2000 gone 3000"]);
}

#[test]
fn one_that_was_before_what_was_told_to_its_end_is_counted_and_not_told() {
    let mut watch = Watch::with_one_open(1_000);
    assert_eq!(watch.syn(1_500), [""; 0]);
    assert_eq!(watch.tick(2_000), [""; 0]);
    watch.kernel.close(INODE);
    assert_eq!(watch.tick(3_000), ["close poll seen 2000 gone 3000"]);
    assert_eq!(watch.reset(3_100), [""; 0]);
    assert_eq!(watch.notices_lost(), 1);
    // One that begins then is another.
    assert_eq!(watch.syn(3_200), [""; 0]);
    assert_eq!(watch.reset(3_300), ["open syn from 3200", "close syn seen 3200 gone 3300"]);
}

#[test]
fn a_syn_that_is_taken_after_the_end_of_what_it_began_is_no_later_than_that() {
    let mut watch = Watch::new();
    watch.kernel.connect(300, OURS, THEIRS, INODE);
    watch.kernel.establish(INODE);
    watch.kernel.close(INODE);
    watch.kernel.age(Duration::from_secs(5));
    assert_eq!(watch.syn(8_000), [""; 0]);
    assert_eq!(watch.tick(8_100), ["open syn from 3100", "close syn seen 0 gone 3100"]);
}

#[test]
fn an_end_that_waits_for_its_record_is_told_before_the_next_open_between_its_ends() {
    let mut watch = Watch::audited();
    watch.connect(INODE);
    assert_eq!(watch.tick(1_000), ["open poll from 1000"]);
    watch.kernel.close(INODE);
    assert_eq!(watch.tick(1_100), [""; 0], "who asked for it may be told yet");
    watch.kernel.rows.clear();
    watch.connect(INODE + 1);
    assert_eq!(watch.tick(1_200), ["close poll seen 1000 gone 1100", "open poll from 1200"]);
    watch.kernel.close(INODE + 1);
    assert_eq!(watch.tick(1_300), [""; 0]);
    assert_eq!(watch.tick(1_900), ["close poll seen 1200 gone 1300"]);
    assert_eq!(watch.pipeline.totals().live, 0);
}

#[test]
fn one_that_was_over_and_waits_for_its_record_is_told_before_the_next_and_with_a_lesser_id() {
    let mut watch = Watch::audited();
    watch.kernel.counters[0] += 1;
    assert_eq!(watch.syn(1_000), [""; 0]);
    watch.kernel.counters[0] += 1;
    assert_eq!(watch.tick(1_500), [""; 0], "it is over, and who asked for it may be told yet");
    watch.connect(INODE);
    watch.kernel.write();
    let told = watch.pipeline.tick(&watch.proc, moment(1_600)).unwrap();
    let last = "close syn seen 1000 gone 1500";
    assert_eq!(stories(&told), ["open syn from 1000", last, "open poll from 1600"]);
    let opened = told.iter().filter(|event| matches!(event.what, What::Opened(_)));
    let ids: Vec<_> = opened.map(|event| event.what.connection().unwrap().id).collect();
    assert!(ids.is_sorted() && ids[0] != ids[1], "{ids:?}");
    assert_eq!(watch.notices_lost(), 0);
}

#[test]
fn of_two_that_wait_for_their_records_the_first_is_told_first() {
    let mut watch = Watch::audited();
    assert_eq!(watch.syn(1_000), [""; 0]);
    assert_eq!(watch.syn(1_200), [""; 0]);
    assert_eq!(watch.reset(1_300), [""; 0]);
    assert_eq!(watch.reset(1_301), [""; 0]);
    let (first, second) = ("close syn seen 1000 gone 1300", "close syn seen 1200 gone 1301");
    assert_eq!(watch.tick(1_810), ["open syn from 1000", first, "open syn from 1200", second]);
}

#[test]
fn one_that_was_before_what_is_over_and_waits_is_counted_and_not_told() {
    let mut watch = Watch::audited();
    watch.connect(INODE);
    assert_eq!(watch.tick(1_000), ["open poll from 1000"]);
    assert_eq!(watch.syn(1_100), [""; 0]);
    watch.kernel.counters[0] += 1;
    assert_eq!(watch.tick(1_200), [""; 0]);
    watch.kernel.close(INODE);
    assert_eq!(watch.tick(1_300), [""; 0], "who asked for it may be told yet");
    assert_eq!(watch.reset(1_350), [""; 0]);
    assert_eq!(watch.notices_lost(), 1);
    assert_eq!(watch.tick(1_800), ["close poll seen 1200 gone 1300"]);
}
