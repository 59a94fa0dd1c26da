//! Connections from their opens to their closes: V19, V24 to V28, V30 to V33.
//! Knows what is open and how far the ids have come, so its memory is that of the connections that live.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::clock;
use super::fields::on;
use super::findings::{Excuse, Findings};
use super::moment;
use super::record::{Record, f, quote};
use super::schema::address;

/// As many closed ones are known again, to tell a second close from a close without an open.
const REMEMBERED: usize = 4_096;
/// As many spans of lost records are kept apart; more are joined.
const MOST_GAPS: usize = 1_024;
/// An id has milliseconds.
const MILLISECOND: i64 = 1_000;
const SLACK: i64 = 2_000_000;

/// Namespace and both ends, as bytes: they are hashed at one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends([u8; 56]);

#[derive(Debug)]
struct Open {
    ends: Ends,
    /// When it was opened, by both clocks; `None`: before the set began, or in what was lost.
    at: Option<(i64, i64)>,
    start: Option<i64>,
    run: u64,
    boot: Option<u128>,
    established: bool,
}

/// Where a run is, for its connections.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Counts runs.
    pub run: u64,
    /// So far the wall clock was set back.
    pub back: i64,
    /// First time of the set, where older files are absent.
    pub begins_at: Option<i64>,
}

/// What is open in a stream.
#[derive(Debug)]
pub struct Connections {
    open: HashMap<u128, Open>,
    by_ends: HashMap<Ends, u128>,
    /// The last that were closed, and of their ends when those were seen last.
    closed: VecDeque<(u128, Ends)>,
    gone: HashMap<Ends, (u128, i64)>,
    greatest: u128,
    lost: VecDeque<(i64, i64)>,
    /// Opens less closes.
    balance: i64,
    /// Open ones of an earlier boot.
    stale: u64,
    boot: Option<u128>,
}

impl Connections {
    /// Nothing is open.
    pub fn new() -> Self {
        Self {
            open: HashMap::new(),
            by_ends: HashMap::new(),
            closed: VecDeque::new(),
            gone: HashMap::new(),
            greatest: 0,
            lost: VecDeque::new(),
            balance: 0,
            stale: 0,
            boot: None,
        }
    }

    /// How many are open.
    pub fn live(&self) -> u64 {
        self.open.len() as u64
    }

    /// Opens less closes.
    pub fn balance(&self) -> i64 {
        self.balance
    }

    /// A run begins.
    pub fn begin_run(&mut self, record: &Record<'_>) {
        if self.boot.is_some() && record.boot.is_some() && self.boot != record.boot {
            self.stale = self.live();
        }
        self.boot = record.boot;
    }

    /// Records were lost between these times.
    pub fn lose(&mut self, from: i64, to: i64) {
        if self.lost.len() >= MOST_GAPS
            && let (Some((first, _)), Some((_, last))) = (self.lost.pop_front(), self.lost.pop_front())
        {
            // What lies between is excused too: better than to accuse.
            self.lost.push_front((first, last));
        }
        self.lost.push_back((from, to));
    }

    /// A record of a connection; answers its id where that can be read.
    pub fn take(&mut self, record: &Record<'_>, now: Now, found: &mut Findings<'_>) {
        let id = record.text(f::CONNECTION).and_then(moment::parse_uuid);
        let (Some(id), Some(ends)) = (id, ends(record)) else { return };
        match record.action {
            on::OPEN => self.take_open(record, id, ends, now, found),
            on::CHANGE | on::SESSION => self.take_change(record, id, ends, now, found),
            _ => self.take_close(record, id, ends, now, found),
        }
    }

    fn take_open(&mut self, record: &Record<'_>, id: u128, ends: Ends, now: Now, found: &mut Findings<'_>) {
        if self.open.contains_key(&id) {
            found.add(24, format!("the connection {} is opened again", record.quote(f::CONNECTION)));
            return;
        }
        if id <= self.greatest {
            found.add(
                19,
                format!("the id {} is not above that of an earlier open", record.quote(f::CONNECTION)),
            );
        }
        self.greatest = self.greatest.max(id);
        self.balance += 1;
        if self.stale > 0 {
            found.add(31, format!("{} connections of an earlier boot are still open", self.stale));
            self.stale = 0;
        }
        if let Some(other) = self.by_ends.get(&ends).copied() {
            let text = "the same ends are open already under another id".to_owned();
            let from = moment::of_uuid(other).unwrap_or(record.ts);
            found.hold(27, text, Excuse::Loss, from, record.ts);
        }
        self.check_predecessor(record, &ends, now, found);
        self.add(record, id, ends, now, true);
    }

