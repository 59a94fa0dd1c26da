use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use portreeve::connection::{Socket, TcpState, Tuple};
use portreeve::netlink::{Clause, Diag, Filter, states};
use portreeve::proc::{Net, Proc};

use crate::lab;
use crate::support::wait_for;

/// A listener and both ends of one connection to it.
struct Trio {
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

fn trio(bind: &str, host: &str) -> Trio {
    let listener = TcpListener::bind((bind, 0)).unwrap();
    let client = TcpStream::connect((host, listener.local_addr().unwrap().port())).unwrap();
    let server = listener.accept().unwrap().0;
    Trio { listener, client, server }
}

fn fold(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

fn tuple(stream: &TcpStream) -> Tuple {
    Tuple { local: fold(stream.local_addr().unwrap()), remote: fold(stream.peer_addr().unwrap()) }
}

fn dump(states: u32, filter: Option<&Filter>) -> Vec<Socket> {
    let mut rows = Vec::new();
    let outcome = Diag::open().unwrap().dump(states, filter, |socket| rows.push(socket)).unwrap();
    assert_eq!((outcome.rows, outcome.unparsed), (rows.len() as u64, 0));
    rows
}

fn only(rows: &[Socket], tuple: Tuple) -> Socket {
    // A row may come twice while its state changes; the later one is the newer.
    *rows.iter().rfind(|row| row.tuple == tuple).unwrap_or_else(|| panic!("{tuple:?} is not there"))
}

#[test]
fn both_families_come_in_one_dump_and_a_mapped_address_is_ipv4() {
    for (bind, host) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")] {
        let Trio { listener, client, server } = trio(bind, host);
        let rows = dump(states::ALL, None);
        for stream in [&client, &server] {
            let row = only(&rows, tuple(stream));
            assert_eq!(row.state, TcpState::Established);
            assert_eq!(row.uid, rustix::process::getuid().as_raw());
            assert_eq!(row.inode.unwrap().get(), rustix::fs::fstat(stream).unwrap().st_ino);
            assert_eq!(row.cookie.unwrap().get(), rustix::net::sockopt::socket_cookie(stream).unwrap());
            assert_eq!((row.device, row.timewait_left), (0, None));
        }
        let at = listener.local_addr().unwrap();
        let nobody = SocketAddr::new(if at.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() }, 0);
        assert_eq!(only(&rows, Tuple { local: at, remote: nobody }).state, TcpState::Listen);
    }
}

#[test]
fn udp_sockets_come_by_their_state_and_through_the_same_filter() {
    for (bind, host) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")] {
        let bound = UdpSocket::bind((bind, 0)).unwrap();
        let flow = UdpSocket::bind((bind, 0)).unwrap();
        flow.connect((host, 9)).unwrap();
        let ends = Tuple { local: fold(flow.local_addr().unwrap()), remote: fold(flow.peer_addr().unwrap()) };
        let rows = |states, filter: Option<Filter>| {
            let mut rows = Vec::new();
            let mut diag = Diag::open().unwrap();
            let outcome = diag.dump_udp(states, filter.as_ref(), |socket| rows.push(socket));
            // A dump of UDP leaves nothing behind in which one of TCP would end.
            diag.dump(states::LISTEN, None, |_| {}).unwrap();
            (rows, outcome)
        };
        let (connected, outcome) = rows(states::UDP_CONNECTED, None);
        if let Err(error) = outcome {
            return crate::support::not_run("udp_sockets_come_by_their_state", &error.to_string());
        }
        let row = only(&connected, ends);
        assert_eq!(row.inode.unwrap().get(), rustix::fs::fstat(&flow).unwrap().st_ino);
        assert_eq!(row.cookie.unwrap().get(), rustix::net::sockopt::socket_cookie(&flow).unwrap());
        let at = bound.local_addr().unwrap();
        let is_bound = |row: &Socket| row.tuple.local.port() == at.port();
        assert!(!connected.iter().any(is_bound), "no remote end");
        let local = |port: u16| Filter::any_of([Clause::LocalPorts(port..=port)]);
        assert!(rows(states::UDP_BOUND, local(at.port())).0.iter().all(is_bound));
        assert!(rows(states::UDP_BOUND, local(at.port())).0.iter().any(is_bound));
        for (port, passes) in [(9, true), (10, false)] {
            let remote = Filter::any_of([Clause::RemotePorts(port..=port)]);
            assert_eq!(rows(states::UDP_CONNECTED, remote).0.iter().any(|row| row.tuple == ends), passes);
        }
        let range = Filter::any_of([Clause::RemotePorts(5..=12), Clause::RemotePorts(443..=443)]);
        assert!(rows(states::UDP_CONNECTED, range).0.iter().any(|row| row.tuple == ends));
    }
}

