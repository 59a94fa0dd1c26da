//! The kernel's notice of each TCP socket's end, of every process of the namespace. Needs no privilege.
//!
//! A notice comes when the socket is freed or shrinks to TIME_WAIT, with what it counted. Who held it is no longer told.
//! One that was disconnected before (`SO_LINGER` 0, a `connect` that failed and was waited for) has lost its remote end,
//! its local address and its counts, but kept its local port and its cookie.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::fstat;
use rustix::net::SocketFlags;
use rustix::net::netlink::SOCK_DIAG;

use super::diag::{info, parse_counts, parse_row};
use super::{Link, Messages, NetlinkError, Received, u32_at};
use crate::connection::{Cookie, Counts, Tuple};

/// SKNLGRP_INET_TCP_DESTROY (1) and SKNLGRP_INET6_TCP_DESTROY (3).
const GROUPS: u32 = 0b101;
/// Room for 6,500 notices (each takes 1,280 bytes of the kernel's memory, and the kernel doubles what is asked).
const BUFFER: usize = 4 << 20;

/// The end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destroyed {
    /// Its ends. Remote port 0: it was disconnected before, or never connected, or a listener.
    pub tuple: Tuple,
    /// As while it lived.
    pub cookie: Option<Cookie>,
    /// Network device that it was bound to; 0 for none.
    pub device: u32,
    /// What it counted. All 0 after a disconnect. `None` where the kernel tells nothing.
    pub counts: Option<Counts>,
    /// True if it ever sent a packet to somebody, even if it was disconnected since: listeners and sockets that were
    /// closed unused did not.
    pub attempted: bool,
}

/// A subscription to these notices in one network namespace.
#[derive(Debug)]
pub struct DestroyNotices {
    link: Link,
    inode: u64,
}

impl DestroyNotices {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// While anybody is subscribed, each end costs the kernel 2.5 µs more.
    ///
    /// # Errors
    /// Where the kernel has no sock_diag. Where it has no module for TCP no notice ever comes: `Diag::open` tells.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        Self::with_buffer(BUFFER)
    }

    /// As `subscribe`, with another buffer.
    ///
    /// # Errors
    /// As `subscribe`.
    pub fn with_buffer(bytes: usize) -> Result<Self, NetlinkError> {
        let open = || {
            let link = Link::open(SOCK_DIAG, GROUPS, SocketFlags::NONBLOCK)?;
            let inode = fstat(&link.0)?.st_ino;
            link.raise_buffer(bytes);
            Ok(Self { link, inode })
        };
        open().map_err(NetlinkError::new("subscribe to the ends of TCP sockets"))
    }

    /// The subscribing socket's own inode, by which `net/netlink` counts what was dropped.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Gives up to `most` notices to `visit`, without waiting; 1.2 µs each.
    ///
    /// # Errors
    /// If the socket fails. An overflow is none.
    pub fn receive(
        &mut self,
        most: usize,
        mut visit: impl FnMut(Destroyed),
    ) -> Result<Received, NetlinkError> {
        let each = |datagram: &[u8]| parse_ends(datagram).for_each(&mut visit);
        self.link.drain(most, each).map_err(NetlinkError::new("receive the ends of TCP sockets"))
    }
}

impl AsFd for DestroyNotices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.0.as_fd()
    }
}

/// The notices of one datagram. Public for `fuzz/`.
pub fn parse_ends(datagram: &[u8]) -> impl Iterator<Item = Destroyed> {
    Messages(datagram).filter_map(|message| parse(message.payload))
}

fn parse(payload: &[u8]) -> Option<Destroyed> {
    let socket = parse_row(payload)?;
    let info = info(payload)?;
    Some(Destroyed {
        tuple: socket.tuple,
        cookie: socket.cookie,
        device: socket.device,
        counts: parse_counts(info),
        // `tcpi_pmtu`: known once there was a way to somebody, and no disconnect forgets it.
        attempted: u32_at(info, 60).is_some_and(|bytes| bytes > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..400), family in 0u8..12) {
            let _ = parse(&[&[family], bytes.as_slice()].concat());
        }
    }
}
