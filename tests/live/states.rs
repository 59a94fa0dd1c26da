//! Connections that fail, hang, stood before, or are over before anybody looks.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::NOBODY;
use crate::support::log::{actions, assert_fields, pick, tuple, with, with_action};
use crate::support::session::{Beginning, STAY, Session};
use crate::support::watch::PATIENCE;
use crate::support::{output, wait_for};

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

#[test]
fn a_refused_port_is_never_told_as_a_success() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:2222"]);
    let watch = lab.watch(&[]);
    for _ in 0..5 {
        let ssh = output(lab.ssh().args(["127.0.0.1", "true"]));
        assert_eq!(ssh.status.code(), Some(255));
        assert!(String::from_utf8_lossy(&ssh.stderr).contains("Connection refused"));
    }
    sleep_ms(300);
    // On loopback the refusal comes before connect(2) returns: seldom is there anything to see.
    let records = watch.stop().records;
    for record in records.iter().filter(|record| record["event"]["action"] == "connection-closed") {
        assert_ne!(record["event"]["outcome"], "success", "{record}");
        assert_ne!(record["portreeve"]["close"]["reason"], "closed", "{record}");
    }
    assert!(!actions(&records).contains(&"connection-changed"), "{records:#?}");
}

#[test]
fn a_filtered_port_is_opened_in_syn_sent_and_closed_as_no_success() {
    let mut lab = lab!("nft");
    lab.sshd(&["127.0.0.1:22"]);
    lab.filter_port(22);
    let mut watch = lab.watch(&[]);

    let mut ssh = lab
        .ssh()
        .args(["-o", "ConnectTimeout=2", "127.0.0.1", "true"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let open = watch.wait_opened();
    let expected = json!({
        "process.pid": ssh.id(),
        "process.name": "ssh",
        "destination.ip": "127.0.0.1",
        "destination.port": 22,
        "portreeve.connection.state": "syn_sent",
    });
    assert_fields(&open, &expected);
    assert_ne!(open["event"]["outcome"], "success", "an attempt is no success: {open}");
    assert_eq!(wait_for("ssh's end", PATIENCE, || ssh.try_wait().unwrap()).code(), Some(255));
    let close = watch.wait_closed();
    assert_fields(&close, &json!({ "process.pid": ssh.id(), "portreeve.connection.state": "syn_sent" }));
    assert!(["failure", "unknown"].iter().any(|outcome| close["event"]["outcome"] == *outcome), "{close}");
    let reason = &close["portreeve"]["close"]["reason"];
    assert!(["cancelled", "failed", "timed_out"].iter().any(|known| reason == known), "{close}");
    assert_eq!(actions(&watch.stop().records), ["connection-opened", "connection-closed"]);
}

#[test]
fn a_filtered_port_that_opens_makes_the_same_connection_established() {
    let mut lab = lab!("nft");
    lab.sshd(&["127.0.0.1:22"]);
    lab.filter_port(22);
    let mut watch = lab.watch(&[]);

    let beginning = Beginning::new(lab.ssh().args(["127.0.0.1", STAY]));
    let open = watch.wait_opened();
    assert_fields(
        &open,
        &json!({ "process.pid": beginning.child.id(), "portreeve.connection.state": "syn_sent" }),
    );
    // Its next packet, a second after the first, gets through.
    lab.open_ports();
    let session = beginning.logged_in();
    let id = &open["portreeve"]["connection"]["id"];
    let change = watch.wait_actions("connection-changed", 1).remove(0);
    let expected = json!({ "portreeve.connection.id": id, "portreeve.connection.state": "established" });
    assert_fields(&change, &with(expected, tuple(&session.addresses)));
    assert!(session.end().success());
    let close = watch.wait_closed();
    assert_fields(&close, &json!({ "portreeve.connection.id": id, "event.outcome": "success" }));
    assert_eq!(
        actions(&watch.stop().records),
        ["connection-opened", "connection-changed", "connection-closed"]
    );
}

#[test]
fn a_connection_that_stands_at_the_start_has_no_invented_beginning_and_stopping_invents_no_end() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let session = Session::start(lab.ssh().args(["127.0.0.1", STAY]));
    let mut watch = lab.watch(&[]);
    let open = watch.wait_opened();
    let expected = json!({
        "portreeve.connection.seen": "start",
        "portreeve.connection.state": "established",
        "event.start": null,
        "process.pid": session.pid(),
    });
    assert_fields(&open, &with(expected, tuple(&session.addresses)));
    let records = watch.stop().records;
    assert_eq!(actions(&records), ["connection-opened"], "no close");
    assert_eq!(records.last().unwrap()["event"]["action"], "watch-stopped");
    assert!(session.end().success());
}

#[test]
fn once_prints_the_connections_that_stand_and_exits() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let sessions: Vec<_> = (0..2).map(|_| Session::start(lab.ssh().args(["127.0.0.1", STAY]))).collect();
    let json = output(lab.portreeve().args(["--once", "--format", "json"]));
    assert_eq!(json.status.code(), Some(0), "{}", String::from_utf8_lossy(&json.stderr));
    let text = String::from_utf8(json.stdout).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut found: Vec<_> = with_action(&records, "connection-opened")
        .iter()
        .map(|open| open["process"]["pid"].as_u64())
        .collect();
    found.sort_unstable();
    let mut expected: Vec<_> = sessions.iter().map(|session| Some(u64::from(session.pid()))).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(actions(&records), ["connection-opened"; 2]);

    let text = output(lab.portreeve().args(["--once", "--format", "text"]));
    let text = String::from_utf8(text.stdout).unwrap();
    for session in &sessions {
        let (from, from_port, to, to_port) = &session.addresses;
        let ends = format!("  {from}:{from_port} → {to}:{to_port}  ");
        let owner = format!("  ssh[{}] ← ", session.pid());
        assert!(
            text.lines().any(|line| line.contains(&ends) && line.contains(&owner)),
            "no {ends}{owner} in:\n{text}"
        );
    }
}

