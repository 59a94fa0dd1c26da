//! Programs that started and ended: what is told of them beside who they are.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::message::{chain_of, command_line, from_of, shorten, who_of};
use super::record::{Cut, Host, Members, set};
use super::way::tell_origin;
use crate::connection::Moment;
use crate::process::Lineage;
use crate::text::lasting;
use crate::way::Origin;

/// Who did something that is told, and from which session.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The process and its ancestors.
    pub lineage: Arc<Lineage>,
    /// `None`: not asked.
    pub origin: Option<Arc<Origin>>,
}

/// The end of a program whose start was told.
#[derive(Debug, Clone)]
pub struct ProcessEnd {
    /// The process, as it was when the program had started.
    pub who: Actor,
    /// When it had.
    pub started: Moment,
    /// When it ended, or was found gone.
    pub ended: Moment,
    /// How.
    pub fate: ProcessFate,
    /// Connections that were attributed to it.
    pub connections: u64,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessFate {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// Its process runs another program now.
    Executed,
    /// Nothing told it.
    Unknown,
}

impl ProcessFate {
    /// From what wait(2) tells.
    #[must_use]
    pub fn of(status: u32) -> Self {
        let [low, code, ..] = status.to_le_bytes();
        match low & 0x7f {
            0 => Self::Exited(code),
            signal => Self::Killed(signal),
        }
    }

    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Killed(_) => "killed",
            Self::Executed => "executed",
            Self::Unknown => "unknown",
        }
    }

    /// `event.outcome`.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::Exited(0) | Self::Executed => "success",
            Self::Exited(_) | Self::Killed(_) => "failure",
            Self::Unknown => "unknown",
        }
    }
}

impl ProcessEnd {
    pub(super) fn duration(&self) -> Duration {
        self.ended.boot.saturating_sub(self.started.boot)
    }
}

impl Host {
    /// Who, as the records of a process tell it.
    pub(super) fn program(&self, record: &mut Members, who: &Actor, started: Moment, cut: Cut) {
        self.lineage(record, &who.lineage, started, cut);
        if let Some(origin) = &who.origin {
            tell_origin(record, origin);
        }
        if cut > Cut::None {
            record.own("truncated", json!(cut.names()));
        }
    }

    pub(super) fn program_end(&self, record: &mut Members, end: &ProcessEnd, cut: Cut) {
        let ProcessEnd { who, started, ended: _, fate, connections } = end;
        self.program(record, who, *started, cut);
        let (code, signal) = match fate {
            ProcessFate::Exited(code) => (Some(code), None),
            ProcessFate::Killed(signal) => (None, Some(signal)),
            ProcessFate::Executed | ProcessFate::Unknown => (None, None),
        };
        if let Some(process) = record.fields.get_mut("process") {
            set(process, "exit_code", code.map(|code| json!(code)));
        }
        let mut own: Value = json!({ "end": fate.name(), "connections": connections });
        set(&mut own, "signal", signal.map(|signal| json!(signal)));
        record.own("process", own);
    }
}

/// `exec   alice@pts/3  ssh[4242] ← bash[4100]  ssh git.example.net`
pub(super) fn started(who: &Actor) -> String {
    line("exec  ", who, usize::MAX, None)
}

/// `exit   alice@pts/3  ssh[4242]  exited 255 after 3.2 s, made no connection  ssh git.example.net`
pub(super) fn ended(end: &ProcessEnd) -> String {
    let mut note = match end.fate {
        ProcessFate::Exited(0) => "ended".to_owned(),
        ProcessFate::Exited(code) => format!("failed with {code}"),
        ProcessFate::Killed(signal) => format!("killed by signal {signal}"),
        ProcessFate::Executed => "became another program".to_owned(),
        ProcessFate::Unknown => "is gone".to_owned(),
    };
    let made = match end.connections {
        0 => "no connection".to_owned(),
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    };
    let _ = write!(note, " after {}, {made}", lasting(end.duration()));
    line("exit  ", &end.who, 1, Some(&note))
}

fn line(verb: &str, who: &Actor, links: usize, note: Option<&str>) -> String {
    let lineage = &who.lineage;
    let mut line = format!("{verb} {}  {}", named(who), chain_of(lineage, links));
    if let Some(note) = note {
        let _ = write!(line, "  {note}");
    }
    let command = shorten(command_line(&lineage.process.args));
    if !command.is_empty() {
        let _ = write!(line, "  {command}");
    }
    line
}

/// `alice@pts/3 from 198.51.100.7`.
pub(super) fn named(who: &Actor) -> String {
    format!("{}{}", who_of(&who.lineage.process), who.origin.as_deref().map(from_of).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_what_wait_tells() {
        for (status, fate) in [
            (0, ProcessFate::Exited(0)),
            (0xff00, ProcessFate::Exited(255)),
            (9, ProcessFate::Killed(9)),
            (0x8b, ProcessFate::Killed(11)),
        ] {
            assert_eq!(ProcessFate::of(status), fate, "{status:x}");
        }
    }
}
