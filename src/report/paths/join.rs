//! Ways: which login made which hop, and which hop became which login on the next host.
//! Knows nothing of files or output. What is not proved is kept apart from what is.
//! Proof, strongest first: the id of the inbound connection's own records; several hops that name one inbound
//! connection; one Community ID on two hosts at one time. An address that was translated breaks the last.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::model::{Conn, Host, Micros, Model, Name, Origin, Party, Rider};
use super::record::Community;

/// How far the clocks of two hosts may be apart: five minutes.
pub(crate) const CLOCK_SKEW_US: Micros = 300_000_000;
/// How far apart two ends may tell one beginning where only port and time fit.
const SAME_START_US: Micros = 5_000_000;
/// As many unproved ends of one login as are named.
const MAYBES: usize = 3;
/// As many hops to one address as are looked at for one login.
const TRIED: usize = 256;

/// How somebody came onto a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Ssh,
    Terminal,
    Cron,
    Service,
    Container,
    /// The log says that it is not known.
    Unknown,
    /// The log says nothing, as older versions do.
    Untold,
}

impl Kind {
    fn of(model: &Model, origin: Option<&Origin>) -> Kind {
        match origin.map(|origin| model.names.get(origin.kind)) {
            None | Some(None) => Kind::Untold,
            Some(Some("ssh")) => Kind::Ssh,
            Some(Some("local_tty")) => Kind::Terminal,
            Some(Some("cron")) => Kind::Cron,
            Some(Some("service")) => Kind::Service,
            Some(Some("container")) => Kind::Container,
            Some(Some(_)) => Kind::Unknown,
        }
    }
}

/// What joins a login with the hop that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The inbound connection's own records name the same flow.
    Records,
    /// Only those of its later hops do.
    Origin,
}

/// A login, or where else a way enters a host.
pub(crate) struct Entry<'m> {
    /// Its place among the entries.
    pub number: usize,
    pub host: Host,
    pub kind: Kind,
    /// Records of the inbound connection.
    pub inbound: Option<&'m Conn>,
    /// The strongest of its hops.
    pub origin: Option<&'m Origin>,
    /// Of its first hop.
    pub party: Option<&'m Party>,
    pub hops: Vec<&'m Conn>,
    pub riders: Vec<&'m Rider>,
    /// When it was there, at the latest.
    pub earliest: Micros,
    /// The hop that led here, proved.
    pub parent: Option<&'m Conn>,
    pub proof: Option<Proof>,
    /// Hops that may have led here.
    pub maybe: Vec<&'m Conn>,
    /// The hops go round in a circle, which was cut here.
    pub is_cut: bool,
    /// Pid of the SSH server that holds the inbound connection.
    server: Option<u32>,
}

impl Entry<'_> {
    /// Remote end of the inbound connection.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.inbound.and_then(Conn::remote).or_else(|| self.ssh()?.remote())
    }

    pub fn remote_ip(&self) -> Option<IpAddr> {
        self.remote().map(|end| end.ip()).or_else(|| self.ssh()?.ip)
    }

    fn ssh(&self) -> Option<&Origin> {
        self.origin.filter(|_| self.kind == Kind::Ssh)
    }

    fn local(&self) -> Option<SocketAddr> {
        self.inbound.and_then(Conn::local).or_else(|| self.origin.and_then(|origin| origin.local))
    }

    fn community(&self) -> Option<Community> {
        self.inbound
            .and_then(|conn| conn.community)
            .or_else(|| self.origin.and_then(|origin| origin.community))
    }
}

/// All ways.
pub(crate) struct Forest<'m> {
    pub model: &'m Model,
    pub entries: Vec<Entry<'m>>,
    /// Entries without a parent, the earliest first.
    pub roots: Vec<usize>,
    arrivals: HashMap<u128, Vec<usize>>,
    may_continue: HashMap<u128, Vec<usize>>,
    entry_of: HashMap<u128, usize>,
    riders_of: HashMap<u128, Vec<(&'m Rider, usize)>>,
}