#[test]
fn connections_shorter_than_the_interval_are_told_once_each_and_never_as_roots() {
    let lab = lab!("bash");
    let server = lab.listen("127.0.0.1:2222");
    // It never speaks, so that a client that closes at once ends in order, with a TIME_WAIT of its own.
    let served = std::thread::spawn(move || {
        for stream in server.incoming().take(20) {
            std::io::copy(&mut stream.unwrap(), &mut std::io::sink()).unwrap();
        }
    });
    let mut watch = lab.watch(&["--ports", "2222"]);
    for _ in 0..20 {
        let mut client = lab.command_as(NOBODY, &[], "bash");
        assert!(client.args(["-c", "exec 3<>/dev/tcp/127.0.0.1/2222"]).status().unwrap().success());
    }
    served.join().unwrap();
    let closes = watch.wait_actions("connection-closed", 20);
    sleep_ms(200);
    let records = watch.stop().records;
    let opens = with_action(&records, "connection-opened");
    assert_eq!((opens.len(), with_action(&records, "connection-closed").len()), (20, 20));
    let mut ports: Vec<_> = opens.iter().map(|open| open["source"]["port"].as_u64().unwrap()).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 20, "each of them once");
    for record in opens.iter().chain(&closes) {
        let connection = &record["portreeve"]["connection"];
        if connection["inode"].is_null() {
            let unknown = json!({
                "portreeve.attribution.status": "unknown",
                "portreeve.attribution.reason": "time_wait",
                "process": null,
                "user": null,
                "portreeve.connection.inode": null,
            });
            assert_fields(record, &unknown);
        } else {
            // Where SYNs are heard, a look may still come before one is.
            let seen = connection["seen"].as_str().unwrap();
            assert!([crate::FIRST_SIGHT, "poll"].contains(&seen), "{record}");
            assert_eq!(record["user"]["id"], "65534", "{record}");
        }
    }
    let late = opens.iter().filter(|open| open["portreeve"]["connection"]["inode"].is_null()).count();
    println!("{late} of 20 were over when they were looked at");
    if crate::FIRST_SIGHT == "poll" {
        assert!(late > 0, "all 20 seen alive: this test proved nothing");
    }
}

#[test]
fn what_ended_before_the_watch_began_is_not_told() {
    let lab = lab!("bash", "ss");
    let server = lab.listen("127.0.0.1:22");
    for _ in 0..3 {
        let client = lab.connect("127.0.0.1:22");
        let (mut accepted, _) = server.accept().unwrap();
        drop(client);
        std::io::copy(&mut accepted, &mut std::io::sink()).unwrap();
    }
    wait_for("three rows in TIME_WAIT", PATIENCE, || {
        (lab.run("ss -tanH state time-wait").lines().count() == 3).then_some(())
    });
    let mut watch = lab.watch(&[]);
    // Another connection makes it read the tables again, also after its first look.
    let client = lab.connect("127.0.0.1:22");
    watch.wait_opened();
    sleep_ms(300);
    let records = watch.stop().records;
    let told: Vec<_> = with_action(&records, "connection-opened")
        .iter()
        .map(|open| pick(open, &["source.port", "portreeve.connection.seen"]))
        .collect();
    let port = client.local_addr().unwrap().port();
    assert_eq!(told, [json!({ "source.port": port, "portreeve.connection.seen": crate::FIRST_SIGHT })]);
}
