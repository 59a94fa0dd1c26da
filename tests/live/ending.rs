//! Ends that no orderly shutdown announces.

use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use serde_json::json;

use crate::lab;
use crate::support::log::{actions, assert_fields};

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
fn a_descriptor_passed_on_to_a_child_keeps_the_connection_open_until_the_last_holder_ends() {
    let lab = lab!("bash");
    let server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&[]);
    // The child inherits descriptor 3 and outlives the shell that connected.
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; sleep 1.5 & exec 4<&3; sleep 0.7";
    let mut shell = lab.command("bash").args(["-c", script]).spawn().unwrap();
    let (_accepted, _) = server.accept().unwrap();
    let open = watch.wait_opened();
    assert_fields(&open, &json!({ "process.pid": shell.id() }));
    shell.wait().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!actions(&watch.records()).contains(&"connection-closed"), "its child still holds the socket");
    let close = watch.wait_closed();
    assert_eq!(close["portreeve"]["connection"]["id"], open["portreeve"]["connection"]["id"]);
    watch.stop();
}
