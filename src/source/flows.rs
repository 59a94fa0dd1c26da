//! UDP flows: whether they are asked for, when the sockets are read, and how.
//!
//! A flow here is a socket that is connected to a remote end: the kernel's table tells no end of another. What an
//! unconnected socket sends, and how much a flow carries, only those can tell who see each datagram.
//!
//! When the table is read: a socket that gets a local port, and one that is closed, move the number of sockets in use
//! (`net/sockstat`), also where no datagram is sent. One that is opened in the same tick as another is closed leaves
//! that as it is, and so does one that is bound already when it is connected: then its first datagram moves
//! `OutDatagrams`. That counts IPv4 only (IPv6's costs 8 µs more to read), and none of it tells which socket moved it. So
//! what moved is read for within 1/100 of a core, and what moved nothing waits for the repair read.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Selection;
use super::direction::Listeners;
use super::gate::{REPAIR_LEAST, REPAIR_MOST};
use super::poll::{Source, Tables};
use crate::connection::{Flows, Netns, Socket};
use crate::netlink::{Clause, Diag, Filter, NetlinkError, states};
use crate::proc::{Net, Proc, ProcError, TableRead, UdpCounters};

/// At most this share of a core goes into reads: 1/100.
const SHARE: u32 = 100;
/// The repair read comes every 1,000 times its own cost.
const REPAIR_FACTOR: u32 = 1_000;
/// What may be saved up, so that a flow after a quiet time is seen at once.
const SAVED_MOST: Duration = Duration::from_millis(50);

/// `--transport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// TCP connections alone.
    #[default]
    Tcp,
    /// UDP flows too.
    TcpAndUdp,
}

impl TransportChoice {
    /// True if UDP flows are asked for.
    #[must_use]
    pub fn has_udp(self) -> bool {
        self == Self::TcpAndUdp
    }
}

impl FromStr for TransportChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words: Vec<_> = text.split(',').map(str::trim).collect();
        words.sort_unstable();
        words.dedup();
        match words.as_slice() {
            ["tcp"] => Ok(Self::Tcp),
            ["tcp", "udp"] => Ok(Self::TcpAndUdp),
            ["udp"] => Err("TCP is always watched: write tcp,udp".to_owned()),
            _ => Err(format!("`{text}` is none of: tcp, or tcp,udp")),
        }
    }
}

impl fmt::Display for TransportChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::TcpAndUdp => "tcp,udp",
        })
    }
}

/// Whether a tick must read the UDP sockets.
#[derive(Debug, Default)]
pub struct FlowGate {
    last: Option<UdpCounters>,
    repair_due: Duration,
    cost: Duration,
    read_wanted: bool,
    /// True while something moved that no reading has explained, or an end waits to be confirmed.
    unexplained: bool,
    saved: Duration,
    saved_at: Duration,
}

impl FlowGate {
    /// Takes this tick's counters; true if the sockets must be read. `at`: time since boot. `others`: so many other
    /// namespaces share a core's hundredth.
    pub fn judge(&mut self, now: UdpCounters, at: Duration, others: usize) -> bool {
        let last = self.last.replace(now);
        let share = SHARE.saturating_mul(u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1));
        self.saved += at.saturating_sub(self.saved_at) / share;
        self.saved = self.saved.min(SAVED_MOST.max(self.cost * 3));
        self.saved_at = at;
        self.unexplained |= last.is_some_and(|last| last != now);
        self.read_wanted |= last.is_none() || at >= self.repair_due;
        if self.read_wanted || self.unexplained && self.saved >= self.cost {
            self.saved = self.saved.saturating_sub(self.cost);
            return true;
        }
        false
    }

    /// The next tick must read.
    pub fn want_read(&mut self) {
        self.read_wanted = true;
    }

    /// They have been read. `unconfirmed`: an end waits for another reading.
    pub fn has_read(&mut self, at: Duration, cost: Duration, unconfirmed: bool) {
        self.cost = cost;
        self.repair_due = at + (cost * REPAIR_FACTOR).clamp(REPAIR_LEAST, REPAIR_MOST);
        (self.read_wanted, self.unexplained) = (false, unconfirmed);
    }
}

/// Reads the connected UDP sockets of a namespace: by netlink, unless another source was asked for or the kernel has none
/// for UDP; then from `net/udp` and `net/udp6`, whose walk begins anew for each page: 53 ms for 10,000 sockets.
///
/// # Errors
/// If those cannot be read.
pub fn read_flows(
    tables: &mut Tables,
    proc: &Proc,
    net: Net<'_>,
    netns: Netns,
    select: &Selection,
    prefer: Option<Source>,
) -> Result<(Flows, TableRead), ProcError> {
    if let Some(diag) = tables.diag().filter(|_| prefer != Some(Source::Procfs))
        && let Ok(read) = dump(diag, netns, select)
    {
        return Ok(read);
    }
    let (mut rows, mut bound) = (Vec::new(), Listeners::default());
    let read = proc.read_udp(net, |socket| match socket.tuple.remote.port() {
        0 => bound.add(socket.tuple.local),
        _ if select.wants_flow(&socket.tuple) => rows.push(socket),
        _ => {}
    })?;
    Ok((sort(netns, rows, &bound, read.unparsed == 0), read))
}

