//! Who holds a socket: asked first of those who most likely do, within a budget, going on in the next tick.
//!
//! Order: the newest processes, by counting down from the last pid that the kernel gave out (0.1 ms whatever the
//! number of processes); those that were found to hold another socket lately; then the walk (`walk`).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::walk::Walk;
use crate::connection::Inode;
use crate::proc::{Descriptor, Held, Proc, Sight, Table};
use crate::process::{Holder, Reason};

/// A socket whose holder is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The socket.
    pub inode: Inode,
    /// Who created it.
    pub uid: u32,
}

/// What a search came to.
#[derive(Debug, Clone)]
pub enum Found {
    /// These hold it; never empty. The process of the first, as it was held when it was seen with the socket: what is
    /// read through that is the holder's, even if it has let go of the socket since.
    Holders(Vec<Holder>, Option<Rc<Held>>),
    /// Nobody can be named.
    Nobody(Reason),
}

/// How many pids below the last one are tried first, of which so many may exist, and for how long at most.
const NEWEST: usize = 256;
const NEWEST_ASKED: usize = 32;
const NEWEST_TIME: Duration = Duration::from_millis(2);

/// So many descriptors of one process are looked at before the walk, which looks at all: nobody's table may hold up the
/// search for others. Newborns have few.
const FEW: usize = 256;
const MANY: usize = 2_048;

/// When pids start again at the bottom, the kernel keeps those below for what started first (`RESERVED_PIDS`).
const RESERVED: u32 = 300;

/// As many holders of one search are kept held.
const MOST_MET: usize = 64;

/// As many ancestors are asked at once.
const MOST_ABOVE: usize = 32;

/// As many who were found lately are remembered.
const LATELY: usize = 32;

/// So many walks among users' own processes go on beside each other; where there are more users, the last is of all the
/// rest of them.
const MOST_WALKS: usize = 8;

/// Searches that are under way.
#[derive(Debug, Default)]
pub struct Search {
    wanted: HashMap<Inode, u32>,
    /// Those of users, each by itself: nobody's crowd may hold up the search for another's socket. One is of everybody.
    walks: Vec<Walk>,
    /// What none of them covers: sockets that are new, by user, and those that no process of their user's holds.
    unwalked: BTreeMap<u32, Vec<Inode>>,
    unowned: Vec<Inode>,
    /// Steps that were taken for each user, as long as anything is searched for; `None`: for all together.
    accounts: BTreeMap<Option<u32>, u64>,
    /// Who was found lately, the last one first: a program that keeps making connections is found without a walk.
    lately: VecDeque<u32>,
    /// True if it was one of these who answered last: then they are asked before the newest.
    lately_answered: bool,
    /// From `Proc::pid_max`, once.
    pid_max: u32,
}

/// What is wanted, and what was found of it.
pub(super) struct Quest<'a> {
    pub(super) proc: &'a Proc,
    pub(super) wanted: &'a mut HashMap<Inode, u32>,
    pub(super) found: &'a mut HashMap<Inode, Found>,
}

/// The order of pids by age.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ages {
    last: u32,
    pid_max: u32,
}

impl Search {
    /// True if something is still being searched for.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Gives up on a socket.
    pub fn forget(&mut self, inode: Inode) {
        self.wanted.remove(&inode);
    }

    /// Adds what is wanted and searches until `clock` passes `until`. What was found or is known not to be there is
    /// answered; the rest is gone on with in the next call.
    pub fn run(
        &mut self,
        proc: &Proc,
        new: &[Wanted],
        clock: &dyn Fn() -> Duration,
        until: Duration,
    ) -> HashMap<Inode, Found> {
        let mut found = HashMap::new();
        if !new.is_empty() {
            self.wanted.extend(new.iter().map(|w| (w.inode, w.uid)));
            self.try_likely(proc, clock, until, &mut found);
            for new in new.iter().filter(|new| self.wanted.contains_key(&new.inode)) {
                self.unwalked.entry(new.uid).or_default().push(new.inode);
            }
        }
        if self.is_under_way() {
            self.go_on_walking(proc, clock, until, &mut found);
        }
        for pid in found.values().filter_map(Found::first_pid) {
            self.lately.retain(|known| *known != pid);
            self.lately.push_front(pid);
        }
        self.lately.truncate(LATELY);
        if !self.is_under_way() {
            // What it left to do is no start for the next, which begins with the newest again.
            (self.walks, self.unwalked, self.unowned, self.accounts) = Default::default();
            // A start may have asked for tens of thousands at once.
            self.wanted.shrink_to(64);
        }
        found
    }

    fn try_likely(
        &mut self,
        proc: &Proc,
        clock: &dyn Fn() -> Duration,
        until: Duration,
        found: &mut HashMap<Inode, Found>,
    ) {
        let before = self.lately_answered;
        for lately in [before, !before] {
            if !self.is_under_way() {
                return;
            }
            let quest = &mut Quest { proc, wanted: &mut self.wanted, found };
            if lately {
                self.lately.retain(|pid| proc.may_exist(*pid));
                quest.ask_each(&self.lately, clock, until);
            } else if let Some(ages) = Ages::now(proc, &mut self.pid_max) {
                quest.ask_newest(ages, clock, until.min(clock() + NEWEST_TIME));
            }
            if !self.is_under_way() {
                self.lately_answered = lately;
            }
        }
    }

