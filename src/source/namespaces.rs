//! Which network namespaces there are beside our own: found by the processes that live in them.
//!
//! Knows nothing of sockets, and reads no table. To ask every process at every tick where it lives is too dear (3 µs
//! each), so a look asks
//!
//! - those whose pids the kernel gave out since the last look (field 5 of `loadavg`): 3 µs if there are none, and 0.3 µs
//!   for each that has ended already;
//! - the young again, because a process moves only after its fork (unshare, `ip netns exec`, a container's first);
//! - all of them, a slice in each look, every 1,000 times what that costs: whoever moved later (setns), or was passed
//!   over by one of the bounds.
//!
//! A namespace is read through one of its processes. That one is held by its `/proc/PID`, which pins nothing; when it
//! ends or moves away, another of the same namespace takes its place.
//!
//! So a namespace is noticed within one polling interval of its first process (measured at 50 ms, 60 of 60: 23 ms in the
//! middle, 48 ms at most, for unshare, unshare with its own pids, and `ip netns exec`).
//!
//! What stays unseen: a namespace all of whose processes were made and ended between two looks; one that no process
//! lives in (kept by a mount or a descriptor) until one does; and a thread that moved away from its process alone, later
//! than the first second of its life.
//!
//! The kernel's notices of network devices (RTM_NEWLINK) would tell of a container when its cable is made. They are not
//! used: a container's first process is there before its cable and outlives a polling interval, and a command that is
//! run in a namespace that stands already, the one case that does fall between two looks, makes no cable.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::connection::Netns;
use crate::proc::{Held, Lives, Proc};

/// At most this share of the time since the last look goes into asking the new and the young: 1/200.
const NEW_SHARE: u32 = 200;
/// And this into a listing that is under way: 1/100.
const LISTING_SHARE: u32 = 100;
/// How many are asked between two looks at the clock.
const ASKED_AT_ONCE: u32 = 16;
/// A listing of all processes comes every 5,000 times its own cost: 1/5,000 of a core ...
const LISTING_FACTOR: u32 = 5_000;
/// ... or 1/200 where something is known to have been passed over.
const HURRIED_FACTOR: u32 = 200;
/// And never more often than this ...
const LISTING_LEAST: Duration = Duration::from_secs(1);
/// ... nor less often.
const LISTING_MOST: Duration = Duration::from_secs(120);
/// How long after a process was found it is asked again: some take their time before they move.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(200), Duration::from_millis(1_500)];
/// Only so many of the newest are asked again at the very next look: the kernel counts a pid as given out some 100 µs
/// before its process can be found, and a process that is to move mostly does so within milliseconds.
const NEWEST: usize = 8;
/// So many young ones are remembered.
const YOUNG_MOST: usize = 512;
/// Processes of one namespace that are remembered beside the held one.
const SPARE: usize = 4;
/// How often members are asked whether they still live there.
const VERIFY_EVERY: Duration = Duration::from_secs(1);
/// So many namespaces are followed: each costs a descriptor.
pub const MOST: usize = 1_000;

/// Namespaces other than our own that hold a process.
#[derive(Debug)]
pub struct Namespaces {
    own: Netns,
    found: BTreeMap<Netns, Members>,
    /// The last pid that was given out before the last look.
    newest: Option<u32>,
    young: VecDeque<Young>,
    listing: Listing,
    looked: Duration,
    verified: Duration,
    left_out: u64,
    changes: Changes,
}

/// What a look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Namespaces that hold a process now.
    pub appeared: Vec<Netns>,
    /// Namespaces in which no process is left.
    pub gone: Vec<Netns>,
}

#[derive(Debug, Default)]
struct Members {
    /// `None` after it was lost, until another is found.
    held: Option<Held>,
    /// Others that were seen there, the last seen at the end.
    spare: VecDeque<u32>,
    /// How many listings had begun when the last member was lost.
    lost_in: u64,
}

#[derive(Debug)]
struct Young {
    pid: u32,
    found: Duration,
    /// How often it was asked again: index into `AGAIN`.
    again: usize,
}

/// The listing of all processes: the one under way, or the last.
#[derive(Debug, Default)]
struct Listing {
    /// Those that are still to be asked; the newest last, to be asked first.
    left: Vec<u32>,
    under_way: bool,
    /// How many have begun.
    number: u64,
    begun: Duration,
    cost: Duration,
    wanted_soon: bool,
    /// Processes that may not be asked: so far, and in the last listing that was finished.
    refused: u64,
    denied: u64,
}

impl Members {
    fn keep_spare(&mut self, pid: u32) {
        let is_held = self.held.as_ref().is_some_and(|held| held.pid == pid);
        if is_held || self.spare.contains(&pid) {
            return;
        }
        self.spare.push_back(pid);
        if self.spare.len() > SPARE {
            self.spare.pop_front();
        }
    }
}

