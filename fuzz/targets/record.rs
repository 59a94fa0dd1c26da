//! The writer of records: whatever processes claim to be, a record is one line of at most 16 KiB of printable ASCII,
//! JSON, with the process's claims unchanged in it and a message that no terminal obeys.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use portreeve::connection::{
    CloseReason, Connection, Cookie, Direction, Inode, Moment, Netns, Seen, TcpState, Transport, Tuple,
};
use portreeve::event::ascii::readable;
use portreeve::event::record::LONGEST;
use portreeve::event::{Bytes as Volume, Ending, Event, Host, Packets, Renderer, What};
use portreeve::process::{Attribution, ChainCut, Holder, Ids, Lineage, Login, Process, Reason, Tty};
use portreeve::sink::Stream;
use portreeve::ssh;
use portreeve::text::{Style, line};
use portreeve::way::{Kind, Origin, Way};
use serde_json::Value;
use uuid::Uuid;

use super::bytes::Bytes;
use super::{is_harmless, is_printable};

/// As deep as portreeve-events(5) allows.
const DEEPEST: usize = 8;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let host = Host {
        name: text(&mut bytes).chars().take(64).collect(),
        boot_id: bytes.maybe(|_| "5a3c1f0e-6a5b-4f0e-9d1c-0f2e4b6a8c1d".to_owned()),
        os: None,
        kernel: None,
        ticks_per_second: u64::from(bytes.u8()),
    };
    let ids = |at: Moment| Uuid::from_u64_pair(at.wall.as_second().cast_unsigned(), 1);
    let mut renderer = Renderer::new(host, "stream".to_owned(), "run".to_owned(), Box::new(ids));
    let mut stream = Stream::default();
    for _ in 0..2 {
        let event = event(&mut bytes);
        let body = renderer.render(&event);
        let sealed = stream.seal(&body.json);
        stream.commit(&sealed);
        let record = record_of(&sealed.line);
        assert!(is_harmless(&body.message), "{:?}", body.message);
        let style = Style { zone: TimeZone::UTC, utc: true, color: false, width: None };
        assert!(line(body.at.wall, &body.message, &style).ends_with(&aligned_end(&body.message)));
        if let Some(connection) = event.what.connection() {
            agrees(&record, connection);
        }
    }
}

/// The last column of a message, which alignment does not touch.
fn aligned_end(message: &str) -> String {
    message.rsplit("  ").next().unwrap_or_default().to_owned()
}

fn record_of(line: &[u8]) -> Value {
    assert!(line.len() <= LONGEST, "{} bytes", line.len());
    let line = line.strip_suffix(b"\n").expect("a line's end");
    assert!(is_printable(line), "{}", line.escape_ascii());
    let record: Value = serde_json::from_slice(line).expect("JSON");
    assert!(is_harmless(record["message"].as_str().expect("a message")));
    assert!(depth(&record) <= DEEPEST);
    assert_eq!(record["chain"].as_str().map(str::len), Some(64));
    assert!(record["event"]["sequence"].is_u64());
    record
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What was given is what is told, unless the record says that it was cut.
fn agrees(record: &Value, connection: &Connection) {
    assert_eq!(record["portreeve"]["connection"]["id"], connection.id.to_string());
    assert_eq!(record["destination"]["port"], connection.tuple.remote.port());
    let Some(owner) = connection.attribution.owner() else { return };
    assert_eq!(record["process"]["pid"], owner.pid);
    assert_eq!(record["process"]["name"], *readable(&owner.comm));
    assert_eq!(record["process"]["args_count"], owner.args.len());
    if record["portreeve"]["truncated"].is_null() {
        let args: Vec<_> = owner.args.iter().map(|arg| readable(arg)).collect();
        assert_eq!(record["process"]["args"], Value::from(args));
        if let Some(executable) = &owner.executable {
            assert_eq!(record["process"]["executable"], *readable(executable));
        }
    }
}

fn event(bytes: &mut Bytes<'_>) -> Event {
    let at = moment(bytes);
    let what = match bytes.u8() % 5 {
        0 => return Event::gap(at, "read_failed", text(bytes)),
        1 => What::Reloaded {
            outcome: Err(text(bytes)),
            settings: serde_json::Map::new(),
            events: Default::default(),
        },
        2 => {
            let connection = Arc::new(connection(bytes));
            What::Closed { connection, ending: ending(bytes) }
        }
        3 => What::Changed {
            connection: Arc::new(connection(bytes)),
            changed: vec!["portreeve.connection.state"],
        },
        _ => What::Opened(Arc::new(connection(bytes))),
    };
    Event { at, what }
}

fn text(bytes: &mut Bytes<'_>) -> String {
    String::from_utf8_lossy(&bytes.text()).into_owned()
}

fn name(bytes: &mut Bytes<'_>) -> Arc<str> {
    // Of a user: root gives these, and useradd(8) takes 32 characters at most.
    let text: String = text(bytes).chars().take(32).collect();
    text.into()
}

fn moment(bytes: &mut Bytes<'_>) -> Moment {
    let wall =
        Timestamp::new(i64::from(bytes.u32()), i32::from(bytes.u16())).expect("within four billion seconds");
    Moment { wall, boot: Duration::from_nanos(bytes.u64()) }
}

fn ending(bytes: &mut Bytes<'_>) -> Ending {
    Ending {
        reason: if bytes.bool() { CloseReason::Closed } else { CloseReason::TimedOut },
        success: bytes.maybe(Bytes::bool),
        last_seen: bytes.maybe(moment),
        gone_by: moment(bytes),
        exact: bytes.bool(),
        bytes: bytes.maybe(|bytes| Volume {
            sent: bytes.maybe(Bytes::u64),
            received: bytes.u64(),
            exact: bytes.bool(),
            packets: bytes.maybe(|bytes| Packets { sent: bytes.u64(), received: bytes.u64() }),
        }),
    }
}

fn connection(bytes: &mut Bytes<'_>) -> Connection {
    let end = |bytes: &mut Bytes<'_>| {
        let ip = match bytes.bool() {
            true => IpAddr::from(bytes.u32().to_be_bytes()),
            false => IpAddr::from(
                [bytes.u64(), bytes.u64()]
                    .map(u64::to_be_bytes)
                    .concat()
                    .try_into()
                    .map_or([0; 16], |ip: [u8; 16]| ip),
            ),
        };
        SocketAddr::new(ip, bytes.u16())
    };
    let mut connection = Connection {
        id: Uuid::from_u64_pair(bytes.u64(), bytes.u64()),
        netns: Netns(bytes.u64()),
        inode: Inode::new(bytes.u64()),
        cookie: Cookie::new(bytes.u64()),
        transport: Transport::Tcp,
        tuple: Tuple { local: end(bytes), remote: end(bytes) },
        state: TcpState::from_number(bytes.u8()),
        uid: bytes.maybe(Bytes::u32),
        user: bytes.maybe(name),
        seen: [Seen::Poll, Seen::Start, Seen::TimeWait, Seen::Syn, Seen::Destroy]
            [usize::from(bytes.u8() % 5)],
        opened: moment(bytes),
        last_seen: moment(bytes),
        attribution: attribution(bytes),
        direction: Direction::Egress,
        way: None,
    };
    connection.way = way(&connection).map(Arc::new);
    connection
}

