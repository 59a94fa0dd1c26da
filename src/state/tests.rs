//! What is saved is read back, and a log is read from where the state ends.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use uuid::{ContextV7, Timestamp, Uuid};

use super::*;
use crate::connection::{CloseReason, Cookie, Direction, Inode, Netns, Seen, TcpState, Tuple};
use crate::event::{Ending, Event, Host, Renderer, What};
use crate::process::{Attribution, Reason};
use crate::sink::{GENESIS, Stream};

const STREAM: &str = "01a1fa90-0000-7000-8000-000000000001";

fn at(second: u64) -> Moment {
    let wall = jiff::Timestamp::from_second(1_800_000_000 + i64::try_from(second).unwrap()).unwrap();
    Moment { wall, boot: Duration::from_secs(1_000 + second) }
}

fn host() -> Host {
    Host { name: "h".into(), boot_id: Some("boot-1".into()), os: None, kernel: None, ticks_per_second: 100 }
}

fn connection(second: u64) -> Arc<Connection> {
    let id = Uuid::new_v7(Timestamp::from_unix(ContextV7::new(), 1_800_000_000 + second, 0));
    Arc::new(Connection {
        id,
        netns: Netns(7),
        inode: Inode::new(100 + second),
        cookie: Cookie::new(200 + second),
        tuple: Tuple {
            local: "[2001:db8::1]:40000".parse().unwrap(),
            remote: "192.0.2.7:22".parse().unwrap(),
        },
        state: TcpState::Established,
        uid: Some(1_000),
        user: Some("alice".into()),
        seen: Seen::Poll,
        opened: at(second),
        last_seen: at(second),
        attribution: Attribution::Unknown(Reason::Denied),
        way: None,
        direction: Direction::Egress,
    })
}

fn close(connection: &Arc<Connection>, second: u64) -> Event {
    let ending = Ending {
        reason: CloseReason::Closed,
        success: Some(true),
        last_seen: None,
        gone_by: at(second),
        exact: false,
        bytes: None,
    };
    Event { at: at(second), what: What::Closed { connection: Arc::clone(connection), ending } }
}

fn open(connection: &Arc<Connection>, second: u64) -> Event {
    Event { at: at(second), what: What::Opened(Arc::clone(connection)) }
}

/// A log that grows.
struct Writer {
    renderer: Renderer,
    stream: Stream,
}

impl Writer {
    fn new() -> Self {
        let new_id = Box::new(|_| Uuid::nil());
        let renderer = Renderer::new(host(), STREAM.into(), "run".into(), new_id);
        Self { renderer, stream: Stream::default() }
    }

    fn write(&mut self, path: &Path, events: &[Event]) {
        let mut text = fs::read(path).unwrap_or_default();
        for event in events {
            let sealed = self.stream.seal(&self.renderer.render(event).json);
            text.extend_from_slice(&sealed.line);
            self.stream.commit(&sealed);
        }
        fs::write(path, text).unwrap();
    }
}

fn state(path: &Path, live: &[&Arc<Connection>], writer: &Writer) -> State {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).unwrap();
    let (sequence, chain) = writer.stream.place();
    let live = live.iter().map(|c| Live { connection: Arc::clone(c), boot: Some("boot-1".into()) });
    State {
        stream: STREAM.into(),
        sequence,
        chain,
        place: Place { device: meta.dev(), inode: meta.ino(), offset: meta.len() },
        at: at(5),
        boot: Some("boot-1".into()),
        is_clean: false,
        last_id: Uuid::nil(),
        seal: None,
        live: live.collect(),
    }
}

fn known(past: Past) -> State {
    match past {
        Past::Known { state, .. } => *state,
        other => panic!("{other:?}"),
    }
}

fn ids(state: &State) -> Vec<Uuid> {
    state.live.iter().map(|live| live.connection.id).collect()
}

