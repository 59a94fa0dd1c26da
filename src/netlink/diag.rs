//! The kernel's TCP table by sock_diag: all of it in one walk, or one socket by its ends.
//!
//! Against `net/tcp` and `net/tcp6` the walk costs a tenth of the time for each bucket of the kernel's table and a
//! third for each row, rows that the filter refuses cost next to nothing, and cookie and device are told. A dump is no
//! snapshot either: the kernel lets go of its table between two datagrams.
//! Layout: `linux/inet_diag.h`, `linux/tcp.h` (which only ever grew at its end); checked on 6.18.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SocketFlags};

use super::filter::Test;
use super::{
    Attributes, Filter, Link, Message, Messages, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkError, bytes_at, u32_at, u64_at,
};
use crate::connection::{Cookie, Counts, Inode, Socket, TcpState, Tuple, fold};

/// Masks of states for `Diag::dump`. The kernel keeps what is left of a socket in FIN_WAIT2 and TIME_WAIT apart, but
/// each is in the mask of its own state, as in `net/tcp`.
pub mod states {
    /// LISTEN alone: these stand in a table of their own, and the big one is not walked.
    pub const LISTEN: u32 = 1 << 10;
    /// Every state that `net/tcp` lists. (Bit 13, sockets that are bound and nothing else, is in none.)
    pub const ALL: u32 = 0x1ffe;
    /// All but LISTEN.
    pub const NOT_LISTEN: u32 = ALL & !LISTEN;
    /// All but LISTEN and TIME_WAIT.
    pub const LIVE: u32 = NOT_LISTEN & !(1 << 6);
}

/// `TCPDIAG_GETSOCK`: the older request, because a dump by it holds both address families. The newer one takes one
/// family, so that the table is walked twice.
const GETSOCK: u16 = 18;
/// `SOCK_DIAG_BY_FAMILY`.
pub(super) const BY_FAMILY: u16 = 20;
/// Attribute of a request.
const BYTECODE: u16 = 1;
/// Attribute of an answer, and the bit that asks for it.
const INFO: u16 = 2;
const WANT_INFO: u8 = 1 << (INFO - 1);
/// Attribute of an answer: the protocol, where it is told.
const PROTOCOL: u16 = 10;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes of `struct inet_diag_msg`.
const ROW: usize = 72;
/// `idiag_timer` where `idiag_expires` counts the rest of TIME_WAIT.
const TIMER_TIMEWAIT: u8 = 3;
/// What the kernel makes a dump's datagrams of at most, however much room there is.
const DUMP_MOST: usize = 32 * 1024;
/// An exact answer has 400 to 600 bytes.
const ANSWER_MOST: usize = 4096;
/// The kernel answers at once. Nothing that goes wrong may stop the watch for good.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

const DUMPING: &str = "read the TCP table by sock_diag";
const FINDING: &str = "look a socket up by sock_diag";

/// How a dump went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dump {
    /// Rows that were given to the visitor.
    pub rows: u64,
    /// Rows that could not be parsed and were left out.
    pub unparsed: u64,
    /// True if the kernel says that its table changed too much meanwhile.
    pub interrupted: bool,
}

/// One socket, as an exact lookup tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Its row.
    pub socket: Socket,
    /// What it has counted. `None` where nothing is left to tell: TIME_WAIT, FIN_WAIT2 after the process let go, a
    /// request that is not yet a connection.
    pub counts: Option<Counts>,
}

/// A socket to ask sock_diag with. Holds no memory between two questions.
#[derive(Debug)]
pub struct Diag {
    link: Link,
    sequence: u32,
    /// True while answers may still come to a question that was given up.
    owed: bool,
}

