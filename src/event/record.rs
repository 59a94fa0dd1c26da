//! Records in the schema's names: the Elastic Common Schema's (ECS 9), and `portreeve` for what it has no name for.
//!
//! Every field of a connection is placed here or dropped by name. A field that is not known is absent; where its
//! absence could mislead, `portreeve.*` says why. portreeve-events(5) is this page for readers.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::ascii::{readable, to_json, write_json};
use super::bound;
use super::community::community_id;
use super::message::message;
use super::portrait::{Portrait, Portraits};
use super::way;
use super::who::user_fields;
use super::{Bytes, Coverage, Ending, Event, Gap, Packets, Started, What};
use crate::connection::{Connection, Direction, Moment, TcpState, Transport};
use crate::process::{Attribution, Recorded, Told};

/// Version of the fields.
pub const SCHEMA: u32 = 1;
const ECS: &str = "9.4.0";
/// The longest line, its end included.
pub const LONGEST: usize = 16 * 1024;
/// Room for what `Stream` adds: sequence, chain and line end.
const ENDING: usize = 128;

/// What every record repeats about the machine and the run.
#[derive(Debug, Clone)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// `None` where it is hidden.
    pub boot_id: Option<String>,
    /// Operating system and kernel, for the first record.
    pub os: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Clock ticks a second of process start times.
    pub ticks_per_second: u64,
}

/// A record that lacks only its place in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// When it was observed.
    pub at: Moment,
    /// `event.action`.
    pub action: &'static str,
    /// In one line for people.
    pub message: String,
    /// JSON up to, not including, `event.sequence`, which comes last.
    pub json: Vec<u8>,
}

/// Gives events the schema's names.
pub struct Renderer {
    host: Host,
    /// The members that each record has.
    ecs: Box<RawValue>,
    agent: Box<RawValue>,
    machine: Box<RawValue>,
    portraits: Portraits,
    /// Where records are written before their length is known.
    room: Vec<u8>,
    new_id: Box<dyn FnMut(Moment) -> uuid::Uuid>,
}

impl Renderer {
    /// `stream` is the log's id, `run` this run's.
    #[must_use]
    pub fn new(
        host: Host,
        stream: String,
        run: String,
        new_id: Box<dyn FnMut(Moment) -> uuid::Uuid>,
    ) -> Self {
        let agent = json!({
            "type": "portreeve", "version": env!("CARGO_PKG_VERSION"), "id": stream, "ephemeral_id": run,
        });
        let (ecs, agent, machine) = (raw(&json!({ "version": ECS })), raw(&agent), raw(&host.fields()));
        Self { host, ecs, agent, machine, portraits: Portraits::default(), room: Vec::new(), new_id }
    }

    /// What records repeat of the machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// An id later than all before.
    pub fn new_id(&mut self, at: Moment) -> uuid::Uuid {
        (self.new_id)(at)
    }

    /// Renders a record of at most 16 KiB: where it would be longer, the ancestors' command lines are left out, then
    /// arguments cut, and `portreeve.truncated` says which.
    #[must_use]
    pub fn render(&mut self, event: &Event) -> Body {
        let id = (self.new_id)(event.at);
        let message = message(event);
        let mut room = std::mem::take(&mut self.room);
        for cut in [Cut::None, Cut::Ancestors, Cut::Arguments, Cut::Everything] {
            let mut record = self.record(event, &message, id, cut);
            if cut == Cut::Everything {
                record.members.bound();
            }
            room.clear();
            // The values are maps, strings and integers: serde_json has no error for them.
            let _ = write_json(&record, &mut room);
            if room.len() + ENDING <= LONGEST {
                break;
            }
        }
        // `event` is the last member and `sequence` will be its last: both are still open. Thousands of these may wait for a
        // full disk: no more than there is.
        let json = room.get(..room.len().saturating_sub(2)).unwrap_or_default().to_vec();
        self.room = room;
        Body { at: event.at, action: event.what.action(), message, json }
    }

    fn record<'a>(&'a mut self, event: &Event, message: &'a str, id: uuid::Uuid, cut: Cut) -> Record<'a> {
        let mut members = Members::default();
        members.own("schema", SCHEMA.into());
        members.own("boottime_us", micros(event.at.boot).into());
        self.tell(&mut members, event, cut);
        Record {
            timestamp: time(event.at),
            message: match cut {
                Cut::Everything => message.chars().take(500).collect(),
                _ => Cow::Borrowed(message),
            },
            ecs: &self.ecs,
            agent: &self.agent,
            host: match event.what {
                What::Started(_) => Cow::Owned(raw(&self.host.system_fields())),
                _ => Cow::Borrowed(&*self.machine),
            },
            members,
            event: event_fields(event, id),
        }
    }

