//! Logs made from a few words, numbered and chained as portreeve-events(5) says: code of its own.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub const HOST: &str = "host.example";
pub const BOOTS: [&str; 2] = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];
/// 2026-11-20T12:00:00Z
const BEGIN: i64 = 1_795_176_000;

/// What stands in a file.
#[derive(Clone)]
pub enum Line {
    /// A record, which lacks its place.
    Record(Value),
    /// Bytes as they are, with an end or without.
    Raw(Vec<u8>),
}

/// A file.
pub type File = Vec<Line>;

/// Makes records one after the other.
#[derive(Clone)]
pub struct Maker {
    pub stream: String,
    pub run: String,
    pub boot: Option<usize>,
    /// Seconds since the beginning, by the wall clock.
    pub now: f64,
    /// What CLOCK_BOOTTIME is before it.
    pub boot_offset: f64,
    ids: u64,
}

pub fn time(seconds: f64) -> String {
    let micros = (seconds * 1e6).round() as i64 + BEGIN * 1_000_000;
    format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap())
}

pub fn uuid(seconds: f64, count: u64) -> String {
    let millis = (seconds * 1e3).floor() as u128 + BEGIN as u128 * 1_000;
    let id = millis << 80 | 7 << 76 | 2 << 62 | u128::from(count);
    uuid::Uuid::from_u128(id).to_string()
}

pub fn put(value: &mut Value, path: &str, new: Value) {
    let mut place = value;
    for name in path.split('.') {
        place = place.as_object_mut().unwrap().entry(name).or_insert_with(|| json!({}));
    }
    *place = new;
}

pub fn remove(value: &mut Value, path: &str) {
    let (above, name) = path.rsplit_once('.').unwrap_or(("", path));
    let above = above.split('.').filter(|name| !name.is_empty()).fold(value, |value, name| &mut value[name]);
    above.as_object_mut().unwrap().remove(name).unwrap_or_else(|| panic!("{path} is not there"));
}

/// Puts members over those that are there.
fn merge(value: &mut Value, more: Value) {
    match (value, more) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, more) in theirs {
                merge(ours.entry(name).or_insert(Value::Null), more);
            }
        }
        (place, more) => *place = more,
    }
}

impl Maker {
    pub fn new() -> Self {
        let stream = uuid(-1.0, 1);
        Self { stream, run: uuid(-1.0, 2), boot: Some(0), now: 0.0, boot_offset: 100.0, ids: 100 }
    }

    pub fn id(&mut self) -> String {
        self.ids += 1;
        uuid(self.now, self.ids)
    }

    /// A new run begins.
    pub fn restart(&mut self, boot: usize) {
        self.run = self.id();
        if self.boot != Some(boot) {
            (self.boot, self.boot_offset) = (Some(boot), 20.0 - self.now);
        }
    }

    /// A record, `after` seconds behind the last.
    pub fn record(&mut self, after: f64, action: &str, more: Value) -> Line {
        self.now += after;
        let (kind, types, is_connection) = match action {
            "connection-opened" => ("event", vec!["connection", "start"], true),
            "connection-changed" => ("event", vec!["connection", "change"], true),
            "connection-closed" => ("event", vec!["connection", "end"], true),
            "watch-started" => ("state", vec!["start"], false),
            "watch-stopped" => ("state", vec!["end"], false),
            "watch-reloaded" => ("state", vec!["change"], false),
            "gap" => ("state", vec!["error"], false),
            "coverage" => ("metric", vec!["info"], false),
            _ => ("state", vec!["info"], false),
        };
        let mut value = json!({
            "@timestamp": time(self.now), "message": "words for people", "ecs": { "version": "9.4.0" },
            "agent": {
                "type": "portreeve", "version": env!("CARGO_PKG_VERSION"), "id": self.stream,
                "ephemeral_id": self.run,
            },
            "host": { "name": HOST },
            "portreeve": { "schema": 1, "boottime_us": ((self.now + self.boot_offset) * 1e6).round() as u64 },
            "event": {
                "action": action, "kind": kind, "category": [if is_connection { "network" } else { "host" }],
                "type": types, "outcome": if action == "gap" { "failure" } else { "success" },
                "id": self.id(), "provider": "portreeve",
                "dataset": if is_connection { "portreeve.connection" } else { "portreeve.watch" },
            },
        });
        if let Some(boot) = self.boot {
            put(&mut value, "host.boot.id", json!(BOOTS[boot]));
        }
        merge(&mut value, more);
        Line::Record(value)
    }

