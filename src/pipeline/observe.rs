//! What the kernel's notices mean: connections that are seen while they begin, and ends that are told as they happen.
//!
//! What they bring early of a connection that lasts the next snapshot brings too, and what they lose it repairs. Of those
//! that are over sooner nothing else tells; what was lost of them is counted (`coverage`).

use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use super::ends::{After, Evidence, bytes_of, why_failed};
use super::namespace::Namespace;
use super::opens::known;
use crate::connection::{
    CloseReason, Connection, Cookie, Direction, Moment, Netns, Seen, Socket, TcpState, Transport, Tuple,
};
use crate::event::{Ending, Event, What};
use crate::netlink::{Destroyed, ProcessNotice, Sight as Found};
use crate::proc::Proc;
use crate::process::{Attribution, Reason};
use crate::source::gate::Failures;
use crate::source::{Kind, Observation};

/// A SYN whose socket could not be looked up waits so long for a notice that tells what became of it.
const SYN_PATIENCE: Duration = Duration::from_millis(500);
/// In a flood a SYN may be taken so long after the end of what it began.
const SYN_LATE: Duration = Duration::from_secs(10);
/// The notice of a socket that was disconnected tells no more than its local port, which another may have soon: so long
/// a SYN from there may be its.
const DISCONNECTED_KEPT: Duration = Duration::from_secs(1);
/// A notice that was missed is expected so long: an end whose last bytes nobody takes may last.
const MISSED_KEPT: Duration = Duration::from_secs(130);
/// Ticks between two looks for those that are not expected any more.
const FORGET_EVERY: u64 = 64;
/// As many are remembered; what is more may be told twice, which is better than not at all.
const MOST_MISSED: usize = 65_536;
/// So long the notice of a failed attempt's end is waited for: whoever failed may hold the socket a while.
const FAILED_HELD: Duration = Duration::from_secs(30);
/// As many wait at most.
const MOST_SYNS: usize = 16_384;

/// A SYN without a socket may come from a namespace that nobody has noticed yet: they are looked for at once, but not
/// more often than this.
const LOOK_LEAST: Duration = Duration::from_millis(10);

/// A SYN that was seen, whose socket was gone when it was looked for; or that was forwarded, and has none here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Syn {
    at: Moment,
    seen: Seen,
    /// Who opened its socket, where that was told.
    uid: Option<u32>,
    failures: Failures,
    /// How many opens the kernel had counted at the tick before.
    opens: Option<u64>,
}

impl Syn {
    /// As of this moment at the latest.
    pub(super) fn taken_by(self, at: Moment) -> Self {
        Self { at: if self.at.boot <= at.boot { self.at } else { at }, ..self }
    }
}

impl Pipeline {
    /// Takes what was observed between two ticks, in the order in which it came; answers what is to be told.
    pub fn observe(&mut self, proc: &Proc, at: Moment, observed: Vec<Observation>) -> Vec<Event> {
        // What a tick that failed had to tell comes first: ids rise in the order in which they are told.
        let mut told = std::mem::take(&mut self.untold);
        // Words that a batch before has taken out of turn were there before the notices of those ends.
        let mut unheard = std::mem::take(&mut self.words.unheard);
        unheard.extend(observed);
        let observed = unheard;
        self.meet_words(proc, &observed, at, &mut told);
        let mut spaces = std::mem::take(&mut self.spaces);
        spaces.iter().for_each(|space| space.failures.set(None));
        let strays = self.syns.len();
        // A notice of an end that came together with the SYN finds the connection opened.
        let (syns, others): (Vec<_>, Vec<_>) =
            observed.into_iter().partition(|one| matches!(one, Observation::Syn { .. }));
        self.take_syns(proc, &mut spaces, syns, at, &mut told);
        let mut executed = Vec::new();
        for observation in others {
            match observation {
                Observation::Syn { .. } => {}
                Observation::Connect(connect) => {
                    self.take_connect(proc, &mut spaces, *connect, at, &mut told)
                }
                Observation::Word(word) => self.take_word(proc, &mut spaces, word, at, &mut told),
                Observation::Process(notice) => self.take_process(proc, notice, at, &mut executed, &mut told),
                Observation::File(notice) => self.take_file(proc, notice, at, &mut told),
                Observation::Unwatched { count, detail } => {
                    told.push(Event::lost(at, at, "files_unwatched", Some(count), Some(detail)));
                }
                Observation::Destroyed { netns, ended } => {
                    if let Some(space) = of(&mut spaces, netns) {
                        self.take_destroyed(proc, space, &ended, at, &mut told);
                    }
                }
                Observation::Missed { count } => self.miss_words(&mut spaces, count, at),
                Observation::Failed { kind, netns, reason } => {
                    self.audited.is_on &= kind != Kind::Audit;
                    if let Some(space) = of(&mut spaces, netns) {
                        space.on.retain(|on| *on != kind);
                        space.off.push((kind, reason.clone()));
                        space.gate.want_read();
                        space.balance.whole &= kind != Kind::Destroy;
                        space.balance.syns_whole &= kind != Kind::Syn;
                    }
                    let detail = format!("{} notices of net:[{}]: {reason}", kind.name(), netns.0);
                    told.push(Event::gap(at, "events_failed", detail));
                }
                Observation::Lost { kind, netns, count } => {
                    if kind == Kind::Ebpf {
                        self.lose_words(&mut spaces, count, at);
                    } else if let Some(space) = of(&mut spaces, netns) {
                        self.take_lost(proc, space, kind, count, at);
                    }
                }
            }
        }
        self.spaces = spaces;
        self.ask_where_they_live(proc, &executed, at, &mut told);
        if self.syns.len() > strays && at.boot >= self.looked + LOOK_LEAST {
            self.find_namespaces(proc, at, &mut told);
        }
        told
    }

