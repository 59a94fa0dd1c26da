//! Owners that the kernel itself has told, while they connected: nobody is searched for.
//!
//! Whoever still lives is read as any other owner, and so is its chain; of whoever is gone there is what was told.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::search::holders_from;
use super::{Attributor, Known};
use crate::ebpf::event::{Ancestor, Opening};
use crate::proc::{Held, Proc};
use crate::process::{Attribution, ChainCut, Lineage, Login, Process};

/// So long a process is not read again that tells the same of itself.
const AGAIN: Duration = Duration::from_millis(100);
/// Of so many of its openings in that time the descriptor is looked for: of one that lasts it is found later.
const LOOKS: u32 = 16;
/// As many who connect are kept, each with an open folder.
const MOST_CALLERS: usize = 64;

/// A process that connects: what it told of itself, and what was made of that.
pub(super) struct Caller {
    told: Opening,
    lineage: Arc<Lineage>,
    /// `None`: it was gone.
    known: Option<Rc<Known>>,
    looks: u32,
}

impl Caller {
    /// True as long as what was read of it stands for the next opening: nothing of what the kernel tells with each is
    /// another, and the reading is young.
    fn is_of(&self, opening: &Opening) -> bool {
        let Opening {
            sight, is_attempt: _, socket_uid: _, pid, tid: _, start_ticks, pidfd_inode, ids, ..
        } = opening;
        let Opening { login, session, cgroup, tty, comm, args, args_bytes, args_cut, .. } = opening;
        let Opening { executable, executable_cut, executable_deleted, ancestors, .. } = opening;
        let told = &self.told;
        sight.at.abs_diff(told.sight.at) < AGAIN
            && (*pid, *start_ticks, *pidfd_inode) == (told.pid, told.start_ticks, told.pidfd_inode)
            && (*ids, *login, *session) == (told.ids, told.login, told.session)
            && (*cgroup, *tty) == (told.cgroup, told.tty)
            && (*args_bytes, *args_cut) == (told.args_bytes, told.args_cut)
            && (*executable_cut, *executable_deleted) == (told.executable_cut, told.executable_deleted)
            && (comm, args, executable) == (&told.comm, &told.args, &told.executable)
            && *ancestors == told.ancestors
    }
}

impl Attributor {
    /// The owner of a socket that is being connected, and its ancestors: 0.1 ms, or 10 µs where the one that connected is
    /// not to be read or has ended, or 1 µs where it was read just now.
    pub fn attribute_opening(
        &mut self,
        proc: &Proc,
        opening: &Opening,
        is_read: bool,
    ) -> (Attribution, Option<Rc<Held>>) {
        if let Some(caller) = self.openings.get_mut(&opening.pid).filter(|caller| caller.is_of(opening)) {
            caller.looks += 1;
            let known = caller.known.clone().filter(|_| is_read && caller.looks < LOOKS);
            let lineage = Arc::clone(&caller.lineage);
            return match known {
                Some(known) => {
                    self.this_tick.insert(opening.pid, Rc::clone(&known));
                    self.attribute_living(proc, opening, &known)
                }
                None => (told(lineage), None),
            };
        }
        let held = if is_read { proc.hold(opening.pid).ok() } else { None };
        let known = held.and_then(|held| self.know_connecting(proc, held, opening));
        let known = known.filter(|known| known.process.start_ticks == opening.start_ticks);
        let (attribution, held) = match &known {
            Some(known) => self.attribute_living(proc, opening, known),
            None => (told(self.lineage_of_opening(proc, opening)), None),
        };
        self.keep(opening, &attribution, known);
        (attribution, held)
    }

    /// Reads who connects. What the kernel has told of it, whole and of the process and not of a thread, is not asked for
    /// again: its arguments least, for which another thread may have to wait.
    fn know_connecting(&mut self, proc: &Proc, held: Held, opening: &Opening) -> Option<Rc<Known>> {
        let held = Rc::new(held);
        let is_whole = opening.args_whole && opening.tid == opening.pid && !opening.executable_cut;
        let rest = is_whole.then(|| proc.read_rest(&held, process_of(opening)));
        match rest.and_then(Result::ok).flatten() {
            Some(process) => {
                let process = self.told(process);
                Some(self.note(proc, held, process))
            }
            None => self.know(proc, held),
        }
    }

    fn keep(&mut self, opening: &Opening, attribution: &Attribution, known: Option<Rc<Known>>) {
        let Attribution::Owned { lineage, .. } = attribution else { return };
        if lineage.process.pid != opening.pid {
            // Somebody above is the owner of that socket, and not of each.
            return;
        }
        if self.openings.len() >= MOST_CALLERS {
            self.openings.clear();
        }
        let caller = Caller { told: opening.clone(), lineage: Arc::clone(lineage), known, looks: 0 };
        self.openings.insert(opening.pid, caller);
    }

    /// Lets go of those who connected longer ago.
    pub fn forget_callers(&mut self, now: Duration) {
        self.openings.retain(|_, caller| caller.told.sight.at + AGAIN > now);
    }

