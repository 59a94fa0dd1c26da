//! Connections that are new: who made them, and what is told of it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use super::namespace::Namespace;
use crate::attribution::{Found, Wanted};
use crate::connection::{
    CloseReason, Connection, Direction, Inode, Key, Moment, Netns, Seen, Snapshot, Socket, Transport,
};
use crate::event::{Ending, Event, What};
use crate::proc::{Depth, Held, Proc};
use crate::process::{Attribution, Hash, Reason};
use crate::source::selection::Known;
use crate::ssh;
use crate::table::Delta;
use crate::way::Way;

/// An owner that was not found is searched for again after this, then after twice this, ...
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);
/// ... up to this, and then no more.
const LAST_RETRY: Duration = Duration::from_secs(64);
/// As many SYNs are expected that come behind what they began.
const MOST_EXPECTED: usize = 65_536;
/// So long the most likely owners are searched for before it is asked whether the socket stands.
const FIRST_TRY: Duration = Duration::from_millis(3);
/// As many connections are followed at once: 100 MiB.
pub(super) const MOST_FOLLOWED: usize = 50_000;
/// So long may the first reading search for owners.
const FIRST_SEARCH: Duration = Duration::from_secs(1);
/// The kernel keeps TIME_WAIT this long (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Owners are asked this often whether they hold their sockets still, as many at a time: 0.3 ms a second at most.
const ASK_EVERY: Duration = Duration::from_secs(1);
const MOST_ASKED: usize = 64;

/// A listener.
#[derive(Debug)]
pub(super) struct Server {
    pub netns: Netns,
    pub port: u16,
    /// Those that hold it, if it is an SSH server's; none of another's. `None`: being searched for.
    pub processes: Option<Vec<u32>>,
}

/// How a socket came into view.
#[derive(Debug, Clone, Copy)]
struct First {
    seen: Seen,
    direction: Direction,
    transport: Transport,
}

impl Pipeline {
    /// Searches for all owners that this snapshot asks for, and opens what is new.
    pub(super) fn tell_opened(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        snapshot: &Snapshot,
        delta: &Delta,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let seen = if snapshot.standing { Seen::Start } else { Seen::Poll };
        let listeners = self.learn_servers(snapshot);
        if snapshot.standing {
            // Before the watch has begun there is no pace to keep: what stands is told with its owners.
            self.search_left = self.search_left.max(FIRST_SEARCH);
        }
        // What came in is told before what comes of it, which names it.
        self.tell_accepted(proc, space, delta, at, told);
        let first = First { seen, direction: Direction::Egress, transport: Transport::Tcp };
        self.open_and_search(proc, space, &delta.opened, listeners, first, at, told);
        if self.sought.is_empty() {
            self.sought.shrink_to(64);
        }
    }

    /// Inbound SSH sessions that are followed.
    fn tell_accepted(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        delta: &Delta,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        for (seen, stood) in [(Seen::Start, true), (Seen::Poll, false)] {
            let sockets: Vec<_> =
                delta.accepted.iter().filter(|(_, before)| *before == stood).map(|(s, _)| *s).collect();
            if !sockets.is_empty() {
                let first = First { seen, direction: Direction::Ingress, transport: Transport::Tcp };
                self.open_and_search(proc, space, &sockets, Vec::new(), first, at, told);
            }
        }
    }

    /// The inbound session that a connection comes from, if it is followed and no reading has shown it yet: a SYN may be told
    /// sooner. It is opened first, so that the connection can name it.
    pub(super) fn open_session(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        way: &mut Way,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Some(tuple) = way.origin.inbound.filter(|_| self.select.inbound) else { return };
        let is_followed = way.origin.connection.is_some() || self.table.between(space.netns, tuple).is_some();
        if is_followed || !self.server_ports.contains(&tuple.local.port()) {
            return;
        }
        self.totals.lookups += 1;
        let found = space.tables.diag().and_then(|diag| diag.find(&tuple, 0, None).ok().flatten());
        let Some(socket) = found.map(|found| found.socket).filter(|socket| socket.inode.is_some()) else {
            return;
        };
        let first = First { seen: Seen::Poll, direction: Direction::Ingress, transport: Transport::Tcp };
        self.open_and_search(proc, space, &[socket], Vec::new(), first, at, told);
        let session = self.table.between(space.netns, tuple).and_then(|key| self.table.get(&key));
        if let Some(entry) = session.filter(|entry| entry.told) {
            Arc::make_mut(&mut way.origin).connection = Some(entry.connection.id);
        }
    }

