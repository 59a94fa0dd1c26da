//! Reading an owner and its ancestors, and keeping once what several of them share.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use super::ancestors::{Again, Link};
use super::{Attributor, Candidate, Known};
use crate::connection::Inode;
use crate::proc::{Depth, Held, Proc, ProcError, Sight};
use crate::process::{ChainCut, Holder, Lineage, Process};

/// The longest chain that is read. Real ones have about ten links.
const LONGEST_CHAIN: usize = 32;
/// As many relatives of a holder are asked for its descriptor.
const MOST_RELATIVES: usize = 128;

/// As many processes are held within a tick; a descriptor is spent on each.
const MOST_KNOWN: usize = 128;

/// What was read last of each pid. Only equal content is shared, so a reused pid cannot be confused.
pub(super) type Shared<T> = HashMap<u32, Weak<T>>;

impl Attributor {
    /// Reads a holder, unless it let go of the socket meanwhile.
    pub(super) fn candidate(&mut self, proc: &Proc, holder: Holder, inode: Inode) -> Option<Candidate> {
        let known = match self.this_tick.get(&holder.pid) {
            Some(known) => Rc::clone(known),
            None => self.know(proc, Rc::new(proc.hold(holder.pid).ok()?))?,
        };
        // After the reading: what was read is the holder's only if it holds the socket still.
        (proc.look(&known.held, holder, inode) != Sight::Gone).then_some(Candidate { holder, known })
    }

    /// Reads the holder through which the socket was found: a short-lived one may have let go of it by now, but what is
    /// read through the folder in which the socket was seen is that process's.
    pub(super) fn met(
        &mut self,
        proc: &Proc,
        holder: Holder,
        met: &Rc<Held>,
        inode: Inode,
    ) -> Option<Candidate> {
        if self.this_tick.contains_key(&holder.pid)
            && let Some(candidate) = self.candidate(proc, holder, inode)
        {
            return Some(candidate);
        }
        let known = self.know(proc, Rc::clone(met))?;
        Some(Candidate { holder, known })
    }

    pub(super) fn know(&mut self, proc: &Proc, held: Rc<Held>) -> Option<Rc<Known>> {
        let process = self.read(proc, &held, Depth::Owner)?;
        Some(self.note(proc, held, process))
    }

    /// Keeps for this tick what was read of a process.
    pub(super) fn note(&mut self, proc: &Proc, held: Rc<Held>, process: Process) -> Rc<Known> {
        let pid = held.pid;
        let process = share(&mut self.processes, process.pid, process);
        // Nobody has a child without a pid that was given out after its own.
        let is_last = proc.last_pid() == Some(pid);
        let children = if is_last { Vec::new() } else { proc.children_of(&held) };
        let known = Rc::new(Known { held, process, children, lineage: OnceCell::new() });
        if self.this_tick.len() >= MOST_KNOWN {
            self.this_tick.clear();
        }
        self.this_tick.insert(pid, Rc::clone(&known));
        known
    }

    pub(super) fn read(&mut self, proc: &Proc, held: &Held, depth: Depth) -> Option<Process> {
        proc.read_process(held, depth).ok().map(|process| self.told(process))
    }

    /// The same with the arguments that its process has now, where these are others: a server writes into them who logs
    /// in. `now`: as it was read.
    #[must_use]
    pub fn retitled(&self, lineage: &Lineage, mut now: Process) -> Option<Arc<Lineage>> {
        let redacted = self.masker.mask(&mut now.args);
        let old = &lineage.process;
        let is_same =
            (now.pid, now.start_ticks, &now.executable) == (old.pid, old.start_ticks, &old.executable);
        if !is_same || now.args.is_empty() || now.args == old.args {
            return None;
        }
        let Process { args, args_bytes, args_cut, .. } = now;
        let process = Process { args, args_bytes, args_cut, redacted, ..Process::clone(old) };
        Some(Arc::new(Lineage { process: Arc::new(process), ..lineage.clone() }))
    }

