//! Unix sockets by sock_diag: one socket by its inode, with its name and the inode of its peer.
//!
//! Layout: `linux/unix_diag.h`; checked on 6.18. Needs no privilege; works in the network namespace that it was opened in.

use rustix::io::Errno;
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SocketFlags};

use super::diag::{BY_FAMILY, PATIENCE};
use super::{
    Attributes, Link, Message, Messages, NLM_F_REQUEST, NLMSG_ERROR, NetlinkError, bytes_at, u32_at,
};
use crate::connection::Inode;

const AF_UNIX: u8 = 1;
/// Attributes of an answer, and the bits that ask for them.
const NAME: u16 = 0;
const PEER: u16 = 2;
const SHOW: u32 = 1 << NAME | 1 << PEER;
/// Bytes of `struct unix_diag_msg`.
const ROW: usize = 16;
/// LISTEN, as in TCP.
const LISTEN: u8 = 10;
const ANSWER_MOST: usize = 4096;

/// One unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// The path that it, or the listener that accepted it, is bound to; empty for one without.
    pub name: Vec<u8>,
    /// True if it waits for others to connect.
    pub listens: bool,
    /// The socket at the other end.
    pub peer: Option<Inode>,
}

/// A socket to ask with.
#[derive(Debug)]
pub struct UnixDiag {
    link: Link,
    sequence: u32,
}

impl UnixDiag {
    /// Opens it in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel has no sock_diag.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let link = Link::open(SOCK_DIAG, 0, SocketFlags::empty())?;
            set_socket_timeout(&link.0, Timeout::Recv, Some(PATIENCE))?;
            Ok(Self { link, sequence: 0 })
        };
        open().map_err(NetlinkError::new("open a sock_diag socket"))
    }

    /// Asks for one socket: 5 µs. `None`: there is no such unix socket in this namespace.
    ///
    /// # Errors
    /// `is_unsupported` where the kernel has no module `unix_diag`.
    pub fn find(&mut self, inode: Inode) -> Result<Option<UnixSocket>, NetlinkError> {
        // The kernel counts these in 32 bits.
        let Ok(number) = u32::try_from(inode.get()) else { return Ok(None) };
        self.sequence = self.sequence.wrapping_add(1);
        let body = request(number);
        self.link
            .send(BY_FAMILY, NLM_F_REQUEST, self.sequence, &body)
            .and_then(|()| self.take_answer())
            .map_err(NetlinkError::new("look a unix socket up by sock_diag"))
    }

    fn take_answer(&mut self) -> Result<Option<UnixSocket>, Errno> {
        let mut buffer = [0; ANSWER_MOST];
        loop {
            let datagram = self.link.receive(&mut buffer, RecvFlags::empty())?;
            let Some(message) = Messages(datagram).find(|message| message.sequence == self.sequence) else {
                continue;
            };
            return match message.kind {
                NLMSG_ERROR => match message.outcome() {
                    Err(Errno::NOENT) => Ok(None),
                    outcome => outcome.map(|()| None),
                },
                _ => parse_unix(&message).map(Some).ok_or(Errno::BADMSG),
            };
        }
    }
}

/// `struct unix_diag_req`.
fn request(inode: u32) -> Vec<u8> {
    let mut request = vec![AF_UNIX, 0, 0, 0];
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(inode.to_ne_bytes());
    request.extend(SHOW.to_ne_bytes());
    // Whatever its cookie.
    request.extend([0xff; 8]);
    request
}

/// The sockets of a datagram. Public for `fuzz/`.
pub fn parse_unix_sockets(datagram: &[u8]) -> impl Iterator<Item = UnixSocket> {
    Messages(datagram).filter_map(|message| parse_unix(&message))
}

/// `struct unix_diag_msg` and its attributes.
fn parse_unix(message: &Message<'_>) -> Option<UnixSocket> {
    let [_, _, state, _] = bytes_at(message.payload, 0)?;
    let mut socket = UnixSocket { name: Vec::new(), listens: state == LISTEN, peer: None };
    for (number, value) in Attributes(message.payload.get(ROW..)?) {
        match number {
            // A path ends with the NUL that the binder gave; one that begins with it is a name without a file.
            NAME => socket.name = value.strip_suffix(b"\0").unwrap_or(value).to_vec(),
            PEER => socket.peer = u32_at(value, 0).and_then(|inode| Inode::new(u64::from(inode))),
            _ => {}
        }
    }
    Some(socket)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn inode(socket: impl std::os::fd::AsFd) -> Inode {
        Inode::new(rustix::fs::fstat(socket.as_fd()).unwrap().st_ino).unwrap()
    }

    #[test]
    fn a_listener_has_its_path_and_what_it_accepted_leads_to_the_client() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mut diag = UnixDiag::open().unwrap();
        let name = path.as_os_str().as_encoded_bytes().to_vec();
        let wanted = UnixSocket { name: name.clone(), listens: true, peer: None };
        assert_eq!(diag.find(inode(listener.as_fd())).unwrap(), Some(wanted));
        let wanted = UnixSocket { name, listens: false, peer: Some(inode(&client)) };
        assert_eq!(diag.find(inode(&accepted)).unwrap(), Some(wanted));
        let gone = inode(&client);
        drop((client, accepted));
        assert_eq!(diag.find(gone).unwrap(), None);
    }
}
