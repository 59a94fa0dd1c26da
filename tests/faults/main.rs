//! What the watcher does when a system call fails: each kind of call fails once, at its first, second, fourth … time in a
//! short real run. `PORTREEVE_ALL_FAULTS=1` fails every single one, until a run has no more of them.
//!
//! strace makes them fail (`-e inject`), so the program is the one that ships.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, and tests own their clock and files"
)]

mod calls;
mod run;
#[path = "../support/mod.rs"]
mod support;

/// Each run names its own.
pub const SOURCES: &[&str] = &[];
