//! Ancestors held from one tick to the next: the same few stand above most owners, and reading one again costs a third.
//!
//! Nothing is believed because it was so before. What may change of a process is read again in each tick that asks for
//! it (`proc::Print`), and only what is equal stands.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::proc::{Held, Kept, Print, Proc};
use crate::process::Process;

/// As many are held at most; three descriptors are spent on each.
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
    /// The tick in which it was first held, and the last one in which it was read.
    since: u64,
    read: u64,
}

/// One that was found to live.
pub(super) struct Link {
    pub(super) held: Rc<Held>,
    pub(super) process: Arc<Process>,
    /// True if it was held before this tick began: whoever's parent bears its number in this tick, it is the parent.
    pub(super) is_old: bool,
}

/// What became of an ancestor.
pub(super) enum Again {
    Same(Link),
    /// To be told to `Ancestors::learn`.
    Changed(Process, Print),
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

    /// Looks at the one that bears this number: 1 µs if it was read in this tick, else 11 µs.
    pub(super) fn look(&mut self, proc: &Proc, pid: u32) -> Again {
        let Some(known) = self.by_pid.get_mut(&pid) else { return Again::Unknown };
        let changed = if known.read == self.tick {
            if proc.is_alive(&known.kept.held) { Ok(None) } else { Err(()) }
        } else {
            proc.read_if_changed(&known.kept, Some(&known.print)).map_err(drop)
        };
        match changed {
            Ok(None) => {
                known.read = self.tick;
                Again::Same(known.link(self.tick))
            }
            Ok(Some((process, print))) => Again::Changed(process, print),
            Err(()) => {
                self.by_pid.remove(&pid);
                Again::Unknown
            }
        }
    }

    /// What was read of one that `look` found changed.
    pub(super) fn learn(&mut self, process: &Arc<Process>, print: Print) -> Option<Link> {
        let known = self.by_pid.get_mut(&process.pid)?;
        (known.process, known.print, known.read) = (Arc::clone(process), print, self.tick);
        Some(known.link(self.tick))
    }

    /// Another name was found for the user of one.
    pub(super) fn rename(&mut self, process: &Arc<Process>) {
        if let Some(known) = self.by_pid.get_mut(&process.pid) {
            known.process = Arc::clone(process);
        }
    }

    /// Holds one more; the one that was not asked for longest makes room.
    pub(super) fn add(&mut self, kept: Kept, print: Print, process: Arc<Process>) -> Link {
        if self.by_pid.len() >= MOST
            && let Some(oldest) = self.by_pid.iter().min_by_key(|(_, known)| known.read).map(|(pid, _)| *pid)
        {
            self.by_pid.remove(&oldest);
        }
        let known = Ancestor { kept, print, process, since: self.tick, read: self.tick };
        let link = known.link(self.tick);
        self.by_pid.insert(link.process.pid, known);
        link
    }
}

impl Ancestor {
    fn link(&self, tick: u64) -> Link {
        let (held, process) = (Rc::clone(&self.kept.held), Arc::clone(&self.process));
        Link { held, process, is_old: self.since < tick }
    }
}
