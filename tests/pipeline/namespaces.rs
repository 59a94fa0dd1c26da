//! Other network namespaces: found, read through a process, left.

use std::time::Duration;

use super::kernel::{ESTABLISHED, Kernel, Row, moment, pipeline, told};
use portreeve::connection::Netns;
use portreeve::event::{Event, What};
use portreeve::netlink::ProcessNotice;
use portreeve::pipeline::Pipeline;
use portreeve::proc::Proc;
use portreeve::source::poll::Source;
use portreeve::source::{Filter, Observation};

const OWN: u64 = 4_026_531_840;
const OTHER: u64 = 7;

struct Watch {
    kernel: Kernel,
    proc: Proc,
    pipeline: Pipeline,
    millis: u64,
}

impl Watch {
    fn new() -> Self {
        let mut kernel = Kernel::new();
        kernel.spawn(300, 1, "ssh", &["ssh", "git.example.net"]);
        for pid in [1, 100, 300] {
            kernel.move_to(pid, OWN);
        }
        let (proc, mut pipeline) = (kernel.proc(), pipeline(&kernel, "22", Filter::default()));
        pipeline.attach(&proc, None, Some(Source::Procfs), true, moment(0));
        let mut watch = Self { kernel, proc, pipeline, millis: 0 };
        // What is found in the first tick stood before.
        assert_eq!(watch.wait(Duration::from_millis(100)).len(), 0);
        watch
    }

    fn tick(&mut self) -> Vec<Event> {
        self.kernel.write();
        self.millis += 50;
        let mut events = self.pipeline.tick(&self.proc, moment(self.millis)).unwrap();
        events.retain(|event| event.what.connection().is_some());
        events
    }

    fn wait(&mut self, time: Duration) -> Vec<Event> {
        (0..time.as_millis() / 50).flat_map(|_| self.tick()).collect()
    }

    /// A process of the other namespace connects there.
    fn connect(&mut self, pid: u32, inode: u64) -> Row {
        let row = Row {
            local: "10.0.0.1:50000".parse().unwrap(),
            remote: "203.0.113.7:22".parse().unwrap(),
            state: ESTABLISHED,
            uid: 1000,
            inode,
            timewait: None,
        };
        self.kernel.hold(pid, inode);
        row
    }
}

fn places(events: &[Event]) -> Vec<Netns> {
    events.iter().filter_map(|event| event.what.connection()).map(|connection| connection.netns).collect()
}

#[test]
fn a_connection_is_told_under_its_own_namespace_and_ends_with_it() {
    let mut watch = Watch::new();
    watch.kernel.spawn(400, 1, "ssh", &["ssh", "h"]);
    watch.kernel.move_to(400, OTHER);
    let row = watch.connect(400, 9);
    watch.kernel.show(400, &[row], 1);
    let events = watch.tick();
    assert_eq!(places(&events), [Netns(OTHER)]);
    assert!(told(&events)[0].contains("ssh[400]"), "{:?}", told(&events));
    assert_eq!(watch.pipeline.namespaces(), 2);

    watch.kernel.exit(400);
    let events = watch.wait(Duration::from_secs(3));
    assert_eq!(places(&events), [Netns(OTHER)]);
    assert!(matches!(events[0].what, What::Closed { .. }), "{events:?}");
    assert_eq!(watch.pipeline.namespaces(), 1);
}

#[test]
fn what_a_process_shows_that_has_moved_is_not_told_under_its_old_namespace() {
    let mut watch = Watch::new();
    watch.kernel.spawn(400, 1, "ssh", &["ssh", "h"]);
    watch.kernel.move_to(400, OTHER);
    watch.kernel.show(400, &[], 0);
    assert_eq!(watch.tick().len(), 0);
    let row = watch.connect(400, 9);
    watch.kernel.move_to(400, 8);
    watch.kernel.show(400, &[row], 1);
    let events = watch.wait(Duration::from_secs(2));
    assert_eq!(places(&events), [Netns(8)]);
}

#[test]
fn a_program_that_starts_leads_to_its_namespace_between_two_ticks() {
    let mut watch = Watch::new();
    let row = watch.connect(300, 9);
    watch.kernel.move_to(300, OTHER);
    watch.kernel.show(300, &[row], 1);
    let executed = vec![Observation::Process(ProcessNotice::Exec { pid: 300 })];
    let events = watch.pipeline.observe(&watch.proc, moment(watch.millis + 1), executed);
    assert_eq!(places(&events), [Netns(OTHER)]);
    assert_eq!(watch.tick().len(), 0);
}
