//! What was seen beside what the kernel counted: once a minute, and at the end.
//!
//! The kernel counts every outbound open of a namespace, on all ports. So does the program in it, where that is on, by each
//! attempt that it sees. Else notices tell of every socket that was destroyed, on all ports too, and one reading of the whole
//! table tells which are alive: opens = destroyed + alive now - alive before. What remains was missed, or was opened while
//! the two were being read.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Pipeline;
use super::namespace::Namespace;
use crate::connection::{Connection, Moment, Seen, Transport};
use crate::event::{Coverage, Event, KernelCounts, Percentiles, Totals, What};
use crate::netlink::{Diag, states};
use crate::proc::Counters;
use crate::process::Attribution;
use crate::source::Kind;
use crate::source::direction::{Listeners, is_outbound};
use crate::source::gate::Opens;
use crate::source::tally::Ended;

/// Between two records.
const EVERY: Duration = Duration::from_secs(60);
/// A whole table that takes longer to read is not read for this.
const TOO_DEAR: Duration = Duration::from_millis(200);
/// So many ticks a record waits for notices that are on their way.
const MOST_PUT_OFF: u8 = 3;
/// Losses are told at most this often.
const TELL_LOSS_EVERY: Duration = Duration::from_secs(1);

/// Collected since the last record.
pub(super) struct Collected {
    from: Option<Moment>,
    last_tick: Option<Duration>,
    totals: Totals,
    seen: BTreeMap<&'static str, u64>,
    /// UDP flows among them that did not stand before the watch: the kernel counts opens of TCP alone.
    flows: u64,
    unattributed: BTreeMap<&'static str, u64>,
    latency: Histogram<u32>,
    intervals: Histogram<u32>,
    lost: BTreeMap<&'static str, u64>,
    /// Lost and not yet told in a gap: since when, how many, and whether more that nobody counted.
    untold: BTreeMap<Kind, (Moment, u64, bool)>,
    /// Ticks by which the record is late.
    put_off: u8,
    told_loss: Duration,
    sums: Sums,
}

/// What all namespaces together opened, and what of that is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    kernel: KernelCounts,
    accounted: i64,
    unmatched: u64,
    comparable: bool,
}

impl Default for Sums {
    fn default() -> Self {
        Self { kernel: KernelCounts::default(), accounted: 0, unmatched: 0, comparable: true }
    }
}

/// What the counters of a namespace said when the last record was made.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Balance {
    /// True for one that appeared during the watch: its counters began with 0.
    pub is_new: bool,
    /// True once it counts.
    pub begun: bool,
    kernel: KernelCounts,
    /// Attempts that the program had seen of those; it may see one before the kernel counts it, never behind.
    attempts: u64,
    tallied: Ended,
    alive: u64,
    /// Notices without a remote end that were those of known connections.
    pub matched: u64,
    told_matched: u64,
    /// False once a notice was lost, until the next record: of an end; of a SYN.
    pub whole: bool,
    pub syns_whole: bool,
    cost: Duration,
}

impl Default for Collected {
    fn default() -> Self {
        Self {
            from: None,
            last_tick: None,
            totals: Totals::default(),
            seen: BTreeMap::new(),
            flows: 0,
            unattributed: BTreeMap::new(),
            latency: histogram(),
            intervals: histogram(),
            lost: Kind::ALL.into_iter().map(|kind| (kind.name(), 0)).collect(),
            untold: BTreeMap::new(),
            told_loss: Duration::ZERO,
            put_off: 0,
            sums: Sums::default(),
        }
    }
}

/// Microseconds up to more than an hour, two digits of which are right.
fn histogram() -> Histogram<u32> {
    // With bounds: one without begins at 2 and grows only for what is recorded without saturating. The only errors are of
    // bounds that are out of order.
    Histogram::new_with_bounds(1, 3_600_000_000, 2)
        .unwrap_or_else(|_| unreachable!("two digits are within bounds"))
}

