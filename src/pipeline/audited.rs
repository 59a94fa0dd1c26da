//! What audit records add: who asked for a connection that nobody was seen to own, and attempts of which nothing else tells.
//!
//! A record says which process asked to be connected to which remote end, and when; not by which socket, from where, or by
//! which protocol. So it is held against what is told otherwise: a connection of that process to there is the one that it
//! asked for; one without an owner is its if nobody else asked for one then, and if that one alone has none; and what nothing
//! explains is told by itself. No guess is made between two: what is over before its owner was known waits a moment, until all
//! who asked are known, and while records are lost nobody is named by them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use super::namespace::Namespace;
use crate::audit::Connect;
use crate::connection::{
    CloseReason, Connection, Direction, Key, Moment, Netns, Seen, Socket, TcpState, Transport, Tuple,
};
use crate::event::{Ending, Event, What};
use crate::netlink::{Clause, Filter, states};
use crate::proc::{Held, Lives, Proc};
use crate::process::{Asker, Attribution, Ids};
use crate::source::Kind;
use crate::way::Way;

/// So long what is over without an owner waits for the record of who asked for it: auditd writes one within milliseconds.
const PATIENCE: Duration = Duration::from_millis(500);
/// So long, and for so many ticks, a record waits for what tells of its connection.
const GRACE: Duration = Duration::from_secs(3);
const GRACE_TICKS: u64 = 2;
/// A call that waits for an answer is recorded when it returns: so long what was told may be asked for.
const TOLD_KEPT: Duration = Duration::from_secs(150);
/// A record's clock stands still between two ticks of the kernel's, and what a poll sees was asked for before.
const EARLY: Duration = Duration::from_millis(20);
/// What is told at once was asked for so long before at most, though the machine be busy; what a look tells, two looks and
/// this before.
const SOON: Duration = Duration::from_secs(1);
/// Whatever a busy machine does, within so long before it was told.
const LATE: Duration = Duration::from_secs(5);
/// As much of each is remembered; of a process as many sockets are looked at.
const MOST: usize = 4_096;
const MOST_SOCKETS: usize = 1_024;

/// What is remembered of audit records, and of what they may explain.
#[derive(Default)]
pub(super) struct Audited {
    /// True if audit records are read.
    pub is_on: bool,
    asked: VecDeque<Asked>,
    /// Connections that were told, by their remote end, and that no record has asked for yet.
    told: HashMap<SocketAddr, Vec<Told>>,
    remembered: usize,
    /// Between two looks, at the longest of late.
    interval: Duration,
    /// What is over and has no owner.
    waiting: VecDeque<Waiting>,
    /// When records were lost last.
    lost: Option<Moment>,
}

/// What is over, since when that is known, and whether its open has been told.
struct Waiting {
    since: Moment,
    connection: Arc<Connection>,
    ending: Ending,
    is_opened: bool,
}

/// A record.
struct Asked {
    remote: SocketAddr,
    exit: i32,
    pid: u32,
    ids: Ids,
    asker: Arc<Asker>,
    transport: Transport,
    way: Option<Arc<Way>>,
    /// Where its process lived. `None`: it was gone.
    netns: Option<Netns>,
    /// When it asked, and when that was known.
    since: Moment,
    known: Moment,
    polls: u64,
    explained: bool,
    /// True if the call before it, by the same process and to there, was getaddrinfo's.
    is_probed: bool,
}

/// A connection that was told.
#[derive(Clone)]
struct Told {
    /// Its owner, whoever else holds it, and their ancestors. Empty: not known.
    pids: Vec<u32>,
    uid: Option<u32>,
    netns: Netns,
    transport: Transport,
    seen: Seen,
    opened: Moment,
    /// As long as it is open.
    key: Option<Key>,
}

impl Told {
    fn of(connection: &Connection, key: Option<Key>) -> Self {
        let pids = match &connection.attribution {
            Attribution::Owned { lineage, holders, .. } => {
                let above = lineage.ancestry.iter().map(|process| process.pid);
                [lineage.process.pid].into_iter().chain(holders.iter().map(|h| h.pid)).chain(above).collect()
            }
            Attribution::Audited { asker, .. } => vec![asker.pid()],
            Attribution::Unknown(_) | Attribution::Recorded(_) => Vec::new(),
        };
        let Connection { uid, netns, transport, seen, opened, .. } = connection;
        Self { pids, uid: *uid, netns: *netns, transport: *transport, seen: *seen, opened: *opened, key }
    }

