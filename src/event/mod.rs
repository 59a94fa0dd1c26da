//! What one record says.
//!
//! Reads nothing: all that a record holds was learned before. `record` gives it the schema's names, `message` tells it
//! in one line for people, `ascii` keeps both harmless.

pub mod ascii;
mod bound;
pub mod community;
mod file;
pub mod message;
mod portrait;
mod program;
pub mod record;
mod way;
mod who;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::connection::{CloseReason, Connection, Moment};

pub use file::{FileChanged, Unseen};
pub use program::{Actor, ProcessEnd, ProcessFate};
pub use record::{Body, Host, Renderer};

/// Something to be told, and when it was observed.
#[derive(Debug, Clone)]
pub struct Event {
    /// Observed at.
    pub at: Moment,
    /// What.
    pub what: What,
}

impl Event {
    /// Something was, or may have been, lost at this moment; nobody knows how many.
    #[must_use]
    pub fn gap(at: Moment, cause: &'static str, detail: String) -> Self {
        Self::lost(at, at, cause, None, Some(detail))
    }

    /// Something was, or may have been, lost from one moment to another.
    #[must_use]
    pub fn lost(
        from: Moment,
        to: Moment,
        cause: &'static str,
        count: Option<u64>,
        detail: Option<String>,
    ) -> Self {
        let gap = Gap { cause, from, to, count, detail, lost: BTreeMap::new() };
        Self { at: to, what: What::Gap(Box::new(gap)) }
    }
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
        /// Effective settings, by their names in the configuration file.
        settings: serde_json::Map<String, serde_json::Value>,
        /// Kinds of notices: `on`, or `off: ` and why.
        events: BTreeMap<&'static str, String>,
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
    /// A program that is followed was started.
    ProcessStarted(Actor),
    /// It ended.
    ProcessEnded(Box<ProcessEnd>),
    /// One of SSH's files was changed.
    FileChanged(Box<FileChanged>),
    /// A new session rides on an open connection: that connection, with the session's process as its owner.
    Multiplexed(Arc<Connection>),
    /// Something was, or may have been, lost.
    Gap(Box<Gap>),
    /// First record of a file.
    LogOpened {
        /// Path as configured.
        path: String,
        /// The file that was written before under this path, where there was one.
        previous: Option<String>,
        /// Number of the record before this one, in whichever file; 0 for none.
        sequence: u64,
        /// Its chain.
        chain: String,
    },
    /// The wall clock was set.
    ClockStepped {
        /// By how much, µs; negative: backwards.
        by_us: i64,
    },
    /// The records up to a place were sealed.
    Sealed(Box<Seal>),
    /// What was seen and what the kernel counted, of a minute.
    Coverage(Box<Coverage>),
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

/// A seal of the chain, as the record tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seal {
    /// Which key made it: 0 for the first, each is used once.
    pub epoch: u64,
    /// By which the first key is told from others: 8 hex digits.
    pub key: String,
    /// The last record that it covers ...
    pub sequence: u64,
    /// ... and its chain.
    pub chain: String,
    /// When it was made, as records write times.
    pub time: String,
    /// HMAC-SHA256 of all this, in hex.
    pub mac: String,
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
    /// Why from there.
    pub source_reason: String,
    /// Kinds of notices: `on`, or `off: ` and why.
    pub events: BTreeMap<&'static str, String>,
    /// Whose namespaces are watched: `all` or `own`.
    pub netns_scope: &'static str,
    /// How many there are.
    pub namespaces: u64,
    /// `new`, `continued` or `lost`: whether the stream of the run before goes on.
    pub stream: &'static str,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_reason: Option<String>,
    /// `clean` or `unclean`: how that run ended. Absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_end: Option<&'static str>,
    /// Of our own executable. Absent where it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable_sha256: Option<String>,
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
    /// True if the kernel told the moment.
    pub exact: bool,
    /// Payload. `None`: nothing counted it.
    pub bytes: Option<Bytes>,
}

/// Payload of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    /// From us to the other end. `None`: the kernel does not tell.
    pub sent: Option<u64>,
    /// From the other end to us.
    pub received: u64,
    /// False if the last count was taken before the end, or if one byte may be the other end's FIN.
    pub exact: bool,
    /// Of a UDP flow.
    pub packets: Option<Packets>,
}

