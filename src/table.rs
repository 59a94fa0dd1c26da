//! The connections that are open now, and what a snapshot changes about them.
//!
//! Pure: no `/proc`, no clock, no randomness. A row that is absent proves nothing, because a table read is not a
//! snapshot: the table says what is absent and how often, and the pipeline decides with the descriptor's evidence.

mod flows;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use crate::connection::{
    Connection, Cookie, Counts, Direction, Inode, Key, Moment, Netns, Snapshot, Socket, TcpState, Transport,
    Tuple,
};

pub use flows::FlowDelta;

/// A row must be absent from this many complete reads to be believed gone while its descriptor stands.
pub const ABSENT_READS: u8 = 3;

/// A second TIME_WAIT of one tuple is another connection's if it will last this much longer than the first: a
/// repeated FIN of the other end starts the timer anew, by at most a few seconds.
const TIMER_SLACK: Duration = Duration::from_secs(5);
/// So long it lasts (TCP_TIMEWAIT_LEN), and so inexact its timer is. Ports are used again after a second at the earliest.
const TIME_WAIT: Duration = Duration::from_secs(60);
const TIMER_ERROR: Duration = Duration::from_millis(500);
/// An end without a timer (its last bytes are still on their way) is remembered this long after its last sight.
const TAIL_KEPT: Duration = Duration::from_secs(130);
/// As many ends are remembered, 24 bytes each. A flood that has more is not told from its TIME_WAITs any more: they
/// could be those of connections that were told.
const MOST_TAILS: usize = 131_072;

/// A connection that is open, as the table keeps it.
#[derive(Debug)]
pub struct Entry {
    /// What the records tell.
    pub connection: Arc<Connection>,
    /// False if a filter proved it unwanted: it is followed so that it is not judged again, and never told.
    pub told: bool,
    inode: Inode,
    /// Device that the socket is bound to, for exact lookups.
    pub device: u32,
    /// True until it has been seen in this run: it was open when the one before ended.
    pub unseen: bool,
    /// As of the last exact lookup.
    pub counts: Option<Counts>,
    /// Complete reads without its row since the last that had it.
    pub absent: u8,
    /// The first of them.
    pub absent_from: Option<Moment>,
    read: u64,
}

/// What one snapshot changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Alive and never seen before.
    pub opened: Vec<Socket>,
    /// Inbound ones that are followed, alive and not followed before; true if it stood then.
    pub accepted: Vec<(Socket, bool)>,
    /// True if one of those was not taken yet by the process that listens for it.
    pub unaccepted: bool,
    /// Never seen alive: only their end is in the table.
    pub passed: Vec<Socket>,
    /// Their handshake ended.
    pub established: Vec<Key>,
    /// Their last states are in the table: they were established, and are over.
    pub ended: Vec<Key>,
    /// Another socket uses their ports: they are over.
    pub replaced: Vec<Key>,
    /// Their row is absent from this complete read.
    pub absent: Vec<Key>,
    /// Ends that stood before the watch: counted and not told.
    pub standing_ends: u64,
    /// Ends that may be those of connections that were told: counted and not told.
    pub doubtful_ends: u64,
    /// Rows that came more than once, or beside another socket's between the same ends.
    pub duplicates: u64,
}

/// What a row is, by who connected and whether that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Outbound,
    Inbound,
    /// Inbound, and followed.
    Accepted,
}

/// The end of a connection that is known already.
#[derive(Debug, Clone, Copy)]
struct Tail {
    until_ms: u64,
    time_wait: bool,
}

/// Ends that are known, by a hash of namespace and ports: a flood has many.
#[derive(Debug, Default)]
struct Tails {
    hasher: RandomState,
    known: HashMap<u64, Tail>,
    /// Until then a known end may have been forgotten.
    doubtful_until: Duration,
}

impl Tails {
    /// Remembers an end; answers what was known of it. `None` also where nothing is sure.
    fn insert(&mut self, place: &(Netns, Tuple), until: Duration, time_wait: bool) -> Option<Tail> {
        let tail = Tail { until_ms: u64::try_from(until.as_millis()).unwrap_or(u64::MAX), time_wait };
        let place = self.hasher.hash_one(place);
        if self.known.len() >= MOST_TAILS && !self.known.contains_key(&place) {
            self.doubtful_until = self.doubtful_until.max(until);
            return None;
        }
        self.known.insert(place, tail)
    }

    fn knows(&self, place: &(Netns, Tuple)) -> bool {
        self.known.contains_key(&self.hasher.hash_one(place))
    }

