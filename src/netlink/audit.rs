//! The kernel's audit records, as they are given to whoever listens beside auditd: all of the machine's, as text.
//!
//! Says nothing of what they mean. Needs CAP_AUDIT_READ, in the machine's first user and network namespaces: elsewhere
//! nothing ever comes. There are records of calls only where somebody has audit on and a rule for them. What does not fit the
//! kernel's own queue (its backlog) is lost before it gets here and counted there. Layout: `linux/audit.h`.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::SocketFlags;
use rustix::net::netlink::AUDIT;

use super::{HEADER, Link, NetlinkError, Received, u16_at};

/// AUDIT_NLGRP_READLOG.
const READLOG: u32 = 1;
/// Room for some thousand records.
const BUFFER: usize = 4 << 20;
/// MAX_AUDIT_MESSAGE_LENGTH is 8,970.
const MOST: usize = 16 * 1024;

/// A subscription to these records.
#[derive(Debug)]
pub struct AuditRecords(Link);

impl AuditRecords {
    /// Subscribes.
    ///
    /// # Errors
    /// `is_denied` without the privilege, `is_unsupported` where the kernel has no audit.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        let link = Link::open(AUDIT, READLOG, SocketFlags::NONBLOCK)
            .map_err(NetlinkError::new("subscribe to the kernel's audit records"))?;
        link.raise_buffer(BUFFER);
        Ok(Self(link))
    }

    /// Gives the number and the text of up to `most` records to `visit`, without waiting.
    ///
    /// # Errors
    /// If the socket fails. An overflow is none.
    pub fn receive(
        &mut self,
        most: usize,
        mut visit: impl FnMut(u16, &[u8]),
    ) -> Result<Received, NetlinkError> {
        // One record is a datagram. The length that its header tells is wrong on some kernels.
        let each = |datagram: &[u8]| {
            if let (Some(kind), Some(text)) = (u16_at(datagram, 4), datagram.get(HEADER..)) {
                visit(kind, text);
            }
        };
        self.0.drain_long::<MOST>(most, each).map_err(NetlinkError::new("receive the kernel's audit records"))
    }
}

impl AsFd for AuditRecords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}