impl Diag {
    /// Opens it in the calling thread's network namespace, and asks for no row at all: 10 µs.
    ///
    /// # Errors
    /// `is_unsupported` where the kernel has no sock_diag for TCP (modules `inet_diag`, `tcp_diag`).
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let link = Link::open(SOCK_DIAG, 0, SocketFlags::empty())?;
            set_socket_timeout(&link.0, Timeout::Recv, Some(PATIENCE))?;
            Ok(link)
        };
        let link = open().map_err(NetlinkError::new("open a sock_diag socket"))?;
        let mut diag = Self { link, sequence: 0, owed: false };
        diag.dump(0, None, |_| {})?;
        Ok(diag)
    }

    /// Gives every row in one of these states that the filter passes to `visit`, IPv4 and IPv6 in one walk.
    ///
    /// Costs about 0.6 ns for each bucket of the kernel's table (0.15 ms for 262,144), 45 ns for each socket and 2 to
    /// 4 ns more for each range of the filter, and 0.7 µs for each row that is passed.
    ///
    /// # Errors
    /// What the kernel refused. Rows up to there were given.
    pub fn dump(
        &mut self,
        states: u32,
        filter: Option<&Filter>,
        mut visit: impl FnMut(Socket),
    ) -> Result<Dump, NetlinkError> {
        self.ask(GETSOCK, NLM_F_DUMP, &dump_request(states, filter))
            .and_then(|()| self.take_dump(&mut visit))
            .map_err(NetlinkError::new(DUMPING))
    }

    /// Asks for one socket by its ends: 3.5 µs, however many there are.
    ///
    /// `device`: 0, or the index of the network device that it may be bound to; without it a bound one is not
    /// found. `cookie`: it and no later one with the same ends. `None`: there is none. TIME_WAIT is found too.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn find(
        &mut self,
        tuple: &Tuple,
        device: u32,
        cookie: Option<Cookie>,
    ) -> Result<Option<Sight>, NetlinkError> {
        let found = self
            .ask(BY_FAMILY, 0, &exact_request(tuple, device, cookie))
            .and_then(|()| self.take_answer())
            .map_err(NetlinkError::new(FINDING))?;
        // Without an exact match the kernel falls back to the listener of our port.
        Ok(found.filter(|sight| sight.socket.tuple == *tuple))
    }

    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<(), Errno> {
        if self.owed {
            self.clear()?;
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.link.send(kind, NLM_F_REQUEST | flags, self.sequence, body)?;
        self.owed = true;
        Ok(())
    }

    /// Takes what is left of a dump that was given up: reading is what makes the kernel go on with it, and it starts
    /// no other before.
    fn clear(&mut self) -> Result<(), Errno> {
        let mut buffer = vec![0; DUMP_MOST];
        loop {
            match self.link.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(Errno::NOBUFS) => {}
                Err(other) => return Err(other),
            }
        }
    }

    fn take_dump(&mut self, visit: &mut impl FnMut(Socket)) -> Result<Dump, Errno> {
        let mut dump = Dump::default();
        let mut buffer = vec![0; DUMP_MOST];
        loop {
            let datagram = self.link.receive(&mut buffer, RecvFlags::empty())?;
            for message in Messages(datagram).filter(|message| message.sequence == self.sequence) {
                dump.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                    self.owed = false;
                    return message.outcome().map(|()| dump);
                }
                match parse_row(message.payload) {
                    Some(socket) => {
                        dump.rows += 1;
                        visit(socket);
                    }
                    None => dump.unparsed += 1,
                }
            }
        }
    }

    fn take_answer(&mut self) -> Result<Option<Sight>, Errno> {
        let mut buffer = [0; ANSWER_MOST];
        loop {
            let datagram = self.link.receive(&mut buffer, RecvFlags::empty())?;
            let Some(message) = Messages(datagram).find(|message| message.sequence == self.sequence) else {
                continue;
            };
            self.owed = false;
            return match message.kind {
                NLMSG_ERROR => match message.outcome() {
                    Err(Errno::NOENT) => Ok(None),
                    outcome => outcome.map(|()| None),
                },
                _ => parse_sight(&message).map(Some).ok_or(Errno::BADMSG),
            };
        }
    }
}

