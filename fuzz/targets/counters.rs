//! `net/snmp` and `net/sockstat`: no panic, and the counters that are read can be written as a file that says the same.

use portreeve::proc::{Counters, parse_counters, parse_sent, parse_sockets};

pub fn run(data: &[u8]) {
    if let Some(sockets) = parse_sockets(data, b"UDP: ") {
        assert_eq!(
            parse_sockets(format!("UDP: inuse {sockets} mem 2\n").as_bytes(), b"UDP: "),
            Some(sockets)
        );
    }
    if let Ok(sent) = parse_sent(data) {
        assert_eq!(parse_sent(format!("Udp: OutDatagrams\nUdp: {sent}\n").as_bytes()), Ok(sent));
    }
    let Ok(read) = parse_counters(data) else { return };
    let Counters { active_opens, passive_opens, attempt_fails, estab_resets, curr_estab, unreachable } = read;
    let written = format!(
        "Icmp: InMsgs InDestUnreachs\nIcmp: 0 {unreachable}\nTcp: ActiveOpens PassiveOpens AttemptFails EstabResets \
         CurrEstab\nTcp: {active_opens} {passive_opens} {attempt_fails} {estab_resets} {curr_estab}\n"
    );
    assert_eq!(parse_counters(written.as_bytes()), Ok(read));
}
