//! Connections, sessions and gaps as the logs of many hosts tell them, each once, in little memory.
//! Knows nothing of how they hang together: `join` does. Texts are kept once, and told apart by number.
//! Truth: the records of one connection id, in whatever order and however often they come.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::record::{
    Community, Listening, Origin as OriginFields, Record, Ssh as SshFields, parse_id, parse_time,
};
use crate::report::record::Keyword;

/// Longest text that is kept of a command line or a name, in characters.
const KEPT_CHARS: usize = 300;
/// Longest chain of processes that is kept: as many as a record has.
const KEPT_LINKS: usize = 33;
/// As many forwards of a connection are kept, and as many addresses at which one listens.
const KEPT_FORWARDS: usize = 64;

/// Microseconds after 1970.
pub(crate) type Micros = i64;

/// A text that is kept once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name(NonZeroU32);

/// All texts.
#[derive(Default)]
pub(crate) struct Names {
    texts: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Name>,
}

impl Names {
    fn keep(&mut self, text: &str) -> Name {
        let end = text.char_indices().nth(KEPT_CHARS).map(|(end, _)| end);
        let cut = end.map(|end| format!("{}\u{2026}", text.get(..end).unwrap_or_default()));
        let text = cut.as_deref().unwrap_or(text);
        if let Some(name) = self.numbers.get(text) {
            return *name;
        }
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        // Four billion texts do not fit into memory.
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let name = Name(NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX));
        self.numbers.insert(text, name);
        name
    }

    fn keep_word(&mut self, word: Option<&Keyword<'_>>) -> Option<Name> {
        word.map(|word| self.keep(word.as_str()))
    }

    /// The text.
    pub fn text(&self, name: Name) -> &str {
        let place = usize::try_from(name.0.get() - 1).unwrap_or(usize::MAX);
        self.texts.get(place).map_or("", |text| text)
    }

    /// The text, or nothing.
    pub fn get(&self, name: Option<Name>) -> Option<&str> {
        name.map(|name| self.text(name))
    }

    /// Whether a name has this text.
    pub fn is(&self, name: Option<Name>, text: &str) -> bool {
        self.get(name) == Some(text)
    }
}

/// One host, known by its name and its streams or boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Host(usize);

/// Which host wrote a record. Two hosts may bear one name; one host may begin a new stream, and boots anew.
#[derive(Default)]
struct Hosts {
    names: Vec<Name>,
    /// The same host, found out later. Itself where there is none.
    same: Vec<usize>,
    streams: HashMap<(Name, Option<Name>), usize>,
    boots: HashMap<(Name, Name), usize>,
}

impl Hosts {
    fn find(&self, mut number: usize) -> usize {
        while let Some(same) = self.same.get(number).copied().filter(|same| *same != number) {
            number = same;
        }
        number
    }

    fn take(&mut self, name: Name, stream: Option<Name>, boot: Option<Name>) -> usize {
        let of_stream = self.streams.get(&(name, stream)).copied().filter(|_| stream.is_some());
        let of_boot = boot.and_then(|boot| self.boots.get(&(name, boot)).copied());
        let of_name = self.streams.get(&(name, None)).copied().filter(|_| stream.is_none() && boot.is_none());
        let known = [of_stream, of_boot, of_name].map(|known| known.map(|number| self.find(number)));
        let number = known.iter().flatten().min().copied().unwrap_or_else(|| {
            self.names.push(name);
            self.same.push(self.same.len());
            self.same.len() - 1
        });
        for other in known.into_iter().flatten() {
            if let Some(same) = self.same.get_mut(other) {
                *same = number;
            }
        }
        self.streams.insert((name, stream), number);
        if let Some(boot) = boot {
            self.boots.insert((name, boot), number);
        }
        number
    }
}

/// Who: names or, where there are none, numbers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Who {
    pub name: Option<Name>,
    pub id: Option<Name>,
    pub effective: Option<Name>,
    pub effective_id: Option<Name>,
    pub login: Option<Name>,
    pub login_id: Option<Name>,
    pub session: Option<Name>,
    pub tty: Option<Name>,
}

