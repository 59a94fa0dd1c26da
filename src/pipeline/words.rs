//! What the kernel's own words mean: connections whose owner is told while they begin, and ends as they happen.
//!
//! An opening lacks its local port, which the kernel chooses next: it is told as a connection when that is known, by the
//! word of its answer or its end (`last_words`), or by a table.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use super::ends::Evidence;
use super::namespace::Namespace;
use super::opens::MOST_FOLLOWED;
use crate::connection::{
    Connection, Cookie, Direction, Inode, Key, Moment, Netns, Seen, Socket, TcpState, Transport, Tuple,
};
use crate::ebpf::event::{Opening, Sight, Word};
use crate::event::Event;
use crate::proc::{Held, Proc};
use crate::process::{Attribution, Lineage};
use crate::source::{Kind, Observation};
use crate::way::Way;

/// An attempt of which no SYN is sent within this had no way to the other end: they follow in one system call.
const UNSENT: Duration = Duration::from_millis(250);
/// An opening that is not answered within this is looked for in the table, which tells its port.
const UNANSWERED: Duration = Duration::from_millis(30);
/// One that no table shows, and whose end may have been lost, is over after this.
const LOST: Duration = Duration::from_secs(5);
/// In a flood words come so late.
const OVERTAKEN: Duration = Duration::from_secs(10);
/// A table is read in less.
const READING: Duration = Duration::from_millis(100);
/// So many programs make most of the connections that come at once.
const MOST_WAYS: usize = 8;
/// As many openings wait; an end of one beyond is told without its owner.
const MOST_PENDING: usize = 16_384;

/// Openings that were told and are no connections of the table yet.
#[derive(Default)]
pub(super) struct Words {
    /// True if the source is on.
    pub is_on: bool,
    pending: HashMap<Cookie, Pending>,
    by_inode: HashMap<(Netns, Inode), Cookie>,
    /// When words were lost last; when openings may have been among them.
    pub lost_at: Option<Duration>,
    openings_lost_at: Option<Duration>,
    /// Those of the last openings whose processes were read, the very last one first, and when.
    last_ways: VecDeque<LastWay>,
    /// Words that a tick has taken, in their order.
    pub unheard: Vec<Observation>,
    /// All words of what was until then have been taken, but for those of another processor that are on their way.
    heard: Duration,
    /// Rows of what was over before it was seen, whose words may come: when they ended, and when they were read.
    pub passed: HashMap<(Netns, Tuple), (Socket, Moment, Moment)>,
    /// Rows that wait for their word, and since when.
    put_off: HashMap<(Netns, Inode), Duration>,
}

/// Which way a process connected last.
struct LastWay {
    lineage: Arc<Lineage>,
    netns: Netns,
    way: Option<Way>,
    at: Duration,
}

/// An opening.
pub(super) struct Pending {
    pub sight: Sight,
    pub opened: Moment,
    uid: u32,
    /// False as long as only connect(2) told of it.
    pub is_sent: bool,
    pub attribution: Attribution,
    pub held: Option<Rc<Held>>,
    way: Option<Way>,
    /// When a table was asked for it.
    asked: Option<Duration>,
}

impl Words {
    fn insert(&mut self, cookie: Cookie, pending: Pending) -> Option<Pending> {
        if let Some(inode) = pending.sight.inode {
            self.by_inode.insert((pending.sight.netns, inode), cookie);
        }
        self.pending.insert(cookie, pending)
    }

    /// Takes it out.
    pub fn remove(&mut self, cookie: Cookie) -> Option<Pending> {
        let pending = self.pending.remove(&cookie)?;
        if let Some(inode) = pending.sight.inode {
            self.by_inode.remove(&(pending.sight.netns, inode));
        }
        if self.pending.is_empty() {
            self.pending.shrink_to(64);
            self.by_inode.shrink_to(64);
        }
        Some(pending)
    }

    /// The opening that this row is of.
    pub fn find(&self, netns: Netns, socket: &Socket) -> Option<Cookie> {
        if self.pending.is_empty() {
            return None;
        }
        let cookie = socket.cookie.filter(|cookie| self.pending.contains_key(cookie));
        cookie.or_else(|| self.by_inode.get(&(netns, socket.inode?)).copied())
    }

    /// Whoever selects otherwise does not want these any more.
    pub fn retain(&mut self, wants: impl Fn(&Tuple) -> bool) {
        self.pending.retain(|_, pending| wants(&pending.sight.tuple));
        let pending = &self.pending;
        self.by_inode.retain(|_, cookie| pending.contains_key(cookie));
    }
}