/// `struct inet_diag_req`, with the filter's program as attribute.
fn dump_request(states: u32, filter: Option<&Filter>) -> Vec<u8> {
    let (port, program) = match filter.map(|filter| &filter.0) {
        None => (0, None),
        Some(Test::RemotePort(port)) => (*port, None),
        Some(Test::Program(program)) => (0, Some(program)),
    };
    let mut request = vec![0; 4];
    // Neither cookie nor address is asked for, and a dump does not compare them.
    request.extend([0, 0]);
    request.extend(port.to_be_bytes());
    request.extend([0; 44]);
    request.extend(states.to_ne_bytes());
    request.extend([0; 4]);
    if let Some(program) = program {
        let length = u16::try_from(4 + program.len()).unwrap_or(u16::MAX);
        request.extend(length.to_ne_bytes());
        request.extend(BYTECODE.to_ne_bytes());
        request.extend(program);
    }
    request
}

/// `struct inet_diag_req_v2`.
fn exact_request(tuple: &Tuple, device: u32, cookie: Option<Cookie>) -> Vec<u8> {
    // A socket of IPv6 that speaks IPv4 is found by its IPv4 ends.
    let family = if tuple.remote.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut request = vec![family, IPPROTO_TCP, WANT_INFO, 0];
    request.extend(states::ALL.to_ne_bytes());
    request.extend(tuple.local.port().to_be_bytes());
    request.extend(tuple.remote.port().to_be_bytes());
    for end in [tuple.local, tuple.remote] {
        let mut address = [0; 16];
        match end.ip() {
            IpAddr::V4(ip) => address.iter_mut().zip(ip.octets()).for_each(|(to, from)| *to = from),
            IpAddr::V6(ip) => address = ip.octets(),
        }
        request.extend(address);
    }
    request.extend(device.to_ne_bytes());
    // All ones: whichever.
    let cookie = cookie.map_or(u64::MAX, Cookie::get).to_le_bytes();
    for half in cookie.chunks_exact(4) {
        request.extend(bytes_at(half, 0).map(u32::from_le_bytes).unwrap_or(u32::MAX).to_ne_bytes());
    }
    request
}

/// `struct inet_diag_msg`. `None` if it is cut off or of no address family that is known.
pub(super) fn parse_row(row: &[u8]) -> Option<Socket> {
    let [family, state, timer, _] = bytes_at(row, 0)?;
    let end = |port: usize, address: usize| {
        let ip = match family {
            AF_INET => IpAddr::from(bytes_at::<4>(row, address)?),
            AF_INET6 => IpAddr::from(bytes_at::<16>(row, address)?),
            _ => return None,
        };
        Some(SocketAddr::new(fold(ip), bytes_at(row, port).map(u16::from_be_bytes)?))
    };
    let expires_ms = u64::from(u32_at(row, 52)?);
    Some(Socket {
        tuple: Tuple { local: end(4, 8)?, remote: end(6, 24)? },
        state: TcpState::from_number(state),
        uid: u32_at(row, 64)?,
        inode: Inode::new(u64::from(u32_at(row, 68)?)),
        timewait_left: (timer == TIMER_TIMEWAIT).then(|| Duration::from_millis(expires_ms)),
        // Two words, the lower first, each in the machine's order.
        cookie: Cookie::new(u64::from(u32_at(row, 44)?) | u64::from(u32_at(row, 48)?) << 32),
        device: u32_at(row, 40)?,
    })
}

/// The rows of one datagram, with what they counted. Public for `fuzz/`.
pub fn parse_sights(datagram: &[u8]) -> impl Iterator<Item = Sight> {
    Messages(datagram).filter_map(|message| parse_sight(&message))
}

fn parse_sight(message: &Message<'_>) -> Option<Sight> {
    Some(Sight { socket: parse_row(message.payload)?, counts: info(message.payload).and_then(parse_counts) })
}

/// The `struct tcp_info` behind a row; none behind that of another protocol.
pub(super) fn info(payload: &[u8]) -> Option<&[u8]> {
    let attributes = || Attributes(payload.get(ROW..).unwrap_or_default());
    let other = attributes().any(|(number, value)| number == PROTOCOL && value.first() != Some(&IPPROTO_TCP));
    attributes().find(|(number, _)| *number == INFO && !other).map(|(_, value)| value)
}