    /// True if the TIME_WAIT of a connection that stood at this time is known, and not only that of one before it
    /// between the same ends.
    fn has_time_wait_of(&self, place: &(Netns, Tuple), opened: Duration) -> bool {
        let earliest = (opened + TIME_WAIT).saturating_sub(TIMER_ERROR).as_millis();
        let known = self.known.get(&self.hasher.hash_one(place));
        known.is_some_and(|tail| tail.time_wait && u128::from(tail.until_ms) >= earliest)
    }

    fn forget(&mut self, now: Duration) {
        let slack = TIMER_SLACK.as_millis();
        self.known.retain(|_, tail| u128::from(tail.until_ms) + slack > now.as_millis());
        if self.known.capacity() / 4 > self.known.len() + 64 {
            self.known.shrink_to_fit();
        }
    }
}

/// All of one watch.
#[derive(Debug, Default)]
pub struct Table {
    live: HashMap<(Netns, Tuple), Entry>,
    /// UDP flows: their socket tells them from what stands in `live` between the same ends.
    flows: HashMap<Key, Entry>,
    /// Connected UDP sockets of servers.
    served: HashSet<Key>,
    cookies: HashMap<Cookie, Key>,
    /// Rows whose other end connected, by first sight: a listener that goes away does not turn them round.
    inbound: HashMap<(Netns, Tuple), (Inode, u64)>,
    tails: Tails,
    /// Of all namespaces together.
    reads: u64,
    /// Of each namespace, the last three, oldest first.
    last_reads: HashMap<Netns, [u64; ABSENT_READS as usize]>,
}

