//! The state file and the log behind it: no text is taken for a state that cannot be gone on from, what is gone on with
//! can be told and saved, and what was saved is found again.
//!
//! The first line is the state; each further one the beginning of a record, which gets its number and chain here.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portreeve::connection::{CloseReason, Moment};
use portreeve::event::record::LONGEST;
use portreeve::event::{Ending, Event, Host, Renderer, What};
use portreeve::sink::{GENESIS, Stream};
use portreeve::state::{Folder, Past, State};
use serde_json::Value;
use uuid::Uuid;

use super::folder::Folder as Temporary;
use super::is_printable;

pub fn run(data: &[u8]) {
    let place = Temporary::new();
    let mut folder = Folder::open(&place.0.join("state")).expect("a folder of our own");
    let mut lines = data.split_inclusive(|byte| *byte == b'\n');
    let head = lines.next().unwrap_or_default();
    let value: Value = serde_json::from_slice(head).unwrap_or_default();
    let connections = usize::try_from(value["live"].as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
    let state = lines.by_ref().take(connections).fold(head.to_vec(), |state, line| [&state, line].concat());
    let log = place.0.join("log");
    fs::write(place.0.join("state/state.json"), state).unwrap();
    fs::write(&log, behind(&value, lines.map(<[u8]>::trim_ascii_end))).unwrap();
    let Past::Known { state: found, .. } = folder.past(&log) else { return };
    tell(&found);
    keeps(&mut folder, &log, &found);
}

/// These beginnings of records as a log that goes on from the state.
fn behind<'a>(state: &Value, bodies: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let chain = state["chain"].as_str().and_then(|chain| chain.as_bytes().try_into().ok()).unwrap_or(GENESIS);
    let sequence = state["sequence"].as_u64().filter(|sequence| *sequence < u64::MAX - 10_000).unwrap_or(0);
    let mut stream = Stream::resume(sequence, chain);
    let mut log = Vec::new();
    for body in bodies.filter(|body| !body.is_empty()) {
        let sealed = stream.seal(body);
        stream.commit(&sealed);
        log.extend_from_slice(&sealed.line);
    }
    log
}

fn host() -> Host {
    Host { name: "h".into(), boot_id: None, os: None, kernel: None, ticks_per_second: 100 }
}

/// The close of everything that is open.
fn tell(state: &State) {
    let mut renderer = Renderer::new(host(), state.stream.clone(), "run".into(), Box::new(|_| Uuid::nil()));
    let mut stream = Stream::resume(state.sequence, state.chain);
    let at = Moment { wall: Timestamp::UNIX_EPOCH, boot: Duration::from_secs(1) };
    for live in &state.live {
        let ending = Ending {
            reason: CloseReason::Closed,
            success: Some(true),
            last_seen: None,
            gone_by: at,
            exact: false,
            bytes: None,
        };
        let what = What::Closed { connection: Arc::clone(&live.connection), ending };
        let sealed = stream.seal(&renderer.render(&Event { at, what }).json);
        stream.commit(&sealed);
        let line = sealed.line.strip_suffix(b"\n").unwrap();
        assert!(is_printable(line) && line.len() < LONGEST, "{} bytes", line.len());
        let record: Value = serde_json::from_slice(line).expect("JSON");
        assert_eq!(record["portreeve"]["connection"]["id"], live.connection.id.to_string());
        assert_eq!(record["event"]["action"], "connection-closed");
    }
}

/// A state that stands in its log and is saved is the same when it is found again.
fn keeps(folder: &mut Folder, log: &Path, state: &State) {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(log).unwrap();
    if (state.place.device, state.place.inode) != (meta.dev(), meta.ino()) {
        return;
    }
    folder.save(state, &host()).expect("room on the disk");
    let Past::Known { state: again, .. } = folder.past(log) else {
        panic!("what was saved is not found again")
    };
    let ids = |state: &State| state.live.iter().map(|live| live.connection.id).collect::<Vec<_>>();
    assert_eq!((ids(&again), again.sequence, again.chain), (ids(state), state.sequence, state.chain));
    assert_eq!((again.seal, again.last_id, again.is_clean), (state.seal, state.last_id, state.is_clean));
}