    /// Opens sockets that are new, with their owners as far as those are found now.
    pub(super) fn open_sockets(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        sockets: &[Socket],
        seen: Seen,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let first = First { seen, direction: Direction::Egress, transport: Transport::Tcp };
        self.open_and_search(proc, space, sockets, Vec::new(), first, at, told);
    }

    /// Opens UDP flows that are new, with their owners as far as those are found now.
    pub(super) fn open_flows(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        sockets: &[Socket],
        seen: Seen,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if seen == Seen::Start {
            self.search_left = self.search_left.max(FIRST_SEARCH);
        }
        if !sockets.is_empty() {
            let first = First { seen, direction: Direction::Egress, transport: Transport::Udp };
            self.open_and_search(proc, space, sockets, Vec::new(), first, at, told);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what is new, and what it is to be searched for together with"
    )]
    fn open_and_search(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        sockets: &[Socket],
        mut wanted: Vec<Wanted>,
        first: First,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let seen = first.seen;
        let others = self.open_heard(proc, space, sockets, first, at, told);
        let sight = (self.boottime)();
        let sockets = self.as_many_as_are_followed(&others, at);
        let inodes = sockets.iter().filter_map(|socket| Some((socket.inode?, socket.uid)));
        wanted.extend(inodes.map(|(inode, uid)| Wanted { inode, uid }));
        // Before anything else: a newborn owner may be gone in a tenth of a millisecond.
        let first_try = if seen == Seen::Start { self.search_left } else { self.search_left.min(FIRST_TRY) };
        let mut found = self.search(proc, &wanted, first_try);
        let mut keys = Vec::new();
        for socket in sockets {
            let Some(inode) = socket.inode else { continue };
            let key = Key { netns: space.netns, tuple: socket.tuple, inode };
            self.follow(space, key, socket, first, at);
            self.sought.insert(inode, (key, sight));
            keys.push(key);
        }
        if seen != Seen::Start && found.len() < wanted.len() {
            self.search_on(proc, space, &keys, &mut found);
        }
        for key in keys {
            let (attribution, held) = match found.remove(&key.inode) {
                Some(found) => self.attribute(proc, key, &found),
                None => (Attribution::Unknown(Reason::Budget), None),
            };
            self.open_owned(proc, Some(&mut *space), key, attribution, held, at, told);
        }
        self.tell_found(proc, found, at, told);
        if !space.on.is_empty() {
            self.learn_cookies(space, sockets, at, told);
        }
    }

