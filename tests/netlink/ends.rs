use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use portreeve::connection::{Cookie, Counts};
use portreeve::netlink::{DestroyNotices, Destroyed};
use portreeve::proc::{Net, Proc};
use rustix::net::sockopt::{set_socket_linger, socket_cookie};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::support::wait_for;

fn cookie(socket: impl std::os::fd::AsFd) -> Option<Cookie> {
    Cookie::new(socket_cookie(socket).unwrap())
}

/// The one notice about each of these sockets.
fn notices_of<const N: usize>(notices: &mut DestroyNotices, wanted: [Option<Cookie>; N]) -> [Destroyed; N] {
    let mut found = wanted.map(|_| None);
    wait_for("the notices", Duration::from_secs(5), || {
        let each = |ended: Destroyed| {
            for (slot, _) in found.iter_mut().zip(&wanted).filter(|(_, cookie)| **cookie == ended.cookie) {
                assert_eq!(slot.replace(ended), None, "once");
            }
        };
        notices.receive(1000, each).unwrap();
        found.iter().all(Option::is_some).then_some(())
    });
    found.map(Option::unwrap)
}

struct Pair {
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

/// 1,000 bytes there, 500 back, read on both sides.
fn pair(host: &str) -> Pair {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut server = listener.accept().unwrap().0;
    client.write_all(&[7; 1000]).unwrap();
    server.read_exact(&mut [0; 1000]).unwrap();
    server.write_all(&[7; 500]).unwrap();
    client.read_exact(&mut [0; 500]).unwrap();
    Pair { listener, client, server }
}

fn bytes(counts: Option<Counts>) -> (Option<u64>, u64) {
    counts.map(|counts| (counts.sent, counts.received)).unwrap()
}

#[test]
fn an_end_is_told_with_ends_cookie_and_bytes_whoever_closes_first() {
    for host in ["127.0.0.1", "::1"] {
        for client_first in [true, false] {
            let mut notices = DestroyNotices::subscribe().unwrap();
            let Pair { listener: _listener, client, server } = pair(host);
            let cookies = [cookie(&client), cookie(&server)];
            let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            if client_first {
                drop(client);
                drop(server);
            } else {
                drop(server);
                drop(client);
            }
            let [ours, theirs] = notices_of(&mut notices, cookies);
            assert_eq!((ours.tuple.local, ours.tuple.remote), ends);
            assert_eq!((theirs.tuple.remote, theirs.tuple.local), ends);
            let established = |ended: &Destroyed| ended.counts.unwrap().established;
            assert!(ours.attempted && established(&ours) && established(&theirs));
            // A peer's FIN counts as one byte received: always where it closed first, else only if it came before the
            // rest of the socket was put into FIN_WAIT2.
            let [first, second] = if client_first { [ours, theirs] } else { [theirs, ours] };
            let (first_sent, second_sent) = if client_first { (1000, 500) } else { (500, 1000) };
            assert_eq!(bytes(second.counts), (Some(second_sent), first_sent + 1));
            assert_eq!(first.counts.unwrap().sent, Some(first_sent));
            assert!((second_sent..=second_sent + 1).contains(&first.counts.unwrap().received), "{first:?}");
        }
    }
}

#[test]
fn who_resets_loses_the_counts_and_who_was_reset_keeps_them() {
    for (host, by_client) in [("127.0.0.1", true), ("127.0.0.1", false), ("::1", true), ("::1", false)] {
        let mut notices = DestroyNotices::subscribe().unwrap();
        let Pair { listener: _listener, client, server } = pair(host);
        let (first, second) = if by_client { (client, server) } else { (server, client) };
        let cookies = [cookie(&first), cookie(&second)];
        let local = first.local_addr().unwrap();
        set_socket_linger(&first, Some(Duration::ZERO)).unwrap();
        drop(first);
        drop(second);
        let [resetting, was_reset] = notices_of(&mut notices, cookies);
        assert_eq!((resetting.tuple.local.port(), resetting.tuple.remote.port()), (local.port(), 0));
        assert!(resetting.attempted && was_reset.attempted, "though disconnected");
        assert_eq!(bytes(resetting.counts), (Some(0), 0));
        assert_eq!(was_reset.tuple.remote, local);
        assert_eq!(bytes(was_reset.counts), if by_client { (Some(500), 1000) } else { (Some(1000), 500) });
    }
}

#[test]
fn a_refused_attempt_is_told_from_a_listener_and_from_an_unused_socket() {
    for (family, host) in [(AddressFamily::INET, "127.0.0.1:0"), (AddressFamily::INET6, "[::1]:0")] {
        let mut notices = DestroyNotices::subscribe().unwrap();
        let host: SocketAddr = host.parse().unwrap();
        let bound = |flags| {
            let socket = socket_with(family, SocketType::STREAM, flags, None).unwrap();
            rustix::net::bind(&socket, &host).unwrap();
            socket
        };
        let listener = TcpListener::bind(host).unwrap();
        let closed = listener.local_addr().unwrap();
        let (unused, waited, not_waited) =
            (bound(SocketFlags::empty()), bound(SocketFlags::empty()), bound(SocketFlags::NONBLOCK));
        let cookies = [cookie(&listener), cookie(&unused), cookie(&waited), cookie(&not_waited)];
        drop(listener);
        connect(&waited, &closed).unwrap_err();
        let _in_progress = connect(&not_waited, &closed);
        drop((unused, waited, not_waited));
        let [listening, unused, waited, not_waited] = notices_of(&mut notices, cookies);
        for ended in [listening, unused] {
            assert!(!ended.attempted && ended.tuple.remote.port() == 0, "{ended:?}");
        }
        assert!(waited.attempted && waited.tuple.remote.port() == 0, "{waited:?}");
        assert!(not_waited.attempted, "{not_waited:?}");
        assert_eq!(not_waited.tuple.remote, closed, "nobody disconnected it");
        for ended in [waited, not_waited] {
            assert!(!ended.counts.unwrap().established);
        }
    }
}

#[test]
fn what_does_not_fit_is_told_and_counted() {
    let mut notices = DestroyNotices::with_buffer(0).unwrap();
    for _ in 0..200 {
        drop(pair("127.0.0.1"));
    }
    let lost = wait_for("the kernel to count", Duration::from_secs(5), || {
        let drops = Proc::new("/proc").unwrap().read_netlink_drops(Net::Own).unwrap();
        drops.get(&notices.inode()).copied()
    });
    let mut told = 0;
    let received = notices.receive(1000, |_| told += 1).unwrap();
    assert!(received.overflowed && received.drained && told > 0 && lost > 100, "{received:?} {told} {lost}");
    wait_for("a notice after the overflow", Duration::from_secs(5), || {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = cookie(&unused);
        drop(unused);
        let mut told = false;
        notices.receive(1000, |ended| told |= ended.cookie == wanted).unwrap();
        told.then_some(())
    });
}

#[test]
fn no_more_are_read_than_asked_for() {
    let mut notices = DestroyNotices::subscribe().unwrap();
    for _ in 0..5 {
        drop(pair("127.0.0.1"));
    }
    wait_for("five pairs", Duration::from_secs(5), || {
        let received = notices.receive(3, |_| {}).unwrap();
        (received.messages == 3 && !received.drained).then_some(())
    });
}