    /// V28.
    fn check_predecessor(&mut self, record: &Record<'_>, ends: &Ends, now: Now, found: &mut Findings<'_>) {
        let Some((_, seen)) = self.gone.remove(ends) else { return };
        let began = record.time(f::START).unwrap_or(record.ts);
        if seen.saturating_sub(now.back) > began {
            found.add(28, "it began before another with the same ends was last seen".to_owned());
        }
    }

    fn add(&mut self, record: &Record<'_>, id: u128, ends: Ends, now: Now, is_open: bool) {
        let open = Open {
            ends,
            at: is_open.then_some((record.bt, record.ts)),
            start: record.time(f::START),
            run: now.run,
            boot: record.boot,
            established: is_established(record),
        };
        self.by_ends.insert(ends, id);
        self.open.insert(id, open);
    }

    fn take_change(&mut self, record: &Record<'_>, id: u128, ends: Ends, now: Now, found: &mut Findings<'_>) {
        if !self.open.contains_key(&id) {
            if !self.is_excused(record, id, now, found) {
                return;
            }
            self.add(record, id, ends, now, false);
        }
        let Some(open) = self.open.get_mut(&id) else { return };
        if open.ends != ends {
            found.add(26, format!("{} has other ends than at its open", record.quote(f::CONNECTION)));
        }
        open.established |= is_established(record);
        if is_of_other_boot(open, record) {
            found.add(31, format!("{} is of an earlier boot and goes on", record.quote(f::CONNECTION)));
        }
    }

    fn take_close(&mut self, record: &Record<'_>, id: u128, ends: Ends, now: Now, found: &mut Findings<'_>) {
        if !self.open.contains_key(&id) {
            if self.was_closed(id) {
                found.add(25, format!("the connection {} is closed again", record.quote(f::CONNECTION)));
                return;
            }
            if !self.is_excused(record, id, now, found) {
                return;
            }
        }
        let open = self.open.remove(&id);
        self.balance -= 1;
        self.remember(record, id, ends);
        check_seen(record, now, found);
        let Some(open) = open else {
            check_duration(record, None, now, found);
            return;
        };
        if self.by_ends.get(&open.ends) == Some(&id) {
            self.by_ends.remove(&open.ends);
        }
        if open.ends != ends {
            found.add(26, format!("{} has other ends than at its open", record.quote(f::CONNECTION)));
        }
        if open.established && record.is(f::OUTCOME, "failure") {
            found.add(36, "it failed, and had been established".to_owned());
        }
        check_duration(record, Some(&open), now, found);
        self.check_absence(record, &open, now, found);
    }

    fn remember(&mut self, record: &Record<'_>, id: u128, ends: Ends) {
        if self.closed.len() >= REMEMBERED
            && let Some((id, ends)) = self.closed.pop_front()
            && self.gone.get(&ends).is_some_and(|(last, _)| *last == id)
        {
            self.gone.remove(&ends);
        }
        self.closed.push_back((id, ends));
        if let Some(seen) = record.time(f::LAST_SEEN) {
            self.gone.insert(ends, (id, seen));
        }
    }

    fn was_closed(&self, id: u128) -> bool {
        self.closed.iter().any(|(closed, _)| *closed == id)
    }

    /// V30, V31: closes for what happened while nobody watched.
    fn check_absence(&mut self, record: &Record<'_>, open: &Open, now: Now, found: &mut Findings<'_>) {
        let reason = record.text(f::CLOSE_REASON).unwrap_or_default();
        let is_older = is_of_other_boot(open, record);
        if is_older {
            self.stale = self.stale.saturating_sub(1);
        }
        let (is_known, is_of_this_run) = (open.boot.is_some() && record.boot.is_some(), open.run == now.run);
        match reason {
            b"while_down" if is_of_this_run || is_known && is_older => {
                found.add(30, "while_down ends what no earlier run of this boot opened".to_owned());
            }
            b"reboot" if is_of_this_run || is_known && !is_older => {
                found.add(31, "reboot ends what no earlier boot opened".to_owned());
            }
            b"reboot" | b"while_down" => {}
            _ if is_older => {
                found.add(31, format!("what an earlier boot opened ends as {}", quote(reason)));
            }
            _ => {}
        }
    }