    fn attribute_living(
        &mut self,
        proc: &Proc,
        opening: &Opening,
        known: &Rc<Known>,
    ) -> (Attribution, Option<Rc<Held>>) {
        let found = opening.sight.inode.and_then(|inode| {
            let found = holders_from(proc, &known.held, known.process.ppid, inode)?;
            let (attribution, held) = self.attribute(proc, inode, &found, Duration::ZERO);
            let Attribution::Owned { lineage, holders, latency } = attribution else { return None };
            Some((lineage, holders, latency, held))
        });
        // It may live and have let go of it by now, or hide it among many.
        let (lineage, holders, latency, owner) = match found {
            Some(found) => found,
            None => (self.lineage(proc, known), Arc::from([]), Duration::ZERO, None),
        };
        let lineage = self.completed(proc, lineage, opening);
        (Attribution::Owned { lineage, holders, latency }, owner)
    }

    /// Puts what was told in the place of what could not be read any more: of one that was ending, and of one that runs
    /// another program than the one that connected.
    fn completed(&mut self, proc: &Proc, lineage: Arc<Lineage>, opening: &Opening) -> Arc<Lineage> {
        let process = &lineage.process;
        if (process.pid, process.start_ticks) != (opening.pid, opening.start_ticks) {
            // Somebody above holds it too and is its owner.
            return lineage;
        }
        let lacks_path = process.executable.is_none() && opening.executable.is_some();
        let is_another = process.comm != opening.comm || lacks_path;
        let lacks_args = process.args.is_empty() && !opening.args.is_empty();
        let lacks_chain = lineage.cut == Some(ChainCut::Vanished);
        if !(is_another || lacks_args || lacks_chain) {
            return lineage;
        }
        let mut completed = Lineage::clone(&lineage);
        if is_another || lacks_args {
            completed.process = self.shared(with_program(Process::clone(process), opening));
        }
        if is_another {
            // What was hashed is the program that it runs now.
            completed.hash = self.hasher.of_the_gone();
        }
        if lacks_chain {
            let told = self.lineage_of_opening(proc, opening);
            (completed.ancestry, completed.cut) = (told.ancestry.clone(), told.cut);
        }
        self.shared_lineage(completed)
    }

    fn lineage_of_opening(&mut self, proc: &Proc, opening: &Opening) -> Arc<Lineage> {
        let process = self.shared(process_of(opening));
        let mut lineage =
            Lineage { process, ancestry: Vec::new(), cut: None, hash: self.hasher.of_the_gone() };
        let mut above = opening.ancestors.iter().peekable();
        while let Some(told) = above.next() {
            let living = self.ancestor(proc, told.pid);
            if let Some(link) = living.filter(|link| link.process.start_ticks == told.start_ticks) {
                // From here on there is more to read than was told.
                let ppid = link.process.ppid;
                lineage.ancestry.push(Arc::clone(&link.process));
                self.climb(proc, &mut lineage, link, ppid);
                return self.shared_lineage(lineage);
            }
            let ppid = above.peek().map_or(0, |parent| parent.pid);
            lineage.ancestry.push(self.shared(process_above(told, ppid)));
        }
        let top = lineage.ancestry.last().map_or(opening.pid, |top| top.pid);
        lineage.cut = (top != 1).then_some(ChainCut::Vanished);
        self.shared_lineage(lineage)
    }
}

fn told(lineage: Arc<Lineage>) -> Attribution {
    Attribution::Owned { lineage, holders: Arc::new([]), latency: Duration::ZERO }
}

/// A process with the program that it ran when it connected.
fn with_program(process: Process, opening: &Opening) -> Process {
    let told = process_of(opening);
    Process {
        comm: told.comm,
        executable: told.executable,
        executable_deleted: told.executable_deleted,
        args: told.args,
        args_bytes: told.args_bytes,
        args_cut: told.args_cut,
        redacted: 0,
        pidfd_inode: process.pidfd_inode.or(told.pidfd_inode),
        tty: process.tty.or(told.tty),
        ids: process.ids.or(told.ids),
        login: process.login.or(told.login),
        remembered: true,
        ..process
    }
}

fn process_of(opening: &Opening) -> Process {
    let login = opening.login.map(|uid| Login { uid, user: None, session: opening.session });
    Process {
        ppid: opening.ancestors.first().map_or(0, |parent| parent.pid),
        pidfd_inode: opening.pidfd_inode,
        executable: opening.executable.clone(),
        executable_deleted: opening.executable_deleted,
        args: opening.args.clone(),
        args_bytes: opening.args_bytes,
        args_cut: opening.args_cut,
        tty: opening.tty,
        ids: Some(opening.ids),
        login,
        ..remembered(opening.pid, opening.start_ticks, &opening.comm)
    }
}

fn process_above(told: &Ancestor, ppid: u32) -> Process {
    Process { ppid, ..remembered(told.pid, told.start_ticks, &told.comm) }
}

fn remembered(pid: u32, start_ticks: u64, comm: &[u8]) -> Process {
    Process { ppid: 0, start_ticks, comm: comm.to_vec(), remembered: true, ..Process::of_pid(pid) }
}