    /// So long before it was told somebody asked for it: what a look tells, two looks and a moment.
    fn asked_before(&self, interval: Duration) -> Duration {
        let is_told_at_once = matches!(self.seen, Seen::Syn | Seen::Nflog);
        if is_told_at_once { SOON } else { interval * 2 + SOON }
    }

    /// True if it may be what was asked for, though nobody is known to own it: then, and not from another namespace. Where a
    /// process lived that was gone is not known.
    fn may_be(&self, asked: &Asked, interval: Duration) -> bool {
        let is_of_it = matches!(asked.transport, Transport::Untold) || asked.transport == self.transport;
        let is_there = asked.netns.is_none_or(|netns| netns == self.netns);
        is_of_it && is_there && self.fits(asked, self.asked_before(interval))
    }

    /// True if it may be what was asked for then: told within so long.
    fn fits(&self, asked: &Asked, before: Duration) -> bool {
        let (opened, since) = (self.opened.boot, asked.since.boot);
        let in_time = since <= opened + EARLY && opened <= since + before;
        // The socket's creator is the user in whose name its process acts.
        let is_its = |uid| [asked.ids.real_uid, asked.ids.effective_uid].contains(&uid);
        in_time && self.uid.is_none_or(is_its)
    }
}

impl Audited {
    fn is_full(&self) -> bool {
        self.asked.len() >= MOST
    }

    /// Marks the record that asked for what a process of these is told to own.
    fn explain(&mut self, remote: SocketAddr, told: &Told) -> bool {
        let asked = self.asked.iter_mut().rev();
        let mut fitting = asked.filter(|a| {
            !a.explained && a.remote == remote && told.pids.contains(&a.pid) && told.fits(a, LATE)
        });
        let found = fitting.next();
        found.map(|asked| asked.explained = true).is_some()
    }

    /// The one process that asked for what nobody is told to own. `None`: nobody, or more than one; or it asked for fewer
    /// connections than are without an owner; or records were lost then.
    fn only_asker(&mut self, remote: SocketAddr, told: &Told) -> Option<&mut Asked> {
        let near = |lost: Moment| lost.boot.abs_diff(told.opened.boot) < LATE;
        if self.lost.is_some_and(near) {
            return None;
        }
        let interval = self.interval;
        let is_free = |asked: &Asked| !asked.explained && asked.remote == remote;
        let free: Vec<&Asked> = self.asked.iter().filter(|asked| is_free(asked)).collect();
        let fits = |asked: &Asked| told.may_be(asked, interval);
        let mut fitting = free.iter().filter(|asked| fits(asked));
        let pid = fitting.next()?.pid;
        if fitting.any(|asked| asked.pid != pid) {
            return None;
        }
        let rivals: Vec<Told> = self
            .nobody_s(remote)
            .filter(|other| free.iter().any(|asked| fits(asked) && other.may_be(asked, interval)))
            .collect();
        // A rival may be what somebody else asked for, who does not fit here.
        let is_of_them = |asked: &Asked| rivals.iter().any(|rival| rival.may_be(asked, interval));
        if free.iter().filter(|asked| fits(asked) || is_of_them(asked)).count() <= rivals.len() {
            return None;
        }
        // Of several by the same process the last comes next: getaddrinfo asks before, to learn which addresses may do.
        self.asked.iter_mut().rev().find(|asked| is_free(asked) && told.may_be(asked, interval))
    }

    /// What is told, or waits to be, and has no owner.
    fn nobody_s(&self, remote: SocketAddr) -> impl Iterator<Item = Told> {
        let waiting = self.waiting.iter().filter(move |waiting| waiting.connection.tuple.remote == remote);
        let told = self.told.get(&remote).into_iter().flatten().filter(|told| told.pids.is_empty());
        waiting.map(|waiting| Told::of(&waiting.connection, None)).chain(told.cloned())
    }

    fn remember(&mut self, remote: SocketAddr, told: Told) {
        if self.remembered < MOST {
            self.told.entry(remote).or_default().push(told);
            self.remembered += 1;
        }
    }

