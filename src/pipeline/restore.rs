//! Connections that were open when the run before ended.
//!
//! One that stands goes on under its id, without a word. That one has ended meanwhile needs the same evidence as any end.

use std::collections::HashSet;
use std::sync::Arc;

use super::Pipeline;
use super::opens::FIRST_RETRY;
use crate::connection::{CloseReason, Connection, Key, Moment, Netns, TcpState, Transport};
use crate::event::{Ending, Event, What};

impl Pipeline {
    /// Goes on with what the run before followed. Answers the ends of those that are out of scope by now.
    pub fn restore(&mut self, connections: &[Arc<Connection>], at: Moment) -> Vec<Event> {
        let mut told = Vec::new();
        for connection in connections {
            let Some(inode) = connection.inode else { continue };
            let key = Key { netns: connection.netns, tuple: connection.tuple, inode };
            if !self.follows_all && key.netns != self.own || !self.select.keeps(connection) {
                told.push(self.abandon(connection, CloseReason::OutOfScope, at, at));
                continue;
            }
            self.table.restore(key, connection);
            self.expect_flow(key, connection, at);
            // Who holds it is looked for again: the log tells who did.
            self.unknown.insert(key, (at.boot, FIRST_RETRY));
        }
        told
    }

    /// Tells the ends of connections of another boot. `booted`: when this one began.
    pub fn end_with_the_boot(
        &mut self,
        connections: &[Arc<Connection>],
        booted: Moment,
        at: Moment,
    ) -> Vec<Event> {
        let mut told = Vec::new();
        for connection in connections {
            // A clock that was set since: the end is not before the last sight.
            let wall = booted.wall.max(connection.last_seen.wall);
            told.push(self.abandon(connection, CloseReason::Reboot, Moment { wall, ..booted }, at));
        }
        told
    }

    fn abandon(
        &mut self,
        connection: &Arc<Connection>,
        reason: CloseReason,
        gone_by: Moment,
        at: Moment,
    ) -> Event {
        self.totals.closes += 1;
        let established = connection.transport == Transport::Tcp && connection.state != TcpState::SynSent;
        let last_seen = connection.last_seen;
        // The clock may have been set since: what was seen is not gone before that.
        let gone_by = if gone_by.wall < last_seen.wall { at } else { gone_by };
        let ending = Ending {
            reason,
            success: (reason == CloseReason::Reboot && established).then_some(true),
            last_seen: Some(last_seen),
            gone_by,
            exact: false,
            bytes: None,
        };
        Event { at, what: What::Closed { connection: Arc::clone(connection), ending } }
    }

    /// What was open in namespaces that are not there any more.
    pub(super) fn tell_homeless(&mut self, at: Moment, told: &mut Vec<Event>) {
        let stand: HashSet<Netns> = self.spaces.iter().map(|space| space.netns).collect();
        let gone: HashSet<Netns> = self.table.iter().map(|(key, _)| key.netns).collect();
        for netns in gone.difference(&stand) {
            self.tell_vanished(*netns, at, told);
        }
    }

    /// Connections whose open is told and whose close is not.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<Connection>> {
        let told = self.table.iter().filter(|(_, entry)| entry.told).map(|(_, entry)| &entry.connection);
        told.chain(self.ending()).map(Arc::clone).collect()
    }
}
