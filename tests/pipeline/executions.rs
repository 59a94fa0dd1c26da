use portreeve::event::{Event, What};
use portreeve::netlink::ProcessNotice;
use portreeve::source::{Filter, Observation};

use crate::kernel::{Kernel, moment, pipeline};

/// What is told of these programs, all of which are another's children by now or gone, and of what was missed.
fn told(choice: &str, kernel: &mut Kernel, ended: &[u32]) -> (usize, Vec<Event>) {
    let proc = kernel.proc();
    let mut pipeline = pipeline(kernel, "22", Filter::default());
    pipeline.follow_executions(choice.parse().unwrap());
    let notices = ended.iter().flat_map(|pid| {
        let pid = *pid;
        [ProcessNotice::Exec { pid }, ProcessNotice::Exit { pid, status: Some(0) }]
    });
    let told = pipeline.observe(&proc, moment(1), notices.map(Observation::Process).collect());
    let started = told.iter().filter(|event| matches!(event.what, What::ProcessStarted(_))).count();
    (started, pipeline.end_executions(moment(2)))
}

fn missed(events: &[Event]) -> Vec<String> {
    let lost = events.iter().filter(|event| event.what.action() == "gap");
    lost.map(portreeve::event::message::message).collect()
}

/// A process that has ended and was not waited for yet: of what it ran no more than a name is left.
fn leave_a_zombie(kernel: &mut Kernel, pid: u32, comm: &str) {
    kernel.spawn(pid, 100, comm, &[]);
    std::fs::remove_file(kernel.path(&format!("{pid}/exe"))).unwrap();
    std::fs::remove_file(kernel.path(&format!("{pid}/cwd"))).unwrap();
}

#[test]
fn a_program_that_has_ended_before_it_was_read_is_counted_whether_its_parent_has_waited_for_it_or_not() {
    for choice in ["/opt/*/ssh", "ssh"] {
        let mut kernel = Kernel::new();
        kernel.spawn(299, 100, "cat", &["cat"]);
        leave_a_zombie(&mut kernel, 300, "test-ssh");
        // The first is another program, the last one is gone.
        let (started, over) = told(choice, &mut kernel, &[299, 300, 301]);
        let missed = missed(&over);
        assert_eq!((started, missed.len()), (0, 1), "{choice}: {over:#?}");
        assert!(missed[0].contains("2 missed programs"), "{choice}: {missed:?}");
    }
}