    fn take_process(
        &mut self,
        proc: &Proc,
        notice: ProcessNotice,
        at: Moment,
        executed: &mut Vec<u32>,
        told: &mut Vec<Event>,
    ) {
        match notice {
            ProcessNotice::Fork { parent, child } => self.attributor.forked(proc, parent, child, at.boot),
            ProcessNotice::Exec { pid } => {
                executed.push(pid);
                self.take_execution(proc, pid, at, told);
            }
            ProcessNotice::Exit { pid, status } => self.attributor.exited(pid, status, at),
        }
    }

    fn take_lost(&mut self, proc: &Proc, space: &mut Namespace, kind: Kind, count: Option<u64>, at: Moment) {
        let mut count = count;
        if kind == Kind::Destroy {
            let drops = self.net_of(space).and_then(|net| proc.read_netlink_drops(net).ok());
            let drops = drops.zip(space.destroy_inode).and_then(|(drops, inode)| drops.get(&inode).copied());
            count = count.or(drops.map(|drops| drops.saturating_sub(space.drops)));
            space.drops = drops.unwrap_or(space.drops);
            space.balance.whole = false;
        }
        space.balance.syns_whole &= kind != Kind::Syn;
        match kind {
            Kind::Proc => self.doubt_executions(),
            Kind::Audit => self.lose_connects(at),
            Kind::Files => {}
            Kind::Destroy | Kind::Syn | Kind::Nflog(_) | Kind::Ebpf => space.doubt(at.boot),
        }
        self.count_lost(kind, count, at);
    }

    /// Each is looked up at once: while it is being set up its process is still there to be read.
    fn take_syns(
        &mut self,
        proc: &Proc,
        spaces: &mut [Namespace],
        syns: Vec<Observation>,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        for space in spaces {
            let mut born: Vec<(Seen, Socket)> = Vec::new();
            let mut later = syns.iter();
            while let Some(syn) = later.next() {
                let Observation::Syn { kind, netns, tuple, device, uid } = syn else { continue };
                if *netns != space.netns
                    || !self.select.wants(tuple)
                    || self.is_told_twice(space, *kind, *tuple, at)
                {
                    continue;
                }
                let seen = if *kind == Kind::Syn { Seen::Syn } else { Seen::Nflog };
                let syn = Syn { at, seen, uid: *uid, failures: Failures::default(), opens: None };
                let place = (*netns, *tuple);
                // Of several connections between the same ends a lookup finds the last, and those before are over: it is
                // not opened before they are told.
                let comes_again = later.clone().any(|later| is_like(later, *kind, place));
                if self.syns.contains_key(&place) || self.overtaken.contains_key(&place) {
                    self.overtake(place, syn);
                } else if comes_again {
                    self.let_syn_wait(proc, space, place, syn, told);
                } else {
                    let found = self.look_up_syn(proc, space, *tuple, *device, syn, told);
                    born.extend(found.map(|socket| (seen, socket)));
                }
            }
            for seen in [Seen::Syn, Seen::Nflog] {
                let born: Vec<_> = born.iter().filter(|(by, _)| *by == seen).map(|(_, born)| *born).collect();
                if !born.is_empty() {
                    self.open_sockets(proc, space, &born, seen, at, told);
                }
            }
        }
    }

