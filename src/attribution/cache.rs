//! Processes as they were when they forked or ran their programs, for chains of ancestors whose links have ended since.
//!
//! Fed by notices of forks, program starts and exits, each with the time at which it came. Bounded: the oldest are
//! forgotten, and those that ended are after ten seconds. A link is believed only between two processes that were
//! both noted, because a pid may be another process's by now.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::connection::Moment;
use crate::process::{FileId, Hash, Lineage, Process};
use crate::way::Origin;

/// As many processes are remembered, with so many bytes of arguments each: 4 MiB at most.
const MOST: usize = 4_096;
const MOST_ARGS: usize = 512;

/// So long is one remembered that ended.
const AFTER_END: Duration = Duration::from_secs(10);

/// As many are followed from their start to their end; these are not forgotten.
const MOST_FOLLOWED: usize = 1_024;
/// Of as many it is known that they made connections before the notice of their start was taken.
const MOST_EARLY: usize = 1_024;
/// Of one that ended, as many ancestors are told as are remembered, up to this.
const MOST_ANCESTORS: usize = 32;
/// What one that ended did last may come a little later.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Processes by pid.
#[derive(Default)]
pub(super) struct Memory {
    next: u64,
    by_pid: HashMap<u32, Remembered>,
    /// In the order in which they were noted.
    order: VecDeque<Name>,
    /// In the order in which they ended.
    ended: VecDeque<(Duration, Name)>,
    followed: usize,
    /// Followed ones that ended, in that order.
    leaving: VecDeque<(Moment, Option<u32>, Name)>,
    over: Vec<Execution>,
    /// Connections of those that are not followed, by pid and start, with the program that they ran: on a busy machine the
    /// notice of a program's start is taken behind its first connection.
    early: HashMap<(u32, u64), Early>,
}

/// Connections of a program whose start is not known.
#[derive(Default)]
struct Early {
    program: Option<Vec<u8>>,
    connections: u64,
}

/// A program that is followed from its start to its end.
#[derive(Debug, Clone)]
pub struct Execution {
    /// The process, as it was when it had started.
    pub lineage: Arc<Lineage>,
    /// The session that it belongs to.
    pub origin: Option<Arc<Origin>>,
    /// When it became this program.
    pub started: Moment,
    /// Connections that were attributed to it.
    pub connections: u64,
    /// When it ended, or was found gone.
    pub ended: Moment,
    /// How.
    pub end: ExecutionEnd,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionEnd {
    /// With what wait(2) tells, where that is known.
    Exited(Option<u32>),
    /// The process became another program.
    Executed,
    /// It was found gone.
    Vanished,
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
    followed: Option<Box<Followed>>,
}

struct Followed {
    lineage: Arc<Lineage>,
    origin: Option<Arc<Origin>>,
    started: Moment,
    connections: u64,
}

impl Followed {
    fn over(self, ended: Moment, end: ExecutionEnd) -> Execution {
        let Self { lineage, origin, started, connections } = self;
        Execution { lineage, origin, started, connections, ended, end }
    }
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

    /// The process that is remembered of this number and has not ended.
    pub(super) fn get(&self, pid: u32) -> Option<&Arc<Process>> {
        self.by_pid.get(&pid).filter(|known| !known.has_ended).map(|known| &known.process)
    }

    /// The last process that is remembered of this number.
    pub(super) fn last(&self, pid: u32) -> Option<&Arc<Process>> {
        self.by_pid.get(&pid).map(|known| &known.process)
    }

    /// Follows a process that is remembered. False: it is not, or as many are followed.
    pub(super) fn follow(
        &mut self,
        lineage: Arc<Lineage>,
        origin: Option<Arc<Origin>>,
        started: Moment,
    ) -> bool {
        let known = self.by_pid.get_mut(&lineage.process.pid);
        let known = known.filter(|known| known.process.is_same(&lineage.process) && !known.has_ended);
        let Some(known) = known.filter(|_| self.followed < MOST_FOLLOWED) else { return false };
        let process = &lineage.process;
        let early = self.early.remove(&(process.pid, process.start_ticks));
        let early = early.filter(|early| early.program == process.executable);
        let connections = early.map_or(0, |early| early.connections);
        if known.followed.replace(Box::new(Followed { lineage, origin, started, connections })).is_none() {
            self.followed += 1;
        }
        true
    }

