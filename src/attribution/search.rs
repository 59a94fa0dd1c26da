//! Who holds a socket: asked first of those who most likely do, within a budget, going on in the next tick.
//!
//! Order: the newest processes, by counting down from the last pid that the kernel gave out (0.1 ms whatever the
//! number of processes); those that were found to hold another socket lately; then all processes of the socket's user,
//! newest first; then all others; then threads that have a table of descriptors of their own. Newest is by distance
//! from the last pid, because pids wrap.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::connection::Inode;
use crate::proc::{Held, Proc, Sight};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These hold it; never empty.
    Holders(Vec<Holder>),
    /// Nobody can be named.
    Nobody(Reason),
}

/// How many pids below the last one are tried first, and for how long at most.
const NEWEST: u32 = 32;
const NEWEST_TIME: Duration = Duration::from_millis(2);

/// As many ancestors are asked at once.
const MOST_ABOVE: usize = 8;

/// As many who were found lately are remembered.
const LATELY: usize = 32;

/// Searches that are under way.
#[derive(Debug, Default)]
pub struct Search {
    wanted: HashMap<Inode, u32>,
    walk: Option<Walk>,
    /// Who was found lately, the last one first: a program that keeps making connections is found without a walk.
    lately: VecDeque<u32>,
    /// From `Proc::pid_max`, once.
    pid_max: u32,
}

/// One pass over all processes.
#[derive(Debug)]
struct Walk {
    /// What this pass must find; what was added later needs a pass of its own.
    covers: Vec<Inode>,
    stage: Stage,
    queue: VecDeque<u32>,
    later: Vec<u32>,
    /// Threads of the process that the last stage is at.
    threads: Vec<(u32, u32)>,
    denied: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Newest first: those of the right users are looked at, the others put aside.
    Users,
    /// Those put aside.
    Others,
    /// All once more, thread by thread.
    Threads,
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
            self.try_newest(proc, clock, &mut found);
            self.try_lately(proc, &mut found);
        }
        while self.is_under_way() && clock() < until {
            self.step(proc, &mut found);
        }
        for pid in found.values().filter_map(Found::first_pid) {
            self.lately.retain(|known| *known != pid);
            self.lately.push_front(pid);
        }
        self.lately.truncate(LATELY);
        if !self.is_under_way() {
            // What it left to do is no start for the next, which begins with the newest again.
            self.walk = None;
            // A start may have asked for tens of thousands at once.
            self.wanted.shrink_to(64);
        }
        found
    }

    fn try_lately(&mut self, proc: &Proc, found: &mut HashMap<Inode, Found>) {
        for pid in self.lately.clone() {
            if self.is_under_way() {
                self.ask(proc, pid, None, found);
            }
        }
    }

    fn try_newest(&mut self, proc: &Proc, clock: &dyn Fn() -> Duration, found: &mut HashMap<Inode, Found>) {
        let Some(last) = proc.last_pid() else { return };
        let until = clock() + NEWEST_TIME;
        for back in 0..NEWEST {
            if !self.is_under_way() || clock() >= until {
                return;
            }
            if let Some(pid) = last.checked_sub(back).filter(|pid| *pid > 0) {
                self.ask(proc, pid, None, found);
            }
        }
    }

    /// Looks at one process of the pass that is under way, or begins one.
    fn step(&mut self, proc: &Proc, found: &mut HashMap<Inode, Found>) {
        let Some(mut walk) = self.walk.take().or_else(|| self.begin(proc)) else {
            // The root cannot be listed: nothing can be said of anyone.
            let denied = |(inode, _)| (inode, Found::Nobody(Reason::Denied));
            found.extend(self.wanted.drain().map(denied));
            return;
        };
        match (walk.threads.pop(), walk.stage) {
            (Some((pid, tid)), _) => {
                self.ask(proc, pid, Some(tid), found);
            }
            (None, stage) => match (walk.queue.pop_front(), stage) {
                (None, _) => return self.next_stage(proc, walk, found),
                (Some(pid), Stage::Users) if !self.is_users(proc, pid) => walk.later.push(pid),
                (Some(pid), Stage::Threads) => walk.threads = threads_beside(proc, pid),
                (Some(pid), _) => walk.denied |= self.ask(proc, pid, None, found) == Asked::Denied,
            },
        }
        self.walk = Some(walk);
    }

    fn begin(&mut self, proc: &Proc) -> Option<Walk> {
        Some(Walk {
            covers: self.wanted.keys().copied().collect(),
            stage: Stage::Users,
            queue: self.newest_first(proc)?,
            later: Vec::new(),
            threads: Vec::new(),
            denied: false,
        })
    }

    fn newest_first(&mut self, proc: &Proc) -> Option<VecDeque<u32>> {
        if self.pid_max == 0 {
            self.pid_max = proc.pid_max().max(1);
        }
        let mut pids = proc.pids().ok()?;
        let last = proc.last_pid().or_else(|| pids.last().copied()).unwrap_or(0);
        let age = |pid: u32| (i64::from(last) - i64::from(pid)).rem_euclid(i64::from(self.pid_max));
        pids.sort_by_key(|pid| age(*pid));
        Some(pids.into())
    }

    fn next_stage(&mut self, proc: &Proc, mut walk: Walk, found: &mut HashMap<Inode, Found>) {
        walk.stage = match walk.stage {
            Stage::Users => {
                walk.queue = std::mem::take(&mut walk.later).into();
                Stage::Others
            }
            Stage::Others => {
                walk.queue = self.newest_first(proc).unwrap_or_default();
                Stage::Threads
            }
            Stage::Threads => {
                let reason = if walk.denied { Reason::Denied } else { Reason::NoHolder };
                let gone = walk.covers.into_iter().filter(|inode| self.wanted.remove(inode).is_some());
                found.extend(gone.map(|inode| (inode, Found::Nobody(reason))));
                return;
            }
        };
        self.walk = Some(walk);
    }

    fn is_users(&self, proc: &Proc, pid: u32) -> bool {
        // A process that may not be dumped belongs to root here, whoever runs it: it comes later, and is not missed.
        proc.uid_of(pid).is_some_and(|uid| self.wanted.values().any(|wanted| *wanted == uid))
    }

    fn ask(&mut self, proc: &Proc, pid: u32, tid: Option<u32>, found: &mut HashMap<Inode, Found>) -> Asked {
        let Ok(held) = proc.hold(pid) else { return Asked::Answered };
        let wanted = &mut self.wanted;
        let outcome = proc.read_sockets(&held, tid, |holder, inode| {
            if wanted.remove(&inode).is_some() {
                found.insert(
                    inode,
                    Found::Holders(with_ancestors(proc, of_process(proc, &held, holder, inode), inode)),
                );
            }
            !wanted.is_empty()
        });
        match outcome {
            Err(e) if !e.is_gone() => Asked::Denied,
            _ => Asked::Answered,
        }
    }
}