impl Listing {
    fn is_due(&self, at: Duration) -> bool {
        let factor = if self.wanted_soon { HURRIED_FACTOR } else { LISTING_FACTOR };
        self.number == 0 || at >= self.begun + (self.cost * factor).clamp(LISTING_LEAST, LISTING_MOST)
    }
}

/// CPU time that may still be spent.
struct Purse<'a> {
    cputime: &'a dyn Fn() -> Duration,
    /// `None` until the first is asked: the clock is not for nothing.
    begun: Option<Duration>,
    most: Duration,
    asked: u32,
    empty: bool,
}

impl<'a> Purse<'a> {
    fn new(cputime: &'a dyn Fn() -> Duration, most: Duration) -> Self {
        Self { cputime, begun: None, most, asked: 0, empty: false }
    }

    fn open(&mut self) {
        self.begun.get_or_insert_with(self.cputime);
    }

    /// True if one more may be asked.
    fn pays(&mut self) -> bool {
        self.open();
        self.asked += 1;
        if self.asked.is_multiple_of(ASKED_AT_ONCE) {
            self.empty = self.spent() > self.most;
        }
        !self.empty
    }

    fn spent(&self) -> Duration {
        self.begun.map(|begun| (self.cputime)().saturating_sub(begun)).unwrap_or_default()
    }
}

impl Namespaces {
    /// Knows none yet: the first look finds them all.
    #[must_use]
    pub fn new(own: Netns) -> Self {
        Self {
            own,
            found: BTreeMap::new(),
            newest: None,
            young: VecDeque::new(),
            listing: Listing::default(),
            looked: Duration::ZERO,
            verified: Duration::ZERO,
            left_out: 0,
            changes: Changes::default(),
        }
    }

    /// Asks the processes that are new since the last look, and some of all where that is due; all of them at the first
    /// look. `at`: time since boot. `cputime`: CPU clock of this thread, which bounds what is asked.
    pub fn look(&mut self, proc: &Proc, at: Duration, cputime: &dyn Fn() -> Duration) -> Changes {
        let first = self.listing.number == 0;
        let passed = at.saturating_sub(std::mem::replace(&mut self.looked, at));
        let share = |share| if first { Duration::MAX } else { passed / share };
        // Before all are listed: what is born meanwhile is new at the next look.
        let mut purse = Purse::new(cputime, share(NEW_SHARE));
        self.ask_new(proc, at, &mut purse);
        self.ask_young(proc, at, &mut purse);
        if at >= self.verified + VERIFY_EVERY {
            self.verified = at;
            self.verify(proc);
        }
        if self.listing.under_way || self.listing.is_due(at) {
            self.list(proc, at, &mut Purse::new(cputime, share(LISTING_SHARE)));
        }
        std::mem::take(&mut self.changes)
    }

    /// Asks one process now, because something else told of it.
    pub fn notice(&mut self, proc: &Proc, pid: u32) -> Changes {
        self.ask(proc, pid);
        std::mem::take(&mut self.changes)
    }

    /// A process that lives there, held. `None`: unknown, or lost and not replaced yet.
    #[must_use]
    pub fn member(&self, netns: Netns) -> Option<&Held> {
        self.found.get(&netns)?.held.as_ref()
    }

    /// True if the member of a namespace still lives there: 3 µs.
    ///
    /// To be asked after its tables were read and before they are believed: what a process that has moved shows is
    /// another namespace's.
    #[must_use]
    pub fn stands(&self, proc: &Proc, netns: Netns) -> bool {
        self.member(netns).is_some_and(|held| proc.held_lives(held) == Lives::In(netns))
    }

    /// The member has ended or moved: takes another. False if none is known; then all processes are asked soon, and the
    /// namespace is told as gone if none of them lives there.
    pub fn lost_member(&mut self, proc: &Proc, netns: Netns) -> bool {
        let number = self.listing.number;
        let Some(members) = self.found.get_mut(&netns) else { return false };
        if members.held.take().is_some() {
            members.lost_in = number;
        }
        while let Some(pid) = members.spare.pop_back() {
            members.held = hold_in(proc, netns, pid);
            if members.held.is_some() {
                return true;
            }
        }
        self.listing.wanted_soon = true;
        false
    }

    /// The namespaces, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Netns> {
        self.found.keys().copied()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// True if every process lives in our own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many processes could not be asked where they live, when all were last listed.
    #[must_use]
    pub fn denied(&self) -> u64 {
        self.listing.denied
    }