    /// V26: whether a connection without an open may be told of. If not, that is told, or waits for a gap.
    fn is_excused(&self, record: &Record<'_>, id: u128, now: Now, found: &mut Findings<'_>) -> bool {
        let Some(at) = moment::of_uuid(id) else { return false };
        let is_before =
            now.begins_at.is_some_and(|begin| at <= begin.saturating_add(now.back).saturating_add(SLACK));
        let is_within = |(from, to): &(i64, i64)| {
            from.saturating_sub(now.back + MILLISECOND) <= at
                && at <= to.saturating_add(now.back + MILLISECOND)
        };
        if !self.was_closed(id) && (is_before || self.lost.iter().any(is_within)) {
            return true;
        }
        let what = if record.action == on::CLOSE { "closed" } else { "changed" };
        let text = format!("the connection {} is {what} and is not open", record.quote(f::CONNECTION));
        if self.was_closed(id) {
            found.add(26, text);
        } else {
            found.hold(26, text, Excuse::Loss, at - MILLISECOND, at + MILLISECOND);
        }
        false
    }
}

fn is_of_other_boot(open: &Open, record: &Record<'_>) -> bool {
    open.boot.is_some() && record.boot.is_some() && open.boot != record.boot
}

fn ends(record: &Record<'_>) -> Option<Ends> {
    let bytes = |field: usize| match address(record.text(field)?)? {
        IpAddr::V4(ip) => Some(ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => Some(ip.octets()),
    };
    let numbers = [
        record.number(f::SOURCE_PORT)?,
        record.number(f::DESTINATION_PORT)?,
        // One connection of a machine to itself has both its ends here.
        record.number(f::NETNS).unwrap_or(0) << 1 | u64::from(record.is(f::DIRECTION, "ingress")),
    ];
    let mut ends = [0; 56];
    let parts = [bytes(f::SOURCE_IP)?, bytes(f::DESTINATION_IP)?];
    ends.chunks_exact_mut(16).zip(parts).for_each(|(place, part)| place.copy_from_slice(&part));
    let places = ends.iter_mut().skip(32);
    places
        .zip(numbers.iter().flat_map(|number| number.to_ne_bytes()))
        .for_each(|(place, byte)| *place = byte);
    Some(Ends(ends))
}

fn is_established(record: &Record<'_>) -> bool {
    !matches!(record.text(f::STATE), Some(b"syn_sent" | b"close" | b"unknown"))
}

/// V33.
fn check_seen(record: &Record<'_>, now: Now, found: &mut Findings<'_>) {
    let Some(gone) = record.time(f::GONE_BY) else { return };
    let slack = now.back.saturating_add(clock::UNTOLD);
    let is_after = |earlier: i64, later: i64| earlier.saturating_sub(slack) > later;
    if record.time(f::LAST_SEEN).is_some_and(|seen| is_after(seen, gone)) {
        found.add(33, "it was seen after it was gone".to_owned());
    } else if is_after(gone, record.ts) {
        found.add(33, "it was gone after that was told".to_owned());
    }
}

/// V32.
fn check_duration(record: &Record<'_>, open: Option<&Open>, now: Now, found: &mut Findings<'_>) {
    let start = record.time(f::START);
    let duration = record.number(f::DURATION).map(|nanos| i64::try_from(nanos / 1_000).unwrap_or(i64::MAX));
    let may_lack = matches!(record.text(f::CLOSE_REASON), Some(b"while_down" | b"reboot"));
    match (duration, start) {
        (None, Some(_)) if !may_lack => {
            found.add(32, "event.start is told and event.duration is not".to_owned());
        }
        (Some(_), None) => found.add(32, "event.duration is told and event.start is not".to_owned()),
        (Some(duration), Some(start)) => {
            let Some(Open { at: Some((bt, ts)), start: Some(first), boot, .. }) = open else { return };
            if *boot != record.boot {
                return;
            }
            let told_late = ts.saturating_sub(start.min(*first)).max(0);
            let slack = if told_late > 0 { SLACK } else { 0 };
            let most =
                record.bt.saturating_sub(*bt).saturating_add(told_late).saturating_add(slack + now.back + 1);
            if duration > most {
                let text =
                    format!("it lasted {duration} us, and from first sight to here passed {most} us at most");
                found.add(32, text);
            }
        }
        _ => {}
    }
}
