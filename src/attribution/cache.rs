//! Processes as they were when they forked or ran their programs, for chains of ancestors whose links have ended since.
//!
//! Fed by notices of forks, program starts and exits, each with the time at which it came. Bounded: the oldest are
//! forgotten, and those that ended are after ten seconds. A link is believed only between two processes that were
//! both noted, because a pid may be another process's by now.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::process::Process;

/// As many processes are remembered, with so many bytes of arguments each: 4 MiB at most.
const MOST: usize = 4_096;
const MOST_ARGS: usize = 512;

/// So long is one remembered that ended.
const AFTER_END: Duration = Duration::from_secs(10);

/// Processes by pid.
#[derive(Default)]
pub(super) struct Memory {
    next: u64,
    by_pid: HashMap<u32, Remembered>,
    /// In the order in which they were noted.
    order: VecDeque<Name>,
    /// In the order in which they ended.
    ended: VecDeque<(Duration, Name)>,
}

/// A pid is not enough: it may be given out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    pid: u32,
    id: u64,
}

struct Remembered {
    id: u64,
    process: Arc<Process>,
    parent: Option<Name>,
    has_ended: bool,
}

impl Memory {
    /// True if the number is that of a process which is remembered and has not ended.
    pub(super) fn knows(&self, pid: u32) -> bool {
        self.by_pid.get(&pid).is_some_and(|known| !known.has_ended)
    }

    /// A process was made by another.
    pub(super) fn forked(&mut self, parent: u32, child: Process, at: Duration) {
        let parent = self.by_pid.get(&parent).filter(|known| !known.has_ended);
        let parent = parent.map(|known| Name { pid: known.process.pid, id: known.id });
        self.add(parent, child, at);
    }

    /// A process that is remembered runs another program.
    pub(super) fn changed(&mut self, process: Process, at: Duration) {
        match self.by_pid.get_mut(&process.pid).filter(|known| !known.has_ended) {
            Some(known) => known.process = shortened(process),
            None => self.add(None, process, at),
        }
    }

    /// A process ended.
    pub(super) fn exited(&mut self, pid: u32, at: Duration) {
        self.forget(at);
        if let Some(known) = self.by_pid.get_mut(&pid).filter(|known| !known.has_ended) {
            known.has_ended = true;
            self.ended.push_back((at, Name { pid, id: known.id }));
            if self.ended.len() > MOST
                && let Some((_, oldest)) = self.ended.pop_front()
            {
                self.remove(oldest);
            }
        }
    }

    /// Who made a process, if that one has ended.
    pub(super) fn lost_parent(&self, of: &Process) -> Option<Arc<Process>> {
        let parent = self.parent(of)?;
        parent.has_ended.then(|| {
            let mut process = Process::clone(&parent.process);
            process.remembered = true;
            Arc::new(process)
        })
    }

    /// The number of the one that made a process.
    pub(super) fn parent_of(&self, process: &Process) -> u32 {
        self.parent(process).map_or(process.ppid, |parent| parent.process.pid)
    }

    /// True if the one that is read now is the one that made `of`.
    pub(super) fn is_parent(&self, of: &Process, now: &Process) -> bool {
        match self.parent(of) {
            Some(noted) => !noted.has_ended && is_same(&noted.process, now),
            // Older than its child and alive, so it was when it made it.
            None => now.pid == of.ppid && now.start_ticks < of.start_ticks,
        }
    }

    fn parent(&self, of: &Process) -> Option<&Remembered> {
        let known = self.by_pid.get(&of.pid).filter(|known| is_same(&known.process, of))?;
        let Name { pid, id } = known.parent?;
        self.by_pid.get(&pid).filter(|parent| parent.id == id)
    }

    fn add(&mut self, parent: Option<Name>, process: Process, at: Duration) {
        self.forget(at);
        let name = Name { pid: process.pid, id: self.next };
        self.next += 1;
        let new = Remembered { id: name.id, process: shortened(process), parent, has_ended: false };
        self.by_pid.insert(name.pid, new);
        self.order.push_back(name);
        while self.by_pid.len() > MOST || self.order.len() > 2 * MOST {
            let Some(oldest) = self.order.pop_front() else { break };
            self.remove(oldest);
        }
    }

    fn forget(&mut self, at: Duration) {
        while let Some((_, name)) = self.ended.front().copied().filter(|(then, _)| *then + AFTER_END < at) {
            self.ended.pop_front();
            self.remove(name);
        }
    }

    fn remove(&mut self, name: Name) {
        if self.by_pid.get(&name.pid).is_some_and(|known| known.id == name.id) {
            self.by_pid.remove(&name.pid);
        }
    }
}

fn is_same(one: &Process, other: &Process) -> bool {
    (one.pid, one.start_ticks) == (other.pid, other.start_ticks)
}

fn shortened(mut process: Process) -> Arc<Process> {
    let mut room = MOST_ARGS;
    let fits = process.args.iter().take_while(|arg| {
        let left = room.checked_sub(arg.len() + 1);
        room = left.unwrap_or(0);
        left.is_some()
    });
    let fits = fits.count();
    process.args_cut |= fits < process.args.len();
    process.args.truncate(fits);
    Arc::new(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, args: &[&str]) -> Process {
        Process {
            pid,
            ppid: 1,
            start_ticks: u64::from(pid),
            pidfd_inode: None,
            comm: b"x".to_vec(),
            executable: None,
            executable_deleted: false,
            args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            args_bytes: 0,
            args_cut: false,
            redacted: 0,
            working_directory: None,
            tty: None,
            ids: None,
            user: None,
            effective_user: None,
            login: None,
            cgroup: None,
            denied: Vec::new(),
            remembered: false,
        }
    }

    #[test]
    fn memory_is_bounded_whatever_forks_and_ends() {
        let mut memory = Memory::default();
        let at = Duration::from_secs(9);
        for round in 0..3 {
            for pid in 2..20_000 {
                memory.forked(pid - 1, process(pid, &["x"]), at);
                if round == 1 {
                    memory.exited(pid, at);
                }
            }
            assert!(
                memory.by_pid.len() <= MOST && memory.order.len() <= 2 * MOST && memory.ended.len() <= MOST
            );
        }
    }

    #[test]
    fn long_arguments_are_cut_and_said_to_be() {
        let long = "a".repeat(MOST_ARGS);
        let kept = shortened(process(2, &["sh", &long, "end"]));
        assert_eq!((kept.args.len(), kept.args_cut), (1, true));
        assert!(!shortened(process(2, &["sh", "end"])).args_cut);
    }
}