impl Found {
    fn first_pid(&self) -> Option<u32> {
        match self {
            Self::Holders(holders) => holders.first().map(|holder| holder.pid),
            Self::Nobody(_) => None,
        }
    }
}

/// Counting down from the last pid meets threads too: they bear numbers of the same row, and `/proc` answers to them
/// without listing them. The holder is their process, by its own table or by the thread's.
fn of_process(proc: &Proc, held: &Held, holder: Holder, inode: Inode) -> Holder {
    let process = proc.process_of(held).unwrap_or(held.pid);
    if process == held.pid {
        return holder;
    }
    let shared = Holder { pid: process, ..holder };
    let shares = proc.hold(process).is_ok_and(|process| proc.look(&process, shared, inode) == Sight::Stands);
    if shares { shared } else { Holder { tid: Some(held.pid), ..shared } }
}

/// A newborn that was met first may be gone before it is read: who handed the socket down to it is asked at once.
fn with_ancestors(proc: &Proc, holder: Holder, inode: Inode) -> Vec<Holder> {
    let parent = |pid| proc.hold(pid).and_then(|held| proc.parent_of(&held)).unwrap_or(0);
    let holds = |pid| {
        let holder = Holder { pid, tid: None, ..holder };
        let stands = proc.hold(pid).is_ok_and(|held| proc.look(&held, holder, inode) == Sight::Stands);
        stands.then_some(holder)
    };
    let mut holders = vec![holder];
    let mut above = parent(holder.pid);
    while let Some(holder) = holds(above).filter(|_| holders.len() < MOST_ABOVE) {
        holders.push(holder);
        above = parent(holder.pid);
    }
    holders
}

/// All threads but the main one. Only a thread with a table of its own can show what its process did not; which one
/// has, no file tells.
fn threads_beside(proc: &Proc, pid: u32) -> Vec<(u32, u32)> {
    let threads = proc.hold(pid).map(|held| proc.threads_of(&held)).unwrap_or_default();
    threads.into_iter().filter(|tid| *tid != pid).map(|tid| (pid, tid)).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Answered,
    Denied,
}