#[test]
fn what_is_open_is_the_state_and_what_the_log_says_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut folder = Folder::open(&dir.path().join("state")).unwrap();
    assert!(matches!(folder.past(&log), Past::None));
    let (one, two, three) = (connection(1), connection(2), connection(3));
    let mut writer = Writer::new();
    writer.write(&log, &[open(&one, 1), open(&two, 2)]);
    assert!(matches!(folder.past(&log), Past::Lost(why) if why.contains("no state")));
    folder.save(&state(&log, &[&one, &two], &writer), &host()).unwrap();
    writer.write(&log, &[close(&one, 6), open(&three, 7)]);
    let found = known(folder.past(&log));
    assert_eq!((ids(&found), found.sequence), (vec![two.id, three.id], 4));
    assert_eq!((found.at, found.last_id), (at(7), three.id));

    // Rotated twice, and torn at the end: the lines that go on are found, the torn one is nobody's.
    fs::rename(&log, dir.path().join("log.jsonl.1")).unwrap();
    writer.write(&log, &[close(&two, 8)]);
    fs::rename(&log, dir.path().join("log.jsonl-20261120")).unwrap();
    writer.write(&log, &[close(&three, 9)]);
    fs::OpenOptions::new()
        .append(true)
        .open(&log)
        .and_then(|mut f| std::io::Write::write_all(&mut f, b"{\"torn"))
        .unwrap();
    let found = known(folder.past(&log));
    assert_eq!((ids(&found), found.sequence), (vec![], 6));
}

#[test]
fn a_restored_connection_is_told_again_to_the_letter() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut folder = Folder::open(&dir.path().join("state")).unwrap();
    let one = connection(1);
    let mut writer = Writer::new();
    writer.write(&log, &[close(&connection(2), 1), open(&one, 1)]);
    for live in [&[&one][..], &[]] {
        let mut saved = state(&log, live, &writer);
        if live.is_empty() {
            // Then the log alone tells of it.
            (saved.place.offset, saved.sequence, saved.chain) = (0, 0, GENESIS);
        }
        folder.save(&saved, &host()).unwrap();
        let found = known(folder.past(&log)).live.remove(0).connection;
        let mut renderer = Writer::new().renderer;
        let mut tell = |connection: &Arc<Connection>| -> Value {
            let mut json = renderer.render(&close(connection, 9)).json;
            json.extend_from_slice(b"}}");
            serde_json::from_slice(&json).unwrap()
        };
        let (mut first, again) = (tell(&one), tell(&found));
        // The state's reader does not ask for names, so they are what the record has.
        assert_eq!(first["event"].as_object_mut().unwrap().remove("id"), again["event"].get("id").cloned());
        first["event"]["id"] = again["event"]["id"].clone();
        assert_eq!(first, again);
        assert_eq!((found.opened, found.last_seen), (at(1), at(1)));
    }
}

#[test]
fn a_folder_is_one_watchers_alone_and_a_broken_state_is_no_state() {
    let dir = tempfile::tempdir().unwrap();
    let (log, path) = (dir.path().join("log"), dir.path().join("state"));
    let folder = Folder::open(&path).unwrap();
    let refused = Folder::open(&path).unwrap_err();
    assert!(refused.to_string().contains(&format!("(pid {})", std::process::id())), "{refused}");
    for text in ["", "{}", "{\"portreeve_state\":2}", "[[[", "\u{0}"] {
        fs::write(path.join("state.json"), text).unwrap();
        assert!(matches!(folder.past(&log), Past::Lost(_)), "{text:?}");
    }
    drop(folder);
    Folder::open(&path).unwrap();
}

#[test]
fn a_log_that_is_gone_cannot_be_gone_on_from_unless_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let mut folder = Folder::open(&dir.path().join("state")).unwrap();
    let mut writer = Writer::new();
    writer.write(&log, &[open(&connection(1), 1)]);
    let mut saved = state(&log, &[], &writer);
    fs::rename(&log, dir.path().join("elsewhere")).unwrap();
    folder.save(&saved, &host()).unwrap();
    assert!(matches!(folder.past(&log), Past::Lost(why) if why.contains("is gone")));
    saved.is_clean = true;
    folder.save(&saved, &host()).unwrap();
    assert_eq!(known(folder.past(&log)).sequence, 1);
}