    /// A followed process runs another program.
    pub(super) fn replaced(&mut self, pid: u32, at: Moment) -> Option<Execution> {
        let known = self.by_pid.get_mut(&pid).filter(|known| !known.has_ended)?;
        let followed = known.followed.take()?;
        self.followed -= 1;
        Some(followed.over(at, ExecutionEnd::Executed))
    }

    /// A connection of a process was told.
    pub(super) fn connected(&mut self, process: &Process) {
        let known = self.by_pid.get_mut(&process.pid).filter(|known| known.process.is_same(process));
        if let Some(followed) = known.and_then(|known| known.followed.as_mut()) {
            followed.connections += 1;
            return;
        }
        let place = (process.pid, process.start_ticks);
        if self.early.len() >= MOST_EARLY && !self.early.contains_key(&place) {
            self.early.clear();
        }
        let early = self.early.entry(place).or_default();
        if early.program != process.executable {
            *early = Early { program: process.executable.clone(), connections: 0 };
        }
        early.connections += 1;
    }

    /// Hashes have come that were pending when followed programs started.
    pub(super) fn hashed(&mut self, came: &[(FileId, Hash)]) {
        if came.is_empty() || self.followed == 0 {
            return;
        }
        for followed in self.by_pid.values_mut().filter_map(|known| known.followed.as_mut()) {
            let Some(Hash::Pending(id)) = followed.lineage.hash else { continue };
            if let Some((_, hash)) = came.iter().find(|(of, _)| *of == id) {
                followed.lineage =
                    Arc::new(Lineage { hash: Some(*hash), ..Lineage::clone(&followed.lineage) });
            }
        }
    }

    /// Those that are over, a little after their ends. `at` of the far future: all that ended.
    pub(super) fn over(&mut self, at: Moment) -> Vec<Execution> {
        while let Some((ended, status, name)) = self.leaving.front().copied()
            && ended.boot + LAST_WORDS <= at.boot
        {
            self.leaving.pop_front();
            let known = self.by_pid.get_mut(&name.pid).filter(|known| known.id == name.id);
            if let Some(followed) = known.and_then(|known| known.followed.take()) {
                self.followed -= 1;
                self.over.push(followed.over(ended, ExecutionEnd::Exited(status)));
            }
            // It was kept for what it did last.
            if !self.ended.iter().any(|(_, ended)| *ended == name) {
                self.remove(name);
            }
        }
        std::mem::take(&mut self.over)
    }

    /// The numbers of those that are followed and have not ended.
    pub(super) fn followed(&self) -> Vec<u32> {
        let all = self.by_pid.values().filter(|known| known.followed.is_some() && !known.has_ended);
        all.map(|known| known.process.pid).collect()
    }

    /// True if this is the process that is followed under its number.
    pub(super) fn is_followed(&self, process: &Process) -> bool {
        let known = self.by_pid.get(&process.pid).filter(|known| known.followed.is_some());
        known.is_some_and(|known| known.process.is_same(process))
    }

    /// A followed one is gone, and nothing told its end.
    pub(super) fn vanished(&mut self, pid: u32, at: Moment) {
        if let Some(known) = self.by_pid.get_mut(&pid)
            && let Some(followed) = known.followed.take()
        {
            self.followed -= 1;
            self.over.push(followed.over(at, ExecutionEnd::Vanished));
            self.by_pid.remove(&pid);
        }
    }

    /// Forgets all but those that are followed.
    pub(super) fn clear(&mut self) {
        self.by_pid.retain(|_, known| known.followed.is_some());
        let Self { by_pid, order, ended, .. } = self;
        let stands = |name: &Name| by_pid.get(&name.pid).is_some_and(|known| known.id == name.id);
        order.retain(stands);
        ended.retain(|(_, name)| stands(name));
    }

