//! What holds for every log, whatever happened: checked here by a reader that shares no code with the writer.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The records whose `event.action` is this.
pub fn with_action(records: &[Value], action: &str) -> Vec<Value> {
    records.iter().filter(|record| record["event"]["action"] == action).cloned().collect()
}

/// The gaps, but for those that only say that a watcher had no processor for a while: nothing is lost by that.
pub fn gaps_but_stalls(records: &[Value]) -> Vec<Value> {
    let mut gaps = with_action(records, "gap");
    gaps.retain(|gap| gap["portreeve"]["gap"]["cause"] != "stalled");
    gaps
}

/// The actions on connections, in order, without the frame of the run and without news of owners, which a busy machine
/// may tell apart from the open.
pub fn actions(records: &[Value]) -> Vec<&str> {
    let of_state = |record: &&Value| {
        let changed = record["portreeve"]["changed"].as_array();
        changed.is_none_or(|changed| changed.iter().any(|field| field == "portreeve.connection.state"))
    };
    let all = records.iter().filter(of_state).map(|record| record["event"]["action"].as_str().unwrap());
    all.filter(|action| action.starts_with("connection-")).collect()
}

/// The named fields of a record as one flat object, absent ones as null: what a test compares whole.
pub fn pick(record: &Value, fields: &[&str]) -> Value {
    let value = |field: &str| {
        record.pointer(&format!("/{}", field.replace('.', "/"))).cloned().unwrap_or(Value::Null)
    };
    Value::Object(fields.iter().map(|field| ((*field).to_owned(), value(field))).collect::<Map<_, _>>())
}

/// The fields of a record that `expected` names, so that both sides of a comparison have the same shape.
#[track_caller]
pub fn assert_fields(record: &Value, expected: &Value) {
    let fields: Vec<_> = expected.as_object().unwrap().keys().map(String::as_str).collect();
    let found = pick(record, &fields);
    assert!(&found == expected, "found {found:#}\nexpected {expected:#}\nin {}", summary(record));
}

/// Checks a whole log and gives its records: form, sequence, chain, and one story for each connection.
#[track_caller]
pub fn check(text: &[u8]) -> Vec<Value> {
    assert!(text.ends_with(b"\n"), "the last line is torn");
    let mut chain = "0".repeat(64);
    let mut records = Vec::new();
    for (line, number) in text.split_inclusive(|byte| *byte == b'\n').zip(1..) {
        let line = std::str::from_utf8(&line[..line.len() - 1]).expect("UTF-8");
        chain = check_line(line, number, &chain);
        records.push(serde_json::from_str(line).unwrap());
    }
    check_time(&records);
    check_stories(&records);
    records
}

/// The log's own time never runs backwards.
#[track_caller]
fn check_time(records: &[Value]) {
    let mut last = 0;
    for record in records {
        let at = record["portreeve"]["boottime_us"].as_u64().expect("a time since boot");
        assert!(at >= last, "{} us after a record of a later moment: {}", last - at, summary(record));
        last = at;
    }
}

/// Printable ASCII, one record, `sequence` and `chain` where a reader without a parser finds them.
#[track_caller]
pub fn check_line(line: &str, number: u64, previous: &str) -> String {
    assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "not printable ASCII: {line}");
    assert!(line.len() <= 16 * 1024, "{} bytes: {line}", line.len());
    let (body, tail) = line.rsplit_once(",\"chain\":").unwrap_or_else(|| panic!("no chain: {line}"));
    assert!(body.ends_with(&format!("\"sequence\":{number}}}")), "not sequence {number}: {line}");
    let digest = Sha256::new().chain_update(previous).chain_update(body).finalize();
    let expected: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(tail, format!("\"{expected}\"}}"), "chain broken at {line}");
    expected
}

/// One open, at most one close after it, changes only between.
#[track_caller]
fn check_stories(records: &[Value]) {
    let mut stories: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for record in records {
        let action = record["event"]["action"].as_str().expect("an action");
        if let Some(connection_action) = action.strip_prefix("connection-") {
            let id = record["portreeve"]["connection"]["id"].as_str().expect("a connection's id");
            stories.entry(id).or_default().push(connection_action);
        }
    }
    for (id, story) in stories {
        let inner: Vec<_> = story.iter().skip(1).take_while(|action| **action == "changed").collect();
        let rest = &story[1 + inner.len()..];
        assert!(story[0] == "opened" && (rest.is_empty() || rest == ["closed"]), "{id}: {story:?}");
    }
}

/// A record in a line that a failed test can show many of.
pub fn summary(record: &Value) -> String {
    let fields = [
        "event.sequence",
        "event.action",
        "portreeve.connection",
        "portreeve.attribution",
        "portreeve.changed",
    ];
    format!("{} {}\n", pick(record, &fields), record["message"])
}

/// The four ends of a connection as a record has them, from what sshd said.
pub fn tuple((from, from_port, to, to_port): &super::session::Addresses) -> Value {
    json!({ "source.ip": from, "source.port": from_port, "destination.ip": to, "destination.port": to_port })
}

/// Two flat objects as one.
pub fn with(mut fields: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("not an object: {more}") };
    fields.as_object_mut().unwrap().extend(more);
    fields
}
