//! Which end of a connection we are. Pure.
//!
//! The rule, in this order:
//!
//! 1. SYN_SENT: we connect. A request that no socket was made for yet: the other end does.
//! 2. A listener in the same namespace covers our address and port: the other end connected to it. So a session on
//!    our own sshd is inbound even if its client bound source port 22, and of a connection from this machine to itself
//!    only the client's row is outbound.
//! 3. Our port lies outside the range from which the kernel picks ports and the other end's inside it: the other end
//!    connected, and its listener is gone (a server that accepts one connection, or is being restarted).
//! 4. Otherwise we connected.
//!
//! Limits: a client that binds, with SO_REUSEADDR, the very port that something listens on is taken for inbound unless
//! it is seen in SYN_SENT; a server whose listener was never seen and whose port lies inside the range is taken for a
//! client. A connection's direction is decided at first sight and kept.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::connection::{Socket, TcpState};

/// Addresses and ports that something listens on.
#[derive(Debug, Default)]
pub struct Listeners(HashSet<SocketAddr>);

impl Listeners {
    /// Adds a LISTEN row.
    pub fn add(&mut self, local: SocketAddr) {
        self.0.insert(local);
    }

    /// True if a listener takes connections to this address. One on `::` takes IPv4 too unless it is bound to IPv6
    /// only, which no table tells: it is taken to do so.
    #[must_use]
    pub fn cover(&self, local: SocketAddr) -> bool {
        let any = |ip: IpAddr| self.0.contains(&SocketAddr::new(ip, local.port()));
        any(local.ip()) || any([0; 4].into()) && local.is_ipv4() || any([0u16; 8].into())
    }
}

/// True if we are the end that connected.
#[must_use]
pub fn is_outbound(socket: &Socket, listeners: &Listeners, ephemeral: (u16, u16)) -> bool {
    let picked = |end: SocketAddr| (ephemeral.0..=ephemeral.1).contains(&end.port());
    match socket.state {
        TcpState::SynSent => true,
        TcpState::NewSynRecv | TcpState::Listen => false,
        // Both ends may have connected at once: then ours is a socket, and none listens on its port.
        TcpState::SynRecv if socket.inode.is_none() => false,
        _ if listeners.cover(socket.tuple.local) => false,
        _ => picked(socket.tuple.local) || !picked(socket.tuple.remote),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Inode, Tuple};

    fn outbound(local: &str, remote: &str, state: TcpState, inode: u64, listening: &[&str]) -> bool {
        let mut listeners = Listeners::default();
        listening.iter().for_each(|l| listeners.add(l.parse().unwrap()));
        let tuple = Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
        let socket = Socket {
            tuple,
            state,
            uid: 0,
            inode: Inode::new(inode),
            timewait_left: None,
            cookie: None,
            device: 0,
        };
        is_outbound(&socket, &listeners, (32768, 60999))
    }

    #[test]
    fn the_rule_holds_case_by_case() {
        use TcpState::{Established as E, SynRecv, SynSent, TimeWait};
        for (local, remote, state, listening, wanted) in [
            ("10.0.0.1:50000", "203.0.113.7:22", E, &[][..], true),
            ("10.0.0.1:22", "203.0.113.7:50000", E, &["0.0.0.0:22"], false),
            ("10.0.0.1:22", "203.0.113.7:50000", E, &["[::]:22"], false),
            ("10.0.0.1:22", "203.0.113.7:22", E, &["10.0.0.1:22"], false),
            ("10.0.0.1:22", "203.0.113.7:22", E, &["10.0.0.2:22"], true),
            ("[2001:db8::1]:22", "[2001:db8::2]:22", E, &["0.0.0.0:22"], true),
            ("[2001:db8::1]:22", "[2001:db8::2]:22", E, &["[::]:22"], false),
            ("127.0.0.1:50000", "127.0.0.1:22", E, &["0.0.0.0:22"], true),
            ("127.0.0.1:22", "127.0.0.1:50000", TimeWait, &["0.0.0.0:22"], false),
            ("10.0.0.1:2222", "203.0.113.7:50000", E, &[], false),
            ("10.0.0.1:1023", "203.0.113.7:22", E, &[], true),
            ("10.0.0.1:22", "203.0.113.7:22", SynSent, &["0.0.0.0:22"], true),
            ("10.0.0.1:50000", "203.0.113.7:22", SynRecv, &[], true),
            ("10.0.0.1:22", "203.0.113.7:22", SynRecv, &["0.0.0.0:22"], false),
            ("10.0.0.1:22", "10.0.0.1:22", E, &[], true),
        ] {
            assert_eq!(
                outbound(local, remote, state, 1, listening),
                wanted,
                "{local} {remote} {state:?} {listening:?}"
            );
        }
        let request = outbound("10.0.0.1:50000", "203.0.113.7:22", SynRecv, 0, &[]);
        assert!(!request, "nobody's socket");
    }
}
