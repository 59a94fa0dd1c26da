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
const BY_FAMILY: u16 = 20;
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
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// Opens it in the calling thread's network namespace, and asks for no row at all: 20 µs.
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
    /// Costs about 0.6 ns for each bucket of the kernel's table (0.15 ms for 262,144), 25 to 100 ns for each socket,
    /// and 0.7 µs for each row that is passed.
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

    /// Asks for one socket by its ends: 4 µs, however many there are.
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