impl Pipeline {
    /// Before any of them is taken. Those who connect in namespaces that nobody has noticed yet lead there.
    pub(super) fn meet_words(
        &mut self,
        proc: &Proc,
        observed: &[Observation],
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let unknown = |opening: &&Opening| !self.spaces.iter().any(|s| s.netns == opening.sight.netns);
        let openings = observed.iter().filter_map(|observation| match observation {
            Observation::Word(Word::Open(opening) | Word::Flow(opening)) => Some(&**opening),
            _ => None,
        });
        let mut openings = openings.peekable();
        if openings.peek().is_none() {
            return;
        }
        let mut pids: Vec<u32> = openings.filter(unknown).map(|opening| opening.pid).collect();
        pids.dedup();
        self.attributor.begin_tick();
        self.ask_where_they_live(proc, &pids, at, told);
    }

    /// Before the owners of rows that are new are searched for: their openings were told before.
    pub(super) fn hear_openings(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        sockets: &[Socket],
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let is_told = |socket: &Socket| self.words.find(space.netns, socket).is_some();
        if !self.words.is_on || sockets.iter().all(is_told) {
            return;
        }
        self.hear_words_now();
        for socket in sockets {
            let is_its = |observation: &Observation| match observation {
                Observation::Word(Word::Open(opening)) => {
                    opening.sight.netns == space.netns
                        && (socket.cookie.is_some() && opening.sight.cookie == socket.cookie
                            || socket.inode.is_some() && opening.sight.inode == socket.inode)
                }
                _ => false,
            };
            // The last one: a socket may have tried before.
            let Some(place) = self.words.unheard.iter().rposition(is_its) else { continue };
            let its = self.words.unheard.get(place).and_then(cookie_of);
            if self.words.unheard.iter().take(place).any(|other| cookie_of(other) == its) {
                // What became of it before would be taken for what becomes of it now.
                continue;
            }
            if let Observation::Word(Word::Open(opening)) = self.words.unheard.remove(place) {
                self.take_opening(proc, &mut Some(&mut *space), &opening, at, told);
            }
        }
    }

    /// Takes what is told up to now, to be heard at the end of this tick. True if there is more.
    pub(super) fn hear_words_now(&mut self) -> bool {
        let (words, more) = self.events.as_ref().map(|events| events.words_now()).unwrap_or_default();
        self.words.unheard.extend(words);
        more
    }

    /// True of a row that is new and whose opening ought to have been told: it waits for the next tick, once. A word that
    /// another processor has begun and not ended hides those behind it.
    pub(super) fn puts_off(&mut self, space: &Namespace, socket: &Socket, at: Moment) -> bool {
        let Some(inode) = socket.inode.filter(|_| space.hears_words()) else { return false };
        let is_lossy = self.words.openings_lost_at.is_some_and(|lost| lost + OVERTAKEN > at.boot);
        let place = (space.netns, inode);
        if is_lossy || self.words.put_off.remove(&place).is_some() {
            return false;
        }
        self.words.put_off.insert(place, at.boot);
        true
    }

    /// True if a row waits for the next tick.
    pub(super) fn has_put_off(&mut self, at: Moment) -> bool {
        self.words.put_off.retain(|_, since| *since + LOST > at.boot);
        self.words.put_off.values().any(|since| *since == at.boot)
    }

    /// True if the kernel's own words tell of the end of this.
    pub(super) fn has_word(&self, key: &Key) -> bool {
        self.words.is_on
            && self.table.get(key).is_some_and(|entry| {
                let Connection { transport, direction, tuple, .. } = entry.connection.as_ref();
                *transport == Transport::Tcp
                    && *direction == Direction::Egress
                    && self.select.looked_at().contains(tuple.remote.port())
            })
    }

    /// True if what was told until then has been taken.
    pub(super) fn has_heard(&self, until: Duration) -> bool {
        self.words.heard >= until
    }

    /// Takes the words up to now, or as many as there is time for.
    pub(super) fn hear_now(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        let more = self.hear_words_now();
        self.hear_rest(proc, at, told);
        if !more {
            self.words.heard = self.words.heard.max(at.boot);
        }
    }