    fn tell(&mut self, record: &mut Members, event: &Event, cut: Cut) {
        let portraits = Some(&mut self.portraits);
        match &event.what {
            What::Opened(connection) | What::Multiplexed(connection) => {
                self.host.connection(record, connection, cut, portraits);
            }
            What::Changed { connection, changed } => {
                self.host.connection(record, connection, cut, portraits);
                record.own("changed", json!(changed));
            }
            What::Closed { connection, ending } => {
                self.host.connection(record, connection, cut, portraits);
                close(record, connection.direction, ending);
            }
            What::ProcessStarted(who) => self.host.program(record, who, event.at, cut),
            What::FileChanged(file) => self.host.file(record, file, event.at, cut),
            What::ProcessEnded(end) => self.host.program_end(record, end, cut),
            What::Started(started) => {
                let mut started = Started::clone(started);
                if cut == Cut::Everything {
                    started.settings = Map::new();
                    record.own("truncated", json!(["portreeve.watch.settings"]));
                }
                record.own("watch", json!(started));
            }
            What::Stopped { reason, totals } => {
                record.own("watch", json!({ "reason": readable(reason.as_bytes()), "totals": totals }));
            }
            What::Reloaded { outcome, settings, events } => {
                let watch = match outcome {
                    Ok(changed) if cut < Cut::Everything => {
                        json!({ "changed": changed, "settings": settings, "events": events })
                    }
                    Ok(changed) => json!({ "changed": changed, "events": events }),
                    Err(error) => json!({ "error": error }),
                };
                record.own("watch", watch);
            }
            What::Gap(gap) => record.own("gap", gap_fields(gap)),
            What::Coverage(coverage) => record.own("coverage", coverage_fields(coverage)),
            What::LogOpened { path, previous, sequence, chain } => {
                let mut log = json!({ "path": path, "continues": { "sequence": sequence, "chain": chain } });
                set(&mut log, "previous", previous.as_ref().map(|p| json!(p)));
                record.own("log", log);
            }
            What::LogRepaired { path, offset, bytes } => {
                record.own("log", json!({ "path": path, "offset": offset, "bytes": bytes }));
            }
            What::ClockStepped { by_us } => record.own("clock", json!({ "by_us": by_us })),
            What::Sealed(seal) => record.own("seal", json!(seal)),
        }
    }
}

fn event_fields(event: &Event, id: uuid::Uuid) -> EventFields {
    let what = &event.what;
    let (kind, types, outcome): (_, &[&str], _) = match what {
        What::Opened(_) => ("event", &["connection", "start"], "success"),
        What::Changed { .. } => ("event", &["connection", "change"], "success"),
        What::Closed { ending, .. } => ("event", &["connection", "end"], outcome_of(ending.success)),
        What::ProcessStarted(_) => ("event", &["start"], "success"),
        What::FileChanged(file) => ("event", file.types(), "success"),
        What::ProcessEnded(end) => ("event", &["end"], end.fate.outcome()),
        What::Multiplexed(_) => ("event", &["start"], "success"),
        What::Reloaded { outcome: Err(_), .. } => ("state", &["change"], "failure"),
        What::Reloaded { .. } => ("state", &["change"], "success"),
        What::Started(_) => ("state", &["start"], "success"),
        What::Stopped { .. } => ("state", &["end"], "success"),
        What::Gap(_) => ("state", &["error"], "failure"),
        What::Coverage(_) => ("metric", &["info"], "success"),
        What::LogOpened { .. } | What::LogRepaired { .. } => ("state", &["info"], "success"),
        What::ClockStepped { .. } | What::Sealed(_) => ("state", &["info"], "success"),
    };
    let connection = what.connection();
    // An attempt is neither a success nor a failure yet. Nobody answers when a UDP socket is connected.
    let pending = connection.is_some_and(|c| c.state == TcpState::SynSent || c.transport != Transport::Tcp);
    let is_close = matches!(what, What::Closed { .. });
    let about: (&[&str], _) = match what {
        What::ProcessStarted(_) | What::ProcessEnded(_) => (&["process"], "portreeve.process"),
        What::FileChanged(_) => (&["file"], "portreeve.file"),
        What::Multiplexed(_) => (&["session"], "portreeve.connection"),
        _ if connection.is_some() => (&["network"], "portreeve.connection"),
        _ => (&["host"], "portreeve.watch"),
    };
    let mut fields = EventFields {
        action: what.action(),
        kind,
        category: about.0,
        types,
        outcome: if pending && !is_close { "unknown" } else { outcome },
        reason: None,
        start: None,
        end: None,
        duration: None,
        id: id.to_string(),
        provider: "portreeve",
        dataset: about.1,
    };
    if let Some(connection) = connection {
        fields.start = connection.seen.tells_start().then(|| time(connection.opened));
    }
    if let What::ProcessEnded(end) = what {
        fields.start = Some(time(end.started));
        fields.end = Some(time(end.ended));
        fields.duration = Some(nanos(end.duration()));
    }
    if let What::Closed { connection, ending } = what {
        fields.reason = Some(ending.reason.name());
        fields.end = Some(time(ending.gone_by));
        fields.duration = ending.duration(connection).map(nanos);
    }
    fields
}

