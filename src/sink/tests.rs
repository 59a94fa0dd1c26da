//! A destination that fails and heals.

#![expect(clippy::disallowed_methods, reason = "the test reads the log")]

use std::fs;
use std::path::Path;

use super::*;
use crate::event::Host;

fn at(second: i64) -> Moment {
    let boot = std::time::Duration::from_secs(1_000 + second.cast_unsigned());
    Moment { wall: jiff::Timestamp::from_second(1_800_000_000 + second).unwrap(), boot }
}

fn event(second: i64, size: usize) -> Event {
    let detail = Some("x".repeat(size));
    let gap =
        Gap { cause: "test", from: at(second), to: at(second), count: None, detail, lost: BTreeMap::new() };
    Event { at: at(second), what: What::Gap(Box::new(gap)) }
}

fn sink(path: &Path) -> Sink {
    let host = Host { name: "h".into(), boot_id: None, os: None, kernel: None, ticks_per_second: 100 };
    let renderer = Renderer::new(host, "stream".into(), "run".into(), Box::new(|_| uuid::Uuid::nil()));
    Sink::new(renderer, Stream::default(), Format::Json, Destination::File(LogFile::open(path).unwrap()))
}

/// Sequence, action and gap of each record, and the chain checked on the way.
fn read(path: &Path) -> Vec<(u64, String, serde_json::Value)> {
    use sha2::{Digest, Sha256};
    let mut chain = String::from_utf8(GENESIS.to_vec()).unwrap();
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    let parse = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let hashed = &line[..line.rfind(",\"chain\":").unwrap()];
        chain = format!("{:x}", Sha256::digest([chain.as_bytes(), hashed.as_bytes()].concat()));
        assert_eq!(record["chain"], chain.as_str());
        let action = record["event"]["action"].as_str().unwrap().to_owned();
        (record["event"]["sequence"].as_u64().unwrap(), action, record["portreeve"]["gap"].clone())
    };
    text.lines().map(parse).collect()
}

#[test]
fn a_file_begins_with_the_record_of_its_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut sink = sink(&path);
    sink.push(&event(1, 1));
    sink.flush(at(1)).unwrap();
    let actions: Vec<_> = read(&path).into_iter().map(|(n, action, _)| (n, action)).collect();
    assert_eq!(actions, [(1, "log-opened".into()), (2, "gap".into())]);
}

#[test]
fn what_memory_can_hold_is_written_late_and_the_rest_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("log");
    let mut sink = sink(&path);
    sink.flush(at(0)).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let told = 3_000;
    for second in 0..told {
        sink.push(&event(second, 1_000));
        sink.flush(at(second)).unwrap();
    }
    let lost = sink.lost();
    assert!(lost > 0 && lost < told.cast_unsigned() && !sink.is_idle(), "{lost}");
    fs::create_dir(&folder).unwrap();
    sink.flush(at(told)).unwrap();
    assert!(sink.is_idle());
    let records = read(&path);
    let kept = told.cast_unsigned() - lost;
    assert!(
        records.iter().map(|(n, ..)| *n).eq(1..=kept + 2),
        "no hole: the opening, what was kept, the gap"
    );
    let (_, action, gap) = records.last().unwrap();
    assert_eq!(
        (action.as_str(), &gap["cause"], &gap["count"]),
        ("gap", &"backlog_full".into(), &lost.into())
    );
    assert!(gap["detail"].as_str().unwrap().contains("log"), "{gap}");
}