/// What the owner's claims mean, with its name as that of a login.
fn way(connection: &Connection) -> Option<Way> {
    let Attribution::Owned { lineage, .. } = &connection.attribution else { return None };
    let (process, ancestry) = (&lineage.process, &lineage.ancestry);
    let claim = Some(process.comm.clone());
    let inbound = Some(connection.tuple);
    let origin = Origin { kind: Kind::Ssh, inbound, user: claim.clone(), tty: claim, ..Origin::default() };
    Some(Way {
        origin: Arc::new(origin),
        route: Some(ssh::route(process, ancestry)),
        ssh: ssh::meaning(process, ancestry).map(Arc::new),
        is_ssh: ssh::is_client(process),
        listening: vec![connection.tuple.local; 3],
    })
}

fn attribution(bytes: &mut Bytes<'_>) -> Attribution {
    if bytes.u8() == u8::MAX {
        return Attribution::Unknown(Reason::NoHolder);
    }
    let lineage = Lineage {
        process: Arc::new(process(bytes)),
        ancestry: bytes.list(32, |bytes| Arc::new(process(bytes))),
        cut: bytes.maybe(|_| ChainCut::TooLong),
        hash: None,
    };
    let holder =
        |bytes: &mut Bytes<'_>| Holder { pid: bytes.u32(), tid: bytes.maybe(Bytes::u32), fd: bytes.u32() };
    Attribution::Owned {
        lineage: Arc::new(lineage),
        holders: bytes.list(128, holder).into(),
        latency: Duration::from_nanos(bytes.u64()),
    }
}

/// As the reader of `/proc` makes one: at most 15 bytes of name and 4 KiB of paths and arguments.
fn process(bytes: &mut Bytes<'_>) -> Process {
    let path = |bytes: &mut Bytes<'_>| bytes.text().into_iter().take(4096).collect::<Vec<u8>>();
    let mut args = bytes.list(255, |bytes| path(bytes));
    let mut room = 4096;
    args.retain_mut(|arg| {
        arg.truncate(room);
        room = room.saturating_sub(arg.len() + 1);
        room > 0
    });
    Process {
        pid: bytes.u32(),
        ppid: bytes.u32(),
        start_ticks: bytes.u64(),
        pidfd_inode: bytes.maybe(Bytes::u64),
        comm: bytes.text().into_iter().take(15).collect(),
        executable: bytes.maybe(path),
        executable_deleted: bytes.bool(),
        args_bytes: bytes.u64(),
        args_cut: bytes.bool(),
        redacted: bytes.u32(),
        working_directory: bytes.maybe(path),
        tty: bytes.maybe(|bytes| Tty { major: bytes.u32(), minor: bytes.u32() }),
        ids: bytes.maybe(|bytes| Ids {
            real_uid: bytes.u32(),
            effective_uid: bytes.u32(),
            real_gid: bytes.u32(),
        }),
        user: bytes.maybe(name),
        effective_user: bytes.maybe(name),
        login: bytes.maybe(|bytes| Login { uid: bytes.u32(), user: bytes.maybe(name), session: None }),
        cgroup: bytes.maybe(path),
        denied: bytes.maybe(|_| vec!["exe"]).unwrap_or_default(),
        remembered: bytes.bool(),
        args,
    }
}