    pub fn log_opened(&mut self) -> Line {
        self.record(
            0.001,
            "log-opened",
            json!({ "portreeve": { "log": {
            "path": "/var/log/portreeve/events.jsonl", "continues": { "sequence": 0, "chain": "" },
        } } }),
        )
    }

    pub fn started(&mut self, stream: &str, end: Option<&str>) -> Line {
        let mut line = self.record(0.001, "watch-started", json!({
            "host": { "os": { "type": "linux" } },
            "portreeve": { "watch": {
                "settings": { "ports": "22,2222", "interval": "50ms", "source": "auto" }, "owners": "all",
                "capabilities": ["cap_sys_ptrace"], "uid": 990, "netns": 4_026_531_840_u64, "source": "netlink",
                "source_reason": "cheaper", "events": { "destroy": "on", "syn": "on", "proc": "off: not asked for" },
                "netns_scope": "all", "namespaces": 1, "warnings": [], "stream": stream,
                "executable_sha256": "a".repeat(64),
            } },
        }));
        if let (Line::Record(value), Some(end)) = (&mut line, end) {
            put(value, "portreeve.watch.previous_end", json!(end));
        }
        line
    }

    pub fn stopped(&mut self, totals: Value) -> Line {
        let mut all = Map::new();
        for name in [
            "polls",
            "late",
            "reads",
            "failed_reads",
            "duplicate_rows",
            "unparsed_rows",
            "standing_ends",
            "doubtful_ends",
            "ends_left_out",
            "lookups",
            "opens",
            "closes",
            "passed",
            "notices_lost",
            "active_opens",
            "missed_at_most",
            "incomparable",
            "unattributed",
            "lost",
            "live",
        ] {
            all.insert(name.into(), json!(0));
        }
        let mut all = Value::Object(all);
        merge(&mut all, totals);
        self.record(
            0.001,
            "watch-stopped",
            json!({ "portreeve": { "watch": { "reason": "SIGTERM", "totals": all } } }),
        )
    }

    pub fn coverage(&mut self, after: f64, counts: Value) -> Line {
        let from = time(self.now);
        let percentiles = json!({ "count": 1, "p50": 1, "p99": 1, "max": 1 });
        let mut coverage = json!({
            "from": from, "to": time(self.now + after), "polls": 100, "late": 1, "reads": 2, "lookups": 3,
            "failed_reads": 0, "opens": 0, "closes": 0, "live": 0, "namespaces": 1, "namespaces_left_out": 0,
            "seen": {}, "unattributed": {}, "attribution_latency_us": percentiles,
            "poll_interval_us": { "count": 1, "p50": 50_000, "p99": 50_000, "max": 60_000 },
            "kernel": { "active_opens": 4, "attempt_fails": 0 }, "comparable": true, "accounted": 3,
            "missed_at_most": 1, "agrees": false, "unmatched": 0, "lost": { "destroy": 1, "syn": 0, "proc": 0 },
        });
        merge(&mut coverage, counts);
        self.record(after, "coverage", json!({ "portreeve": { "coverage": coverage } }))
    }

    pub fn gap(&mut self, after: f64, cause: &str, length: f64) -> Line {
        let at = self.now + after;
        let gap = json!({ "cause": cause, "from": time(at - length), "to": time(at) });
        self.record(after, "gap", json!({ "portreeve": { "gap": gap } }))
    }

