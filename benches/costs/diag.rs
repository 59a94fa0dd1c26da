//! The kernel's TCP table by sock_diag, and its notices of ends: bare system calls, rows counted and not kept.
//!
//! Layouts: linux/inet_diag.h, linux/netlink.h. Numbers are the machine's, ports the network's.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{bind, recv, sendto, socket_with, sockopt};

const GETSOCK: u16 = 18;
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// A socket's addresses, ports, device and cookie.
const ID: usize = 48;

/// What the kernel is asked for.
#[derive(Clone, Copy)]
pub enum Rows {
    /// Those to one remote port, named in the request's id: compared before anything else of a socket is touched.
    To(u16),
    /// The same by bytecode, which lists and ranges need.
    ToByCode(u16),
    All,
}

/// A row: enough to ask for that socket alone, or for its owner.
#[derive(Clone, Copy)]
pub struct Key {
    family: u8,
    id: [u8; ID],
    pub inode: u32,
}

impl Key {
    /// Of the socket that sent a packet, by its headers from IP on; any cookie. `None`: it is too short.
    pub fn of_ipv4(packet: &[u8]) -> Option<Self> {
        let ports = packet.get(usize::from(packet.first()? & 15) * 4..)?;
        let mut id = [0; ID];
        id[..4].copy_from_slice(ports.first_chunk::<4>()?);
        id[4..8].copy_from_slice(packet.get(12..16)?);
        id[20..24].copy_from_slice(packet.get(16..20)?);
        id[40..].fill(u8::MAX);
        Some(Self { family: 2, id, inode: 0 })
    }

    pub fn local_port(&self) -> u16 {
        u16::from_be_bytes([self.id[0], self.id[1]])
    }

    pub fn is_same_socket(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

pub struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Diag {
    pub fn open() -> Self {
        Self { socket: diag_socket(0), buffer: vec![0; 64 * 1_024] }
    }

    /// One walk over the table, both families: the old request. How many rows came, into `keys` as well.
    pub fn walk(&mut self, rows: Rows, keys: &mut Vec<Key>) {
        keys.clear();
        self.send(&walk_request(rows));
        loop {
            let (_, length) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()).expect("a dump");
            for (kind, body) in messages(&self.buffer[..length]) {
                match kind {
                    DONE => return,
                    ERROR => panic!("sock_diag: error {}", i32::from_ne_bytes(*body.first_chunk().unwrap())),
                    _ => keys.push(Key {
                        family: body[0],
                        id: *body[4..].first_chunk().unwrap(),
                        inode: inode(body),
                    }),
                }
            }
        }
    }

    /// Asks for exactly this socket: its inode. `None`: it is not there.
    pub fn look_up(&mut self, key: &Key) -> Option<u32> {
        let mut request = header(BY_FAMILY, REQUEST);
        request.extend([key.family, 6, 0, 0]);
        request.extend(u32::MAX.to_ne_bytes());
        request.extend(key.id);
        self.send(&request);
        let (_, length) = recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()).expect("an answer");
        let (kind, body) = messages(&self.buffer[..length]).next()?;
        (kind == BY_FAMILY).then(|| inode(body))
    }

    /// Sends a whole message, its length filled in.
    fn send(&self, request: &[u8]) {
        let mut request = request.to_vec();
        let length = request.len() as u32;
        request[..4].copy_from_slice(&length.to_ne_bytes());
        sendto(&self.socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).expect("sock_diag");
    }
}

/// The last of `struct inet_diag_msg`.
fn inode(row: &[u8]) -> u32 {
    u32::from_ne_bytes(*row[68..].first_chunk().unwrap())
}

/// `struct nlmsghdr`, its length still to be filled in.
fn header(kind: u16, flags: u16) -> Vec<u8> {
    let mut request = vec![0; HEADER];
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request
}

fn walk_request(rows: Rows) -> Vec<u8> {
    let mut request = header(GETSOCK, REQUEST | DUMP);
    request.extend([2, 0, 0, 0]);
    let mut id = [0; ID];
    if let Rows::To(port) = rows {
        id[2..4].copy_from_slice(&port.to_be_bytes());
    }
    request.extend(id);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    if let Rows::ToByCode(port) = rows {
        // "Remote port equals": on to the end if so, four bytes past it if not.
        let code = [(12, 8, 12), (0, 0, port)];
        request.extend(12_u16.to_ne_bytes());
        request.extend(1_u16.to_ne_bytes());
        for (op, yes, no) in code {
            request.extend([op, yes]);
            request.extend(no.to_ne_bytes());
        }
    }
    request
}

/// Kind and body of each message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn diag_socket(groups: u32) -> OwnedFd {
    let kind = Some(netlink::SOCK_DIAG);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, kind);
    let socket = socket.expect("sock_diag");
    bind(&socket, &SocketAddrNetlink::new(0, groups)).expect("sock_diag");
    socket
}

/// Notices of TCP sockets destroyed, both families.
pub struct Notices {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Notices {
    pub fn open() -> Self {
        let socket = diag_socket(0b0101);
        // So that nothing is lost where this is a floor; without CAP_NET_ADMIN it stays as it is.
        let _ = set_socket_recv_buffer_size_force(&socket, 32 << 20);
        let patience = Some(Duration::from_millis(200));
        set_socket_timeout(&socket, sockopt::Timeout::Recv, patience).expect("an option");
        Self { socket, buffer: vec![0; 64 * 1_024] }
    }

    /// Waits for one read's worth of notices: how many. 0: none for 200 ms.
    pub fn read(&mut self) -> usize {
        match recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()) {
            Ok((_, length)) => messages(&self.buffer[..length]).count(),
            Err(_) => 0,
        }
    }
}

/// Reads every notice for ever, and writes how many whenever none came for 200 ms.
pub fn count_notices() {
    let mut notices = Notices::open();
    let (mut all, mut told) = (0, 0);
    loop {
        match notices.read() {
            0 if all != told => {
                println!("{all}");
                told = all;
            }
            more => all += more,
        }
    }
}
