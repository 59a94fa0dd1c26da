//! What portreeve's log says.

use std::collections::HashSet;

use serde_json::Value;

/// What matters here of a record about a connection.
pub struct Record {
    pub port: u16,
    pub pid: Option<u32>,
    /// Seen while it stood, and not by what it left.
    pub alive: bool,
    pub latency_ms: Option<f64>,
}

impl Record {
    /// `None`: the record is about something else than a connection.
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let number = |path| value.pointer(path).and_then(Value::as_u64);
        let seen = value.pointer("/portreeve/connection/seen")?.as_str()?;
        Some(Self {
            port: number("/source/port")? as u16,
            pid: number("/process/pid").map(|pid| pid as u32),
            alive: !["time_wait", "destroy"].contains(&seen),
            latency_ms: number("/portreeve/attribution/latency_us").map(|us| us as f64 / 1e3),
        })
    }
}

/// What a whole log adds up to.
#[derive(Default)]
pub struct Tally {
    pub opened: u64,
    /// Of those, the opens that told an owner.
    pub owned: u64,
    pub closed: u64,
    /// Opens of a connection that an earlier one had already told, by its community id: the hash of its addresses.
    pub twice: u64,
    /// What the gap records count, by cause. A cause whose records count nothing stands with 0.
    pub gaps: Vec<(String, u64)>,
    /// The most that the coverage records say was missed. `None`: they say nothing of it.
    pub missed_at_most: Option<u64>,
    pub late: Option<u64>,
    /// Of the coverage record with the most polls.
    pub interval_p99_ms: Option<f64>,
    pub interval_max_ms: Option<f64>,
    polls: u64,
}

impl Tally {
    pub fn of(lines: impl Iterator<Item = String>) -> Self {
        let mut tally = Self::default();
        let mut known = HashSet::new();
        for line in lines {
            // Most of a gigabyte is about connections: those are not parsed.
            match value_of("\"event\":{\"action\":\"", &line) {
                "connection-opened" => {
                    tally.opened += 1;
                    tally.owned += u64::from(line.contains("\"status\":\"owned\""));
                    let id = value_of("\"community_id\":\"", &line);
                    tally.twice += u64::from(!id.is_empty() && !known.insert(id.to_owned()));
                }
                "connection-closed" => tally.closed += 1,
                "gap" => tally.gap(&serde_json::from_str(&line).unwrap_or_default()),
                "coverage" => tally.coverage(&serde_json::from_str(&line).unwrap_or_default()),
                _ => {}
            }
        }
        tally
    }

    pub fn counted(&self) -> u64 {
        self.gaps.iter().map(|(_, count)| count).sum()
    }

    fn gap(&mut self, record: &Value) {
        let field = |name| record.pointer("/portreeve/gap").and_then(|gap| gap.get(name));
        let cause = field("cause").and_then(Value::as_str).unwrap_or("?");
        let count = field("count").and_then(Value::as_u64).unwrap_or(0);
        match self.gaps.iter_mut().find(|(known, _)| known == cause) {
            Some((_, all)) => *all += count,
            None => self.gaps.push((cause.to_owned(), count)),
        }
    }

    fn coverage(&mut self, record: &Value) {
        let Some(coverage) = record.pointer("/portreeve/coverage") else { return };
        let number = |path| coverage.pointer(path).and_then(Value::as_u64);
        let ms = |path| number(path).map(|us| us as f64 / 1e3);
        let add = |all: Option<u64>, more: Option<u64>| more.map(|more| all.unwrap_or(0) + more).or(all);
        self.missed_at_most = add(self.missed_at_most, number("/missed_at_most"));
        self.late = add(self.late, number("/late"));
        self.interval_max_ms =
            [self.interval_max_ms, ms("/poll_interval_us/max")].into_iter().flatten().reduce(f64::max);
        let polls = number("/polls").unwrap_or(0);
        if polls >= self.polls {
            self.polls = polls;
            self.interval_p99_ms = ms("/poll_interval_us/p99");
        }
    }
}

/// What stands behind a key, up to the next quotation mark: the last such key, which no text inside a record can forge,
/// because there quotation marks are escaped.
fn value_of<'line>(key: &str, line: &'line str) -> &'line str {
    let rest = line.rfind(key).and_then(|at| line.get(at + key.len()..)).unwrap_or_default();
    rest.split('"').next().unwrap_or_default()
}