    /// Takes the connection out that a record asked for: one of its process, or else one of nobody.
    fn take_told(&mut self, asked: &Asked, or_nobody_s: bool) -> Option<Told> {
        let told = self.told.get_mut(&asked.remote)?;
        let owned = told.iter().position(|t| t.pids.contains(&asked.pid) && t.fits(asked, LATE));
        let nobody_s = || told.iter().position(|t| t.pids.is_empty() && t.fits(asked, LATE));
        let place = owned.or_else(|| nobody_s().filter(|_| or_nobody_s))?;
        self.remembered -= 1;
        Some(told.swap_remove(place))
    }

    fn forget(&mut self, now: Duration) {
        for told in self.told.values_mut() {
            told.retain(|told| told.opened.boot + TOLD_KEPT > now);
        }
        self.told.retain(|_, told| !told.is_empty());
        self.remembered = self.told.values().map(Vec::len).sum();
    }
}

impl Pipeline {
    /// So long after the last look comes this one.
    pub(super) fn note_interval(&mut self, interval: Duration) {
        self.audited.interval = interval.max(self.audited.interval - self.audited.interval / 16);
    }

    /// A process asked to be connected.
    pub(super) fn take_connect(
        &mut self,
        proc: &Proc,
        spaces: &mut [Namespace],
        connect: Connect,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if !is_attempt(connect.exit) || !self.select.wants_remote(connect.remote) {
            return;
        }
        let age = age_of(&connect, at);
        let since =
            Moment { wall: at.wall.checked_sub(age).unwrap_or(at.wall), boot: at.boot.saturating_sub(age) };
        let (asker, held) = self.attributor.asker(proc, &connect, since.boot);
        let netns = held.as_ref().and_then(|held| match proc.held_lives(held) {
            Lives::In(netns) => Some(netns),
            Lives::Gone | Lives::Denied => None,
        });
        let way = self.way_of_asker(proc, netns.unwrap_or(self.own), &asker, held.as_deref());
        let Connect { remote, exit, pid, ids, fd, .. } = connect;
        let mut asked = Asked {
            remote,
            exit,
            pid,
            ids,
            asker: Arc::new(asker),
            transport: if is_stream_s(exit) { Transport::Tcp } else { Transport::Untold },
            way: way.map(Arc::new),
            netns,
            since,
            known: at,
            polls: self.totals.polls,
            explained: false,
            is_probed: false,
        };
        asked.explained = self.audited.take_told(&asked, false).is_some();
        let space = spaces.iter_mut().find(|space| Some(space.netns) == netns);
        if let (false, true, Some(space), Some(held)) = (asked.explained, stands(exit), space, &held) {
            if fd.is_some_and(|fd| exit == 0 && self.is_datagram_s(proc, space, held, fd, remote)) {
                // A flow, of which `source::flows` tells where it is asked to.
                return;
            }
            self.look_for(proc, space, held, remote, at, told);
            asked.explained = self.audited.take_told(&asked, false).is_some();
        }
        if self.audited.is_full() {
            self.audited.asked.pop_front();
            self.count_lost(Kind::Audit, Some(1), at);
            self.lose_connects(at);
        }
        self.audited.asked.push_back(asked);
    }

    /// Whether the descriptor that was to be connected is a UDP socket, connected to there. What failed is connected to
    /// nowhere, so that nothing tells its protocol.
    fn is_datagram_s(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        held: &Held,
        fd: u32,
        remote: SocketAddr,
    ) -> bool {
        let mut inode = None;
        let _gone_or_denied = proc.read_sockets(held, None, |holder, of| {
            inode = (holder.fd == fd).then_some(of);
            inode.is_none()
        });
        let (Some(inode), Some(diag)) = (inode, space.tables.diag()) else { return false };
        let port = remote.port();
        let filter = Filter::any_of([Clause::RemotePorts(port..=port)]);
        let mut is_it = false;
        // Where the kernel has no answer for UDP it is not known, as after the process's end.
        let _unsupported = diag.dump_udp(states::UDP_CONNECTED, filter.as_ref(), |socket| {
            is_it |= socket.inode == Some(inode) && socket.tuple.remote == remote;
        });
        self.totals.lookups += 1;
        is_it
    }

