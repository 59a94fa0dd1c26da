//! Reading an owner and its ancestors, and keeping once what several of them share.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use super::{Attributor, Candidate};
use crate::connection::Inode;
use crate::proc::{Depth, Held, Proc, Sight};
use crate::process::{Holder, Lineage, Process};

/// The longest chain that is read. Real ones have about ten links.
const LONGEST_CHAIN: usize = 32;
/// As many relatives of a holder are asked for its descriptor.
const MOST_RELATIVES: usize = 16;

/// What was read last of each pid. Only equal content is shared, so a reused pid cannot be confused.
pub(super) type Shared<T> = HashMap<u32, Weak<T>>;

impl Attributor {
    /// Reads a holder, unless it let go of the socket meanwhile.
    pub(super) fn candidate(&mut self, proc: &Proc, holder: Holder, inode: Inode) -> Option<Candidate> {
        let held = proc.hold(holder.pid).ok()?;
        let process = self.read(proc, &held, Depth::Owner)?;
        // After the reading: what was read is the holder's only if it holds the socket still.
        (proc.look(&held, holder, inode) != Sight::Gone).then(|| Candidate {
            holder,
            held: Rc::new(held),
            process,
        })
    }

    fn read(&mut self, proc: &Proc, held: &Held, depth: Depth) -> Option<Arc<Process>> {
        let mut process = proc.read_process(held, depth).ok()?;
        process.redacted = self.masker.mask(&mut process.args);
        if let Some(ids) = process.ids {
            process.user = (self.user_name)(ids.real_uid);
            if ids.effective_uid != ids.real_uid {
                process.effective_user = (self.user_name)(ids.effective_uid);
            }
        }
        if let Some(login) = &mut process.login {
            login.user = (self.user_name)(login.uid);
        }
        Some(share(&mut self.processes, process.pid, process))
    }

    /// The chain up to pid 1, each link proven: the child is asked again for its parent once that is held, so that a
    /// parent that ended in between, whose number another process may bear by then, is not taken for it.
    pub(super) fn lineage(&mut self, proc: &Proc, owner: &Rc<Held>, process: &Arc<Process>) -> Arc<Lineage> {
        let mut lineage = Lineage { process: process.clone(), ancestry: Vec::new(), complete: false };
        let mut child = Rc::clone(owner);
        let mut ppid = process.ppid;
        while lineage.ancestry.len() < LONGEST_CHAIN {
            if ppid == 0 {
                lineage.complete = true;
                break;
            }
            let Ok(held) = proc.hold(ppid) else { break };
            let Some(parent) = self.read(proc, &held, Depth::Ancestor) else { break };
            match proc.parent_of(&child) {
                Ok(still) if still == ppid => {}
                // Its parent ended meanwhile and another adopted it: the chain goes on there. Each turn needs a death,
                // so this ends; `LONGEST_CHAIN` bounds the links.
                Ok(adopter) => {
                    ppid = adopter;
                    continue;
                }
                Err(_) => break,
            }
            ppid = parent.ppid;
            lineage.ancestry.push(parent);
            child = Rc::new(held);
        }
        share(&mut self.lineages, process.pid, lineage)
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

/// Pids from `pid` up to 1.
pub(super) fn pids_above(proc: &Proc, mut pid: u32) -> Vec<u32> {
    let mut pids = Vec::new();
    while pid != 0 && pids.len() < LONGEST_CHAIN && !pids.contains(&pid) {
        pids.push(pid);
        pid = proc.hold(pid).and_then(|held| proc.parent_of(&held)).unwrap_or(0);
    }
    pids
}

/// Relatives that hold the socket by the same descriptor number: ancestors as long as they do, and descendants.
pub(super) fn family(proc: &Proc, of: &Candidate, inode: Inode) -> Vec<Holder> {
    let holds = |pid: u32| {
        let held = proc.hold(pid).ok()?;
        let holder = Holder { pid, tid: None, fd: of.holder.fd };
        (proc.look(&held, holder, inode) == Sight::Stands).then_some((holder, held))
    };
    let mut holders = Vec::new();
    let mut above = of.process.ppid;
    while let Some((holder, held)) = holds(above) {
        holders.push(holder);
        above = proc.parent_of(&held).unwrap_or(0);
        if holders.len() >= MOST_RELATIVES {
            break;
        }
    }
    let mut below = proc.children_of(&of.held);
    while let Some(pid) = below.pop() {
        if holders.len() >= MOST_RELATIVES {
            break;
        }
        if let Some((holder, held)) = holds(pid) {
            holders.push(holder);
            below.extend(proc.children_of(&held));
        }
    }
    holders
}
