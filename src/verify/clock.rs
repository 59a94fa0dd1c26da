//! What time it is said to be: V18, V20, V21, V23.
//! Knows both clocks as the records tell them; how far the wall clock has stepped back is what other rules allow for.

use super::fields::on;
use super::findings::Findings;
use super::moment;
use super::record::{Record, f};

const SECOND: i64 = 1_000_000;
/// A step of less than this is not told.
pub const UNTOLD: i64 = SECOND;

/// Both clocks, as far as a stream has told them.
#[derive(Debug)]
pub struct Clock {
    boot: Option<u128>,
    bt: i64,
    /// The latest wall time since the clock was last set.
    latest: i64,
    /// So far the wall clock was set back in this stream, altogether, microseconds: ids never go back, not even over a
    /// boot.
    pub back: i64,
    /// The last time in which nothing was read.
    unread: (i64, i64),
}

impl Clock {
    /// Before the first record.
    pub fn new() -> Self {
        Self { boot: None, bt: i64::MIN, latest: i64::MIN, back: 0, unread: (i64::MAX, i64::MIN) }
    }

    /// A record; answers whether it is of another boot than the one before, as far as can be told.
    pub fn take(&mut self, record: &Record<'_>, is_new_run: bool, found: &mut Findings<'_>) {
        if is_new_run {
            self.begin(record);
        }
        if record.bt < self.bt {
            found.add(18, format!("boottime_us is {} after {}", record.bt, self.bt));
        }
        self.bt = self.bt.max(record.bt);
        let is_of_file = matches!(record.action, on::FILE | on::REPAIR)
            || record.action == on::GAP && record.is(f::CAUSE, "log_truncated");
        if !is_of_file {
            self.take_wall(record, found);
        }
        match record.action {
            on::GAP => self.take_gap(record, found),
            on::COVER => self.interval(record, [f::COVER_FROM, f::COVER_TO], found),
            on::CLOSE | on::ENDED => self.interval(record, [f::START, f::END], found),
            _ => {}
        }
        self.check_ids(record, is_of_file, found);
    }

    fn begin(&mut self, record: &Record<'_>) {
        if record.boot.is_none() || record.boot != self.boot {
            self.bt = i64::MIN;
        }
        self.boot = record.boot;
        // Nobody was there to tell of a step.
        self.back = self.back.saturating_add(self.latest.saturating_sub(record.ts).max(0));
        self.latest = record.ts;
        self.unread = (i64::MAX, i64::MIN);
    }

    fn take_wall(&mut self, record: &Record<'_>, found: &mut Findings<'_>) {
        let is_earlier = record.ts.saturating_add(SECOND) < self.latest;
        if record.action == on::STEP {
            let back = record.signed(f::BY_US).unwrap_or(0).min(0).saturating_neg();
            self.back = self.back.saturating_add(back);
            self.latest = if is_earlier { record.ts } else { record.ts.saturating_sub(back) };
        } else if is_earlier {
            let back = self.latest.saturating_sub(record.ts);
            let seconds = back / SECOND;
            found.add(
                21,
                format!("the wall clock is {seconds} s behind an earlier record and nothing told of a step"),
            );
            self.back = self.back.saturating_add(back);
            self.latest = record.ts;
        }
        self.latest = self.latest.max(record.ts);
    }

    fn take_gap(&mut self, record: &Record<'_>, found: &mut Findings<'_>) {
        self.interval(record, [f::GAP_FROM, f::GAP_TO], found);
        if let (Some(b"stalled" | b"suspended" | b"read_failed"), Some(from), Some(to)) =
            (record.text(f::CAUSE), record.time(f::GAP_FROM), record.time(f::GAP_TO))
        {
            self.unread = (from, to);
        }
    }

    /// V23.
    fn interval(&self, record: &Record<'_>, [from, to]: [usize; 2], found: &mut Findings<'_>) {
        if let (Some(start), Some(end)) = (record.time(from), record.time(to))
            && start.saturating_sub(self.back).saturating_sub(UNTOLD) > end
        {
            found.add(
                23,
                format!("an interval begins at {} and ends at {}", record.quote(from), record.quote(to)),
            );
        }
    }

    /// V20. Records about the file are told late, with the time of what waits behind them.
    fn check_ids(&self, record: &Record<'_>, is_of_file: bool, found: &mut Findings<'_>) {
        if !is_of_file {
            self.check_id(record, f::EVENT_ID, found);
        }
        if record.action == on::OPEN {
            self.check_id(record, f::CONNECTION, found);
        }
    }

    fn check_id(&self, record: &Record<'_>, field: usize, found: &mut Findings<'_>) {
        let text = record.text(field).unwrap_or_default();
        let Some(at) = moment::parse_uuid(text).and_then(moment::of_uuid) else {
            found.add(20, format!("{} is no UUID of version 7", record.quote(field)));
            return;
        };
        let slack = self.back.saturating_add(2 * SECOND);
        let (from, to) = self.unread;
        let was_unread = from.saturating_sub(slack) <= at && at <= to.saturating_add(slack);
        if record.ts.abs_diff(at) > slack.unsigned_abs() && !was_unread {
            found.add(20, format!("the time in {} is not the record's", record.quote(field)));
        }
    }
}