impl Host {
    fn fields(&self) -> Value {
        let mut host = json!({ "name": self.name });
        set(&mut host, "boot", self.boot_id.as_ref().map(|id| json!({ "id": id })));
        host
    }

    /// With its system, for the first record.
    fn system_fields(&self) -> Value {
        let (mut host, mut os) = (self.fields(), json!({ "type": "linux" }));
        set(&mut os, "full", self.os.as_ref().map(|os| json!(os)));
        set(&mut os, "kernel", self.kernel.as_ref().map(|kernel| json!(kernel)));
        set(&mut host, "os", Some(os));
        host
    }

    /// A connection as its records tell it, to be kept for a later run. `Recorded` in it stays as it is.
    #[must_use]
    pub fn kept(&self, connection: &Connection) -> Map<String, Value> {
        let mut members = Members::default();
        self.connection(&mut members, connection, Cut::None, None);
        let (mut fields, own) = members.into_maps();
        fields.insert("portreeve".to_owned(), Value::Object(own));
        fields
    }

    /// `portraits`: where what is told of its owner may have been told before.
    pub(super) fn connection(
        &self,
        record: &mut Members,
        connection: &Connection,
        cut: Cut,
        portraits: Option<&mut Portraits>,
    ) {
        let Connection { id, netns, inode, cookie, transport, tuple, state, .. } = connection;
        let Connection { uid, user, seen, opened, last_seen: _, attribution, direction, way, .. } =
            connection;
        let ip = |end: SocketAddr| json!({ "ip": end.ip().to_string(), "port": end.port() });
        let (source, destination) = match direction {
            Direction::Egress => (tuple.local, tuple.remote),
            Direction::Ingress => (tuple.remote, tuple.local),
        };
        if source.port() != 0 {
            record.put("source", ip(source));
        }
        record.put("destination", ip(destination));
        let mut network = json!({
            "type": match tuple.remote.ip() { IpAddr::V4(_) => "ipv4", IpAddr::V6(_) => "ipv6" },
            "direction": direction.name(),
        });
        set(&mut network, "transport", transport.name().map(|name| json!(name)));
        let community = community_id(*transport, tuple).filter(|_| source.port() != 0);
        set(&mut network, "community_id", community.map(|id| json!(id)));
        record.put("network", network);
        let mut own = json!({ "id": id.to_string(), "state": state.name(), "seen": seen.name() });
        set(&mut own, "inode", inode.map(|inode| json!(inode.get())));
        // As text: 64 bits are more than a JavaScript number holds.
        set(&mut own, "cookie", cookie.map(|cookie| json!(cookie.get().to_string())));
        set(&mut own, "netns", (netns.0 != 0).then(|| json!(netns.0)));
        record.own("connection", own);
        set_attribution(record, attribution);
        match attribution {
            Attribution::Owned { lineage, .. } => {
                let origin = way.as_ref().map(|way| &way.origin);
                let portraits = portraits.filter(|_| cut == Cut::None);
                record.portrait = portraits.and_then(|known| known.of(self, lineage, origin, *opened));
                if record.portrait.is_none() {
                    self.lineage(record, lineage, *opened, cut);
                }
            }
            Attribution::Recorded(recorded) => recite(record, recorded, cut),
            Attribution::Audited { asker, .. } => self.asker(record, asker, *opened, cut),
            Attribution::Unknown(_) => {
                if let Some(uid) = uid {
                    record.put("user", user_fields(*uid, user.as_deref()));
                }
            }
        }
        // What a former run told of the way stands with what it told of the owner.
        if let Some(way) = way.as_ref().filter(|_| !matches!(attribution, Attribution::Recorded(_))) {
            if record.portrait.is_none() {
                way::tell_origin(record, &way.origin);
            }
            way::tell(record, way, cut);
        }
        if cut > Cut::None {
            record.own("truncated", json!(cut.names()));
        }
    }
}