fn dump(diag: &mut Diag, netns: Netns, select: &Selection) -> Result<(Flows, TableRead), NetlinkError> {
    let (mut rows, mut bound) = (Vec::new(), Listeners::default());
    let remote = Filter::any_of(select.ports.ranges().iter().cloned().map(Clause::RemotePorts));
    let first = diag.dump_udp(states::UDP_CONNECTED, remote.as_ref(), |socket| {
        if socket.tuple.remote.port() != 0 && select.wants_flow(&socket.tuple) {
            rows.push(socket);
        }
    })?;
    let ports: BTreeSet<u16> = rows.iter().map(|row: &Socket| row.tuple.local.port()).collect();
    let local = Filter::any_of(ports.into_iter().map(|port| Clause::LocalPorts(port..=port)));
    let second = match rows.is_empty() {
        true => Default::default(),
        false => diag.dump_udp(states::UDP_BOUND, local.as_ref(), |socket| bound.add(socket.tuple.local))?,
    };
    let read = TableRead { rows: first.rows + second.rows, unparsed: first.unparsed + second.unparsed };
    let complete = read.unparsed == 0 && !first.interrupted && !second.interrupted;
    Ok((sort(netns, rows, &bound, complete), read))
}

/// A socket of no remote end on the same port is a server's, which made the connected one for a client of its own.
fn sort(netns: Netns, rows: Vec<Socket>, bound: &Listeners, complete: bool) -> Flows {
    let (inbound, outbound) = rows.into_iter().partition(|row| bound.cover(row.tuple.local));
    Flows { netns, outbound, inbound, complete }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const QUIET: UdpCounters = UdpCounters { sockets: 3, sent: 9 };

    fn after_a_read(cost: Duration) -> FlowGate {
        let mut gate = FlowGate::default();
        assert!(gate.judge(QUIET, Duration::ZERO, 0), "the first");
        gate.has_read(Duration::ZERO, cost, false);
        gate
    }

    #[test]
    fn transports_print_as_they_parse() {
        for text in ["tcp", "tcp,udp"] {
            assert_eq!(text.parse::<TransportChoice>().unwrap().to_string(), text);
        }
        assert_eq!("udp, tcp".parse(), Ok(TransportChoice::TcpAndUdp));
        for bad in ["", "udp", "tcp,udp,sctp", "tcp;udp"] {
            assert!(bad.parse::<TransportChoice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_does_not_move_is_read_by_the_repair_alone() {
        let mut gate = after_a_read(MS * 2);
        for tick in 1..40 {
            assert!(!gate.judge(QUIET, MS * 50 * tick, 0));
        }
        assert!(gate.judge(QUIET, MS * 2_000, 0));
    }

    #[test]
    fn a_socket_more_or_a_datagram_is_read_for_once_it_can_be_paid() {
        for moved in [UdpCounters { sockets: 4, ..QUIET }, UdpCounters { sent: 10, ..QUIET }] {
            let mut gate = after_a_read(MS * 2);
            assert!(!gate.judge(moved, MS * 50, 0));
            assert!(!gate.judge(moved, MS * 199, 0));
            assert!(gate.judge(moved, MS * 201, 0), "2 ms in 200 ms");
            gate.has_read(MS * 201, MS * 2, true);
            assert!(gate.judge(moved, MS * 402, 0), "an end to be confirmed");
            gate.has_read(MS * 402, MS * 2, false);
            assert!(!gate.judge(moved, MS * 800, 0));
        }
    }

    #[test]
    fn reads_of_many_namespaces_cost_one_percent_of_a_core_together() {
        for others in [0, 9] {
            let (mut gate, mut reads) = (after_a_read(MS * 2), 0u32);
            for tick in 1..=6_000u32 {
                let moved = UdpCounters { sent: 9 + u64::from(tick), ..QUIET };
                if gate.judge(moved, MS * 10 * tick, others) {
                    gate.has_read(MS * 10 * tick, MS * 2, false);
                    reads += 1;
                }
            }
            let share = f64::from(reads) * 0.002 / 60.0;
            assert!(share <= 0.0101 / f64::from(u32::try_from(others).unwrap() + 1) + 0.001, "{share}");
        }
    }
}