    pub fn seal(&mut self, after: f64, epoch: u64) -> Line {
        let at = time(self.now + after);
        self.record(
            after,
            "seal",
            json!({ "portreeve": { "seal": {
            "epoch": epoch, "key": "", "sequence": 0, "chain": "", "time": at, "mac": "",
        } } }),
        )
    }

    /// An established connection from this port that a process owns.
    pub fn open(&mut self, after: f64, port: u16) -> (Connection, Line) {
        self.now += after;
        let connection = Connection { id: self.id(), port, start: self.now, now: self.now };
        let mut more = connection.fields();
        put(&mut more, "event.start", json!(time(self.now)));
        (connection, self.record(0.0, "connection-opened", more))
    }

    /// An attempt that nobody owns.
    pub fn attempt(&mut self, after: f64, port: u16) -> (Connection, Line) {
        let (connection, mut line) = self.open(after, port);
        if let Line::Record(value) = &mut line {
            put(value, "portreeve.connection.state", json!("syn_sent"));
            put(value, "portreeve.attribution", json!({ "status": "unknown", "reason": "budget" }));
            put(value, "event.outcome", json!("unknown"));
            for path in ["process", "portreeve.ancestry"] {
                remove(value, path);
            }
        }
        (connection, line)
    }

    pub fn changed(&mut self, after: f64, connection: &Connection) -> Line {
        let mut more = connection.fields();
        merge(
            &mut more,
            json!({
                "portreeve": { "changed": ["portreeve.connection.state"] }, "event": { "start": time(connection.start) },
            }),
        );
        self.record(after, "connection-changed", more)
    }

    pub fn closed(&mut self, after: f64, connection: &Connection, reason: &str) -> Line {
        let mut more = connection.fields();
        let at = self.now + after;
        let nanos = ((at - connection.start) * 1e6).round() as u64 * 1_000;
        merge(
            &mut more,
            json!({
                "source": { "bytes": 10 }, "destination": { "bytes": 20 }, "network": { "bytes": 30 },
                "portreeve": { "close": {
                    "reason": reason, "last_seen": time(at - 0.05), "gone_by": time(at), "exact": true, "bytes_exact": true,
                } },
                "event": { "reason": reason, "start": time(connection.start), "end": time(at), "duration": nanos },
            }),
        );
        self.record(after, "connection-closed", more)
    }
}

/// One connection.
#[derive(Clone)]
pub struct Connection {
    pub id: String,
    pub port: u16,
    pub start: f64,
    now: f64,
}

impl Connection {
    fn fields(&self) -> Value {
        json!({
            "source": { "ip": "192.0.2.10", "port": self.port },
            "destination": { "ip": "203.0.113.7", "port": 22 },
            "network": {
                "transport": "tcp", "type": "ipv4", "direction": "egress", "community_id": "1:HYqrS5H52pMcZ2VAiJvikFzG9dY=",
            },
            "user": { "id": "1000", "name": "alice" }, "group": { "id": "1000" },
            "process": {
                "pid": 4242, "name": "ssh", "executable": "/usr/bin/ssh", "args": ["ssh", "a \"quoted\" \\ host"],
                "args_count": 2, "start": time(self.now - 1.0),
                "parent": { "pid": 4100, "name": "bash", "start": time(self.now - 9.0) },
            },
            "portreeve": {
                "connection": {
                    "id": self.id, "state": "established", "seen": "poll", "inode": 1_234_567, "netns": 4_026_531_840_u64,
                },
                "ancestry": [
                    { "pid": 4100, "name": "bash", "start": time(self.now - 9.0), "user": "alice" },
                    { "pid": 1, "name": "systemd", "user": "root" },
                ],
                "attribution": { "status": "owned", "holders": [4242], "latency_us": 800 },
            },
        })
    }
}

/// Where a stream is.
#[derive(Clone)]
struct Place {
    stream: String,
    n: u64,
    chain: String,
}

