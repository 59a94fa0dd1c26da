//! The real logrotate, with the file that ships, renames and compresses the log under a running watcher.
#![expect(clippy::disallowed_methods, reason = "a test waits, and reads what the watcher wrote")]
#![expect(clippy::expect_used, reason = "helpers of a test; a failure is a panic")]
#![expect(clippy::indexing_slicing, reason = "a JSON value answers a missing key with null")]

#[path = "support/shipping.rs"]
mod support;

use std::{
    collections::HashMap,
    fs,
    io::Read,
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::{self, sleep},
    time::Duration,
};

use flate2::read::MultiGzDecoder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{can_run, command, run, wait_for};

const CLIENTS: usize = 4;
const CONNECTIONS_EACH: usize = 25;
const ROTATIONS: usize = 4;

#[test]
fn logrotate_with_its_signal_loses_no_record() {
    let kill = |watcher: &Child| format!("kill -HUP {}", watcher.id());
    if can_run("logrotate_with_its_signal_loses_no_record", &["logrotate", "unshare", "ip"])
        && support::in_own_network("logrotate_with_its_signal_loses_no_record")
    {
        watch_while_logs_rotate(kill);
    }
}

#[test]
fn logrotate_whose_signal_is_lost_loses_no_record() {
    if can_run("logrotate_whose_signal_is_lost_loses_no_record", &["logrotate", "unshare", "ip"])
        && support::in_own_network("logrotate_whose_signal_is_lost_loses_no_record")
    {
        watch_while_logs_rotate(|_| "true".to_owned());
    }
}

fn watch_while_logs_rotate(signal: impl Fn(&Child) -> String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
    let server = listener.local_addr().expect("it is bound");
    thread::spawn(move || listener.incoming().flatten().for_each(|peer| drop(thread::spawn(|| hold(peer)))));
    let mut watcher = watch(server.port(), folder.path());
    wait_for(|| (!lines(folder.path()).is_empty()).then_some(())).expect("the watch starts");
    let rules = shipped_rules(folder.path(), &signal(&watcher));

    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::spawn(move || {
                for _ in 0..CONNECTIONS_EACH {
                    let connection = TcpStream::connect(server).expect("our own server");
                    sleep(Duration::from_millis(120));
                    connection.shutdown(Shutdown::Both).expect("it stands");
                    sleep(Duration::from_millis(60));
                }
            })
        })
        .collect();
    for _ in 0..ROTATIONS {
        rotate(&rules, folder.path());
        // The names of rotated files count seconds.
        sleep(Duration::from_millis(1100));
    }
    clients.into_iter().for_each(|client| client.join().expect("all connections are made"));

    let ended = || (ends(&records(folder.path())) == CLIENTS * CONNECTIONS_EACH).then_some(());
    wait_for(ended).expect("every connection's end is logged");
    kill_process(Pid::from_child(&watcher), Signal::TERM).expect("it runs");
    assert!(watcher.wait().expect("it is our child").success());
    the_story_is_whole(&records(folder.path()));
    assert!(files(folder.path()).len() > ROTATIONS, "{:?}", files(folder.path()));
}

/// Reads until the other end is shut, so that the watched side, the client's, is the one that closes first.
fn hold(mut peer: TcpStream) {
    let _ = peer.read_to_end(&mut Vec::new());
}

fn watch(port: u16, folder: &Path) -> Child {
    // An empty file of settings: those of this machine are none of the test's.
    let settings = folder.join("settings.toml");
    fs::write(&settings, "").expect("the folder is writable");
    let mut watcher = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    watcher.args(["watch", "--interval", "10ms", "--ports", &port.to_string()]);
    watcher.arg("--config").arg(settings).arg("--log-file").arg(folder.join("events.jsonl"));
    watcher.spawn().expect("the binary starts")
}

/// The rules that ship, for this folder, this user, and with `signal` in place of systemctl.
fn shipped_rules(folder: &Path, signal: &str) -> PathBuf {
    let shipped = include_str!("../logrotate/portreeve");
    let user = run(command("id").arg("-u"));
    let group = run(command("id").arg("-g"));
    let owner = format!("{} {}", user.trim(), group.trim());
    let adapted = shipped
        .replace("/var/log/portreeve", folder.to_str().expect("a path in UTF-8"))
        .replace("portreeve portreeve", &owner)
        .lines()
        .map(|line| if line.contains("systemctl") { signal } else { line })
        .fold(String::new(), |rules, line| rules + line + "\n");
    assert!(adapted.contains(signal), "the shipped rules call systemctl");
    let rules = folder.join("logrotate.conf");
    fs::write(&rules, adapted).expect("the folder is writable");
    rules
}

fn rotate(rules: &Path, folder: &Path) {
    let said = support::outcome(
        command("logrotate").args(["--force", "--state"]).arg(folder.join("state")).arg(rules),
    );
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
}

/// The log's files, oldest first: the names of rotated ones end in a date and a second.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("the folder stands").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().contains("events.jsonl-")).collect();
    files.sort();
    files.push(folder.join("events.jsonl"));
    files
}

fn lines(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for path in files(folder) {
        let bytes = fs::read(&path).unwrap_or_default();
        let mut text = String::new();
        if path.extension().is_some_and(|end| end == "gz") {
            MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("a whole gzip file");
        } else {
            text = String::from_utf8(bytes).expect("UTF-8");
        }
        assert!(text.is_empty() || text.ends_with('\n'), "{} ends in a torn line", path.display());
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

fn records(folder: &Path) -> Vec<Value> {
    lines(folder)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

fn ends(records: &[Value]) -> usize {
    records.iter().filter(|record| record["event"]["action"] == "connection-closed").count()
}

fn the_story_is_whole(records: &[Value]) {
    let mut open = HashMap::new();
    for (record, sequence) in records.iter().zip(1_u64..) {
        assert_eq!(record["event"]["sequence"], sequence, "a hole or a repetition at {record}");
        let id = record["portreeve"]["connection"]["id"].to_string();
        match record["event"]["action"].as_str() {
            Some("connection-opened") => assert!(open.insert(id, true).is_none(), "opened twice: {record}"),
            Some("connection-closed") => assert_eq!(open.insert(id, false), Some(true), "not open: {record}"),
            _ => {}
        }
    }
    assert_eq!(open.len(), CLIENTS * CONNECTIONS_EACH, "each connection is one story");
    assert!(open.values().all(|is_open| !is_open), "every open has its close");
    let last = records.last().expect("there are records");
    assert_eq!(last["event"]["action"], "watch-stopped");
}