    /// The socket that was asked for, as long as its process holds it: the exact way, as behind a SYN.
    fn look_for(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        held: &Held,
        remote: SocketAddr,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let mut inodes = HashSet::new();
        let _as_many_as_there_were = proc.read_sockets(held, None, |_, inode| {
            inodes.insert(inode);
            inodes.len() < MOST_SOCKETS
        });
        let Some(diag) = space.tables.diag().filter(|_| !inodes.is_empty()) else {
            space.gate.want_read();
            return;
        };
        let port = remote.port();
        let filter = Filter::any_of([Clause::RemotePorts(port..=port)]);
        let mut born: Vec<Socket> = Vec::new();
        let dumped = diag.dump(states::LIVE, filter.as_ref(), |socket| {
            let is_it = socket.tuple.remote == remote && socket.inode.is_some_and(|i| inodes.contains(&i));
            born.extend(is_it.then_some(socket));
        });
        self.totals.lookups += 1;
        let netns = space.netns;
        let is_known = |socket: &Socket| {
            self.table.between(netns, socket.tuple).is_some() || self.table.is_inbound(netns, socket.tuple)
        };
        born.retain(|socket| !is_known(socket));
        if dumped.is_err() {
            space.gate.want_read();
        } else if !born.is_empty() {
            self.open_sockets(proc, space, &born, Seen::Audit, at, told);
        }
    }

    /// An open is about to be told, or an owner: who asked for it is known.
    pub(super) fn note_told(&mut self, connection: &Connection, key: Option<Key>) {
        if !self.audited_matters(connection) {
            return;
        }
        let (remote, told) = (connection.tuple.remote, Told::of(connection, key));
        if told.pids.is_empty() || !self.audited.explain(remote, &told) {
            self.audited.remember(remote, told);
        }
    }

    fn audited_matters(&self, connection: &Connection) -> bool {
        connection.direction == Direction::Egress && connection.seen != Seen::Start && self.audited.is_on
    }

    /// What is over and has no owner waits until all who asked are known. Answers it where it need not.
    pub(super) fn let_wait(
        &mut self,
        connection: Connection,
        ending: Ending,
        at: Moment,
    ) -> Option<(Connection, Ending)> {
        if !self.may_be_asked(&connection) {
            return Some((connection, ending));
        }
        let connection = Arc::new(connection);
        self.audited.waiting.push_back(Waiting { since: at, connection, ending, is_opened: false });
        None
    }

    /// The same of what is over soon after its open was told. False: it need not wait.
    pub(super) fn lets_end_wait(
        &mut self,
        key: &Key,
        connection: &Arc<Connection>,
        ending: &Ending,
        at: Moment,
    ) -> bool {
        let is_young = at.boot < connection.opened.boot + PATIENCE;
        if !is_young || !self.may_be_asked(connection) {
            return false;
        }
        if let Some(told) = self.audited.told.get_mut(&connection.tuple.remote) {
            let before = told.len();
            told.retain(|told| told.key != Some(*key));
            self.audited.remembered -= before - told.len();
        }
        let (connection, ending) = (Arc::clone(connection), ending.clone());
        self.audited.waiting.push_back(Waiting { since: at, connection, ending, is_opened: true });
        true
    }

    fn may_be_asked(&self, connection: &Connection) -> bool {
        !connection.attribution.is_known()
            && self.audited_matters(connection)
            && self.audited.waiting.len() < MOST
    }

    /// Connections whose open is told, and whose end waits.
    pub(super) fn ending(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.audited.waiting.iter().filter(|waiting| waiting.is_opened).map(|waiting| &waiting.connection)
    }

    /// Records were lost, or the watch stood still and takes as one moment's what was of many: who asked for what began about
    /// then is not known for certain.
    pub fn lose_connects(&mut self, at: Moment) {
        self.audited.lost = Some(at);
    }

    /// What a tick learns from audit records that have come. `all`: nothing waits any longer.
    pub(super) fn settle_audited(&mut self, proc: &Proc, at: Moment, all: bool, told: &mut Vec<Event>) {
        self.tell_waiting(at, all, told);
        self.tell_askers(proc, at, told);
        self.tell_unexplained(at, all, told);
        if self.totals.polls.is_multiple_of(64) {
            self.audited.forget(at.boot);
        }
    }

