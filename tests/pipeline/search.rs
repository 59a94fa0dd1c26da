//! Where a search for an owner looks first, and that each begins anew.

use std::cell::Cell;
use std::time::Duration;

use portreeve::attribution::{Found, Search, Wanted};
use portreeve::connection::Inode;

use super::kernel::Kernel;

/// Searches for the holder of a socket of ours for so many looks at the clock, of which each step takes one.
fn find(search: &mut Search, kernel: &Kernel, inode: u64, looks: u64) -> Option<u32> {
    let time = Cell::new(0);
    let clock = || Duration::from_millis(time.replace(time.get() + 1));
    let inode = Inode::new(inode).unwrap();
    let wanted = Wanted { inode, uid: rustix::process::geteuid().as_raw() };
    let found = search.run(&kernel.proc(), &[wanted], &clock, Duration::from_millis(looks));
    match found.into_iter().find(|(found, _)| *found == inode) {
        Some((_, Found::Holders(holders))) => Some(holders[0].pid),
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