    /// A row of what is over already waits for its words.
    pub(super) fn let_pass(&mut self, netns: Netns, socket: &Socket, gone_by: Moment, at: Moment) {
        if self.words.passed.len() < MOST_PENDING {
            self.words.passed.entry((netns, socket.tuple)).or_insert((*socket, gone_by, at));
        } else {
            self.count_lost(Kind::Ebpf, Some(1), at);
        }
    }

    /// Those rows of which no word came within this.
    pub(super) fn tell_passed_by(
        &mut self,
        proc: &Proc,
        patience: Duration,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let is_old = |read: &Moment| read.boot + patience <= at.boot;
        if self.words.passed.values().any(|(.., read)| is_old(read)) {
            self.hear_now(proc, at, told);
        }
        let heard = self.words.heard;
        let is_over = |read: &Moment| heard >= read.boot + patience || read.boot + LOST <= at.boot;
        let over = self.words.passed.extract_if(|_, (.., read)| is_old(read) && is_over(read));
        let mut over: Vec<_> = over.collect();
        over.sort_unstable_by_key(|(place, _)| *place);
        for ((netns, tuple), (socket, gone_by, _)) in over {
            // One that is open there is another, or the same, and its end will be told.
            if self.table.between(netns, tuple).is_none() {
                self.tell_one_passed(netns, &socket, gone_by, at, told);
            }
        }
    }

    /// The words that a tick has taken.
    pub(super) fn hear_rest(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        let rest = std::mem::take(&mut self.words.unheard);
        if !rest.is_empty() {
            told.extend(self.observe(proc, at, rest));
        }
    }

    /// Answers and ends may not have been told, openings were: what is followed is looked at, unless notices of ends tell
    /// of those. Nothing is lost by it but when it was.
    pub(super) fn miss_words(&mut self, spaces: &mut [Namespace], count: u64, at: Moment) {
        let mut deaf: Vec<_> = spaces.iter_mut().filter(|space| !space.on.contains(&Kind::Destroy)).collect();
        if deaf.is_empty() {
            return;
        }
        deaf.iter_mut().for_each(|space| space.gate.want_look_at_all());
        self.words.lost_at = Some(at.boot);
        self.count_repaired(Kind::Ebpf, count);
    }

    /// Words were lost, nobody knows of which namespace.
    pub(super) fn lose_words(&mut self, spaces: &mut [Namespace], count: Option<u64>, at: Moment) {
        for space in spaces {
            space.balance.syns_whole = false;
            space.doubt(at.boot);
        }
        (self.words.lost_at, self.words.openings_lost_at) = (Some(at.boot), Some(at.boot));
        self.count_lost(Kind::Ebpf, count, at);
    }

    /// Takes one word. Of a namespace that is not followed nothing is told.
    pub(super) fn take_word(
        &mut self,
        proc: &Proc,
        spaces: &mut [Namespace],
        word: Word,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Sight { netns, at: when, .. } = *word.sight();
        self.words.heard = self.words.heard.max(when);
        let mut space = spaces.iter_mut().find(|space| space.netns == netns);
        if word.names_namespace() && space.is_none() && !self.follows_all {
            return;
        }
        match word {
            Word::Open(opening) => self.take_opening(proc, &mut space, &opening, at, told),
            Word::Syn(sight) => self.take_sent(&mut space, sight, proc, at, told),
            Word::Established(sight) => self.take_established(proc, &mut space, sight, at, told),
            Word::Closed(ended) => self.take_closed(proc, &mut space, &ended, at, told),
            Word::Flow(opening) => self.take_flow(proc, &opening, at, told),
            Word::Sent(sight) => self.take_first_packet(proc, &sight, at, told),
            Word::LetGo(sight) => self.take_let_go(&sight, at, told),
        }
    }

    /// Who connects or sends.
    pub(super) fn owner_of(&mut self, proc: &Proc, opening: &Opening) -> (Attribution, Option<Rc<Held>>) {
        let is_read = !self.search_left.is_zero();
        let (mut attribution, held) = self.attributor.attribute_opening(proc, opening, is_read);
        if let Attribution::Owned { latency, .. } = &mut attribution {
            *latency = (self.boottime)().saturating_sub(opening.sight.at);
        }
        (attribution, held)
    }

