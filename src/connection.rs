//! Sockets and connections as plain values.
//!
//! Owns the words that all stages share. Knows no I/O, no clock and no randomness: moments and ids are given.
//! The names are the kernel's (`include/net/tcp_states.h`, `Documentation/networking/proc_net_tcp.rst`).

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::process::Attribution;
use crate::way::Way;

/// A socket's inode number in the socket file system. The kernel prints 0 for "nobody holds it": that cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode(NonZeroU64);

impl Inode {
    /// `None` for the kernel's 0.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number as `/proc/PID/fd` prints it.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// The number that the kernel gives a socket for good, also after its descriptor and its inode are gone. The kernel's 0
/// ("none yet") and its all-ones ("any") cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(NonZeroU64);

impl Cookie {
    /// `None` for the two numbers that are nobody's.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).filter(|number| number.get() != u64::MAX).map(Self)
    }

    /// As SO_COOKIE gives it.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// A network namespace, by the inode of its `/proc/PID/ns/net`. 0 where it may not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Netns(pub u64);

/// What carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A connection.
    Tcp,
    /// A flow: what a socket sends to one remote end and receives from there. No handshake, no end of its own.
    Udp,
    /// One or the other: an audit record alone tells that somebody asked for it.
    Untold,
}

impl Transport {
    /// As records write it. `None`: it is not known.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Tcp => Some("tcp"),
            Self::Udp => Some("udp"),
            Self::Untold => None,
        }
    }

    /// IANA's number of the protocol.
    #[must_use]
    pub fn number(self) -> Option<u8> {
        match self {
            Self::Tcp => Some(6),
            Self::Udp => Some(17),
            Self::Untold => None,
        }
    }
}

/// Both ends of a socket; IPv4-mapped IPv6 addresses are folded to IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Our end. Port 0: only an audit record told of it, which does not say.
    pub local: SocketAddr,
    /// The other end; port 0 for a listener.
    pub remote: SocketAddr,
}

/// The kernel's TCP states; a UDP socket that is connected is in `Established`, another in `Close`. `Other` keeps a number that this list does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the kernel's names")]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
    Other(u8),
}

impl TcpState {
    /// From the number in `net/tcp` column `st`.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynRecv,
            other => Self::Other(other),
        }
    }

    /// From what `name` gives.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        (0..=13).map(Self::from_number).find(|state| state.name() == name)
    }

    /// The kernel's name in lower case, as records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
            Self::NewSynRecv => "new_syn_recv",
            Self::Other(_) => "unknown",
        }
    }

    /// As the state of a connection that we make: where both ends connect at once, ours answers the other's SYN and is an
    /// attempt still.
    #[must_use]
    pub fn of_ours(self) -> Self {
        if self == Self::SynRecv { Self::SynSent } else { self }
    }

    /// True in the states that a socket passes after its process let go of it, which is after it was established.
    #[must_use]
    pub fn is_ending(self) -> bool {
        matches!(self, Self::FinWait1 | Self::FinWait2 | Self::TimeWait | Self::LastAck | Self::Closing)
    }

    /// True once the handshake is over.
    #[must_use]
    pub fn was_established(self) -> bool {
        self == Self::Established || self == Self::CloseWait || self.is_ending()
    }
}

/// One row of the kernel's table of TCP or UDP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Both ends.
    pub tuple: Tuple,
    /// Column `st`.
    pub state: TcpState,
    /// Column `uid`: who created the socket. Means nothing where `inode` is `None`: the kernel prints 0 there.
    pub uid: u32,
    /// Column `inode`. `None`: no process holds it (an end in progress, or not yet accepted).
    pub inode: Option<Inode>,
    /// What is left of TIME_WAIT (column `tm->when` where `tr` is 3). `None` for every other timer.
    pub timewait_left: Option<Duration>,
    /// `None`: read from a table that does not tell it.
    pub cookie: Option<Cookie>,
    /// Index of the network device that the socket is bound to; 0 for none. Always 0 from a table that does not tell it.
    pub device: u32,
}

/// What the kernel counted of one connection (`struct tcp_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// True if the other end has ever acknowledged anything: an attempt that failed has not.
    pub established: bool,
    /// Payload sent, repetitions not counted. `None`: a kernel before 4.19 does not tell.
    pub sent: Option<u64>,
    /// Payload received, and one more if the other end's FIN was.
    pub received: u64,
    /// Segments received that bore payload.
    pub received_segments: u32,
    /// How often the segment that waits for its answer was repeated: for an attempt, the SYN.
    pub repeats: u8,
}

/// One instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment {
    /// CLOCK_REALTIME. May step.
    pub wall: jiff::Timestamp,
    /// CLOCK_BOOTTIME. Never runs backwards within a boot; counts suspended time.
    pub boot: Duration,
}

impl Moment {
    /// The wall clock of this moment in an interval that ends with another: by the clock of that, if it was set back
    /// between.
    #[must_use]
    pub fn wall_before(self, end: Self) -> jiff::Timestamp {
        if self.wall <= end.wall {
            return self.wall;
        }
        end.wall.checked_sub(end.boot.saturating_sub(self.boot)).unwrap_or(end.wall)
    }
}