    fn tell_waiting(&mut self, at: Moment, all: bool, told: &mut Vec<Event>) {
        while let Some(Waiting { since, .. }) = self.audited.waiting.front()
            && (all || since.boot + PATIENCE <= at.boot)
        {
            let Some(waiting) = self.audited.waiting.pop_front() else { break };
            let Waiting { mut connection, ending, is_opened, .. } = waiting;
            let ends = Told::of(&connection, None);
            let mut latency = None;
            if let Some(asked) = self.audited.only_asker(connection.tuple.remote, &ends) {
                asked.explained = true;
                let passed = asked.known.boot.saturating_sub(asked.since.boot);
                latency = Some(passed);
                let known = Arc::make_mut(&mut connection);
                known.attribution = Attribution::Audited { asker: Arc::clone(&asked.asker), latency: passed };
                known.way = asked.way.clone().or(known.way.take());
            } else {
                self.audited.remember(connection.tuple.remote, ends);
            }
            if is_opened {
                self.tell_late_end(connection, ending, latency, at, told);
            } else if self.frees_ends(&connection, at, told) {
                self.tell_late_pair(connection, ending, at, told);
            }
        }
    }

    /// What waits between the ends of a connection whose open is about to be told, and was before it. Who asked for it
    /// remains unknown: not all who did are known yet.
    pub(super) fn tell_waiting_before(&mut self, connection: &Connection, at: Moment, told: &mut Vec<Event>) {
        let place = |of: &Connection| (of.netns, of.transport, of.tuple);
        let is_before = |waiting: &Waiting| {
            let opened = waiting.connection.opened.boot;
            place(&waiting.connection) == place(connection)
                && (waiting.is_opened || opened <= connection.opened.boot)
        };
        if connection.direction != Direction::Egress || !self.audited.waiting.iter().any(is_before) {
            return;
        }
        let waiting = Vec::from(std::mem::take(&mut self.audited.waiting));
        let (mut before, others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_before);
        self.audited.waiting = others.into();
        before.sort_by_key(|waiting| waiting.connection.opened.boot);
        for Waiting { connection, ending, is_opened, .. } in before {
            self.audited.remember(connection.tuple.remote, Told::of(&connection, None));
            match is_opened {
                true => self.tell_late_end(connection, ending, None, at, told),
                false => self.tell_late_pair(connection, ending, at, told),
            }
        }
    }

    fn tell_late_pair(
        &mut self,
        connection: Arc<Connection>,
        ending: Ending,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        // An id is of the time of its record.
        let connection = Connection { id: (self.new_id)(at), ..Arc::unwrap_or_clone(connection) };
        self.tell_both(connection, ending, at, told);
    }

    /// The end of what was open, and before it who asked for it. `latency`: that is known.
    fn tell_late_end(
        &mut self,
        connection: Arc<Connection>,
        ending: Ending,
        latency: Option<Duration>,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if let Some(latency) = latency {
            self.coverage.attributed(latency);
            let changed = vec!["process", "portreeve.attribution"];
            told.push(Event { at, what: What::Changed { connection: Arc::clone(&connection), changed } });
        }
        self.totals.closes += 1;
        told.push(Event { at, what: What::Closed { connection, ending } });
    }

    /// Connections that stand and whose owner nobody found.
    fn tell_askers(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        let due = |told: &Told| told.pids.is_empty() && told.opened.boot + PATIENCE <= at.boot;
        let mut keys = Vec::new();
        for (remote, all) in &mut self.audited.told {
            let open = all.extract_if(.., |told| told.key.is_some() && due(told));
            keys.extend(open.map(|told| (*remote, told)));
        }
        self.audited.remembered -= keys.len();
        for (remote, ends) in keys {
            let entry = ends.key.and_then(|key| self.table.get(&key).map(|entry| (key, entry)));
            let unknown = entry.filter(|(_, e)| !e.connection.attribution.is_known()).map(|(key, _)| key);
            let asked = unknown.and_then(|key| Some((key, self.audited.only_asker(remote, &ends)?)));
            match asked {
                Some((key, asked)) => {
                    asked.explained = true;
                    let latency = asked.known.boot.saturating_sub(asked.since.boot);
                    let attribution = Attribution::Audited { asker: Arc::clone(&asked.asker), latency };
                    self.tell_owner(proc, key, attribution, None, at, told);
                }
                None => self.audited.remember(remote, Told { key: None, ..ends }),
            }
        }
    }

