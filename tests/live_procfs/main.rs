//! The same tests as in `live`, over `/proc` alone and without notices: what is told must not depend on where it was
//! learned.
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
pub const SOURCES: &[&str] = &["--source", "procfs", "--events", "none"];

/// How a connection is first seen.
pub const FIRST_SIGHT: &str = "poll";

#[path = "../live/direction.rs"]
mod direction;
#[path = "../live/ending.rs"]
mod ending;
#[path = "../live/flows.rs"]
mod flows;
#[path = "../live/logfile.rs"]
mod logfile;
#[path = "../live/pipe.rs"]
mod pipe;
#[path = "../live/privilege.rs"]
mod privilege;
#[path = "../live/reload.rs"]
mod reload;
#[path = "../live/run.rs"]
mod run;
#[path = "../live/selection.rs"]
mod selection;
#[path = "../live/ssh.rs"]
mod ssh;
#[path = "../live/states.rs"]
mod states;
#[path = "../live/text.rs"]
mod text;
