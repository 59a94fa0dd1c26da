//! Owners that the kernel itself has told, while they connected: nobody is searched for.
//!
//! Whoever still lives is read as any other owner, and so is its chain; of whoever is gone there is what was told.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Attributor;
use super::search::Quest;
use crate::ebpf::event::{Ancestor, Opening};
use crate::proc::{Held, Proc};
use crate::process::{Attribution, ChainCut, Lineage, Login, Process};

/// So many of its descriptors are looked at for the socket.
const MANY: usize = 2_048;

/// A process with the program that it ran when it connected: what it told once it tells of the next connection too.
pub(super) struct Program {
    start_ticks: u64,
    comm: Vec<u8>,
    args: Vec<Vec<u8>>,
    executable: Option<Vec<u8>>,
}

impl Program {
    fn of(opening: &Opening) -> Self {
        let Opening { start_ticks, comm, args, executable, .. } = opening;
        Self {
            start_ticks: *start_ticks,
            comm: comm.clone(),
            args: args.clone(),
            executable: executable.clone(),
        }
    }

    fn is_of(&self, opening: &Opening) -> bool {
        self.start_ticks == opening.start_ticks
            && self.comm == opening.comm
            && self.args == opening.args
            && self.executable == opening.executable
    }
}

impl Attributor {
    /// The owner of a socket that is being connected, and its ancestors: 0.1 ms, or 10 µs where the one that connected is
    /// not to be read or has ended.
    pub fn attribute_opening(
        &mut self,
        proc: &Proc,
        opening: &Opening,
        is_read: bool,
    ) -> (Attribution, Option<Rc<Held>>) {
        let held = if is_read { proc.hold(opening.pid).ok() } else { None };
        if let Some(attributed) = held.and_then(|held| self.attribute_living(proc, opening, &Rc::new(held))) {
            return attributed;
        }
        let known = self.openings.get(&opening.pid).filter(|(program, _)| program.is_of(opening));
        let lineage = match known {
            Some((_, lineage)) => Arc::clone(lineage),
            None => {
                let lineage = self.lineage_of_opening(proc, opening);
                self.openings.insert(opening.pid, (Program::of(opening), Arc::clone(&lineage)));
                lineage
            }
        };
        (Attribution::Owned { lineage, holders: Arc::new([]), latency: Duration::ZERO }, None)
    }

    fn attribute_living(
        &mut self,
        proc: &Proc,
        opening: &Opening,
        held: &Rc<Held>,
    ) -> Option<(Attribution, Option<Rc<Held>>)> {
        let known = self.know(proc, Rc::clone(held))?;
        if known.process.start_ticks != opening.start_ticks {
            return None;
        }
        let found = opening.sight.inode.and_then(|inode| {
            let (mut wanted, mut found) = (HashMap::from([(inode, opening.socket_uid)]), HashMap::new());
            Quest { proc, wanted: &mut wanted, found: &mut found }.ask(held, MANY);
            let found = found.remove(&inode)?;
            let (attribution, held) = self.attribute(proc, inode, &found, Duration::ZERO);
            let Attribution::Owned { lineage, holders, latency } = attribution else { return None };
            Some((lineage, holders, latency, held))
        });
        // It may live and have let go of it by now, or hide it among many.
        let (lineage, holders, latency, owner) = match found {
            Some(found) => found,
            None => (self.lineage(proc, &known), Arc::from([]), Duration::ZERO, None),
        };
        let lineage = self.completed(proc, lineage, opening);
        Some((Attribution::Owned { lineage, holders, latency }, owner))
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