    fn take_opening(
        &mut self,
        proc: &Proc,
        space: &mut Option<&mut Namespace>,
        opening: &Opening,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let sight = opening.sight;
        let Some(cookie) = sight.cookie.filter(|_| self.select.wants(&sight.tuple)) else { return };
        if let (Some(space), false) = (space.as_mut(), opening.is_attempt) {
            space.gate.note_open();
        }
        if self.missed_cookies.get(&cookie).is_some_and(|ended| ended.boot >= sight.at) {
            // In a flood, what began here has been told to its end by a table.
            return;
        }
        let before = (self.cputime)();
        let (attribution, held) = self.owner_of(proc, opening);
        let way = self.way_of_opening(proc, &sight, &attribution, held.as_ref());
        self.search_left = self.search_left.saturating_sub((self.cputime)().saturating_sub(before));
        if let Some(key) = self.table.by_cookie(cookie) {
            if self.table.get(&key).is_some_and(|entry| self.is_of(&entry.connection, &sight)) {
                // A table was quicker.
                self.learn_owner(proc, key, attribution, held, at, told);
                return;
            }
            // The same socket connects again: what it was before is over.
            self.close(&key, Evidence::Gone, Default::default(), at, at, told);
        }
        let pending = Pending {
            sight,
            opened: moment(at, sight.at),
            uid: opening.socket_uid,
            is_sent: !opening.is_attempt,
            attribution,
            held,
            way,
            asked: None,
        };
        if self.words.pending.len() >= MOST_PENDING {
            self.count_lost(Kind::Ebpf, Some(1), at);
            return;
        }
        if let Some(before) = self.words.insert(cookie, pending) {
            self.tell_unsent(cookie, before, at, told);
        }
        self.open_if_complete(proc, space, cookie, at, told);
    }

    /// True if a table, or a SYN, has told of what begins here. A tick has the moment at which it began: what it read may be
    /// younger by as long as the reading took.
    fn is_of(&self, connection: &Connection, opening: &Sight) -> bool {
        let opened = connection.opened.boot;
        if opened >= opening.at {
            return true;
        }
        let (tuple, port) = (&connection.tuple, opening.tuple.local.port());
        let is_between = tuple.remote == opening.tuple.remote && (port == 0 || port == tuple.local.port());
        // Of a socket that connects again the end would have been told before.
        let is_end_lost = self.words.lost_at.is_some_and(|lost| lost >= opened);
        connection.seen != Seen::Ebpf && is_between && (!is_end_lost || opening.at < opened + READING)
    }

    /// Of the next opening of a process that was not read it is what it was of the last.
    fn way_of_opening(
        &mut self,
        proc: &Proc,
        sight: &Sight,
        attribution: &Attribution,
        held: Option<&Rc<Held>>,
    ) -> Option<Way> {
        let Attribution::Owned { lineage, .. } = attribution else { return None };
        let is_its = |last: &&LastWay| {
            Arc::ptr_eq(&last.lineage, lineage)
                && last.netns == sight.netns
                && sight.at.abs_diff(last.at) < READING
                // What a client opens beside its connection it opens for its server.
                && !last.way.as_ref().is_some_and(|way| way.is_ssh)
        };
        if held.is_none()
            && let Some(last) = self.words.last_ways.iter().find(is_its)
        {
            return last.way.clone();
        }
        let key = Key { netns: sight.netns, tuple: sight.tuple, inode: sight.inode? };
        let way = self.way_of(proc, &key, Direction::Egress, attribution, held, sight.at);
        self.words.last_ways.truncate(MOST_WAYS - 1);
        let lineage = Arc::clone(lineage);
        let last = LastWay { lineage, netns: sight.netns, way: way.clone(), at: sight.at };
        self.words.last_ways.push_front(last);
        way
    }

    /// The SYN of an attempt follows.
    fn take_sent(
        &mut self,
        space: &mut Option<&mut Namespace>,
        sight: Sight,
        proc: &Proc,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Some(cookie) = sight.cookie else { return };
        let Some(pending) = self.words.pending.get_mut(&cookie) else { return };
        pending.is_sent = true;
        pending.sight.tuple = sight.tuple;
        if let Some(space) = space {
            space.gate.note_open();
        }
        self.open_if_complete(proc, space, cookie, at, told);
    }

    /// A socket that was bound has its port from the beginning.
    fn open_if_complete(
        &mut self,
        proc: &Proc,
        space: &mut Option<&mut Namespace>,
        cookie: Cookie,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Some(Pending { sight, is_sent: true, .. }) = self.words.pending.get(&cookie) else { return };
        let sight = *sight;
        if let Some(space) = space.as_mut().filter(|_| sight.tuple.local.port() != 0) {
            self.open_pending(proc, space, cookie, sight.tuple, TcpState::SynSent, at, told);
        }
    }

