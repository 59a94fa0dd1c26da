//! Programs that are followed from their start to their end, as notices of processes tell of them.
//!
//! Which these are is chosen (`source::ExecutionChoice`). One that ended before it could be read may have been one of
//! them: that is counted and told.

use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use crate::attribution::{Execution, ExecutionEnd};
use crate::connection::Moment;
use crate::event::{Actor, Event, ProcessEnd, ProcessFate, What};
use crate::proc::Proc;
use crate::process::Process;
use crate::source::ExecutionChoice;
use crate::ssh;

/// What was missed is told at most this often.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Whether those that are followed stand is asked this often, should the notice of an end be lost.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is known from tick to tick.
pub(super) struct Executions {
    choice: ExecutionChoice,
    /// Programs that had ended before they could be read, and those beyond as many as are followed: since when.
    missed: Option<(Moment, u64)>,
    looked: Duration,
}

impl Pipeline {
    /// Tells starts and ends of these programs from now on. Needs notices of processes.
    pub fn follow_executions(&mut self, choice: ExecutionChoice) {
        self.executions = Some(Executions { choice, missed: None, looked: Duration::ZERO });
    }

    /// A process runs another program.
    pub(super) fn take_execution(&mut self, proc: &Proc, pid: u32, at: Moment, told: &mut Vec<Event>) {
        told.extend(self.attributor.replaced(pid, at).map(|over| ended(over, at)));
        let process = self.attributor.executed(proc, pid, at.boot);
        let Some(executions) = &mut self.executions else { return };
        let Some(process) = process else { return executions.miss(at) };
        let is_chosen = match &executions.choice {
            ExecutionChoice::Ssh => ssh::is_client(&process),
            choice => choice.matches(process.executable.as_deref().unwrap_or(&process.comm)),
        };
        if !is_chosen {
            // Of one that waits for its parent the program is told no more, and its name alone is not what is chosen by.
            if process.executable.is_none() && process.denied.is_empty() {
                executions.miss(at);
            }
            return;
        }
        let lineage = self.attributor.started(proc, &process);
        let who = self.actor(proc, lineage);
        let is_followed = self.attributor.follow(Arc::clone(&who.lineage), who.origin.clone(), at);
        if let Some(executions) = self.executions.as_mut().filter(|_| !is_followed) {
            executions.miss(at);
        }
        told.push(Event { at, what: What::ProcessStarted(who) });
    }

    /// A connection was attributed to a process, whose program may be followed.
    pub(super) fn count_connection(&mut self, owner: &Process) {
        if self.executions.is_some() {
            self.attributor.connected(owner);
        }
    }

    /// Those that are over, and what was missed.
    pub(super) fn tell_executions(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        let Some(executions) = &mut self.executions else { return };
        if at.boot >= executions.looked + LOOK_EVERY {
            executions.looked = at.boot;
            self.attributor.look_for_followed(proc, at);
        }
        told.extend(self.attributor.over(at).into_iter().map(|over| ended(over, at)));
        if executions.missed.is_some_and(|(from, _)| at.boot >= from.boot + TELL_EVERY) {
            told.extend(executions.tell_missed(at));
        }
    }

    /// At the end of the watch: all that ended, without waiting for its last words.
    pub fn end_executions(&mut self, at: Moment) -> Vec<Event> {
        let Some(executions) = &mut self.executions else { return Vec::new() };
        let missed = executions.tell_missed(at);
        let later = Moment { boot: at.boot + TELL_EVERY, ..at };
        let over = self.attributor.over(later).into_iter().map(|over| ended(over, at));
        over.chain(missed).collect()
    }

    /// Notices of processes were lost: who ended meanwhile is found gone.
    pub(super) fn doubt_executions(&mut self) {
        if let Some(executions) = &mut self.executions {
            executions.looked = Duration::ZERO;
        }
    }
}

impl Executions {
    fn miss(&mut self, at: Moment) {
        self.missed.get_or_insert((at, 0)).1 += 1;
    }

    fn tell_missed(&mut self, at: Moment) -> Option<Event> {
        let (from, count) = self.missed.take()?;
        let detail = "programs that had ended before they could be read, or more at once than are followed";
        Some(Event::lost(from, at, "executions_missed", Some(count), Some(detail.to_owned())))
    }
}

fn ended(over: Execution, at: Moment) -> Event {
    let Execution { lineage, origin, started, connections, ended, end } = over;
    let fate = match end {
        ExecutionEnd::Exited(status) => status.map_or(ProcessFate::Unknown, ProcessFate::of),
        ExecutionEnd::Executed => ProcessFate::Executed,
        ExecutionEnd::Vanished => ProcessFate::Unknown,
    };
    let end = ProcessEnd { who: Actor { lineage, origin }, started, ended, fate, connections };
    Event { at, what: What::ProcessEnded(Box::new(end)) }
}