    /// Opens those whose opening the kernel's own words told, which needs no search; answers the others that are due.
    fn open_heard(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        sockets: &[Socket],
        first: First,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> Vec<Socket> {
        if first.direction != Direction::Egress || first.transport != Transport::Tcp {
            return sockets.to_vec();
        }
        self.hear_openings(proc, space, sockets, at, told);
        let mut others = Vec::with_capacity(sockets.len());
        for socket in sockets {
            if !self.open_row(proc, space, socket, at, told)
                && (first.seen != Seen::Poll || !self.puts_off(space, socket, at))
            {
                others.push(*socket);
            }
        }
        others
    }

    /// A socket that is new enters the table; who owns it is not known yet.
    fn follow(&mut self, space: &mut Namespace, key: Key, socket: &Socket, first: First, at: Moment) {
        let connection = self.new_connection(key, socket, first, at);
        self.table.open(key, connection, socket.device, true);
        if first.transport == Transport::Tcp
            && self.syns.remove(&(key.netns, key.tuple)).is_none()
            && first.direction == Direction::Egress
        {
            self.expect_syn(space, &key, first.seen, at);
        }
        if super::is_fragile(socket.state.of_ours()) {
            space.fragile.push(key);
        }
    }

    /// Those for which there is room: the others are told by their end, where notices tell of it, and counted.
    fn as_many_as_are_followed<'a>(&mut self, sockets: &'a [Socket], at: Moment) -> &'a [Socket] {
        let room = MOST_FOLLOWED.saturating_sub(self.table.len());
        let (followed, others) = sockets.split_at(room.min(sockets.len()));
        if !others.is_empty() {
            self.leave_out(others.len() as u64, at);
        }
        followed
    }

    /// There was no room for so many at once.
    pub(super) fn leave_out(&mut self, count: u64, at: Moment) {
        let (_, most) = self.left_out.get_or_insert((at, 0));
        *most = (*most).max(count);
    }

    /// The SYN of a connection that a table has told of may still come.
    pub(super) fn expect_syn(&mut self, space: &Namespace, key: &Key, seen: Seen, at: Moment) {
        if matches!(seen, Seen::Poll | Seen::Ebpf)
            && space.hears_syns()
            && self.told_by_end.len() < MOST_EXPECTED
        {
            self.told_by_end.insert((key.netns, key.tuple), at);
        }
    }

    /// A table that does not tell cookies leaves them to exact lookups: an end is told by its cookie.
    fn learn_cookies(
        &mut self,
        space: &mut Namespace,
        sockets: &[Socket],
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        for socket in sockets.iter().filter(|socket| socket.cookie.is_none()) {
            let Some(inode) = socket.inode else { continue };
            let key = Key { netns: space.netns, tuple: socket.tuple, inode };
            if let Some(Some(sight)) = self.find(space, &key)
                && sight.socket.inode == Some(inode)
                && self.table.look(&key, &sight.socket, sight.counts, at)
            {
                self.tell_established(&[key], at, told);
            }
        }
    }

    /// The most likely owners have been asked. A walk over all processes is for a socket that stands: the short-lived are
    /// gone by now, and their owner with them.
    fn search_on(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        keys: &[Key],
        found: &mut HashMap<Inode, Found>,
    ) {
        for key in keys {
            if found.contains_key(&key.inode) {
                continue;
            }
            let Some(sight) = self.find(space, key) else { continue };
            if sight.is_none_or(|sight| sight.socket.inode != Some(key.inode)) {
                self.search.forget(key.inode);
                found.insert(key.inode, Found::Nobody(Reason::HolderVanished));
            }
        }
        found.extend(self.search(proc, &[], self.search_left));
    }

    /// Between readings: owners that left and owners whose next search has come. A descriptor that is passed on moves no
    /// counter.
    pub(super) fn ask_owners(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        if at.boot < self.ask_due {
            return;
        }
        self.ask_due = at.boot + ASK_EVERY;
        self.look_at_others(proc, at, told);
        let sight = (self.boottime)();
        let wanted = self.owners_to_find_again(proc, at, sight);
        if !wanted.is_empty() {
            let found = self.search(proc, &wanted, self.search_left);
            self.tell_found(proc, found, at, told);
        }
    }

    /// Goes on with searches of earlier ticks, more slowly: whoever is found now is no newborn that might leave.
    pub(super) fn go_on_searching(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        let found = self.search(proc, &[], self.search_left.min(self.search_time / 5));
        self.tell_found(proc, found, at, told);
    }

    pub(super) fn search(&mut self, proc: &Proc, wanted: &[Wanted], time: Duration) -> HashMap<Inode, Found> {
        self.attributor.begin_tick();
        // By CPU time: what another process takes of the core is not spent on searching. What has to be waited for is.
        let clock = || (self.cputime)() + proc.spent_elsewhere();
        let began = clock();
        let found = self.search.run(proc, wanted, &clock, began + time);
        let spent = clock().saturating_sub(began);
        self.search_left = self.search_left.saturating_sub(spent);
        found
    }

    fn new_connection(&mut self, key: Key, socket: &Socket, first: First, at: Moment) -> Connection {
        let First { seen, direction, transport } = first;
        Connection {
            id: (self.new_id)(at),
            netns: key.netns,
            inode: Some(key.inode),
            cookie: socket.cookie,
            transport,
            tuple: key.tuple,
            direction,
            state: socket.state.of_ours(),
            uid: Some(socket.uid),
            user: None,
            seen,
            opened: at,
            last_seen: at,
            attribution: Attribution::Unknown(Reason::Budget),
            way: None,
        }
    }

    /// Tells an open, with the owner if it is known by now. `space`: where the session behind it may be looked up.
    #[expect(clippy::too_many_arguments, reason = "one open and all that is known of it")]
    pub(super) fn open_owned(
        &mut self,
        proc: &Proc,
        space: Option<&mut Namespace>,
        key: Key,
        attribution: Attribution,
        held: Option<Rc<Held>>,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let needs_name = attribution.owner().is_none();
        let uid = self.table.get(&key).and_then(|entry| entry.connection.uid).filter(|_| needs_name);
        let user = uid.and_then(|uid| self.attributor.user_name(uid));
        let connection = self.table.get(&key).map(|entry| &entry.connection);
        let (direction, opened) =
            connection.map_or((Direction::Egress, at), |one| (one.direction, one.opened));
        let mut way = self.way_of(proc, &key, direction, &attribution, held.as_ref(), opened.boot);
        if let (Some(space), Some(way), Direction::Egress) = (space, &mut way, direction) {
            self.open_session(proc, space, way, at, told);
        }
        self.remember(proc, key, &attribution, held.clone(), at);
        if let Some(owner) = attribution.owner().filter(|_| direction == Direction::Egress) {
            self.count_connection(owner);
        }
        let Some(entry) = self.table.get_mut(&key) else { return };
        let connection = Arc::make_mut(&mut entry.connection);
        connection.attribution = attribution;
        connection.user = user;
        connection.way = way.map(Arc::new);
        self.tell_open(key, at, told);
        self.count_descriptors(key, held.as_ref());
        self.learn_client(proc, key, at, told);
    }

    /// Tells an open, unless a filter proves that it is not wanted.
    pub(super) fn tell_open(&mut self, key: Key, at: Moment, told: &mut Vec<Event>) {
        let Some(entry) = self.table.get(&key) else { return };
        let connection = Arc::clone(&entry.connection);
        let is_told = self.is_wanted(&connection);
        if is_told {
            self.tell_waiting_before(&connection, at, told);
        }
        let Some(entry) = self.table.get_mut(&key) else { return };
        entry.told = is_told;
        if !is_told {
            return;
        }
        if connection.id <= self.last_id {
            Arc::make_mut(&mut entry.connection).id = (self.new_id)(at);
        }
        let connection = Arc::clone(&entry.connection);
        self.last_id = connection.id;
        self.totals.opens += 1;
        self.totals.unattributed += u64::from(connection.attribution.owner().is_none());
        self.coverage.opened(&connection);
        if connection.attribution != Attribution::Unknown(Reason::Budget) {
            self.note_told(&connection, Some(key));
        }
        told.push(Event { at, what: What::Opened(connection) });
    }

    /// True unless a filter proves, by what is known by now, that a connection is not to be told.
    pub(super) fn is_wanted(&self, connection: &Connection) -> bool {
        self.is_chosen(connection) && self.select.filter.admits(&known(connection))
    }

    /// A connection to a port that was not chosen has turned out to be SSH's: it is opened now, under an id of now.
    fn tell_late(&mut self, key: Key, at: Moment, told: &mut Vec<Event>) {
        let id = (self.new_id)(at);
        if let Some(entry) = self.table.get_mut(&key) {
            Arc::make_mut(&mut entry.connection).id = id;
        }
        self.tell_open(key, at, told);
    }

    fn attribute(&mut self, proc: &Proc, key: Key, found: &Found) -> (Attribution, Option<Rc<Held>>) {
        let since = self.sought.remove(&key.inode).map_or_else(|| (self.boottime)(), |(_, since)| since);
        // The latency is taken when the owner has been read, so it is filled in behind it.
        let (mut attribution, mut held) = self.attributor.attribute(proc, key.inode, found, Duration::ZERO);
        let vanished = attribution == Attribution::Unknown(Reason::HolderVanished);
        if vanished && matches!(found, Found::Holders(..)) {
            // Somebody short-lived had inherited it: who else holds it is worth another search.
            let uid = self.table.get(&key).and_then(|entry| entry.connection.uid).unwrap_or(0);
            let again = self.search(proc, &[Wanted { inode: key.inode, uid }], self.search_left);
            if let Some(found) = again.get(&key.inode) {
                (attribution, held) = self.attributor.attribute(proc, key.inode, found, Duration::ZERO);
            }
        }
        if let Attribution::Owned { latency, .. } = &mut attribution {
            *latency = (self.boottime)().saturating_sub(since);
        }
        (attribution, held)
    }

    /// Holds the owner, or plans the next search for it.
    pub(super) fn remember(
        &mut self,
        proc: &Proc,
        key: Key,
        attribution: &Attribution,
        held: Option<Rc<Held>>,
        at: Moment,
    ) {
        match (attribution, held) {
            (Attribution::Owned { holders, .. }, Some(held)) => {
                self.unknown.remove(&key);
                self.holds.add(proc, key, holders.clone(), held);
            }
            (Attribution::Unknown(Reason::Budget), _) => {}
            _ => {
                self.holds.orphan(&key);
                let (_, delay) = self.unknown.get(&key).copied().unwrap_or((at.boot, FIRST_RETRY / 2));
                self.unknown.insert(key, (at.boot + delay * 2, delay * 2));
            }
        }
    }

    /// Owners to search for again: those that were not found, once their time has come, and those that let go of a
    /// socket that stands (a ControlPersist master hands it to its child).
    fn owners_to_find_again(&mut self, proc: &Proc, at: Moment, sight: Duration) -> Vec<Wanted> {
        self.unknown.retain(|_, (_, delay)| *delay <= LAST_RETRY);
        let due = self.unknown.iter().filter(|(_, (next, _))| *next <= at.boot).map(|(key, _)| *key);
        let left = self.holds.some(MOST_ASKED, self.asked).filter(|key| self.holds.owner_left(proc, key));
        let keys: Vec<Key> = due.chain(left).collect();
        self.asked += 1;
        let mut wanted = Vec::new();
        for key in keys {
            let Some(entry) = self.table.get(&key).filter(|entry| entry.absent == 0) else { continue };
            if let Some(uid) = entry.connection.uid
                && !self.sought.contains_key(&key.inode)
            {
                self.sought.insert(key.inode, (key, sight));
                wanted.push(Wanted { inode: key.inode, uid });
            }
        }
        wanted
    }

    /// Owners that were found later than the open was told, and holders of listeners.
    pub(super) fn tell_found(
        &mut self,
        proc: &Proc,
        found: HashMap<Inode, Found>,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let mut learned = false;
        for (inode, found) in found {
            if let Some(server) = self.servers.get_mut(&inode) {
                server.processes = Some(ssh_servers(proc, &found));
                learned = true;
            } else if self.counted.sought.contains_key(&inode) {
                self.tell_rider(proc, inode, &found, at, told);
            } else if let Some((key, _)) = self.sought.get(&inode).copied() {
                let (attribution, held) = self.attribute(proc, key, &found);
                self.tell_owner(proc, key, attribution, held, at, told);
            }
        }
        if learned {
            self.know_servers();
        }
    }

    /// Which ports and processes are SSH servers'. A port stays one as long as a session of it is followed.
    pub(super) fn know_servers(&mut self) {
        let servers = || self.servers.values().filter_map(|s| Some((s.port, s.processes.as_ref()?)));
        let mut ports: HashSet<u16> =
            servers().filter(|(_, processes)| !processes.is_empty()).map(|(port, _)| port).collect();
        ports.insert(22);
        if self.select.inbound {
            let inbound = self.table.iter().filter(|(_, e)| e.connection.direction == Direction::Ingress);
            ports.extend(inbound.map(|(key, _)| key.tuple.local.port()));
        }
        self.server_processes = servers().flat_map(|(_, processes)| processes.iter().copied()).collect();
        self.server_processes.sort_unstable();
        self.server_processes.dedup();
        if ports != self.server_ports {
            self.server_ports = ports;
            self.watch_server_ports();
            if self.select.inbound {
                self.spaces.iter_mut().for_each(|space| space.gate.want_read());
            }
        }
    }

    /// Ends of inbound sessions are told too, where those are followed.
    pub(super) fn watch_server_ports(&self) {
        if let Some(events) = &self.events {
            let ports = self.server_ports.iter().filter(|_| self.select.inbound);
            events.set_accepting(&ports.map(|port| *port..=*port).collect::<Vec<_>>());
        }
    }

    pub(super) fn tell_owner(
        &mut self,
        proc: &Proc,
        key: Key,
        attribution: Attribution,
        held: Option<Rc<Held>>,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        self.remember(proc, key, &attribution, held.clone(), at);
        let Some(entry) = self.table.get(&key) else { return };
        let old = &entry.connection.attribution;
        let attribution = with_chain_of_then(old, attribution);
        let Some(changed) = news(old, &attribution) else { return };
        if let Attribution::Owned { latency, .. } | Attribution::Audited { latency, .. } = &attribution {
            self.coverage.attributed(*latency);
        }
        let was_unknown = matches!(old, Attribution::Unknown(_));
        let was_sought = *old == Attribution::Unknown(Reason::Budget);
        let Connection { direction, opened, way: old, .. } = entry.connection.as_ref();
        let (direction, opened, old) = (*direction, opened.boot, old.clone());
        if let Attribution::Owned { lineage, .. } = &attribution
            && was_unknown
        {
            self.count_connection(&lineage.process);
        }
        let way = self.way_of(proc, &key, direction, &attribution, held.as_ref(), opened);
        let way = way.map(|way| Arc::new(old.as_ref().map_or(way.clone(), |old| way.or_older(old))));
        let Some(entry) = self.table.get_mut(&key) else { return };
        let connection = Arc::make_mut(&mut entry.connection);
        (connection.attribution, connection.way) = (attribution, way.or(old));
        let connection = Arc::clone(&entry.connection);
        if was_sought && entry.told {
            self.note_told(&connection, Some(key));
        }
        let Some(entry) = self.table.get(&key) else { return };
        if !entry.told && self.select.ssh_anywhere {
            self.tell_late(key, at, told);
        } else if entry.told {
            let connection = Arc::clone(&entry.connection);
            told.push(Event { at, what: What::Changed { connection, changed } });
        }
        self.count_descriptors(key, held.as_ref());
        self.learn_client(proc, key, at, told);
    }

    /// Connections that began and ended between two readings: their TIME_WAIT tells that they were, and when they
    /// ended; not who made them.
    pub(super) fn tell_passed(
        &mut self,
        space: &Namespace,
        delta: &Delta,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        for socket in &delta.passed {
            let gone = socket.timewait_left.map_or(Duration::ZERO, |left| TIME_WAIT.saturating_sub(left));
            if space.hears_words() {
                // Its words are on their way, and tell more.
                self.let_pass(space.netns, socket, earlier(at, gone), at);
            } else {
                self.tell_one_passed(space.netns, socket, earlier(at, gone), at, told);
            }
        }
    }

    pub(super) fn tell_one_passed(
        &mut self,
        netns: Netns,
        socket: &Socket,
        gone_by: Moment,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        // A SYN that was taken later came late: had another connection begun, this row would be gone.
        let syn = self.syn_of(netns, socket.tuple).map(|syn| syn.taken_by(gone_by));
        let connection = self.passing((netns, socket.tuple), syn, Seen::TimeWait, at);
        let connection = Connection { state: socket.state, cookie: socket.cookie, ..connection };
        let (reason, success) = (CloseReason::Closed, Some(true));
        let ending = Ending { reason, success, last_seen: None, gone_by, exact: false, bytes: None };
        self.tell_pair(connection, ending, at, told);
    }
}

