//! The least that names who connects while the connection is being made: a tap for SYNs to port 22, one exact lookup, and
//! probing downwards from the last pid. IPv4 alone, as the load is.

use std::io::Read;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::diag::{Diag, Key};
use crate::floors;

const ETH_P_ALL: u16 = 3;

/// The headers.
const PACKET: usize = 128;

/// Outgoing, IPv4, TCP, to port 22, SYN and not ACK. Layouts: packet(7), RFC 791, RFC 9293; the language: filter.rst.
fn filter() -> [SockFilter; 15] {
    let steps = [
        // SKF_AD_PKTTYPE is PACKET_OUTGOING.
        (0x20, 0, 0, 0xffff_f004),
        (0x15, 0, 12, 4),
        (0x30, 0, 0, 0),
        (0x74, 0, 0, 4),
        (0x15, 0, 9, 4),
        (0x30, 0, 0, 9),
        (0x15, 0, 7, 6),
        // The length of the IP header.
        (0xb1, 0, 0, 0),
        (0x48, 0, 0, 2),
        (0x15, 0, 4, 22),
        (0x50, 0, 0, 13),
        (0x54, 0, 0, 0x12),
        (0x15, 0, 1, 2),
        (0x06, 0, 0, PACKET as u32),
        (0x06, 0, 0, 0),
    ];
    steps.map(|(code, yes, no, k)| SockFilter::new(code, yes, no, k))
}

/// Writes `port pid` for each connection whose owner it found, `port` for the others.
pub fn run() {
    let protocol = Some(Protocol::from(i32::from(ETH_P_ALL.to_be())));
    let mut tap = Socket::new(Domain::PACKET, Type::DGRAM, protocol).expect("CAP_NET_RAW");
    tap.attach_filter(&filter()).expect("a filter");
    let mut diag = Diag::open();
    let mut packet = [0; PACKET];
    while let Ok(length) = tap.read(&mut packet) {
        let Some(key) = Key::of_ipv4(&packet[..length]) else { continue };
        let owner = diag.look_up(&key).and_then(floors::probe_downwards);
        println!("{} {}", key.local_port(), owner.unwrap_or(0));
    }
}