    /// The same with the name of its user, if that has come since it was read.
    #[must_use]
    pub fn named(&mut self, lineage: &Lineage) -> Option<Arc<Lineage>> {
        let ids = lineage.process.ids.filter(|_| lineage.process.user.is_none())?;
        (self.user_name)(ids.real_uid)?;
        let mut process = Process::clone(&lineage.process);
        self.name_users(&mut process);
        Some(Arc::new(Lineage { process: Arc::new(process), ..lineage.clone() }))
    }

    /// A process that was read, with its secrets masked and its users named.
    pub(super) fn told(&mut self, mut process: Process) -> Process {
        process.redacted = self.masker.mask(&mut process.args);
        self.name_users(&mut process);
        process
    }

    fn name_users(&mut self, process: &mut Process) {
        if let Some(ids) = process.ids {
            process.user = (self.user_name)(ids.real_uid);
            if ids.effective_uid != ids.real_uid {
                process.effective_user = (self.user_name)(ids.effective_uid);
            }
        }
        if let Some(login) = &mut process.login {
            login.user = (self.user_name)(login.uid);
        }
    }

    /// Reads the process that bears this number now, as a link of a chain.
    pub(super) fn ancestor(&mut self, proc: &Proc, pid: u32) -> Option<Link> {
        match self.ancestors.look(proc, pid) {
            Again::Same(link) if self.has_its_name(&link.process) => Some(link),
            // It was not known yet who that user is.
            Again::Same(link) => {
                let mut process = Process::clone(&link.process);
                self.name_users(&mut process);
                let process = share(&mut self.processes, pid, process);
                self.ancestors.learn(&process)
            }
            Again::Changed(process) => {
                let process = self.told(*process);
                let process = share(&mut self.processes, pid, process);
                self.ancestors.learn(&process)
            }
            Again::Unknown => {
                let kept = proc.keep(proc.hold(pid).ok()?).ok()?;
                let (process, print) = proc.read_ancestor(&kept).ok()?;
                let process = self.told(process);
                let process = share(&mut self.processes, pid, process);
                Some(self.ancestors.add(kept, print, process))
            }
        }
    }

    fn has_its_name(&mut self, process: &Process) -> bool {
        process.ids.is_none_or(|ids| process.user == (self.user_name)(ids.real_uid))
    }

    pub(super) fn lineage(&mut self, proc: &Proc, owner: &Known) -> Arc<Lineage> {
        let lineage = owner.lineage.get().cloned().unwrap_or_else(|| self.read_lineage(proc, owner));
        owner.lineage.get_or_init(|| lineage).clone()
    }

    /// The chain up to pid 1, each link proven: the child is asked again for its parent once that is held, so that a
    /// parent that ended in between, whose number another process may bear by then, is not taken for it.
    fn read_lineage(&mut self, proc: &Proc, owner: &Known) -> Arc<Lineage> {
        let process = &owner.process;
        // While the chain is read, another thread reads the program.
        let hash = self.hasher.ask(proc, &owner.held);
        let mut lineage = Lineage { process: process.clone(), ancestry: Vec::new(), cut: None, hash };
        let child = self.ancestors.owner(Rc::clone(&owner.held), Arc::clone(process));
        self.climb(proc, &mut lineage, child, process.ppid);
        lineage.hash = hash.map(|hash| self.hasher.wait_for(proc, hash));
        share(&mut self.lineages, process.pid, lineage)
    }

