//! From a socket's inode to its process, its ancestors and its user.
//!
//! Spells no path and treats a missing owner as an answer. The owner, by rule: of the processes that hold the socket,
//! the one that started first, of equals the lowest pid. Whoever forks after connecting is who connected: a shell's
//! background job that inherited its socket is not blamed for it. When the owner lets go, the rule is applied to those
//! who are left.

mod ancestors;
mod asked;
mod cache;
mod hold;
mod lineage;
mod opening;
mod search;
mod walk;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ancestors::Ancestors;
use cache::Memory;
pub use cache::{Execution, ExecutionEnd};
pub use hold::{Holds, MOST_HELD};
pub use search::{Found, Search, Wanted};

use crate::connection::{Inode, Moment};
use crate::hash::Hasher;
use crate::proc::{Depth, Held, Proc};
use crate::process::{Attribution, ChainCut, FileId, Hash, Holder, Lineage, Process, Reason};
use crate::secrets::Masker;
use crate::way::Origin;

/// Login name of a user id.
pub type UserNames = Box<dyn FnMut(u32) -> Option<Arc<str>>>;

/// Reads owners and shares what they have in common.
pub struct Attributor {
    masker: Masker,
    user_name: UserNames,
    processes: lineage::Shared<Process>,
    lineages: lineage::Shared<Lineage>,
    /// Holders that were read in this tick: a process with a thousand new connections is read once.
    this_tick: HashMap<u32, Rc<Known>>,
    /// Those that the kernel told of lately.
    openings: HashMap<u32, opening::Caller>,
    ancestors: Ancestors,
    memory: Memory,
    hasher: Hasher,
}

/// A process that holds a socket, as it was read in this tick.
struct Known {
    held: Rc<Held>,
    process: Arc<Process>,
    children: Vec<u32>,
    lineage: OnceCell<Arc<Lineage>>,
}

/// A holder, and the process that it is.
struct Candidate {
    holder: Holder,
    known: Rc<Known>,
}

impl Attributor {
    /// `user_name` may take its time: it is asked once for each process that is read.
    #[must_use]
    pub fn new(masker: Masker, user_name: UserNames) -> Self {
        Self {
            masker,
            user_name,
            processes: HashMap::new(),
            lineages: HashMap::new(),
            this_tick: HashMap::new(),
            openings: HashMap::new(),
            ancestors: Ancestors::default(),
            memory: Memory::default(),
            hasher: Hasher::default(),
        }
    }

    /// Owners' executables are hashed from now on, and the first hash of each waited for so long.
    pub fn hash(&mut self, wait: Duration) {
        self.hasher = Hasher::new(wait);
    }

    /// Hashes that have come since `Hash::Pending` was told of them.
    pub fn hashed(&mut self, proc: &Proc, at: Duration) -> Vec<(FileId, Hash)> {
        let came = self.hasher.take(proc, at);
        self.memory.hashed(&came);
        came
    }

    /// What was read before is old.
    pub fn begin_tick(&mut self) {
        self.this_tick.clear();
        self.ancestors.begin_tick();
    }

    /// Other secrets are masked from now on.
    pub fn set_masker(&mut self, masker: Masker) {
        self.masker = masker;
        self.openings.clear();
        self.ancestors.clear();
        self.memory.clear();
    }

    /// A process was made: it and its maker are read at once, 35 µs each, and remembered. `at`: time since boot.
    pub fn forked(&mut self, proc: &Proc, parent: u32, child: u32, at: Duration) {
        if !self.memory.knows(parent) {
            self.executed(proc, parent, at);
        }
        if let Some(process) = self.glance(proc, child) {
            self.memory.forked(parent, process, at);
        }
    }

    /// A process runs another program: which, unless it has ended by now.
    pub fn executed(&mut self, proc: &Proc, pid: u32, at: Duration) -> Option<Arc<Process>> {
        let process = self.glance(proc, pid)?;
        self.memory.changed(process, at);
        self.memory.get(pid).map(Arc::clone)
    }

    /// A process that was just told to run another program, with its ancestors.
    pub fn started(&mut self, proc: &Proc, noted: &Arc<Process>) -> Arc<Lineage> {
        // What was read of it in this tick was another program.
        self.this_tick.remove(&noted.pid);
        let lineage = self.lineage_of(proc, noted.pid);
        let lineage = lineage.filter(|lineage| lineage.process.start_ticks == noted.start_ticks);
        lineage.unwrap_or_else(|| self.remembered(noted))
    }