    /// A process ended.
    pub(super) fn exited(&mut self, pid: u32, status: Option<u32>, moment: Moment) {
        let at = moment.boot;
        self.forget(at);
        if let Some(known) = self.by_pid.get_mut(&pid).filter(|known| !known.has_ended) {
            known.has_ended = true;
            if known.followed.is_some() {
                self.leaving.push_back((moment, status, Name { pid, id: known.id }));
            }
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
            Some(noted) => !noted.has_ended && noted.process.is_same(now),
            // Older than its child and alive, so it was when it made it.
            None => now.pid == of.ppid && now.start_ticks < of.start_ticks,
        }
    }

    /// Those above a process that are remembered, the nearest first.
    pub(super) fn ancestors(&self, of: &Process) -> Vec<Arc<Process>> {
        let mut chain: Vec<Arc<Process>> = Vec::new();
        let mut child = self.by_pid.get(&of.pid).filter(|known| known.process.is_same(of));
        while let Some(Name { pid, id }) = child.and_then(|child| child.parent)
            && chain.len() < MOST_ANCESTORS
        {
            child = self.by_pid.get(&pid).filter(|parent| parent.id == id);
            let told = |parent: &Remembered| {
                Arc::new(Process { remembered: true, ..Process::clone(&parent.process) })
            };
            chain.extend(child.map(told));
        }
        chain
    }

    fn parent(&self, of: &Process) -> Option<&Remembered> {
        let known = self.by_pid.get(&of.pid).filter(|known| known.process.is_same(of))?;
        let Name { pid, id } = known.parent?;
        self.by_pid.get(&pid).filter(|parent| parent.id == id)
    }

    fn add(&mut self, parent: Option<Name>, process: Process, at: Duration) {
        self.forget(at);
        let name = Name { pid: process.pid, id: self.next };
        self.next += 1;
        let process = shortened(process);
        let new = Remembered { id: name.id, process, parent, has_ended: false, followed: None };
        if let Some(followed) = self.by_pid.insert(name.pid, new).and_then(|old| old.followed) {
            self.followed -= 1;
            self.bury(*followed, name.pid, at);
        }
        self.order.push_back(name);
        while self.by_pid.len() > MOST || self.order.len() > 2 * MOST {
            let Some(oldest) = self.order.pop_front() else { break };
            match self.by_pid.get(&oldest.pid) {
                Some(known) if known.id == oldest.id && known.followed.is_some() => {
                    self.order.push_back(oldest);
                }
                _ => self.remove(oldest),
            }
        }
    }

    fn forget(&mut self, at: Duration) {
        while let Some((_, name)) = self.ended.front().copied().filter(|(then, _)| *then + AFTER_END < at) {
            self.ended.pop_front();
            self.remove(name);
        }
    }

    fn remove(&mut self, name: Name) {
        let known = self.by_pid.get(&name.pid);
        if known.is_some_and(|known| known.id == name.id && known.followed.is_none()) {
            self.by_pid.remove(&name.pid);
        }
    }

    /// One that was followed, whose number is another's now.
    fn bury(&mut self, followed: Followed, pid: u32, at: Duration) {
        let told = self.leaving.iter().find(|(.., name)| name.pid == pid).copied();
        let Moment { wall, boot } = followed.started;
        let gone_by = Moment { wall: wall.checked_add(at.saturating_sub(boot)).unwrap_or(wall), boot: at };
        self.over.push(match told {
            Some((ended, status, _)) => followed.over(ended, ExecutionEnd::Exited(status)),
            None => followed.over(gone_by, ExecutionEnd::Vanished),
        });
    }
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
        let args = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        Process { comm: b"x".to_vec(), args, ..Process::of_pid(pid) }
    }