impl Collected {
    /// A tick begins; answers how long ago the one before it did.
    pub fn tick(&mut self, at: Moment) -> Option<Duration> {
        self.from.get_or_insert(at);
        let last = self.last_tick.replace(at.boot)?;
        let interval = at.boot.saturating_sub(last);
        self.intervals.saturating_record(micros(interval));
        Some(interval)
    }

    pub fn opened(&mut self, connection: &Connection) {
        *self.seen.entry(connection.seen.name()).or_default() += 1;
        let is_flow = connection.transport == Transport::Udp && connection.seen != Seen::Start;
        self.flows += u64::from(is_flow);
        match &connection.attribution {
            Attribution::Owned { latency, .. } | Attribution::Audited { latency, .. } => {
                self.latency.saturating_record(micros(*latency))
            }
            Attribution::Recorded(_) => {}
            Attribution::Unknown(reason) => *self.unattributed.entry(reason.name()).or_default() += 1,
        }
    }

    /// An owner that was found after its open had been told.
    pub fn attributed(&mut self, latency: Duration) {
        self.latency.saturating_record(micros(latency));
    }

    fn count(&mut self, kind: Kind, count: u64) {
        *self.lost.entry(kind.name()).or_default() += count;
    }

    pub fn lost(&mut self, kind: Kind, count: Option<u64>, at: Moment) {
        self.count(kind, count.unwrap_or(1));
        let (_, sum, uncounted) = self.untold.entry(kind).or_insert((at, 0, false));
        *sum += count.unwrap_or(0);
        *uncounted |= count.is_none();
    }

    /// What became of a namespace that is gone cannot be asked any more.
    pub fn add_gone(&mut self, space: &Namespace, attempts: Option<u64>) {
        let mut gone = space.balance;
        let (kernel, tallied) = space.counted();
        if space.hears_words() {
            self.sums.comparable &= self.sums.add_attempts(&mut gone, kernel, attempts);
        } else {
            self.sums.add(&gone, kernel, tallied, 0);
            self.sums.comparable &= gone.whole && space.on.contains(&Kind::Destroy);
        }
    }
}

impl Sums {
    /// What the kernel counted in a namespace since `before`; answers how many opens.
    fn add_counts(&mut self, before: &Balance, kernel: KernelCounts) -> u64 {
        let opens = kernel.active_opens.saturating_sub(before.kernel.active_opens);
        self.kernel.active_opens += opens;
        self.kernel.attempt_fails += kernel.attempt_fails.saturating_sub(before.kernel.attempt_fails);
        opens
    }

    /// The same, and the attempts that the program has seen by now, which it was asked for later; false if that cannot be
    /// compared. What it saw and the kernel did not count yet is left for the next time.
    fn add_attempts(&mut self, balance: &mut Balance, kernel: KernelCounts, seen: Option<u64>) -> bool {
        let opens = self.add_counts(balance, kernel);
        balance.kernel = kernel;
        let Some(new) = seen.unwrap_or(0).checked_sub(balance.attempts) else {
            // It was forgotten for others, and has begun anew.
            balance.attempts = seen.unwrap_or(0);
            return false;
        };
        let known = opens.min(new);
        balance.attempts += known;
        self.accounted += signed(known);
        true
    }

    /// What happened in a namespace since `before`, of which so many are alive now.
    fn add(&mut self, before: &Balance, kernel: KernelCounts, tallied: Ended, alive: u64) {
        self.add_counts(before, kernel);
        self.accounted += signed(destroyed(tallied)) - signed(destroyed(before.tallied));
        self.accounted += signed(alive) - signed(before.alive);
        self.add_unmatched(before, tallied);
    }

    /// An end without its remote end may be that of a watched connection, unless SYNs told of all of those.
    fn add_unmatched(&mut self, before: &Balance, now: Ended) {
        let ends = now.disconnected.saturating_sub(before.tallied.disconnected);
        let matched = before.matched - before.told_matched;
        let unmatched = ends.saturating_sub(matched);
        self.unmatched += unmatched;
        // Those of clients that chose a port outside the kernel's range are counted as accepted.
        self.accounted += signed(matched.saturating_sub(ends));
        if !before.syns_whole {
            self.accounted -= signed(unmatched);
        }
    }
}

