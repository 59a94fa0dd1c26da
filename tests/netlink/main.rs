//! sock_diag, the kernel's notices and the SYN tap against the real kernel: what they say of sockets that we made.
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

/// The table: dumps and exact lookups.
mod diag;
/// The ends of sockets.
mod ends;
/// The thread that waits for all of it.
mod events;
/// SYNs that the firewall logs.
mod nflog;
/// Forks, execs and exits.
mod processes;
/// Outgoing SYNs.
mod syn;
