//! The pipeline over a kernel that is moved by hand: snapshots in, records out, no clock and no chance.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test may fail by panic, and makes files"
)]

/// What was seen beside what the kernel counted, minute by minute.
mod coverage;
/// A `/proc` that behaves.
mod kernel;

/// Programs from their start to their end.
mod executions;
/// UDP.
mod flows;
/// Gated and ungated polling tell the same.
mod gate;
mod heard;
/// Processes that are another while they are read, or say that they are.
mod identity;
/// Ancestors that have ended.
mod memory;
/// Other network namespaces.
mod namespaces;
/// Connections that follow each other between the same ends, and notices that come late.
mod order;
/// From where.
mod origins;
/// What is seldom seen.
mod rare;
/// Which of a client's connections is its own.
mod routes;
/// Trees over time, and the words they must lead to.
mod scenarios;
/// The search for an owner.
mod search;
/// The kernel's own words beside the table.
mod words;
