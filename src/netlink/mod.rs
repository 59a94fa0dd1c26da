//! Netlink: the kernel's TCP table by sock_diag, its notices of the ends of sockets and of processes, the packets
//! that its firewall logs, and its audit records.
//!
//! Says what the kernel says: knows no port by its meaning, no direction and no connection. A socket works in the
//! network namespace of the thread that opened it, for good, and keeps that namespace in existence.
//! Layout: `linux/netlink.h`, `linux/inet_diag.h`, `linux/tcp.h`, `linux/cn_proc.h`; checked on 6.18.

mod audit;
mod connector;
mod destroy;
mod diag;
mod filter;
mod nflog;
mod unix;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with, sockopt,
};

pub use audit::AuditRecords;
pub use connector::{ProcessNotice, ProcessNotices, parse_processes};
pub use destroy::{DestroyNotices, Destroyed, parse_ends};
pub use diag::{Diag, Dump, Sight, parse_sights, states};
pub use filter::{Clause, Filter};
pub use nflog::{Logged, LoggedPackets, Taken, parse_logged};
pub use unix::{UnixDiag, UnixSocket, parse_unix_sockets};

/// What the kernel refused, or answered with nonsense.
#[derive(Debug)]
pub struct NetlinkError {
    act: &'static str,
    source: io::Error,
}

impl NetlinkError {
    fn new(act: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { act, source: errno.into() }
    }

    /// True if this kernel, or this process, will never be given it: a module or a privilege is missing.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        let never = [Errno::OPNOTSUPP, Errno::NOENT, Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT, Errno::PERM];
        never.iter().any(|errno| Some(errno.raw_os_error()) == self.source.raw_os_error())
    }

    /// True if another program has what only one may have.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        Some(Errno::BUSY.raw_os_error()) == self.source.raw_os_error()
    }

    /// True if it is the privilege that is missing.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.act)
    }
}

impl std::error::Error for NetlinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// How reading notices went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Datagrams that were taken from the socket, those included that were not for the visitor.
    pub messages: u64,
    /// True if the kernel dropped notices because the socket's buffer was full. It does not say how many here;
    /// `Proc::read_netlink_drops` does.
    pub overflowed: bool,
    /// True if nothing was left.
    pub drained: bool,
}

/// A netlink socket whose only correspondent is the kernel.
#[derive(Debug)]
struct Link(OwnedFd);

impl Link {
    /// `groups`: mask of the groups to listen to.
    fn open(protocol: Protocol, groups: u32, flags: SocketFlags) -> Result<Self, Errno> {
        let flags = flags | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(protocol))?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self(socket))
    }

    /// Memory counts against the limit only while it holds messages, so a high limit costs nothing at rest.
    fn raise_buffer(&self, bytes: usize) {
        let forced = sockopt::set_socket_recv_buffer_size_force(&self.0, bytes);
        // Without CAP_NET_ADMIN as much as net.core.rmem_max allows; overflows are reported either way.
        let _most_allowed = forced.or_else(|_| sockopt::set_socket_recv_buffer_size(&self.0, bytes));
    }

    fn send(&self, kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::MSGSIZE)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        retry(|| sendto(&self.0, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))).map(drop)
    }

    /// One datagram. One that another process sent is passed over; one that the buffer cannot hold is MSGSIZE.
    fn receive<'b>(&self, buffer: &'b mut [u8], flags: RecvFlags) -> Result<&'b [u8], Errno> {
        loop {
            let (_, length, sender) = retry(|| recvfrom(&self.0, &mut *buffer, flags | RecvFlags::TRUNC))?;
            let sender = sender.and_then(|address| SocketAddrNetlink::try_from(address).ok());
            if sender.is_some_and(|address| address.pid() == 0) {
                return buffer.get(..length).ok_or(Errno::MSGSIZE);
            }
        }
    }

    /// Gives up to `most` datagrams to `visit`, without waiting.
    fn drain(&self, most: usize, visit: impl FnMut(&[u8])) -> Result<Received, Errno> {
        self.drain_long::<NOTICE_MOST>(most, visit)
    }

    /// The same of datagrams of up to so many bytes.
    fn drain_long<const BYTES: usize>(
        &self,
        most: usize,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<Received, Errno> {
        let mut received = Received::default();
        let mut buffer = [0; BYTES];
        for _ in 0..most {
            match self.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Ok(datagram) => {
                    received.messages += 1;
                    visit(datagram);
                }
                // Told once, and the messages that did fit are still there.
                Err(Errno::NOBUFS) => received.overflowed = true,
                Err(Errno::AGAIN) => {
                    received.drained = true;
                    break;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(received)
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// A notice of an end has 380 bytes, one of a process 76.
const NOTICE_MOST: usize = 4096;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// One message of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Message<'_> {
    /// What DONE and ERROR carry: 0 or a negative error number.
    fn outcome(&self) -> Result<(), Errno> {
        match u32_at(self.payload, 0).map(u32::cast_signed) {
            None | Some(0) => Ok(()),
            Some(code) => Err(Errno::from_raw_os_error(code.saturating_neg())),
        }
    }
}

/// The messages of a datagram, up to the first that is cut off.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let message = Message {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            payload: self.0.get(HEADER..length)?,
        };
        self.0 = behind(self.0, length);
        Some(message)
    }
}

