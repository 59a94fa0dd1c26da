//! The connections that are open now, and what a snapshot changes about them.
//!
//! Pure: no `/proc`, no clock, no randomness. A row that is absent proves nothing, because a table read is not a
//! snapshot: the table says what is absent and how often, and the pipeline decides with the descriptor's evidence.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::connection::{Connection, Inode, Key, Moment, Netns, Snapshot, Socket, TcpState, Tuple};

/// A row must be absent from this many complete reads to be believed gone while its descriptor stands.
pub const ABSENT_READS: u8 = 3;

/// A second TIME_WAIT of one tuple is another connection's if it will last this much longer than the first: a
/// repeated FIN of the other end starts the timer anew, by at most a few seconds.
const TIMER_SLACK: Duration = Duration::from_secs(5);
/// An end without a timer (its last bytes are still on their way) is remembered this long after its last sight.
const TAIL_KEPT: Duration = Duration::from_secs(130);

/// A connection that is open, as the table keeps it.
#[derive(Debug)]
pub struct Entry {
    /// What the records tell.
    pub connection: Arc<Connection>,
    /// False if a filter proved it unwanted: it is followed so that it is not judged again, and never told.
    pub told: bool,
    inode: Inode,
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
    /// Rows that came more than once.
    pub duplicates: u64,
}

/// The end of a connection that is known already.
#[derive(Debug, Clone, Copy)]
struct Tail {
    until: Duration,
    time_wait: bool,
}

/// All of one watch.
#[derive(Debug, Default)]
pub struct Table {
    live: HashMap<(Netns, Tuple), Entry>,
    /// Rows whose other end connected, by first sight: a listener that goes away does not turn them round.
    inbound: HashMap<(Netns, Tuple), (Inode, u64)>,
    tails: HashMap<(Netns, Tuple), Tail>,
    reads: u64,
    adopting: bool,
}

impl Table {
    /// Nothing is open; what the first snapshot shows stood before.
    #[must_use]
    pub fn new() -> Self {
        Self { adopting: true, ..Self::default() }
    }

    /// What the next snapshot shows as new stood before (the selection changed).
    pub fn adopt(&mut self) {
        self.adopting = true;
    }

    /// True until the next snapshot is taken, if that is to be adopted.
    #[must_use]
    pub fn is_adopting(&self) -> bool {
        self.adopting
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// True if none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// One connection.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.live.get(&(key.netns, key.tuple)).filter(|entry| entry.inode == key.inode)
    }

    /// One connection, to be changed.
    pub fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        self.live.get_mut(&(key.netns, key.tuple)).filter(|entry| entry.inode == key.inode)
    }

    /// All that are open.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &Entry)> {
        self.live.iter().map(|((netns, tuple), e)| (Key { netns: *netns, tuple: *tuple, inode: e.inode }, e))
    }

    /// Adds a connection that `take` reported as opened.
    pub fn open(&mut self, key: Key, connection: Connection, told: bool) {
        let entry = Entry {
            connection: Arc::new(connection),
            told,
            inode: key.inode,
            absent: 0,
            absent_from: None,
            read: self.reads,
        };
        self.live.insert((key.netns, key.tuple), entry);
    }

    /// Removes a connection and remembers its ports, so that its TIME_WAIT is not taken for another.
    pub fn close(&mut self, key: &Key, at: Moment) -> Option<Entry> {
        self.get(key)?;
        self.tails
            .entry((key.netns, key.tuple))
            .or_insert(Tail { until: at.boot + TAIL_KEPT, time_wait: false });
        self.live.remove(&(key.netns, key.tuple))
    }

    /// Takes a snapshot: marks what it shows, answers what it changes. Nothing is opened or closed here.
    pub fn take(&mut self, snapshot: &Snapshot, at: Moment) -> Delta {
        self.reads += 1;
        let mut delta = Delta::default();
        // All rows of open connections first: what contradicts one is judged when it is known which of them stand.
        let mut rest = Vec::new();
        for (rows, outbound) in [(&snapshot.outbound, true), (&snapshot.inbound, false)] {
            let unknown = rows.iter().filter(|row| !self.mark(snapshot.netns, row, at, &mut delta));
            rest.extend(unknown.map(|row| (row, outbound)));
        }
        let mut judged = HashSet::new();
        for (socket, outbound) in rest {
            if outbound && !judged.insert((socket.tuple, socket.inode)) {
                delta.duplicates += 1;
            } else {
                self.judge(snapshot.netns, socket, outbound, at, &mut delta);
            }
        }
        self.forget(snapshot, at, &mut delta);
        self.adopting = false;
        delta
    }

    /// True if the row is one of a connection that is open, or of one that is known to be the other end's.
    fn mark(&mut self, netns: Netns, socket: &Socket, at: Moment, delta: &mut Delta) -> bool {
        if let Some((inode, read)) = self.inbound.get_mut(&(netns, socket.tuple))
            && socket.inode == Some(*inode)
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
        (connection.state, connection.last_seen) = (socket.state, at);
        delta.duplicates += u64::from(entry.read == self.reads);
        (entry.absent, entry.absent_from, entry.read) = (0, None, self.reads);
        true
    }

    /// A row that belongs to no open connection, or contradicts one.
    fn judge(&mut self, netns: Netns, socket: &Socket, outbound: bool, at: Moment, delta: &mut Delta) {
        let place = (netns, socket.tuple);
        let Some(inode) = socket.inode else {
            if socket.state.is_ending() {
                self.judge_tail(netns, socket, outbound, at, delta);
            }
            return;
        };
        if !outbound {
            self.inbound.insert(place, (inode, self.reads));
            return;
        }
        if let Some(entry) = self.live.get(&place) {
            delta.replaced.push(Key { netns, tuple: socket.tuple, inode: entry.inode });
        }
        delta.opened.push(*socket);
    }

    /// A row without a holder: the end of an open connection, one that is known, or all that is left of one that was
    /// never seen alive.
    fn judge_tail(&mut self, netns: Netns, socket: &Socket, outbound: bool, at: Moment, delta: &mut Delta) {
        let place = (netns, socket.tuple);
        let time_wait = socket.state == TcpState::TimeWait;
        let left = socket.timewait_left.filter(|_| time_wait);
        let tail = Tail { until: at.boot + left.unwrap_or(TAIL_KEPT), time_wait };
        let known = self.tails.insert(place, tail);
        if let Some(entry) = self.live.get(&place) {
            delta.ended.push(Key { netns, tuple: socket.tuple, inode: entry.inode });
            return;
        }
        let same =
            known.is_some_and(|old| !(old.time_wait && time_wait && tail.until > old.until + TIMER_SLACK));
        match (same || !outbound, self.adopting) {
            (true, _) => {}
            (false, true) => delta.standing_ends += 1,
            (false, false) => delta.passed.push(*socket),
        }
    }

    fn forget(&mut self, snapshot: &Snapshot, at: Moment, delta: &mut Delta) {
        self.tails.retain(|_, tail| tail.until + TIMER_SLACK > at.boot);
        if !snapshot.complete {
            return;
        }
        let reads = self.reads;
        // Three reads for the same reason as below.
        self.inbound.retain(|_, (_, read)| *read + u64::from(ABSENT_READS) > reads);
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
