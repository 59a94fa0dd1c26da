//! Packets that a rule of the firewall logs to a group: of these, the SYNs that this machine sends.
//!
//! Says what the packet says, before the firewall has changed or dropped it, and whose socket sent it: no pid. What is
//! logged is the rule's affair, and nobody is told that there is none. Needs CAP_NET_ADMIN; a group has one listener.
//! Layout: `linux/netfilter/nfnetlink_log.h`, `linux/netfilter/nfnetlink.h`.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use rustix::net::{RecvFlags, SocketFlags};

use super::{
    Attributes, Link, Message, Messages, NLM_F_REQUEST, NLMSG_ERROR, NOTICE_MOST, NetlinkError, Received,
    bytes_at,
};
use crate::connection::Tuple;
use crate::packet::parse_syn;

const NLM_F_ACK: u16 = 4;
/// NFNL_SUBSYS_ULOG in the upper byte, and NFULNL_MSG_PACKET or NFULNL_MSG_CONFIG in the lower.
const PACKET: u16 = 0x400;
const CONFIG: u16 = 0x401;
/// No message of that subsystem.
const NOTHING: u16 = 0x4ff;
/// Bytes of `struct nfgenmsg`.
const HEADER: usize = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// NF_INET_LOCAL_OUT and NF_INET_POST_ROUTING: nothing else sees what this machine sends, and the second forwards too.
const LOCAL_OUT: u8 = 3;
const POST_ROUTING: u8 = 4;

/// NFULA_CFG_*.
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CFG_NLBUFSIZ: u16 = 3;
const CFG_TIMEOUT: u16 = 4;
const CFG_QTHRESH: u16 = 5;
const CFG_FLAGS: u16 = 6;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const FLAG_SEQ: u16 = 1;

/// NFULA_*.
const PACKET_HDR: u16 = 1;
const IFINDEX_OUTDEV: u16 = 5;
const PAYLOAD: u16 = 9;
const UID: u16 = 11;
const SEQ: u16 = 12;

/// The largest headers: 60 bytes of IPv4 and 60 of TCP.
const HEADERS: u32 = 120;
/// Of the kernel's memory for one message, which bears one packet: it counts against the buffer in whole.
const MESSAGE: u32 = 1024;
/// A packet waits for no other: one makes a message.
const THRESHOLD: u32 = 1;
/// And if it did, no longer than this, in hundredths of a second.
const TIMEOUT: u32 = 1;
/// Room for 10,000 packets, of 832 bytes each.
const BUFFER: usize = 4 << 20;

/// A SYN that a rule logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    /// Its ends; ours is the local one. As the socket has them: no translation of addresses has been made yet, if the
    /// rule comes before that.
    pub tuple: Tuple,
    /// Index of the network device that it is to leave through; 0 where that is not told.
    pub device: u32,
    /// Who opened the socket that sent it. `None`: it is forwarded, or nobody holds the socket any more.
    pub uid: Option<u32>,
}

/// How reading the group went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Datagrams that were taken from the socket.
    pub messages: u64,
    /// Packets, of any kind, that the rule logged and that found no room, as far as known now: their numbers are told by
    /// the next one that does. Less one for each time that `overflowed` told of them before.
    pub lost: u64,
    /// True if at least one found no room, and how many did is not known yet.
    pub overflowed: bool,
    /// True if nothing was left.
    pub drained: bool,
}

/// The one listener of a group, in one network namespace.
#[derive(Debug)]
pub struct LoggedPackets {
    link: Link,
    numbers: Numbers,
    /// Losses that were told before it was known how many packets they were.
    foretold: u64,
}

/// The kernel numbers the packets of a group from 0, those among them that find no room.
#[derive(Debug, Default)]
struct Numbers {
    next: u32,
}

impl Numbers {
    /// How many are missing before this one.
    fn missing(&mut self, number: u32) -> u32 {
        let missing = number.wrapping_sub(self.next);
        self.next = number.wrapping_add(1);
        missing
    }
}

impl LoggedPackets {
    /// Listens to a group in the calling thread's network namespace. Without a rule that logs to it nothing ever comes, and
    /// that is not told.
    ///
    /// # Errors
    /// `is_denied` without CAP_NET_ADMIN; `is_taken` if somebody else listens to the group.
    pub fn bind(group: u16) -> Result<Self, NetlinkError> {
        Self::with_buffer(group, BUFFER)
    }

