//! UDP flows in the kernel's own words: their process is told when it connects or sends, their ends with the first packet,
//! and packets are counted. One is over when its socket is let go of, or connected elsewhere, or, where that is connected to
//! nobody, when nothing passed for a while.
//!
//! The table shows flows of connected sockets (`flows`), under the same keys: whichever tells one first, the other finds it.
//! What an unconnected socket sends only these words tell.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use super::namespace::Namespace;
use super::opens::MOST_FOLLOWED;
use super::words::moment;
use crate::connection::{
    CloseReason, Connection, Cookie, Direction, Key, Moment, Netns, Seen, Socket, TcpState, Transport, Tuple,
};
use crate::ebpf::event::{FlowCounts, Opening, Sight, Word};
use crate::event::{Bytes, Ending, Event, Packets};
use crate::proc::{Held, Proc, Sight as Look};
use crate::process::{Attribution, Reason};
use crate::source::{Kind, Observation};

/// Those whose time may have come are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What nobody sees leave for so long was dropped on its way out, by this machine's own firewall or for want of a way.
const UNSENT: Duration = Duration::from_secs(5);
/// As many wait for their first packet.
const MOST_ASKED: usize = 16_384;
/// Below every remote end.
const LEAST: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// Flows that words told of, by their socket and remote end.
#[derive(Default)]
pub(super) struct Heard {
    flows: BTreeMap<(Cookie, SocketAddr), Flow>,
    asked: BTreeMap<(Cookie, SocketAddr), Asked>,
    /// Those of connected sockets that are not wanted, as their words told: a reload may take them in.
    unwanted: BTreeMap<(Cookie, SocketAddr), Duration>,
    /// When the last was told that has been taken, wanted or not.
    taken: Duration,
    look_due: Duration,
}

/// One that is open.
#[derive(Debug, Clone, Copy)]
struct Flow {
    key: Key,
    /// As its word told; the kernel's counts are of another flow if they begin otherwise.
    first: Duration,
    /// True if nothing passed before it.
    is_whole: bool,
    /// When it is over if nothing passes until then.
    due: Duration,
}

/// One of which only the process is known.
struct Asked {
    sight: Sight,
    uid: u32,
    attribution: Attribution,
    held: Option<Rc<Held>>,
}

/// What there is of a socket.
fn of_socket<T>(all: &BTreeMap<(Cookie, SocketAddr), T>, cookie: Cookie) -> Vec<(Cookie, SocketAddr)> {
    let from = all.range((cookie, LEAST)..).map(|(place, _)| *place);
    from.take_while(|(of, _)| *of == cookie).collect()
}

impl Heard {
    fn flow(&self, cookie: Option<Cookie>, key: &Key) -> Option<&Flow> {
        self.flows.get(&(cookie?, key.tuple.remote)).filter(|flow| flow.key == *key)
    }

    fn pass_over(&mut self, place: (Cookie, SocketAddr), first: Duration) {
        if self.unwanted.len() < MOST_ASKED {
            self.unwanted.insert(place, first);
        }
    }
}

impl Pipeline {
    /// A process connects a UDP socket or sends.
    pub(super) fn take_flow(&mut self, proc: &Proc, opening: &Opening, at: Moment, told: &mut Vec<Event>) {
        let sight = opening.sight;
        self.heard.taken = self.heard.taken.max(sight.at);
        let Some(cookie) = sight.cookie else { return };
        let place = (cookie, sight.tuple.remote);
        if !self.select.wants_flow(&sight.tuple) {
            if sight.before == TcpState::Established {
                self.heard.pass_over(place, sight.at);
            }
            return;
        }
        let before = (self.cputime)();
        let (attribution, held) = self.owner_of(proc, opening);
        self.search_left = self.search_left.saturating_sub((self.cputime)().saturating_sub(before));
        if sight.before == TcpState::Established {
            self.end_others(place, moment(at, sight.at), at, told);
        }
        if let Some(flow) = self.heard.flows.get_mut(&place) {
            // Others had taken its place in the kernel: what it counted is lost.
            (flow.first, flow.is_whole) = (sight.at, false);
            return;
        }
        if self.heard.asked.len() >= MOST_ASKED {
            self.count_lost(Kind::Ebpf, Some(1), at);
            return;
        }
        self.heard.asked.insert(place, Asked { sight, uid: opening.socket_uid, attribution, held });
    }

