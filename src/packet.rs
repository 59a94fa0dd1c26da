//! Outgoing TCP SYNs, as they leave: a tap on every network device of a namespace, behind a filter in the kernel.
//!
//! Knows no connection: says which packet left between which ends. A SYN that is repeated is told again, and so is one
//! that leaves through two devices (a bridge and its port, a tunnel and what carries it) or is forwarded for somebody
//! else: whether a socket of ours stands behind it, sock_diag tells. IPv6 with extension headers before TCP is not
//! seen. Layout: packet(7), RFC 791, 8200, 9293; the filter language: Documentation/networking/filter.rst.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt::RxqOvfl};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::connection::Tuple;

/// More ranges than this are not asked one by one: a filter counts against the little memory that a socket may have
/// for its options (20 KiB before Linux 6.7).
const RANGES_MOST: usize = 256;
/// Room for a few thousand SYNs with CAP_NET_ADMIN; without it, as much as net.core.rmem_max allows: a few hundred.
const BUFFER: usize = 4 << 20;
/// The largest headers: 60 bytes of IPv4 and 60 of TCP.
const HEADERS: usize = 120;
const ETH_P_ALL: u16 = 3;
const PACKET_OUTGOING: u8 = 4;
const IPPROTO_TCP: u8 = 6;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// An outgoing SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syn {
    /// Its ends; ours is the local one.
    pub tuple: Tuple,
    /// Index of the network device that it left through.
    pub device: u32,
}

/// How reading the tap went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Packets taken from the socket.
    pub messages: u64,
    /// Packets that passed the filter and found no room, as far as known now: the kernel tells with the next packet.
    pub lost: u64,
    /// True if nothing was left.
    pub drained: bool,
}

/// The tap. Costs each packet of the namespace 0.25 µs at most, and no wakeup that is not about a SYN.
#[derive(Debug)]
pub struct SynTap {
    socket: Socket,
    lost: u32,
}

impl SynTap {
    /// Opens it in the calling thread's network namespace, for SYNs to these ports: 0.1 ms. Needs CAP_NET_RAW. Dropping
    /// it takes 4 to 8 ms: the kernel waits until no processor uses it any more.
    ///
    /// # Errors
    /// `PermissionDenied` without it.
    pub fn open(ports: &[RangeInclusive<u16>]) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), Some(protocol))?;
        let mut tap = Self { socket, lost: 0 };
        tap.set_ports(ports)?;
        setsockopt(&tap.socket, RxqOvfl, &1)?;
        let forced = set_socket_recv_buffer_size_force(&tap.socket, BUFFER);
        let _most_allowed =
            forced.or_else(|_| tap.socket.set_recv_buffer_size(BUFFER).map_err(|_| rustix::io::Errno::PERM));
        // What came before the filter was there is no loss of ours.
        while !tap.receive(1_000, |_| {})?.drained {}
        Ok(tap)
    }

    /// Other ports from now on. More than 256 separate ranges: SYNs to all ports pass, and who reads them must judge.
    ///
    /// # Errors
    /// If the kernel takes no filter.
    pub fn set_ports(&self, ports: &[RangeInclusive<u16>]) -> io::Result<()> {
        let attach = |ports| {
            let steps: Vec<_> = program(ports)
                .into_iter()
                .map(|(code, yes, no, k)| SockFilter::new(code, yes, no, k))
                .collect();
            self.socket.attach_filter(&steps)
        };
        attach(ports).or_else(|_| attach(&[ALL]))
    }

    /// Gives up to `most` SYNs to `visit`, without waiting; 1.2 µs each.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn receive(&mut self, most: usize, mut visit: impl FnMut(Syn)) -> io::Result<Received> {
        let mut received = Received::default();
        let mut packet = [0; HEADERS];
        let mut control = nix::cmsg_space!(u32);
        for _ in 0..most {
            let mut into = [IoSliceMut::new(&mut packet)];
            let taken = recvmsg::<LinkAddr>(
                self.socket.as_raw_fd(),
                &mut into,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            );
            let (length, from) = match taken {
                Ok(message) => {
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::RxqOvfl(lost) = part {
                            received.lost += u64::from(lost.wrapping_sub(self.lost));
                            self.lost = lost;
                        }
                    }
                    (message.bytes, message.address)
                }
                Err(Errno::EAGAIN) => {
                    received.drained = true;
                    break;
                }
                Err(Errno::EINTR) => continue,
                Err(other) => return Err(other.into()),
            };
            received.messages += 1;
            let outgoing = from.filter(|from| from.pkttype() == PACKET_OUTGOING);
            if let Some((from, tuple)) = outgoing.zip(packet.get(..length).and_then(parse_syn)) {
                visit(Syn { tuple, device: u32::try_from(from.ifindex()).unwrap_or(0) });
            }
        }
        Ok(received)
    }
}

