//! The kernel's counters of a network namespace: `net/snmp`, of TCP both address families together, of UDP only IPv4;
//! `net/sockstat` and `net/sockstat6`, each of its own family.
//!
//! Knows no meaning of them: `source::gate` reasons. Layout: RFC 4022 names in a header line, values in the next.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;

use super::net::Net;
use super::{Proc, ProcError, parse_u64};

/// The counters that tell that something happened. All but `curr_estab` only ever rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Sockets that went from CLOSED to SYN_SENT: one for each outbound open.
    pub active_opens: u64,
    /// Sockets that were accepted by a listener.
    pub passive_opens: u64,
    /// Sockets that went from SYN_SENT or SYN_RECV to CLOSED.
    pub attempt_fails: u64,
    /// Sockets that went from ESTABLISHED or CLOSE_WAIT to CLOSED without an orderly end.
    pub estab_resets: u64,
    /// Sockets that are ESTABLISHED or CLOSE_WAIT now.
    pub curr_estab: u64,
    /// ICMP messages that something cannot be reached, of all protocols over IPv4.
    pub unreachable: u64,
}

/// What tells that a UDP socket may have been connected or be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UdpCounters {
    /// Sockets that have a local port now, of both address families: a level.
    pub sockets: u64,
    /// Datagrams sent over IPv4.
    pub sent: u64,
}

/// Datagrams sent, of the two `Udp:` lines.
///
/// # Errors
/// The name of what is not there.
pub fn parse_sent(snmp: &[u8]) -> Result<u64, &'static str> {
    let udp = lines_of(snmp, b"Udp: ").ok_or("Udp:")?;
    value_of(udp, "OutDatagrams").ok_or("OutDatagrams")
}

/// `UDP: inuse 3 mem 2`: how many sockets are in use.
#[must_use]
pub fn parse_sockets(sockstat: &[u8], protocol: &[u8]) -> Option<u64> {
    let line = sockstat.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(protocol))?;
    let mut words = line.split(|b| *b == b' ');
    words.find(|word| *word == b"inuse")?;
    words.next().and_then(parse_u64)
}

/// Reads the two `Tcp:` lines, and of the two `Icmp:` lines, where there are any, one counter. `Err` names the one
/// that is missing.
///
/// # Errors
/// The name of the first counter that is not there.
pub fn parse_counters(snmp: &[u8]) -> Result<Counters, &'static str> {
    let tcp = lines_of(snmp, b"Tcp: ").ok_or("Tcp:")?;
    let value = |name: &'static str| value_of(tcp, name).ok_or(name);
    Ok(Counters {
        active_opens: value("ActiveOpens")?,
        passive_opens: value("PassiveOpens")?,
        attempt_fails: value("AttemptFails")?,
        estab_resets: value("EstabResets")?,
        curr_estab: value("CurrEstab")?,
        unreachable: lines_of(snmp, b"Icmp: ").and_then(|icmp| value_of(icmp, "InDestUnreachs")).unwrap_or(0),
    })
}

/// Names and values of one protocol.
fn lines_of<'a>(snmp: &'a [u8], protocol: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut lines = snmp.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(protocol));
    lines.next().zip(lines.next())
}

fn value_of((names, values): (&[u8], &[u8]), name: &str) -> Option<u64> {
    let mut columns = names.split(|b| *b == b' ').zip(values.split(|b| *b == b' '));
    columns.find(|(n, _)| *n == name.as_bytes()).and_then(|(_, value)| parse_u64(value))
}

impl Proc {
    /// The TCP counters of a namespace: one `pread`, about 8 µs however many sockets there are; 5 µs more for another
    /// namespace than ours, whose file is opened anew.
    ///
    /// # Errors
    /// `Read`, or `Parse` with the counter that is missing.
    pub fn read_counters(&self, net: Net<'_>) -> Result<Counters, ProcError> {
        let mut buffer = [0; 4096];
        let text = self.read_counting(net, "net/snmp", &self.snmp, &mut buffer)?;
        parse_counters(text).map_err(|field| ProcError::Parse { path: self.net_path(net, "net/snmp"), field })
    }