    fn go_on_walking(
        &mut self,
        proc: &Proc,
        clock: &dyn Fn() -> Duration,
        until: Duration,
        found: &mut HashMap<Inode, Found>,
    ) {
        self.begin_walks(proc);
        while !self.wanted.is_empty() && clock() < until {
            // Whoever has been searched for least goes first.
            let next = (0..self.walks.len()).min_by_key(|i| self.walks.get(*i).map(|walk| walk.steps));
            let Some(next) = next else {
                // The root cannot be listed: nothing can be said of anyone.
                let denied = |(inode, _)| (inode, Found::Nobody(Reason::Denied));
                found.extend(self.wanted.drain().map(denied));
                return;
            };
            let mut walk = self.walks.swap_remove(next);
            let mut quest = Quest { proc, wanted: &mut self.wanted, found };
            if walk.step(&mut quest) && !walk.has_found_all(&self.wanted) {
                self.walks.push(walk);
                continue;
            }
            for account in accounts_of(&walk.users) {
                self.accounts.insert(account, walk.steps);
            }
            self.unowned.extend(walk.into_left());
            self.begin_walks(proc);
        }
    }

    /// For what no walk covers, unless one of the same user's is under way: that comes to its end before.
    fn begin_walks(&mut self, proc: &Proc) {
        let Self { wanted, walks, unwalked, unowned, accounts, pid_max, .. } = self;
        let is_wanted = |inode: &Inode| wanted.contains_key(inode);
        let (mut waiting, mut new) = (BTreeMap::new(), Vec::new());
        let room = MOST_WALKS.saturating_sub(walks.len());
        for (uid, mut covers) in std::mem::take(unwalked) {
            covers.retain(is_wanted);
            if room == 0 || walks.iter().any(|walk| walk.users.contains(&uid)) {
                waiting.insert(uid, covers);
            } else if covers.is_empty() {
                continue;
            } else if new.len() < room {
                new.push((HashSet::from([uid]), covers));
            } else if let Some((users, shared)) = new.last_mut() {
                users.insert(uid);
                shared.extend(covers);
            }
        }
        *unwalked = waiting;
        if !walks.iter().any(|walk| walk.users.is_empty()) {
            unowned.retain(is_wanted);
            new.extend((!unowned.is_empty()).then(|| (HashSet::new(), std::mem::take(unowned))));
        }
        let ages = if new.is_empty() { None } else { Ages::now(proc, pid_max) };
        walks.extend(new.into_iter().filter_map(|(users, covers)| {
            let steps = accounts_of(&users).iter().filter_map(|account| accounts.get(account)).max();
            Walk::begin(proc, users, covers, ages, steps.copied().unwrap_or(0))
        }));
    }
}

fn accounts_of(users: &HashSet<u32>) -> Vec<Option<u32>> {
    if users.is_empty() { vec![None] } else { users.iter().copied().map(Some).collect() }
}

impl Quest<'_> {
    fn ask_each(&mut self, pids: &VecDeque<u32>, clock: &dyn Fn() -> Duration, until: Duration) {
        for pid in pids {
            if self.wanted.is_empty() || clock() >= until {
                return;
            }
            if let Ok(held) = self.proc.hold(*pid) {
                self.ask(&held, MANY);
            }
        }
    }

    fn ask_newest(&mut self, ages: Ages, clock: &dyn Fn() -> Duration, until: Duration) {
        let mut asked = 0;
        // Numbers of threads are of the same row, and each shows the table of its process.
        let mut crowds: Vec<Held> = Vec::new();
        for pid in ages.downwards().take(NEWEST) {
            if self.wanted.is_empty() || asked == NEWEST_ASKED || clock() >= until {
                return;
            }
            if !self.proc.may_exist(pid) || crowds.iter().any(|crowd| self.proc.has_thread(crowd, pid)) {
                continue;
            }
            let Ok(held) = self.proc.hold(pid) else { continue };
            asked += 1;
            self.ask(&held, FEW);
            if !self.wanted.is_empty() && !self.proc.is_alone(&held) {
                crowds.push(held);
            }
        }
    }

    /// Looks at the first descriptors of a process.
    pub(super) fn ask(&mut self, held: &Held, most: usize) {
        if let Ok(mut table) = self.proc.open_table(held, None) {
            self.read(held, &mut table, most, |_, _| ());
        }
    }

    /// Looks at the next descriptors of a table; what is not wanted goes to `other`. False: nothing is left in it, or
    /// nothing is wanted any more.
    pub(super) fn read(
        &mut self,
        held: &Held,
        table: &mut Table,
        most: usize,
        mut other: impl FnMut(Holder, Descriptor),
    ) -> bool {
        for _ in 0..most {
            if self.wanted.is_empty() {
                return false;
            }
            let Some((holder, descriptor)) = self.proc.next_descriptor(held, table) else { return false };
            match descriptor {
                Descriptor::Socket(inode) if self.wanted.contains_key(&inode) => {
                    self.answer(held, holder, inode);
                }
                descriptor => other(holder, descriptor),
            }
        }
        true
    }

    /// A holder was met, who is held.
    pub(super) fn answer(&mut self, held: &Held, holder: Holder, inode: Inode) {
        if self.wanted.remove(&inode).is_some() {
            let holder = of_process(self.proc, held, holder, inode);
            // A start asks for tens of thousands at once, and nobody is in a hurry then: no descriptor for each.
            let is_met = holder.pid == held.pid && self.found.len() < MOST_MET;
            let met = if is_met { held.duplicate().map(Rc::new) } else { None };
            let above = self.proc.parent_of(held).unwrap_or(0);
            let holders = with_ancestors(self.proc, above, holder, inode);
            self.found.insert(inode, Found::Holders(holders, met));
        }
    }
}

