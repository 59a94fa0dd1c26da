//! The program inside the kernel against the real kernel: what it says of sockets that we made.
#![cfg(feature = "ebpf")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, and tests own their clock and files"
)]

#[path = "../support/mod.rs"]
mod support;

/// What the watchers of these tests are told of their sources.
pub const SOURCES: &[&str] = &[];

/// The program, or the end of the test with the reason said.
#[macro_export]
macro_rules! ebpf {
    ($ports:expr) => {
        $crate::ebpf!($ports, None, false)
    };
    ($ports:expr, $ring:expr) => {
        $crate::ebpf!($ports, $ring, false)
    };
    ($ports:expr, $ring:expr, $udp:expr) => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here).trim_end_matches("::here");
        match portreeve::ebpf::Ebpf::open_here($ports, $ring, $udp) {
            Ok(ebpf) => ebpf,
            Err(reason) => return $crate::support::not_run(test, &reason),
        }
    }};
}

/// Attempts, counted.
mod counts;
/// UDP flows, through the whole program and without it.
mod flows;
/// Privileges and memory.
mod ladder;
/// Reloads.
mod reloads;
/// The watch.
mod stories;
/// What is told, and by whom it was done.
mod words;
