//! The UDP flows that are open now, and what a reading changes about them.
//!
//! A flow is a socket and its remote end: one that is connected to another end is another flow. Pure, as all of `table`.

use std::collections::HashSet;
use std::sync::Arc;

use super::Table;
use crate::connection::{Flows, Key, Moment, Netns, Socket, TcpState};

/// What one reading changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FlowDelta {
    /// Connected, and never seen before.
    pub opened: Vec<Socket>,
    /// Their socket is connected to another end now.
    pub moved: Vec<Key>,
    /// Their row is absent from this complete reading.
    pub absent: Vec<Key>,
}

impl Table {
    /// Takes a reading of UDP sockets: marks what it shows, answers what it changes. Nothing is opened or closed here.
    pub fn take_flows(&mut self, flows: &Flows, at: Moment) -> FlowDelta {
        let netns = flows.netns;
        let key = |row: &Socket| Some(Key { netns, tuple: row.tuple, inode: row.inode? });
        let mut delta = FlowDelta::default();
        let mut shown = HashSet::new();
        // Whose flow it is was decided at first sight: a server's socket that is bound later, or gone, turns none round.
        for key in flows.inbound.iter().filter_map(key) {
            shown.insert(key);
            if !self.mark_flow(&key, at) {
                self.served.insert(key);
            }
        }
        for row in &flows.outbound {
            let Some(key) = key(row) else { continue };
            if shown.insert(key) && !self.mark_flow(&key, at) && !self.served.contains(&key) {
                delta.opened.push(*row);
            }
        }
        if flows.complete {
            self.served.retain(|key| key.netns != netns || shown.contains(key));
            self.miss_flows(netns, &shown, at, &mut delta);
        }
        delta
    }

    /// True if it is open.
    fn mark_flow(&mut self, key: &Key, at: Moment) -> bool {
        let Some(entry) = self.flows.get_mut(key) else { return false };
        (entry.absent, entry.absent_from, entry.unseen) = (0, None, false);
        let flow = Arc::make_mut(&mut entry.connection);
        // One that sent unconnected may be connected since.
        (flow.last_seen, flow.state) = (at, TcpState::Established);
        true
    }

    fn miss_flows(&mut self, netns: Netns, shown: &HashSet<Key>, at: Moment, delta: &mut FlowDelta) {
        let sockets: HashSet<_> = shown.iter().map(|key| key.inode).collect();
        for (key, entry) in &mut self.flows {
            // No table shows to whom an unconnected socket sends.
            let is_connected = entry.connection.state == TcpState::Established;
            if key.netns != netns || shown.contains(key) || !is_connected {
                continue;
            }
            entry.absent = entry.absent.saturating_add(1);
            entry.absent_from.get_or_insert(at);
            let gone = if sockets.contains(&key.inode) { &mut delta.moved } else { &mut delta.absent };
            gone.push(*key);
        }
        delta.moved.sort_unstable();
        delta.absent.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::connection::{Connection, Direction, Inode, Seen, Transport, Tuple};
    use crate::process::{Attribution, Reason};

    const NETNS: Netns = Netns(1);

    fn at(second: u64) -> Moment {
        let wall = jiff::Timestamp::from_second(1_800_000_000 + second.cast_signed()).unwrap();
        Moment { wall, boot: Duration::from_secs(1_000 + second) }
    }

    fn row(remote: u16, inode: u64) -> Socket {
        Socket {
            tuple: Tuple { local: ([10, 0, 0, 1], 50_000).into(), remote: ([203, 0, 113, 7], remote).into() },
            state: TcpState::Established,
            uid: 1_000,
            inode: Inode::new(inode),
            timewait_left: None,
            cookie: None,
            device: 0,
        }
    }

    fn key(remote: u16, inode: u64) -> Key {
        Key { netns: NETNS, tuple: row(remote, inode).tuple, inode: Inode::new(inode).unwrap() }
    }

    fn flows(outbound: &[Socket], inbound: &[Socket]) -> Flows {
        Flows { netns: NETNS, outbound: outbound.to_vec(), inbound: inbound.to_vec(), complete: true }
    }

    fn open(table: &mut Table, key: Key, transport: Transport) {
        let connection = Connection {
            id: uuid::Uuid::nil(),
            netns: key.netns,
            inode: Some(key.inode),
            cookie: None,
            transport,
            tuple: key.tuple,
            direction: Direction::Egress,
            state: TcpState::Established,
            uid: None,
            user: None,
            seen: Seen::Poll,
            opened: at(0),
            last_seen: at(0),
            attribution: Attribution::Unknown(Reason::Budget),
            way: None,
        };
        table.open(key, connection, 0, true);
    }

    #[test]
    fn a_flow_opens_once_and_is_absent_once_its_row_is() {
        let mut table = Table::new();
        let both = [row(53, 7), row(53, 7)];
        assert_eq!(table.take_flows(&flows(&both, &[]), at(1)).opened, [row(53, 7)]);
        open(&mut table, key(53, 7), Transport::Udp);
        assert_eq!(table.take_flows(&flows(&both, &[]), at(2)), FlowDelta::default());
        let incomplete = Flows { complete: false, ..flows(&[], &[]) };
        assert_eq!(table.take_flows(&incomplete, at(3)), FlowDelta::default());
        assert_eq!(table.take_flows(&flows(&[], &[]), at(4)).absent, [key(53, 7)]);
        let entry = table.get(&key(53, 7)).unwrap();
        assert_eq!((entry.absent, entry.absent_from), (1, Some(at(4))));
        assert!(table.close(&key(53, 7), at(5)).is_some() && table.is_empty());
    }

    #[test]
    fn a_socket_that_is_connected_elsewhere_is_another_flow() {
        let mut table = Table::new();
        open(&mut table, key(53, 7), Transport::Udp);
        let delta = table.take_flows(&flows(&[row(443, 7)], &[]), at(1));
        assert_eq!((delta.moved, delta.opened), (vec![key(53, 7)], vec![row(443, 7)]));
    }

    #[test]
    fn a_servers_flow_stays_its_own_when_the_server_is_gone() {
        let mut table = Table::new();
        assert_eq!(table.take_flows(&flows(&[], &[row(9, 7)]), at(1)), FlowDelta::default());
        assert_eq!(table.take_flows(&flows(&[row(9, 7)], &[]), at(2)), FlowDelta::default());
        assert_eq!(table.take_flows(&flows(&[], &[]), at(3)), FlowDelta::default());
        assert_eq!(table.take_flows(&flows(&[row(9, 7)], &[]), at(4)).opened, [row(9, 7)], "another by now");
    }

    #[test]
    fn a_connection_and_a_flow_between_the_same_ends_are_two() {
        let mut table = Table::new();
        open(&mut table, key(443, 7), Transport::Tcp);
        open(&mut table, key(443, 8), Transport::Udp);
        assert_eq!((table.len(), table.iter().count()), (2, 2));
        assert_eq!(table.between(NETNS, key(443, 7).tuple), Some(key(443, 7)), "the connection");
        table.close(&key(443, 8), at(1));
        assert!(table.get(&key(443, 7)).is_some() && table.get(&key(443, 8)).is_none());
        assert!(!table.may_know_end(NETNS, key(443, 8).tuple, at(1)), "no TIME_WAIT comes of a flow");
    }
}
