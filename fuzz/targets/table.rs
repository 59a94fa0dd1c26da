//! The table differ: whatever snapshots follow each other, no connection opens twice, none ends that is not open, none
//! ends whose row stands, and what is open at the end is what the driver was told.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use portreeve::connection::{
    Connection, Cookie, Direction, Inode, Key, Moment, Netns, Seen, Snapshot, Socket, TcpState, Tuple,
};
use portreeve::process::{Attribution, Reason};
use portreeve::table::{ABSENT_READS, Delta, Table};
use uuid::Uuid;

use super::bytes::Bytes;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut driver = Driver::default();
    let mut boot = 1_000_000;
    for number in 0..64 {
        if bytes.is_empty() {
            break;
        }
        // Up to four minutes: TIME_WAIT runs out in between.
        boot += u64::from(bytes.u8()) * 1_000;
        let snapshot = snapshot(&mut bytes, number == 0);
        driver.step(&snapshot, moment(boot));
    }
}

fn moment(boot_ms: u64) -> Moment {
    let wall = Timestamp::from_millisecond(1_800_000_000_000 + boot_ms.cast_signed()).unwrap();
    Moment { wall, boot: Duration::from_millis(boot_ms) }
}

fn snapshot(bytes: &mut Bytes<'_>, standing: bool) -> Snapshot {
    // A socket's direction is told by its ends: in one snapshot all between the same ends have the same.
    let (flags, inbound) = (bytes.u8(), bytes.u8());
    let mut snapshot = Snapshot {
        netns: Netns(u64::from(flags >> 6 & 1) + 1),
        complete: flags & 3 != 0,
        noticed: flags & 4 != 0,
        standing: standing && flags & 8 != 0,
        ..Snapshot::default()
    };
    for _ in 0..flags >> 4 & 3 | flags & 16 {
        let (word, more) = (bytes.u8(), bytes.u8());
        let row = row(word, more);
        let inwards = inbound >> (word & 3) & 0x11 == 0x11;
        if inwards { snapshot.inbound.push(row) } else { snapshot.outbound.push(row) }
    }
    snapshot
}

/// One of four pairs of ends and four sockets, in any state.
fn row(word: u8, more: u8) -> Socket {
    let inode =
        Inode::new(u64::from(word >> 2 & 3) + u64::from(word & 3) * 4 + 1).filter(|_| word & 0x80 != 0);
    let state = match (inode, word >> 4 & 7) {
        (Some(_), 0) => TcpState::SynSent,
        (Some(_), 1) => TcpState::CloseWait,
        (Some(_), _) => TcpState::Established,
        (None, 0) => TcpState::FinWait1,
        (None, 1) => TcpState::LastAck,
        (None, _) => TcpState::TimeWait,
    };
    Socket {
        tuple: Tuple {
            local: ([10, 0, 0, 1], 50_000 + u16::from(word & 3)).into(),
            remote: ([203, 0, 113, 7], 22).into(),
        },
        state,
        uid: 1000,
        inode,
        timewait_left: (state == TcpState::TimeWait).then(|| Duration::from_secs(u64::from(more >> 2))),
        cookie: inode.filter(|_| more & 2 != 0).and_then(|inode| Cookie::new(inode.get())),
        device: 0,
    }
}

/// What the pipeline does with a table, without its lookups.
#[derive(Default)]
struct Driver {
    table: Table,
    open: HashSet<Key>,
}

impl Driver {
    fn step(&mut self, snapshot: &Snapshot, at: Moment) {
        let delta = self.table.take(snapshot, at);
        self.judge(&delta, snapshot);
        let absent = delta.absent.iter().filter(|key| self.table.get(key).unwrap().absent >= ABSENT_READS);
        let over: HashSet<Key> = delta.ended.iter().chain(&delta.replaced).chain(absent).copied().collect();
        for key in over {
            assert!(self.table.close(&key, at).is_some(), "{key:?} cannot be closed");
            assert!(self.open.remove(&key));
        }
        for socket in &delta.opened {
            let key = key(snapshot.netns, socket).expect("only what somebody holds is open");
            assert_eq!(self.table.between(key.netns, key.tuple), None, "two sockets between the same ends");
            self.table.open(key, connection(key, socket, at), 0, true);
            assert!(self.open.insert(key), "{key:?} opened twice");
        }
        assert_eq!(self.table.iter().map(|(key, _)| key).collect::<HashSet<_>>(), self.open);
    }

    fn judge(&self, delta: &Delta, snapshot: &Snapshot) {
        let rows: HashSet<Key> =
            snapshot.outbound.iter().filter_map(|row| key(snapshot.netns, row)).collect();
        for key in delta.ended.iter().chain(&delta.replaced).chain(&delta.absent) {
            assert!(self.open.contains(key), "the end of {key:?}, which was never open");
        }
        for key in delta.replaced.iter().chain(&delta.absent) {
            assert!(!rows.contains(key), "{key:?} stands in this very reading");
        }
        assert!(delta.absent.is_empty() || snapshot.complete, "absence is told by a complete reading only");
        assert!(delta.established.iter().all(|key| self.open.contains(key)), "established, and not open");
        for socket in &delta.passed {
            let open = self.table.between(snapshot.netns, socket.tuple);
            assert_eq!(open, None, "an open connection is no passed one");
        }
    }
}

fn key(netns: Netns, socket: &Socket) -> Option<Key> {
    Some(Key { netns, tuple: socket.tuple, inode: socket.inode? })
}

fn connection(key: Key, socket: &Socket, at: Moment) -> Connection {
    Connection {
        id: Uuid::nil(),
        netns: key.netns,
        inode: Some(key.inode),
        cookie: socket.cookie,
        tuple: key.tuple,
        state: socket.state,
        uid: Some(socket.uid),
        user: None,
        seen: Seen::Poll,
        opened: at,
        last_seen: at,
        attribution: Attribution::Unknown(Reason::Budget),
        way: None,
        direction: Direction::Egress,
    }
}