/// `struct tcp_info`. `None` before Linux 4.2, which does not tell the bytes.
pub(super) fn parse_counts(info: &[u8]) -> Option<Counts> {
    let (acked, received) = (u64_at(info, 120)?, u64_at(info, 128)?);
    let (sent, repeated) = (u64_at(info, 200), u64_at(info, 208));
    Some(Counts {
        // The SYN counts among what is acknowledged.
        established: acked > 0 || received > 0,
        sent: sent.zip(repeated).map(|(sent, repeated)| sent.saturating_sub(repeated)),
        received,
        received_segments: u32_at(info, 152).unwrap_or(0),
        repeats: info.get(2).copied()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(family: u8, source: &[u8], timer: u8) -> Vec<u8> {
        let mut row = vec![family, 6, timer, 0];
        row.extend(50_000u16.to_be_bytes());
        row.extend(22u16.to_be_bytes());
        for address in [source, source] {
            row.extend(address);
            row.resize(row.len().next_multiple_of(4) + 16 - address.len(), 0);
        }
        for word in [3u32, 0x11, 0x22, 59_920, 0, 0, 1000, 31_337] {
            row.extend(word.to_ne_bytes());
        }
        assert_eq!(row.len(), ROW);
        row
    }

    #[test]
    fn a_row_parses() {
        let socket = parse_row(&row(AF_INET, &[192, 0, 2, 1], 3)).unwrap();
        assert_eq!(socket.tuple.local.to_string(), "192.0.2.1:50000");
        assert_eq!(socket.tuple.remote.to_string(), "192.0.2.1:22");
        assert_eq!((socket.state, socket.uid, socket.device), (TcpState::TimeWait, 1000, 3));
        assert_eq!((socket.inode, socket.cookie), (Inode::new(31_337), Cookie::new(0x22_0000_0011)));
        assert_eq!(socket.timewait_left, Some(Duration::from_millis(59_920)));
        let socket = parse_row(&row(AF_INET6, &[0x20; 16], 1)).unwrap();
        assert_eq!((socket.tuple.local.is_ipv6(), socket.timewait_left), (true, None));
        assert_eq!(parse_row(&row(1, &[0; 4], 0)), None);
    }

    /// `struct tcp_info` of a kernel that knows so many bytes of it.
    fn counts(known: usize) -> Option<Counts> {
        let mut info = vec![0; 248];
        for (at, number) in [(120, 1002u64), (128, 501), (200, 1100), (208, 100)] {
            info[at..at + 8].copy_from_slice(&number.to_ne_bytes());
        }
        info[152..156].copy_from_slice(&7u32.to_ne_bytes());
        info[2] = 4;
        parse_counts(&info[..known])
    }

    #[test]
    fn counts_are_told_as_far_as_the_kernel_knows_them() {
        let all =
            Counts { established: true, sent: Some(1000), received: 501, received_segments: 7, repeats: 4 };
        assert_eq!(counts(248), Some(all));
        assert_eq!(counts(216), Some(all));
        assert_eq!(counts(200), Some(Counts { sent: None, ..all }), "before Linux 4.19");
        assert_eq!(counts(136), Some(Counts { sent: None, received_segments: 0, ..all }), "Linux 4.2");
        assert_eq!(counts(104), None, "Linux 3.16");
    }

    #[test]
    fn what_a_socket_of_another_protocol_counted_is_not_ours() {
        let attribute = |number: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).unwrap();
            [length.to_ne_bytes().as_slice(), &number.to_ne_bytes(), value].concat()
        };
        let with = |protocol: u8| {
            [row(AF_INET, &[0; 4], 0), attribute(INFO, &[1; 8]), attribute(PROTOCOL, &[protocol, 0, 0, 0])]
                .concat()
        };
        assert_eq!(info(&with(IPPROTO_TCP)), Some([1; 8].as_slice()));
        assert_eq!(info(&with(17)), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..400), family in 0u8..12) {
            let payload = [&[family], bytes.as_slice()].concat();
            let _ = (parse_row(&payload), info(&payload), parse_counts(&bytes));
            let _ = parse_sight(&Message { kind: 20, flags: 0, sequence: 0, payload: &payload });
        }
    }
}
