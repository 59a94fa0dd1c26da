//! Datagrams of sock_diag, dumps and exact answers, of TCP and of unix sockets: no panic, no more rows than bytes allow,
//! addresses folded.

use std::net::SocketAddr;

use portreeve::netlink::{parse_sights, parse_unix_sockets};

/// Bytes of a message's header and of a row.
const LEAST: usize = 16 + 72;
/// The same of a unix socket.
const LEAST_UNIX: usize = 16 + 16;

pub fn run(data: &[u8]) {
    judge(data);
    judge(&message(data));
}

fn judge(datagram: &[u8]) {
    let mut rows = 0;
    for sight in parse_sights(datagram) {
        rows += 1;
        let folded = |end: SocketAddr| end.ip().to_canonical() == end.ip();
        assert!(folded(sight.socket.tuple.local) && folded(sight.socket.tuple.remote));
        assert!(sight.counts.is_none_or(|counts| counts.established || counts.received == 0));
    }
    assert!(rows <= datagram.len() / LEAST);
    assert!(parse_unix_sockets(datagram).count() <= datagram.len() / LEAST_UNIX);
}

/// A payload behind a whole header, which a fuzzer would have to guess.
pub fn message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes();
    [&length, [20, 0, 0, 0].as_slice(), &[0; 8], payload].concat()
}
