//! Clocks, CPU time, medians, and how a number is written.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use rustix::time::{ClockId, Timespec, clock_gettime};

pub fn monotonic_ns() -> u64 {
    ns(clock_gettime(ClockId::Monotonic))
}

fn ns(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU time of one call in this thread, user and system.
pub fn cpu_us<T>(work: impl FnOnce() -> T) -> f64 {
    let before = ns(clock_gettime(ClockId::ThreadCPUTime));
    std::hint::black_box(work());
    (ns(clock_gettime(ClockId::ThreadCPUTime)) - before) as f64 / 1e3
}

/// CPU time, user and system, of all children waited for so far, and of theirs. What one of them used is
/// the difference around waiting for it.
pub fn children_cpu() -> Duration {
    used(UsageWho::RUSAGE_CHILDREN)
}

pub fn own_cpu() -> Duration {
    used(UsageWho::RUSAGE_SELF)
}

fn used(who: UsageWho) -> Duration {
    let usage = getrusage(who).expect("getrusage");
    let (user, system) = (usage.user_time(), usage.system_time());
    Duration::from_secs((user.tv_sec() + system.tv_sec()) as u64)
        + Duration::from_micros((user.tv_usec() + system.tv_usec()) as u64)
}

/// Several measurements of one thing.
pub struct Spread(Vec<f64>);

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.retain(|value| !value.is_nan());
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn repeat(times: usize, measure: impl FnMut(usize) -> f64) -> Self {
        Self::of((0..times).map(measure).collect())
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Of an even number of values halfway between the two in the middle: of two, the smaller one would flatter.
    pub fn median(&self) -> f64 {
        let middle = |index: usize| self.0.get(index).copied().unwrap_or(f64::NAN);
        let length = self.0.len();
        (middle(length.saturating_sub(1) / 2) + middle(length / 2)) / 2.0
    }

    /// The smallest value that at least this share of the values does not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// `median (min–max)`, or the single value.
    pub fn show(&self) -> String {
        match self.0.as_slice() {
            [] => "-".to_owned(),
            [one] => number(*one),
            [first, .., last] => format!("{} ({}–{})", number(self.median()), number(*first), number(*last)),
        }
    }
}

/// Three digits that count; thousands apart.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return "-".to_owned();
    }
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if value < 1_000.0 { text } else { thousands(value.round() as u64) }
}

pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let grouped: Vec<String> =
        digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned()).collect();
    grouped.join(",")
}