#[test]
fn a_socket_is_found_by_its_ends_its_cookie_and_its_device_or_not_at_all() {
    use std::io::{Read as _, Write as _};
    for (bind, host) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")] {
        let Trio { listener: _listener, mut client, mut server } = trio(bind, host);
        client.write_all(&[7; 1000]).unwrap();
        server.write_all(&[7; 500]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        client.read_exact(&mut [0; 500]).unwrap();
        let mut diag = Diag::open().unwrap();
        let ends = tuple(&client);
        let found = diag.find(&ends, 0, None).unwrap().unwrap();
        assert_eq!(found.socket, only(&dump(states::ALL, None), ends));
        let counts = found.counts.unwrap();
        assert_eq!((counts.sent, counts.received, counts.established), (Some(1000), 500, true));
        assert_eq!((counts.received_segments, counts.repeats), (1, 0));
        let cookie = found.socket.cookie;
        assert_eq!(diag.find(&ends, 0, cookie).unwrap(), Some(found));
        assert_eq!(diag.find(&ends, 1, cookie).unwrap(), Some(found), "bound to no device, so any");
        let other = portreeve::connection::Cookie::new(cookie.unwrap().get() + 1_000_000);
        assert_eq!(diag.find(&ends, 0, other).unwrap(), None);
        let elsewhere = Tuple { remote: "203.0.113.7:9".parse().unwrap(), ..ends };
        assert_eq!(diag.find(&elsewhere, 0, None).unwrap(), None, "the listener is not meant");
    }
}

#[test]
fn a_closed_socket_is_in_time_wait_or_nowhere() {
    let Trio { listener: _listener, client, server } = trio("127.0.0.1", "127.0.0.1");
    let (ends, theirs) = (tuple(&client), tuple(&server));
    let mut diag = Diag::open().unwrap();
    let cookie = diag.find(&ends, 0, None).unwrap().unwrap().socket.cookie;
    drop(client);
    drop(server);
    let left = wait_for("TIME_WAIT", Duration::from_secs(5), || {
        let sight = diag.find(&ends, 0, cookie).unwrap().unwrap();
        (sight.socket.state == TcpState::TimeWait).then_some(sight)
    });
    assert_eq!((left.socket.inode, left.counts), (None, None));
    let rest = left.socket.timewait_left.unwrap();
    assert!((Duration::from_secs(50)..Duration::from_secs(62)).contains(&rest), "{rest:?}");
    assert_eq!(diag.find(&theirs, 0, None).unwrap(), None);
    assert!(dump(states::LIVE, None).iter().all(|row| row.state != TcpState::TimeWait));
}

#[test]
fn states_that_are_not_asked_for_do_not_come() {
    let _sockets = trio("127.0.0.1", "127.0.0.1");
    let listeners = dump(states::LISTEN, None);
    assert!(!listeners.is_empty() && listeners.iter().all(|row| row.state == TcpState::Listen));
    let others = dump(states::NOT_LISTEN, None);
    assert!(!others.is_empty() && others.iter().all(|row| row.state != TcpState::Listen));
    assert!(dump(0, None).is_empty());
}

