//! Where a search for an owner looks first, and that each begins anew.

use std::cell::Cell;
use std::time::Duration;

use portreeve::attribution::{Found, Search, Wanted};
use portreeve::connection::Inode;
use portreeve::process::Reason;

use super::kernel::Kernel;

/// Searches for the holder of a socket of ours for so many looks at the clock, of which each step takes one.
fn find(search: &mut Search, kernel: &Kernel, inode: u64, looks: u64) -> Option<u32> {
    let time = Cell::new(0);
    let clock = || Duration::from_millis(time.replace(time.get() + 1));
    let inode = Inode::new(inode).unwrap();
    let wanted = Wanted { inode, uid: rustix::process::geteuid().as_raw() };
    let found = search.run(&kernel.proc(), &[wanted], &clock, Duration::from_millis(looks));
    match found.into_iter().find(|(found, _)| *found == inode) {
        Some((_, Found::Holders(holders, _))) => Some(holders[0].pid),
        _ => None,
    }
}

#[test]
fn a_search_begins_with_the_newest_processes_also_after_one_that_ended_in_their_midst() {
    let mut kernel = Kernel::new();
    for pid in 200..400 {
        kernel.spawn(pid, 100, "sleep", &["sleep", "60"]);
    }
    kernel.hold(300, 1);
    let mut search = Search::default();
    assert_eq!(find(&mut search, &kernel, 1, 10_000), Some(300));

    // A newcomer, and more pids after it than are tried one by one: they belong to processes that ended.
    kernel.spawn(400, 100, "ssh", &["ssh", "host"]);
    kernel.hold(400, 2);
    std::fs::write(kernel.path("loadavg"), "0.00 0.00 0.00 1/9 450\n").unwrap();
    assert_eq!(
        find(&mut search, &kernel, 2, 50),
        Some(400),
        "what an old walk left to do is no start for a new one"
    );
}

#[test]
fn the_newest_are_found_at_once_also_when_pids_have_just_started_again() {
    let mut kernel = Kernel::new();
    std::fs::create_dir_all(kernel.path("sys/kernel")).unwrap();
    std::fs::write(kernel.path("sys/kernel/pid_max"), "32768\n").unwrap();
    for pid in (200..300).chain(400..1_000) {
        kernel.spawn(pid, 100, "sleep", &["sleep", "60"]);
    }
    kernel.spawn(32_766, 100, "ssh", &["ssh", "host"]);
    kernel.hold(32_766, 1);
    kernel.spawn(301, 100, "date", &["date"]);
    assert_eq!(find(&mut Search::default(), &kernel, 1, 40), Some(32_766));
}

/// Runs a search to its end, in calls of so many looks at the clock; the inodes found by each.
fn calls(search: &mut Search, kernel: &Kernel, inodes: &[u64], looks: u64) -> Vec<Vec<(u64, Found)>> {
    let uid = rustix::process::geteuid().as_raw();
    let inode = |number| Inode::new(number).unwrap();
    let mut new: Vec<Wanted> = inodes.iter().map(|at| Wanted { inode: inode(*at), uid }).collect();
    let mut calls = Vec::new();
    while calls.is_empty() || search.is_under_way() {
        let time = Cell::new(0);
        let clock = || Duration::from_millis(time.replace(time.get() + 1));
        let found = search.run(&kernel.proc(), &new, &clock, Duration::from_millis(looks));
        assert!(time.get() <= looks + 8, "each step is followed by a look at the clock");
        new.clear();
        let number = |found: &Inode| *inodes.iter().find(|number| inode(**number) == *found).unwrap();
        calls.push(found.into_iter().map(|(at, found)| (number(&at), found)).collect());
    }
    calls
}

#[test]
fn a_table_of_any_size_is_left_and_gone_on_with_and_holds_up_nobody() {
    let mut kernel = Kernel::new();
    for pid in [200, 201, 300] {
        kernel.spawn(pid, 100, "sleep", &["sleep", "60"]);
    }
    kernel.hold(200, 1);
    kernel.hold(300, 2);
    // A folder of this kind lists what was made last first.
    for fd in 100..6_100 {
        std::os::unix::fs::symlink("/dev/null", kernel.path(&format!("300/fd/{fd}"))).unwrap();
    }
    let calls = calls(&mut Search::default(), &kernel, &[1, 2], 12);
    let call_of = |wanted| calls.iter().position(|found| found.iter().any(|(inode, _)| *inode == wanted));
    assert!(call_of(2).unwrap() > 3, "6,000 descriptors take several calls");
    assert!(call_of(1) < call_of(2), "an older process is asked before the big one was read to its end");
}

/// Process 300 holds descriptor 7, of which `fdinfo` tells this.
fn with_descriptor(link: &str, info: &str, release: &str) -> Kernel {
    let mut kernel = Kernel::new();
    kernel.spawn(300, 100, "server", &["server"]);
    std::fs::create_dir_all(kernel.path("sys/kernel")).unwrap();
    std::fs::write(kernel.path("sys/kernel/osrelease"), release).unwrap();
    std::os::unix::fs::symlink(link, kernel.path("300/fd/7")).unwrap();
    std::fs::create_dir_all(kernel.path("300/fdinfo")).unwrap();
    std::fs::write(kernel.path("300/fdinfo/7"), info).unwrap();
    kernel
}

fn outcome(kernel: &Kernel, inode: u64) -> Found {
    let calls = calls(&mut Search::default(), kernel, &[inode], 1_000);
    calls.concat().remove(0).1
}

#[test]
fn a_socket_in_a_ring_is_believed_only_where_the_kernel_writes_whole_paths() {
    let info = "pos:\t0\nSqMask:\t0x3\nUserFiles:\t1\n    0: socket:[9]\nUserBufs:\t0\n";
    let ring = "anon_inode:[io_uring]";
    let found = outcome(&with_descriptor(ring, info, "6.18.44-x\n"), 9);
    assert!(
        matches!(&found, Found::Holders(holders, _) if (holders[0].pid, holders[0].fd) == (300, 7)),
        "{found:?}"
    );
    // There a file that is named so would stand there in the same way.
    assert!(matches!(
        outcome(&with_descriptor(ring, info, "6.1.0-18-amd64\n"), 9),
        Found::Nobody(Reason::NoHolder)
    ));
}

#[test]
fn nobodys_socket_may_be_in_flight_where_anything_is() {
    let told = |info| outcome(&with_descriptor("socket:[5]", info, "6.18.0\n"), 9);
    assert!(matches!(told("pos:\t0\nino:\t5\nscm_fds: 2\n"), Found::Nobody(Reason::InFlight)));
    assert!(matches!(told("pos:\t0\nino:\t5\nscm_fds: 0\n"), Found::Nobody(Reason::NoHolder)));
}