    /// Records of which nothing has told.
    fn tell_unexplained(&mut self, at: Moment, all: bool, told: &mut Vec<Event>) {
        let polls = self.totals.polls;
        // At the end of the watch nothing more will tell of them.
        let is_due =
            |asked: &Asked| all || asked.known.boot + GRACE <= at.boot && asked.polls + GRACE_TICKS <= polls;
        while self.audited.asked.front().is_some_and(is_due) {
            let is_probe = self.is_probe();
            let Some(asked) = self.audited.asked.pop_front() else { break };
            if is_probe {
                let by_it =
                    self.audited.asked.iter_mut().filter(|a| (a.pid, a.remote) == (asked.pid, asked.remote));
                by_it.for_each(|asked| asked.is_probed = true);
            }
            let is_explained = asked.explained || self.audited.take_told(&asked, true).is_some();
            // At the end of the watch: what succeeded a moment ago may be among what stands.
            let is_nothing = is_probe || self.was_no_connection(&asked) || all && stands(asked.exit);
            if !is_explained && !is_nothing {
                self.tell_asked(asked, at, told);
            }
        }
    }

    /// A call that succeeded where every connection's end is told, and none was: it was for another protocol.
    fn was_no_connection(&self, asked: &Asked) -> bool {
        let hears = |space: &Namespace| space.is_noticed(asked.since.boot);
        let whole = match asked.netns {
            Some(netns) => self.spaces.iter().find(|space| space.netns == netns).is_some_and(hears),
            None => self.spaces.iter().all(hears),
        };
        stands(asked.exit) && whole
    }

    /// True if the oldest record is of how getaddrinfo(3) orders the addresses of a name: it asks for a datagram socket to
    /// each, before its caller tries one after the other.
    fn is_probe(&self) -> bool {
        let Some(first) = self.audited.asked.front().filter(|first| !first.is_probed) else { return false };
        let near = |a: &&Asked| a.pid == first.pid && a.since.boot <= first.since.boot + GRACE;
        let by_it: Vec<SocketAddr> = self.audited.asked.iter().filter(near).map(|a| a.remote).collect();
        let again = by_it.iter().skip(1).any(|remote| *remote == first.remote);
        let others = by_it.iter().any(|remote| *remote != first.remote);
        let tried = by_it.iter().any(|remote| by_it.iter().filter(|other| *other == remote).count() > 1);
        others && (again || tried)
    }

    fn tell_asked(&mut self, asked: Asked, at: Moment, told: &mut Vec<Event>) {
        let (reason, success) = why(asked.exit);
        // To connect a datagram socket always succeeds, and tells of nobody.
        let success = success.filter(|success| !success || asked.transport == Transport::Tcp);
        let ours = match asked.remote.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let state = match (asked.transport, success) {
            (Transport::Untold, _) => TcpState::Other(0),
            (_, Some(true)) => TcpState::TimeWait,
            _ => TcpState::SynSent,
        };
        let uid = asked.ids.real_uid;
        let connection = Connection {
            id: (self.new_id)(at),
            netns: asked.netns.unwrap_or_default(),
            inode: None,
            cookie: None,
            transport: asked.transport,
            tuple: Tuple { local: SocketAddr::new(ours, 0), remote: asked.remote },
            direction: Direction::Egress,
            state,
            uid: Some(uid),
            user: self.attributor.user_name(uid),
            seen: Seen::Audit,
            opened: asked.since,
            last_seen: asked.known,
            attribution: Attribution::Audited {
                asker: asked.asker,
                latency: asked.known.boot.saturating_sub(asked.since.boot),
            },
            way: asked.way,
        };
        let last_seen = Some(asked.since);
        let ending = Ending { reason, success, last_seen, gone_by: asked.known, exact: false, bytes: None };
        if self.is_wanted(&connection) && self.frees_ends(&connection, at, told) {
            self.tell_both(connection, ending, at, told);
        }
    }

    /// The watch ends: what waits is told as it is.
    pub fn settle(&mut self, proc: &Proc, at: Moment) -> Vec<Event> {
        let mut told = Vec::new();
        // What was lost last is counted, too.
        self.hear_now(proc, at, &mut told);
        self.tell_passed_by(proc, Duration::ZERO, at, &mut told);
        self.settle_audited(proc, at, true, &mut told);
        told
    }
}