/// Packets of a UDP flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packets {
    /// From us to the other end.
    pub sent: u64,
    /// From the other end to us.
    pub received: u64,
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
    /// How many by `event.action`, where records were lost.
    pub lost: BTreeMap<&'static str, u64>,
}

/// What was seen in a stretch of time, beside what the kernel counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// From when, until when.
    #[serde(skip)]
    pub span: Option<(Moment, Moment)>,
    /// Ticks.
    pub polls: u64,
    /// Ticks that were skipped because an earlier one took too long.
    pub late: u64,
    /// Readings of the tables.
    pub reads: u64,
    /// Exact lookups of single sockets.
    pub lookups: u64,
    /// Readings that failed.
    pub failed_reads: u64,
    /// Connections opened.
    pub opens: u64,
    /// Connections closed.
    pub closes: u64,
    /// Connections that are open at the end of it.
    pub live: u64,
    /// Namespaces that are watched at the end of it.
    pub namespaces: u64,
    /// How often one was met, so far, that is not followed because there are too many.
    pub namespaces_left_out: u64,
    /// Opens by how they were first seen.
    pub seen: BTreeMap<&'static str, u64>,
    /// Opens whose owner was not known when they were told, by reason.
    pub unattributed: BTreeMap<&'static str, u64>,
    /// From first sight of a socket to its owner, µs.
    pub attribution_latency_us: Percentiles,
    /// Between two ticks, µs.
    pub poll_interval_us: Percentiles,
    /// What the kernel counted, of all ports.
    pub kernel: KernelCounts,
    /// True if `accounted` is of the same connections as the kernel's count.
    pub comparable: bool,
    /// Outbound opens of any port that notices and table readings told of. Absent where not comparable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounted: Option<u64>,
    /// So many outbound opens at most were not seen. Absent where not comparable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed_at_most: Option<u64>,
    /// True if nothing was missed. Absent where not comparable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agrees: Option<bool>,
    /// Ends whose remote end the kernel had erased and that are no known connection's: of any port. They count as missed
    /// unless SYNs told of all that is watched.
    pub unmatched: u64,
    /// Notices that were lost, by kind.
    pub lost: BTreeMap<&'static str, u64>,
}

/// Of many durations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

/// Sums over all namespaces of the kernel's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KernelCounts {
    /// Outbound opens.
    pub active_opens: u64,
    /// Attempts that failed, inbound ones too.
    pub attempt_fails: u64,
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
    /// Ends that may be those of connections that were told.
    pub doubtful_ends: u64,
    /// Rows of ends in one reading beyond as many as are kept: the most there were.
    pub ends_left_out: u64,
    /// Exact lookups of single sockets.
    pub lookups: u64,
    /// Connections opened.
    pub opens: u64,
    /// Connections closed.
    pub closes: u64,
    /// Connections of which only the end was seen.
    pub passed: u64,
    /// Notices of the kernel that were lost.
    pub notices_lost: u64,
    /// Outbound opens of all ports that the kernel counted.
    pub active_opens: u64,
    /// So many of them at most were not seen, where that can be told ...
    pub missed_at_most: u64,
    /// ... which it cannot of so many coverage records.
    pub incomparable: u64,
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
            Self::ProcessStarted(_) => "process-started",
            Self::ProcessEnded(_) => "process-ended",
            Self::FileChanged(_) => "file-changed",
            Self::Multiplexed(_) => "session-multiplexed",
            Self::Gap(_) => "gap",
            Self::Coverage(_) => "coverage",
            Self::LogOpened { .. } => "log-opened",
            Self::LogRepaired { .. } => "log-repaired",
            Self::ClockStepped { .. } => "clock-stepped",
            Self::Sealed(_) => "seal",
        }
    }

    /// The connection it tells of.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Opened(connection)
            | Self::Multiplexed(connection)
            | Self::Changed { connection, .. }
            | Self::Closed { connection, .. } => Some(connection),
            _ => None,
        }
    }
}

impl Ending {
    /// From first sight to where it was found gone. `None` where the beginning was not seen, or nobody watched when it
    /// ended.
    #[must_use]
    pub fn duration(&self, connection: &Connection) -> Option<Duration> {
        let watched = !matches!(self.reason, CloseReason::WhileDown | CloseReason::Reboot);
        let told = watched && connection.seen.tells_start();
        told.then(|| self.gone_by.boot.saturating_sub(connection.opened.boot))
    }
}
