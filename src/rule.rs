//! Rules for the firewall and for audit that whoever administers the machine may add: texts, each with what takes it away again.
//!
//! Pure. Nothing here is ever carried out by this program.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use crate::source::PortSet;

/// As many words of ports fit one rule of iptables' multiport; a range is two.
const MULTIPORT: usize = 15;

/// For `nft -f`: a table of portreeve's own, which logs SYNs to these ports.
#[must_use]
pub fn nft(ports: &PortSet, group: u16) -> String {
    let typed = ports;
    let ports = match ports.is_all() {
        true => "1-65535".to_owned(),
        false => merged(ports).iter().map(range_text).collect::<Vec<_>>().join(", "),
    };
    format!(
        "\
# Logs each TCP SYN that this machine sends to a watched port, for `portreeve --events nflog:{group}`.
# To add it, or to replace an older one:
#   portreeve rule nflog --group {group} --ports {typed} | nft -f -
# To remove it:
#   nft delete table inet portreeve
# It is for the network namespace in which nft runs. Nothing is accepted or dropped by it. Before anything else may drop or
# change the packet: what is told is what the program asked for. Each other packet that the machine sends is held against
# it too.
table inet portreeve
delete table inet portreeve
table inet portreeve {{
	chain output {{
		type filter hook output priority raw; policy accept;
		tcp dport {{ {ports} }} tcp flags & (fin | syn | rst | ack) == syn log group {group} snaplen 120 queue-threshold 1
	}}
}}
"
    )
}

/// For a shell: the same by iptables and ip6tables, in a chain of portreeve's own.
#[must_use]
pub fn iptables(ports: &PortSet, group: u16) -> String {
    let typed = ports;
    let mut text = format!(
        "\
# Logs each TCP SYN that this machine sends to a watched port, for `portreeve --events nflog:{group}`.
# To add it, or to replace an older one:
#   portreeve rule nflog --iptables --group {group} --ports {typed} | sh -e
# To remove it:
#   iptables -w -t raw -D OUTPUT -j PORTREEVE; iptables -w -t raw -F PORTREEVE; iptables -w -t raw -X PORTREEVE
#   ip6tables -w -t raw -D OUTPUT -j PORTREEVE; ip6tables -w -t raw -F PORTREEVE; ip6tables -w -t raw -X PORTREEVE
# It is for the network namespace in which the shell runs. Nothing is accepted or dropped by it.
for table in iptables ip6tables; do
	\"$table\" -w -t raw -N PORTREEVE 2>/dev/null || \"$table\" -w -t raw -F PORTREEVE
"
    );
    for ports in portions(ports) {
        let _ = writeln!(
            text,
            "\t\"$table\" -w -t raw -A PORTREEVE -p tcp --syn{ports} -j NFLOG --nflog-group {group} \
             --nflog-size 120 --nflog-threshold 1"
        );
    }
    text.push_str(
        "\
\t\"$table\" -w -t raw -C OUTPUT -j PORTREEVE 2>/dev/null || \"$table\" -w -t raw -I OUTPUT -j PORTREEVE
done
",
    );
    text
}

/// For `auditctl -R` or `/etc/audit/rules.d`: records each call that asks for a connection to an address of the internet.
///
/// Not by the length of the address or what the call answers, as rules of this kind mostly do: the length is the caller's
/// to choose, 16 leaves out IPv6, and 0 every call that does not wait.
#[must_use]
pub fn audit() -> String {
    let mut rules = String::new();
    let calls = [
        ("b64", "-S connect"),
        ("b32", "-S connect"),
        // Old 32-bit programs make all calls about sockets by one, of which the first argument says which.
        ("b32", "-S socketcall -F a0=3"),
    ];
    for (arch, call) in calls {
        for family in [2, 10] {
            let _ = writeln!(
                rules,
                "-a always,exit -F arch={arch} {call} -F saddr_fam={family} -F key=portreeve"
            );
        }
    }
    format!(
        "\
## Records each connect(2) to an IPv4 or IPv6 address, for `portreeve --events audit` or `portreeve --audit-log PATH`.
## To add them, until the machine is started anew:
##   portreeve rule audit > /run/portreeve.rules && auditctl -R /run/portreeve.rules
## for good, where auditd runs:
##   portreeve rule audit > /etc/audit/rules.d/portreeve.rules && augenrules --load
## To remove them:
##   auditctl -D -k portreeve
## What they cost: any rule about calls costs every call of every process some 150 ns as long as it is there, and 100 ns
## more until the machine is started anew if audit was never on before.
## Where auditd does not run, audit must be on (auditctl -e 1), and each record goes to the kernel's own log as well.
## They need Linux 5.3 and audit 3.0. They record calls to all ports, and of datagram sockets too: audit cannot tell them
## apart. Connections by TCP Fast Open (sendto) and by io_uring are not among them.
{rules}"
    )
}

/// The ranges in order, none of them touching another: the firewall takes no two that do.
fn merged(ports: &PortSet) -> Vec<RangeInclusive<u16>> {
    let mut ranges = ports.ranges().to_vec();
    ranges.sort_unstable_by_key(|range| (*range.start(), *range.end()));
    let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn range_text(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// What each rule of iptables says of ports; nothing where all are meant.
fn portions(ports: &PortSet) -> Vec<String> {
    if ports.is_all() {
        return vec![String::new()];
    }
    let mut portions: Vec<(usize, Vec<String>)> = Vec::new();
    for range in merged(ports) {
        let words = if range.start() == range.end() { 1 } else { 2 };
        let text = range_text(&range).replace('-', ":");
        match portions.last_mut() {
            Some((count, texts)) if *count + words <= MULTIPORT => {
                *count += words;
                texts.push(text);
            }
            _ => portions.push((words, vec![text])),
        }
    }
    portions.into_iter().map(|(_, texts)| format!(" -m multiport --dports {}", texts.join(","))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let texts = |text| merged(&ports(text)).iter().map(range_text).collect::<Vec<_>>();
        assert_eq!(texts("22"), ["22"]);
        assert_eq!(texts("8000-8100,22,23,8050-9000,65535"), ["22-23", "8000-9000", "65535"]);
        assert_eq!(texts("60000-65535,65535"), ["60000-65535"]);
        assert!(nft(&ports("all"), 7).contains("tcp dport { 1-65535 }"));
    }

    #[test]
    fn no_rule_of_iptables_has_more_ports_than_it_takes() {
        let many: Vec<_> = (1..40).map(|n| format!("{}", n * 3)).collect();
        let portions = portions(&ports(&format!("{},1000-1001,2000-2001", many.join(","))));
        assert_eq!(portions.len(), 3);
        for portion in &portions {
            assert!(portion.split([',', ':']).count() <= MULTIPORT, "{portion}");
        }
        assert!(portions[2].ends_with("1000:1001,2000:2001"), "{portions:?}");
        assert!(iptables(&ports("all"), 7).contains("--syn -j NFLOG --nflog-group 7"));
    }
}
