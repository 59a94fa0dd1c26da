//! What the program in the kernel tells, as bytes and as values. Public for `fuzz/`.
//!
//! The layouts are those of `bpf/portreeve.bpf.c`, in the machine's own order of bytes; a test holds the two against each
//! other. The kernel's own numbers are believed, everything that a process chose itself is bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;

use crate::connection::{Cookie, Counts, Inode, Netns, TcpState, Tuple, fold};
use crate::process::{Ids, Tty, split_arguments};

/// `struct head`.
#[cfg(test)]
const HEAD: usize = 72;
/// `struct closed`.
const CLOSED: usize = 104;
/// `struct open` without its tail.
const OPEN: usize = 168;
/// `struct ancestor`, and how many there are at most.
const ANCESTOR: usize = 32;
const ANCESTORS: usize = 8;
/// Bytes of `struct between`.
pub const BETWEEN: usize = 32;
/// Bytes of `struct flow`.
pub const FLOW: usize = 56;

/// `AF_INET`, `AF_INET6`.
const INET: u8 = 2;
const INET6: u8 = 10;
/// Bits of `flags`.
const KNOWN: u8 = 1;
const ATTEMPT: u8 = 2;
const FIN: u8 = 4;
const DELETED: u8 = 8;
const CUT: u8 = 16;

/// What the kernel shows of times in ticks: so many a second on every architecture that is in use (USER_HZ).
const TICK_NS: u64 = 10_000_000;

/// One thing that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// A process connects a socket.
    Open(Box<Opening>),
    /// What was told before its SYN goes on.
    Syn(Sight),
    /// The other end answered.
    Established(Sight),
    /// It is over.
    Closed(Ended),
    /// A UDP socket is connected to a remote end (`Established`), or is about to send there unconnected (`Close`). Our own
    /// end has no address yet.
    Flow(Box<Opening>),
    /// The first packet of a flow leaves: from where. Neither the socket's inode nor its namespace is told.
    Sent(Sight),
    /// A UDP socket is closed of which a flow was told. Nothing but its cookie is told.
    LetGo(Sight),
}

impl Word {
    /// False of what is told of packets and of a socket that is closed: which socket it is, words before have told.
    #[must_use]
    pub fn names_namespace(&self) -> bool {
        !matches!(self, Self::Sent(_) | Self::LetGo(_))
    }

    /// True of what is told of UDP.
    #[must_use]
    pub fn is_of_udp(&self) -> bool {
        matches!(self, Self::Flow(_) | Self::Sent(_) | Self::LetGo(_))
    }

    /// The socket, as it was then.
    #[must_use]
    pub fn sight(&self) -> &Sight {
        match self {
            Self::Open(opening) | Self::Flow(opening) => &opening.sight,
            Self::Syn(sight)
            | Self::Established(sight)
            | Self::Sent(sight)
            | Self::LetGo(sight)
            | Self::Closed(Ended { sight, .. }) => sight,
        }
    }
}

/// A socket at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When, after boot.
    pub at: Duration,
    /// The number that the socket keeps.
    pub cookie: Option<Cookie>,
    /// Both ends. Local port 0: not chosen yet.
    pub tuple: Tuple,
    /// `None`: nobody holds it any more.
    pub inode: Option<Inode>,
    /// Where.
    pub netns: Netns,
    /// Network device that it is bound to; 0 for none.
    pub device: u32,
    /// The state that it left; of a UDP socket whether it is connected.
    pub before: TcpState,
    /// True if the program saw its opening, whether or not there was room to tell it.
    pub is_known: bool,
}

/// A socket that is connected, or sends, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The socket.
    pub sight: Sight,
    /// True if it is told by connect(2) itself: no SYN is sent if there is no way to the other end.
    pub is_attempt: bool,
    /// Creator of the socket.
    pub socket_uid: u32,
    /// Process.
    pub pid: u32,
    /// The thread of it that connects, or sends.
    pub tid: u32,
    /// Start of the process in clock ticks after boot, as `stat` field 22 gives it.
    pub start_ticks: u64,
    /// Inode of the process's pidfd. `None` before Linux 6.9.
    pub pidfd_inode: Option<u64>,
    /// Users and group of the thread.
    pub ids: Ids,
    /// The audit login, and its session. `None`: unset.
    pub login: Option<u32>,
    /// As `login`.
    pub session: Option<u32>,
    /// Id of its group in the unified hierarchy.
    pub cgroup: u64,
    /// Controlling terminal.
    pub tty: Option<Tty>,
    /// Name of the process.
    pub comm: Vec<u8>,
    /// Arguments, secrets and all: what could be read of the first 511 bytes.
    pub args: Vec<Vec<u8>>,
    /// Bytes of arguments that there are.
    pub args_bytes: u64,
    /// True if `args` lacks some of them.
    pub args_cut: bool,
    /// True if these are all, and ended as a program leaves them that has written no title over them: such a title may go on
    /// behind them.
    pub args_whole: bool,
    /// Path of the executable. `None`: a kernel thread.
    pub executable: Option<Vec<u8>>,
    /// True if `executable` lacks its beginning.
    pub executable_cut: bool,
    /// True if its file has no name any more.
    pub executable_deleted: bool,
    /// Begins with the parent; eight at most.
    pub ancestors: Vec<Ancestor>,
}