    /// True for a SYN that another kind of source has told before. Each tells a SYN as often as it leaves: what one has
    /// told no oftener than another is no news, whichever comes first.
    fn is_told_twice(&mut self, space: &Namespace, kind: Kind, tuple: Tuple, at: Moment) -> bool {
        if space.on.iter().filter(|kind| kind.tells_syns()).count() < 2 {
            return false;
        }
        let is_full = self.syns_told.len() >= MOST_SYNS;
        if is_full && !self.syns_told.contains_key(&(space.netns, tuple)) {
            return false;
        }
        let (last, by_tap, by_rule) = self.syns_told.entry((space.netns, tuple)).or_insert((at, 0, 0));
        *last = at;
        let (own, other) = if kind == Kind::Syn { (by_tap, by_rule) } else { (by_rule, by_tap) };
        *own += 1;
        *own <= *other
    }

    /// The socket behind a SYN, if it is news.
    fn look_up_syn(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        tuple: Tuple,
        device: u32,
        syn: Syn,
        told: &mut Vec<Event>,
    ) -> Option<Socket> {
        let (place, at, now) = ((space.netns, tuple), syn.at, syn.at.boot);
        if self.missed_notices.get(&place).is_some_and(|ended| now <= ended.boot) {
            // It came late: what it began has been told to its end.
            return None;
        }
        let known = self.table.between(space.netns, tuple);
        let found = self.find_between(space, &tuple, device)?;
        let inode = found.as_ref().and_then(|found| found.socket.inode);
        match (found, known) {
            // That of a connection that a table told, one that is repeated, or one whose place another has taken meanwhile.
            (Some(found), Some(key)) if inode == Some(key.inode) => {
                let waits = self.table.get(&key).is_some_and(|e| e.connection.state == TcpState::SynSent);
                if self.told_by_end.remove(&place).is_none() && !waits {
                    self.overtake(place, syn);
                }
                self.take_sight(space, &key, Some(found), Failures::default(), at, told);
                None
            }
            (Some(found), known) if inode.is_some() => {
                if let Some(old) = known {
                    let failures = self.new_failures(proc, space);
                    self.close(&old, Evidence::Gone, failures, at, at, told);
                }
                if syn.seen == Seen::Syn {
                    space.gate.note_open();
                }
                Some(found.socket)
            }
            _ => {
                self.let_syn_wait(proc, space, place, syn, told);
                None
            }
        }
    }

    /// The socket that stands between these ends, none where lookups cannot be made. `None`: it is not known whether one
    /// does. Where the table is to tell, it is read.
    fn find_between(&mut self, space: &mut Namespace, tuple: &Tuple, device: u32) -> Option<Option<Found>> {
        self.totals.lookups += 1;
        let found = space.tables.diag().map(|diag| diag.find(tuple, device, None));
        if !matches!(found, Some(Ok(_))) {
            space.gate.want_read();
        }
        found.unwrap_or(Ok(None)).ok()
    }

    /// What this began is over, and something else tells of it, or has told.
    fn let_syn_wait(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        place: (Netns, Tuple),
        syn: Syn,
        told: &mut Vec<Event>,
    ) {
        let (tuple, at) = (place.1, syn.at);
        if self.take_disconnection((place.0, tuple.local.port()), at) {
            space.balance.matched += 1;
            self.tell_disconnected(proc, space, place, syn, at, told);
            return;
        }
        let told = self.told_by_end.remove(&place);
        if self.table.between(space.netns, tuple).is_some() {
            // Its place is in the table still, and it is over as well.
            if told.is_none() {
                self.overtake(place, syn);
            }
            return;
        }
        let is_told = told.is_some_and(|told| told.boot + SYN_LATE > at.boot);
        // While much is lost, what was told of these ends is taken for what this began.
        let is_told = is_told || self.may_be_told(space, tuple, at);
        if !is_told && self.syns.len() >= MOST_SYNS {
            self.lose_syn(syn);
        } else if !is_told {
            let failures = self.new_failures(proc, space);
            let opens = space.gate.counters().map(|counters| counters.active_opens);
            self.syns.insert(place, Syn { failures, opens, ..syn });
        }
    }

