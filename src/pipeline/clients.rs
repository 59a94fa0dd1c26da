//! Which of an SSH client's connections is its own, and which it opens for its server (`-R`).
//!
//! A client opens nothing for its server before its own connection stands, and lets go of one attempt before it makes the
//! next. So its own is the first of those that it holds, however late that comes to be known: by the descriptors, of which a
//! process is given the lowest that is free, or else by when they were opened. A client that goes into the background
//! leaves its connection to a child, whose descriptors show it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use crate::connection::{Connection, Direction, Inode, Key, Moment, TcpState, Transport};
use crate::event::Event;
use crate::proc::{Held, Proc, Sight};
use crate::process::{Attribution, Process};
use crate::ssh::{self, Route};
use crate::way::Way;

/// As many descriptors of a client are looked at.
const MOST_DESCRIPTORS: usize = 256;

/// A process, and no later one of its number.
type Id = (u32, u64);

/// Connections of SSH processes that are followed, whatever is known of them beside.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_process: HashMap<Id, BTreeSet<Key>>,
    by_key: HashMap<Key, Id>,
}

impl Clients {
    fn add(&mut self, key: Key, process: &Process) {
        self.remove(&key);
        self.by_key.insert(key, id(process));
        self.by_process.entry(id(process)).or_default().insert(key);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(id) = self.by_key.remove(key) else { return };
        if let Some(keys) = self.by_process.get_mut(&id) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_process.remove(&id);
            }
        }
    }

    /// Those of one process but this.
    fn others(&self, process: &Process, but: &Key) -> impl Iterator<Item = Key> {
        self.by_process.get(&id(process)).into_iter().flatten().filter(move |key| *key != but).copied()
    }
}

fn id(process: &Process) -> Id {
    (process.pid, process.start_ticks)
}

/// When a client opened a connection, by both kinds of evidence.
#[derive(Debug, Clone, Copy)]
struct Opened {
    descriptor: Option<u32>,
    at: Duration,
}

impl Opened {
    fn of(attribution: &Attribution, at: Duration) -> Self {
        let descriptor = match attribution {
            Attribution::Owned { lineage, holders, .. } => {
                holders.first().filter(|holder| holder.pid == lineage.process.pid).map(|holder| holder.fd)
            }
            _ => None,
        };
        Self { descriptor, at }
    }

    fn is_before(self, other: Self) -> bool {
        match (self.descriptor, other.descriptor) {
            (Some(own), Some(other)) => own < other,
            _ => self.at < other.at,
        }
    }
}

impl Pipeline {
    /// True if a client has its own connection before it opens this one. `at`: when it does.
    pub(super) fn is_connected(
        &self,
        proc: &Proc,
        key: &Key,
        attribution: &Attribution,
        held: Option<&Held>,
        at: Duration,
    ) -> bool {
        let Attribution::Owned { lineage, .. } = attribution else { return false };
        let this = Opened::of(attribution, at);
        let mut others = self.clients.others(&lineage.process, key);
        others.any(|other| self.is_own_before(proc, &other, this))
            || held.is_some_and(|held| self.holds_another(proc, key, held, this.at))
    }

    /// True if this connection of the same client stands, and was opened before.
    fn is_own_before(&self, proc: &Proc, own: &Key, this: Opened) -> bool {
        let Some(entry) = self.table.get(own).filter(|entry| may_be_own(&entry.connection)) else {
            return false;
        };
        let Connection { attribution, opened, state, .. } = entry.connection.as_ref();
        Opened::of(attribution, opened.boot).is_before(this)
            // That it was answered may not have been told yet: an attempt that fails is let go of before the next is made.
            && (*state != TcpState::SynSent || self.holds.look(proc, own) == Sight::Stands)
    }

    /// True if the process holds the socket of another connection, which it opened, or was left, before this one.
    fn holds_another(&self, proc: &Proc, key: &Key, held: &Held, at: Duration) -> bool {
        let mut sockets: HashMap<Inode, u32> = HashMap::new();
        let _none_if_denied = proc.read_sockets(held, None, |holder, inode| {
            sockets.insert(inode, holder.fd);
            sockets.len() < MOST_DESCRIPTORS
        });
        let this = Opened { descriptor: sockets.remove(&key.inode), at };
        // At most times that was all.
        !sockets.is_empty()
            && self.table.iter().any(|(other, entry)| {
                let connection = entry.connection.as_ref();
                let opened = |descriptor| Opened { descriptor, at: connection.opened.boot };
                sockets.get(&other.inode).is_some_and(|fd| {
                    other != *key && may_be_own(connection) && opened(Some(*fd)).is_before(this)
                })
            })
    }

    /// The owner of a connection has become known: those that its client opened later, and that were taken for its own,
    /// are its server's.
    pub(super) fn learn_client(&mut self, proc: &Proc, key: Key, at: Moment, told: &mut Vec<Event>) {
        let connection = self.table.get(&key).map(|entry| Arc::clone(&entry.connection));
        let Some(connection) = connection.filter(|connection| may_be_own(connection)) else { return };
        let (Attribution::Owned { lineage, .. }, Some(way)) = (&connection.attribution, &connection.way)
        else {
            return;
        };
        if !way.is_ssh {
            return;
        }
        self.clients.add(key, &lineage.process);
        if !is_own(way) {
            return;
        }
        let others: Vec<Key> = self.clients.others(&lineage.process, &key).collect();
        for other in others {
            let Some(later) = self.table.get(&other).map(|entry| Arc::clone(&entry.connection)) else {
                continue;
            };
            let Some(old) = later.way.as_ref().filter(|way| is_own(way)) else { continue };
            if self.is_own_before(proc, &key, Opened::of(&later.attribution, later.opened.boot)) {
                let way = Way::clone(old).for_its_server();
                self.tell_way(&other, old, way, None, at, told);
            }
        }
    }
}

/// True unless it is known to be no client's connection to its server.
fn may_be_own(connection: &Connection) -> bool {
    let is_others = match &connection.attribution {
        Attribution::Owned { lineage, .. } => !ssh::is_client(&lineage.process),
        _ => false,
    };
    connection.direction == Direction::Egress && connection.transport == Transport::Tcp && !is_others
}

/// True if it was taken for the client's own.
pub(super) fn is_own(way: &Way) -> bool {
    matches!(way.route, Some(Route::Direct | Route::MuxMaster))
}
