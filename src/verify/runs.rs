//! One run after the other: V9 and V11 to V17.
//! Knows of a run how it began and whether it ended, not what it told.

use std::collections::VecDeque;

use super::fields::on;
use super::findings::Findings;
use super::record::{Record, f};

/// As many earlier runs are known again.
const REMEMBERED: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The set begins within it.
    Unknown,
    /// Before `watch-started`.
    Prelude,
    Started,
    Stopped,
    /// A seal came behind the end.
    Sealed,
}

/// The runs of a stream.
#[derive(Debug)]
pub struct Runs {
    run: Vec<u8>,
    earlier: VecDeque<Vec<u8>>,
    phase: Phase,
    /// Whether the run before ended in order; `None`: there is none in the set.
    before: Option<bool>,
    /// The number of the run's first record.
    first: u64,
    /// What stays the same in a run: boot id, host name, version.
    same: [Option<Vec<u8>>; 3],
    /// How many runs there are.
    pub count: u64,
    /// How many of them ended with `watch-stopped`.
    pub stopped: u64,
}

const SAME: [(usize, &str); 3] = [(f::BOOT, "boot id"), (f::HOST, "host name"), (f::VERSION, "version")];

impl Runs {
    /// None yet.
    pub fn new() -> Self {
        Self {
            run: Vec::new(),
            earlier: VecDeque::new(),
            phase: Phase::Prelude,
            before: None,
            first: 0,
            same: [const { None }; 3],
            count: 0,
            stopped: 0,
        }
    }

    /// True if the run before did not end in order.
    pub fn followed_a_crash(&self) -> bool {
        self.before == Some(false)
    }

    /// True if the run's beginning is in the set.
    pub fn is_whole(&self) -> bool {
        self.phase != Phase::Unknown
    }

    /// True once `watch-started` was told, and as long as nothing ended the run.
    pub fn is_watching(&self) -> bool {
        matches!(self.phase, Phase::Started | Phase::Unknown)
    }

    /// A record; answers whether it is the first of another run.
    pub fn take(&mut self, record: &Record<'_>, is_first_of_file: bool, found: &mut Findings<'_>) -> bool {
        let run = record.text(f::RUN).unwrap_or_default();
        let mut is_new = run != self.run;
        if is_new && self.earlier.iter().any(|earlier| earlier == run) {
            found.add(13, format!("the run {} goes on after another began", record.quote(f::RUN)));
            is_new = false;
        }
        if is_new {
            self.begin(record, run);
        }
        let is_from_stdout = record.n == 1 && record.action == on::START;
        if (is_new || is_first_of_file)
            && record.action != on::FILE
            && !is_from_stdout
            && self.must_open(is_first_of_file)
        {
            let what = if is_first_of_file { "file" } else { "run" };
            found.add(9, format!("the {what} does not begin with log-opened"));
        }
        self.step(record, found);
        self.check_same(record, found);
        is_new
    }

    /// False in the run in which the set begins within a file: its first records are in none of ours.
    fn must_open(&self, is_first_of_file: bool) -> bool {
        is_first_of_file || self.phase != Phase::Unknown
    }

    fn begin(&mut self, record: &Record<'_>, run: &[u8]) {
        let is_first = self.count == 0;
        self.before = (!is_first).then_some(matches!(self.phase, Phase::Stopped | Phase::Sealed));
        if self.earlier.len() >= REMEMBERED {
            self.earlier.pop_front();
        }
        self.earlier.push_back(std::mem::replace(&mut self.run, run.to_vec()));
        self.phase = if is_first && record.n > 1 { Phase::Unknown } else { Phase::Prelude };
        self.first = record.n;
        self.count += 1;
        self.same = SAME.map(|(field, _)| record.text(field).map(<[u8]>::to_vec));
    }

    fn step(&mut self, record: &Record<'_>, found: &mut Findings<'_>) {
        self.phase = match (self.phase, record.action) {
            (Phase::Prelude | Phase::Unknown, on::START) => {
                self.check_start(record, found);
                Phase::Started
            }
            (Phase::Started, on::START) => {
                found.add(12, "watch-started stands twice in a run".to_owned());
                Phase::Started
            }
            (Phase::Prelude, on::FILE | on::REPAIR) => Phase::Prelude,
            (Phase::Prelude, on::GAP) if record.is(f::CAUSE, "log_truncated") => Phase::Prelude,
            (Phase::Prelude, action) => {
                found.add(12, "the run does not begin with watch-started".to_owned());
                self.after(action, Phase::Started)
            }
            (Phase::Stopped, on::SEAL) => Phase::Sealed,
            (Phase::Stopped | Phase::Sealed, _) => {
                found.add(14, "the run goes on behind its watch-stopped".to_owned());
                self.phase
            }
            (phase, action) => self.after(action, phase),
        };
    }

    fn after(&mut self, action: u32, phase: Phase) -> Phase {
        if action != on::STOP {
            return phase;
        }
        self.stopped += 1;
        Phase::Stopped
    }

    /// V11, V15, V16.
    fn check_start(&self, record: &Record<'_>, found: &mut Findings<'_>) {
        let stream = record.text(f::WATCH_STREAM).unwrap_or_default();
        let begins = self.first == 1;
        let is_right = if begins { matches!(stream, b"new" | b"lost") } else { stream == b"continued" };
        if !is_right {
            let what = if begins { "begins" } else { "goes on" };
            found.add(
                11,
                format!("the stream {what} here, and watch-started tells {}", record.quote(f::WATCH_STREAM)),
            );
        }
        let end = record.text(f::PREVIOUS_END);
        let is_right = match (stream, self.before) {
            (b"continued", Some(true)) => end == Some(b"clean"),
            (b"continued", Some(false)) => end == Some(b"unclean"),
            (b"continued", None) => matches!(end, Some(b"clean" | b"unclean")),
            _ => end.is_none(),
        };
        if is_right || !begins && stream != b"continued" {
            self.check_told(record, found);
            return;
        }
        let before = match self.before {
            Some(true) => "the run before ended with watch-stopped",
            Some(false) => "the run before has no watch-stopped",
            None => "the run before is not in the set",
        };
        found.add(15, format!("{before}, and previous_end is {}", record.quote(f::PREVIOUS_END)));
        self.check_told(record, found);
    }

    fn check_told(&self, record: &Record<'_>, found: &mut Findings<'_>) {
        let always = [
            (f::CAPABILITIES, "capabilities"),
            (f::WATCH_UID, "uid"),
            (f::OWNERS, "owners"),
            (f::WATCH_SOURCE, "source"),
            (f::NETNS_SCOPE, "netns_scope"),
            (f::EVENTS_DESTROY, "events"),
        ];
        let settings = [(f::PORTS, "settings.ports"), (f::INTERVAL, "settings.interval")];
        let settings = settings.iter().filter(|_| !record.found.present.has(f::TRUNCATED));
        if let Some((_, name)) =
            always.iter().chain(settings).find(|(field, _)| !record.found.present.has(*field))
        {
            found.add(16, format!("watch-started does not tell {name}"));
        }
    }

    fn check_same(&self, record: &Record<'_>, found: &mut Findings<'_>) {
        for ((field, name), same) in SAME.iter().zip(&self.same) {
            if record.text(*field) != same.as_deref() {
                found.add(
                    17,
                    format!("the {name} is {}, another than where the run began", record.quote(*field)),
                );
                return;
            }
        }
    }
}
