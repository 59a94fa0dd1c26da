//! Ends that no orderly shutdown announces.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use serde_json::json;

use crate::lab;
use crate::support::log::{actions, assert_fields, with_action};
use crate::support::output;

#[test]
fn a_connection_reset_by_its_peer_is_closed_though_its_descriptor_stands() {
    let lab = lab!();
    let server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&[]);
    let client = lab.connect("127.0.0.1:22");
    let (accepted, _) = server.accept().unwrap();
    let open = watch.wait_opened();
    assert_fields(
        &open,
        &json!({ "process.pid": std::process::id(), "portreeve.connection.state": "established" }),
    );

    set_socket_linger(&accepted, Some(Duration::ZERO)).unwrap();
    drop(accepted);
    let reset = Instant::now();
    let close = watch.wait_closed();
    println!("closed {:?} after the reset", reset.elapsed());
    assert!(reset.elapsed() < Duration::from_secs(4), "closed {:?} after the reset", reset.elapsed());
    let expected = json!({
        "portreeve.connection.id": open["portreeve"]["connection"]["id"],
        "portreeve.close.reason": "reset",
        "event.outcome": "success",
        "source.port": client.local_addr().unwrap().port(),
    });
    assert_fields(&close, &expected);
    assert_eq!(actions(&watch.stop().records), ["connection-opened", "connection-closed"]);
}

#[test]
fn a_connection_whose_process_is_killed_is_closed() {
    let lab = lab!("bash");
    let server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&[]);
    let mut client =
        lab.command("bash").args(["-c", "exec 3<>/dev/tcp/127.0.0.1/22; read -u 3"]).spawn().unwrap();
    let (_accepted, _) = server.accept().unwrap();
    let open = watch.wait_opened();
    assert_fields(&open, &json!({ "process.pid": client.id(), "process.name": "bash" }));
    client.kill().unwrap();
    client.wait().unwrap();
    // The server still holds its end, so that the row stays in FIN_WAIT2 and the kernel counts no end yet.
    let close = watch.wait_closed();
    assert_fields(&close, &json!({ "process.pid": client.id(), "event.outcome": "success" }));
    watch.stop();
}

#[test]
fn a_socket_handed_on_to_a_child_stays_open_and_gets_the_child_as_its_owner() {
    let lab = lab!("bash");
    let server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&[]);
    let elsewhere = lab.listen("127.0.0.1:0");
    // The shell waits by reading, because each child that it started would have the socket for a moment.
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; read -t 0.6 -u 3; sleep 3 & read -t 0.3 -u 3";
    let mut shell = lab.command("bash").args(["-c", script]).spawn().unwrap();
    let (_accepted, _) = server.accept().unwrap();
    let open = watch.wait_opened();
    assert_fields(
        &open,
        &json!({ "process.pid": shell.id(), "portreeve.attribution.holders": [shell.id()] }),
    );
    shell.wait().unwrap();
    // No counter tells that a process ended while another holds its socket: the next reading of the tables tells it,
    // which any connection brings about, also one that is not watched.
    let _elsewhere = lab.connect(&elsewhere.local_addr().unwrap().to_string());
    let change = watch.wait_for("the child as the owner", |records| {
        with_action(records, "connection-changed")
            .into_iter()
            .find(|change| change["process"]["name"] == "sleep")
    });
    assert_eq!(
        with_action(&watch.records(), "connection-closed").len(),
        0,
        "the child still holds the socket"
    );
    let id = &open["portreeve"]["connection"]["id"];
    let close = watch.wait_closed();
    for record in [&change, &close] {
        assert_eq!(&record["portreeve"]["connection"]["id"], id);
        assert_fields(record, &json!({ "process.name": "sleep", "process.args": ["sleep", "3"] }));
    }
    watch.stop();
}

#[test]
fn of_a_family_that_shares_a_socket_all_are_named_and_who_started_first_is_the_owner() {
    let lab = lab!("bash");
    let server = lab.listen("127.0.0.1:22");
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; sleep 20 & echo $!; wait";
    let mut shell = lab.command("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let (_accepted, _) = server.accept().unwrap();
    let mut child = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut child).unwrap();
    let child: u32 = child.trim().parse().unwrap();
    let mut watch = lab.watch(&[]);
    let shared = json!({
        "portreeve.attribution.status": "shared",
        "portreeve.attribution.holders": [shell.id(), child],
        "process.pid": shell.id(),
    });
    assert_fields(&watch.wait_opened(), &shared);
    shell.kill().unwrap();
    shell.wait().unwrap();
    watch.stop();
}

#[test]
fn a_socket_that_only_a_thread_holds_is_its_processs() {
    let lab = lab!("python3");
    let server = lab.listen("127.0.0.1:22");
    // A thread with a table of descriptors of its own, which the process's `fd` does not show: CLONE_FILES is 0x400.
    let script = "import ctypes, socket, threading, time\n\
        def work():\n    \
            assert ctypes.CDLL(None).unshare(0x400) == 0\n    \
            held = socket.create_connection(('127.0.0.1', 22))\n    \
            time.sleep(20)\n\
        threading.Thread(target=work).start()\n";
    let mut python = lab.command("python3").args(["-c", script]).spawn().unwrap();
    let (_accepted, _) = server.accept().unwrap();
    let mut watch = lab.watch(&[]);
    let owner = json!({ "process.pid": python.id(), "portreeve.attribution.status": "owned" });
    let told = watch.wait_for("the owner", |records| {
        records.iter().find(|record| record["process"]["pid"].is_u64()).cloned()
    });
    assert_fields(&told, &owner);
    python.kill().unwrap();
    python.wait().unwrap();
    watch.wait_closed();
    watch.stop();
}

#[test]
fn short_lived_children_that_inherit_a_socket_do_not_hide_who_made_it() {
    let lab = lab!("bash");
    let _server = lab.listen("127.0.0.1:22");
    // Each of its children holds the socket for about a millisecond: a search that counts down from the newest pid meets
    // one of them first, and it is gone before it can be read.
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; echo; while :; do /bin/true; done";
    let mut shell = lab.command("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(&mut shell.stdout.take().unwrap(), &mut [0]).unwrap();
    for _ in 0..20 {
        let once = output(lab.portreeve().args(["--once", "--format", "json"]));
        let open: serde_json::Value = serde_json::from_slice(&once.stdout).unwrap();
        assert_fields(&open, &json!({ "event.action": "connection-opened", "process.pid": shell.id() }));
    }
    shell.kill().unwrap();
    shell.wait().unwrap();
}