    /// Goes on with a chain above one who lives and bears this number as its parent's.
    pub(super) fn climb(&mut self, proc: &Proc, lineage: &mut Lineage, mut child: Link, mut ppid: u32) {
        while ppid != 0 && lineage.cut.is_none() {
            if lineage.ancestry.len() >= LONGEST_CHAIN {
                lineage.cut = Some(ChainCut::TooLong);
                break;
            }
            let (parent, still) = match self.memory.lost_parent(&child.process) {
                Some(lost) => (self.past_lost(proc, lost, &mut lineage.ancestry), Ok(ppid)),
                None => {
                    let parent = self.ancestor(proc, ppid);
                    let is_proven = parent.as_ref().is_some_and(|parent| parent.was_meant_by(&child));
                    (parent, if is_proven { Ok(ppid) } else { self.ask_for_parent(proc, &child, ppid) })
                }
            };
            match (parent, still) {
                (Some(parent), Ok(still)) if still == ppid => {
                    ppid = parent.process.ppid;
                    lineage.ancestry.push(Arc::clone(&parent.process));
                    child = parent;
                }
                // Its parent ended meanwhile and another adopted it: the chain goes on there. Each turn needs a death,
                // so this ends.
                (_, Ok(adopter)) if adopter != ppid => ppid = adopter,
                _ if lineage.ancestry.len() >= LONGEST_CHAIN => lineage.cut = Some(ChainCut::TooLong),
                _ => lineage.cut = Some(ChainCut::Vanished),
            }
        }
    }

    /// One that was told by somebody else, as one that was read here: masked, named, shared.
    pub(super) fn shared(&mut self, process: Process) -> Arc<Process> {
        let process = self.told(process);
        share(&mut self.processes, process.pid, process)
    }

    pub(super) fn shared_lineage(&mut self, lineage: Lineage) -> Arc<Lineage> {
        share(&mut self.lineages, lineage.process.pid, lineage)
    }

    fn ask_for_parent(&mut self, proc: &Proc, child: &Link, known: u32) -> Result<u32, ProcError> {
        let told = proc.parent_of(&child.held);
        self.ancestors.asked(child.process.pid, told.as_ref().is_ok_and(|told| *told == known));
        told
    }

    /// Tells those who have ended, as they are remembered, up to one that lives.
    fn past_lost(
        &mut self,
        proc: &Proc,
        mut lost: Arc<Process>,
        ancestry: &mut Vec<Arc<Process>>,
    ) -> Option<Link> {
        while ancestry.len() < LONGEST_CHAIN {
            ancestry.push(Arc::clone(&lost));
            if let Some(above) = self.memory.lost_parent(&lost) {
                lost = above;
                continue;
            }
            let link = self.ancestor(proc, self.memory.parent_of(&lost))?;
            return self.memory.is_parent(&lost, &link.process).then_some(link);
        }
        None
    }
}

/// Keeps one copy of equal values.
fn share<T: PartialEq>(shared: &mut Shared<T>, pid: u32, value: T) -> Arc<T> {
    if let Some(known) = shared.get(&pid).and_then(Weak::upgrade)
        && *known == value
    {
        return known;
    }
    // Forgets the dead when the map would grow: amortised, one look for each insertion.
    if shared.len() == shared.capacity() {
        shared.retain(|_, weak| weak.strong_count() > 0);
    }
    let value = Arc::new(value);
    shared.insert(pid, Arc::downgrade(&value));
    value
}

/// Descendants of those that were found who hold the socket by the same descriptor number, as long as their parent
/// does. Ancestors were asked by the search.
pub(super) fn descendants(proc: &Proc, of: &Candidate, inode: Inode) -> Vec<Holder> {
    let mut holders = Vec::new();
    let mut below = of.known.children.clone();
    let mut asked = HashSet::from([of.holder.pid]);
    while let Some(pid) = below.pop() {
        if asked.len() >= MOST_RELATIVES || !asked.insert(pid) {
            continue;
        }
        let Ok(held) = proc.hold(pid) else { continue };
        let holder = Holder { pid, tid: None, ..of.holder };
        if proc.look(&held, holder, inode) == Sight::Stands {
            holders.push(holder);
            below.extend(proc.children_of(&held));
        }
    }
    holders
}