    /// The UDP counters of a namespace: three `pread`, about 8 µs; 15 µs more for another namespace than ours.
    ///
    /// # Errors
    /// As `read_counters`. A kernel without IPv6 has no `net/sockstat6`: that is no error.
    pub fn read_udp_counters(&self, net: Net<'_>) -> Result<UdpCounters, ProcError> {
        let mut buffer = [0; 4096];
        let missing = |name: &str, field| ProcError::Parse { path: self.net_path(net, name), field };
        let [four, six] = &self.sockstat;
        let snmp = self.read_counting(net, "net/snmp", &self.snmp, &mut buffer)?;
        let sent = parse_sent(snmp).map_err(|field| missing("net/snmp", field))?;
        let stat = self.read_counting(net, "net/sockstat", four, &mut buffer)?;
        let mut sockets = parse_sockets(stat, b"UDP: ").ok_or_else(|| missing("net/sockstat", "UDP:"))?;
        match self.read_counting(net, "net/sockstat6", six, &mut buffer) {
            Ok(stat) => sockets += parse_sockets(stat, b"UDP6: ").unwrap_or(0),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
        Ok(UdpCounters { sockets, sent })
    }

    fn read_counting<'b>(
        &self,
        net: Net<'_>,
        name: &str,
        kept: &OnceCell<OwnedFd>,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], ProcError> {
        if let Net::Own = net {
            return self.read_kept(kept, &format!("self/{name}"), buffer);
        }
        let fd = self.open_net(net, name)?;
        let length = rustix::io::pread(fd, &mut *buffer, 0).map_err(|e| self.net_error(net, name, e))?;
        Ok(buffer.get(..length).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a Linux 6.18 machine, lines before and after cut.
    const SNMP: &[u8] = b"Icmp: InMsgs InErrors InCsumErrors InDestUnreachs\nIcmp: 9 0 0 6\nIcmpMsg: OutType3\nIcmpMsg: 2\n\
        Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n\
        Tcp: 1 200 120000 -1 10 2 3 4 5 275 136 0 0 2 0\nUdp: InDatagrams\nUdp: 1\n";

    #[test]
    fn counters_are_found_by_name() {
        let wanted = Counters {
            active_opens: 10,
            passive_opens: 2,
            attempt_fails: 3,
            estab_resets: 4,
            curr_estab: 5,
            unreachable: 6,
        };
        assert_eq!(parse_counters(SNMP), Ok(wanted));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(parse_counters(b""), Err("Tcp:"));
        assert_eq!(parse_counters(b"Tcp: ActiveOpens PassiveOpens\nTcp: 1 2\n"), Err("AttemptFails"));
        assert_eq!(parse_counters(b"Tcp: ActiveOpens\nTcp: -1\n"), Err("ActiveOpens"));
    }

    #[test]
    fn what_is_counted_of_udp_is_found_by_name() {
        let snmp = b"Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\nUdp: 75 1 0 76 0\nUdpLite: OutDatagrams\nUdpLite: 9\n";
        assert_eq!(parse_sent(snmp), Ok(76));
        assert_eq!((parse_sent(b""), parse_sent(SNMP)), (Err("Udp:"), Err("OutDatagrams")));
        let sockstat = b"sockets: used 22\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 38\nUDP: inuse 3 mem 2\nUDPLITE: inuse 0\n";
        assert_eq!(parse_sockets(sockstat, b"UDP: "), Some(3));
        assert_eq!(parse_sockets(b"TCP6: inuse 0\nUDP6: inuse 4\n", b"UDP6: "), Some(4));
        assert_eq!(parse_sockets(b"UDP: mem 2\nUDP6: inuse -1\n", b"UDP: "), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(0u8.., 0..400)) {
            let _ = (parse_counters(&text), parse_sent(&text), parse_sockets(&text, b"UDP: "));
        }
    }
}