/// What of a record changes by what is known of an owner now. `None`: nothing does, or it is no news.
fn news(old: &Attribution, new: &Attribution) -> Option<Vec<&'static str>> {
    use Attribution::{Audited, Owned, Recorded, Unknown};
    let (process, evidence) = ("process", "portreeve.attribution");
    match (old, new) {
        // What a former run told stands, as long as it is true.
        (Recorded(_), Unknown(_)) => None,
        (Recorded(old), Owned { lineage, .. }) if old.is(&lineage.process) => None,
        (Recorded(old), Owned { .. }) if old.is_owned() => Some(vec![process]),
        // Nothing is unlearned: an owner that was known stays on record.
        (Owned { .. }, Unknown(_)) => None,
        (Owned { lineage: old, .. }, Owned { lineage, .. }) => {
            (old.process != lineage.process).then(|| vec![process])
        }
        (Audited { .. }, Unknown(_) | Audited { .. }) => None,
        (Audited { asker, .. }, Owned { lineage, .. }) if asker.pid() == lineage.process.pid => {
            Some(vec![evidence])
        }
        (Recorded(_) | Unknown(_) | Audited { .. }, Owned { .. }) | (Unknown(_), Audited { .. }) => {
            Some(vec![process, evidence])
        }
        (_, Audited { .. }) => None,
        (Unknown(old), Unknown(new)) if old == new => None,
        (_, Unknown(_) | Recorded(_)) => Some(vec![evidence]),
    }
}

