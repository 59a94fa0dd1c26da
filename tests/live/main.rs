//! The real watcher against the real kernel and real OpenSSH, each test on a host of its own (`support/lab.rs`).
//! A test's name is the claim. Where root or a program is missing a test says NOT RUN and why.
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
pub const SOURCES: &[&str] = &["--source", "netlink"];

/// How a connection that a root's watcher sees from its beginning is first seen.
pub const FIRST_SIGHT: &str = "syn";

mod audit;
mod coverage;
mod direction;
mod ending;
mod executions;
mod files;
mod flows;
mod hashes;
mod logfile;
mod namespaces;
mod nflog;
mod notices;
mod pipe;
mod privilege;
mod reload;
mod run;
mod selection;
mod sources;
mod ssh;
mod states;
mod stress;
mod text;