/// A process above another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Process.
    pub pid: u32,
    /// As in `Opening`.
    pub start_ticks: u64,
    /// Its name.
    pub comm: Vec<u8>,
}

/// The end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The socket. Its inode is `None` where its process has let go of it.
    pub sight: Sight,
    /// What it counted.
    pub counts: Counts,
    /// What its process was to be told.
    pub fault: Fault,
    /// True if the other end's FIN has come.
    pub has_fin: bool,
}

/// What a flow has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowCounts {
    /// When its process was told, after boot: as `Word::Flow` has it.
    pub first: Duration,
    /// When the last packet left or came.
    pub last: Duration,
    /// Bytes of payload that left.
    pub sent: u64,
    /// Bytes of payload that came.
    pub received: u64,
    /// Packets that left.
    pub packets_sent: u64,
    /// Packets that came.
    pub packets_received: u64,
}

/// A socket's own error, as far as it tells ends apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// None.
    None,
    /// ECONNREFUSED.
    Refused,
    /// ETIMEDOUT.
    TimedOut,
    /// That there is no way, or one that is forbidden.
    Unreachable,
    /// Any other.
    Other,
}

impl Fault {
    fn from_number(number: u32) -> Self {
        let is = |error: Errno| i32::try_from(number) == Ok(error.raw_os_error());
        // What routers answer (`icmp_err_convert`, `tab_unreach`).
        let unreachable = [
            Errno::NETUNREACH,
            Errno::HOSTUNREACH,
            Errno::HOSTDOWN,
            Errno::NONET,
            Errno::ACCESS,
            Errno::NOPROTOOPT,
        ];
        match number {
            0 => Self::None,
            _ if is(Errno::CONNREFUSED) => Self::Refused,
            _ if is(Errno::TIMEDOUT) => Self::TimedOut,
            _ if unreachable.into_iter().any(is) => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// Reads one record of the ring. `None`: it is no such record.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Word> {
    let sight = parse_sight(bytes)?;
    match byte(bytes, 16)? {
        1 => parse_open(bytes, sight).map(Box::new).map(Word::Open),
        2 => Some(Word::Syn(sight)),
        3 => Some(Word::Established(sight)),
        4 => parse_closed(bytes, sight).map(Word::Closed),
        5 => parse_open(bytes, sight).map(Box::new).map(Word::Flow),
        6 => Some(Word::Sent(sight)),
        7 => Some(Word::LetGo(sight)),
        _ => None,
    }
}

fn parse_sight(bytes: &[u8]) -> Option<Sight> {
    let ip = |at: usize| {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        if byte(bytes, 17)? == INET6 {
            return Some(fold(IpAddr::V6(Ipv6Addr::from(octets))));
        }
        let [a, b, c, d, ..] = octets;
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    let (local, remote) = (ip(24)?, ip(40)?);
    // A socket for IPv6 that has no address of its own yet, and goes to one of IPv4.
    let local = if local.is_ipv6() && remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { local };
    let tuple = Tuple {
        local: SocketAddr::new(local, u16_at(bytes, 20)?),
        remote: SocketAddr::new(remote, u16_at(bytes, 22)?),
    };
    Some(Sight {
        at: Duration::from_nanos(u64_at(bytes, 0)?),
        cookie: Cookie::new(u64_at(bytes, 8)?),
        tuple,
        inode: Inode::new(u64_at(bytes, 56)?),
        netns: Netns(u32_at(bytes, 64)?.into()),
        device: u32_at(bytes, 68)?,
        before: TcpState::from_number(byte(bytes, 18)?),
        is_known: byte(bytes, 19)? & KNOWN != 0,
    })
}

fn parse_closed(bytes: &[u8], sight: Sight) -> Option<Ended> {
    bytes.get(..CLOSED)?;
    let counts = Counts {
        established: !matches!(sight.before, TcpState::SynSent | TcpState::SynRecv),
        sent: Some(u64_at(bytes, 72)?),
        received: u64_at(bytes, 80)?,
        received_segments: u32_at(bytes, 88)?,
        repeats: byte(bytes, 96)?,
    };
    let fault = Fault::from_number(u32_at(bytes, 92)?);
    Some(Ended { sight, counts, fault, has_fin: byte(bytes, 19)? & FIN != 0 })
}

fn parse_open(bytes: &[u8], sight: Sight) -> Option<Opening> {
    let flags = byte(bytes, 19)?;
    let (args_len, path_len) = (usize::from(u16_at(bytes, 152)?), usize::from(u16_at(bytes, 154)?));
    let tail = bytes.get(OPEN..)?;
    let (args, names) = (tail.get(..args_len)?, tail.get(args_len..args_len + path_len)?);
    let above = tail.get(args_len + path_len..)?;
    let args_bytes = u64_at(bytes, 120)?;
    let is_cut = u64::try_from(args_len).is_ok_and(|len| len < args_bytes);
    let set = |at| Some(u32_at(bytes, at)?).filter(|number| *number != u32::MAX);
    let (major, minor) = (u32_at(bytes, 128)?, u32_at(bytes, 132)?);
    let ancestors = usize::from(u16_at(bytes, 156)?).min(ANCESTORS);
    Some(Opening {
        sight,
        is_attempt: flags & ATTEMPT != 0,
        socket_uid: u32_at(bytes, 100)?,
        pid: u32_at(bytes, 72)?,
        tid: u32_at(bytes, 76)?,
        start_ticks: u64_at(bytes, 112)? / TICK_NS,
        pidfd_inode: Some(u64_at(bytes, 160)?).filter(|inode| *inode != 0),
        ids: Ids {
            real_uid: u32_at(bytes, 80)?,
            effective_uid: u32_at(bytes, 88)?,
            real_gid: u32_at(bytes, 84)?,
        },
        login: set(92),
        session: set(96),
        cgroup: u64_at(bytes, 104)?,
        tty: (major != 0).then_some(Tty { major, minor }),
        comm: name(bytes.get(136..152)?),
        args: split_arguments(args),
        args_bytes,
        args_cut: is_cut,
        args_whole: !is_cut && args.ends_with(b"\0"),
        executable: path(names, flags & CUT != 0),
        executable_cut: flags & CUT != 0,
        executable_deleted: flags & DELETED != 0,
        ancestors: (0..ancestors).map(|nth| parse_ancestor(above, nth)).collect::<Option<_>>()?,
    })
}

fn parse_ancestor(above: &[u8], nth: usize) -> Option<Ancestor> {
    let bytes = above.get(nth * ANCESTOR..)?.get(..ANCESTOR)?;
    Some(Ancestor {
        pid: u32_at(bytes, 8)?,
        start_ticks: u64_at(bytes, 0)? / TICK_NS,
        comm: name(bytes.get(16..)?),
    })
}

/// The key under which a flow is counted.
#[must_use]
pub fn between(socket: Cookie, remote: SocketAddr) -> [u8; BETWEEN] {
    let mut address = [0; 16];
    let family = match remote.ip() {
        IpAddr::V4(ip) => {
            let (octets, _) = address.split_at_mut(4);
            octets.copy_from_slice(&ip.octets());
            INET
        }
        IpAddr::V6(ip) => {
            address = ip.octets();
            INET6
        }
    };
    let [low, high] = remote.port().to_ne_bytes();
    let mut key = [0; BETWEEN];
    let parts = socket.get().to_ne_bytes().into_iter().chain(address).chain([low, high, family]);
    key.iter_mut().zip(parts).for_each(|(place, byte)| *place = byte);
    key
}

/// What is counted under it.
#[must_use]
pub fn parse_flow(bytes: &[u8; FLOW]) -> Option<FlowCounts> {
    Some(FlowCounts {
        first: Duration::from_nanos(u64_at(bytes, 0)?),
        last: Duration::from_nanos(u64_at(bytes, 8)?),
        sent: u64_at(bytes, 16)?,
        received: u64_at(bytes, 24)?,
        packets_sent: u64_at(bytes, 32)?,
        packets_received: u64_at(bytes, 40)?,
    })
}

/// Up to its NUL.
fn name(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Names from the last to the first, each with a NUL. One that lacks its beginning starts with `…`, as no path does.
fn path(names: &[u8], is_cut: bool) -> Option<Vec<u8>> {
    let names = names.strip_suffix(b"\0")?;
    let mut path = if is_cut { "…".as_bytes().to_vec() } else { Vec::new() };
    for name in names.rsplit(|byte| *byte == 0) {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    Some(path)
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The structures of the program and where their members begin, as its comments say and its types make it.
    fn layout(name: &str) -> (Vec<(String, usize)>, usize) {
        let program = include_str!("../../bpf/portreeve.bpf.c");
        let body =
            program.split(&format!("\nstruct {name} {{\n")).nth(1).unwrap().split("\n}").next().unwrap();
        let mut at = 0usize;
        let mut members = Vec::new();
        for line in body.lines() {
            let (kind, rest) = line.trim().split_once(' ').unwrap();
            let (kind, rest) = match kind {
                "struct" => rest.split_once(' ').unwrap(),
                kind => (kind, rest),
            };
            let (size, align) = match kind {
                "__u8" | "char" => (1, 1),
                "__u16" => (2, 2),
                "__u32" => (4, 4),
                "__u64" => (8, 8),
                "head" => (HEAD, 8),
                "ancestor" => (ANCESTOR, 8),
                other => panic!("{other}"),
            };
            let member = rest.split(';').next().unwrap();
            let (member, count) = match member.trim_end_matches(']').split_once('[') {
                Some((member, "ANCESTORS")) => (member, ANCESTORS),
                Some((member, "TAIL")) => (member, 512 + 512 + 256 + ANCESTORS * ANCESTOR),
                Some((member, count)) => (member, count.parse().unwrap()),
                None => (member, 1),
            };
            at = at.next_multiple_of(align);
            if let Some(said) = line.split("/* ").nth(1)
                && let Ok(said) = said.split([':', ' ', '*']).next().unwrap().parse::<usize>()
            {
                assert_eq!(said, at, "{name}.{member}");
            }
            members.push((member.to_owned(), at));
            at += size * count;
        }
        (members, at.next_multiple_of(8))
    }

    #[test]
    fn the_structures_are_those_of_the_program() {
        assert_eq!(layout("head").1, HEAD);
        assert_eq!(layout("closed").1, CLOSED);
        assert_eq!(layout("ancestor").1, ANCESTOR);
        assert_eq!((layout("between").1, layout("flow").1), (BETWEEN, FLOW));
        let (open, _) = layout("open");
        let at = |name: &str| open.iter().find(|(member, _)| member == name).unwrap().1;
        assert_eq!(at("tail"), OPEN);
    }

    /// An opening of a process with these arguments, of which so many bytes are said to be there.
    fn with_args(args: &[u8], args_bytes: u64) -> Opening {
        let mut bytes = vec![0; OPEN];
        bytes[16] = 1;
        bytes[17] = 2;
        bytes[120..128].copy_from_slice(&args_bytes.to_ne_bytes());
        bytes[152..154].copy_from_slice(&u16::try_from(args.len()).unwrap().to_ne_bytes());
        bytes.extend_from_slice(args);
        match parse(&bytes) {
            Some(Word::Open(opening)) => *opening,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_whole_when_none_is_missing_and_no_title_stands_over_them() {
        for (args, bytes, is_cut, is_whole) in [
            (&b"ssh\0host\0"[..], 9, false, true),
            (b"ssh\0ho", 9, true, false),
            (b"sshd: al", 8, false, false),
            (b"ssh\0", 9, true, false),
            (b"", 9, true, false),
            (b"", 0, false, false),
        ] {
            let opening = with_args(args, bytes);
            assert_eq!((opening.args_cut, opening.args_whole), (is_cut, is_whole), "{args:?}");
        }
    }

    #[test]
    fn paths_are_put_together_as_proc_shows_them() {
        assert_eq!(path(b"ssh\0bin\0usr\0", false).unwrap(), b"/usr/bin/ssh");
        assert_eq!(path(b"ssh\0bin\0", true).unwrap(), "…/bin/ssh".as_bytes());
        assert_eq!(path(b"", true), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..900), kind in 0u8..6) {
            let mut bytes = bytes;
            if let Some(place) = bytes.get_mut(16) {
                *place = kind;
            }
            let _ = parse(&bytes);
        }
    }
}