    fn take_established(
        &mut self,
        proc: &Proc,
        space: &mut Option<&mut Namespace>,
        sight: Sight,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let (Some(cookie), Some(space)) = (sight.cookie, space.as_mut()) else { return };
        if self.words.pending.contains_key(&cookie) {
            self.open_pending(proc, space, cookie, sight.tuple, TcpState::Established, at, told);
        } else if let Some(key) = self.known(&sight) {
            let uid = self.table.get(&key).and_then(|entry| entry.connection.uid).unwrap_or(0);
            let socket = Socket { state: TcpState::Established, ..socket_of(&sight, uid) };
            if self.table.look(&key, &socket, None, moment(at, sight.at)) {
                self.tell_established(&[key], at, told);
            }
        } else if self.select.wants(&sight.tuple) {
            // Its opening was lost.
            space.gate.want_read();
        }
    }

    /// The open connection that this is of.
    pub(super) fn known(&self, sight: &Sight) -> Option<Key> {
        let by_cookie = sight.cookie.and_then(|cookie| self.table.by_cookie(cookie));
        by_cookie.or_else(|| {
            let key = self.table.between(sight.netns, sight.tuple)?;
            let is_same = sight.inode.is_none_or(|inode| inode == key.inode);
            let entry = self.table.get(&key).filter(|_| is_same)?;
            entry.connection.cookie.is_none().then_some(key)
        })
    }