/// What is left out of a record that would be too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cut {
    None,
    Ancestors,
    Arguments,
    Everything,
}

impl Cut {
    pub(super) fn names(self) -> &'static [&'static str] {
        let all = &[
            "portreeve.ancestry",
            "portreeve.ssh",
            "process.args",
            "process.executable",
            "process.working_directory",
            "process.cgroup",
            "message",
        ];
        let count = match self {
            Self::None => 0,
            Self::Ancestors => 1,
            Self::Arguments => 6,
            Self::Everything => 7,
        };
        all.get(..count).unwrap_or_default()
    }

    /// Bytes of a path of the owner that are told.
    pub(super) fn owner_path(self) -> usize {
        match self {
            Self::None | Self::Ancestors => usize::MAX,
            Self::Arguments => 512,
            Self::Everything => 128,
        }
    }

    /// Bytes of an ancestor's path.
    pub(super) fn ancestor_path(self) -> usize {
        match self {
            Self::None => usize::MAX,
            Self::Ancestors => 256,
            Self::Arguments => 64,
            Self::Everything => 0,
        }
    }
}

/// Members in the order in which they are written.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    message: Cow<'a, str>,
    ecs: &'a RawValue,
    agent: &'a RawValue,
    host: Cow<'a, RawValue>,
    #[serde(flatten)]
    members: Members,
    event: EventFields,
}

/// Members that tell of the thing, not of the record.
#[derive(Default)]
pub(super) struct Members {
    pub(super) fields: Map<String, Value>,
    /// Below `portreeve`.
    own: Map<String, Value>,
    /// What stands beside both of an owner that was told before.
    portrait: Option<Rc<Portrait>>,
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { fields, own, portrait } = self;
        let (drawn_fields, drawn_own) = match portrait.as_deref() {
            Some(portrait) => (portrait.fields.as_slice(), portrait.own.as_slice()),
            None => Default::default(),
        };
        let mut map = serializer.serialize_map(None)?;
        Merged(fields, drawn_fields).each(|name, value| map.serialize_entry(name, value))?;
        map.serialize_entry("portreeve", &Merged(own, drawn_own))?;
        map.end()
    }
}

/// Both in the order of their names, which are no other's.
struct Merged<'a>(&'a Map<String, Value>, &'a [(String, Box<RawValue>)]);

/// One of either.
#[derive(Serialize)]
#[serde(untagged)]
enum Piece<'a> {
    Plain(&'a Value),
    Drawn(&'a RawValue),
}

impl Merged<'_> {
    fn each<E>(&self, mut visit: impl FnMut(&str, &Piece) -> Result<(), E>) -> Result<(), E> {
        let mut drawn = self.1.iter().peekable();
        for (name, value) in self.0 {
            while let Some((before, json)) = drawn.next_if(|(other, _)| other < name) {
                visit(before, &Piece::Drawn(json))?;
            }
            visit(name, &Piece::Plain(value))?;
        }
        drawn.try_for_each(|(name, json)| visit(name, &Piece::Drawn(json)))
    }
}

impl Serialize for Merged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.each(|name, value| map.serialize_entry(name, value))?;
        map.end()
    }
}

impl Members {
    /// Cuts all texts, also those of records that `Cut` knows nothing of: an error's, a path's.
    fn bound(&mut self) {
        let texts = [&mut self.fields, &mut self.own].map(bound::shorten);
        if texts.contains(&true) && !self.own.contains_key("truncated") {
            self.own("truncated", json!(["message", "portreeve"]));
        }
    }

    /// Both, of members without a portrait.
    pub(super) fn into_maps(self) -> (Map<String, Value>, Map<String, Value>) {
        (self.fields, self.own)
    }

    #[cfg(test)]
    pub(super) fn has_portrait(&self) -> bool {
        self.portrait.is_some()
    }