    fn take_destroyed(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        ended: &Destroyed,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Destroyed { tuple, cookie, counts, .. } = ended;
        let disconnected = tuple.remote.port() == 0;
        let known = cookie.and_then(|cookie| self.table.by_cookie(cookie));
        // One whose cookie nobody has told yet is known by its ends.
        let known = known.or_else(|| {
            let key = self.table.between(space.netns, *tuple)?;
            self.table.get(&key)?.connection.cookie.is_none().then_some(key)
        });
        if let Some(key) = known {
            space.balance.matched += u64::from(disconnected);
            let after = if disconnected { After::Disconnected } else { self.after(space, &key.tuple) };
            let failures = self.new_failures(proc, space);
            self.close_noticed(&key, *counts, after, failures, at, told);
            return;
        }
        if cookie.is_some_and(|cookie| self.missed_cookies.remove(&cookie).is_some()) {
            space.balance.matched += u64::from(disconnected);
            return;
        }
        if self.take_pending_end(ended, at, told) {
            space.balance.matched += u64::from(disconnected);
        } else if disconnected {
            let is_matched = self.take_disconnected(proc, space, tuple.local.port(), at, told);
            space.balance.matched += u64::from(is_matched);
        } else if self.missed_notices.remove(&(space.netns, *tuple)).is_none()
            && self.select.wants(tuple)
            && !self.table.is_inbound(space.netns, *tuple)
            && !self.may_be_told(space, *tuple, at)
        {
            self.tell_unseen(proc, space, ended, Direction::Egress, at, told);
        } else if self.is_unseen_session(space, ended) {
            self.tell_unseen(proc, space, ended, Direction::Ingress, at, told);
        }
    }

    /// An inbound SSH session that was over before any look.
    fn is_unseen_session(&self, space: &Namespace, ended: &Destroyed) -> bool {
        self.select.inbound
            && self.server_ports.contains(&ended.tuple.local.port())
            && !self.select.wants(&ended.tuple)
            && ended.counts.is_some_and(|counts| counts.established)
            && !self.table.is_inbound(space.netns, ended.tuple)
    }

    /// While much is lost, what was told of these ends may have been this connection: it is counted then.
    fn may_be_told(&mut self, space: &Namespace, tuple: Tuple, at: Moment) -> bool {
        let may_be = space.is_doubtful(at.boot) && self.table.may_know_end(space.netns, tuple, at);
        self.totals.doubtful_ends += u64::from(may_be);
        may_be
    }

    /// What is left of a socket that was destroyed.
    fn after(&mut self, space: &mut Namespace, tuple: &Tuple) -> After {
        self.totals.lookups += 1;
        match space.tables.diag().and_then(|diag| diag.find(tuple, 0, None).ok()).flatten() {
            Some(found) if found.socket.inode.is_some() => After::Nothing,
            Some(found) if found.socket.state == TcpState::FinWait2 => After::FinWait2,
            Some(found) if found.socket.state.is_ending() => After::TimeWait,
            _ => After::Nothing,
        }
    }

    /// A connection of which only its end was told.
    fn tell_unseen(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        ended: &Destroyed,
        direction: Direction,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let place = (space.netns, ended.tuple);
        let syn = self.take_first_syn(place);
        if syn.is_none() && space.hears_syns() && self.told_by_end.len() < MOST_MISSED {
            self.told_by_end.insert(place, at);
        }
        let established = ended.counts.is_some_and(|counts| counts.established);
        let cookie = ended.cookie;
        let connection = self.passing(place, syn, Seen::Destroy, at);
        // An attempt is over without having been anything else.
        let state = if established { TcpState::TimeWait } else { TcpState::SynSent };
        let connection = Connection { cookie, state, direction, ..connection };
        let after = self.after(space, &ended.tuple);
        let failures = self.new_failures(proc, space);
        let (reason, success) = match established {
            true if after == After::Nothing && failures.resets > 0 => (CloseReason::Reset, Some(true)),
            true => (CloseReason::Closed, Some(true)),
            // Whoever let go of it later than it failed: it lasted for no poll.
            false if syn.is_none() && failures.attempts == 0 => (CloseReason::Failed, Some(false)),
            false => {
                let failures = syn.map_or(failures, |syn| syn.failures);
                why_failed(&connection, ended.counts, failures, self.most_repeats, at)
            }
        };
        let bytes = bytes_of(ended.counts.filter(|_| established), None, connection.state, after);
        let ending = Ending { reason, success, last_seen: None, gone_by: at, exact: true, bytes };
        self.tell_pair(connection, ending, at, told);
    }

