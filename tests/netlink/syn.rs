use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};

use portreeve::connection::Tuple;
use portreeve::netlink::Diag;
use portreeve::packet::{Syn, SynTap};

use crate::lab;

fn taken(tap: &mut SynTap) -> Vec<Syn> {
    let mut syns = Vec::new();
    assert!(tap.receive(1000, |syn| syns.push(syn)).unwrap().drained);
    syns
}

fn ends(stream: &TcpStream) -> Tuple {
    Tuple { local: stream.local_addr().unwrap(), remote: stream.peer_addr().unwrap() }
}

/// A connection with data both ways, ended in order.
fn talk(listener: &TcpListener) -> Tuple {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut server = listener.accept().unwrap().0;
    client.write_all(&[7; 3000]).unwrap();
    server.write_all(&[7; 3000]).unwrap();
    ends(&client)
}

#[test]
fn each_syn_to_a_selected_port_is_told_once_and_no_other_packet() {
    let lab = lab!();
    for host in ["127.0.0.1", "[::1]"] {
        lab.inside(|| {
            let at = |port: u16| TcpListener::bind(format!("{host}:{port}")).unwrap();
            let (selected, range, other) = (at(22), at(8050), at(23));
            let mut tap = SynTap::open(&[22..=22, 8000..=8100]).unwrap();
            let wanted = [talk(&selected), talk(&range)];
            talk(&other);
            let refused: SocketAddr = format!("{host}:8001").parse().unwrap();
            TcpStream::connect(refused).unwrap_err();
            let syns = taken(&mut tap);
            let told: Vec<_> = syns.iter().map(|syn| syn.tuple).collect();
            assert_eq!(told[..2], wanted);
            assert_eq!((told.len(), told[2].remote), (3, refused), "the refused attempt too");
            assert!(syns.iter().all(|syn| syn.device == 1), "the loopback device");
        });
    }
}

#[test]
fn other_ports_may_be_selected_later() {
    let lab = lab!();
    lab.inside(|| {
        let listeners = [22, 23].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let mut tap = SynTap::open(&[]).unwrap();
        let _ends = listeners.each_ref().map(talk);
        assert_eq!(taken(&mut tap), []);
        tap.set_ports(&[23..=23]).unwrap();
        let [_, wanted] = listeners.each_ref().map(talk);
        assert_eq!(taken(&mut tap).iter().map(|syn| syn.tuple).collect::<Vec<_>>(), [wanted]);
        let many: Vec<_> = (0..256).map(|n| 20 + n * 200..=25 + n * 200).collect();
        tap.set_ports(&many).unwrap();
        let wanted: Vec<_> = listeners.iter().map(talk).collect();
        assert_eq!(taken(&mut tap).iter().map(|syn| syn.tuple).collect::<Vec<_>>(), wanted);
    });
}

#[test]
fn the_socket_behind_a_syn_is_found_while_it_still_connects() {
    let lab = lab!("nft");
    lab.filter_port(22);
    lab.inside(|| {
        let mut tap = SynTap::open(&[22..=22]).unwrap();
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let remote: SocketAddr = "127.0.0.1:22".parse().unwrap();
        let _in_progress = rustix::net::connect(&socket, &remote);
        let syn = taken(&mut tap)[0];
        let sight = Diag::open().unwrap().find(&syn.tuple, syn.device, None).unwrap().unwrap();
        assert_eq!(sight.socket.state, portreeve::connection::TcpState::SynSent);
        assert_eq!(sight.socket.inode.unwrap().get(), rustix::fs::fstat(&socket).unwrap().st_ino);
        assert!(!sight.counts.unwrap().established);
    });
}

#[test]
fn syns_that_find_no_room_are_counted() {
    let lab = lab!();
    lab.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:22").unwrap();
        let mut tap = SynTap::open(&[22..=22]).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&tap, 0).unwrap();
        for _ in 0..100 {
            drop((TcpStream::connect("127.0.0.1:22").unwrap(), listener.accept().unwrap()));
        }
        let held = taken(&mut tap).len() as u64;
        assert!(held < 50, "{held}");
        drop((TcpStream::connect("127.0.0.1:22").unwrap(), listener.accept().unwrap()));
        let mut told = 0;
        let received = tap.receive(1000, |_| told += 1).unwrap();
        assert_eq!((received.lost + held, told), (100, 1), "{received:?}");
    });
}

#[test]
fn without_the_privilege_it_is_denied() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let lab = lab!();
    // Capabilities are a thread's own.
    lab.inside(|| {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_RAW);
        set_capabilities(None, sets).unwrap();
        let denied = SynTap::open(&[22..=22]).unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
    });
}