    /// A socket that is connected elsewhere ends the flow to whom it was connected before.
    fn end_others(&mut self, but: (Cookie, SocketAddr), gone_by: Moment, at: Moment, told: &mut Vec<Event>) {
        for place in of_socket(&self.heard.flows, but.0).into_iter().filter(|place| *place != but) {
            let Some(key) = self.heard.flows.get(&place).map(|flow| flow.key) else { continue };
            if self.table.get(&key).is_some_and(|entry| entry.connection.state == TcpState::Established) {
                self.end_flow(&key, CloseReason::Closed, gone_by, true, at, told);
            }
        }
    }

    /// The first packet of a flow leaves.
    pub(super) fn take_first_packet(
        &mut self,
        proc: &Proc,
        sight: &Sight,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Some(cookie) = sight.cookie else { return };
        if let Some(asked) = self.heard.asked.remove(&(cookie, sight.tuple.remote)) {
            self.open_asked(proc, cookie, asked, sight.tuple, at, told);
        }
    }

    /// A reading shows a socket that is connected, and nothing left it yet.
    pub(super) fn open_flow_row(
        &mut self,
        proc: &Proc,
        space: &Namespace,
        socket: &Socket,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> bool {
        let remote = socket.tuple.remote;
        let is_its = |asked: &Asked| {
            asked.sight.netns == space.netns
                && asked.sight.inode == socket.inode
                && asked.sight.tuple.remote == remote
        };
        let place = match socket.cookie {
            Some(cookie) => Some((cookie, remote)).filter(|place| self.heard.asked.contains_key(place)),
            None => self.heard.asked.iter().find(|(_, asked)| is_its(asked)).map(|(place, _)| *place),
        };
        let Some((place, asked)) = place.and_then(|place| Some((place, self.heard.asked.remove(&place)?)))
        else {
            return false;
        };
        self.open_asked(proc, place.0, asked, socket.tuple, at, told);
        true
    }

    /// What a reading has opened although its word was told: it was not wanted then. The kernel has counted it since.
    pub(super) fn count_on_flows(&mut self, netns: Netns, sockets: &[Socket], at: Moment) {
        for Socket { tuple, cookie, inode, .. } in sockets {
            let (Some(cookie), Some(inode)) = (*cookie, *inode) else { continue };
            let (place, key) = ((cookie, tuple.remote), Key { netns, tuple: *tuple, inode });
            if self.table.get(&key).is_some()
                && let Some(first) = self.heard.unwanted.remove(&place)
            {
                let due = at.boot + self.select.udp_idle;
                self.heard.flows.insert(place, Flow { key, first, is_whole: true, due });
            }
        }
    }

    fn open_asked(
        &mut self,
        proc: &Proc,
        cookie: Cookie,
        asked: Asked,
        tuple: Tuple,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Asked { sight, uid, attribution, held } = asked;
        let Some(inode) = sight.inode else { return };
        let key = Key { netns: sight.netns, tuple, inode };
        let mut is_whole = true;
        if let Some(entry) = self.table.get_mut(&key) {
            is_whole = entry.connection.seen.tells_start() && !entry.unseen;
            entry.unseen = false;
            self.learn_owner(proc, key, attribution, held, at, told);
        } else if self.table.len() >= MOST_FOLLOWED {
            return self.leave_out(1, at);
        } else {
            let connection = self.flow_of(&sight, key, cookie, uid, at);
            self.table.open(key, connection, sight.device, true);
            self.open_owned(proc, None, key, attribution, held, at, told);
        }
        let flow = Flow { key, first: sight.at, is_whole, due: at.boot + self.select.udp_idle };
        self.heard.flows.insert((cookie, tuple.remote), flow);
    }

    fn flow_of(&mut self, sight: &Sight, key: Key, cookie: Cookie, uid: u32, at: Moment) -> Connection {
        let opened = moment(at, sight.at);
        Connection {
            id: (self.new_id)(at),
            netns: key.netns,
            inode: Some(key.inode),
            cookie: Some(cookie),
            transport: Transport::Udp,
            tuple: key.tuple,
            direction: Direction::Egress,
            state: sight.before,
            uid: Some(uid),
            user: None,
            seen: Seen::Ebpf,
            opened,
            last_seen: opened,
            attribution: Attribution::Unknown(Reason::Budget),
            way: None,
        }
    }
}

/// Ends.
impl Pipeline {
    /// A socket is closed.
    pub(super) fn take_let_go(&mut self, sight: &Sight, at: Moment, told: &mut Vec<Event>) {
        let Some(cookie) = sight.cookie else { return };
        for place in of_socket(&self.heard.flows, cookie) {
            if let Some(flow) = self.heard.flows.get(&place).copied() {
                self.end_flow(&flow.key, CloseReason::Closed, moment(at, sight.at), true, at, told);
            }
            self.heard.flows.remove(&place);
        }
        for place in of_socket(&self.heard.asked, cookie) {
            self.heard.asked.remove(&place);
        }
        for place in of_socket(&self.heard.unwanted, cookie) {
            self.heard.unwanted.remove(&place);
        }
    }