/// How records come to their places.
#[derive(Clone)]
pub struct Writer {
    place: Option<Place>,
    pub secret: [u8; 32],
    /// Records of these numbers are left out.
    pub skip: Vec<u64>,
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // RFC 2104, by hand.
    let pad =
        |with: u8| -> Vec<u8> { (0..64).map(|index| key.get(index).copied().unwrap_or(0) ^ with).collect() };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

impl Writer {
    pub fn new() -> Self {
        Self { place: None, secret: [7; 32], skip: Vec::new() }
    }

    /// The bytes of each file.
    pub fn write(&mut self, files: &[File]) -> Vec<Vec<u8>> {
        files.iter().map(|lines| self.file(lines)).collect()
    }

    fn file(&mut self, lines: &[Line]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut torn = None;
        for line in lines {
            match line {
                Line::Raw(raw) => {
                    torn = Some((bytes.len(), raw.len() - usize::from(raw.ends_with(b"\n"))));
                    bytes.extend_from_slice(raw);
                }
                Line::Record(value) => {
                    let mut value = value.clone();
                    if let (Some((offset, length)), Some(log)) = (torn, value.pointer_mut("/portreeve/log"))
                        && log.get("offset") == Some(&Value::Null)
                    {
                        (log["offset"], log["bytes"]) = (json!(offset), json!(length));
                    }
                    bytes.extend(self.line(value));
                }
            }
        }
        bytes
    }

    fn line(&mut self, mut value: Value) -> Vec<u8> {
        let stream = value["agent"]["id"].as_str().unwrap_or("").to_owned();
        let begun = Place { stream: stream.clone(), n: 0, chain: "0".repeat(64) };
        let mut place = self.place.take().filter(|place| place.stream == stream).unwrap_or(begun);
        self.fill(&mut value, &place);
        let event = value.as_object_mut().unwrap().remove("event").unwrap();
        let chain = value.as_object_mut().unwrap().remove("chain");
        let (head, event) = (value.to_string(), event.to_string());
        let n = place.n + 1;
        let text =
            format!("{},\"event\":{},\"sequence\":{n}}}", &head[..head.len() - 1], &event[..event.len() - 1]);
        let real = hex(&Sha256::new().chain_update(&place.chain).chain_update(&text).finalize());
        let written = chain.map_or(real.clone(), |chain| chain.as_str().unwrap().to_owned());
        place.n = n;
        place.chain = written.clone();
        self.place = Some(place);
        if self.skip.contains(&n) {
            return Vec::new();
        }
        format!("{text},\"chain\":\"{written}\"}}\n").into_bytes()
    }

    /// What a record tells of its place.
    fn fill(&self, value: &mut Value, place: &Place) {
        if let Some(continues) = value.pointer_mut("/portreeve/log/continues")
            && continues["chain"] == ""
        {
            *continues = json!({ "sequence": place.n, "chain": place.chain });
        }
        let Some(seal) = value.pointer_mut("/portreeve/seal") else { return };
        if seal["key"] == "" {
            seal["key"] = json!(&hex(&hmac(&self.secret, "portreeve seal key id"))[..8]);
        }
        if seal["chain"] == "" {
            (seal["sequence"], seal["chain"]) = (json!(place.n), json!(place.chain));
        }
        if seal["mac"] == "" {
            let mut key = self.secret.to_vec();
            for _ in 0..seal["epoch"].as_u64().unwrap() {
                key = hmac(&key, "portreeve seal next");
            }
            let text = |name: &str| seal[name].as_str().map_or_else(|| seal[name].to_string(), str::to_owned);
            let (epoch, n, chain, time) = (text("epoch"), text("sequence"), text("chain"), text("time"));
            let signed = format!("portreeve seal 1\n{}\n{epoch}\n{n}\n{chain}\n{time}\n", place.stream);
            seal["mac"] = json!(hex(&hmac(&key, &signed)));
        }
    }
}