impl<'m> Forest<'m> {
    /// Joins what hangs together. Linear in the records but for logins from addresses that were translated, each of
    /// which looks at a bounded number of hops.
    pub fn grow(model: &'m Model) -> Forest<'m> {
        let mut entries = group(model);
        find_parents(model, &mut entries);
        cut_circles(&mut entries);
        find_maybes(model, &mut entries);
        for entry in &mut entries {
            entry.hops.sort_by_key(|hop| (hop.began(), hop.id));
        }
        let mut forest = Forest {
            model,
            roots: Vec::new(),
            arrivals: HashMap::new(),
            may_continue: HashMap::new(),
            entry_of: HashMap::new(),
            riders_of: HashMap::new(),
            entries: Vec::new(),
        };
        for (number, entry) in entries.iter().enumerate() {
            match entry.parent {
                Some(parent) => forest.arrivals.entry(parent.id).or_default().push(number),
                None => forest.roots.push(number),
            }
            for hop in &entry.maybe {
                forest.may_continue.entry(hop.id).or_default().push(number);
            }
            for conn in entry.hops.iter().copied().chain(entry.inbound) {
                forest.entry_of.insert(conn.id, number);
            }
            for rider in &entry.riders {
                forest.riders_of.entry(rider.on).or_default().push((rider, number));
            }
        }
        for riders in forest.riders_of.values_mut() {
            riders.sort_by_key(|(rider, _)| rider.at);
        }
        forest.roots.sort_by_key(|root| entries.get(*root).map(|entry| (entry.earliest, entry.host)));
        forest.entries = entries;
        forest
    }

    /// The entries to which a hop led, proved.
    pub fn arrivals(&self, hop: &Conn) -> impl DoubleEndedIterator<Item = &Entry<'m>> {
        self.arrivals.get(&hop.id).into_iter().flatten().filter_map(|number| self.entries.get(*number))
    }

    /// The entries to which it may have led.
    pub fn may_continue(&self, hop: &Conn) -> impl Iterator<Item = &Entry<'m>> {
        self.may_continue.get(&hop.id).into_iter().flatten().filter_map(|number| self.entries.get(*number))
    }

    /// The entry from which a connection was made or, of an inbound one, which it is.
    pub fn entry_of(&self, conn: &Conn) -> Option<&Entry<'m>> {
        self.entries.get(*self.entry_of.get(&conn.id)?)
    }

    /// Sessions that ride on a connection; `true` where another login made them.
    pub fn riders(&self, hop: &Conn) -> impl Iterator<Item = (&'m Rider, bool)> {
        let own = self.entry_of.get(&hop.id).copied();
        let riders = self.riders_of.get(&hop.id).into_iter().flatten();
        riders.map(move |(rider, number)| (*rider, Some(*number) != own))
    }

    /// Sessions of a login over connections that another login made.
    pub fn riders_elsewhere<'e>(
        &self,
        entry: &'e Entry<'m>,
    ) -> impl Iterator<Item = &'m Rider> + use<'e, 'm, '_> {
        let own = entry.number;
        let is_own = move |rider: &&Rider| self.entry_of.get(&rider.on) == Some(&own);
        entry.riders.iter().copied().filter(move |rider| !is_own(rider))
    }

    /// Every entry of a way. Ways may be long: this goes no deeper into the stack than one call.
    pub fn way(&self, root: usize) -> Vec<&Entry<'m>> {
        let mut found: Vec<&Entry<'m>> = self.entries.get(root).into_iter().collect();
        let mut next = 0;
        while let Some(entry) = found.get(next) {
            let more: Vec<_> = entry.hops.iter().flat_map(|hop| self.arrivals(hop)).collect();
            found.extend(more);
            next += 1;
        }
        found
    }
}

type Boot = Option<Name>;

/// What hops of one login have in common.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Inbound(u128),
    Flow(Host, Community),
    Remote(Host, IpAddr, Option<u16>, Option<Name>, Option<Name>),
    Session(Host, Kind, Option<Name>, Boot, Name),
    Terminal(Host, Kind, Option<Name>, Boot, Name, Option<u32>),
    Unit(Host, Option<Name>, Boot, Name, Option<u32>),
    Process(Host, Kind, Option<Name>, Boot, u32),
    Alone(u128),
}

