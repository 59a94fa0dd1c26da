//! Whether a tick must read the tables at all: pure reasoning over the kernel's counters.
//!
//! A table read costs milliseconds, because the kernel walks its whole hash table; the counters cost microseconds.
//! Why they suffice:
//!
//! - Every outbound open raises `ActiveOpens` (`tcp_connect` moves CLOSED to SYN_SENT), refused and non-blocking ones
//!   too. So an open is never missed: the table is read in the tick that sees it rise.
//! - An attempt that is answered raises `CurrEstab`; one that fails raises `AttemptFails`.
//! - Every end of an established connection lowers `CurrEstab` (`tcp_set_state` leaving ESTABLISHED or CLOSE_WAIT); one
//!   that is not orderly raises `EstabResets` too.
//!
//! Where that is not enough, and what catches it:
//!
//! - `CurrEstab` is a level: an end and an accepted or answered connection in the same tick cancel out. The accepted
//!   one shows in `PassiveOpens`. The answered one is ours and was in SYN_SENT: those are looked at in every tick, which
//!   shows their own end; that another's end cancelled against their success waits for the repair read.
//! - An attempt that its own process gives up (`close` in SYN_SENT) moves no counter: hence the look in every tick.
//! - A peer's FIN (ESTABLISHED to CLOSE_WAIT) moves nothing; the end will lower `CurrEstab`, and those in CLOSE_WAIT
//!   are about to end, so they are looked at in every tick as well.
//! - A change of owner (fork, descriptor passed on) moves no counter: it is seen at the next look.
//!
//! Where SYNs tell of every open to a watched port (`Opens::Noticed`), an open that was counted and told needs no reading,
//! and one that was only counted is another port's, or was missed: it is read for as soon as 1/100 of a core allows.
//!
//! Where each open was seen by the program in the kernel (`Opens::Seen`), whatever its port, none calls for a reading.
//!
//! What stays is seen by the repair read, at the latest one repair interval later.

use std::time::Duration;

use crate::proc::Counters;

/// At most this share of a core goes into reads that no open asked for: 1/100.
const SHARE: u32 = 100;
/// The repair read comes every 1,000 times its own cost: 1/1,000 of a core.
const REPAIR_FACTOR: u32 = 1_000;
/// And never more often than this ...
pub const REPAIR_LEAST: Duration = Duration::from_secs(1);
/// ... nor less often.
pub const REPAIR_MOST: Duration = Duration::from_secs(120);
/// What may be saved up, so that an end after a quiet time is confirmed at once.
const SAVED_MOST: Duration = Duration::from_millis(100);

/// What the counters say of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing moved.
    Quiet,
    /// Something other than an outbound open happened in this tick: look at the followed connections.
    Look,
    /// Nothing moved now, but something that moved earlier has not been explained.
    Unexplained,
    /// An outbound open happened, or a repair is due: read the tables.
    Read,
}

/// How an outbound open is learned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// By `ActiveOpens` alone.
    Counted,
    /// Those of watched ports by their SYN; `ActiveOpens` counts those of all ports.
    Noticed,
    /// As many as it counts were seen, and of those that are watched it is told.
    Seen,
}

/// Counters of the last tick, and the purse that pays for unasked reads.
#[derive(Debug, Default)]
pub struct Gate {
    last: Option<Counters>,
    /// Counters of the tick before.
    before: Option<Counters>,
    /// Counters at the last table read.
    at_read: Option<Counters>,
    repair_due: Duration,
    read_cost: Duration,
    /// True from a verdict to read until the tables have been read: a failed read is made again.
    read_wanted: bool,
    /// True while something moved that no look and no read has explained, or a close waits to be confirmed.
    unexplained: bool,
    /// True while an end may not have been told that is told elsewhere: nobody may rely on it.
    unsure: bool,
    /// `EstabResets` when all was explained.
    resets_explained: u64,
    /// Opens that were counted and that no SYN has told yet; and how many SYNs told since the last tick.
    owed: u64,
    noticed: u64,
    /// True while some of them are of other ports, or were missed.
    strange: bool,
    /// True if sockets that were accepted are followed too, and while one was counted that no reading has shown.
    follows_accepted: bool,
    accepted: bool,
    saved: Duration,
    saved_at: Duration,
    /// Other namespaces: the shares of a core are those of all together.
    others: u32,
}

