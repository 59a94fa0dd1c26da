//! For each rule one change of the story that breaks this rule and no other.

use std::collections::BTreeSet;

use portreeve::verify::{Options, Secret};
use serde_json::{Value, json};

use crate::builder::{File, Line, Writer, hex, put, remove, time, uuid};
use crate::check;
use crate::story::{Turns, story};

/// A log and how it is checked.
pub struct Case {
    pub files: Vec<File>,
    pub writer: Writer,
    pub options: Options,
    /// Done to the files once they are written.
    after: Option<fn(&mut Vec<Vec<u8>>)>,
}

impl Case {
    pub fn new(turns: Turns) -> Self {
        let files = story(turns);
        let writer = Writer::new();
        let secret = Secret::parse(hex(&writer.secret).as_bytes());
        let expect_live = Some(last_seal(&files) + 60_000_000);
        Self { files, writer, options: Options { secret, expect_live, ..Options::default() }, after: None }
    }

    /// The records of a kind, in order.
    fn all(&mut self, action: &str) -> Vec<&mut Value> {
        let lines = self.files.iter_mut().flatten();
        let records = lines.filter_map(|line| match line {
            Line::Record(value) => Some(value),
            Line::Raw(_) => None,
        });
        records.filter(|value| value["event"]["action"] == action).collect()
    }

    fn nth(&mut self, action: &str, index: usize) -> &mut Value {
        self.all(action).swap_remove(index)
    }

    fn set(&mut self, action: &str, index: usize, path: &str, new: Value) {
        put(self.nth(action, index), path, new);
    }

    fn add(&mut self, action: &str, index: usize, path: &str, more: i64) {
        let value = self.nth(action, index).pointer_mut(&format!("/{}", path.replace('.', "/"))).unwrap();
        *value = json!(value.as_i64().unwrap() + more);
    }

    /// Puts a record behind another one.
    fn insert(&mut self, file: usize, at: usize, line: Line) {
        self.files[file].insert(at, line);
    }

    pub fn rules(mut self) -> BTreeSet<String> {
        let mut files = self.writer.write(&self.files);
        if let Some(after) = self.after {
            after(&mut files);
        }
        check(&files, self.options)
    }
}

