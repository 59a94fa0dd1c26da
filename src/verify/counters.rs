//! What is counted against what is told: V22, V38 to V42.
//! Knows how many records there are, and which gaps there were.

use super::fields::on;
use super::findings::{Excuse, Findings};
use super::record::{Record, f};

const SECOND: i64 = 1_000_000;
/// Coverage is told every minute; it may come late.
const LATEST: i64 = 90 * SECOND;

/// Totals that are sums of coverage records, with the fields of which.
const SUMS: [(usize, usize, &str); 7] = [
    (f::TOTAL_POLLS, f::COVER_POLLS, "polls"),
    (f::TOTAL_LATE, f::COVER_LATE, "late"),
    (f::TOTAL_READS, f::COVER_READS, "reads"),
    (f::TOTAL_LOOKUPS, f::COVER_LOOKUPS, "lookups"),
    (f::TOTAL_FAILED, f::COVER_FAILED, "failed_reads"),
    (f::TOTAL_ACTIVE, f::COVER_ACTIVE, "active_opens"),
    (f::TOTAL_MISSED, f::COVER_MISSED, "missed_at_most"),
];

/// Opens and closes.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    opens: u64,
    closes: u64,
}

/// The counts of a run.
#[derive(Debug)]
pub struct Counters {
    /// False where the run's beginning is not in the set; then its totals cannot be checked ...
    from_start: bool,
    /// ... and its counts from the first coverage on.
    is_whole: bool,
    run: Pair,
    span: Pair,
    /// Of these and of all records, how many were lost, in the run.
    lost: Pair,
    lost_records: u64,
    lost_in_span: Pair,
    unattributed: u64,
    sums: [u64; SUMS.len()],
    incomparable: u64,
    notices: u64,
    /// So many more are open than the records make; `None`: not known yet.
    unheard: Option<i64>,
    /// When the last coverage was told, or the run began: by both clocks.
    covered: (i64, i64),
    /// So much of the time since was told to be unseen.
    unseen: i64,
    /// A gap told of a time without looks, since the last coverage, and before that.
    stalled: bool,
    was_stalled: bool,
    interval: Option<i64>,
    slowest_interval: i64,
}

impl Counters {
    /// Before the first record. `is_known`: the stream's beginning is in the set.
    pub fn new(is_known: bool) -> Self {
        Self {
            from_start: false,
            is_whole: false,
            run: Pair::default(),
            span: Pair::default(),
            lost: Pair::default(),
            lost_records: 0,
            lost_in_span: Pair::default(),
            unattributed: 0,
            sums: [0; SUMS.len()],
            incomparable: 0,
            notices: 0,
            unheard: is_known.then_some(0),
            covered: (i64::MIN, 0),
            unseen: 0,
            stalled: false,
            was_stalled: false,
            interval: None,
            slowest_interval: 0,
        }
    }

    /// A run begins. `is_whole`: its beginning is in the set.
    pub fn begin_run(&mut self, record: &Record<'_>, is_whole: bool) {
        let had_losses = self.lost.opens + self.lost.closes > 0;
        let unheard = self.unheard.filter(|_| !had_losses);
        *self = Self {
            from_start: is_whole,
            is_whole,
            unheard,
            covered: (record.bt, record.ts),
            ..Self::new(false)
        };
    }

    /// A record. `live`: opens less closes so far.
    pub fn take(&mut self, record: &Record<'_>, live: i64, found: &mut Findings<'_>) {
        match record.action {
            on::OPEN => self.count_open(record),
            on::CLOSE => {
                self.run.closes += 1;
                self.span.closes += 1;
            }
            on::GAP => self.take_gap(record, found),
            on::START | on::RELOAD => self.take_settings(record),
            _ => {}
        }
        self.check_covered(record, found);
        match record.action {
            on::COVER => self.take_coverage(record, live, found),
            on::STOP => self.check_totals(record, live, found),
            _ => {}
        }
    }