    pub(super) fn put(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    /// Adds a member to a field that is there.
    pub(super) fn add(&mut self, name: &str, member: &str, value: Value) {
        if let Some(field) = self.fields.get_mut(name) {
            set(field, member, Some(value));
        }
    }

    pub(super) fn own(&mut self, name: &str, value: Value) {
        self.own.insert(name.to_owned(), value);
    }

    pub(super) fn get_own(&self, name: &str) -> Option<&Value> {
        self.own.get(name)
    }
}

#[derive(Serialize)]
struct EventFields {
    action: &'static str,
    kind: &'static str,
    category: &'static [&'static str],
    #[serde(rename = "type")]
    types: &'static [&'static str],
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    id: String,
    provider: &'static str,
    dataset: &'static str,
}

fn close(record: &mut Members, direction: Direction, ending: &Ending) {
    let Ending { reason, success: _, last_seen, gone_by, exact, bytes } = ending;
    let mut close = json!({ "reason": reason.name(), "gone_by": time(*gone_by), "exact": exact });
    set(&mut close, "last_seen", last_seen.map(|at| json!(from(at, *gone_by))));
    if let Some(Bytes { sent, received, exact, packets }) = bytes {
        set(&mut close, "bytes_exact", Some(json!(exact)));
        // Bytes are of the end that sent them.
        let (ours, theirs) = match direction {
            Direction::Egress => ("source", "destination"),
            Direction::Ingress => ("destination", "source"),
        };
        record.add(theirs, "bytes", json!(received));
        if let Some(sent) = sent {
            record.add(ours, "bytes", json!(sent));
            record.add("network", "bytes", json!(sent.saturating_add(*received)));
        }
        if let Some(Packets { sent, received }) = packets {
            record.add(ours, "packets", json!(sent));
            record.add(theirs, "packets", json!(received));
            record.add("network", "packets", json!(sent.saturating_add(*received)));
        }
    }
    record.own("close", close);
}

fn coverage_fields(coverage: &Coverage) -> Value {
    let mut fields = json!(coverage);
    set(&mut fields, "from", coverage.span.map(|(begin, end)| json!(from(begin, end))));
    set(&mut fields, "to", coverage.span.map(|(_, to)| json!(time(to))));
    fields
}

fn set_attribution(record: &mut Members, attribution: &Attribution) {
    let fields = match attribution {
        Attribution::Unknown(reason) => json!({ "status": "unknown", "reason": reason.name() }),
        Attribution::Owned { holders, latency, .. } => {
            let mut pids: Vec<u32> = holders.iter().map(|holder| holder.pid).collect();
            pids.dedup();
            let status = if pids.len() > 1 { "shared" } else { "owned" };
            json!({ "status": status, "holders": pids, "latency_us": micros(*latency) })
        }
        Attribution::Audited { asker, latency } => json!({
            "status": "owned", "evidence": "audit", "holders": [asker.pid()], "latency_us": micros(*latency)
        }),
        Attribution::Recorded(_) => return,
    };
    record.own("attribution", fields);
}

/// What a former run told of the owner, to the letter as far as there is room.
fn recite(record: &mut Members, recorded: &Recorded, cut: Cut) {
    let Told { mut fields, mut own } = recorded.told();
    if cut == Cut::Everything {
        // Whoever wrote into the log or the state may have put anything there: these are known to be small.
        keep_small(&mut fields, &["process", "user"]);
        keep_small(&mut own, &["attribution"]);
    }
    let domain = fields.remove("destination").and_then(|end| end.get("domain").cloned());
    record.fields.extend(fields);
    record.own.extend(own);
    way::recite(record, domain);
    if cut > Cut::None {
        record.own.remove("ancestry");
    }
    if cut >= Cut::Arguments {
        record.own.remove("ssh");
    }
    let Some(process) = record.fields.get_mut("process").and_then(Value::as_object_mut) else { return };
    let left_out: &[&str] = match cut {
        Cut::None => &[],
        Cut::Ancestors => &["parent"],
        Cut::Arguments | Cut::Everything => {
            &["parent", "args", "command_line", "executable", "working_directory", "cgroup"]
        }
    };
    left_out.iter().for_each(|name| drop(process.remove(*name)));
}

/// Leaves these members, and of each the few texts and numbers by which it is known.
fn keep_small(members: &mut Map<String, Value>, names: &[&str]) {
    members.retain(|name, value| names.contains(&name.as_str()) && value.is_object());
    for inner in members.values_mut().filter_map(Value::as_object_mut) {
        let known = ["pid", "name", "entity_id", "id", "status", "reason"];
        inner
            .retain(|name, value| known.contains(&name.as_str()) && (value.is_string() || value.is_number()));
    }
}

