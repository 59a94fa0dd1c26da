//! From where and through what: asked when a connection is opened or passes to another owner.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use super::clients::is_own;
use crate::connection::{Connection, Direction, Key, Netns, Transport};
use crate::event::Actor;
use crate::origin::Question;
use crate::proc::{Held, Proc};
use crate::process::{Asker, Attribution, Lineage};
use crate::ssh;
use crate::way::{Origin, Way};

impl Pipeline {
    /// The way to a connection of this owner, which opened it at this time. `None`: the owner is not known.
    pub(super) fn way_of(
        &mut self,
        proc: &Proc,
        key: &Key,
        direction: Direction,
        attribution: &Attribution,
        held: Option<&Rc<Held>>,
        opened: Duration,
    ) -> Option<Way> {
        let Attribution::Owned { lineage, .. } = attribution else { return None };
        let held = held.map(Rc::as_ref);
        let id = self.table.get(key).map(|entry| entry.connection.id);
        Some(match direction {
            Direction::Ingress => Way {
                origin: Arc::new(self.origins.inbound(proc, lineage, held, key.tuple, id).0),
                route: None,
                ssh: None,
                is_ssh: ssh::is_server(&lineage.process),
                listening: Vec::new(),
            },
            Direction::Egress => {
                let mut way = self.way_out(proc, key.netns, lineage, held);
                let entry = self.table.get(key);
                if entry.is_some_and(|entry| entry.connection.transport == Transport::Udp) {
                    // What an SSH client asks a name server is no SSH: of a flow only who made it is told, and from where.
                    way = Way { route: None, ssh: None, is_ssh: false, ..way };
                } else if is_own(&way) && self.is_connected(proc, key, attribution, held, opened) {
                    way = way.for_its_server();
                }
                way
            }
        })
    }

    /// The way of a process that makes a connection, or rides on one.
    pub(super) fn way_out(
        &mut self,
        proc: &Proc,
        netns: Netns,
        lineage: &Lineage,
        owner: Option<&Held>,
    ) -> Way {
        let origin = self.origin_of(proc, netns, lineage, owner);
        let (process, ancestry) = (&lineage.process, &lineage.ancestry);
        Way {
            origin,
            route: Some(ssh::route(process, ancestry)),
            ssh: ssh::meaning(process, ancestry).map(Arc::new),
            is_ssh: ssh::is_client(process) || ssh::is_server(process),
            listening: Vec::new(),
        }
    }

    /// The way of whoever asked for a connection, as the audit log has it: of one that has gone, that of its parent.
    pub(super) fn way_of_asker(
        &mut self,
        proc: &Proc,
        netns: Netns,
        asker: &Asker,
        held: Option<&Held>,
    ) -> Option<Way> {
        match asker {
            Asker::Living(lineage) => Some(self.way_out(proc, netns, lineage, held)),
            Asker::Departed(departed) => Some(Way {
                origin: self.origin_of(proc, netns, departed.parent.as_ref()?, None),
                route: None,
                ssh: None,
                is_ssh: false,
                listening: Vec::new(),
            }),
        }
    }

    /// The session that a process belongs to.
    pub(super) fn origin_of(
        &mut self,
        proc: &Proc,
        netns: Netns,
        lineage: &Lineage,
        owner: Option<&Held>,
    ) -> Arc<Origin> {
        let question =
            Question { lineage, owner, ports: &self.server_ports, listeners: &self.server_processes };
        let mut origin = self.origins.find(proc, question);
        if let Some(tuple) = origin.inbound.filter(|_| self.select.inbound) {
            let inbound = self.table.between(netns, tuple).or_else(|| self.table.between(self.own, tuple));
            let inbound = inbound.and_then(|inbound| self.table.get(&inbound)).filter(|entry| entry.told);
            // That of one that has ended is remembered with it.
            if let Some(entry) = inbound {
                Arc::make_mut(&mut origin).connection = Some(entry.connection.id);
            }
        }
        origin
    }

    /// The same of one that did something, by its number: still the one that was read, or its ancestors tell alone.
    pub(super) fn actor(&mut self, proc: &Proc, lineage: Arc<Lineage>) -> Actor {
        let owner = proc.hold(lineage.process.pid).ok();
        let origin = self.origin_of(proc, self.own, &lineage, owner.as_ref());
        Actor { lineage, origin: Some(origin) }
    }

    /// True if a connection is told: it goes to a port that was chosen, or an SSH client or server owns it.
    pub(super) fn is_chosen(&self, connection: &Connection) -> bool {
        match connection.direction {
            Direction::Ingress => true,
            Direction::Egress => {
                self.select.ports.contains(connection.tuple.remote.port())
                    || connection.way.as_ref().is_some_and(|way| way.is_ssh)
            }
        }
    }
}
