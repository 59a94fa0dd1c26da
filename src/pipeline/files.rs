//! Changes of SSH's files: who made them, and what of many writes is told.

use std::collections::HashMap;
use std::time::Duration;

use super::Pipeline;
use crate::connection::Moment;
use crate::event::{Actor, Event, FileChanged, Unseen, What};
use crate::files::{Change, FileNotice, Witness};
use crate::proc::Proc;

/// Writes of one process to one file are told once in this time.
const WRITES_TOLD_EVERY: Duration = Duration::from_secs(1);
/// So long a process that has written to a file may close it without a word.
const CLOSE_EXPECTED: Duration = Duration::from_secs(10);
/// As many pairs of file and process are remembered; of those beyond, every write is told.
const MOST: usize = 1_024;

/// Who has written lately.
#[derive(Debug, Default)]
pub(super) struct Files {
    writers: HashMap<(Vec<u8>, Option<u32>), Writer>,
}

#[derive(Debug)]
struct Writer {
    told: Moment,
    again: u64,
    by: Witness,
    who: Result<Actor, Unseen>,
}

impl Pipeline {
    pub(super) fn take_file(&mut self, proc: &Proc, notice: FileNotice, at: Moment, told: &mut Vec<Event>) {
        let FileNotice { path, mut changes, pid, by } = notice;
        let only_writes = changes.iter().all(|change| matches!(change, Change::Modified | Change::Written));
        let writes = changes.contains(&Change::Modified);
        // Who writes and closes is not told to have closed.
        changes.retain(|change| *change != Change::Written || !writes);
        let key = (path, pid);
        if let Some(writer) = self.files.writers.get_mut(&key).filter(|_| only_writes) {
            let passed = at.boot.saturating_sub(writer.told.boot);
            if writes && passed < WRITES_TOLD_EVERY || !writes && passed < CLOSE_EXPECTED {
                writer.again += u64::from(writes);
                return;
            }
        }
        let who = self.who_changed(proc, pid);
        if writes && self.files.writers.len() < MOST {
            let writer = Writer { told: at, again: 0, by, who: who.clone() };
            self.files.writers.insert(key.clone(), writer);
        }
        let (path, _) = key;
        told.push(event(FileChanged { path, changes, by, repeated: 0, who }, at));
    }

    fn who_changed(&mut self, proc: &Proc, pid: Option<u32>) -> Result<Actor, Unseen> {
        let pid = pid.ok_or(Unseen::NotTold)?;
        let lineage = self.attributor.lineage_of(proc, pid);
        let lineage = lineage.or_else(|| self.attributor.remembered_of(pid)).ok_or(Unseen::Vanished)?;
        Ok(self.actor(proc, lineage))
    }

    /// Writes that were not told when they came.
    pub(super) fn tell_repeated_changes(&mut self, at: Moment, told: &mut Vec<Event>) {
        if self.files.writers.is_empty() {
            return;
        }
        self.files.writers.retain(|(path, _), writer| {
            let passed = at.boot.saturating_sub(writer.told.boot);
            if writer.again > 0 && passed >= WRITES_TOLD_EVERY {
                let (repeated, who) = (std::mem::take(&mut writer.again), writer.who.clone());
                let (path, changes) = (path.clone(), vec![Change::Modified]);
                told.push(event(FileChanged { path, changes, by: writer.by, repeated, who }, at));
                writer.told = at;
            }
            passed < CLOSE_EXPECTED
        });
    }
}

fn event(file: FileChanged, at: Moment) -> Event {
    Event { at, what: What::FileChanged(Box::new(file)) }
}