impl AsFd for SynTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The ends of a SYN, from its IP header on. `None` for any other packet: some came before the filter was there. Public
/// for `fuzz/`.
#[must_use]
pub fn parse_syn(packet: &[u8]) -> Option<Tuple> {
    let first = *packet.first()?;
    let (protocol, tcp, source, destination): (u8, usize, IpAddr, IpAddr) = match first >> 4 {
        4 => {
            let at = |at| packet.get(at..)?.first_chunk::<4>().copied().map(IpAddr::from);
            (*packet.get(9)?, usize::from(first & 15) * 4, at(12)?, at(16)?)
        }
        6 => {
            let at = |at| packet.get(at..)?.first_chunk::<16>().copied().map(IpAddr::from);
            (*packet.get(6)?, 40, at(8)?, at(24)?)
        }
        _ => return None,
    };
    let port = |at| packet.get(tcp + at..)?.first_chunk::<2>().copied().map(u16::from_be_bytes);
    let flags = packet.get(tcp + 13)? & (SYN | ACK);
    (protocol == IPPROTO_TCP && flags == SYN).then_some(())?;
    Some(Tuple { local: SocketAddr::new(source, port(0)?), remote: SocketAddr::new(destination, port(2)?) })
}

const ALL: RangeInclusive<u16> = 0..=u16::MAX;