    #[test]
    fn the_followed_are_kept_while_thousands_come_and_go_and_their_ends_are_told_once() {
        let mut memory = Memory::default();
        let at = |seconds| Moment { boot: Duration::from_secs(seconds), ..Moment::default() };
        let lineage = |pid| {
            let process = Arc::new(process(pid, &["ssh"]));
            Arc::new(Lineage { process, ancestry: Vec::new(), cut: None, hash: None })
        };
        for pid in 2..2_000 {
            memory.forked(1, process(pid, &["ssh"]), at(1).boot);
            assert_eq!(memory.follow(lineage(pid), None, at(1)), pid < 2 + 1_024);
        }
        for pid in 3_000..30_000 {
            memory.forked(1, process(pid, &["x"]), at(2).boot);
        }
        assert_eq!(memory.followed().len(), MOST_FOLLOWED);
        memory.connected(&process(7, &["ssh"]));
        memory.exited(7, Some(0x100), at(3));
        memory.connected(&process(7, &["ssh"]));
        assert!(memory.over(at(3)).is_empty(), "a little later");
        // A number that is another's now, with and without a notice of its end.
        memory.exited(8, Some(9), at(3));
        for pid in [8, 9] {
            memory.forked(1, Process { start_ticks: 1, ..process(pid, &["x"]) }, at(4).boot);
        }
        memory.vanished(10, at(4));
        let mut over = memory.over(at(5));
        over.sort_by_key(|execution| execution.lineage.process.pid);
        let told: Vec<_> = over
            .iter()
            .map(|over| (over.lineage.process.pid, over.connections, over.ended.boot.as_secs(), over.end))
            .collect();
        let (exited, vanished) = (ExecutionEnd::Exited, ExecutionEnd::Vanished);
        let wanted = [
            (7, 2, 3, exited(Some(0x100))),
            (8, 0, 3, exited(Some(9))),
            (9, 0, 4, vanished),
            (10, 0, 4, vanished),
        ];
        assert_eq!(told, wanted);
        assert!(memory.over(at(99)).is_empty());
        assert_eq!(memory.replaced(11, at(6)).map(|over| over.end), Some(ExecutionEnd::Executed));
        assert_eq!(memory.followed().len(), MOST_FOLLOWED - 5);
        memory.clear();
        assert_eq!((memory.followed().len(), memory.by_pid.len()), (MOST_FOLLOWED - 5, MOST_FOLLOWED - 5));
    }

    #[test]
    fn connections_before_the_notice_of_its_start_are_of_a_program_and_those_of_what_it_was_before_are_not() {
        let mut memory = Memory::default();
        let at = Moment { boot: Duration::from_secs(1), ..Moment::default() };
        let runs = |pid, program: &str| Process { executable: Some(program.into()), ..process(pid, &["x"]) };
        for (pid, program) in [(2, "/bin/sh"), (2, "/bin/ssh"), (2, "/bin/ssh"), (3, "/bin/sh")] {
            memory.connected(&runs(pid, program));
        }
        for pid in [2, 3] {
            memory.changed(runs(pid, "/bin/ssh"), at.boot);
            let process = Arc::new(runs(pid, "/bin/ssh"));
            let lineage = Lineage { process, ancestry: Vec::new(), cut: None, hash: None };
            assert!(memory.follow(Arc::new(lineage), None, at));
            memory.connected(&runs(pid, "/bin/ssh"));
        }
        let connections = [2, 3].map(|pid| memory.replaced(pid, at).unwrap().connections);
        assert_eq!(connections, [3, 1]);
        for pid in 4..30_000 {
            memory.connected(&runs(pid, "/bin/nc"));
        }
        assert!(memory.early.len() <= MOST_EARLY);
    }

    #[test]
    fn memory_is_bounded_whatever_forks_and_ends() {
        let mut memory = Memory::default();
        let at = Duration::from_secs(9);
        for round in 0..3 {
            for pid in 2..20_000 {
                memory.forked(pid - 1, process(pid, &["x"]), at);
                if round == 1 {
                    memory.exited(pid, None, Moment { boot: at, ..Moment::default() });
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