    /// As `bind`, with another buffer.
    ///
    /// # Errors
    /// As `bind`.
    pub fn with_buffer(group: u16, bytes: usize) -> Result<Self, NetlinkError> {
        let open = || {
            let link = Link::open(NETFILTER, 0, SocketFlags::NONBLOCK)?;
            let packets = Self { link, numbers: Numbers::default(), foretold: 0 };
            packets.link.raise_buffer(bytes);
            match packets.ask(CONFIG, &configuration(group)) {
                // The kernel says the same where another has the group; of what it does not know it says something else.
                Err(Errno::PERM) if packets.ask(NOTHING, &[0; HEADER]) != Err(Errno::PERM) => {
                    Err(Errno::BUSY)
                }
                outcome => outcome.map(|()| packets),
            }
        };
        open()
            .map_err(|errno| match errno {
                // The subsystem is not there, and no module for it.
                Errno::INVAL => Errno::OPNOTSUPP,
                other => other,
            })
            .map_err(NetlinkError::new("listen to the packets that the firewall logs"))
    }

    /// Gives up to `most` SYNs to `visit`, without waiting.
    ///
    /// # Errors
    /// If the socket fails. An overflow is none.
    pub fn receive(&mut self, most: usize, mut visit: impl FnMut(Logged)) -> Result<Taken, NetlinkError> {
        let Self { link, numbers, foretold } = self;
        let mut lost = 0;
        let received = link.drain(most, |datagram| {
            for (number, syn) in parse_logged(datagram) {
                lost += u64::from(number.map_or(0, |number| numbers.missing(number)));
                syn.into_iter().for_each(&mut visit);
            }
        });
        let received = received.map_err(NetlinkError::new("receive the packets that the firewall logs"))?;
        let counted = lost.min(*foretold);
        let overflowed = received.overflowed && lost == 0;
        *foretold = *foretold - counted + u64::from(overflowed);
        let Received { messages, drained, .. } = received;
        Ok(Taken { messages, lost: lost - counted, overflowed, drained })
    }

    fn ask(&self, kind: u16, body: &[u8]) -> Result<(), Errno> {
        self.link.send(kind, NLM_F_REQUEST | NLM_F_ACK, 1, body)?;
        self.take_answer()
    }

    /// The kernel answers before `send` returns; packets may come before that.
    fn take_answer(&self) -> Result<(), Errno> {
        let mut buffer = [0; NOTICE_MOST];
        loop {
            let datagram = match self.link.receive(&mut buffer, RecvFlags::DONTWAIT) {
                Err(Errno::NOBUFS) => continue,
                outcome => outcome?,
            };
            if let Some(answer) = Messages(datagram).find(|message| message.kind == NLMSG_ERROR) {
                return answer.outcome();
            }
        }
    }
}

impl AsFd for LoggedPackets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.0.as_fd()
    }
}

/// Takes the group, and has the headers of each packet sent at once, with a number and no more.
fn configuration(group: u16) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(group.to_be_bytes());
    let mut mode = HEADERS.to_be_bytes().to_vec();
    mode.extend([COPY_PACKET, 0]);
    put(&mut body, CFG_CMD, &[BIND]);
    put(&mut body, CFG_MODE, &mode);
    put(&mut body, CFG_NLBUFSIZ, &MESSAGE.to_be_bytes());
    put(&mut body, CFG_TIMEOUT, &TIMEOUT.to_be_bytes());
    put(&mut body, CFG_QTHRESH, &THRESHOLD.to_be_bytes());
    put(&mut body, CFG_FLAGS, &FLAG_SEQ.to_be_bytes());
    body
}

