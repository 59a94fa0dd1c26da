//! Datagrams of the kernel's notices, ends of sockets, processes and logged packets: no panic, no more notices than bytes allow.

use portreeve::netlink::{parse_ends, parse_logged, parse_processes};

use super::sock_diag::message;

pub fn run(data: &[u8]) {
    for datagram in [data, &message(data)] {
        let (mut ends, mut processes) = (0, 0);
        for end in parse_ends(datagram) {
            ends += 1;
            assert_eq!(end.tuple.local.ip(), end.tuple.local.ip().to_canonical());
        }
        processes += parse_processes(datagram).count();
        let logged = parse_logged(datagram).count();
        assert!(logged <= datagram.len() / 16);
        assert!(ends <= datagram.len() / (16 + 72) && processes <= datagram.len() / (16 + 20 + 16));
    }
}