    fn count_open(&mut self, record: &Record<'_>) {
        self.run.opens += 1;
        self.span.opens += 1;
        self.unattributed += u64::from(record.is(f::STATUS, "unknown"));
    }

    fn take_settings(&mut self, record: &Record<'_>) {
        if let Some(interval) = record.text(f::INTERVAL).and_then(parse_interval) {
            self.interval = Some(interval);
            self.slowest_interval = self.slowest_interval.max(interval);
        }
    }

    fn take_gap(&mut self, record: &Record<'_>, found: &mut Findings<'_>) {
        let (from, to) = (record.time(f::GAP_FROM).unwrap_or(0), record.time(f::GAP_TO).unwrap_or(0));
        let unseen = to.saturating_sub(from).max(0);
        match record.text(f::CAUSE).unwrap_or_default() {
            b"stalled" | b"suspended" => {
                self.stalled = true;
                found.excuse(Excuse::Blind, from, to);
            }
            b"read_failed" => found.excuse(Excuse::Blind, from, to),
            b"backlog_full" => {
                self.lose(record);
                found.excuse(Excuse::Loss, from, to);
            }
            _ => return,
        }
        self.unseen = self.unseen.saturating_add(unseen);
    }

    /// What `gap.lost` says was lost; without it anything may have been.
    fn lose(&mut self, record: &Record<'_>) {
        let all = record.number(f::GAP_COUNT).unwrap_or(0);
        self.lost_records = self.lost_records.saturating_add(all);
        let of = |action: &str| {
            let counts = record.found.counts.iter();
            let mut same = counts.filter(|(name, _)| record.at(name) == action.as_bytes());
            let told = same.next().and_then(|(_, count)| super::schema::whole(record.at(count)));
            told.unwrap_or(if record.found.present.has(f::GAP_LOST) { 0 } else { all })
        };
        let (opens, closes) = (of("connection-opened"), of("connection-closed"));
        for pair in [&mut self.lost, &mut self.lost_in_span] {
            pair.opens = pair.opens.saturating_add(opens);
            pair.closes = pair.closes.saturating_add(closes);
        }
    }

    /// V22.
    fn check_covered(&mut self, record: &Record<'_>, found: &mut Findings<'_>) {
        let (bt, ts) = self.covered;
        let since = record.bt.saturating_sub(bt);
        if bt == i64::MIN || since <= LATEST.saturating_add(self.unseen) {
            return;
        }
        let text = format!("no coverage was told for {} s", since / SECOND);
        found.hold(22, text, Excuse::Blind, ts, record.ts);
        self.covered = (record.bt, record.ts);
        self.unseen = 0;
    }

    fn take_coverage(&mut self, record: &Record<'_>, live: i64, found: &mut Findings<'_>) {
        let from = self.covered.1;
        self.check_live(record, f::COVER_LIVE, live, from, found);
        let lost = self.lost_in_span;
        for (field, told, lost, name) in [
            (f::COVER_OPENS, self.span.opens, lost.opens, "opens"),
            (f::COVER_CLOSES, self.span.closes, lost.closes, "closes"),
        ] {
            let counted = record.number(field).unwrap_or(0);
            if self.is_whole && !(told..=told.saturating_add(lost)).contains(&counted) {
                let text = format!("coverage counts {counted} {name} and {told} records tell of one");
                found.hold(39, text, Excuse::Loss, from, record.ts);
            }
        }
        self.check_pace(record, from, found);
        for (sum, (_, field, _)) in self.sums.iter_mut().zip(SUMS) {
            *sum = sum.saturating_add(record.number(field).unwrap_or(0));
        }
        self.incomparable += u64::from(record.is(f::COMPARABLE, "false"));
        self.notices = notices_of(record).fold(self.notices, u64::saturating_add);
        self.is_whole = true;
        (self.span, self.lost_in_span) = (Pair::default(), Pair::default());
        // As many may be told together as looks failed one after the other.
        self.was_stalled &= record.bt == self.covered.0;
        self.was_stalled |= std::mem::take(&mut self.stalled);
        (self.covered, self.unseen) = ((record.bt, record.ts), 0);
        self.slowest_interval = self.interval.unwrap_or(0);
    }

