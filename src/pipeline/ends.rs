//! Connections that are over: how that is known, and what is told of it.
//!
//! One missing row proves nothing. An end is believed where its TIME_WAIT (or the like) or another socket on its ports
//! is in the table; where the descriptor is gone and the row is absent from a complete read; or where the row is
//! absent from three, because a peer's reset leaves the descriptor standing and an unreadable one tells nothing.

use super::Pipeline;
use crate::connection::{CloseReason, Key, Moment, TcpState};
use crate::event::{Ending, Event, What};
use crate::proc::{Proc, Sight};
use crate::source::gate::Failures;
use crate::table::{ABSENT_READS, Delta};

/// By what an end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// Its last states are in the table.
    Row,
    /// No known holder holds it and its row is absent, or another socket uses its ports.
    LetGo,
    /// Its row is absent from three complete reads.
    Absence,
}

impl Pipeline {
    /// Tells the ends; true if one waits for another read to be confirmed.
    pub(super) fn tell_ends(
        &mut self,
        proc: &Proc,
        delta: &Delta,
        failures: Failures,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> bool {
        for key in &delta.ended {
            self.close(key, Evidence::Row, failures, at, told);
        }
        for key in &delta.replaced {
            self.close(key, Evidence::LetGo, failures, at, told);
        }
        let mut unconfirmed = false;
        for key in &delta.absent {
            let counted = *self.doubts.entry(*key).or_insert(failures);
            let absent = self.table.get(key).map_or(0, |entry| entry.absent);
            if self.holds.look(proc, key) == Sight::Gone {
                self.close(key, Evidence::LetGo, counted, at, told);
            } else if absent >= ABSENT_READS {
                self.close(key, Evidence::Absence, counted, at, told);
            } else {
                unconfirmed = true;
            }
        }
        // A row that is back was missed once; what was counted then says nothing of it.
        self.doubts.retain(|key, _| delta.absent.contains(key) && self.table.get(key).is_some());
        unconfirmed
    }

    pub(super) fn tell_out_of_scope(&mut self, at: Moment) -> Vec<Event> {
        let mut told = Vec::new();
        let out = |key: &Key| !self.select.wants(&key.tuple);
        let mut keys: Vec<Key> = self.table.iter().map(|(key, _)| key).filter(out).collect();
        keys.sort_unstable();
        for key in keys {
            self.finish(&key, (CloseReason::OutOfScope, None), at, at, &mut told);
        }
        told
    }

    fn close(&mut self, key: &Key, by: Evidence, failures: Failures, at: Moment, told: &mut Vec<Event>) {
        let Some(entry) = self.table.get(key) else { return };
        let attempt = entry.connection.state == TcpState::SynSent;
        let ending = match by {
            // States that only an established connection comes to.
            Evidence::Row => (CloseReason::Closed, Some(true)),
            _ if attempt && failures.attempts > 0 => (CloseReason::Failed, Some(false)),
            Evidence::LetGo if attempt => (CloseReason::Cancelled, None),
            Evidence::Absence if attempt => (CloseReason::Failed, None),
            Evidence::Absence if failures.resets > 0 => (CloseReason::Reset, Some(true)),
            Evidence::LetGo | Evidence::Absence => (CloseReason::Closed, Some(true)),
        };
        let gone_by = entry.absent_from.unwrap_or(at);
        self.finish(key, ending, gone_by, at, told);
    }

    fn finish(
        &mut self,
        key: &Key,
        (reason, success): (CloseReason, Option<bool>),
        gone_by: Moment,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Some(entry) = self.table.close(key, at) else { return };
        self.holds.remove(key);
        self.sought.remove(&key.inode);
        self.search.forget(key.inode);
        self.unknown.remove(key);
        if !entry.told {
            return;
        }
        let connection = entry.connection;
        let ending = Ending { reason, success, last_seen: Some(connection.last_seen), gone_by };
        self.totals.closes += 1;
        told.push(Event { at, what: What::Closed { connection, ending } });
    }
}