/// Adds an attribute of a few bytes.
fn put(body: &mut Vec<u8>, number: u16, value: &[u8]) {
    body.extend(u16::try_from(4 + value.len()).unwrap_or(4).to_ne_bytes());
    body.extend(number.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The packets of one datagram: the number of each, and the SYN that it is if it is one that this machine sends. Public for
/// `fuzz/`.
pub fn parse_logged(datagram: &[u8]) -> impl Iterator<Item = (Option<u32>, Option<Logged>)> {
    Messages(datagram).filter(|message| message.kind == PACKET).map(parse)
}

fn parse(message: Message<'_>) -> (Option<u32>, Option<Logged>) {
    let family = message.payload.first().copied();
    let (mut number, mut hook, mut device, mut uid, mut tuple) = (None, None, 0, None, None);
    for (attribute, value) in Attributes(message.payload.get(HEADER..).unwrap_or_default()) {
        let word = || bytes_at(value, 0).map(u32::from_be_bytes);
        match attribute {
            PACKET_HDR => hook = value.get(2).copied(),
            IFINDEX_OUTDEV => device = word().unwrap_or(0),
            PAYLOAD => tuple = parse_syn(value),
            UID => uid = word(),
            SEQ => number = word(),
            _ => {}
        }
    }
    let is_sent =
        matches!(family, Some(AF_INET | AF_INET6)) && matches!(hook, Some(LOCAL_OUT | POST_ROUTING));
    let syn = tuple.filter(|_| is_sent).map(|tuple| Logged { tuple, device, uid });
    (number, syn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_missing_are_counted_also_over_their_end() {
        let mut numbers = Numbers::default();
        let missing: Vec<_> = [0, 1, 4, 5].map(|number| numbers.missing(number)).to_vec();
        assert_eq!(missing, [0, 0, 2, 0]);
        let mut numbers = Numbers { next: u32::MAX };
        assert_eq!([u32::MAX, 0, 3].map(|number| numbers.missing(number)), [0, 0, 2]);
    }

    /// As Linux 6.18 told two connections of root to port 22, on the loopback device: the kept inputs of `fuzz/`.
    const V4: &[u8] = include_bytes!("../../fuzz/seeds/notices/logged-v4");
    const V6: &[u8] = include_bytes!("../../fuzz/seeds/notices/logged-v6");

    #[test]
    fn a_packet_is_told_with_its_number_its_ends_and_its_user() {
        let both = [V4, V6].concat();
        let told: Vec<_> = parse_logged(&both).collect();
        let syn = |local: &str, remote: &str| {
            let tuple = Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
            Some(Logged { tuple, device: 1, uid: Some(0) })
        };
        assert_eq!(
            told,
            [(Some(0), syn("127.0.0.1:34418", "127.0.0.1:22")), (Some(1), syn("[::1]:55360", "[::1]:22")),]
        );
    }

    #[test]
    fn what_is_received_or_forwarded_or_no_ip_is_counted_and_not_told() {
        // The hook stands behind two bytes of the first attribute, the family in front of it.
        for (at, value) in [(26, 0), (26, 1), (26, 2), (16, 5), (16, 7), (105, 0x12)] {
            let mut packet = V4.to_vec();
            assert_eq!(parse_logged(&packet).filter(|(_, syn)| syn.is_some()).count(), 1);
            packet[at] = value;
            assert_eq!(parse_logged(&packet).collect::<Vec<_>>(), [(Some(0), None)], "{value} at {at}");
        }
    }

    #[test]
    fn a_packet_that_is_cut_off_tells_nothing_false() {
        let whole = parse_logged(V6).next().unwrap();
        for cut in 0..V6.len() {
            assert_eq!(parse_logged(&V6[..cut]).count(), 0, "{cut}");
            // The message as long as it says it is, and its last attribute not.
            let mut short = V6[..cut].to_vec();
            if let Some(length) = short.first_chunk_mut::<4>() {
                *length = u32::try_from(cut).unwrap().to_ne_bytes();
            }
            for (number, syn) in parse_logged(&short) {
                assert!(number.is_none() || number == whole.0, "{cut}");
                assert!(
                    syn.is_none() || syn.is_some_and(|syn| Some(syn.tuple) == whole.1.map(|w| w.tuple)),
                    "{cut}"
                );
            }
        }
    }

    #[test]
    fn the_configuration_is_whole_attributes() {
        let body = configuration(0x1234);
        assert_eq!(body[..4], [0, 0, 0x12, 0x34]);
        let attributes: Vec<_> =
            Attributes(&body[HEADER..]).map(|(number, value)| (number, value.len())).collect();
        assert_eq!(attributes, [(1, 1), (2, 6), (3, 4), (4, 4), (5, 4), (6, 2)]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..300)) {
            let _ = parse(Message { kind: PACKET, flags: 0, sequence: 0, payload: &bytes });
            let _ = parse_logged(&bytes).count();
        }
    }
}