    /// Follows it until its end. False: too many are followed already, or it is not remembered.
    pub fn follow(&mut self, lineage: Arc<Lineage>, origin: Option<Arc<Origin>>, at: Moment) -> bool {
        self.memory.follow(lineage, origin, at)
    }

    /// A process by its number, with its ancestors, as they are now: 0.1 to 0.5 ms. `None`: gone.
    pub fn lineage_of(&mut self, proc: &Proc, pid: u32) -> Option<Arc<Lineage>> {
        self.begin_tick();
        let known = self.know(proc, Rc::new(proc.hold(pid).ok()?))?;
        Some(self.lineage(proc, &known))
    }

    /// One that is gone, as far as it is remembered.
    #[must_use]
    pub fn remembered_of(&self, pid: u32) -> Option<Arc<Lineage>> {
        self.memory.last(pid).map(|process| self.remembered(process))
    }

    /// The program that a followed process was is over: it runs another now.
    pub fn replaced(&mut self, pid: u32, at: Moment) -> Option<Execution> {
        self.memory.replaced(pid, at)
    }

    /// A connection was attributed to a process.
    pub fn connected(&mut self, process: &Process) {
        self.memory.connected(process);
    }

    /// Followed programs that are over.
    pub fn over(&mut self, at: Moment) -> Vec<Execution> {
        self.memory.over(at)
    }

    /// Notices were lost: which of those that are followed are gone by now?
    pub fn look_for_followed(&mut self, proc: &Proc, at: Moment) {
        for pid in self.memory.followed() {
            let now = self.glance(proc, pid);
            if !now.is_some_and(|now| self.memory.is_followed(&now)) {
                self.memory.vanished(pid, at);
            }
        }
    }

    /// Of one that has ended: itself, and those above it that are remembered.
    fn remembered(&self, process: &Arc<Process>) -> Arc<Lineage> {
        let (process, ancestry) = (Arc::clone(process), self.memory.ancestors(process));
        let hash = self.hasher.of_the_gone();
        Arc::new(Lineage { process, ancestry, cut: Some(ChainCut::Vanished), hash })
    }

    /// A process ended. For ten seconds more it stands in where a chain of ancestors misses it.
    pub fn exited(&mut self, pid: u32, status: Option<u32>, at: Moment) {
        self.memory.exited(pid, status, at);
    }

    fn glance(&mut self, proc: &Proc, pid: u32) -> Option<Process> {
        let held = proc.hold(pid).ok()?;
        self.read(proc, &held, Depth::Ancestor)
    }

    /// Login name of a user id.
    pub fn user_name(&mut self, uid: u32) -> Option<Arc<str>> {
        (self.user_name)(uid)
    }

    /// Reads the owner among the holders that a search found, its ancestors, and further holders among its descendants:
    /// a descriptor keeps its number across fork, so they are asked for that one alone.
    pub fn attribute(
        &mut self,
        proc: &Proc,
        inode: Inode,
        found: &Found,
        latency: Duration,
    ) -> (Attribution, Option<Rc<Held>>) {
        let (holders, met) = match found {
            Found::Holders(holders, met) => (holders, met.as_ref()),
            Found::Nobody(reason) => return (Attribution::Unknown(*reason), None),
        };
        let first = met.zip(holders.first()).map(|(met, holder)| self.met(proc, *holder, met, inode));
        let rest = holders.iter().skip(usize::from(first.is_some()));
        let mut candidates: Vec<Candidate> = first.flatten().into_iter().collect();
        candidates.extend(rest.filter_map(|holder| self.candidate(proc, *holder, inode)));
        let heirs: Vec<Holder> =
            candidates.iter().flat_map(|c| lineage::descendants(proc, c, inode)).collect();
        for holder in heirs {
            if !candidates.iter().any(|c| c.holder.pid == holder.pid) {
                candidates.extend(self.candidate(proc, holder, inode));
            }
        }
        let first = |c: &&Candidate| (c.known.process.start_ticks, c.known.process.pid);
        let Some(owner) = candidates.iter().min_by_key(first) else {
            return (Attribution::Unknown(Reason::HolderVanished), None);
        };
        let lineage = self.lineage(proc, &owner.known);
        let mut holders = vec![owner.holder];
        holders.extend(candidates.iter().map(|c| c.holder).filter(|h| h.pid != owner.holder.pid));
        (Attribution::Owned { lineage, holders: holders.into(), latency }, Some(Rc::clone(&owner.known.held)))
    }
}
