//! The state as JSON, and connections as records tell them, read back.

use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Live, Place, State};
use crate::connection::{Connection, Cookie, Direction, Inode, Moment, Netns, Seen, TcpState, Tuple};
use crate::event::{Host, ascii::unreadable, record::time};
use crate::process::{Attribution, Recorded, Told};
use crate::ssh::Route;
use crate::way::{Evidence, Kind, Origin, Way};

const VERSION: u64 = 1;
/// No line is longer.
const LONGEST: u64 = 64 * 1024;

/// Members of a record that are its own or the connection's; the others tell of the owner.
const NOT_THE_OWNERS: [&str; 11] = [
    "@timestamp",
    "message",
    "ecs",
    "agent",
    "host",
    "event",
    "chain",
    "source",
    "destination",
    "network",
    "portreeve",
];
/// The same of its `portreeve`.
const NOT_THE_OWNERS_EITHER: [&str; 6] = ["schema", "boottime_us", "connection", "changed", "close", "kept"];

/// Writes the state: a line for all of it, and one for each connection. There may be 50,000, so never all at once.
///
/// # Errors
/// As `out`.
pub fn write(state: &State, host: &Host, out: &mut impl Write) -> io::Result<()> {
    let head = json!({
        "portreeve_state": VERSION,
        "stream": state.stream,
        "sequence": state.sequence,
        "chain": String::from_utf8_lossy(&state.chain),
        "log": { "device": state.place.device, "inode": state.place.inode, "offset": state.place.offset },
        "at": moment(state.at),
        "boot": state.boot,
        "clean": state.is_clean,
        "last_id": state.last_id.to_string(),
        "seal": state.seal,
        "live": state.live.len(),
    });
    writeln!(out, "{head}")?;
    state.live.iter().try_for_each(|live| writeln!(out, "{}", kept(live, host)))
}

/// Reads such a file.
///
/// # Errors
/// If it is none, or not whole.
pub fn read(mut text: impl BufRead) -> io::Result<State> {
    let mut line = Vec::new();
    let mut next = || -> io::Result<Value> {
        line.clear();
        text.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        Ok(serde_json::from_slice(&line)?)
    };
    let head = next()?;
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no state: {what}"));
    if head.get("portreeve_state").and_then(Value::as_u64) != Some(VERSION) {
        return Err(wrong("version"));
    }
    let missing = || wrong("a member is missing or wrong");
    let mut state = state(&head).ok_or_else(missing)?;
    for _ in 0..head.get("live").and_then(Value::as_u64).ok_or_else(missing)? {
        state.live.push(read_live(next()?).ok_or_else(missing)?);
    }
    Ok(state)
}

fn state(value: &Value) -> Option<State> {
    let text = |name: &str| value.get(name)?.as_str();
    let log = value.get("log")?;
    // Nothing counts so far, and what is counted on from here must not overflow.
    let count = |value: &Value| value.as_u64().filter(|count| *count <= u64::MAX >> 1);
    let seal = value.get("seal").filter(|seal| !seal.is_null());
    Some(State {
        stream: text("stream")?.to_owned(),
        sequence: count(value.get("sequence")?)?,
        chain: text("chain")?.as_bytes().try_into().ok()?,
        place: Place {
            device: log.get("device")?.as_u64()?,
            inode: log.get("inode")?.as_u64()?,
            offset: log.get("offset")?.as_u64()?,
        },
        at: read_moment(value.get("at")?)?,
        boot: value.get("boot").and_then(Value::as_str).map(str::to_owned),
        is_clean: value.get("clean")?.as_bool()?,
        last_id: text("last_id")?.parse().ok()?,
        seal: seal.map(|seal| count(seal).ok_or(())).transpose().ok()?,
        live: Vec::new(),
    })
}

fn moment(at: Moment) -> Value {
    let boot = u64::try_from(at.boot.as_micros()).unwrap_or(u64::MAX);
    json!({ "time": time(at), "boottime_us": boot })
}

fn read_moment(value: &Value) -> Option<Moment> {
    let boot = Duration::from_micros(value.get("boottime_us")?.as_u64()?);
    Some(Moment { wall: value.get("time")?.as_str()?.parse().ok()?, boot })
}

fn kept(live: &Live, host: &Host) -> Value {
    let Live { connection, boot } = live;
    let mut members = host.kept(connection);
    let kept = json!({
        "opened": moment(connection.opened), "last_seen": moment(connection.last_seen), "boot": boot,
    });
    members.insert("kept".to_owned(), kept);
    Value::Object(members)
}

fn read_live(value: Value) -> Option<Live> {
    let Value::Object(mut members) = value else { return None };
    let kept = members.remove("kept")?;
    let (opened, last_seen) = (read_moment(kept.get("opened")?)?, read_moment(kept.get("last_seen")?)?);
    let boot = kept.get("boot").and_then(Value::as_str).map(str::to_owned);
    Some(Live { connection: Arc::new(connection(&members, opened, last_seen)?), boot })
}