/// When the last seal was made.
fn last_seal(files: &[File]) -> i64 {
    let mut times = files.iter().flatten().filter_map(|line| match line {
        Line::Record(record) => record["portreeve"]["seal"]["time"].as_str(),
        Line::Raw(_) => None,
    });
    times.next_back().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

/// Where lines of the first file stand.
const OPEN_A: usize = 2;
const OPEN_B: usize = 3;
const CLOSE_C: usize = 6;
const RELOAD: usize = 9;

type Mutation = fn(&mut Case);

/// The mutants, by the rule that they break.
pub const MUTANTS: [(u8, Mutation); 46] = [
    (1, |case| case.after = Some(|files| files[0].extend_from_slice(b"{\"torn"))),
    (2, |case| case.set("gap", 0, "message", json!("caf\u{e9}"))),
    (3, |case| case.set("gap", 0, "message", json!("x".repeat(16_000)))),
    (4, |case| case.insert(0, OPEN_A, Line::Raw(b"{\"a\":{\"b\":1,\"c\":2,\"b\":3}}\n".to_vec()))),
    (5, |case| case.set("gap", 0, "portreeve.gap.colour", json!("blue"))),
    (6, |case| case.after = Some(|files| chain_first(files))),
    (7, |case| case.after = Some(|files| repeat_line(&mut files[0], OPEN_A))),
    (8, |case| case.writer.skip = vec![RELOAD as u64 + 1]),
    (9, |case| {
        case.set(
            "log-opened",
            1,
            "portreeve.log.continues",
            json!({ "sequence": 15, "chain": "b".repeat(64) }),
        )
    }),
    (10, |case| case.after = Some(|files| files.push(files[0].clone()))),
    (11, |case| case.set("watch-started", 1, "portreeve.watch.stream", json!("lost"))),
    (12, |case| case.files[1].retain(|line| !is_second_start(line))),
    (13, |case| {
        let run = case.nth("watch-started", 0)["agent"]["ephemeral_id"].clone();
        case.set("connection-opened", 5, "agent.ephemeral_id", run);
    }),
    (14, |case| {
        let mut line = case.files[0][0].clone();
        if let Line::Record(value) = &mut line {
            let stop = case.nth("seal", 3).clone();
            *value = case.nth("gap", 0).clone();
            for path in ["@timestamp", "portreeve/boottime_us", "event/id"] {
                *value.pointer_mut(&format!("/{path}")).unwrap() =
                    stop.pointer(&format!("/{path}")).unwrap().clone();
            }
        }
        case.insert(1, 6, line);
    }),
    (15, |case| case.set("watch-started", 1, "portreeve.watch.previous_end", json!("unclean"))),
    (16, |case| remove(case.nth("watch-started", 2), "portreeve.watch.capabilities")),
    (17, |case| case.set("coverage", 0, "host.name", json!("another.example"))),
    (18, |case| case.add("watch-reloaded", 0, "portreeve.boottime_us", -10_000_000)),
    (19, |case| {
        let id = |case: &mut Case, index| {
            case.nth("connection-opened", index)["portreeve"]["connection"]["id"].clone()
        };
        let (a, b) = (id(case, 0), id(case, 1));
        for action in ["connection-opened", "connection-changed", "connection-closed"] {
            for value in case.all(action) {
                let place = &mut value["portreeve"]["connection"]["id"];
                *place = if *place == a {
                    b.clone()
                } else if *place == b {
                    a.clone()
                } else {
                    place.clone()
                };
            }
        }
    }),
    (20, |case| case.set("watch-reloaded", 0, "event.id", json!(uuid(1_000.0, 1)))),
    (21, |case| {
        let at =
            case.nth("watch-reloaded", 0)["@timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let at = at - jiff::SignedDuration::from_secs(5);
        case.set("watch-reloaded", 0, "@timestamp", json!(format!("{at:.6}")));
    }),
    (22, |case| *case = Case::new(Turns { silence: 100.0 })),
    (23, |case| case.set("gap", 0, "portreeve.gap.from", json!(time(1_000.0)))),
    (24, |case| {
        let again = case.files[0][OPEN_A].clone();
        case.insert(0, OPEN_B, again);
        case.add("coverage", 0, "portreeve.coverage.opens", 1);
        case.add("watch-stopped", 0, "portreeve.watch.totals.opens", 1);
    }),
    (25, |case| {
        let again = case.files[0][CLOSE_C].clone();
        case.insert(0, CLOSE_C, again);
        case.add("coverage", 0, "portreeve.coverage.closes", 1);
        case.add("watch-stopped", 0, "portreeve.watch.totals.closes", 1);
    }),
    (26, |case| {
        let mut late = case.nth("connection-changed", 0).clone();
        let id = case.nth("connection-opened", 2)["portreeve"]["connection"]["id"].clone();
        put(&mut late, "portreeve.connection.id", id);
        let closed = case.nth("connection-closed", 0).clone();
        for path in ["@timestamp", "portreeve/boottime_us"] {
            *late.pointer_mut(&format!("/{path}")).unwrap() =
                closed.pointer(&format!("/{path}")).unwrap().clone();
        }
        case.insert(0, CLOSE_C + 1, Line::Record(late));
    }),
    (27, |case| {
        // While the first is open.
        for action in ["connection-opened", "connection-closed"] {
            let index = if action == "connection-opened" { 2 } else { 0 };
            case.set(action, index, "source.port", json!(50_001));
        }
    }),
    (28, |case| {
        for (action, index) in [("connection-opened", 3), ("connection-closed", 1)] {
            case.set(action, index, "event.start", json!(time(3.5)));
        }
    }),
    (29, |case| {
        for (action, index) in [("connection-opened", 3), ("connection-closed", 1)] {
            case.set(action, index, "destination.port", json!(2222));
        }
    }),
    (30, |case| close_with(case, 0, "while_down")),
    (31, |case| close_with(case, 4, "closed")),
    (32, |case| case.add("connection-closed", 0, "event.duration", 10_000_000_000)),
    (33, |case| case.set("connection-closed", 0, "portreeve.close.last_seen", json!(time(20.0)))),
    (34, |case| case.set("connection-opened", 0, "portreeve.attribution.reason", json!("denied"))),
    (35, |case| remove(case.nth("connection-opened", 0), "portreeve.connection.inode")),
    (36, |case| case.set("connection-closed", 0, "event.outcome", json!("unknown"))),
    (37, |case| case.nth("connection-opened", 0)["portreeve"]["ancestry"][1]["pid"] = json!(4242)),
    (38, |case| case.add("coverage", 1, "portreeve.coverage.live", 1)),
    (39, |case| case.add("coverage", 1, "portreeve.coverage.opens", 1)),
    (40, |case| case.add("watch-stopped", 0, "portreeve.watch.totals.opens", 1)),
    (41, |case| case.add("watch-stopped", 0, "portreeve.watch.totals.polls", 1)),
    (42, |case| case.set("coverage", 0, "portreeve.coverage.poll_interval_us.max", json!(5_000_000))),
    (43, |case| case.after = Some(|files| replace(&mut files[0], b"for people", b"for nobody"))),
    (44, |case| case.set("seal", 1, "portreeve.seal.mac", json!("c".repeat(64)))),
    (45, |case| case.options.expect_live = Some(last_seal(&case.files) + 125_000_000)),
    (46, |case| case.options.anchors = vec![(7, [b'd'; 64])]),
];

fn close_with(case: &mut Case, index: usize, reason: &str) {
    for path in ["portreeve.close.reason", "event.reason"] {
        case.set("connection-closed", index, path, json!(reason));
    }
}

fn is_second_start(line: &Line) -> bool {
    matches!(line, Line::Record(value) if value["portreeve"]["watch"]["previous_end"] == "clean")
}

fn lines(file: &[u8]) -> Vec<Vec<u8>> {
    file.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn repeat_line(file: &mut Vec<u8>, index: usize) {
    let mut all = lines(file);
    all.insert(index, all[index].clone());
    *file = all.concat();
}

/// A copy of a record whose chain comes first.
fn chain_first(files: &mut [Vec<u8>]) {
    let mut all = lines(&files[0]);
    let text = String::from_utf8(all[OPEN_A].clone()).unwrap();
    let (head, chain) = text.trim_end().trim_end_matches('}').rsplit_once(",\"chain\":").unwrap();
    all.insert(OPEN_A, format!("{{\"chain\":{chain},{}}}\n", &head[1..]).into_bytes());
    files[0] = all.concat();
}

fn replace(file: &mut [u8], from: &[u8], to: &[u8]) {
    let at = file.windows(from.len()).position(|window| window == from).unwrap();
    file[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn a_log_that_nobody_changed_breaks_no_rule() {
    let mut case = Case::new(Turns::default());
    let files = Writer::new().write(&case.files);
    let chain = |line: &[u8]| <[u8; 64]>::try_from(&line[line.len() - 67..line.len() - 3]).unwrap();
    case.options.anchors = vec![(7, chain(&lines(&files[0])[6]))];
    assert_eq!(case.rules(), BTreeSet::new());
}

#[test]
fn of_udp_flows_the_outcome_is_known_by_what_they_received() {
    let of_udp = |outcome: &str, received: serde_json::Value| {
        let mut case = Case::new(Turns::default());
        for action in ["connection-opened", "connection-changed", "connection-closed"] {
            for record in case.all(action) {
                record["network"]["transport"] = json!("udp");
                record["event"]["outcome"] = json!("unknown");
            }
        }
        case.set("connection-closed", 0, "event.outcome", json!(outcome));
        if !received.is_null() {
            case.set("connection-closed", 0, "destination.packets", received);
        }
        case.rules()
    };
    let wrong = BTreeSet::from(["V36".to_owned()]);
    for (outcome, received, fits) in [
        ("unknown", json!(null), true),
        ("success", json!(null), true),
        ("failure", json!(null), false),
        ("unknown", json!(0), true),
        ("success", json!(0), false),
        ("unknown", json!(3), false),
        ("success", json!(3), true),
    ] {
        let expected = if fits { &BTreeSet::new() } else { &wrong };
        assert_eq!(&of_udp(outcome, received.clone()), expected, "{outcome} {received}");
    }
}

#[test]
fn only_what_audit_alone_told_lacks_its_transport_and_is_no_success() {
    let untold = |seen: &str, outcome: &str| {
        let mut case = Case::new(Turns::default());
        for action in ["connection-opened", "connection-changed", "connection-closed"] {
            for record in case.all(action) {
                record["network"].as_object_mut().unwrap().remove("transport");
                record["portreeve"]["connection"]["seen"] = json!(seen);
                record["event"]["outcome"] = json!("unknown");
            }
        }
        case.set("connection-closed", 0, "event.outcome", json!(outcome));
        case.rules()
    };
    assert_eq!(untold("audit", "unknown"), BTreeSet::new());
    assert_eq!(untold("audit", "success"), BTreeSet::from(["V36".to_owned()]));
    assert_eq!(untold("poll", "unknown"), BTreeSet::from(["V36".to_owned()]));
}

#[test]
fn each_mutant_breaks_its_rule_and_no_other() {
    let mut wrong = Vec::new();
    for (rule, mutate) in MUTANTS {
        let mut case = Case::new(Turns::default());
        mutate(&mut case);
        let rules = case.rules();
        if rules != BTreeSet::from([format!("V{rule}")]) {
            wrong.push(format!("V{rule}: {rules:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