    /// SYNs of which nothing more was heard.
    pub(super) fn tell_old_syns(&mut self, at: Moment, told: &mut Vec<Event>) {
        let old = |syn: &Syn| syn.at.boot + SYN_PATIENCE <= at.boot;
        let mut places: Vec<_> =
            self.syns.iter().filter(|(_, syn)| old(syn)).map(|(place, _)| *place).collect();
        places.sort_unstable();
        for place in places {
            match self.passed_through(place, at) {
                Some(true) => drop(self.syns.remove(&place)),
                Some(false) => {}
                None => {
                    if let Some(syn) = self.syns.remove(&place) {
                        self.tell_syn(place, syn, at, told);
                    }
                }
            }
        }
        self.overtaken.retain(|_, (last, _)| last.at.boot + SYN_LATE > at.boot);
        self.told_last.retain(|_, last| *last + SYN_LATE > at.boot);
        self.disconnected.retain(|_, (last, _)| last.boot + DISCONNECTED_KEPT > at.boot);
        self.syns_told.retain(|_, (last, ..)| last.boot + SYN_LATE > at.boot);
        if self.syns.is_empty() {
            self.syns.shrink_to(64);
        }
        if self.totals.polls.is_multiple_of(FORGET_EVERY) {
            self.missed_notices.retain(|_, ended| ended.boot + MISSED_KEPT > at.boot);
            self.missed_cookies.retain(|_, ended| ended.boot + MISSED_KEPT > at.boot);
            self.told_by_end.retain(|_, ended| ended.boot + SYN_LATE > at.boot);
        }
    }

    /// Whether a SYN only passed through, as those of containers do: the kernel has counted no open since, or notices tell
    /// of every socket's end and told nothing of this one's for long. `Some(false)`: its socket may be held by who failed
    /// to connect it. `None`: nothing will tell.
    fn passed_through(&self, place: (Netns, Tuple), at: Moment) -> Option<bool> {
        let syn = self.syns.get(&place)?;
        let space = self.spaces.iter().find(|space| space.netns == place.0)?;
        let opens = space.gate.counters().map(|counters| counters.active_opens);
        if opens.is_some() && opens == syn.opens {
            return Some(true);
        }
        space.is_noticed(syn.at.boot).then(|| syn.at.boot + FAILED_HELD <= at.boot)
    }

    /// A SYN whose TIME_WAIT is in the table.
    pub(super) fn syn_of(&mut self, netns: Netns, tuple: Tuple) -> Option<Syn> {
        self.syns.remove(&(netns, tuple))
    }

    fn overtake(&mut self, place: (Netns, Tuple), syn: Syn) {
        if self.overtaken.len() >= MOST_SYNS && !self.overtaken.contains_key(&place) {
            self.lose_syn(syn);
        } else {
            let (last, count) = self.overtaken.entry(place).or_insert((syn, 0));
            (*last, *count) = (syn, *count + 1);
        }
    }

    /// There is no room to wait for what becomes of it.
    fn lose_syn(&mut self, syn: Syn) {
        let kind = if syn.seen == Seen::Nflog { Kind::Nflog(0) } else { Kind::Syn };
        self.count_lost(kind, Some(1), syn.at);
    }

    /// That of the first of the connections between these ends of which nothing else was told.
    pub(super) fn take_first_syn(&mut self, place: (Netns, Tuple)) -> Option<Syn> {
        let waits = self.syns.get(&place).map(|syn| syn.at.boot);
        let overtaken = self.overtaken.get(&place).map(|(syn, _)| syn.at.boot);
        match waits {
            Some(waits) if overtaken.is_none_or(|overtaken| waits <= overtaken) => self.syns.remove(&place),
            _ => self.take_overtaken(place),
        }
    }

    fn take_overtaken(&mut self, place: (Netns, Tuple)) -> Option<Syn> {
        let (syn, count) = self.overtaken.get_mut(&place)?;
        let syn = *syn;
        *count -= 1;
        if *count == 0 {
            self.overtaken.remove(&place);
        }
        Some(syn)
    }