fn gap_fields(gap: &Gap) -> Value {
    let mut fields = json!({ "cause": gap.cause, "from": from(gap.from, gap.to), "to": time(gap.to) });
    set(&mut fields, "count", gap.count.map(|count| json!(count)));
    set(&mut fields, "detail", gap.detail.as_ref().map(|detail| json!(readable(detail.as_bytes()))));
    set(&mut fields, "lost", (!gap.lost.is_empty()).then(|| json!(gap.lost)));
    fields
}

/// As JSON. The values are maps, strings and integers: serde_json has no error for them.
fn raw(value: &Value) -> Box<RawValue> {
    let json = to_json(value).ok().and_then(|json| String::from_utf8(json).ok());
    json.and_then(|json| RawValue::from_string(json).ok()).unwrap_or_default()
}

pub(super) fn set(object: &mut Value, name: &str, value: Option<Value>) {
    if let (Some(map), Some(value)) = (object.as_object_mut(), value) {
        map.insert(name.to_owned(), value);
    }
}

fn outcome_of(success: Option<bool>) -> &'static str {
    match success {
        Some(true) => "success",
        Some(false) => "failure",
        None => "unknown",
    }
}

/// The beginning of an interval as records write it.
fn from(begin: Moment, end: Moment) -> String {
    time(Moment { wall: begin.wall_before(end), ..begin })
}

/// A time as records write it.
#[must_use]
pub fn time(at: Moment) -> String {
    format!("{:.6}", at.wall)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::connection::{Direction, Netns, Seen, Tuple};
    use crate::process::{Holder, Ids, Lineage, Process};

    fn moment() -> Moment {
        Moment { wall: jiff::Timestamp::from_second(1_800_000_000).unwrap(), boot: Duration::from_secs(9) }
    }

    /// A process whose every name is as long as the kernel lets it be, and made of one byte.
    fn process(pid: u32, byte: u8) -> Process {
        Process {
            pid,
            ppid: pid - 1,
            start_ticks: 1,
            pidfd_inode: Some(u64::MAX),
            comm: vec![byte; 15],
            executable: Some(vec![byte; 4095]),
            executable_deleted: true,
            args: vec![vec![byte; 2000], vec![byte; 2000]],
            args_bytes: 1 << 21,
            args_cut: true,
            redacted: 1,
            working_directory: Some(vec![byte; 4095]),
            tty: None,
            ids: Some(Ids { real_uid: u32::MAX, effective_uid: 0, real_gid: 0 }),
            user: None,
            effective_user: None,
            login: None,
            cgroup: Some(vec![byte; 4095]),
            denied: Vec::new(),
            remembered: false,
        }
    }

    #[test]
    fn no_process_can_make_a_record_longer_than_16_kib() {
        let host = Host { name: "h".into(), boot_id: None, os: None, kernel: None, ticks_per_second: 100 };
        let new_id = Box::new(|_| uuid::Uuid::nil());
        let mut renderer = Renderer::new(host, "stream".into(), "run".into(), new_id);
        for byte in [b'a', b'\'', 0x01, 0xff] {
            let ancestry = (2..34).map(|pid| Arc::new(process(pid, byte))).collect();
            let lineage = Lineage { process: Arc::new(process(99, byte)), ancestry, cut: None, hash: None };
            let connection = Connection {
                id: uuid::Uuid::nil(),
                netns: Netns(1),
                inode: None,
                cookie: None,
                transport: Transport::Tcp,
                tuple: Tuple { local: "[::1]:1".parse().unwrap(), remote: "[::1]:22".parse().unwrap() },
                state: TcpState::Established,
                direction: Direction::Egress,
                way: None,
                uid: None,
                user: None,
                seen: Seen::Poll,
                opened: moment(),
                last_seen: moment(),
                attribution: Attribution::Owned {
                    lineage: Arc::new(lineage),
                    holders: vec![Holder { pid: 99, tid: None, fd: 3 }; 128].into(),
                    latency: Duration::MAX,
                },
            };
            let body = renderer.render(&Event { at: moment(), what: What::Opened(Arc::new(connection)) });
            let line = [&body.json[..], b"}}"].concat();
            assert!(line.len() + ENDING <= LONGEST, "{byte:x}: {}", line.len());
            let record: Value = serde_json::from_slice(&line).unwrap();
            assert!(record["portreeve"]["truncated"].is_array() && record["process"]["pid"] == 99);
        }
    }
}