impl Gate {
    /// So many other namespaces are watched beside this one.
    pub fn share_with(&mut self, others: usize) {
        self.others = u32::try_from(others).unwrap_or(u32::MAX);
    }

    /// Sockets that were accepted are followed too: their counter calls for a reading, within the share.
    pub fn follow_accepted(&mut self, follow: bool) {
        self.follows_accepted = follow;
    }

    /// A socket was seen that its listener's process has not taken yet.
    pub fn note_accepted(&mut self) {
        self.accepted = true;
    }

    /// Takes this tick's counters. `at`: time since boot.
    pub fn judge(&mut self, now: Counters, at: Duration, opens: Opens) -> Verdict {
        // They never fall: these are another namespace's, which was given the number of one that is gone.
        if self.last.is_some_and(|last| now.active_opens < last.active_opens) {
            (self.last, self.at_read) = (None, None);
        }
        self.before = self.last;
        let Some(last) = self.last.replace(now) else {
            self.read_wanted = true;
            return Verdict::Read;
        };
        self.saved += at.saturating_sub(self.saved_at) / SHARE / self.others.saturating_add(1);
        self.saved = self.saved.min(SAVED_MOST.max(self.read_cost * 3));
        self.saved_at = at;
        let opened = now.active_opens.wrapping_sub(last.active_opens);
        self.read_wanted |= at >= self.repair_due;
        self.accepted |= self.follows_accepted && now.passive_opens != last.passive_opens;
        self.read_wanted = self.read_wanted || self.accepted && self.pay(self.read_cost);
        match opens {
            Opens::Counted => self.read_wanted |= opened > 0,
            Opens::Noticed => {
                // Those of the tick before have had time to be told.
                let late = self.owed.saturating_sub(self.noticed);
                self.owed = self.owed.saturating_add(opened).saturating_sub(self.noticed);
                self.strange |= late > 0;
            }
            Opens::Seen => self.owed = 0,
        }
        self.noticed = 0;
        // What is unreachable tells nothing of its own: the attempt's failure moves another counter.
        let moved = Counters { unreachable: last.unreachable, ..now } != last;
        self.unexplained |= moved;
        match (self.read_wanted, moved, self.unexplained) {
            (true, ..) => Verdict::Read,
            (_, true, _) => Verdict::Look,
            (_, _, true) => Verdict::Unexplained,
            _ => Verdict::Quiet,
        }
    }

    /// A SYN told of an open that is counted too.
    pub fn note_open(&mut self) {
        self.noticed = self.noticed.saturating_add(1);
    }

    /// True while an open was counted that no SYN told: to another port, or missed. What it is a reading tells; where
    /// SYNs tell of all that is watched there is no hurry.
    #[must_use]
    pub fn is_strange(&self) -> bool {
        self.strange
    }

    /// The next tick must look at what is followed: an end may have been lost that no counter will tell again.
    pub fn want_look(&mut self) {
        self.unexplained = true;
    }

    /// An end was not told, of whichever connection: every followed one must be looked at.
    pub fn want_look_at_all(&mut self) {
        self.want_look();
        self.unsure = true;
    }

    /// True until that has been done.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// The next tick must read.
    pub fn want_read(&mut self) {
        self.read_wanted = true;
    }

    /// True if an unasked read or look that costs this much fits the share; then it is paid.
    pub fn pay(&mut self, cost: Duration) -> bool {
        let enough = self.saved >= cost;
        if enough {
            self.saved -= cost;
        }
        enough
    }

    /// What the last table read cost.
    #[must_use]
    pub fn read_cost(&self) -> Duration {
        self.read_cost
    }

    /// A table read has been made: everything up to here is explained, unless a close still waits to be confirmed.
    pub fn has_read(&mut self, at: Duration, cost: Duration, unconfirmed: bool) {
        self.read_cost = cost;
        let all = REPAIR_FACTOR.saturating_mul(self.others.saturating_add(1));
        self.repair_due = at + cost.saturating_mul(all).clamp(REPAIR_LEAST, REPAIR_MOST);
        self.explained();
        self.unexplained = unconfirmed;
        self.read_wanted = false;
        (self.owed, self.noticed, self.strange, self.accepted) = (0, 0, false, false);
        self.at_read = self.last;
    }