/// A connection from a record about it. `opened`, `last_seen`: what the record does not tell.
pub fn connection(record: &Map<String, Value>, opened: Moment, last_seen: Moment) -> Option<Connection> {
    let own = record.get("portreeve")?.as_object()?;
    let known = own.get("connection")?;
    let number = |name: &str| known.get(name).and_then(Value::as_u64);
    let text = |name: &str| known.get(name).and_then(Value::as_str);
    let direction = record.get("network").and_then(|network| network.get("direction"));
    let direction = match direction.and_then(Value::as_str) {
        Some("ingress") => Direction::Ingress,
        _ => Direction::Egress,
    };
    let (local, remote) = (end(record.get("source")?)?, end(record.get("destination")?)?);
    let (local, remote) = if direction == Direction::Egress { (local, remote) } else { (remote, local) };
    let uid = record.get("user").and_then(|user| user.get("id")).and_then(Value::as_str);
    Some(Connection {
        id: text("id")?.parse().ok()?,
        netns: Netns(number("netns").unwrap_or(0)),
        inode: number("inode").and_then(Inode::new),
        cookie: text("cookie").and_then(|cookie| cookie.parse().ok()).and_then(Cookie::new),
        tuple: Tuple { local, remote },
        direction,
        state: TcpState::from_name(text("state")?)?,
        uid: uid.and_then(|uid| uid.parse().ok()),
        user: None,
        seen: Seen::from_name(text("seen")?)?,
        opened,
        last_seen,
        attribution: Attribution::Recorded(Arc::new(Recorded::new(&told(record, own)))),
        way: way(own).map(Arc::new),
    })
}

fn end(value: &Value) -> Option<SocketAddr> {
    let ip: IpAddr = value.get("ip")?.as_str()?.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(value.get("port")?.as_u64()?).ok()?))
}

fn told(record: &Map<String, Value>, own: &Map<String, Value>) -> Told {
    let but = |members: &Map<String, Value>, others: &[&str]| {
        let mut members = members.clone();
        members.retain(|name, _| !others.contains(&name.as_str()));
        members
    };
    let mut fields = but(record, &NOT_THE_OWNERS);
    // The name that its client was given for the other end: what is asked of a client is the owner's.
    if let Some(domain) = record.get("destination").and_then(|end| end.get("domain")) {
        fields.insert("destination".to_owned(), json!({ "domain": domain }));
    }
    Told { fields, own: but(own, &NOT_THE_OWNERS_EITHER) }
}

/// Where it came from, as far as the record tells it: what outlives its owner.
fn way(own: &Map<String, Value>) -> Option<Way> {
    let origin = own.get("origin")?;
    let text = |name: &str| origin.get(name).and_then(Value::as_str);
    let end = |ip: &str, port: &str| {
        let port = origin.get(port)?.as_u64()?;
        Some(SocketAddr::new(text(ip)?.parse().ok()?, u16::try_from(port).ok()?))
    };
    let inbound = end("local_ip", "local_port").zip(end("ip", "port"));
    let number = |name: &str| origin.get(name).and_then(Value::as_u64);
    let route = own.get("route").and_then(Value::as_str);
    let origin = Origin {
        kind: Kind::ALL.into_iter().find(|kind| Some(kind.name()) == text("kind"))?,
        evidence: Evidence::ALL.into_iter().find(|evidence| Some(evidence.name()) == text("evidence")),
        inbound: inbound.map(|(local, remote)| Tuple { local, remote }),
        user: text("user").map(unreadable),
        tty: text("tty").map(unreadable),
        session: text("session").map(str::to_owned),
        server: number("sshd_pid").and_then(|pid| u32::try_from(pid).ok()),
        connection: text("connection_id").and_then(|id| id.parse().ok()),
    };
    let route = Route::ALL.into_iter().find(|known| Some(known.name()) == route);
    let is_ssh = !matches!(route, Some(Route::Other | Route::ProxyCommand));
    Some(Way { origin: Arc::new(origin), route, ssh: None, is_ssh, listening: Vec::new() })
}

/// When a record's connection was opened: the record tells the wall clock of it, if at all.
pub fn opened(record: &Map<String, Value>, at: Moment) -> Moment {
    let start = record.get("event").and_then(|event| event.get("start")).and_then(Value::as_str);
    let Some(start) = start.and_then(|start| start.parse::<Timestamp>().ok()) else { return at };
    let age = Duration::try_from(at.wall.duration_since(start)).unwrap_or_default();
    Moment { wall: start, boot: at.boot.saturating_sub(age) }
}

/// When a record was made.
pub fn made(record: &Map<String, Value>) -> Option<Moment> {
    let boot = record.get("portreeve")?.get("boottime_us")?.as_u64()?;
    Some(Moment {
        wall: record.get("@timestamp")?.as_str()?.parse().ok()?,
        boot: Duration::from_micros(boot),
    })
}

/// A UUID in a member of a record.
pub fn id(value: Option<&Value>) -> Option<Uuid> {
    value?.as_str()?.parse().ok()
}