    /// The end of a flow, with what the kernel has counted of it. Without that, whether anybody answered is not known.
    pub(super) fn end_flow(
        &mut self,
        key: &Key,
        reason: CloseReason,
        gone_by: Moment,
        exact: bool,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Some(Connection { cookie, state, .. }) = self.table.get(key).map(|entry| &*entry.connection)
        else {
            return;
        };
        let (cookie, is_connected) = (*cookie, *state == TcpState::Established);
        let flow = self.heard.flow(cookie, key).copied();
        // A socket that stays connected tells nothing anew.
        let goes_on = reason == CloseReason::OutOfScope && is_connected;
        let counts = flow.zip(cookie).and_then(|(flow, cookie)| self.count(cookie, &flow, !goes_on));
        if let Some((flow, cookie)) = flow.zip(cookie) {
            let place = (cookie, key.tuple.remote);
            self.heard.flows.remove(&place);
            if goes_on && flow.is_whole {
                self.heard.pass_over(place, flow.first);
            }
        }
        if let (Some(counts), Some(entry)) = (counts, self.table.get_mut(key)) {
            Arc::make_mut(&mut entry.connection).last_seen = moment(at, counts.last);
        }
        let success = counts.and_then(|counts| (counts.packets_received > 0).then_some(true));
        let whole = counts.filter(|_| flow.is_some_and(|flow| flow.is_whole));
        let bytes = whole.map(|counts| Bytes {
            sent: Some(counts.sent),
            received: counts.received,
            exact: true,
            packets: Some(Packets { sent: counts.packets_sent, received: counts.packets_received }),
        });
        self.finish(key, Ending { reason, success, last_seen: None, gone_by, exact, bytes }, at, told);
    }

    fn count(&self, cookie: Cookie, flow: &Flow, is_over: bool) -> Option<FlowCounts> {
        let counts = self.events.as_ref()?.count_flow(cookie, flow.key.tuple.remote, is_over)?;
        (counts.first == flow.first).then_some(counts)
    }

    /// True if a word will tell of its end.
    pub(super) fn hears_end_of(&self, key: &Key) -> bool {
        let cookie = self.table.get(key).and_then(|entry| entry.connection.cookie);
        self.words.is_on && self.heard.flow(cookie, key).is_some()
    }

