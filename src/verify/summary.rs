//! What a log holds, beside whether it holds together: how much of the time was watched, what may be missing.
//! Knows no rule. Sums only, so its memory is small.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::fields::on;
use super::record::{Record, f};
use super::rules::RULES;
use super::words::CAUSES;

const SECOND: i64 = 1_000_000;

/// Gaps of one cause.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gaps {
    /// Records.
    pub count: u64,
    /// Microseconds.
    pub time: i64,
    /// What they count.
    pub counted: u64,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Summary {
    /// Files with at least one line.
    pub files: u64,
    /// Records.
    pub records: u64,
    /// Lines that are none.
    pub others: u64,
    /// Torn lines that a record tells.
    pub torn: u64,
    /// Streams.
    pub streams: u64,
    /// The number with which the first begins.
    pub begins: u64,
    /// Runs, and how many ended with `watch-stopped`.
    pub runs: u64,
    /// Of these.
    pub stopped: u64,
    /// First and last time.
    pub time: Option<(i64, i64)>,
    watched: i64,
    run: (i64, i64),
    gaps: BTreeMap<&'static str, Gaps>,
    opens: u64,
    closes: u64,
    /// Connections that are open at the end.
    pub open: u64,
    unattributed: BTreeMap<&'static str, u64>,
    missed: u64,
    incomparable: u64,
    spans: u64,
    notices: u64,
    /// Seals, and how many the secret proves.
    pub seals: (u64, u64),
    /// First and last epoch of seals.
    pub epochs: Option<(u64, u64)>,
    /// Remarks that are no violations.
    pub notes: Vec<String>,
    /// Violations by rule.
    pub violations: BTreeMap<String, u64>,
}

impl Summary {
    /// A record.
    pub fn take(&mut self, record: &Record<'_>, is_new_run: bool) {
        self.records += 1;
        let (first, last) = self.time.unwrap_or((record.ts, record.ts));
        self.time = Some((first.min(record.ts), last.max(record.ts)));
        if is_new_run {
            self.end_run();
            self.run = (record.bt, record.bt);
        }
        self.run.1 = self.run.1.max(record.bt);
        match record.action {
            on::OPEN => {
                self.opens += 1;
                if let Some(why) = record.text(f::WHY_UNKNOWN) {
                    *self.unattributed.entry(word(why)).or_default() += 1;
                }
            }
            on::CLOSE => self.closes += 1,
            on::GAP => self.take_gap(record),
            on::COVER => self.take_coverage(record),
            _ => {}
        }
    }

    fn take_gap(&mut self, record: &Record<'_>) {
        let cause = record.text(f::CAUSE).unwrap_or_default();
        let cause = CAUSES.iter().find(|word| word.as_bytes() == cause).copied().unwrap_or("other");
        let (from, to) = (record.time(f::GAP_FROM).unwrap_or(0), record.time(f::GAP_TO).unwrap_or(0));
        let time = to.saturating_sub(from).max(0);
        let gaps = self.gaps.entry(cause).or_default();
        gaps.count += 1;
        gaps.time = gaps.time.saturating_add(time);
        gaps.counted = gaps.counted.saturating_add(record.number(f::GAP_COUNT).unwrap_or(0));
        if matches!(cause, "stalled" | "suspended" | "read_failed") {
            self.watched = self.watched.saturating_sub(time);
        }
    }

    fn take_coverage(&mut self, record: &Record<'_>) {
        self.spans += 1;
        self.incomparable += u64::from(record.is(f::COMPARABLE, "false"));
        self.missed = self.missed.saturating_add(record.number(f::COVER_MISSED).unwrap_or(0));
        for field in super::record::LOST_NOTICES {
            self.notices = self.notices.saturating_add(record.number(field).unwrap_or(0));
        }
    }

    /// Its time is known.
    pub fn end_run(&mut self) {
        self.watched = self.watched.saturating_add(self.run.1.saturating_sub(self.run.0));
        self.run = (0, 0);
    }

    /// Counts of violations, from those of V1 on.
    pub fn count(&mut self, counts: [u64; RULES.len()]) {
        let broken = (1..).zip(counts).filter(|(_, count)| *count > 0);
        self.violations = broken.map(|(rule, count)| (format!("V{rule:02}"), count)).collect();
    }

    fn span(&self) -> i64 {
        self.time.map_or(0, |(first, last)| last.saturating_sub(first))
    }

    /// Per mille of the time from the first record to the last in which a run watched.
    fn watched_per_mille(&self) -> i64 {
        match self.span() {
            0 => 1_000,
            span => (self.watched.max(0).saturating_mul(1_000) / span).min(1_000),
        }
    }

