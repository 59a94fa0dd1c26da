//! Logs of several hosts, made from a few words: records as portreeve-events(5) has them.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

/// 2026-11-20T20:00:00Z
const BEGIN: i64 = 1_795_204_800;

/// The log of one host.
pub struct Log {
    pub name: String,
    stream: String,
    boot: String,
    number: u64,
    open: BTreeMap<String, Value>,
    pub lines: Vec<Value>,
}

/// Seconds after 20:00 as a record has them.
pub fn time(seconds: f64) -> String {
    let micros = (seconds * 1e6).round() as i64 + BEGIN * 1_000_000;
    format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap())
}

/// What both ends of a flow have in common.
pub fn community(one: &str, other: &str) -> String {
    let ends: [SocketAddr; 2] = [one.parse().unwrap(), other.parse().unwrap()];
    let (low, high) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    let hash = Sha1::digest(format!("{low} {high}"));
    format!("1:{}", base64::engine::general_purpose::STANDARD.encode(hash))
}

/// An origin that the socket proves: this login came from there to here.
pub fn login(user: &str, remote: &str, local: &str) -> Value {
    let (from, to): (SocketAddr, SocketAddr) = (remote.parse().unwrap(), local.parse().unwrap());
    json!({ "portreeve": { "origin": {
        "kind": "ssh", "ip": from.ip().to_string(), "port": from.port(), "local_ip": to.ip().to_string(),
        "local_port": to.port(), "community_id": community(remote, local), "user": user, "tty": "pts/3",
        "sshd_pid": 36, "evidence": "socket",
    } } })
}

/// An origin that is no SSH login.
pub fn local(kind: &str, user: &str, tty: &str) -> Value {
    json!({ "portreeve": { "origin": { "kind": kind, "user": user, "tty": tty } } })
}

/// Who runs it, by which command.
pub fn by(user: &str, chain: &[(&str, u32)], command: &str) -> Value {
    let ancestry: Vec<_> =
        chain[1..].iter().map(|(name, pid)| json!({ "name": name, "pid": pid, "user": user })).collect();
    json!({
        "user": { "id": "1000", "name": user },
        "process": { "pid": chain[0].1, "name": chain[0].0, "command_line": command },
        "portreeve": { "ancestry": ancestry },
    })
}

/// Puts members over those that are there.
pub fn merge(value: &mut Value, more: &Value) {
    match (value, more) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, more) in theirs {
                merge(ours.entry(name).or_insert(Value::Null), more);
            }
        }
        (place, more) => *place = more.clone(),
    }
}

impl Log {
    pub fn new(name: &str) -> Log {
        let part = u64::from_str_radix(&name.bytes().map(|b| format!("{b:02x}")).collect::<String>(), 16);
        let part = part.unwrap_or(7) & 0xffff_ffff_ffff;
        Log {
            name: name.to_owned(),
            stream: format!("aaaaaaaa-0000-7000-8000-{part:012x}"),
            boot: format!("bbbbbbbb-0000-4000-8000-{part:012x}"),
            number: 0,
            open: BTreeMap::new(),
            lines: Vec::new(),
        }
    }

    fn id(&mut self, kind: u8) -> String {
        self.number += 1;
        let of_host = self.name.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte));
        format!("01a1fa9{kind}-{:04x}-7008-b72a-{of_host:08x}{:04x}", self.number, self.number)
    }

    pub fn record(&mut self, at: f64, action: &str, more: &[Value]) {
        let id = self.id(9);
        let mut record = json!({
            "@timestamp": time(at), "message": "words for people",
            "host": { "name": self.name, "boot": { "id": self.boot } },
            "agent": { "id": self.stream },
            "event": { "action": action, "id": id },
        });
        more.iter().for_each(|more| merge(&mut record, more));
        self.lines.push(record);
    }

    fn begin(&mut self, at: f64, direction: &str, from: &str, to: &str, more: &[Value]) -> String {
        let id = self.id(0);
        let (source, destination): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut fields = json!({
            "source": { "ip": source.ip().to_string(), "port": source.port() },
            "destination": { "ip": destination.ip().to_string(), "port": destination.port() },
            "network": { "direction": direction, "community_id": community(from, to) },
            "portreeve": { "connection": { "id": id, "seen": "syn", "state": "established" } },
            "event": { "start": time(at) },
        });
        more.iter().for_each(|more| merge(&mut fields, more));
        self.record(at, "connection-opened", std::slice::from_ref(&fields));
        self.open.insert(id.clone(), fields);
        id
    }

    /// An outbound connection opens.
    pub fn connect(&mut self, at: f64, from: &str, to: &str, more: &[Value]) -> String {
        self.begin(at, "egress", from, to, more)
    }

    /// An inbound one does.
    pub fn accept(&mut self, at: f64, from: &str, to: &str, more: &[Value]) -> String {
        self.begin(at, "ingress", from, to, more)
    }

    pub fn change(&mut self, at: f64, id: &str, more: &[Value]) {
        let mut fields = self.open[id].clone();
        more.iter().for_each(|more| merge(&mut fields, more));
        self.record(at, "connection-changed", &[fields]);
    }

    /// It closes in order, after so many bytes out and in.
    pub fn close(&mut self, at: f64, id: &str, bytes: (u64, u64)) {
        let bytes = json!({ "source": { "bytes": bytes.0 }, "destination": { "bytes": bytes.1 },
            "portreeve": { "close": { "bytes_exact": false } } });
        self.end(at, id, "closed", &bytes);
    }

    pub fn end(&mut self, at: f64, id: &str, reason: &str, more: &Value) {
        let mut fields = self.open.remove(id).unwrap();
        let end = json!({
            "portreeve": { "close": { "reason": reason, "exact": true, "gone_by": time(at) } },
            "event": { "end": time(at), "reason": reason },
        });
        merge(&mut fields, &end);
        merge(&mut fields, more);
        self.record(at, "connection-closed", &[fields]);
    }

    /// A session that rides on a connection.
    pub fn ride(&mut self, at: f64, id: &str, more: &[Value]) {
        let mut fields = self.open[id].clone();
        fields["portreeve"].as_object_mut().unwrap().remove("origin");
        more.iter().for_each(|more| merge(&mut fields, more));
        self.record(at, "session-multiplexed", &[fields]);
    }

    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("{}.jsonl", self.stream));
        fs::write(&path, self.text()).unwrap();
        path
    }
}