    /// A row that is new in a table, if it is that of an opening: then it is told with the owner of that.
    pub(super) fn open_row(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        socket: &Socket,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> bool {
        let cookie = self.words.find(space.netns, socket);
        cookie.is_some_and(|cookie| {
            self.open_pending(proc, space, cookie, socket.tuple, socket.state.of_ours(), at, told);
            true
        })
    }

    #[expect(clippy::too_many_arguments, reason = "an opening, and what has been learned of it since")]
    fn open_pending(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        cookie: Cookie,
        tuple: Tuple,
        state: TcpState,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if self.must_wait(space.netns, cookie, tuple) {
            return;
        }
        let Some(mut pending) = self.words.remove(cookie) else { return };
        pending.sight.tuple = tuple;
        if self.words.lost_at.is_some_and(|lost| lost >= pending.opened.boot) {
            // The word of its end may be among what was lost since.
            space.gate.want_look();
        }
        let ended = self.missed_notices.get(&(space.netns, tuple));
        if ended.is_some_and(|ended| ended.boot >= pending.opened.boot) {
            // In a flood, its TIME_WAIT has been told before.
            return;
        }
        let Some(inode) = pending.sight.inode else { return };
        let key = Key { netns: space.netns, tuple, inode };
        if self.table.get(&key).is_some() {
            // A table was quicker, and told no cookie.
            let socket = Socket { state, ..socket_of(&pending.sight, pending.uid) };
            let seen = self.table.get(&key).map_or(pending.opened, |entry| entry.connection.last_seen);
            if self.table.look(&key, &socket, None, seen) {
                self.tell_established(&[key], at, told);
            }
            self.learn_owner(proc, key, pending.attribution, pending.held, at, told);
            return;
        }
        if self.comes_too_late((space.netns, tuple), pending.opened.boot) {
            self.count_lost(Kind::Ebpf, Some(1), at);
            return;
        }
        if let Some(old) = self.table.between(space.netns, tuple) {
            let failures = self.new_failures(proc, space);
            self.close(&old, Evidence::Gone, failures, at, at, told);
        }
        self.open_told(proc, space, key, cookie, pending, state, at, told);
    }

    /// True for an opening without an inode, or without room, which waits for its end; and for one whose place another has
    /// taken by now.
    fn must_wait(&self, netns: Netns, cookie: Cookie, tuple: Tuple) -> bool {
        let Some(pending) = self.words.pending.get(&cookie) else { return true };
        let standing = self.table.between(netns, tuple).filter(|key| Some(key.inode) != pending.sight.inode);
        let standing = standing.and_then(|key| self.table.get(&key));
        let is_over = standing.is_some_and(|entry| entry.connection.opened.boot > pending.opened.boot);
        pending.sight.inode.is_none() || is_over || self.table.len() >= MOST_FOLLOWED
    }

    #[expect(clippy::too_many_arguments, reason = "an opening, and what has been learned of it since")]
    fn open_told(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        key: Key,
        cookie: Cookie,
        mut pending: Pending,
        state: TcpState,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let (attribution, held) = (pending.attribution.clone(), pending.held.take());
        if let Some(way) = &mut pending.way {
            self.open_session(proc, space, way, at, told);
        }
        let device = pending.sight.device;
        let connection = self.connection_of(pending, cookie, state, at);
        self.table.open(key, connection, device, true);
        if self.syns.remove(&(key.netns, key.tuple)).is_none() {
            self.expect_syn(space, &key, Seen::Ebpf, at);
        }
        self.remember(proc, key, &attribution, held.clone(), at);
        self.tell_open(key, at, told);
        self.count_descriptors(key, held.as_ref());
        self.learn_client(proc, key, at, told);
        if super::is_fragile(state) {
            space.fragile.push(key);
        }
    }

    /// An owner whose search can be given up; one that was read from its process says more, and stays.
    pub(super) fn learn_owner(
        &mut self,
        proc: &Proc,
        key: Key,
        attribution: Attribution,
        held: Option<Rc<Held>>,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let known = self.table.get(&key).map(|entry| &entry.connection.attribution);
        if matches!(known, Some(Attribution::Unknown(_))) {
            self.sought.remove(&key.inode);
            self.search.forget(key.inode);
            self.tell_owner(proc, key, attribution, held, at, told);
        }
    }

    /// A connection that was opened so.
    pub(super) fn connection_of(
        &mut self,
        pending: Pending,
        cookie: Cookie,
        state: TcpState,
        at: Moment,
    ) -> Connection {
        let Pending { sight, opened, uid, attribution, way, .. } = pending;
        if let Some(owner) = attribution.owner() {
            self.count_connection(owner);
        }
        Connection {
            id: (self.new_id)(at),
            netns: sight.netns,
            inode: sight.inode,
            cookie: Some(cookie),
            transport: Transport::Tcp,
            tuple: sight.tuple,
            direction: Direction::Egress,
            state,
            uid: Some(uid),
            user: None,
            seen: Seen::Ebpf,
            opened,
            last_seen: opened,
            attribution,
            way: way.map(Arc::new),
        }
    }

    /// In each tick: attempts to which there was no way, and openings that nobody answers.
    pub(super) fn tell_old_words(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        self.attributor.forget_callers(at.boot);
        self.tell_passed_by(proc, READING, at, told);
        if self.words.pending.is_empty() {
            return;
        }
        let age = |pending: &Pending| at.boot.saturating_sub(pending.opened.boot);
        let may_be_unsent = |pending: &Pending| !pending.is_sent && age(pending) >= UNSENT;
        if self.words.pending.values().any(may_be_unsent) {
            // In a flood its SYN waits behind others.
            self.hear_now(proc, at, told);
        }
        let heard = self.words.heard;
        let mut over = Vec::new();
        for (cookie, pending) in &mut self.words.pending {
            let is_lost = self.words.lost_at.is_some_and(|lost| lost >= pending.opened.boot);
            match pending.asked {
                _ if may_be_unsent(pending) && heard >= pending.opened.boot + UNSENT => over.push(*cookie),
                None if pending.is_sent && age(pending) >= UNANSWERED => {
                    pending.asked = Some(at.boot);
                    let space = self.spaces.iter_mut().find(|space| space.netns == pending.sight.netns);
                    if let Some(space) = space {
                        space.gate.want_read();
                    }
                }
                Some(asked) if is_lost && asked + LOST <= at.boot => over.push(*cookie),
                _ => {}
            }
        }
        over.sort_unstable();
        for cookie in over {
            if let Some(pending) = self.words.remove(cookie) {
                self.tell_unsent(cookie, pending, at, told);
            }
        }
    }
}

/// Whose word it is.
fn cookie_of(observation: &Observation) -> Option<Cookie> {
    match observation {
        Observation::Word(word) => word.sight().cookie,
        _ => None,
    }
}

/// A moment of the past, by the clocks of now.
pub(super) fn moment(now: Moment, boot: Duration) -> Moment {
    let boot = boot.min(now.boot);
    let wall = now.wall.checked_sub(now.boot.saturating_sub(boot)).unwrap_or(now.wall);
    Moment { wall, boot }
}

fn socket_of(sight: &Sight, uid: u32) -> Socket {
    Socket {
        tuple: sight.tuple,
        state: TcpState::SynSent,
        uid,
        inode: sight.inode,
        timewait_left: None,
        cookie: sight.cookie,
        device: sight.device,
    }
}
