//! What was written into the log behind the place that the state knows.
//!
//! A line that does not go on from the record before it, by number and chain, is none of the stream's: torn, or
//! somebody else's. It is passed over; `portreeve verify` judges it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Live, Place, State, saved};
use crate::sink;

/// As much of a line as is read: no record is longer.
const LONGEST: u64 = 64 * 1024;

/// What a run tells before it tells since when nobody watched.
const BEGINNING: [&str; 4] = ["log-opened", "log-repaired", "watch-started", "clock-stepped"];

/// Brings the state up to the end of the log at `path`, through files that were rotated meanwhile. Answers also how many
/// bytes of the log were cut off.
///
/// # Errors
/// Why it cannot be: what was written behind the state is gone.
pub fn replay(mut state: State, path: &Path) -> Result<(State, u64), String> {
    let mut live: HashMap<Uuid, Live> =
        std::mem::take(&mut state.live).into_iter().map(|live| (live.connection.id, live)).collect();
    let files = files_beside(path);
    let same = files.iter().find(|(_, place)| is_same(*place, state.place));
    let missing = same.map_or(0, |(file, _)| missing(&state, file));
    let mut next = place_in(&state, same, &files);
    // What ended cleanly left nothing behind its state.
    if next.is_none() && !state.is_clean && !went_on(&state, path) {
        next = next_file(&state, path);
        let Place { device, inode, .. } = state.place;
        match (&next, missing) {
            (Some(_), _) => {}
            (None, 0) => return Err(format!("the file that was written last ({device}:{inode}) is gone")),
            (None, bytes) => return Err(format!("{bytes} bytes of the log are missing, and maybe more")),
        }
    }
    let cut = if next.is_none() && state.is_clean { missing } else { 0 };
    while let Some((file, place)) = next {
        state.place = place;
        read(&mut state, &mut live, &file)?;
        next = next_file(&state, path);
    }
    if went_on(&state, path) {
        search(&mut state, &mut live, path)?;
    }
    state.live = live.into_values().collect();
    state.live.sort_unstable_by_key(|live| live.connection.id);
    Ok((state, cut))
}

/// Where the state's record stands: in the file that was written last; or in another, which is a copy of that.
fn place_in(
    state: &State,
    same: Option<&(PathBuf, Place)>,
    files: &[(PathBuf, Place)],
) -> Option<(PathBuf, Place)> {
    let offset = state.place.offset;
    // Nothing of the stream stands before the beginning of a file, or of the stream.
    let named = same.filter(|(file, _)| offset == 0 || state.sequence == 0 || stands(state, file));
    let found = named.or_else(|| files.iter().find(|(file, _)| offset > 0 && stands(state, file)));
    found.map(|(file, place)| (file.clone(), Place { offset, ..*place }))
}

/// True if the state's record ends at its place in this file: inodes are given again, and logs are cut.
fn stands(state: &State, file: &Path) -> bool {
    let ending = [b",\"chain\":\"", &state.chain[..], b"\"}\n"].concat();
    let last = || {
        let mut file = open(file).ok()?;
        file.seek(SeekFrom::Start(state.place.offset.checked_sub(ending.len() as u64)?)).ok()?;
        let mut last = vec![0; ending.len()];
        file.read_exact(&mut last).ok().map(|()| last)
    };
    last().is_some_and(|last| last == ending)
}

/// So many bytes of this file are gone. None of one that was made since and was given the same inode.
fn missing(state: &State, file: &Path) -> u64 {
    let Ok(meta) = std::fs::symlink_metadata(file) else { return 0 };
    let is_later = meta.created().ok().and_then(|made| jiff::Timestamp::try_from(made).ok());
    match is_later.is_some_and(|made| made > state.at.wall) {
        true => 0,
        false => state.place.offset.saturating_sub(meta.len()),
    }
}

/// True if a file ends with a later record of the stream: the log was copied, cut or put together since the state was
/// saved, or an older state was put back.
fn went_on(state: &State, path: &Path) -> bool {
    let last = |file: &Path| {
        let mut file = open(file).ok()?;
        let length = file.seek(SeekFrom::End(0)).ok()?;
        file.seek(SeekFrom::Start(length.saturating_sub(2 * LONGEST))).ok()?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail).ok()?;
        let lines = tail.split(|byte| *byte == b'\n').rev();
        lines.filter_map(|line| number_of(line, &state.stream)).take(8).max()
    };
    files_beside(path).iter().filter_map(|(file, _)| last(file)).any(|sequence| sequence > state.sequence)
}

/// The number of a record of this stream.
fn number_of(line: &[u8], stream: &str) -> Option<u64> {
    let record: Value = serde_json::from_slice(line).ok()?;
    let is_ours = record.get("agent")?.get("id")?.as_str()? == stream;
    record.get("event")?.get("sequence")?.as_u64().filter(|_| is_ours)
}

/// Looks for the records behind the state in whole files, as long as some are found.
fn search(state: &mut State, live: &mut HashMap<Uuid, Live>, path: &Path) -> Result<(), String> {
    loop {
        let before = state.sequence;
        for (file, place) in files_beside(path) {
            state.place = place;
            read(state, live, &file)?;
        }
        if !went_on(state, path) {
            return Ok(());
        }
        if state.sequence == before {
            return Err(format!("the log goes on behind record {before}, but not from it"));
        }
    }
}

