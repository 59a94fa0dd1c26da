//! How a watch is paced, and how it ends.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{actions, assert_fields, with_action};
use crate::support::watch::{PATIENCE, PORTREEVE};
use crate::support::{output, wait_for};

/// Milliseconds between two readings of the kernel's counters, as strace saw them: the median, so that a moment in which
/// the machine does something else counts as one.
fn pace(lab: &Lab, sleep: Option<&str>, arguments: &[&str]) -> f64 {
    let trace = lab.path("trace");
    let mut strace = lab.command("strace");
    strace.args(["-f", "-qq", "-y", "-ttt", "-e", "trace=read,pread64", "-o"]).arg(&trace).arg(PORTREEVE);
    let mut strace = lab.watcher(strace);
    sleep.map(|sleep| strace.env("SLEEP", sleep));
    let output = output(strace.args(["--duration", "1500ms"]).args(arguments));
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(trace).unwrap();
    // `PID SECONDS.MICROSECONDS pread64(3</proc/PID/net/snmp>, ...`
    let reads = text.lines().filter(|line| line.contains("/net/snmp>"));
    let at: Vec<f64> = reads.map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap()).collect();
    let mut gaps: Vec<f64> = at.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3).collect();
    gaps.sort_by(f64::total_cmp);
    gaps[gaps.len() / 2]
}

#[test]
fn sleep_in_the_environment_changes_the_pace_and_the_command_line_beats_it() {
    let lab = lab!("strace");
    let _server = lab.listen("127.0.0.1:22");
    for (sleep, arguments, expected) in [
        (Some("20"), &[][..], 20.0),
        (Some("200"), &[], 200.0),
        (None, &[], 50.0),
        (Some("200"), &["--interval", "20ms"], 20.0),
    ] {
        let pace = pace(&lab, sleep, arguments);
        println!("SLEEP={sleep:?} {arguments:?}: {pace:.1} ms");
        assert!((expected * 0.8..expected * 1.5).contains(&pace), "SLEEP={sleep:?} {arguments:?}: {pace} ms");
    }
}

#[test]
fn a_quiet_host_has_its_counters_read_and_not_its_tables() {
    let lab = lab!("strace");
    let _server = lab.listen("127.0.0.1:22");
    let trace = lab.path("trace");
    let mut strace = lab.command("strace");
    strace.args(["-f", "-qq", "-e", "trace=openat", "-o"]).arg(&trace).arg(PORTREEVE);
    let mut strace = lab.watcher(strace);
    let output = output(strace.args(["--duration", "900ms", "--interval", "10ms"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(trace).unwrap();
    let reads = text.lines().filter(|line| line.contains("/net/tcp\"")).count();
    println!("{reads} readings of net/tcp in 0.9 s");
    // The start's own look and self-test; the first repair comes after a second at the earliest.
    assert!((1..=3).contains(&reads), "{reads}");
}

#[test]
fn a_pace_that_is_none_is_an_error_that_names_it() {
    let lab = lab!();
    let refused = |command: &mut Command, word: &str| {
        let output = output(command.args(["--duration", "1s"]));
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{:?}: {said}", output.status.code());
        assert!([2, 64, 78].contains(&output.status.code().unwrap()), "{}: {said}", output.status);
        assert!(said.contains(word), "{said}");
        assert!(output.stdout.is_empty(), "no record of a watch that never was");
    };
    for sleep in ["abc", "-5", "10ms", "0"] {
        refused(lab.portreeve().env("SLEEP", sleep), "SLEEP");
    }
    refused(lab.portreeve().args(["--interval", "250us"]), "1ms");
    refused(lab.portreeve().args(["--interval", "soon"]), "interval");
}

#[test]
fn sigint_and_sigterm_stop_it_at_once_with_a_last_record() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    // Also where the interval is long: it must not sleep through the signal.
    for (signal, name, interval) in
        [(Signal::INT, "SIGINT", "50ms"), (Signal::TERM, "SIGTERM", "50ms"), (Signal::TERM, "SIGTERM", "30s")]
    {
        let watch = lab.watch(&["--interval", interval]);
        std::thread::sleep(Duration::from_millis(120));
        watch.signal(signal);
        let stopped = watch.wait_end();
        println!("{name} at {interval}: ended after {:?}", stopped.took);
        assert!(stopped.took < Duration::from_secs(1), "{name} at {interval}: {:?}", stopped.took);
        assert_eq!(stopped.status.code(), Some(0), "{name}");
        let last = stopped.records.last().unwrap();
        assert_eq!(last["event"]["action"], "watch-stopped");
        assert!(last["message"].as_str().unwrap().contains(name), "{last}");
        assert_eq!(with_action(&stopped.records, "watch-stopped").len(), 1);
    }
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let lab = lab!();
    let _server = lab.listen("127.0.0.1:22");
    let mut child = lab.portreeve().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("watch-started"), "{line}");
    // The reader is gone; the next record finds nobody.
    let _client = lab.connect("127.0.0.1:22");
    let status = wait_for("its end", PATIENCE, || child.try_wait().unwrap());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    println!("{status}");
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    assert!(!said.contains("panicked") && !said.to_lowercase().contains("broken pipe"), "{said}");
}

#[test]
fn count_ends_it_after_that_many_opens() {
    let lab = lab!();
    let _server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&["--count", "2"]);
    let first = lab.connect("127.0.0.1:22");
    watch.wait_opened();
    let second = lab.connect("127.0.0.1:22");
    let stopped = watch.wait_end();
    assert_eq!(stopped.status.code(), Some(0));
    assert_eq!(actions(&stopped.records), ["connection-opened"; 2]);
    let ports: Vec<_> = with_action(&stopped.records, "connection-opened")
        .iter()
        .map(|open| open["source"]["port"].clone())
        .collect();
    assert_eq!(ports, [first, second].map(|client| json!(client.local_addr().unwrap().port())));
    assert_fields(stopped.records.last().unwrap(), &json!({ "event.action": "watch-stopped" }));
}