fn destroyed(tallied: Ended) -> u64 {
    tallied.active + tallied.attempts + tallied.disconnected
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn percentiles(of: &Histogram<u32>) -> Percentiles {
    match of.is_empty() {
        true => Percentiles::default(),
        false => Percentiles {
            count: of.len(),
            p50: of.value_at_quantile(0.5),
            p99: of.value_at_quantile(0.99),
            max: of.max(),
        },
    }
}

impl Pipeline {
    /// A record, if a minute is over; and losses that were not told yet.
    pub(super) fn tell_coverage_if_due(&mut self, at: Moment, told: &mut Vec<Event>) {
        self.tell_losses(at, told);
        if self.coverage.from.is_some_and(|from| from.boot + EVERY <= at.boot) {
            let must = self.coverage.put_off >= MOST_PUT_OFF;
            self.coverage.put_off += 1;
            told.extend(self.cover(at, must).unwrap_or_default());
        }
    }

    /// Notices were lost, or nobody had room for them. `None`: nobody knows how many.
    pub(super) fn count_lost(&mut self, kind: Kind, count: Option<u64>, at: Moment) {
        self.totals.notices_lost += count.unwrap_or(1);
        self.coverage.lost(kind, count, at);
    }

    /// Notices were lost of which each is told otherwise, if later: no gap.
    pub(super) fn count_repaired(&mut self, kind: Kind, count: u64) {
        self.totals.notices_lost += count;
        self.coverage.count(kind, count);
    }

    /// Losses as gaps, at most once a second.
    fn tell_losses(&mut self, at: Moment, told: &mut Vec<Event>) {
        if self.coverage.untold.is_empty() || at.boot < self.coverage.told_loss + TELL_LOSS_EVERY {
            return;
        }
        self.coverage.told_loss = at.boot;
        for (kind, (from, count, uncounted)) in std::mem::take(&mut self.coverage.untold) {
            let more = if uncounted { ", and more that nobody counted" } else { "" };
            let instead = match kind {
                Kind::Destroy | Kind::Syn | Kind::Nflog(_) | Kind::Audit | Kind::Ebpf => {
                    "the tables are read instead"
                }
                Kind::Proc => "links of chains, starts and ends of programs may be missing",
                Kind::Files => "changes of files may be missing",
            };
            let detail = Some(format!("{} notices{more}; {instead}", kind.name()));
            told.push(Event::lost(from, at, "events_lost", (count > 0).then_some(count), detail));
        }
    }

    /// Notices that came are left unread: what they would tell cannot be compared with anything.
    pub fn leave_undrained(&mut self) {
        self.spaces.iter_mut().for_each(|space| space.balance.whole = false);
    }

    /// What was seen since the last record, and a gap if more was missed than failed. Reads the whole table of each
    /// namespace where that is affordable. `None`, unless it must: something would seem missed. A socket leaves the table some
    /// milliseconds before the notice of its end comes, and is in neither until then.
    pub fn cover(&mut self, at: Moment, must: bool) -> Option<Vec<Event>> {
        let mut spaces = std::mem::take(&mut self.spaces);
        let mut collected = std::mem::take(&mut self.coverage);
        let before: Vec<Balance> = spaces.iter().map(|space| space.balance).collect();
        let sums = collected.sums;
        let mut is_short = false;
        for space in &mut spaces {
            let Sums { kernel, accounted, .. } = collected.sums;
            let comparable = match space.hears_words() {
                true => space.balance_attempts(&mut collected.sums, self.attempts_in(space)),
                false => space.balance_up(&mut collected.sums, self.ephemeral, &self.cputime),
            };
            let opens = collected.sums.kernel.active_opens - kernel.active_opens;
            is_short |= comparable && collected.sums.accounted - accounted < signed(opens);
            collected.sums.comparable &= comparable;
        }
        if is_short && !must {
            spaces.iter_mut().zip(before).for_each(|(space, before)| space.balance = before);
            collected.sums = sums;
            (self.spaces, self.coverage) = (spaces, collected);
            return None;
        }
        self.spaces = spaces;
        let totals = self.totals();
        self.coverage.totals = totals;
        self.coverage.from = Some(at);
        self.coverage.last_tick = collected.last_tick;
        self.coverage.told_loss = collected.told_loss;
        self.coverage.untold = std::mem::take(&mut collected.untold);
        let coverage = self.coverage_of(collected, &totals, at);
        self.totals.active_opens += coverage.kernel.active_opens;
        self.totals.missed_at_most += coverage.missed_at_most.unwrap_or(0);
        self.totals.incomparable += u64::from(!coverage.comparable);
        let mut told = std::mem::take(&mut self.untold);
        told.extend(missed(&coverage, at));
        if let Some((from, most)) = self.left_out.take() {
            let detail = "more connections at once than are followed; they are told by their ends where notices tell of those";
            told.push(Event::lost(from, at, "table_full", Some(most), Some(detail.to_owned())));
        }
        told.push(Event { at, what: What::Coverage(Box::new(coverage)) });
        Some(told)
    }

    /// Begins the count: what stands now was opened before. `attempts`: those that the program had seen before the kernel's
    /// counters were read, so that none seems missed that came between the two.
    pub(super) fn begin_balance(&self, space: &mut Namespace, attempts: Option<u64>) {
        let is_new = space.balance.is_new;
        space.balance.begun = true;
        space.balance.whole = space.on.contains(&Kind::Destroy);
        space.balance.syns_whole = space.on.contains(&Kind::Syn) || space.hears_words();
        match (space.hears_words(), is_new) {
            (true, true) => {
                // It has seen all that were counted. What it has seen beyond that was another's, which had this number.
                let seen = self.attempts_in(space).unwrap_or(0);
                space.balance.attempts = seen.saturating_sub(space.counted().0.active_opens);
            }
            (true, false) => {
                (space.balance.kernel, space.balance.attempts) = (space.counted().0, attempts.unwrap_or(0));
            }
            (false, true) => {}
            (false, false) => {
                space.balance_up(&mut Sums::default(), self.ephemeral, &self.cputime);
            }
        }
    }

    /// Attempts that the program in the kernel has seen there.
    pub(super) fn attempts_in(&self, space: &Namespace) -> Option<u64> {
        self.events.as_ref().filter(|_| space.hears_words())?.count_attempts(space.netns)
    }

    /// How the opens of this tick are learned of. Asks the program only where there were any.
    pub(super) fn opens_of(&self, space: &Namespace, counters: Counters, at: Moment) -> Opens {
        let opens = space.opens(at.boot);
        let has_opened = space.gate.counters().is_none_or(|last| last.active_opens != counters.active_opens);
        let is_seen = opens == Opens::Noticed
            && space.hears_words()
            && (!has_opened || space.balance.has_seen(counters.active_opens, self.attempts_in(space)));
        if is_seen { Opens::Seen } else { opens }
    }

    fn coverage_of(&self, collected: Collected, now: &Totals, at: Moment) -> Coverage {
        let before = &collected.totals;
        let kernel = collected.sums.kernel;
        let standing = collected.seen.get("start").copied().unwrap_or(0);
        let of_all_ports =
            self.select.ports.is_all() && self.select.filter == Default::default() && !self.select.inbound;
        let accounted = match (collected.sums.comparable, of_all_ports) {
            (true, _) => u64::try_from(collected.sums.accounted).ok(),
            (false, true) => Some((now.opens - before.opens).saturating_sub(standing + collected.flows)),
            (false, false) => None,
        };
        let missed = accounted.map(|accounted| kernel.active_opens.saturating_sub(accounted));
        Coverage {
            span: collected.from.map(|from| (from, at)),
            polls: now.polls - before.polls,
            late: 0,
            reads: now.reads - before.reads,
            lookups: now.lookups - before.lookups,
            failed_reads: now.failed_reads - before.failed_reads,
            opens: now.opens - before.opens,
            closes: now.closes - before.closes,
            live: now.live,
            namespaces: self.spaces.len() as u64,
            namespaces_left_out: self.namespaces.left_out(),
            seen: collected.seen,
            unattributed: collected.unattributed,
            attribution_latency_us: percentiles(&collected.latency),
            poll_interval_us: percentiles(&collected.intervals),
            kernel,
            comparable: accounted.is_some(),
            accounted,
            missed_at_most: missed,
            agrees: missed.map(|missed| missed == 0),
            unmatched: collected.sums.unmatched,
            lost: collected.lost,
        }
    }
}

/// Opens that nothing told of, unless attempts that failed explain them.
fn missed(coverage: &Coverage, at: Moment) -> Option<Event> {
    let missed = coverage.missed_at_most?.checked_sub(coverage.kernel.attempt_fails).filter(|n| *n > 0)?;
    let from = coverage.span.map_or(at, |(from, _)| from);
    let detail = Some("outbound opens, of any port, that the kernel counted and nothing told of".to_owned());
    Some(Event::lost(from, at, "opens_missed", Some(missed), detail))
}

impl Balance {
    /// True if the program has seen as many attempts as the kernel has counted by now.
    fn has_seen(&self, active_opens: u64, attempts: Option<u64>) -> bool {
        let opens = active_opens.saturating_sub(self.kernel.active_opens);
        self.begun && attempts.unwrap_or(0).checked_sub(self.attempts).is_some_and(|seen| seen >= opens)
    }
}

impl Namespace {
    /// What the kernel's counters and its notices of ends say now.
    fn counted(&self) -> (KernelCounts, Ended) {
        let Counters { active_opens, attempt_fails, .. } = self.gate.counters().unwrap_or_default();
        let tallied = self.tally.as_ref().map(|tally| tally.read()).unwrap_or_default();
        (KernelCounts { active_opens, attempt_fails }, tallied)
    }

    /// Adds what happened since the last call, by what the program in the kernel has seen; true if that can be compared.
    fn balance_attempts(&mut self, sums: &mut Sums, attempts: Option<u64>) -> bool {
        let (kernel, _) = self.counted();
        sums.add_attempts(&mut self.balance, kernel, attempts)
    }

    /// Adds what happened since the last call; true if all of it is known.
    fn balance_up(&mut self, sums: &mut Sums, ephemeral: (u16, u16), cputime: &dyn Fn() -> Duration) -> bool {
        let (kernel, tallied) = self.counted();
        let old = self.balance;
        let before = cputime();
        let alive = match self.tables.diag().filter(|_| old.cost < TOO_DEAR) {
            Some(diag) => count_alive(diag, ephemeral),
            None => None,
        };
        let cost = cputime().saturating_sub(before);
        sums.add(&old, kernel, tallied, alive.unwrap_or(0));
        let is_noticed = self.on.contains(&Kind::Destroy);
        let syns_whole = self.on.contains(&Kind::Syn) || self.hears_words();
        self.balance = Balance {
            kernel,
            tallied,
            alive: alive.unwrap_or(0),
            told_matched: old.matched,
            whole: is_noticed,
            syns_whole,
            cost,
            ..old
        };
        is_noticed && old.whole && alive.is_some()
    }
}

/// Sockets of the whole table that we connected.
fn count_alive(diag: &mut Diag, ephemeral: (u16, u16)) -> Option<u64> {
    let mut listeners = Listeners::default();
    diag.dump(states::LISTEN, None, |socket| listeners.add(socket.tuple.local)).ok()?;
    let mut alive = 0;
    let count = |socket: crate::connection::Socket| {
        // FIN_WAIT2 with TIME_WAIT's timer is what that is: its socket has been destroyed. Another's nobody holds any more, but
        // it stands, where the other end's answer came while its process was closing it.
        let is_over = socket.timewait_left.is_some();
        alive += u64::from(!is_over && is_outbound(&socket, &listeners, ephemeral));
    };
    diag.dump(states::LIVE, None, count).ok()?;
    Some(alive)
}
