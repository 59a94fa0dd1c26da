//! Packets: no panic, and the ends of what passes for a SYN are those that stand in its headers.

use std::net::SocketAddr;

use portreeve::packet::parse_syn;

pub fn run(data: &[u8]) {
    let Some(tuple) = parse_syn(data) else { return };
    let stands = |end: SocketAddr, address: usize, port: usize| {
        let at = |from: usize, count: usize| &data[from..from + count];
        let octets = match end.ip() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        assert_eq!(at(address, octets.len()), octets);
        assert_eq!(at(port, 2), end.port().to_be_bytes());
    };
    let (addresses, size, tcp) =
        if data[0] >> 4 == 4 { (12, 4, usize::from(data[0] & 15) * 4) } else { (8, 16, 40) };
    stands(tuple.local, addresses, tcp);
    stands(tuple.remote, addresses + size, tcp + 2);
}