fn is_same(one: Place, other: Place) -> bool {
    (one.device, one.inode) == (other.device, other.inode)
}

/// Files in the log's folder whose names begin as the log's does, itself first.
fn files_beside(path: &Path) -> Vec<(PathBuf, Place)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default();
    let mut files = vec![path.to_owned()];
    let stem = path.file_stem().unwrap_or(name);
    let others = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let begins = |other: &std::fs::DirEntry| {
        other.file_name().as_encoded_bytes().starts_with(stem.as_encoded_bytes()) && other.file_name() != name
    };
    files.extend(others.filter(begins).map(|other| other.path()));
    let placed = files.into_iter().filter_map(|file| {
        let meta = std::fs::symlink_metadata(&file).ok().filter(|meta| meta.is_file())?;
        Some((file, Place { device: meta.dev(), inode: meta.ino(), offset: 0 }))
    });
    placed.collect()
}

/// The file whose first record goes on from the state.
fn next_file(state: &State, path: &Path) -> Option<(PathBuf, Place)> {
    files_beside(path).into_iter().find(|(file, place)| {
        let first = || {
            let mut line = Vec::new();
            open(file).ok()?.take(LONGEST).read_until(b'\n', &mut line).ok()?;
            continues(&line, &state.stream, state.sequence, &state.chain).map(drop)
        };
        !is_same(*place, state.place) && first().is_some()
    })
}

fn open(path: &Path) -> io::Result<BufReader<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    Ok(BufReader::with_capacity(256 * 1024, file))
}

/// Takes every record behind the state's place that goes on from it.
fn read(state: &mut State, live: &mut HashMap<Uuid, Live>, path: &Path) -> Result<(), String> {
    read_lines(state, live, path).map_err(|e| format!("{}: {e}", path.display()))
}

fn read_lines(state: &mut State, live: &mut HashMap<Uuid, Live>, path: &Path) -> io::Result<()> {
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(state.place.offset))?;
    let mut offset = state.place.offset;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = file.by_ref().take(LONGEST).read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            return Ok(());
        }
        offset += length;
        if let Some((record, chain)) = continues(&line, &state.stream, state.sequence, &state.chain) {
            (state.sequence, state.chain, state.place.offset) = (state.sequence + 1, chain, offset);
            take(state, live, &record);
        }
    }
}

/// The record in a line and its chain, if it is a whole one that goes on from the place before it.
fn continues(
    line: &[u8],
    stream: &str,
    sequence: u64,
    chain: &[u8; 64],
) -> Option<(Map<String, Value>, [u8; 64])> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (hashed, tail) = line.rsplit_once(",\"chain\":\"")?;
    let told: [u8; 64] = tail.strip_suffix("\"}")?.as_bytes().try_into().ok()?;
    let record: Map<String, Value> = serde_json::from_str(line).ok()?;
    let (agent, event) = (record.get("agent")?, record.get("event")?);
    let is_next = event.get("sequence")?.as_u64()? == sequence.checked_add(1)?;
    let is_ours = agent.get("id")?.as_str()? == stream;
    let is_tied = sink::chain(chain, hashed.as_bytes()) == told;
    (is_next && is_ours && is_tied).then_some((record, told))
}

fn take(state: &mut State, live: &mut HashMap<Uuid, Live>, record: &Map<String, Value>) {
    let event = record.get("event");
    let action = event.and_then(|event| event.get("action")).and_then(Value::as_str).unwrap_or_default();
    let own = record.get("portreeve");
    let cause = own.and_then(|own| own.get("gap")).and_then(|gap| gap.get("cause")).and_then(Value::as_str);
    // A run that ended before it told since when nobody watched has not watched.
    if !BEGINNING.contains(&action) && cause != Some("log_truncated") {
        state.at = saved::made(record).unwrap_or(state.at);
        let boot = record.get("host").and_then(|host| host.get("boot")).and_then(|boot| boot.get("id"));
        state.boot = boot.and_then(Value::as_str).map(str::to_owned);
    }
    let id = saved::id(own.and_then(|own| own.get("connection")).and_then(|c| c.get("id")));
    let ids = [saved::id(event.and_then(|event| event.get("id"))), id];
    state.last_id = ids.into_iter().flatten().fold(state.last_id, std::cmp::max);
    match (action, id) {
        ("connection-opened" | "connection-changed", Some(id)) => {
            let opened = live.get(&id).map(|known| known.connection.opened);
            let opened = opened.unwrap_or_else(|| saved::opened(record, state.at));
            let boot = state.boot.clone();
            if let Some(connection) = saved::connection(record, opened, state.at) {
                live.insert(id, Live { connection: Arc::new(connection), boot });
            }
        }
        ("connection-closed", Some(id)) => drop(live.remove(&id)),
        ("seal", _) => {
            let epoch = own.and_then(|own| own.get("seal")).and_then(|seal| seal.get("epoch"));
            state.seal = epoch.and_then(Value::as_u64).or(state.seal);
            return;
        }
        _ => {}
    }
    state.is_clean = action == "watch-stopped";
}