    /// Every followed connection has been looked at: what moved was not theirs, or has been told.
    pub fn explained(&mut self) {
        (self.unexplained, self.unsure) = (false, false);
        self.resets_explained = self.last.map_or(0, |last| last.estab_resets);
    }

    /// True if a connection was reset and that has not been explained.
    #[must_use]
    pub fn has_resets(&self) -> bool {
        self.last.is_some_and(|last| last.estab_resets != self.resets_explained)
    }

    /// Counters of the last tick.
    #[must_use]
    pub fn counters(&self) -> Option<Counters> {
        self.last
    }

    /// How much the counters that tell of failure rose since the last table read. `now` is read after the table:
    /// a row that is absent may have failed while the table was walked.
    #[must_use]
    pub fn failures(&self, now: Counters) -> Failures {
        Failures::between(self.at_read, now)
    }

    /// The same since the tick before this one, in which a connection that is looked at in every tick still stood.
    #[must_use]
    pub fn new_failures(&self, now: Counters) -> Failures {
        Failures::between(self.before.or(self.at_read), now)
    }
}

/// Failures that the kernel counted, of all connections of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Failures {
    /// Attempts that failed.
    pub attempts: u64,
    /// Connections that ended without an orderly end.
    pub resets: u64,
    /// Messages that something cannot be reached.
    pub unreachable: u64,
}

