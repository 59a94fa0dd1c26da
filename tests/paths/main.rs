//! `report::paths` and `report::explain` on logs of several hosts that the tests make.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may fail by panic, and writes the files it reads"
)]

mod builder;
mod command;
mod explained;
mod joined;
mod shown;

use std::path::PathBuf;

use jiff::tz::TimeZone;
use portreeve::report::paths::{self, Format, Paths};
use portreeve::report::show::Logs;
use portreeve::report::{Filter, Notice};
use portreeve::text::Style;
use serde_json::{Value, json};
use tempfile::TempDir;

use builder::{Log, by, local, login, merge};

fn style() -> Style {
    Style { zone: TimeZone::UTC, utc: false, color: false, width: None }
}

/// What is printed of these logs, and what is said beside it.
fn print(logs: &[&Log], format: Format, filter: Filter) -> (String, Vec<String>) {
    let folder = TempDir::new().unwrap();
    let files = logs.iter().map(|log| log.write(folder.path())).collect();
    print_files(files, format, filter, style())
}

fn print_files(files: Vec<PathBuf>, format: Format, filter: Filter, style: Style) -> (String, Vec<String>) {
    let (mut out, mut notices) = (Vec::new(), Vec::new());
    let mut say = |notice: &Notice| notices.push(notice.to_string());
    let asked = Paths { logs: Logs::Listed(files), filter, format, style };
    paths::run(&asked, &mut out, &mut say).unwrap();
    (String::from_utf8(out).unwrap(), notices)
}

fn text(logs: &[&Log]) -> String {
    print(logs, Format::Text, Filter::default()).0
}