impl Ages {
    pub(super) fn now(proc: &Proc, pid_max: &mut u32) -> Option<Self> {
        if *pid_max == 0 {
            *pid_max = proc.pid_max();
        }
        proc.last_pid().map(|last| Self { last, pid_max: (*pid_max).max(last.saturating_add(1)) })
    }

    /// Newest first: as far as pids were given out in one row, which starts again above the reserved ones.
    fn downwards(self) -> impl Iterator<Item = u32> {
        let Self { last, pid_max } = self;
        let bottom = if last < RESERVED { 1 } else { RESERVED };
        let again = if last < RESERVED { 0..0 } else { last + 1..pid_max };
        (bottom..=last).rev().chain(again.rev())
    }

    /// Smaller is newer.
    pub(super) fn of(self, pid: u32) -> u32 {
        let Self { last, pid_max } = self;
        match pid {
            _ if pid <= last && (pid >= RESERVED || last < RESERVED) => last - pid,
            _ if pid > last => (last + pid_max).saturating_sub(pid),
            // Never given out again, so the oldest.
            _ => pid_max.saturating_mul(2).saturating_sub(pid),
        }
    }
}

impl Found {
    fn first_pid(&self) -> Option<u32> {
        match self {
            Self::Holders(holders, _) => holders.first().map(|holder| holder.pid),
            Self::Nobody(_) => None,
        }
    }
}

/// Counting down from the last pid meets threads too: they bear numbers of the same row, and `/proc` answers to them
/// without listing them. The holder is their process, by its own table or by the thread's.
fn of_process(proc: &Proc, held: &Held, holder: Holder, inode: Inode) -> Holder {
    let process = proc.process_of(held).unwrap_or(held.pid);
    let tid = holder.tid.or((process != held.pid).then_some(held.pid));
    if tid.is_none() {
        return holder;
    }
    let shared = Holder { pid: process, tid: None, ..holder };
    let shares = proc.hold(process).is_ok_and(|process| proc.look(&process, shared, inode) == Sight::Stands);
    if shares { shared } else { Holder { tid, ..shared } }
}

/// A process of this parent that has just been read, if the socket is among its first descriptors, and who handed it down.
pub(super) fn holders_from(proc: &Proc, held: &Rc<Held>, parent: u32, inode: Inode) -> Option<Found> {
    let mut table = proc.open_table(held, None).ok()?;
    for _ in 0..MANY {
        let (holder, descriptor) = proc.next_descriptor(held, &mut table)?;
        if descriptor == Descriptor::Socket(inode) {
            let holders = with_ancestors(proc, parent, holder, inode);
            return Some(Found::Holders(holders, Some(Rc::clone(held))));
        }
    }
    None
}

/// A newborn that was met first may be gone before it is read: who handed the socket down to it is asked at once, up as
/// long as the parent holds it by the same number.
fn with_ancestors(proc: &Proc, mut above: u32, holder: Holder, inode: Inode) -> Vec<Holder> {
    let mut holders = vec![holder];
    while above != 0 && holders.len() < MOST_ABOVE {
        let Ok(held) = proc.hold(above) else { break };
        let holder = Holder { pid: above, tid: None, ..holder };
        if proc.look(&held, holder, inode) != Sight::Stands {
            break;
        }
        holders.push(holder);
        above = proc.parent_of(&held).unwrap_or(0);
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_first_goes_on_at_the_top_when_pids_started_again() {
        let ages = Ages { last: 302, pid_max: 32_768 };
        let order: Vec<u32> = ages.downwards().take(6).collect();
        assert_eq!(order, [302, 301, 300, 32_767, 32_766, 32_765]);
        let mut pids = [1, 299, 300, 302, 303, 5_000, 32_767];
        pids.sort_by_key(|pid| ages.of(*pid));
        assert_eq!(pids, [302, 300, 32_767, 5_000, 303, 299, 1], "what started first is the oldest");
    }

    #[test]
    fn pids_that_never_reached_the_reserved_ones_did_not_start_again() {
        let ages = Ages { last: 3, pid_max: 32_768 };
        assert_eq!(ages.downwards().collect::<Vec<_>>(), [3, 2, 1]);
    }
}