impl Failures {
    fn between(then: Option<Counters>, now: Counters) -> Self {
        let Some(then) = then else { return Self::default() };
        Self {
            attempts: now.attempt_fails.wrapping_sub(then.attempt_fails),
            resets: now.estab_resets.wrapping_sub(then.estab_resets),
            unreachable: now.unreachable.wrapping_sub(then.unreachable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const COST: Duration = Duration::from_millis(7);

    fn after_a_read() -> (Gate, Counters) {
        let mut gate = Gate::default();
        let counters = Counters { curr_estab: 5, ..Counters::default() };
        assert_eq!(gate.judge(counters, Duration::ZERO, Opens::Counted), Verdict::Read);
        gate.has_read(Duration::ZERO, COST, false);
        (gate, counters)
    }

    #[test]
    fn what_does_not_move_is_not_read() {
        let (mut gate, counters) = after_a_read();
        for tick in 1..139 {
            assert_eq!(gate.judge(counters, MS * 50 * tick, Opens::Counted), Verdict::Quiet);
        }
        assert_eq!(gate.judge(counters, MS * 7_000, Opens::Counted), Verdict::Read, "the repair");
    }

    #[test]
    fn an_open_is_read_at_once_and_an_end_is_looked_at() {
        let (mut gate, mut counters) = after_a_read();
        counters.curr_estab -= 1;
        assert_eq!(gate.judge(counters, MS * 50, Opens::Counted), Verdict::Look);
        assert_eq!(gate.judge(counters, MS * 100, Opens::Counted), Verdict::Unexplained);
        counters.active_opens += 1;
        assert_eq!(gate.judge(counters, MS * 150, Opens::Counted), Verdict::Read);
        gate.has_read(MS * 150, COST, false);
        assert_eq!(gate.judge(counters, MS * 200, Opens::Counted), Verdict::Quiet);
    }

    #[test]
    fn unasked_reads_cost_one_percent_of_a_core() {
        let (mut gate, mut counters) = after_a_read();
        let mut paid = Duration::ZERO;
        for tick in 1..=12_000 {
            counters.passive_opens += 1;
            gate.judge(counters, MS * 50 * tick, Opens::Counted);
            if gate.pay(COST) {
                paid += COST;
            }
        }
        let share = paid.as_secs_f64() / 600.0;
        assert!((0.0099..0.0103).contains(&share), "{share}");
    }

    #[test]
    fn opens_that_syns_tell_of_are_not_read_for_and_others_without_hurry() {
        let (mut gate, mut counters) = after_a_read();
        let mut tick = 0;
        let mut judge = |gate: &mut Gate, opened: u64, noticed: u64| {
            tick += 1;
            counters.active_opens += opened;
            (0..noticed).for_each(|_| gate.note_open());
            assert_ne!(gate.judge(counters, MS * 50 * tick, Opens::Noticed), Verdict::Read);
            gate.is_strange()
        };
        assert!(!judge(&mut gate, 3, 3));
        assert!(!judge(&mut gate, 1, 0), "its SYN may be on its way");
        assert!(!judge(&mut gate, 0, 1));
        assert!(!judge(&mut gate, 0, 1), "a SYN that came before its count");
        assert!(!judge(&mut gate, 2, 0));
        assert!(judge(&mut gate, 0, 1), "one was told, the other is strange");
        assert!(judge(&mut gate, 0, 0));
        gate.has_read(MS * 1_000, COST, false);
        assert!(!judge(&mut gate, 0, 0));
        assert!(!judge(&mut gate, 5, 0));
        for tick in 60..70 {
            counters.active_opens += 9;
            assert_ne!(gate.judge(counters, MS * 50 * tick, Opens::Seen), Verdict::Read);
            assert!(!gate.is_strange(), "the program saw them");
        }
    }

    #[test]
    fn the_repair_interval_has_both_bounds() {
        let (mut gate, counters) = after_a_read();
        gate.has_read(Duration::ZERO, Duration::from_micros(3), false);
        assert_eq!(gate.judge(counters, MS * 999, Opens::Counted), Verdict::Quiet);
        assert_eq!(gate.judge(counters, MS * 1_000, Opens::Counted), Verdict::Read);
        gate.has_read(Duration::ZERO, Duration::from_secs(9), false);
        assert_eq!(gate.judge(counters, MS * 119_999, Opens::Counted), Verdict::Quiet);
        assert_eq!(gate.judge(counters, MS * 120_000, Opens::Counted), Verdict::Read);
    }

    #[test]
    fn counters_that_fall_are_anothers_and_tell_of_no_failure() {
        let (mut gate, mut counters) = after_a_read();
        counters.active_opens = 9;
        gate.judge(counters, MS * 50, Opens::Counted);
        gate.has_read(MS * 50, COST, false);
        let another = Counters { attempt_fails: 3, ..Counters::default() };
        assert_eq!(gate.judge(another, MS * 100, Opens::Counted), Verdict::Read);
        assert_eq!(gate.failures(another), Failures::default());
    }

    #[test]
    fn many_namespaces_share_what_one_may_cost() {
        let (mut gate, mut counters) = after_a_read();
        gate.share_with(9);
        gate.has_read(Duration::ZERO, COST, false);
        assert_eq!(gate.judge(counters, MS * 69_999, Opens::Counted), Verdict::Quiet);
        assert_eq!(gate.judge(counters, MS * 70_000, Opens::Counted), Verdict::Read, "the repair");
        gate.has_read(MS * 70_000, COST, false);
        while gate.pay(COST) {}
        counters.passive_opens += 1;
        gate.judge(counters, MS * 76_000, Opens::Counted);
        assert!(!gate.pay(COST));
        gate.judge(counters, MS * 77_000, Opens::Counted);
        assert!(gate.pay(COST), "7 ms in 7 s");
    }

    #[test]
    fn failures_are_counted_from_the_last_read() {
        let (mut gate, mut counters) = after_a_read();
        counters.attempt_fails += 2;
        gate.judge(counters, MS * 50, Opens::Counted);
        assert_eq!(gate.failures(counters), Failures { attempts: 2, ..Failures::default() });
        gate.has_read(MS * 50, COST, false);
        assert_eq!(gate.failures(counters), Failures::default());
    }

    #[test]
    fn after_an_end_that_was_not_told_nobody_is_relied_on_until_all_were_looked_at() {
        let (mut gate, counters) = after_a_read();
        assert!(!gate.is_unsure());
        gate.want_look_at_all();
        assert!(gate.is_unsure());
        assert_eq!(gate.judge(counters, 2 * COST, Opens::Noticed), Verdict::Unexplained);
        gate.explained();
        assert!(!gate.is_unsure());
        gate.want_look_at_all();
        gate.has_read(3 * COST, COST, false);
        assert!(!gate.is_unsure());
    }
}