/// Puts every hop, every session and every inbound connection into an entry.
fn group(model: &Model) -> Vec<Entry<'_>> {
    let mut by_id = HashMap::new();
    let mut by_flow: HashMap<_, Vec<&Conn>> = HashMap::new();
    let mut hops = Vec::new();
    for conn in &model.conns {
        if conn.is_inbound {
            by_id.insert((model.host_of(conn), conn.id), conn);
            if let Some(community) = conn.community {
                by_flow.entry((model.host_of(conn), community)).or_default().push(conn);
            }
        } else {
            hops.push(conn);
        }
    }
    hops.sort_by_key(|hop| (hop.began(), hop.id));
    let mut grouping = Grouping { model, by_id, by_flow, keys: HashMap::new(), entries: Vec::new() };
    for hop in hops {
        let host = model.host_of(hop);
        let number = grouping.place(host, &hop.party, hop.began(), hop.id);
        if let Some(entry) = grouping.entries.get_mut(number) {
            entry.hops.push(hop);
        }
    }
    for rider in &model.riders {
        let number = grouping.place(
            model.host_of_rider(rider),
            &rider.party,
            rider.at,
            rider.event().unwrap_or(rider.on),
        );
        if let Some(entry) = grouping.entries.get_mut(number) {
            entry.riders.push(rider);
        }
    }
    for conn in model.conns.iter().filter(|conn| conn.is_inbound) {
        grouping.enter(Key::Inbound(conn.id), model.host_of(conn), Kind::Ssh, Some(conn), conn.began(), None);
    }
    grouping.entries
}

struct Grouping<'m> {
    model: &'m Model,
    by_id: HashMap<(Host, u128), &'m Conn>,
    by_flow: HashMap<(Host, Community), Vec<&'m Conn>>,
    /// The newest entry of each.
    keys: HashMap<Key, usize>,
    entries: Vec<Entry<'m>>,
}

impl<'m> Grouping<'m> {
    fn place(&mut self, host: Host, party: &'m Party, at: Micros, id: u128) -> usize {
        let origin = party.origin.as_deref();
        let kind = Kind::of(self.model, origin);
        let inbound = origin.and_then(|origin| self.inbound(host, origin, at));
        let key = match inbound {
            Some(conn) => Key::Inbound(conn.id),
            None => self.key(host, kind, party, id),
        };
        let server = origin.and_then(|origin| origin.sshd_pid);
        let number = self.enter(key, host, kind, inbound, at, server);
        if let Some(entry) = self.entries.get_mut(number) {
            entry.party = entry.party.or(Some(party));
            let rank = |origin: Option<&Origin>| origin.map_or(u8::MAX, |origin| origin.rank);
            if rank(origin) < rank(entry.origin) {
                entry.origin = origin;
            }
        }
        number
    }