/// How long ago it was asked for. A clock that was set between makes it now.
fn age_of(connect: &Connect, at: Moment) -> Duration {
    let micros = u64::try_from(at.wall.as_microsecond()).unwrap_or(0);
    Duration::from_micros(micros).saturating_sub(connect.time).min(TOLD_KEPT)
}

const EPERM: i32 = 1;
const EINTR: i32 = 4;
const EACCES: i32 = 13;
const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;
const ENETDOWN: i32 = 100;
const ENETUNREACH: i32 = 101;
const ECONNABORTED: i32 = 103;
const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const EHOSTDOWN: i32 = 112;
const EHOSTUNREACH: i32 = 113;
const EINPROGRESS: i32 = 115;

/// True if the call began an attempt, or would have: not one that asks again how another goes, nor nonsense.
fn is_attempt(exit: i32) -> bool {
    stands(exit)
        || matches!(
            exit.saturating_neg(),
            EPERM
                | EACCES
                | EADDRINUSE
                | EADDRNOTAVAIL
                | ENETDOWN
                | ENETUNREACH
                | ECONNABORTED
                | ECONNRESET
                | ETIMEDOUT
                | ECONNREFUSED
                | EHOSTDOWN
                | EHOSTUNREACH
        )
}

/// True of answers that a call for a datagram socket never gets, since it waits for nobody.
fn is_stream_s(exit: i32) -> bool {
    matches!(
        exit.saturating_neg(),
        EINTR | EINPROGRESS | ECONNABORTED | ECONNRESET | ETIMEDOUT | ECONNREFUSED
    )
}

/// True if there is, or was, something to be seen of it.
fn stands(exit: i32) -> bool {
    matches!(exit.saturating_neg(), 0 | EINTR | EINPROGRESS)
}