impl Table {
    /// Nothing is open.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len() + self.flows.len()
    }

    /// True if none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.flows.is_empty()
    }

    /// One connection.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        let connection = self.live.get(&(key.netns, key.tuple)).filter(|entry| entry.inode == key.inode);
        connection.or_else(|| self.flows.get(key))
    }

    /// One connection, to be changed.
    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        let connection = self.live.get_mut(&(key.netns, key.tuple)).filter(|entry| entry.inode == key.inode);
        connection.or_else(|| self.flows.get_mut(key))
    }

    /// The open connection whose socket bears this cookie.
    #[must_use]
    pub fn by_cookie(&self, cookie: Cookie) -> Option<Key> {
        self.cookies.get(&cookie).copied()
    }

    /// The open TCP connection between these ends.
    #[must_use]
    pub fn between(&self, netns: Netns, tuple: Tuple) -> Option<Key> {
        self.live.get(&(netns, tuple)).map(|entry| Key { netns, tuple, inode: entry.inode })
    }

    /// True if the other end connected.
    #[must_use]
    pub fn is_inbound(&self, netns: Netns, tuple: Tuple) -> bool {
        let is_followed = |entry: &Entry| matches!(entry.connection.direction, Direction::Ingress);
        self.inbound.contains_key(&(netns, tuple)) || self.live.get(&(netns, tuple)).is_some_and(is_followed)
    }

    /// Takes what an exact lookup showed of an open connection; true if that is established now and was not before.
    pub fn look(&mut self, key: &Key, socket: &Socket, counts: Option<Counts>, at: Moment) -> bool {
        if let Some(cookie) = socket.cookie {
            self.cookies.insert(cookie, *key);
        }
        let Some(entry) = self.get_mut(key) else { return false };
        entry.device = socket.device;
        entry.unseen = false;
        entry.counts = counts.or(entry.counts);
        entry.absent = 0;
        entry.absent_from = None;
        let connection = Arc::make_mut(&mut entry.connection);
        let established = connection.state == TcpState::SynSent && socket.state.was_established();
        (connection.state, connection.last_seen) = (socket.state.of_ours(), at);
        connection.cookie = socket.cookie.or(connection.cookie);
        established
    }

    /// True if the end of a connection between these ends was told lately, or may have been: more ended than are
    /// remembered.
    #[must_use]
    pub fn may_know_end(&self, netns: Netns, tuple: Tuple, at: Moment) -> bool {
        at.boot < self.tails.doubtful_until || self.tails.knows(&(netns, tuple))
    }

    /// Remembers the end of a connection that was never open here, so that its TIME_WAIT is not taken for another.
    pub fn remember_end(&mut self, netns: Netns, tuple: Tuple, at: Moment) {
        self.tails.insert(&(netns, tuple), at.boot + TAIL_KEPT, false);
    }

    /// Forgets what is known of a namespace that is gone; its open connections are closed one by one.
    pub fn forget_namespace(&mut self, netns: Netns) {
        self.inbound.retain(|(of, _), _| *of != netns);
        self.served.retain(|key| key.netns != netns);
        self.last_reads.remove(&netns);
    }

    /// All that are open.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Entry)> {
        let key = |(netns, tuple): &(Netns, Tuple), inode| Key { netns: *netns, tuple: *tuple, inode };
        let connections = self.live.iter().map(move |(place, e)| (key(place, e.inode), e));
        connections.chain(self.flows.iter().map(|(key, e)| (*key, e)))
    }

    /// Adds a connection that `take` reported as opened.
    pub fn open(&mut self, key: Key, connection: Connection, device: u32, told: bool) {
        if let Some(cookie) = connection.cookie {
            self.cookies.insert(cookie, key);
        }
        let transport = connection.transport;
        let entry = Entry {
            connection: Arc::new(connection),
            told,
            inode: key.inode,
            device,
            unseen: false,
            counts: None,
            absent: 0,
            absent_from: None,
            read: self.reads,
        };
        match transport {
            Transport::Tcp | Transport::Untold => self.live.insert((key.netns, key.tuple), entry),
            Transport::Udp => self.flows.insert(key, entry),
        };
    }

    /// Adds a connection that was open when the run before ended.
    pub fn restore(&mut self, key: Key, connection: &Connection) {
        self.open(key, connection.clone(), 0, true);
        if let Some(entry) = self.get_mut(&key) {
            entry.unseen = true;
        }
    }

    /// Removes a connection and remembers its ports, so that its TIME_WAIT is not taken for another.
    pub fn close(&mut self, key: &Key, at: Moment) -> Option<Entry> {
        if let Some(entry) = self.flows.remove(key) {
            self.forget_cookie(&entry, key);
            return Some(entry);
        }
        let opened = self.get(key)?.connection.opened;
        let place = (key.netns, key.tuple);
        if !self.tails.has_time_wait_of(&place, opened.boot) {
            self.tails.insert(&place, at.boot + TAIL_KEPT, false);
        }
        let entry = self.live.remove(&place)?;
        self.forget_cookie(&entry, key);
        if self.live.is_empty() {
            self.live.shrink_to(64);
            self.cookies.shrink_to(64);
        }
        Some(entry)
    }

    /// A socket whose attempt failed may be another attempt's by now, and one that is connected elsewhere another flow's.
    fn forget_cookie(&mut self, entry: &Entry, key: &Key) {
        if let Some(cookie) = entry.connection.cookie.filter(|cookie| self.cookies.get(cookie) == Some(key)) {
            self.cookies.remove(&cookie);
        }
    }

    /// Takes a snapshot: marks what it shows, answers what it changes. Nothing is opened or closed here.
    pub fn take(&mut self, snapshot: &Snapshot, at: Moment) -> Delta {
        self.reads += 1;
        self.tails.forget(at.boot);
        let mut delta = Delta::default();
        // All rows of open connections first: what contradicts one is judged when it is known which of them stand.
        let mut rest = Vec::new();
        let kinds = [
            (&snapshot.outbound, Kind::Outbound),
            (&snapshot.inbound, Kind::Inbound),
            (&snapshot.accepted, Kind::Accepted),
        ];
        for (rows, kind) in kinds {
            let unknown = rows.iter().filter(|row| !self.mark(snapshot.netns, row, kind, at, &mut delta));
            rest.extend(unknown.map(|row| (row, kind)));
        }
        let mut judged = HashSet::new();
        for (socket, kind) in rest {
            if kind != Kind::Inbound && !judged.insert((socket.tuple, socket.inode.is_some())) {
                delta.duplicates += 1;
            } else {
                self.judge(snapshot, socket, kind, at, &mut delta);
            }
        }
        self.forget(snapshot, at, &mut delta);
        delta
    }

    /// True if the row is one of a connection that is open, or of one that is known to be the other end's.
    fn mark(&mut self, netns: Netns, socket: &Socket, kind: Kind, at: Moment, delta: &mut Delta) -> bool {
        if let Some((inode, read)) = self.inbound.get_mut(&(netns, socket.tuple))
            && socket.inode == Some(*inode)
            && kind != Kind::Accepted
        {
            *read = self.reads;
            return true;
        }
        let Some(entry) = self.live.get_mut(&(netns, socket.tuple)) else { return false };
        if socket.inode != Some(entry.inode) {
            return false;
        }
        let connection = Arc::make_mut(&mut entry.connection);
        if connection.state == TcpState::SynSent && socket.state.was_established() {
            delta.established.push(Key { netns, tuple: socket.tuple, inode: entry.inode });
        }
        (connection.state, connection.last_seen) = (socket.state.of_ours(), at);
        if connection.cookie.is_none()
            && let Some(cookie) = socket.cookie
        {
            connection.cookie = Some(cookie);
            self.cookies.insert(cookie, Key { netns, tuple: socket.tuple, inode: entry.inode });
        }
        delta.duplicates += u64::from(entry.read == self.reads);
        (entry.absent, entry.absent_from, entry.read) = (0, None, self.reads);
        entry.unseen = false;
        true
    }

    /// A row that belongs to no open connection, or contradicts one.
    fn judge(&mut self, snapshot: &Snapshot, socket: &Socket, kind: Kind, at: Moment, delta: &mut Delta) {
        let netns = snapshot.netns;
        let place = (netns, socket.tuple);
        let Some(inode) = socket.inode else {
            let news = !snapshot.noticed || self.live.contains_key(&place);
            if socket.state.is_ending() && news {
                self.judge_tail(snapshot, socket, kind == Kind::Outbound, at, delta);
            }
            delta.unaccepted |= kind == Kind::Accepted && socket.state == TcpState::Established;
            return;
        };
        if kind == Kind::Inbound {
            self.inbound.insert(place, (inode, self.reads));
            return;
        }
        if let Some(entry) = self.live.get(&place) {
            if entry.read == self.reads {
                // Two sockets between the same ends in one reading: the later came while it was read, so that its open
                // is counted after this and calls for another; or they are bound to two devices, and neither goes.
                delta.duplicates += 1;
                return;
            }
            delta.replaced.push(Key { netns, tuple: socket.tuple, inode: entry.inode });
        }
        if kind == Kind::Accepted {
            let stood = self.inbound.remove(&place).is_some_and(|(known, _)| known == inode);
            delta.accepted.push((*socket, stood || snapshot.standing));
        } else {
            delta.opened.push(*socket);
        }
    }

    /// A row without a holder: the end of an open connection, one that is known, or all that is left of one that was
    /// never seen alive.
    fn judge_tail(
        &mut self,
        snapshot: &Snapshot,
        socket: &Socket,
        outbound: bool,
        at: Moment,
        delta: &mut Delta,
    ) {
        let place = (snapshot.netns, socket.tuple);
        let time_wait = socket.state == TcpState::TimeWait;
        let left = socket.timewait_left.filter(|_| time_wait);
        let until = at.boot + left.unwrap_or(TAIL_KEPT);
        let known = self.tails.insert(&place, until, time_wait);
        if let Some(entry) = self.live.get(&place) {
            delta.ended.push(Key { netns: snapshot.netns, tuple: socket.tuple, inode: entry.inode });
            return;
        }
        let later = |old: Tail| until > Duration::from_millis(old.until_ms) + TIMER_SLACK;
        let same = known.is_some_and(|old| !(old.time_wait && time_wait && later(old)));
        match (same || !outbound, snapshot.standing) {
            (true, _) => {}
            (false, true) => delta.standing_ends += 1,
            (false, false) if at.boot < self.tails.doubtful_until => delta.doubtful_ends += 1,
            (false, false) => delta.passed.push(*socket),
        }
    }

    fn forget(&mut self, snapshot: &Snapshot, at: Moment, delta: &mut Delta) {
        if !snapshot.complete {
            return;
        }
        let reads = self.reads;
        let last = self.last_reads.entry(snapshot.netns).or_default();
        last.rotate_left(1);
        if let Some(newest) = last.last_mut() {
            *newest = reads;
        }
        // Three reads for the same reason as below.
        let oldest = last.first().copied().unwrap_or(0);
        self.inbound.retain(|(netns, _), (_, read)| *netns != snapshot.netns || *read >= oldest);
        let ended: HashSet<Key> = delta.ended.iter().chain(&delta.replaced).copied().collect();
        for ((netns, tuple), entry) in &mut self.live {
            let key = Key { netns: *netns, tuple: *tuple, inode: entry.inode };
            if *netns == snapshot.netns && entry.read != reads && !ended.contains(&key) {
                entry.absent = entry.absent.saturating_add(1);
                entry.absent_from.get_or_insert(at);
                delta.absent.push(key);
            }
        }
        delta.absent.sort_unstable();
    }
}

#[cfg(test)]
mod tests;