    /// The inbound connection's own records: by id, else by flow and time.
    fn inbound(&self, host: Host, origin: &Origin, at: Micros) -> Option<&'m Conn> {
        let by_id = origin.inbound.and_then(|id| self.by_id.get(&(host, id)).copied());
        by_id.or_else(|| {
            let flows = self.by_flow.get(&(host, origin.community?))?;
            // One clock here: no skew. But what is seen by looking is seen late.
            let stood = flows.iter().filter(|conn| conn.began() <= at + SAME_START_US);
            stood.max_by_key(|conn| conn.began()).copied()
        })
    }

    fn key(&self, host: Host, kind: Kind, party: &Party, id: u128) -> Key {
        let origin = party.origin.as_deref();
        let who = party.who;
        let user = who.login.or(who.login_id).or(who.name).or(who.id);
        if kind == Kind::Ssh {
            if let Some(community) = origin.and_then(|origin| origin.community) {
                return Key::Flow(host, community);
            }
            if let Some(ip) = origin.and_then(|origin| origin.ip) {
                let session = origin.and_then(|origin| origin.session.or(origin.tty)).or(who.session);
                return Key::Remote(host, ip, origin.and_then(|origin| origin.port), user, session);
            }
        }
        let session = origin.and_then(|origin| origin.session).or(who.session);
        let tty = origin.and_then(|origin| origin.tty).or(who.tty);
        let leader = self.leader(kind, party);
        match (session, tty, party.unit, leader) {
            (Some(session), ..) => Key::Session(host, kind, user, party.boot, session),
            (_, Some(tty), _, leader) if kind != Kind::Cron => {
                Key::Terminal(host, kind, user, party.boot, tty, leader)
            }
            (_, _, Some(unit), leader) if kind == Kind::Service => {
                Key::Unit(host, user, party.boot, unit, leader)
            }
            (_, _, _, Some(pid)) => Key::Process(host, kind, user, party.boot, pid),
            _ => Key::Alone(id),
        }
    }

    /// The outermost process that belongs to this one job: below pid 1 and below cron itself.
    fn leader(&self, kind: Kind, party: &Party) -> Option<u32> {
        let is_outside = |name: Name, pid: u32| {
            pid <= 1
                || kind == Kind::Cron && self.model.names.text(name).to_ascii_lowercase().contains("cron")
        };
        let inside = party.chain.iter().take_while(|link| !is_outside(link.name, link.pid));
        inside.last().map(|link| link.pid).filter(|_| !party.is_chain_cut)
    }

    /// The entry with this key, made where it is missing: also where another process serves the same flow, because
    /// then its ports are used again.
    fn enter(
        &mut self,
        key: Key,
        host: Host,
        kind: Kind,
        inbound: Option<&'m Conn>,
        at: Micros,
        server: Option<u32>,
    ) -> usize {
        let next = self.entries.len();
        let number = self.keys.entry(key).or_insert(next);
        let newest = self.entries.get_mut(*number);
        if let Some(entry) = newest {
            let is_same =
                inbound.is_some() || server.is_none() || entry.server.is_none_or(|own| Some(own) == server);
            if is_same {
                entry.earliest = entry.earliest.min(at);
                entry.server = entry.server.or(server);
                return entry.number;
            }
        }
        *number = next;
        self.entries.push(Entry {
            number: next,
            host,
            kind,
            inbound,
            origin: None,
            party: None,
            hops: Vec::new(),
            riders: Vec::new(),
            earliest: inbound.map_or(at, |conn| conn.began().min(at)),
            parent: None,
            proof: None,
            maybe: Vec::new(),
            is_cut: false,
            server,
        });
        next
    }
}

/// Looks for the hop that led to each login: the same flow, at the same time.
fn find_parents<'m>(model: &'m Model, entries: &mut [Entry<'m>]) {
    let mut by_flow: HashMap<Community, Vec<&Conn>> = HashMap::new();
    for hop in model.conns.iter().filter(|conn| !conn.is_inbound) {
        if let Some(community) = hop.community {
            by_flow.entry(community).or_default().push(hop);
        }
    }
    for entry in entries.iter_mut().filter(|entry| entry.kind == Kind::Ssh) {
        let Some(hops) = entry.community().and_then(|community| by_flow.get(&community)) else { continue };
        let fits = hops.iter().filter(|hop| stands(hop, entry) && has_ends_of(hop, entry));
        // A flow that is used again within the skew: the one that began closest.
        let closest = fits.min_by_key(|hop| (hop.began() - entry.earliest).abs());
        if let Some(hop) = closest {
            entry.parent = Some(hop);
            entry.proof = Some(if entry.inbound.is_some() { Proof::Records } else { Proof::Origin });
        }
    }
}

/// Whether a hop had begun and not ended when the login was there, by clocks that may differ.
fn stands(hop: &Conn, entry: &Entry<'_>) -> bool {
    let has_begun = hop.start.is_none_or(|start| start <= entry.earliest + CLOCK_SKEW_US);
    let is_there = hop.end.is_none_or(|end| entry.earliest <= end + CLOCK_SKEW_US);
    // What was opened long after the login began is another use of the same ports.
    let began = entry.inbound.and_then(|conn| conn.start);
    let is_same = match (hop.start, began) {
        (Some(start), Some(began)) => (start - began).abs() <= CLOCK_SKEW_US,
        _ => true,
    };
    has_begun && is_there && is_same
}

/// A Community ID is made of both ends: where they are told and differ, one of the records lies.
fn has_ends_of(hop: &Conn, entry: &Entry<'_>) -> bool {
    let same = |ours: Option<SocketAddr>, theirs: Option<SocketAddr>| match (ours, theirs) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => true,
    };
    same(hop.source, entry.remote()) && same(hop.destination, entry.local())
}

