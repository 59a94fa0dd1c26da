//! Outbound means that this host is the end that connected.

use std::net::TcpStream;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use serde_json::json;

use crate::lab;
use crate::support::log::{actions, assert_fields, tuple, with};
use crate::support::session::{STAY, Session};

#[test]
fn a_session_to_this_hosts_own_sshd_is_reported_once_and_from_the_clients_side() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    for ports in ["22", "all"] {
        let mut watch = lab.watch(&["--ports", ports]);
        let session = Session::start(lab.ssh().args(["127.0.0.1", STAY]));
        let expected = with(json!({ "process.pid": session.pid() }), tuple(&session.addresses));
        let open = watch.wait_opened();
        assert_fields(&open, &expected);
        assert!(session.end().success());
        assert_fields(&watch.wait_closed(), &expected);
        let records = watch.stop().records;
        let (opens, closes): (Vec<_>, Vec<_>) = actions(&records)
            .into_iter()
            .filter(|action| *action != "connection-changed")
            .partition(|action| *action == "connection-opened");
        assert_eq!((opens.len(), closes.len()), (1, 1), "--ports {ports}: {records:#?}");
    }
}

#[test]
fn an_inbound_session_whose_client_uses_source_port_22_is_not_reported() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:2222"]);
    let watch = lab.watch(&[]);

    let client = lab.inside(|| connect_from("127.0.0.2:22", "127.0.0.1:2222"));
    let mut banner = [0; 4];
    std::io::Read::read_exact(&mut &client, &mut banner).unwrap();
    assert_eq!(&banner, b"SSH-", "sshd has accepted it");
    std::thread::sleep(std::time::Duration::from_millis(500));
    drop(client);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let records = watch.stop().records;
    assert_eq!(actions(&records), [""; 0], "{records:#?}");
}

#[test]
fn an_inbound_session_from_another_host_is_not_reported_even_with_all_ports() {
    let (mut lab, far) = (lab!(), lab!());
    lab.join(&far);
    lab.sshd(&["192.0.2.1:22"]);
    std::fs::copy(lab.path("user_key"), far.path("user_key")).unwrap();
    let watch = lab.watch(&["--ports", "all"]);

    let session = Session::start(far.ssh().args(["192.0.2.1", STAY]));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(session.end().success());
    std::thread::sleep(std::time::Duration::from_millis(300));
    let records = watch.stop().records;
    assert_eq!(actions(&records), [""; 0], "{records:#?}");
}

#[test]
fn ipv6_is_reported_as_ipv6() {
    let mut lab = lab!();
    if !std::path::Path::new("/proc/net/tcp6").exists() {
        return crate::support::not_run("ipv6_is_reported_as_ipv6", "the kernel has no IPv6");
    }
    lab.sshd(&["[::1]:22"]);
    let mut watch = lab.watch(&[]);
    let session = Session::start(lab.ssh().args(["::1", STAY]));
    assert_eq!((&*session.addresses.0, &*session.addresses.2), ("::1", "::1"));
    let expected = json!({ "network.type": "ipv6", "process.pid": session.pid(), "process.name": "ssh" });
    let expected = with(expected, tuple(&session.addresses));
    assert_fields(&watch.wait_opened(), &expected);
    assert!(session.end().success());
    assert_fields(&watch.wait_closed(), &expected);
    watch.stop();
}

#[test]
fn an_ipv6_socket_to_a_mapped_address_is_reported_as_ipv4() {
    let lab = lab!();
    let server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&[]);
    let client = lab.connect("[::ffff:127.0.0.1]:22");
    let local = client.local_addr().unwrap();
    assert!(local.is_ipv6(), "{local}");
    let (_accepted, _) = server.accept().unwrap();
    let addresses = ("127.0.0.1".into(), local.port(), "127.0.0.1".into(), 22);
    let expected = json!({ "network.type": "ipv4", "process.pid": std::process::id() });
    assert_fields(&watch.wait_opened(), &with(expected, tuple(&addresses)));
    drop(client);
    drop(_accepted);
    watch.wait_closed();
    watch.stop();
}

/// A connection from an address and port of the test's choice.
fn connect_from(from: &str, to: &str) -> TcpStream {
    let client: OwnedFd =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_reuseaddr(&client, true).unwrap();
    bind(&client, &from.parse::<std::net::SocketAddr>().unwrap()).unwrap();
    connect(&client, &to.parse::<std::net::SocketAddr>().unwrap()).unwrap();
    TcpStream::from(client)
}