#[test]
fn a_filter_passes_rows_by_either_port() {
    let sockets: Vec<_> = (0..4).map(|_| trio("127.0.0.1", "127.0.0.1")).collect();
    let port = |n: usize| sockets[n].listener.local_addr().unwrap().port();
    let all = dump(states::ALL, None);
    let clauses = |remote: &[usize], local: &[usize]| {
        let remote = remote.iter().map(|n| Clause::RemotePorts(port(*n)..=port(*n)));
        remote.chain(local.iter().map(|n| Clause::LocalPorts(port(*n)..=port(*n)))).collect::<Vec<_>>()
    };
    for (remote, local) in [(&[0][..], &[][..]), (&[], &[1]), (&[0, 1, 2], &[3]), (&[], &[])] {
        let filter = Filter::any_of(clauses(remote, local)).unwrap();
        let passed = dump(states::ALL, Some(&filter));
        let is = |wanted: &[usize], end: SocketAddr| wanted.iter().any(|n| end.port() == port(*n));
        for (n, trio) in sockets.iter().enumerate() {
            for stream in [&trio.client, &trio.server] {
                let ends = tuple(stream);
                let wanted = is(remote, ends.remote) || is(local, ends.local);
                assert_eq!(
                    passed.contains(&only(&all, ends)),
                    wanted,
                    "{n}: {ends:?} by {remote:?} {local:?}"
                );
            }
        }
        assert!(passed.iter().all(|row| is(remote, row.tuple.remote) || is(local, row.tuple.local)));
    }
}

#[test]
fn the_kernel_takes_the_longest_filter_and_listeners_have_remote_port_0() {
    let apart = |first: u16| (0..32).map(move |n| first + n * 1000..=first + n * 1000 + 20);
    let clauses = apart(3).map(Clause::RemotePorts).chain(apart(9).map(Clause::LocalPorts));
    let filter = Filter::any_of(clauses).unwrap();
    for row in dump(states::ALL, Some(&filter)) {
        let (remote, local) = (row.tuple.remote.port(), row.tuple.local.port());
        assert!(apart(3).any(|r| r.contains(&remote)) || apart(9).any(|r| r.contains(&local)), "{row:?}");
    }
    let sockets = trio("::1", "::1");
    let port = sockets.listener.local_addr().unwrap().port();
    let filter = Filter::any_of([Clause::RemotePorts(0..=0), Clause::RemotePorts(port..=port)]).unwrap();
    let passed = dump(states::ALL, Some(&filter));
    assert!(passed.iter().any(|row| row.tuple == tuple(&sockets.client)));
    assert!(passed.iter().any(|row| row.state == TcpState::Listen && row.tuple.local.port() == port));
    assert!(passed.iter().all(|row| [0, port].contains(&row.tuple.remote.port())));
}

#[test]
fn rows_are_those_of_proc() {
    let sockets: Vec<_> = ["127.0.0.1", "::1"].map(|host| trio(host, host)).into_iter().collect();
    let mapped = trio("::", "127.0.0.1");
    let half = trio("127.0.0.1", "127.0.0.1");
    let half_ends = [tuple(&half.client), tuple(&half.server)];
    half.client.shutdown(std::net::Shutdown::Write).unwrap();
    let gone = trio("::1", "::1");
    let gone_ends = tuple(&gone.client);
    drop((gone.client, gone.server));
    let mut ours: Vec<Tuple> = sockets.iter().flat_map(|t| [tuple(&t.client), tuple(&t.server)]).collect();
    ours.extend([tuple(&mapped.client), tuple(&mapped.server), gone_ends]);
    ours.extend(half_ends);
    let mut listed = Vec::new();
    let proc = Proc::new("/proc").unwrap();
    wait_for("the ends to settle", Duration::from_secs(5), || {
        listed.clear();
        proc.read_tcp(Net::Own, |socket| listed.push(socket)).unwrap();
        let settled = [(gone_ends, TcpState::TimeWait), (half_ends[0], TcpState::FinWait2)];
        settled.iter().all(|(ends, state)| only(&listed, *ends).state == *state).then_some(())
    });
    let dumped = dump(states::ALL, None);
    for tuple in ours {
        let (theirs, mut row) = (only(&listed, tuple), only(&dumped, tuple));
        assert!(row.cookie.is_some());
        if let (Some(a), Some(b)) = (row.timewait_left, theirs.timewait_left) {
            assert!(a.abs_diff(b) < Duration::from_secs(1), "{a:?} {b:?}");
            row.timewait_left = theirs.timewait_left;
        }
        row.cookie = None;
        if row.inode.is_none() {
            row.uid = theirs.uid;
        }
        assert_eq!(row, theirs);
    }
}