/// Cuts every circle of hops where it is the earliest.
fn cut_circles(entries: &mut [Entry<'_>]) {
    let mut of_hop = HashMap::new();
    for (number, entry) in entries.iter().enumerate() {
        for hop in &entry.hops {
            of_hop.insert(hop.id, number);
        }
    }
    let parent = |entries: &[Entry<'_>], number: usize| of_hop.get(&entries.get(number)?.parent?.id).copied();
    // In which walk an entry was met first: meeting it again in the same one is a circle.
    let mut met = vec![0_usize; entries.len()];
    for start in 0..entries.len() {
        let mut at = Some(start);
        while let Some(number) = at {
            match met.get_mut(number) {
                Some(walk) if *walk == 0 => *walk = start + 1,
                Some(walk) if *walk == start + 1 => {
                    cut_circle(entries, number, &parent);
                    break;
                }
                _ => break,
            }
            at = parent(entries, number);
        }
    }
}

fn cut_circle(
    entries: &mut [Entry<'_>],
    start: usize,
    parent: &dyn Fn(&[Entry<'_>], usize) -> Option<usize>,
) {
    let mut first = start;
    let mut at = parent(entries, start);
    while let Some(number) = at.filter(|number| *number != start) {
        let earliest = |number: usize| entries.get(number).map(|entry| entry.earliest);
        if earliest(number) < earliest(first) {
            first = number;
        }
        at = parent(entries, number);
    }
    if let Some(entry) = entries.get_mut(first) {
        (entry.parent, entry.proof, entry.is_cut) = (None, None, true);
    }
}

/// Looks for hops that may have led to logins whose remote end fits none: its address was translated on the way.
fn find_maybes<'m>(model: &'m Model, entries: &mut [Entry<'m>]) {
    let arrived: HashMap<u128, ()> =
        entries.iter().filter_map(|entry| Some((entry.parent?.id, ()))).collect();
    let mut by_end: HashMap<SocketAddr, Vec<&Conn>> = HashMap::new();
    let mut by_port: HashMap<u16, Vec<&Conn>> = HashMap::new();
    let open = model.conns.iter().filter(|conn| !conn.is_inbound && !arrived.contains_key(&conn.id));
    for hop in open {
        if let Some(end) = hop.destination {
            by_end.entry(end).or_default().push(hop);
            by_port.entry(end.port()).or_default().push(hop);
        }
    }
    for hops in by_end.values_mut().chain(by_port.values_mut()) {
        hops.sort_by_key(|hop| (hop.began(), hop.id));
    }
    for entry in entries.iter_mut() {
        if entry.kind != Kind::Ssh || entry.parent.is_some() || entry.is_cut {
            continue;
        }
        let (Some(local), Some(_)) = (entry.local(), entry.remote_ip()) else { continue };
        let own = entry.host;
        let mut maybe = near(by_end.get(&local), entry, CLOCK_SKEW_US);
        maybe.retain(|hop| stands(hop, entry));
        if maybe.is_empty() && entry.inbound.is_some_and(|conn| conn.start.is_some()) {
            maybe = near(by_port.get(&local.port()), entry, SAME_START_US);
        }
        maybe.retain(|hop| model.host_of(hop) != own && hop.source != entry.remote());
        maybe.sort_by_key(|hop| (hop.began() - entry.earliest).abs());
        maybe.truncate(MAYBES);
        entry.maybe = maybe;
    }
}

/// The hops that began around a login or, where its beginning is not known, before it.
fn near<'m>(hops: Option<&Vec<&'m Conn>>, entry: &Entry<'_>, around: Micros) -> Vec<&'m Conn> {
    let hops = hops.map(Vec::as_slice).unwrap_or_default();
    let end = hops.partition_point(|hop| hop.began() <= entry.earliest + around);
    let known = entry.inbound.and_then(|conn| conn.start);
    let from = known.map_or(Micros::MIN, |start| start - around);
    let before = hops.get(..end).unwrap_or_default().iter().rev().take(TRIED);
    before.take_while(|hop| hop.began() >= from).copied().collect()
}