fn ways(logs: &[&Log]) -> Vec<Value> {
    let (out, notices) = print(logs, Format::Json, Filter::default());
    assert_eq!(notices, Vec::<String>::new());
    assert!(out.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `host>host>…` of every way, by names or addresses: the branches one after the other.
fn routes(ways: &[Value]) -> Vec<String> {
    fn walk(hop: &Value, above: &str, found: &mut Vec<String>) {
        let here = format!("{above}>{}", hop["host"].as_str().unwrap());
        let hops = hop["hops"].as_array().unwrap();
        if hops.is_empty() {
            let arrived = hop["arrived"]["host"].as_str();
            let end = arrived.or_else(|| hop["domain"].as_str()).unwrap_or("elsewhere");
            found.push(format!("{here}>{end}"));
        }
        hops.iter().for_each(|hop| walk(hop, &here, found));
    }
    let mut found = Vec::new();
    for way in ways {
        let entry = &way["entry"];
        let from = entry["ip"].as_str().or_else(|| entry["kind"].as_str()).unwrap();
        let hops = way["hops"].as_array().unwrap();
        if hops.is_empty() {
            found.push(format!("{from}>{}", entry["host"].as_str().unwrap()));
        }
        hops.iter().for_each(|hop| walk(hop, from, &mut found));
    }
    found
}

/// A connection of ssh that somebody typed.
fn ssh(user: &str, pid: u32, target: &str) -> Value {
    let mut fields = by(
        user,
        &[("ssh", pid), ("bash", pid - 3), ("sshd", pid - 4), ("sshd", 20)],
        &format!("ssh {target}"),
    );
    let more = json!({
        "destination": { "domain": target },
        "portreeve": { "route": "direct", "ssh": { "target": target } },
    });
    merge(&mut fields, &more);
    fields
}

/// alice, at the laptop's terminal, connects to the bastion.
fn from_laptop(laptop: &mut Log, at: f64, (from, to): (&str, &str), more: &[Value]) -> String {
    let hers = [ssh("alice", 40, "bastion"), local("local_tty", "alice", "tty2")];
    laptop.connect(at, from, to, &[&hers, more].concat())
}

/// A log, and the ids of its connections.
struct Told {
    log: Log,
    ids: Vec<String>,
}

/// An ssh with forwards in both directions, each of which was used: what its server opened for it, what it opened for its
/// server, and a hop of the same login that a shell made.
fn forwards() -> [Told; 2] {
    let [mut laptop, mut bastion] = ["laptop", "bastion"].map(Log::new);
    let (from, to) = ("192.0.2.10:50122", "198.51.100.1:22");
    let asked = json!({ "portreeve": {
        "ssh": { "forwards": { "local": ["8080:db1:80"], "remote": ["*:8082:[::1]:80"] } } } });
    let first = from_laptop(&mut laptop, 1.0, (from, to), std::slice::from_ref(&asked));
    let listening =
        json!({ "portreeve": { "listening": { "addresses": ["127.0.0.1:8080", "[::1]:8080"] } } });
    laptop.change(1.5, &first, std::slice::from_ref(&listening));
    let for_server = [asked, listening, json!({ "portreeve": { "route": "forwarded" } })];
    let back = from_laptop(&mut laptop, 3.0, ("127.0.0.1:40001", "127.0.0.1:80"), &for_server);
    let arrival = bastion.accept(1.01, from, to, &[]);
    let listening = json!({ "portreeve": { "listening": { "addresses": ["0.0.0.0:8082"] } } });
    bastion.change(1.6, &arrival, &[listening]);
    let mut origin = login("alice", from, to);
    merge(&mut origin, &json!({ "portreeve": { "origin": { "connection_id": arrival } } }));
    let server = by("alice", &[("sshd", 36), ("sshd", 34)], "sshd: alice@pts/3");
    let forwarded = [server, origin.clone(), json!({ "portreeve": { "route": "forwarded" } })];
    let one = bastion.connect(2.0, "10.0.0.1:40001", "10.0.0.9:80", &forwarded);
    let two = bastion.connect(2.5, "10.0.0.1:40002", "10.0.0.9:80", &forwarded);
    let shell = bastion.connect(20.0, "10.0.0.1:40003", "10.0.0.5:22", &[ssh("alice", 140, "web1"), origin]);
    [Told { log: laptop, ids: vec![first, back] }, Told { log: bastion, ids: vec![arrival, one, two, shell] }]
}

/// laptop → bastion → web1 → db1, and a branch; all of it seen.
fn chain() -> [Log; 4] {
    let [mut laptop, mut bastion, mut web1, mut db1] = ["laptop", "bastion", "web1", "db1"].map(Log::new);
    let one = ("192.0.2.10:50122", "198.51.100.1:22");
    let two = ("10.0.0.1:40001", "10.0.0.5:22");
    let three = ("10.0.0.5:40777", "10.0.0.9:22");
    let first = from_laptop(&mut laptop, 1.0, one, &[]);
    let arrival = bastion.accept(1.01, one.0, one.1, &[]);
    let mut origin = login("alice", one.0, one.1);
    merge(&mut origin, &json!({ "portreeve": { "origin": { "connection_id": arrival } } }));
    let second = bastion.connect(20.0, two.0, two.1, &[ssh("alice", 140, "web1"), origin.clone()]);
    let refused =
        bastion.connect(30.0, "10.0.0.1:40002", "10.0.0.6:22", &[ssh("alice", 150, "web2"), origin]);
    bastion.end(30.002, &refused, "refused", &json!({}));
    let root = json!({ "user": { "id": "0", "name": "root" }, "portreeve": { "login": { "uid": 1001, "name": "deploy" } } });
    let third = web1.connect(
        40.0,
        three.0,
        three.1,
        &[
            by("root", &[("ssh", 77), ("bash", 70), ("sudo", 69), ("bash", 60)], "ssh db1"),
            root,
            login("deploy", two.0, two.1),
        ],
    );
    let last = db1.accept(40.02, three.0, three.1, &[]);
    db1.close(700.01, &last, (3_400_000, 1_200));
    web1.close(700.0, &third, (1_200, 3_400_000));
    bastion.close(720.5, &second, (36_200, 4_104_600));
    bastion.close(725.0, &arrival, (40_000, 4_200_000));
    laptop.close(724.9, &first, (40_000, 4_200_000));
    [laptop, bastion, web1, db1]
}