    /// V38, and the same of a stop.
    fn check_live(
        &mut self,
        record: &Record<'_>,
        field: usize,
        live: i64,
        from: i64,
        found: &mut Findings<'_>,
    ) {
        let Some(told) = record.number(field).and_then(|told| i64::try_from(told).ok()) else { return };
        // What was open before the set, or was opened in what was lost.
        let unheard = *self.unheard.get_or_insert(told.saturating_sub(live));
        let live = live.saturating_add(unheard);
        let slack = self.lost.opens.saturating_add(self.lost.closes);
        if told.abs_diff(live) > slack {
            let rule = if field == f::COVER_LIVE { 38 } else { 40 };
            let text = format!("{told} connections are said to be open and {live} are");
            found.hold(rule, text, Excuse::Loss, from, record.ts);
        }
    }

    /// V42. Two digits of the longest interval are right.
    fn check_pace(&self, record: &Record<'_>, from: i64, found: &mut Findings<'_>) {
        let Some(slowest) = record.number(f::SLOWEST).and_then(|us| i64::try_from(us).ok()) else { return };
        // Of two that were told together, after a look that failed, the gaps stand before the first.
        let is_stalled = self.stalled || record.bt == self.covered.0 && self.was_stalled;
        if self.interval.is_none() || is_stalled {
            return;
        }
        let interval = self.slowest_interval;
        let most = SECOND.max(interval.saturating_mul(10)).saturating_add(interval);
        if slowest > most.saturating_add(most / 64) {
            let text = format!("{slowest} us passed between two looks, and no gap tells of that");
            found.hold(42, text, Excuse::Blind, from, record.ts);
        }
    }

    /// V40, V41.
    fn check_totals(&mut self, record: &Record<'_>, live: i64, found: &mut Findings<'_>) {
        let from = self.covered.1;
        self.check_live(record, f::TOTAL_LIVE, live, from, found);
        if !self.from_start {
            return;
        }
        let exact = [
            (40, f::TOTAL_OPENS, self.run.opens, self.lost.opens, "opens"),
            (40, f::TOTAL_CLOSES, self.run.closes, self.lost.closes, "closes"),
            (40, f::TOTAL_LOST, self.lost_records, 0, "lost"),
            (40, f::TOTAL_UNKNOWN, self.unattributed, self.lost.opens, "unattributed"),
            (41, f::TOTAL_INCOMPARABLE, self.incomparable, self.lost_records, "incomparable"),
            (41, f::TOTAL_NOTICES, self.notices, 0, "notices_lost"),
        ];
        let sums = SUMS.iter().zip(self.sums).map(|((total, _, name), sum)| (41, *total, sum, 0, *name));
        for (rule, field, counted, lost, name) in exact.into_iter().chain(sums) {
            let told = record.number(field).unwrap_or(0);
            // A coverage record may be among what was lost: then its counts are in the total alone.
            let is_open = rule == 41 && self.lost_records > 0;
            let most = if is_open { u64::MAX } else { counted.saturating_add(lost) };
            if !(counted..=most).contains(&told) {
                found.add(
                    rule,
                    format!("the total of {name} is {told}, and the run's records make {counted}"),
                );
            }
        }
    }
}

fn notices_of(record: &Record<'_>) -> impl Iterator<Item = u64> {
    [f::LOST_DESTROY, f::LOST_EBPF, f::LOST_PROC, f::LOST_SYN]
        .into_iter()
        .filter_map(|field| record.number(field))
}

/// `50ms`, `1s`, `250us`: as portreeve writes them.
fn parse_interval(text: &[u8]) -> Option<i64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit {
        b"us" => 1,
        b"ms" => 1_000,
        b"s" => SECOND,
        _ => return None,
    };
    i64::try_from(super::schema::whole(number)?).ok()?.checked_mul(unit)
}
