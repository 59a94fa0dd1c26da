//! What one record says.
//!
//! Reads nothing: all that a record holds was learned before. `record` gives it the schema's names, `message` tells it
//! in one line for people, `ascii` keeps both harmless.

pub mod ascii;
pub mod community;
pub mod message;
pub mod record;
mod who;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::connection::{CloseReason, Connection, Moment};

pub use record::{Body, Host, Renderer};

/// Something to be told, and when it was observed.
#[derive(Debug, Clone)]
pub struct Event {
    /// Observed at.
    pub at: Moment,
    /// What.
    pub what: What,
}

/// What a record can tell.
#[derive(Debug, Clone)]
pub enum What {
    /// A watch began.
    Started(Box<Started>),
    /// It ended.
    Stopped {
        /// Signal or limit.
        reason: String,
        /// Of the whole watch.
        totals: Box<Totals>,
    },
    /// The configuration was read again.
    Reloaded {
        /// What is different, or why the old one stays.
        outcome: Result<Vec<String>, String>,
    },
    /// First sight of a connection.
    Opened(Arc<Connection>),
    /// Something about it is known now, or is another.
    Changed {
        /// As it is now.
        connection: Arc<Connection>,
        /// Names of the fields that are different.
        changed: Vec<&'static str>,
    },
    /// Its end.
    Closed {
        /// As it was.
        connection: Arc<Connection>,
        /// How it ended.
        ending: Ending,
    },
    /// Something was, or may have been, lost.
    Gap(Box<Gap>),
    /// First record of a file.
    LogOpened {
        /// Path as configured.
        path: String,
        /// The file that was written before under this path, where there was one.
        previous: Option<String>,
    },
    /// A line that somebody's crash had torn was ended.
    LogRepaired {
        /// Path as configured.
        path: String,
        /// Where the torn line begins.
        offset: u64,
        /// How long it is.
        bytes: u64,
    },
}

/// What a watch is, as its first record tells.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Started {
    /// Effective settings, by their names in the configuration file.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Whose descriptors can be read: `all` or `own`.
    pub owners: &'static str,
    /// Capabilities in force.
    pub capabilities: Vec<String>,
    /// Our user.
    pub uid: u32,
    /// Namespace that is watched; absent where it may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    /// Namespace of pid 1; absent where it may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_netns: Option<u64>,
    /// Where snapshots come from.
    pub source: &'static str,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

/// How a connection ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Why.
    pub reason: CloseReason,
    /// `None`: cannot be told.
    pub success: Option<bool>,
    /// Last moment at which it stood.
    pub last_seen: Option<Moment>,
    /// First moment at which it was found gone.
    pub gone_by: Moment,
}

/// A loss, counted where it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// `backlog_full`, `log_truncated`, `read_failed`, ...
    pub cause: &'static str,
    /// From when.
    pub from: Moment,
    /// Until when.
    pub to: Moment,
    /// How many records, where that is known.
    pub count: Option<u64>,
    /// The error, where there was one.
    pub detail: Option<String>,
}

/// What a watch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Ticks.
    pub polls: u64,
    /// Ticks that were skipped because an earlier one took too long.
    pub late: u64,
    /// Readings of the tables.
    pub reads: u64,
    /// Readings that failed.
    pub failed_reads: u64,
    /// Rows that came twice in one reading.
    pub duplicate_rows: u64,
    /// Rows that could not be parsed.
    pub unparsed_rows: u64,
    /// Ends that stood before the watch.
    pub standing_ends: u64,
    /// Connections opened.
    pub opens: u64,
    /// Connections closed.
    pub closes: u64,
    /// Connections of which only the end was seen.
    pub passed: u64,
    /// Opens whose owner was not known when they were told.
    pub unattributed: u64,
    /// Records that memory could not hold.
    pub lost: u64,
    /// Connections that are open.
    pub live: u64,
}

impl What {
    /// `event.action`.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::Started(_) => "watch-started",
            Self::Stopped { .. } => "watch-stopped",
            Self::Reloaded { .. } => "watch-reloaded",
            Self::Opened(_) => "connection-opened",
            Self::Changed { .. } => "connection-changed",
            Self::Closed { .. } => "connection-closed",
            Self::Gap(_) => "gap",
            Self::LogOpened { .. } => "log-opened",
            Self::LogRepaired { .. } => "log-repaired",
        }
    }

    /// The connection it tells of.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Opened(connection) | Self::Changed { connection, .. } | Self::Closed { connection, .. } => {
                Some(connection)
            }
            _ => None,
        }
    }
}

impl Ending {
    /// From first sight to where it was found gone. `None` where the beginning was not seen.
    #[must_use]
    pub fn duration(&self, connection: &Connection) -> Option<Duration> {
        connection.seen.tells_start().then(|| self.gone_by.boot.saturating_sub(connection.opened.boot))
    }
}