    /// In each tick: flows of unconnected sockets through which nothing passed for a while, and what never left.
    pub(super) fn tell_idle_flows(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        if at.boot < self.heard.look_due {
            return;
        }
        self.heard.look_due = at.boot + LOOK_EVERY;
        let is_kept =
            |asked: &Asked| asked.sight.before == TcpState::Established || asked.sight.at + UNSENT > at.boot;
        let Self { heard, events, .. } = self;
        heard.asked.retain(|(cookie, remote), asked| {
            let is_kept = is_kept(asked);
            if let Some(events) = events.as_ref().filter(|_| !is_kept) {
                // What it sends next may leave.
                let _nothing_left = events.count_flow(*cookie, *remote, true);
            }
            is_kept
        });
        let due = self.heard.flows.iter().filter(|(_, flow)| flow.due <= at.boot);
        for (place, flow) in due.map(|(place, flow)| (*place, *flow)).collect::<Vec<_>>() {
            let until = self.may_last(place.0, &flow, at);
            match (until, self.heard.flows.get_mut(&place)) {
                (Some(until), Some(flow)) => flow.due = until,
                (None, _) => self.tell_idle(proc, &flow.key, at, told),
                _ => {}
            }
            if self.table.get(&flow.key).is_none() {
                self.heard.flows.remove(&place);
            }
        }
    }

    /// How long at least. `None`: it is over.
    fn may_last(&self, cookie: Cookie, flow: &Flow, at: Moment) -> Option<Duration> {
        let state = self.table.get(&flow.key)?.connection.state;
        let last = match state {
            // As long as its socket is connected.
            TcpState::Established => Some(at.boot),
            _ => self.count(cookie, flow, false).map(|counts| counts.last),
        };
        last.map(|last| last + self.select.udp_idle).filter(|until| *until > at.boot)
    }

    fn tell_idle(&mut self, proc: &Proc, key: &Key, at: Moment, told: &mut Vec<Event>) {
        let is_unseen = self.table.get(key).is_some_and(|entry| entry.unseen);
        let is_gone = is_unseen && self.holds.look(proc, key) == Look::Gone;
        let reason = if is_gone { CloseReason::WhileDown } else { CloseReason::Idle };
        self.end_flow(key, reason, at, false, at, told);
    }

    /// Another selection holds. What it does not want is not asked for any more; what the one before did not want and this
    /// does is told with its next datagram: the kernel told of it once, to nobody. Of a connected socket it tells once alone,
    /// and counts on: the table shows that.
    pub(super) fn select_flows(&mut self) {
        let Self { select, heard, .. } = self;
        heard.asked.retain(|_, asked| select.wants_flow(&asked.sight.tuple));
        if !select.udp {
            heard.unwanted.clear();
        } else if let Some(events) = &self.events {
            let followed = heard.flows.keys().chain(heard.asked.keys()).chain(heard.unwanted.keys()).copied();
            // What was told since waits to be taken, and is judged then.
            events.forget_flows(heard.taken, followed);
        }
    }

    /// Flows of unconnected sockets that the run before followed: no table shows them.
    pub(super) fn expect_flow(&mut self, key: Key, connection: &Connection, at: Moment) {
        if let (Transport::Udp, TcpState::Close, Some(cookie)) =
            (connection.transport, connection.state, connection.cookie)
        {
            let due = at.boot + self.select.udp_idle;
            let flow = Flow { key, first: Duration::ZERO, is_whole: false, due };
            self.heard.flows.insert((cookie, key.tuple.remote), flow);
        }
    }

    /// Words of flows that a reading is to find told.
    pub(super) fn hear_flows(&mut self, proc: &Proc, netns: Netns, at: Moment, told: &mut Vec<Event>) {
        if !self.words.is_on {
            return;
        }
        self.hear_words_now();
        let is_its = |observation: &mut Observation| match observation {
            Observation::Word(Word::Flow(flow)) => flow.sight.netns == netns,
            Observation::Word(Word::Sent(_)) => true,
            _ => false,
        };
        for observation in self.words.unheard.extract_if(.., is_its).collect::<Vec<_>>() {
            match observation {
                Observation::Word(Word::Flow(opening)) => self.take_flow(proc, &opening, at, told),
                Observation::Word(Word::Sent(sight)) => self.take_first_packet(proc, &sight, at, told),
                _ => {}
            }
        }
    }
}
