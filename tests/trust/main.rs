//! What must hold on a log's worst days: the real watcher, killed, started again, without a disk, without power, with
//! clocks that are set and tables that cannot be read. Each test is on a host of its own (`support/lab.rs`).
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, and tests own their clock and files"
)]

#[path = "../support/mod.rs"]
mod support;

/// What the watchers of these tests are told of their sources: nothing, as most are.
pub const SOURCES: &[&str] = &[];

mod blind_at_run_time;
mod clocks;
mod disk;
mod power;
mod restart;
mod soak;
mod story;