/// One process of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub name: Name,
    pub pid: u32,
    pub user: Option<Name>,
}

/// Where a session came from.
#[derive(Clone)]
pub(crate) struct Origin {
    pub kind: Option<Name>,
    pub ip: Option<IpAddr>,
    pub port: Option<u16>,
    pub local: Option<SocketAddr>,
    pub community: Option<Community>,
    pub user: Option<Name>,
    pub tty: Option<Name>,
    pub session: Option<Name>,
    pub sshd_pid: Option<u32>,
    pub inbound: Option<u128>,
    pub evidence: Option<Name>,
    /// 0 is the best there is.
    pub rank: u8,
}

impl Origin {
    /// The remote end of the inbound connection.
    pub fn remote(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.ip?, self.port?))
    }
}

/// What the command line of ssh says.
#[derive(Clone, Default)]
pub(crate) struct Ssh {
    pub target: Option<Name>,
    pub jump: Box<[Name]>,
    pub tool: Option<Name>,
    pub subsystem: Option<Name>,
    /// Forwards that were asked for: the option, and what was typed behind it.
    pub forwards: Box<[(&'static str, Name)]>,
}

/// Who opened a connection, or rides on one.
#[derive(Default)]
pub(crate) struct Party {
    pub who: Who,
    /// The owner first, then its ancestors. Empty: unknown.
    pub chain: Box<[Link]>,
    pub is_chain_cut: bool,
    /// Why nobody is named.
    pub unknown: Option<Name>,
    pub command: Option<Name>,
    pub origin: Option<Box<Origin>>,
    pub ssh: Option<Box<Ssh>>,
    pub unit: Option<Name>,
    /// Numbers of processes and sessions begin anew with each.
    pub boot: Option<Name>,
}

/// A connection: a hop if it went out.
pub(crate) struct Conn {
    pub id: u128,
    host: usize,
    pub is_inbound: bool,
    /// Earliest and latest record of it.
    pub first: Micros,
    pub last: Micros,
    /// `None`: the beginning was not seen.
    pub start: Option<Micros>,
    /// `None`: the logs do not tell an end.
    pub end: Option<Micros>,
    pub duration_ns: Option<u64>,
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
    pub domain: Option<Name>,
    pub community: Option<Community>,
    /// By the end that connected.
    sent: Option<u64>,
    received: Option<u64>,
    pub is_bytes_exact: Option<bool>,
    pub is_end_exact: Option<bool>,
    pub reason: Option<Name>,
    pub state: Option<Name>,
    pub seen: Option<Name>,
    pub route: Option<Name>,
    /// Where its owner has listened, an SSH client or server: forwards that stood.
    pub listening: Box<[Name]>,
    pub party: Party,
    /// When the first owner was told that `party` has.
    owner_at: Option<Micros>,
    /// The last owner, where that is another process.
    pub later_owner: Option<Link>,
    later_at: Micros,
}

impl Conn {
    /// When it began, as far as it is known.
    pub fn began(&self) -> Micros {
        self.start.unwrap_or(self.first)
    }

    /// Payload that our end sent.
    pub fn bytes_out(&self) -> Option<u64> {
        if self.is_inbound { self.received } else { self.sent }
    }

    /// Payload that our end received.
    pub fn bytes_in(&self) -> Option<u64> {
        if self.is_inbound { self.sent } else { self.received }
    }

    /// Our end.
    pub fn local(&self) -> Option<SocketAddr> {
        if self.is_inbound { self.destination } else { self.source }
    }

    /// The other end.
    pub fn remote(&self) -> Option<SocketAddr> {
        if self.is_inbound { self.source } else { self.destination }
    }
}

/// A session of ssh that goes over a connection that stood already.
pub(crate) struct Rider {
    event: Option<u128>,
    pub on: u128,
    host: usize,
    pub at: Micros,
    pub party: Party,
}

/// A time in which something was, or may have been, lost.
pub(crate) struct Gap {
    host: usize,
    pub from: Micros,
    pub to: Micros,
    pub cause: Option<Name>,
}

/// All that the logs tell.
#[derive(Default)]
pub(crate) struct Model {
    pub names: Names,
    hosts: Hosts,
    pub conns: Vec<Conn>,
    pub riders: Vec<Rider>,
    pub gaps: Vec<Gap>,
    places: HashMap<(Name, u128), usize>,
    seen: HashSet<u128>,
    /// When the last record of each host was written.
    last: HashMap<usize, Micros>,
}

impl Model {
    pub fn host_of(&self, conn: &Conn) -> Host {
        Host(self.hosts.find(conn.host))
    }

    pub fn host_of_rider(&self, rider: &Rider) -> Host {
        Host(self.hosts.find(rider.host))
    }

    pub fn host_of_gap(&self, gap: &Gap) -> Host {
        Host(self.hosts.find(gap.host))
    }

    pub fn host_name(&self, host: Host) -> &str {
        self.hosts.names.get(host.0).map_or("", |name| self.names.text(*name))
    }

    /// When a host's logs end.
    pub fn ends_at(&self, host: Host) -> Option<Micros> {
        let own = self.last.iter().filter(|(number, _)| self.hosts.find(**number) == host.0);
        own.map(|(_, at)| *at).max()
    }

    /// Forgets what only further records would need.
    pub fn finish(&mut self) {
        (self.places, self.seen) = (HashMap::new(), HashSet::new());
        self.conns.shrink_to_fit();
    }

    /// Takes a record in. What is about no connection and no gap is left.
    pub fn take(&mut self, at: Micros, record: &Record<'_>) {
        let host = self.take_host(at, record);
        let event = record.event.as_ref();
        let action = event.and_then(|event| event.action.as_ref()).map_or("", Keyword::as_str);
        match action {
            "connection-opened" | "connection-changed" | "connection-closed" => {
                self.take_connection(host, at, record);
            }
            "session-multiplexed" => self.take_rider(host, at, record),
            "gap" => self.take_gap(host, record),
            _ => {}
        }
    }

    fn take_host(&mut self, at: Micros, record: &Record<'_>) -> (Name, usize) {
        let fields = record.host.as_ref();
        let name = fields.and_then(|host| host.name.as_ref()).map_or("unknown host", Keyword::as_str);
        let name = self.names.keep(name);
        let stream = self.names.keep_word(record.agent.as_ref().and_then(|agent| agent.id.as_ref()));
        let boot = fields.and_then(|host| host.boot.as_ref()).and_then(|boot| boot.id.as_ref());
        let boot = self.names.keep_word(boot);
        let number = self.hosts.take(name, stream, boot);
        let last = self.last.entry(number).or_insert(at);
        *last = at.max(*last);
        (name, number)
    }

    fn take_connection(&mut self, (name, host): (Name, usize), at: Micros, record: &Record<'_>) {
        let fields = record.portreeve.as_ref();
        let id = fields.and_then(|fields| fields.connection.as_ref()?.id.as_ref());
        let Some(id) = id.and_then(|id| parse_id(id.as_str())) else { return };
        let place = *self.places.entry((name, id)).or_insert_with(|| {
            self.conns.push(Conn::new(id, host, at));
            self.conns.len() - 1
        });
        if let Some(conn) = self.conns.get_mut(place) {
            conn.take(at, record, &mut self.names);
        }
    }

    fn take_rider(&mut self, (_, host): (Name, usize), at: Micros, record: &Record<'_>) {
        let fields = record.portreeve.as_ref();
        let on = fields.and_then(|fields| fields.connection.as_ref()?.id.as_ref());
        let Some(on) = on.and_then(|id| parse_id(id.as_str())) else { return };
        let event = event_id(record);
        if event.is_some_and(|event| !self.seen.insert(event)) {
            return;
        }
        let party = Party::take(record, &mut self.names);
        self.riders.push(Rider { event, on, host, at, party });
    }

    fn take_gap(&mut self, (_, host): (Name, usize), record: &Record<'_>) {
        if event_id(record).is_some_and(|event| !self.seen.insert(event)) {
            return;
        }
        let Some(gap) = record.portreeve.as_ref().and_then(|fields| fields.gap.as_ref()) else { return };
        let time = |field: &Option<Keyword<'_>>| parse_time(field.as_ref()?.as_str());
        if let (Some(from), Some(to)) = (time(&gap.from), time(&gap.to)) {
            let cause = self.names.keep_word(gap.cause.as_ref());
            self.gaps.push(Gap { host, from, to, cause });
        }
    }
}

fn event_id(record: &Record<'_>) -> Option<u128> {
    parse_id(record.event.as_ref()?.id.as_ref()?.as_str())
}

impl Rider {
    /// The record's own id.
    pub fn event(&self) -> Option<u128> {
        self.event
    }
}

impl Conn {
    fn new(id: u128, host: usize, at: Micros) -> Conn {
        Conn {
            id,
            host,
            is_inbound: false,
            first: at,
            last: at,
            start: None,
            end: None,
            duration_ns: None,
            source: None,
            destination: None,
            domain: None,
            community: None,
            sent: None,
            received: None,
            is_bytes_exact: None,
            is_end_exact: None,
            reason: None,
            state: None,
            seen: None,
            route: None,
            listening: Box::default(),
            party: Party::default(),
            owner_at: None,
            later_owner: None,
            later_at: at,
        }
    }

    fn take(&mut self, at: Micros, record: &Record<'_>, names: &mut Names) {
        let is_latest = at >= self.last;
        self.first = self.first.min(at);
        self.last = self.last.max(at);
        let time = |field: Option<&Keyword<'_>>| field.and_then(|text| parse_time(text.as_str()));
        let event = record.event.as_ref();
        fill(&mut self.start, time(event.and_then(|event| event.start.as_ref())));
        if let Some(network) = &record.network {
            self.is_inbound |= network.direction.as_ref().is_some_and(|way| way.as_str() == "ingress");
            fill(&mut self.community, network.community());
        }
        fill(&mut self.source, record.source.as_ref().and_then(|end| end.socket()));
        let destination = record.destination.as_ref();
        fill(&mut self.destination, destination.and_then(|end| end.socket()));
        fill(&mut self.domain, names.keep_word(destination.and_then(|end| end.domain.as_ref())));
        if let Some(fields) = &record.portreeve {
            let connection = fields.connection.as_ref();
            fill(&mut self.seen, names.keep_word(connection.and_then(|own| own.seen.as_ref())));
            let state = names.keep_word(connection.and_then(|own| own.state.as_ref()));
            let route = names.keep_word(fields.route.as_ref());
            if is_latest {
                self.state = state.or(self.state);
                self.route = route.or(self.route);
            }
            fill(&mut self.state, state);
            fill(&mut self.route, route);
            self.take_listening(fields.listening.as_ref(), names);
        }
        self.take_end(at, record, names);
        self.take_party(at, Party::take(record, names));
    }

    /// Every address that a record tells: of forwards that were ended later too.
    fn take_listening(&mut self, fields: Option<&Listening<'_>>, names: &mut Names) {
        let told = fields.and_then(|fields| fields.addresses.as_deref()).unwrap_or_default();
        let mut all = self.listening.to_vec();
        for address in told.iter().map(|address| names.keep(address.as_str())) {
            if all.len() < KEPT_FORWARDS && !all.contains(&address) {
                all.push(address);
            }
        }
        self.listening = all.into();
    }

    fn take_end(&mut self, at: Micros, record: &Record<'_>, names: &mut Names) {
        let Some(close) = record.portreeve.as_ref().and_then(|fields| fields.close.as_ref()) else { return };
        let event = record.event.as_ref();
        let time = |field: Option<&Keyword<'_>>| field.and_then(|text| parse_time(text.as_str()));
        let end = time(event.and_then(|event| event.end.as_ref())).or_else(|| time(close.gone_by.as_ref()));
        self.end = Some(end.unwrap_or(at));
        self.duration_ns = event.and_then(|event| event.duration);
        self.reason = names.keep_word(close.reason.as_ref());
        self.is_end_exact = close.exact;
        self.is_bytes_exact = close.bytes_exact;
        self.sent = record.source.as_ref().and_then(|end| end.bytes);
        self.received = record.destination.as_ref().and_then(|end| end.bytes);
    }

    /// The first owner made the connection and stays its party; who holds it later is told beside that.
    fn take_party(&mut self, at: Micros, new: Party) {
        let owner = new.chain.first().copied();
        let is_first = owner.is_some() && self.owner_at.is_none_or(|known| at < known);
        if is_first || self.owner_at.is_none() {
            let old = std::mem::replace(&mut self.party, new);
            if let (Some(link), Some(_)) = (old.chain.first().copied(), self.owner_at) {
                self.take_later(at, link);
            }
            if owner.is_some() {
                self.owner_at = Some(at);
            }
            self.party.complete(old);
        } else {
            if let Some(link) = owner {
                self.take_later(at, link);
            }
            self.party.complete(new);
        }
    }

    fn take_later(&mut self, at: Micros, link: Link) {
        if self.party.chain.first().is_some_and(|first| first.pid != link.pid) && at >= self.later_at {
            (self.later_owner, self.later_at) = (Some(link), at);
        }
    }
}

impl Party {
    fn take(record: &Record<'_>, names: &mut Names) -> Party {
        let mut party = Party { who: Who::take(record, names), ..Party::default() };
        let boot = record.host.as_ref().and_then(|host| host.boot.as_ref()?.id.as_ref());
        party.boot = names.keep_word(boot);
        party.unit = names.keep_word(record.service.as_ref().and_then(|service| service.name.as_ref()));
        let process = record.process.as_ref();
        let fields = record.portreeve.as_ref();
        if let Some((process, pid)) = process.and_then(|process| Some((process, process.pid?))) {
            let name = names.keep(process.name.as_ref().map_or("", Keyword::as_str));
            let mut chain = vec![Link { name, pid, user: party.who.name.or(party.who.id) }];
            let ancestry = fields.and_then(|fields| fields.ancestry.as_deref()).unwrap_or_default();
            chain.extend(ancestry.iter().take(KEPT_LINKS - 1).map(|ancestor| Link {
                name: names.keep(ancestor.name.as_ref().map_or("", Keyword::as_str)),
                pid: ancestor.pid.unwrap_or_default(),
                user: names.keep_word(ancestor.user.as_ref()),
            }));
            party.chain = chain.into();
            party.command = names.keep_word(process.command_line.as_ref());
        }
        let Some(fields) = fields else { return party };
        party.is_chain_cut = fields.ancestry_cut.is_some();
        let unknown = fields.attribution.as_ref().and_then(|attribution| attribution.reason.as_ref());
        party.unknown = names.keep_word(unknown);
        party.origin = fields.origin.as_ref().map(|origin| Box::new(Origin::take(origin, names)));
        party.ssh = fields.ssh.as_ref().map(|ssh| Box::new(Ssh::take(ssh, names)));
        party
    }

    /// Takes over what another record of the same connection knows better.
    fn complete(&mut self, other: Party) {
        let rank = |origin: Option<&Origin>| origin.map_or(u8::MAX, |origin| origin.rank);
        match (&mut self.origin, other.origin) {
            (Some(own), Some(other)) if own.rank == other.rank => own.complete(&other),
            (own, other) if rank(other.as_deref()) < rank(own.as_deref()) => *own = other,
            _ => {}
        }
        match (&mut self.ssh, other.ssh) {
            (Some(own), Some(other)) => {
                fill(&mut own.target, other.target);
                fill(&mut own.tool, other.tool);
                fill(&mut own.subsystem, other.subsystem);
                if own.jump.is_empty() {
                    own.jump = other.jump;
                }
                if own.forwards.is_empty() {
                    own.forwards = other.forwards;
                }
            }
            (own, other) => *own = own.take().or(other),
        }
        fill(&mut self.unit, other.unit);
        if self.chain.is_empty() && self.who.name.is_none() && self.who.id.is_none() {
            self.who = other.who;
        }
    }
}

impl Who {
    fn take(record: &Record<'_>, names: &mut Names) -> Who {
        let user = record.user.as_ref();
        let effective = user.and_then(|user| user.effective.as_ref());
        let login = record.portreeve.as_ref().and_then(|fields| fields.login.as_ref());
        let tty = record.process.as_ref().and_then(|process| process.tty.as_ref());
        Who {
            name: names.keep_word(user.and_then(|user| user.name.as_ref())),
            id: names.keep_word(user.and_then(|user| user.id.as_ref())),
            effective: names.keep_word(effective.and_then(|effective| effective.name.as_ref())),
            effective_id: names.keep_word(effective.and_then(|effective| effective.id.as_ref())),
            login: names.keep_word(login.and_then(|login| login.name.as_ref())),
            login_id: names.keep_word(login.and_then(|login| login.uid.as_ref())),
            session: names.keep_word(login.and_then(|login| login.session.as_ref())),
            tty: names.keep_word(tty.and_then(|tty| tty.name.as_ref())),
        }
    }
}

impl Origin {
    fn take(fields: &OriginFields<'_>, names: &mut Names) -> Origin {
        let rank = match (
            fields.kind.as_ref().map_or("", Keyword::as_str),
            fields.evidence.as_ref().map(Keyword::as_str),
        ) {
            ("" | "unknown", _) => 9,
            ("ssh", Some("socket")) => 0,
            ("ssh", Some("audit_session")) => 1,
            ("ssh", Some("cgroup_session")) => 2,
            ("ssh", Some("remembered")) => 3,
            ("ssh", Some("title")) => 4,
            ("ssh", Some("environment")) => 5,
            ("ssh", _) => 6,
            _ => 7,
        };
        Origin {
            kind: names.keep_word(fields.kind.as_ref()),
            ip: fields.ip(),
            port: fields.port,
            local: fields.local(),
            community: fields.community(),
            user: names.keep_word(fields.user.as_ref()),
            tty: names.keep_word(fields.tty.as_ref()),
            session: names.keep_word(fields.session.as_ref()),
            sshd_pid: fields.sshd_pid,
            inbound: fields.connection(),
            evidence: names.keep_word(fields.evidence.as_ref()),
            rank,
        }
    }
}

impl Origin {
    /// Takes over what another record of the same evidence knows more.
    fn complete(&mut self, other: &Origin) {
        fill(&mut self.ip, other.ip);
        fill(&mut self.port, other.port);
        fill(&mut self.local, other.local);
        fill(&mut self.community, other.community);
        fill(&mut self.user, other.user);
        fill(&mut self.tty, other.tty);
        fill(&mut self.session, other.session);
        fill(&mut self.sshd_pid, other.sshd_pid);
        fill(&mut self.inbound, other.inbound);
    }
}

impl Ssh {
    fn take(fields: &SshFields<'_>, names: &mut Names) -> Ssh {
        let jump = fields.jump.as_deref().unwrap_or_default();
        Ssh {
            target: names.keep_word(fields.target.as_ref()),
            jump: jump.iter().map(|hop| names.keep(hop.as_str())).collect(),
            tool: names.keep_word(fields.tool.as_ref()),
            subsystem: names.keep_word(fields.subsystem.as_ref()),
            forwards: fields
                .forwards
                .iter()
                .flat_map(|forwards| forwards.all())
                .take(KEPT_FORWARDS)
                .map(|(option, text)| (option, names.keep(text.as_str())))
                .collect(),
        }
    }
}

fn fill<T>(place: &mut Option<T>, value: Option<T>) {
    if place.is_none() {
        *place = value;
    }
}