#[test]
fn duration_ends_it_after_that_time() {
    let lab = lab!();
    let _server = lab.listen("127.0.0.1:22");
    let began = Instant::now();
    let watch = lab.watch(&["--duration", "1s"]);
    let stopped = watch.wait_end();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(950) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(stopped.status.code(), Some(0));
    assert_eq!(stopped.records.last().unwrap()["event"]["action"], "watch-stopped");
}

#[test]
fn of_bursts_of_short_connections_everything_that_left_a_row_is_told_once() {
    const BURSTS: usize = 4;
    const BURST: usize = 100;
    let lab = lab!("ss");
    let server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&["--interval", "5ms"]);
    let (served, wait_served) = std::sync::mpsc::channel();
    let serving = std::thread::spawn(move || {
        for stream in server.incoming().take(BURSTS * BURST) {
            std::io::copy(&mut stream.unwrap(), &mut std::io::sink()).unwrap();
            served.send(()).unwrap();
        }
    });
    // Each lives a moment or a few ticks; never more than ten at a time.
    let mut made = Vec::new();
    for _ in 0..BURSTS {
        made.extend(lab.inside(|| burst(BURST)));
        (0..BURST).for_each(|_| wait_served.recv_timeout(PATIENCE).unwrap());
    }
    serving.join().unwrap();
    // On a busy machine the kernel resets a few in TIME_WAIT: what leaves no row cannot be told, unless it was seen alive.
    let rows = lab.run("ss -tanH state time-wait dport 22");
    let port_of = |row: &str| row.split_whitespace().nth(2)?.rsplit_once(':')?.1.parse::<u64>().ok();
    let standing: BTreeSet<_> = rows.lines().map(|row| port_of(row).unwrap()).collect();

    // A repair read comes within ten seconds even on a slow machine.
    let ports_of = |records: &[Value], action: &str| -> Vec<u64> {
        with_action(records, action).iter().map(|record| record["source"]["port"].as_u64().unwrap()).collect()
    };
    watch.wait_for("a close of every row", |records| {
        let closed: BTreeSet<_> = ports_of(records, "connection-closed").into_iter().collect();
        standing.is_subset(&closed).then_some(())
    });
    let records = watch.stop().records;
    let opened = ports_of(&records, "connection-opened");
    let once: BTreeSet<_> = opened.iter().copied().collect();
    println!("{} made, {} left a row, {} told", made.len(), standing.len(), opened.len());
    assert_eq!(once.len(), opened.len(), "none twice");
    assert!(once.iter().all(|port| made.contains(port)), "none that was not made");
}

/// Connects that often; the source ports.
fn burst(count: usize) -> Vec<u64> {
    let mut alive = std::collections::VecDeque::new();
    let mut ports = Vec::new();
    for number in 0..count {
        let client = std::net::TcpStream::connect("127.0.0.1:22").unwrap();
        ports.push(u64::from(client.local_addr().unwrap().port()));
        alive.push_back(client);
        if alive.len() > number % 10 {
            alive.pop_front();
        }
    }
    ports
}