fn why(exit: i32) -> (CloseReason, Option<bool>) {
    match exit.saturating_neg() {
        0 => (CloseReason::Closed, Some(true)),
        EINTR | EINPROGRESS => (CloseReason::Cancelled, None),
        ECONNREFUSED => (CloseReason::Refused, Some(false)),
        ETIMEDOUT => (CloseReason::TimedOut, Some(false)),
        ENETDOWN | ENETUNREACH | EHOSTDOWN | EHOSTUNREACH => (CloseReason::Unreachable, Some(false)),
        _ => (CloseReason::Failed, Some(false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Departed;

    const HERE: Netns = Netns(1);
    const THERE: Netns = Netns(2);

    fn at(millis: u64) -> Moment {
        Moment { boot: Duration::from_millis(1_000_000 + millis), ..Moment::default() }
    }

    fn remote() -> SocketAddr {
        "192.0.2.7:22".parse().unwrap()
    }

    fn asked(pid: u32, netns: Option<Netns>, millis: u64) -> Asked {
        let ids = Ids { real_uid: 1000, effective_uid: 1000, real_gid: 1000 };
        let departed = Departed {
            pid,
            comm: b"ssh".to_vec(),
            executable: None,
            args: Vec::new(),
            args_cut: false,
            redacted: 0,
            tty: None,
            ids,
            user: None,
            effective_user: None,
            login: None,
            parent: None,
        };
        Asked {
            remote: remote(),
            exit: 0,
            pid,
            ids,
            asker: Arc::new(Asker::Departed(Box::new(departed))),
            transport: Transport::Tcp,
            way: None,
            netns,
            since: at(millis),
            known: at(millis + 5),
            polls: 0,
            explained: false,
            is_probed: false,
        }
    }

    fn of_nobody(netns: Netns, millis: u64) -> Told {
        let transport = Transport::Tcp;
        Told { pids: Vec::new(), uid: None, netns, transport, seen: Seen::Syn, opened: at(millis), key: None }
    }

    fn audited(asked: Vec<Asked>) -> Audited {
        Audited { is_on: true, asked: asked.into(), ..Audited::default() }
    }

    fn asker(audited: &mut Audited, told: &Told) -> Option<u32> {
        audited.only_asker(remote(), told).map(|asked| asked.pid)
    }

    #[test]
    fn the_one_who_asked_then_and_there_is_the_owner() {
        let told = of_nobody(HERE, 10);
        assert_eq!(asker(&mut audited(vec![asked(7, Some(HERE), 0)]), &told), Some(7));
        assert_eq!(
            asker(&mut audited(vec![asked(7, None, 0)]), &told),
            Some(7),
            "gone: it is not known where"
        );
        assert_eq!(asker(&mut audited(vec![asked(7, Some(THERE), 0)]), &told), None, "it lives elsewhere");
        assert_eq!(asker(&mut audited(vec![asked(7, Some(HERE), 900)]), &told), None, "too late");
        let mut before = audited(vec![asked(7, Some(HERE), 0)]);
        assert_eq!(asker(&mut before, &of_nobody(HERE, 900)), Some(7), "a SYN that was taken late");
        assert_eq!(asker(&mut before, &of_nobody(HERE, 1_900)), None, "too early");
        let mut another = asked(7, Some(HERE), 0);
        another.remote = "192.0.2.7:2222".parse().unwrap();
        assert_eq!(asker(&mut audited(vec![another]), &told), None, "another port");
        let flow = Told { transport: Transport::Udp, ..of_nobody(HERE, 10) };
        assert_eq!(
            asker(&mut audited(vec![asked(7, Some(HERE), 0)]), &flow),
            None,
            "a connection was refused"
        );
        let of_root = Told { uid: Some(0), ..of_nobody(HERE, 10) };
        assert_eq!(asker(&mut audited(vec![asked(7, Some(HERE), 0)]), &of_root), None, "another user");
    }

    #[test]
    fn of_two_who_asked_neither_is_and_one_elsewhere_is_no_second() {
        let told = of_nobody(HERE, 10);
        let mut two = audited(vec![asked(7, Some(HERE), 0), asked(8, Some(HERE), 5)]);
        assert_eq!(asker(&mut two, &told), None);
        let mut perhaps = audited(vec![asked(7, Some(HERE), 0), asked(8, None, 5)]);
        assert_eq!(asker(&mut perhaps, &told), None, "the second may have lived here");
        let mut elsewhere = audited(vec![asked(7, Some(HERE), 0), asked(8, Some(THERE), 5)]);
        assert_eq!(asker(&mut elsewhere, &told), Some(7));
    }

    #[test]
    fn who_asked_once_owns_neither_of_two_and_who_asked_twice_owns_both() {
        let (first, second) = (of_nobody(HERE, 10), of_nobody(HERE, 20));
        let mut once = audited(vec![asked(7, Some(HERE), 0)]);
        once.remember(remote(), second);
        assert_eq!(asker(&mut once, &first), None);
        let mut twice = audited(vec![asked(7, Some(HERE), 0), asked(7, Some(HERE), 5)]);
        twice.remember(remote(), of_nobody(HERE, 20));
        assert_eq!(asker(&mut twice, &first), Some(7));
        let mut elsewhere = audited(vec![asked(7, Some(HERE), 0)]);
        elsewhere.remember(remote(), of_nobody(THERE, 20));
        assert_eq!(asker(&mut elsewhere, &first), Some(7), "what stands elsewhere is not its");
    }

    #[test]
    fn of_two_that_were_told_late_the_first_is_not_said_to_be_the_second_s() {
        // Asked for at 0 and at 150, taken at 160 and at 170.
        let two = || audited(vec![asked(7, Some(HERE), 0), asked(8, Some(HERE), 150)]);
        assert_eq!(asker(&mut two(), &of_nobody(HERE, 160)), None);
        // Taken in time: the second has an asker of its own, who asked after the first was told.
        let mut in_time = two();
        in_time.remember(remote(), of_nobody(HERE, 155));
        assert_eq!(asker(&mut in_time, &of_nobody(HERE, 5)), Some(7));
        in_time.remember(remote(), of_nobody(HERE, 157));
        assert_eq!(asker(&mut in_time, &of_nobody(HERE, 5)), None, "one of three was not asked for");
    }

    #[test]
    fn while_records_are_lost_nobody_is_named() {
        let mut lossy = audited(vec![asked(7, Some(HERE), 0)]);
        lossy.lost = Some(at(2_000));
        assert_eq!(asker(&mut lossy, &of_nobody(HERE, 10)), None);
        lossy.lost = Some(at(20_000));
        assert_eq!(asker(&mut lossy, &of_nobody(HERE, 10)), Some(7));
    }
}
