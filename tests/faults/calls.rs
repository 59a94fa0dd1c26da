//! Which calls fail, how, and at which of their times.

use std::collections::BTreeMap;

use crate::run::{Bench, Fault};
use crate::{lab, support};

/// Calls that read what the kernel or a file says.
const READING: &[(&str, &[&str])] = &[
    ("openat", &["EMFILE", "EIO", "EACCES"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("readlink", &["ENOMEM"]),
    ("readlinkat", &["ENOMEM", "EACCES"]),
    ("getdents64", &["EIO"]),
    ("newfstatat", &["ENOMEM"]),
    ("statx", &["EIO"]),
    ("fstat", &["EIO"]),
    ("fstatfs", &["EIO"]),
    ("pidfd_open", &["EMFILE"]),
    ("getpriority", &["EPERM"]),
];

/// Those of them by which the tables of `/proc` are read.
const READING_TABLES: &[(&str, &[&str])] =
    &[("openat", &["EMFILE"]), ("read", &["EIO", "EINTR"]), ("pread64", &["EIO"])];

/// Calls that write the log and what stands beside it.
const WRITING: &[(&str, &[&str])] = &[
    ("write", &["ENOSPC", "EIO", "EINTR", "EAGAIN"]),
    ("writev", &["ENOSPC"]),
    ("pwrite64", &["ENOSPC"]),
    ("ftruncate", &["EIO"]),
    ("fdatasync", &["EIO"]),
    ("fsync", &["EIO"]),
    ("rename", &["ENOSPC"]),
    ("renameat", &["ENOSPC"]),
    ("renameat2", &["ENOSPC"]),
    ("unlink", &["EIO"]),
    ("mkdir", &["EACCES"]),
    ("fchmod", &["EPERM"]),
    ("flock", &["ENOLCK", "EINTR"]),
    ("lseek", &["EIO"]),
];

/// Calls that listen to the kernel's notices and wait.
const LISTENING: &[(&str, &[&str])] = &[
    ("socket", &["EMFILE", "ENOMEM"]),
    ("bind", &["ENOMEM"]),
    ("setsockopt", &["ENOMEM"]),
    ("sendto", &["ENOBUFS", "EINTR"]),
    ("recvfrom", &["ENOBUFS", "EINTR", "ENOMEM"]),
    ("recvmsg", &["ENOBUFS", "EINTR"]),
    ("epoll_create1", &["EMFILE"]),
    ("epoll_ctl", &["ENOSPC"]),
    ("epoll_wait", &["EINTR"]),
    ("epoll_pwait", &["EINTR"]),
    ("epoll_pwait2", &["EINTR"]),
    ("poll", &["EINTR", "ENOMEM"]),
    ("ppoll", &["EINTR", "ENOMEM"]),
];

/// Calls by which a program comes to be and to have what it needs.
const BEGINNING: &[(&str, &[&str])] = &[
    ("clone3", &["EAGAIN"]),
    ("getrandom", &["EINTR"]),
    ("eventfd2", &["EMFILE"]),
    ("pipe2", &["EMFILE"]),
    ("socketpair", &["EMFILE"]),
    ("fcntl", &["EMFILE"]),
    ("uname", &["EFAULT"]),
];

/// True if every call is to fail once.
fn all() -> bool {
    std::env::var_os("PORTREEVE_ALL_FAULTS").is_some_and(|value| !value.is_empty())
}

/// The times at which a kind of call fails: all, or so many that a test ends in a minute.
fn times() -> impl Iterator<Item = u32> {
    let step = move |time: &u32| Some(if all() { time + 1 } else { time * 4 });
    std::iter::successors(Some(1), step)
}

/// Fails these calls one after the other, and says how many faults there were.
fn fail_each(bench: &mut Bench, calls: &[(&'static str, &[&'static str])]) {
    let mut wrong = Vec::new();
    let mut counts = BTreeMap::new();
    for (call, errors) in calls {
        for error in *errors {
            for time in times() {
                let fault = Fault { call, error, time, lasts: false };
                let outcome = bench.run(&fault);
                if !outcome.fired {
                    break;
                }
                *counts.entry(*call).or_insert(0) += 1;
                if let Some(harm) = outcome.wrong {
                    println!("{fault}: {harm}");
                    wrong.push(format!("{fault}: {harm}"));
                }
            }
        }
    }
    println!("{} faults: {counts:?}", counts.values().sum::<u32>());
    assert!(wrong.is_empty(), "{} of them came to harm:\n{}", wrong.len(), wrong.join("\n"));
}

/// One test a group and a source: they run beside each other.
macro_rules! groups {
    ($($name:ident: $calls:expr, $source:literal, $restarts:literal;)*) => {$(
        #[test]
        fn $name() {
            let lab = lab!("strace");
            match Bench::new(lab, $source, $restarts) {
                Ok(mut bench) => fail_each(&mut bench, $calls),
                Err(reason) => support::not_run(stringify!($name), &reason),
            }
        }
    )*};
}

groups! {
    a_reading_that_fails_makes_nothing_up: READING, "netlink", false;
    a_reading_of_tables_that_fails_makes_nothing_up: READING_TABLES, "procfs", false;
    a_write_that_fails_loses_nothing_untold: WRITING, "netlink", true;
    a_notice_that_fails_to_come_makes_nothing_up: LISTENING, "netlink", false;
    a_watch_that_cannot_begin_says_why: BEGINNING, "netlink", false;
}

#[test]
fn a_fault_that_stays_is_told_and_makes_nothing_up() {
    let lab = lab!("strace");
    let mut bench = match Bench::new(lab, "netlink", true) {
        Ok(bench) => bench,
        Err(reason) => return support::not_run("a_fault_that_stays_is_told_and_makes_nothing_up", &reason),
    };
    let lasting = [
        ("openat", "EMFILE"),
        ("write", "ENOSPC"),
        ("write", "EIO"),
        ("fdatasync", "EIO"),
        ("sendto", "ENOBUFS"),
        ("recvfrom", "ENOMEM"),
        ("readlinkat", "EACCES"),
        ("getdents64", "EIO"),
    ];
    let times = if all() { (1..200).step_by(7).collect() } else { vec![9, 60] };
    let mut wrong = Vec::new();
    for (call, error) in lasting {
        for time in &times {
            let fault = Fault { call, error, time: *time, lasts: true };
            let outcome = bench.run(&fault);
            if let Some(harm) = outcome.wrong {
                println!("{fault}: {harm}");
                wrong.push(format!("{fault}: {harm}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
