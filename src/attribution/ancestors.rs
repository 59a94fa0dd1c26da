//! Ancestors held from one tick to the next: the same few stand above most owners, and most of them sleep.
//!
//! Nothing is believed because it was so before: what may change of a process is read again in each tick that asks for
//! it, unless the process has done nothing since (`proc::Print`).

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::proc::{Held, Kept, Print, Proc};
use crate::process::Process;

/// As many are held at most; four descriptors are spent on each.
const MOST: usize = 48;

/// Ancestors, as they were read last.
#[derive(Default)]
pub(super) struct Ancestors {
    tick: u64,
    by_pid: HashMap<u32, Ancestor>,
}

struct Ancestor {
    kept: Kept,
    print: Print,
    process: Arc<Process>,
    /// The tick in which it was first held, and the last one in which it was looked at.
    since: u64,
    seen: u64,
    /// The last one in which it was asked for its parent.
    told: u64,
}

/// One that was found to live.
pub(super) struct Link {
    pub(super) held: Rc<Held>,
    pub(super) process: Arc<Process>,
    since: u64,
    told: u64,
}

impl Link {
    /// True if `child`, when it told its parent's number, can only have meant this one: it bore the number by then.
    pub(super) fn was_meant_by(&self, child: &Self) -> bool {
        self.since < child.told
    }
}

/// What became of an ancestor.
pub(super) enum Again {
    Same(Link),
    /// To be told to `Ancestors::learn`.
    Changed(Box<Process>),
    Unknown,
}

impl Ancestors {
    /// What was read before is old.
    pub(super) fn begin_tick(&mut self) {
        self.tick += 1;
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.by_pid.clear();
    }

    /// Looks at the one that bears this number: 1 µs if it was read in this tick, else 4 µs or 12 µs.
    pub(super) fn look(&mut self, proc: &Proc, pid: u32) -> Again {
        let Some(known) = self.by_pid.get_mut(&pid) else { return Again::Unknown };
        let changed = if known.seen == self.tick {
            if proc.is_alive(&known.kept.held) { Ok(None) } else { Err(()) }
        } else {
            proc.read_if_changed(&known.kept, &mut known.print).map_err(drop)
        };
        match changed {
            Ok(None) => {
                known.seen = self.tick;
                Again::Same(known.link())
            }
            Ok(Some(process)) => Again::Changed(Box::new(process)),
            Err(()) => {
                self.by_pid.remove(&pid);
                Again::Unknown
            }
        }
    }

    /// What is told of one that `look` found changed, or whose user was named since.
    pub(super) fn learn(&mut self, process: &Arc<Process>) -> Option<Link> {
        let known = self.by_pid.get_mut(&process.pid)?;
        (known.process, known.seen) = (Arc::clone(process), self.tick);
        Some(known.link())
    }

    /// The beginning of a chain: who was read in this tick, and is not among these.
    pub(super) fn owner(&self, held: Rc<Held>, process: Arc<Process>) -> Link {
        Link { held, process, since: self.tick, told: self.tick }
    }

    /// One was asked for its parent and told the one that is known, or another.
    pub(super) fn asked(&mut self, pid: u32, is_same: bool) {
        match self.by_pid.get_mut(&pid) {
            Some(known) if is_same => known.told = self.tick,
            _ => drop(self.by_pid.remove(&pid)),
        }
    }

    /// Holds one more; the one that was not asked for longest makes room.
    pub(super) fn add(&mut self, kept: Kept, print: Print, process: Arc<Process>) -> Link {
        if self.by_pid.len() >= MOST
            && let Some(oldest) = self.by_pid.iter().min_by_key(|(_, known)| known.seen).map(|(pid, _)| *pid)
        {
            self.by_pid.remove(&oldest);
        }
        let tick = self.tick;
        let known = Ancestor { kept, print, process, since: tick, seen: tick, told: tick };
        let link = known.link();
        self.by_pid.insert(link.process.pid, known);
        link
    }
}

impl Ancestor {
    fn link(&self) -> Link {
        let (held, process) = (Rc::clone(&self.kept.held), Arc::clone(&self.process));
        Link { held, process, since: self.since, told: self.told }
    }
}
