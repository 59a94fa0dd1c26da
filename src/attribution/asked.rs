//! Who asked for a connection, as the audit log has it: read from `/proc` as long as it is there.
//!
//! A pid may be another process's by the time the log is read. One that was running when the connection was asked for is
//! the one that asked: a later one with its number would have started later.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Attributor;
use crate::audit::Connect;
use crate::proc::{Held, Proc};
use crate::process::{Asker, Departed, Lineage, Login, Process};

/// The kernel counts starts in hundredths of a second, and stamps audit records by a clock of whole ticks.
const SLACK: Duration = Duration::from_millis(20);

impl Attributor {
    /// Who asked, `at` so long after boot; and the process, if it is there.
    pub fn asker(&mut self, proc: &Proc, connect: &Connect, at: Duration) -> (Asker, Option<Rc<Held>>) {
        self.begin_tick();
        if let Some((lineage, held)) = self.living(proc, connect.pid, at)
            && is_meant(&lineage.process, connect)
        {
            return (Asker::Living(lineage), Some(held));
        }
        let parent = self.living(proc, connect.ppid, at).map(|(parent, _)| parent);
        (Asker::Departed(Box::new(self.departed(connect, parent))), None)
    }

    /// A process that was running then, and its ancestors.
    fn living(&mut self, proc: &Proc, pid: u32, at: Duration) -> Option<(Arc<Lineage>, Rc<Held>)> {
        let known = self.know(proc, Rc::new(proc.hold(pid).ok()?))?;
        let was_running = proc.started(&known.process) <= at + SLACK;
        was_running.then(|| (self.lineage(proc, &known), Rc::clone(&known.held)))
    }

    fn departed(&mut self, connect: &Connect, parent: Option<Arc<Lineage>>) -> Departed {
        let Connect { pid, ids, tty, comm, executable, args, args_cut, .. } = connect.clone();
        let mut args = args;
        let redacted = self.masker.mask(&mut args);
        let effective = (ids.effective_uid != ids.real_uid).then_some(ids.effective_uid);
        Departed {
            pid,
            comm,
            executable,
            args,
            args_cut,
            redacted,
            tty,
            ids,
            user: (self.user_name)(ids.real_uid),
            effective_user: effective.and_then(|uid| (self.user_name)(uid)),
            login: connect.login.map(|(uid, session)| Login { uid, user: (self.user_name)(uid), session }),
            parent,
        }
    }
}

/// It may have become another program since: then the log knows better who it was.
fn is_meant(process: &Process, connect: &Connect) -> bool {
    match (&process.executable, &connect.executable) {
        (Some(now), Some(then)) => now == then,
        _ => true,
    }
}
