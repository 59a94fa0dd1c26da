//! The kernel's TCP counters of a network namespace: `net/snmp`, both address families together.
//!
//! Knows no meaning of them: `source::gate` reasons. Layout: RFC 4022 names in a header line, values in the next.

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
        let name = "net/snmp";
        let mut buffer = [0; 4096];
        let text = match net {
            Net::Own => self.read_kept(&self.snmp, "self/net/snmp", &mut buffer)?,
            Net::Of(_) => {
                let fd = self.open_net(net, name)?;
                let length =
                    rustix::io::pread(fd, &mut buffer, 0).map_err(|e| self.net_error(net, name, e))?;
                buffer.get(..length).unwrap_or_default()
            }
        };
        parse_counters(text).map_err(|field| ProcError::Parse { path: self.net_path(net, name), field })
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

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(0u8.., 0..400)) {
            let _ = parse_counters(&text);
        }
    }
}