    /// The end of a socket of which no more than its local port is told: the SYN that came from there. False: there was
    /// none.
    fn take_disconnected(
        &mut self,
        proc: &Proc,
        space: &Namespace,
        port: u16,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> bool {
        let from = |(of, tuple): &&(Netns, Tuple)| *of == space.netns && tuple.local.port() == port;
        let overtaken = self.overtaken.keys().find(from).copied();
        let Some(place) = overtaken.or_else(|| self.syns.keys().find(from).copied()) else {
            if self.disconnected.len() < MOST_MISSED {
                let (last, count) = self.disconnected.entry((space.netns, port)).or_insert((at, 0));
                (*last, *count) = (at, *count + 1);
            }
            return false;
        };
        let Some(syn) = self.take_first_syn(place) else { return false };
        self.tell_disconnected(proc, space, place, syn, at, told);
        true
    }

    /// What a SYN began whose socket was disconnected since.
    fn tell_disconnected(
        &mut self,
        proc: &Proc,
        space: &Namespace,
        place: (Netns, Tuple),
        syn: Syn,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let resets = self.new_failures(proc, space).resets;
        let syn = Syn { failures: Failures { resets, ..syn.failures }, ..syn };
        self.tell_syn(place, syn, at, told);
    }

    /// True if a socket of this port was disconnected a moment ago, and no SYN was its.
    fn take_disconnection(&mut self, place: (Netns, u16), at: Moment) -> bool {
        let Some((last, count)) = self.disconnected.get_mut(&place) else { return false };
        let is_its = at.boot < last.boot + DISCONNECTED_KEPT;
        *count -= 1;
        if !is_its || *count == 0 {
            self.disconnected.remove(&place);
        }
        is_its
    }

    /// An attempt whose socket was never seen: it failed before it could be looked up, or it is not known what became of
    /// it. Never called a success.
    fn tell_syn(&mut self, place: (Netns, Tuple), syn: Syn, at: Moment, told: &mut Vec<Event>) {
        let connection = self.passing(place, Some(syn), syn.seen, at);
        let (reason, success) = match syn.failures {
            // Whether it had been answered is not known.
            Failures { attempts: 0, resets: 1.., .. } => (CloseReason::Reset, None),
            failures => why_failed(&connection, None, failures, u8::MAX, syn.at),
        };
        let ending =
            Ending { reason, success, last_seen: Some(syn.at), gone_by: at, exact: false, bytes: None };
        self.tell_pair(connection, ending, at, told);
    }

    /// A connection that is over when it is told: seen by its SYN, or else as is said.
    pub(super) fn passing(
        &mut self,
        (netns, tuple): (Netns, Tuple),
        syn: Option<Syn>,
        otherwise: Seen,
        at: Moment,
    ) -> Connection {
        let seen = syn.map_or(otherwise, |syn| syn.seen);
        let opened = syn.map_or(at, |syn| syn.at);
        let uid = syn.and_then(|syn| syn.uid);
        let user = uid.and_then(|uid| self.attributor.user_name(uid));
        Connection {
            id: (self.new_id)(at),
            netns,
            inode: None,
            cookie: None,
            transport: Transport::Tcp,
            tuple,
            direction: Direction::Egress,
            state: TcpState::SynSent,
            uid,
            user,
            seen,
            opened,
            last_seen: at,
            attribution: Attribution::Unknown(Reason::TimeWait),
            way: None,
        }
    }

    /// The notice of an end whose word was taken is passed over.
    pub(super) fn expect_end(&mut self, cookie: Cookie, at: Moment) {
        if self.missed_cookies.len() + self.missed_notices.len() < MOST_MISSED {
            self.missed_cookies.insert(cookie, at);
        }
    }

    /// An end was told without its notice, which may still come.
    pub(super) fn expect_notice(&mut self, place: (Netns, Tuple), cookie: Option<Cookie>, at: Moment) {
        let expected = self.missed_notices.len() + self.missed_cookies.len();
        match cookie {
            _ if !self.hears_ends || expected >= MOST_MISSED => None,
            Some(cookie) => self.missed_cookies.insert(cookie, at),
            None => self.missed_notices.insert(place, at),
        };
    }

    /// Tells its open and its close.
    pub(super) fn tell_pair(
        &mut self,
        connection: Connection,
        ending: Ending,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        self.table.remember_end(connection.netns, connection.tuple, at);
        if !self.is_wanted(&connection) {
            return;
        }
        if !ending.exact {
            // What is left of a socket bears another cookie.
            self.expect_notice((connection.netns, connection.tuple), None, at);
        }
        if self.frees_ends(&connection, at, told)
            && let Some((connection, ending)) = self.let_wait(connection, ending, at)
        {
            self.tell_both(connection, ending, at, told);
        }
    }

    /// Tells its open and its close, unless a filter proves that it is not wanted.
    pub(super) fn tell_both(
        &mut self,
        mut connection: Connection,
        ending: Ending,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if !self.select.filter.admits(&known(&connection)) {
            return;
        }
        self.tell_waiting_before(&connection, at, told);
        if connection.id <= self.last_id {
            connection.id = (self.new_id)(at);
        }
        self.last_id = connection.id;
        self.note_told_last(&connection, ending.last_seen);
        let connection = Arc::new(connection);
        self.coverage.opened(&connection);
        self.totals.opens += 1;
        self.totals.unattributed += u64::from(!connection.attribution.is_known());
        self.totals.passed += 1;
        self.totals.closes += 1;
        told.push(Event { at, what: What::Opened(Arc::clone(&connection)) });
        told.push(Event { at, what: What::Closed { connection, ending } });
    }

    /// Two cannot be open between the same ends: what stood there before this one is closed. False, and counted, if this
    /// one was before what stands there, or before what was told to its end. In a flood what tells of a connection may be
    /// taken when a table has shown the next on its ports.
    pub(super) fn frees_ends(&mut self, connection: &Connection, at: Moment, told: &mut Vec<Event>) -> bool {
        let Connection { netns, tuple, seen, opened, .. } = connection;
        let began = seen.tells_start().then_some(opened.boot);
        let standing = self.table.between(*netns, *tuple);
        let standing = standing.and_then(|key| Some((key, self.table.get(&key)?.connection.last_seen.boot)));
        let is_free = match standing {
            // One of which only its end is told was before: else that of the other had been told sooner.
            Some((_, last)) if began.is_none_or(|began| began <= last) => false,
            Some((key, _)) => {
                self.close(&key, Evidence::Gone, Failures::default(), at, at, told);
                true
            }
            None => !began.is_some_and(|began| self.comes_too_late((*netns, *tuple), began)),
        };
        match teller(*seen) {
            _ if is_free => {}
            Some(kind) => self.count_lost(kind, Some(1), at),
            None => self.totals.doubtful_ends += 1,
        }
        is_free
    }

    /// True if of what stood later between these ends all has been told.
    pub(super) fn comes_too_late(&self, place: (Netns, Tuple), began: Duration) -> bool {
        self.told_last.get(&place).is_some_and(|last| began < *last)
    }

    /// What was told to its end, if what tells of one before it between the same ends may still come.
    pub(super) fn note_told_last(&mut self, connection: &Connection, last_seen: Option<Moment>) {
        let place = (connection.netns, connection.tuple);
        let has_syn = || self.syns.contains_key(&place) || self.overtaken.contains_key(&place);
        let may_come = self.words.is_on && connection.seen != Seen::Ebpf || has_syn();
        if let Some(last_seen) = last_seen
            && connection.transport == Transport::Tcp
            && may_come
            && self.told_last.len() < MOST_SYNS
        {
            self.told_last.insert(place, last_seen.boot);
        }
    }
}

/// True for a SYN between these ends that the same source tells.
fn is_like(syn: &Observation, by: Kind, place: (Netns, Tuple)) -> bool {
    matches!(syn, Observation::Syn { kind, netns, tuple, .. } if *kind == by && (*netns, *tuple) == place)
}

/// Whose notice told of what is over when it is told. `None`: a table.
fn teller(seen: Seen) -> Option<Kind> {
    match seen {
        Seen::Syn => Some(Kind::Syn),
        Seen::Nflog => Some(Kind::Nflog(0)),
        Seen::Audit => Some(Kind::Audit),
        Seen::Ebpf => Some(Kind::Ebpf),
        Seen::Destroy => Some(Kind::Destroy),
        Seen::Poll | Seen::Start | Seen::TimeWait => None,
    }
}

/// The namespace of this number, unless it is gone by now.
fn of(spaces: &mut [Namespace], netns: Netns) -> Option<&mut Namespace> {
    spaces.iter_mut().find(|space| space.netns == netns)
}
