//! What the records must say, compared whole, and the count of how well the origins were told.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::host::Host;
use crate::net::Net;
use crate::outside;
use crate::support::log::{pick, with_action};

/// `Err`: what this machine lacks.
pub type Outcome = Result<(), String>;

/// The expectations of one scenario.
pub struct Check {
    /// Ids of the connections that were expected.
    expected: Vec<Value>,
    failures: Vec<String>,
}

/// Fields that every egress record of a connection is compared by beside those that a scenario names.
const ALWAYS: &[&str] = &["network.direction", "portreeve.attribution.status"];

impl Check {
    pub fn new() -> Self {
        Self { expected: Vec::new(), failures: Vec::new() }
    }

    /// Compares a record: its origin, and the fields that `fields` names. What is null must be absent.
    pub fn connection(&mut self, host: &Host, record: &Value, origin: &Value, fields: Value) {
        self.expected.push(record["portreeve"]["connection"]["id"].clone());
        let mut fields = fields;
        for (name, value) in ALWAYS.iter().zip([json!("egress"), json!("owned")]) {
            fields.as_object_mut().unwrap().entry(*name).or_insert(value);
        }
        self.fields(host, record, fields);
        self.origin(host, record, origin);
    }

    fn origin(&mut self, host: &Host, record: &Value, expected: &Value) {
        let found = &record["portreeve"]["origin"];
        let mut expected = expected.clone();
        if expected["sshd_pid"].as_array().is_some_and(|either| either.contains(&found["sshd_pid"])) {
            expected["sshd_pid"] = found["sshd_pid"].clone();
        }
        // The link to the inbound connection's own records is held against these. What a process claims of a login that
        // is over needs none.
        let is_claim = expected["evidence"] == "environment" && found["connection_id"].is_null();
        if let Some(id) = inbound_id(host, &expected).filter(|_| !is_claim) {
            expected["connection_id"] = id;
        }
        count(&class(found, &expected));
        if found != &expected {
            self.fail(host, record, &format!("origin {found:#}\nexpected {expected:#}"));
        }
    }

    /// Compares the named fields alone.
    pub fn fields(&mut self, host: &Host, record: &Value, expected: Value) {
        let names: Vec<_> = expected.as_object().unwrap().keys().map(String::as_str).collect();
        let found = pick(record, &names);
        for name in names {
            if found[name] != expected[name] {
                self.fail(host, record, &format!("{name} {:#}\nexpected {:#}", found[name], expected[name]));
            }
        }
    }

    pub fn fail(&mut self, host: &Host, record: &Value, what: &str) {
        self.failures.push(format!("{}: {}: {what}", host.name, record["message"]));
    }

    /// Stops the watchers. Every outbound connection of every host must have been expected, and every log be whole.
    pub fn finish(mut self, net: &Net) -> Outcome {
        for host in net.hosts() {
            if !host.is_watched() {
                continue;
            }
            for record in with_action(&host.stop_watch(), "connection-opened") {
                let is_egress = record["network"]["direction"] == "egress";
                if is_egress && !self.expected.contains(&record["portreeve"]["connection"]["id"]) {
                    count("wrong");
                    self.fail(host, &record, "was not expected");
                }
            }
        }
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
        Ok(())
    }
}

/// The id under which the host itself logged the inbound connection.
fn inbound_id(host: &Host, origin: &Value) -> Option<Value> {
    let port = origin.get("port")?;
    let records = host.records();
    let mut opens = with_action(&records, "connection-opened").into_iter();
    let inbound = opens.find(|record| {
        record["network"]["direction"] == "ingress"
            && &record["source"]["port"] == port
            && record["source"]["ip"] == origin["ip"]
    })?;
    Some(inbound["portreeve"]["connection"]["id"].clone())
}

fn class(found: &Value, expected: &Value) -> String {
    match (found["kind"].as_str(), found == expected) {
        (Some("ssh"), true) => format!("right by {}", found["evidence"].as_str().unwrap_or_default()),
        (Some("unknown"), true) => "unknown and unknowable".into(),
        (Some(_), true) => "right and not from SSH".into(),
        (Some("unknown") | None, _) => "unknown".into(),
        // The same login, but less is told of it, or by weaker evidence than there is.
        (Some("ssh"), false) if ["ip", "port"].iter().all(|end| found[end] == expected[end]) => {
            "incomplete".into()
        }
        (Some(_), false) => "wrong".into(),
    }
}

static COUNTS: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
static ENDED: AtomicUsize = AtomicUsize::new(0);

fn count(class: &str) {
    *COUNTS.lock().unwrap().entry(class.to_owned()).or_default() += 1;
}

/// Runs a scenario, holds it against what was told from outside and, when the last of `all` has ended, the whole log of
/// that too; prints then how well the origins were told.
pub fn scenario(name: &str, all: usize, run: impl FnOnce() -> Outcome) {
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| match run() {
        Ok(()) => outside::judge_scenario(name),
        Err(reason) => crate::support::not_run(name, &reason),
    }));
    let is_last = ENDED.fetch_add(1, Ordering::SeqCst) + 1 == all;
    if is_last {
        print_counts();
    }
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
    if is_last {
        outside::finish();
    }
}

fn print_counts() {
    let counts = COUNTS.lock().unwrap();
    let of = |class: &str| counts.get(class).copied().unwrap_or(0);
    let mut parts = vec![format!("{} right by socket", of("right by socket"))];
    for (class, count) in counts.iter() {
        if class != "right by socket" && class != "unknown" && class != "wrong" {
            parts.push(format!("{count} {class}"));
        }
    }
    parts.push(format!("{} unknown", of("unknown")));
    parts.push(format!("{} wrong", of("wrong")));
    let all: u32 = counts.values().sum();
    print(&format!("origins: {}; of {all} connections", parts.join(", ")));
}

/// Past the harness's capture.
pub fn print(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").unwrap();
}