/// What a filter may judge a connection by.
pub(super) fn known(connection: &Connection) -> Known<'_> {
    let owner = connection.attribution.owner();
    if let Some(departed) = connection.attribution.departed() {
        return Known {
            remote: connection.tuple.remote,
            uid: Some(departed.ids.real_uid),
            user: departed.user.as_deref(),
            executable: departed.executable.as_deref(),
            sha256: None,
        };
    }
    Known {
        remote: connection.tuple.remote,
        uid: owner.and_then(|owner| owner.ids).map(|ids| ids.real_uid).or(connection.uid),
        user: owner.map_or(connection.user.as_deref(), |owner| owner.user.as_deref()),
        executable: owner.and_then(|owner| owner.executable.as_deref()),
        sha256: connection.attribution.hash().and_then(Hash::proven),
    }
}

/// Of one that is read again, who stood above it when it was told first: its parent may have ended since, and another have
/// adopted it, who has nothing to do with the connection.
fn with_chain_of_then(old: &Attribution, new: Attribution) -> Attribution {
    match (old, new) {
        (Attribution::Owned { lineage: old, .. }, Attribution::Owned { lineage, holders, latency })
            if old.process.is_same(&lineage.process) =>
        {
            Attribution::Owned { lineage: lineage.with_chain_of(old), holders, latency }
        }
        (_, new) => new,
    }
}

fn earlier(at: Moment, by: Duration) -> Moment {
    Moment { wall: at.wall.checked_sub(by).unwrap_or(at.wall), boot: at.boot.saturating_sub(by) }
}

/// Those of a listener's holders that are SSH servers and wait for logins.
fn ssh_servers(proc: &Proc, found: &Found) -> Vec<u32> {
    let Found::Holders(holders, _) = found else { return Vec::new() };
    let read = |pid| proc.hold(pid).and_then(|held| proc.read_process(&held, Depth::Ancestor)).ok();
    let servers = holders.iter().filter_map(|holder| read(holder.pid)).filter(ssh::is_server);
    let accepting = servers.filter(|server| ssh::accepts_logins(server, read(server.ppid).as_ref()));
    accepting.map(|process| process.pid).collect()
}