#[test]
fn a_thousand_sockets_come_once_each_however_many_datagrams_they_take() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pairs: Vec<_> = (0..1000)
        .map(|_| (TcpStream::connect(("127.0.0.1", port)).unwrap(), listener.accept().unwrap().0))
        .collect();
    let filter = Filter::any_of([Clause::RemotePorts(port..=port), Clause::LocalPorts(port..=port)]).unwrap();
    let mut passed: Vec<_> = dump(states::LIVE, Some(&filter)).iter().map(|row| row.tuple).collect();
    let mut wanted: Vec<_> = pairs.iter().flat_map(|(a, b)| [tuple(a), tuple(b)]).collect();
    passed.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(passed, wanted);
}

#[test]
fn a_dump_that_was_given_up_does_not_spoil_the_next_question() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pairs: Vec<_> = (0..1000)
        .map(|_| (TcpStream::connect(("127.0.0.1", port)).unwrap(), listener.accept().unwrap().0))
        .collect();
    let mut diag = Diag::open().unwrap();
    for _ in 0..3 {
        let given_up = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            diag.dump(states::ALL, None, |_| std::panic::resume_unwind(Box::new("enough")))
        }));
        assert!(given_up.is_err());
        let ends = tuple(&pairs[500].0);
        assert_eq!(diag.find(&ends, 0, None).unwrap().unwrap().socket.tuple, ends);
        let mut count = 0;
        let filter = Filter::any_of([Clause::RemotePorts(port..=port)]).unwrap();
        diag.dump(states::LIVE, Some(&filter), |_| count += 1).unwrap();
        assert_eq!(count, 1000);
    }
}

#[test]
fn a_question_is_answered_in_the_namespace_where_it_was_opened() {
    let lab = lab!();
    let listener = lab.listen("127.0.0.1:22");
    let client = lab.connect("127.0.0.1:22");
    let mut there = lab.inside(|| Diag::open().unwrap());
    let mut rows = Vec::new();
    there.dump(states::ALL, None, |row| rows.push(row.tuple)).unwrap();
    rows.sort_unstable();
    let ends = tuple(&client);
    let server = Tuple { local: ends.remote, remote: ends.local };
    let listening = Tuple { local: listener.local_addr().unwrap(), remote: "0.0.0.0:0".parse().unwrap() };
    let mut wanted = [ends, server, listening];
    wanted.sort_unstable();
    assert_eq!(rows, wanted);
    assert!(there.find(&ends, 0, None).unwrap().is_some());
    assert_eq!(Diag::open().unwrap().find(&ends, 0, None).unwrap(), None);
}

#[test]
fn a_socket_that_is_bound_to_a_device_is_found_by_it_alone() {
    let lab = lab!();
    let _listener = lab.listen("[::1]:22");
    let client = lab.inside(|| {
        let client = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        client.bind_device(Some(b"lo")).unwrap();
        client.connect(&"[::1]:22".parse::<SocketAddr>().unwrap().into()).unwrap();
        TcpStream::from(client)
    });
    let mut diag = lab.inside(|| Diag::open().unwrap());
    let ends = tuple(&client);
    assert_eq!(diag.find(&ends, 1, None).unwrap().unwrap().socket.device, 1);
    assert_eq!(diag.find(&ends, 0, None).unwrap(), None);
}
