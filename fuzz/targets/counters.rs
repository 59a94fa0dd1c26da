//! `net/snmp`: no panic, and the counters that are read can be written as a file that says the same.

use portreeve::proc::{Counters, parse_counters};

pub fn run(data: &[u8]) {
    let Ok(read) = parse_counters(data) else { return };
    let Counters { active_opens, passive_opens, attempt_fails, estab_resets, curr_estab, unreachable } = read;
    let written = format!(
        "Icmp: InMsgs InDestUnreachs\nIcmp: 0 {unreachable}\nTcp: ActiveOpens PassiveOpens AttemptFails EstabResets \
         CurrEstab\nTcp: {active_opens} {passive_opens} {attempt_fails} {estab_resets} {curr_estab}\n"
    );
    assert_eq!(parse_counters(written.as_bytes()), Ok(read));
}