/// The attributes behind a message's fixed part, by number.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        // The two upper bits of the number are flags.
        let (length, number) = (usize::from(u16_at(self.0, 0)?), u16_at(self.0, 2)? & 0x3fff);
        let payload = self.0.get(4..length)?;
        self.0 = behind(self.0, length);
        Some((number, payload))
    }
}

/// What follows `length` bytes and the padding to a multiple of four.
fn behind(bytes: &[u8], length: usize) -> &[u8] {
    length.checked_next_multiple_of(4).and_then(|next| bytes.get(next..)).unwrap_or_default()
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = [length.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &[0; 10], payload].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0xee);
        bytes
    }

    #[test]
    fn messages_are_told_apart_whatever_their_padding() {
        let bytes = [message(20, b"abcde"), message(18, b""), message(3, &[0; 4])].concat();
        let found: Vec<_> = Messages(&bytes).map(|m| (m.kind, m.payload)).collect();
        assert_eq!(found, [(20, b"abcde".as_slice()), (18, b""), (3, &[0; 4])]);
    }

    #[test]
    fn a_message_that_is_cut_off_or_shorter_than_its_header_ends_them() {
        let whole = message(20, b"abcd");
        for cut in 0..whole.len() {
            assert_eq!(Messages(&whole[..cut]).count(), 0, "{cut}");
        }
        let mut short = whole;
        short[..4].copy_from_slice(&3u32.to_ne_bytes());
        assert_eq!(Messages(&short).count(), 0);
    }

    #[test]
    fn an_error_names_the_act_and_its_cause() {
        let error = NetlinkError::new("read the TCP table by sock_diag")(Errno::OPNOTSUPP);
        assert_eq!(error.to_string(), "cannot read the TCP table by sock_diag");
        assert!(std::error::Error::source(&error).is_some());
        assert!(error.is_unsupported());
        assert!(!NetlinkError::new("x")(Errno::NOBUFS).is_unsupported());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(bytes in proptest::collection::vec(0u8.., 0..400)) {
            assert!(Messages(&bytes).count() <= bytes.len() / HEADER);
            assert!(Attributes(&bytes).count() <= bytes.len() / 4);
            for at in 0..bytes.len() {
                let _ = (u16_at(&bytes, at), u32_at(&bytes, at), u64_at(&bytes, at));
            }
        }

        #[test]
        fn no_length_makes_it_panic(length: u32, attribute: u16, rest in proptest::collection::vec(0u8.., 0..64)) {
            let bytes = [length.to_ne_bytes().as_slice(), &rest].concat();
            let _ = Messages(&bytes).count();
            let bytes = [attribute.to_ne_bytes().as_slice(), &rest].concat();
            let _ = Attributes(&bytes).count();
        }
    }
}