/// What one reading of the tables brought, reduced to what the later stages need.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The namespace that was read.
    pub netns: Netns,
    /// Selected rows of which we are the connecting end. A row may come twice: the kernel's table changes while it is
    /// read.
    pub outbound: Vec<Socket>,
    /// Rows whose other end connected: the selected ones, and those whose local port an SSH server listens on, which
    /// tell where logins come from.
    pub inbound: Vec<Socket>,
    /// Of those, the ones that are followed as inbound SSH sessions: they are not in `inbound`.
    pub accepted: Vec<Socket>,
    /// All LISTEN rows.
    pub listeners: Vec<Socket>,
    /// False if a row could not be parsed: then nothing may be concluded from a row that is absent.
    pub complete: bool,
    /// Rows that nobody holds beyond as many as are kept.
    pub ends_left_out: u64,
    /// True if what is new in it stood before: the first of a watch, or of a wider selection.
    pub standing: bool,
    /// True if notices tell of every end: a row that is nothing but an end is not news.
    pub noticed: bool,
}

/// What one reading of the UDP sockets brought: those that are connected, and selected.
#[derive(Debug, Clone, Default)]
pub struct Flows {
    /// The namespace that was read.
    pub netns: Netns,
    /// Those that we connected.
    pub outbound: Vec<Socket>,
    /// Those of a server: another socket of no remote end is bound to the same local port.
    pub inbound: Vec<Socket>,
    /// False if nothing may be concluded from a row that is absent.
    pub complete: bool,
}

/// What makes a connection itself: the same port with a new inode is a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub netns: Netns,
    /// Both ends.
    pub tuple: Tuple,
    /// Socket.
    pub inode: Inode,
}

/// How a connection was first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Alive, in a table read.
    Poll,
    /// It stood before the watch began, or before it came into scope.
    Start,
    /// Only its TIME_WAIT (or another state after the end) was seen.
    TimeWait,
    /// Its SYN was seen on its way out.
    Syn,
    /// The same, as a rule of the firewall logged it.
    Nflog,
    /// An audit record told that somebody asked for it.
    Audit,
    /// Only the kernel's notice of its end was seen.
    Destroy,
    /// The kernel's own words told of it, and who made it.
    Ebpf,
}

impl Seen {
    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Start => "start",
            Self::TimeWait => "time_wait",
            Self::Syn => "syn",
            Self::Nflog => "nflog",
            Self::Audit => "audit",
            Self::Destroy => "destroy",
            Self::Ebpf => "ebpf",
        }
    }

    /// From what `name` gives.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::Poll,
            Self::Start,
            Self::TimeWait,
            Self::Syn,
            Self::Nflog,
            Self::Audit,
            Self::Destroy,
            Self::Ebpf,
        ];
        all.into_iter().find(|seen| seen.name() == name)
    }

    /// True if first sight was the beginning, but for the time between two looks.
    #[must_use]
    pub fn tells_start(self) -> bool {
        matches!(self, Self::Poll | Self::Syn | Self::Nflog | Self::Audit | Self::Ebpf)
    }
}

/// A connection as the records tell it. An open holds all that its close will need.
#[derive(Debug, Clone)]
pub struct Connection {
    /// UUIDv7, from its open to its close.
    pub id: Uuid,
    /// Namespace.
    pub netns: Netns,
    /// `None` for a connection of which only the end was seen.
    pub inode: Option<Inode>,
    /// `None`: nobody has told it.
    pub cookie: Option<Cookie>,
    /// What carries it.
    pub transport: Transport,
    /// Both ends.
    pub tuple: Tuple,
    /// Who connected.
    pub direction: Direction,
    /// As last seen.
    pub state: TcpState,
    /// Creator of the socket. `None` where the kernel no longer told.
    pub uid: Option<u32>,
    /// Login name of `uid`, where it has one.
    pub user: Option<Arc<str>>,
    /// How it was first seen.
    pub seen: Seen,
    /// First sight.
    pub opened: Moment,
    /// Last sight of its row.
    pub last_seen: Moment,
    /// Who owns it.
    pub attribution: Attribution,
    /// From where, and through what. `None`: the owner is not known.
    pub way: Option<Arc<Way>>,
}

/// Who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// We did.
    Egress,
    /// The other end did: an inbound SSH session.
    Ingress,
}

impl Direction {
    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// Why a connection ended, as far as the evidence goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// In order: its process let go of it.
    Closed,
    /// It went to CLOSED without an orderly end while its process still held it: a reset, or a timeout.
    Reset,
    /// The attempt failed, and what is known does not tell why.
    Failed,
    /// The other end answered the attempt with a reset.
    Refused,
    /// Nobody answered the attempt until the kernel gave up.
    TimedOut,
    /// The attempt was answered by a router: the other end cannot be reached.
    Unreachable,
    /// The attempt's process let go of it before it was seen established, and the kernel counted no failure.
    Cancelled,
    /// Nothing passed for a while through a UDP flow whose socket is connected to nobody.
    Idle,
    /// A reload, or a restart with other settings, took it out of the selection.
    OutOfScope,
    /// It ended while nobody watched.
    WhileDown,
    /// The machine was started anew.
    Reboot,
}

impl CloseReason {
    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Cancelled => "cancelled",
            Self::Idle => "idle",
            Self::OutOfScope => "out_of_scope",
            Self::WhileDown => "while_down",
            Self::Reboot => "reboot",
        }
    }
}

/// IPv4-mapped IPv6 is IPv4.
#[must_use]
pub fn fold(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