    fn lost(&self) -> u64 {
        self.gaps.get("backlog_full").map_or(0, |gaps| gaps.counted)
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let gaps = self.gaps.iter().map(|(cause, gaps)| {
            let Gaps { count, time, counted } = gaps;
            ((*cause).to_owned(), json!({ "count": count, "time_us": time, "counted": counted }))
        });
        let violations = self.violations.iter().map(|(rule, count)| (plain(rule), json!(count)));
        json!({
            "files": self.files, "records": self.records, "other_lines": self.others, "torn_lines": self.torn,
            "streams": self.streams, "begins_at": self.begins, "runs": self.runs, "runs_stopped": self.stopped,
            "time_us": self.span(), "watched_us": self.watched, "gaps": gaps.collect::<serde_json::Map<_, _>>(),
            "opens": self.opens, "closes": self.closes, "open": self.open, "unattributed": self.unattributed,
            "missed_at_most": self.missed, "spans": self.spans, "incomparable_spans": self.incomparable,
            "lost_records": self.lost(), "lost_notices": self.notices, "seals": self.seals.0,
            "seals_proved": self.seals.1, "seal_epochs": self.epochs.map(|(first, last)| [first, last]), "notes": self.notes,
            "violations": violations.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// `V03` sorts as it should, and is called V3.
fn plain(rule: &str) -> String {
    format!("V{}", rule.trim_start_matches(['V', '0']))
}

fn word(why: &[u8]) -> &'static str {
    const KNOWN: [&str; 7] =
        ["no_holder", "in_flight", "holder_vanished", "denied", "timeout", "time_wait", "budget"];
    KNOWN.into_iter().find(|word| word.as_bytes() == why).unwrap_or("other")
}

/// `2h03m`, `12.3 s`
fn time(micros: i64) -> String {
    match micros / SECOND {
        seconds @ 0..60 => format!("{seconds}.{} s", micros % SECOND / 100_000),
        seconds @ 60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

fn of(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn list<'a>(items: impl Iterator<Item = (&'a str, String)>) -> String {
    items.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = of(self.files, "file", "files");
        let streams = of(self.streams, "stream", "streams");
        write!(f, "{files}, {}, {streams}", of(self.records, "record", "records"))?;
        writeln!(f, ", {}, {} of them ended in order", of(self.runs, "run", "runs"), self.stopped)?;
        if self.begins > 1 {
            writeln!(f, "begins at record {}: older files are absent", self.begins)?;
        }
        if self.torn + self.others > 0 {
            writeln!(f, "{} torn and told so, {} other lines that are no records", self.torn, self.others)?;
        }
        let share = self.watched_per_mille();
        write!(f, "watched {}.{} % of {}", share / 10, share % 10, time(self.span()))?;
        let gaps =
            self.gaps.iter().map(|(cause, gaps)| (*cause, format!("{} ({})", gaps.count, time(gaps.time))));
        writeln!(f, "; gaps: {}", or_none(list(gaps)))?;
        write!(f, "connections: {} opened, {} closed, {} open", self.opens, self.closes, self.open)?;
        let unknown: u64 = self.unattributed.values().sum();
        let why = list(self.unattributed.iter().map(|(why, count)| (*why, count.to_string())));
        let per_mille = (unknown * 1_000).checked_div(self.opens).unwrap_or(0);
        match unknown {
            0 => writeln!(f, "; every owner is known")?,
            _ => writeln!(
                f,
                "; owner unknown of {unknown} ({}.{} %): {}",
                per_mille / 10,
                per_mille % 10,
                or_none(why)
            )?,
        }
        write!(f, "may have been missed: {} at most", of(self.missed, "outbound open", "outbound opens"))?;
        writeln!(f, "; {} of {} spans cannot be compared", self.incomparable, self.spans)?;
        writeln!(
            f,
            "lost: {}, {}",
            of(self.lost(), "record", "records"),
            of(self.notices, "notice", "notices")
        )?;
        if self.seals.0 > 0 {
            let (first, last) = self.epochs.unwrap_or_default();
            let (all, proved) = self.seals;
            writeln!(f, "seals: {all}, of which the secret proves {proved}; epochs {first} to {last}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let mut broken = String::new();
        for (rule, count) in &self.violations {
            let _ = write!(broken, ", {} {count}", plain(rule));
        }
        match self.violations.is_empty() {
            true => writeln!(f, "no rule is broken"),
            false => writeln!(f, "broken, and how often: {}", broken.trim_start_matches(", ")),
        }
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}