/// Operation, jump if true, jump if not, operand.
type Step = (u16, u8, u8, u32);

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_BEHIND_X: u16 = 0x48;
const LOAD_BYTE_BEHIND_X: u16 = 0x50;
const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_ABOVE: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF` and what lies there: not bytes of the packet, but what the kernel knows of it.
const PROTOCOL: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = PROTOCOL + 4;

const REFUSE: Step = (RETURN, 0, 0, 0);
const PASS: Step = (RETURN, 0, 0, 0xffff);

/// Is it an outgoing SYN? The packet begins with its IP header. The destination port is loaded at the end.
const IS_SYN: [Step; 23] = [
    (LOAD_WORD, 0, 0, PACKET_TYPE),
    (IF_EQUAL, 0, 20, 4),
    (LOAD_HALF, 0, 0, PROTOCOL),
    (IF_EQUAL, 1, 0, 0x0800),
    (IF_EQUAL, 10, 17, 0x86dd),
    // IPv4: TCP, first fragment.
    (LOAD_BYTE, 0, 0, 9),
    (IF_EQUAL, 0, 15, 6),
    (LOAD_HALF, 0, 0, 6),
    (IF_ANY_BIT, 13, 0, 0x1fff),
    (LOAD_X_HEADER_LENGTH, 0, 0, 0),
    (LOAD_BYTE_BEHIND_X, 0, 0, 13),
    (AND, 0, 0, 0x12),
    (IF_EQUAL, 0, 9, 2),
    (LOAD_HALF_BEHIND_X, 0, 0, 2),
    (JUMP, 0, 0, 8),
    // IPv6: TCP is the next header.
    (LOAD_BYTE, 0, 0, 6),
    (IF_EQUAL, 0, 5, 6),
    (LOAD_BYTE, 0, 0, 40 + 13),
    (AND, 0, 0, 0x12),
    (IF_EQUAL, 0, 2, 2),
    (LOAD_HALF, 0, 0, 40 + 2),
    (JUMP, 0, 0, 1),
    REFUSE,
];

/// Each range has its own exit, so that no jump is longer than one step.
fn program(ports: &[RangeInclusive<u16>]) -> Vec<Step> {
    let ports = if ports.len() > RANGES_MOST { &[ALL] } else { ports };
    let mut steps = IS_SYN.to_vec();
    for range in ports {
        let (first, last) = (u32::from(*range.start()), u32::from(*range.end()));
        steps.extend([(IF_AT_LEAST, 0, 2, first), (IF_ABOVE, 1, 0, last), PASS]);
    }
    steps.push(REFUSE);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with a packet: `Some` bytes to keep.
    fn run(steps: &[Step], kind: u8, protocol: u16, packet: &[u8]) -> bool {
        let (mut a, mut x, mut at) = (0u32, 0usize, 0usize);
        loop {
            let (code, yes, no, k) = steps[at];
            at += 1;
            let load = |from: usize, count: usize| {
                let bytes = packet.get(from..from + count)?;
                Some(bytes.iter().fold(0, |sum: u32, byte| sum << 8 | u32::from(*byte)))
            };
            let offset = k as usize;
            let loaded = match code {
                LOAD_WORD if k == PACKET_TYPE => Some(u32::from(kind)),
                LOAD_HALF if k == PROTOCOL => Some(u32::from(protocol)),
                LOAD_HALF => load(offset, 2),
                LOAD_BYTE => load(offset, 1),
                LOAD_HALF_BEHIND_X => load(x + offset, 2),
                LOAD_BYTE_BEHIND_X => load(x + offset, 1),
                LOAD_X_HEADER_LENGTH => {
                    let Some(byte) = load(offset, 1) else { return false };
                    x = (byte as usize & 15) * 4;
                    continue;
                }
                AND => Some(a & k),
                JUMP => {
                    at += offset;
                    continue;
                }
                RETURN => return k > 0,
                _ => {
                    let holds = match code {
                        IF_EQUAL => a == k,
                        IF_ABOVE => a > k,
                        IF_AT_LEAST => a >= k,
                        IF_ANY_BIT => a & k != 0,
                        _ => panic!("{code:#x}"),
                    };
                    at += usize::from(if holds { yes } else { no });
                    continue;
                }
            };
            // The kernel refuses a packet that is too short for a load.
            let Some(loaded) = loaded else { return false };
            a = loaded;
        }
    }

    /// With `options` words of IPv4 options.
    fn v4(options: u8, port: u16, flags: u8) -> Vec<u8> {
        let mut packet =
            vec![0x45 + options, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 203, 0, 113, 7];
        packet.resize(20 + usize::from(options) * 4, 1);
        tcp(packet, port, flags)
    }

    fn v6(next: u8, port: u16, flags: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 20, next, 64];
        packet.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend("2001:db8::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        tcp(packet, port, flags)
    }

    fn tcp(mut packet: Vec<u8>, port: u16, flags: u8) -> Vec<u8> {
        packet.extend(50_000u16.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        packet
    }

    fn passes(ports: &[RangeInclusive<u16>], packet: &[u8]) -> bool {
        let protocol = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let steps = program(ports);
        for kind in 0..8 {
            assert!(kind == PACKET_OUTGOING || !run(&steps, kind, protocol, packet), "packet type {kind}");
        }
        assert!(!run(&steps, PACKET_OUTGOING, 0x0806, packet), "ARP");
        run(&steps, PACKET_OUTGOING, protocol, packet)
    }

    #[test]
    fn syns_to_the_ports_pass_and_nothing_else_does() {
        for options in [0, 1, 10] {
            assert!(passes(&[22..=22], &v4(options, 22, SYN)));
            assert!(passes(&[22..=22], &v4(options, 22, SYN | 0xc0)), "with ECN");
            assert!(!passes(&[22..=22], &v4(options, 23, SYN)));
            for flags in [0, ACK, SYN | ACK, 1, 4, ACK | 8] {
                assert!(!passes(&[22..=22], &v4(options, 22, flags)), "{flags}");
                assert!(!passes(&[22..=22], &v6(6, 22, flags)), "{flags}");
            }
        }
        assert!(passes(&[22..=22], &v6(6, 22, SYN)));
        assert!(!passes(&[22..=22], &v6(6, 21, SYN)));
        assert!(!passes(&[22..=22], &v6(17, 22, SYN)));
        let mut fragment = v4(0, 22, SYN);
        fragment[7] = 1;
        assert!(!passes(&[22..=22], &fragment));
        let mut udp = v4(0, 22, SYN);
        udp[9] = 17;
        assert!(!passes(&[22..=22], &udp));
        assert!(!passes(&[], &v4(0, 22, SYN)));
    }

    #[test]
    fn too_many_ranges_pass_every_port() {
        let ports: Vec<_> = (0..257).map(|n| n * 9..=n * 9).collect();
        assert!(program(&ports[..256]).len() < 4096);
        assert!(!passes(&ports[..256], &v4(0, 1, SYN)));
        assert!(passes(&ports, &v4(0, 1, SYN)));
    }

    #[test]
    fn the_ends_are_those_of_the_packet() {
        let ends = |packet: &[u8]| parse_syn(packet).map(|t| format!("{} {}", t.local, t.remote));
        assert_eq!(ends(&v4(3, 22, SYN)).unwrap(), "10.0.0.1:50000 203.0.113.7:22");
        assert_eq!(ends(&v6(6, 22, SYN)).unwrap(), "[2001:db8::1]:50000 [2001:db8::2]:22");
        assert_eq!(ends(&v4(0, 22, SYN | ACK)), None);
        assert_eq!(ends(&v6(17, 22, SYN)), None);
    }

    proptest::proptest! {
        #[test]
        fn a_port_passes_if_a_range_holds_it(
            ranges in proptest::collection::vec((0u16.., 0u16..50), 0..256), port: u16, near in 0usize..,
        ) {
            let ports: Vec<_> = ranges.iter().map(|(first, more)| *first..=first.saturating_add(*more)).collect();
            let near = ranges.get(near % ranges.len().max(1)).map_or(0, |(first, _)| *first);
            for port in [port, near, near.wrapping_sub(1)] {
                let wanted = ports.iter().any(|range| range.contains(&port));
                assert_eq!(passes(&ports, &v4(0, port, SYN)), wanted);
                assert_eq!(passes(&ports, &v6(6, port, SYN)), wanted);
            }
        }

        #[test]
        fn no_packet_makes_it_panic(packet in proptest::collection::vec(0u8.., 0..120), first: u8) {
            let packet = [&[first], packet.as_slice()].concat();
            let passed = passes(&[0..=u16::MAX], &packet);
            // What the filter passes can be told.
            assert!(!passed || parse_syn(&packet).is_some() || ![4, 6].contains(&(first >> 4)));
        }
    }
}