    /// How often a process was found in a namespace that is not followed, because there are too many or no descriptor
    /// was free.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn ask_new(&mut self, proc: &Proc, at: Duration, purse: &mut Purse<'_>) {
        let last = proc.last_pid();
        let before = std::mem::replace(&mut self.newest, last);
        let Some((last, before)) = last.zip(before) else {
            // Where `loadavg` is hidden nothing tells of the new ones: all are asked more often.
            self.listing.wanted_soon |= last.is_none();
            return;
        };
        for (back, pid) in given_out(before, last, || proc.pid_max()).enumerate() {
            if !purse.pays() {
                self.listing.wanted_soon = true;
                break;
            }
            let again = if back < NEWEST { 0 } else { 1 };
            match self.ask(proc, pid) {
                Lives::Denied => {}
                Lives::Gone if again > 0 => {}
                _ => self.remember(Young { pid, found: at, again }),
            }
        }
    }

    fn ask_young(&mut self, proc: &Proc, at: Duration, purse: &mut Purse<'_>) {
        for _ in 0..self.young.len() {
            let Some(mut young) = self.young.pop_front() else { break };
            let Some(age) = AGAIN.get(young.again) else { continue };
            if at < young.found + *age || !purse.pays() {
                self.young.push_back(young);
            } else if self.ask(proc, young.pid) != Lives::Gone {
                young.again += 1;
                self.young.push_back(young);
            }
        }
    }

    fn remember(&mut self, young: Young) {
        if self.young.len() >= YOUNG_MOST {
            self.young.pop_front();
            self.listing.wanted_soon = true;
        }
        self.young.push_back(young);
    }

    fn verify(&mut self, proc: &Proc) {
        let held: Vec<_> = self.found.iter().filter(|(_, m)| m.held.is_some()).map(|(n, _)| *n).collect();
        for netns in held {
            if !self.stands(proc, netns) {
                self.lost_member(proc, netns);
            }
        }
    }

    fn list(&mut self, proc: &Proc, at: Duration, purse: &mut Purse<'_>) {
        purse.open();
        if !self.listing.under_way {
            // A listing that fails is made again at the next look.
            let Ok(left) = proc.pids() else { return };
            let (number, denied) = (self.listing.number + 1, self.listing.denied);
            self.listing = Listing { left, under_way: true, number, begun: at, denied, ..Listing::default() };
        }
        while purse.pays() {
            let Some(pid) = self.listing.left.pop() else {
                self.finish_listing();
                break;
            };
            self.listing.refused += u64::from(self.ask(proc, pid) == Lives::Denied);
        }
        self.listing.cost += purse.spent();
    }

    fn finish_listing(&mut self) {
        self.listing.under_way = false;
        self.listing.denied = self.listing.refused;
        let number = self.listing.number;
        let is_gone = |_: &Netns, members: &mut Members| members.held.is_none() && members.lost_in < number;
        let gone = self.found.extract_if(.., is_gone);
        self.changes.gone.extend(gone.map(|(netns, _)| netns));
    }

    /// Asks one process, and takes it up if it lives in another namespace than ours.
    fn ask(&mut self, proc: &Proc, pid: u32) -> Lives {
        let lives = proc.lives(pid);
        if let Lives::In(netns) = lives
            && netns != self.own
        {
            self.take_up(proc, netns, pid);
        }
        lives
    }

    fn take_up(&mut self, proc: &Proc, netns: Netns, pid: u32) {
        let full = self.found.len() >= MOST;
        match self.found.get_mut(&netns) {
            Some(members) if members.held.is_some() => return members.keep_spare(pid),
            None if full => return self.left_out += 1,
            _ => {}
        }
        let Some(held) = hold_in(proc, netns, pid) else {
            // No descriptor was free, unless it has just moved or ended.
            self.left_out += u64::from(proc.lives(pid) == Lives::In(netns));
            return;
        };
        let members = self.found.entry(netns).or_insert_with(|| {
            self.changes.appeared.push(netns);
            Members::default()
        });
        members.held = Some(held);
    }
}

/// Holds a process if it lives there; for a thread its process, where that lives there too: it will live longer.
fn hold_in(proc: &Proc, netns: Netns, pid: u32) -> Option<Held> {
    let hold = |pid| proc.hold(pid).ok().filter(|held| proc.held_lives(held) == Lives::In(netns));
    let held = hold(pid)?;
    let whole = proc.process_of(&held).filter(|process| *process != pid).and_then(hold);
    Some(whole.unwrap_or(held))
}

/// The pids behind `before` up to `last`, the newest first. The kernel gives out each number below `pid_max` in its
/// turn and then begins anew.
fn given_out(before: u32, last: u32, pid_max: impl FnOnce() -> u32) -> impl Iterator<Item = u32> {
    let (low, high) = if last >= before { (before + 1, 0) } else { (1, pid_max()) };
    let high = if high == 0 { 0..0 } else { before + 1..high };
    (low..last.saturating_add(1)).rev().chain(high.rev())
}

#[cfg(test)]
mod tests;
