//! What the program counts of attempts to connect, held against the kernel's own count, and that `auto` needs no more.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{gaps_but_stalls, pick, with_action};
use crate::support::not_run;
use crate::words::netns;

/// Attempts of each kind, to watched ports and to others: answered, refused, and for want of a port never sent. Answers how
/// many were sent. The ports are of these tests alone: a watcher hears of every namespace.
fn attempt_all(lab: &Lab) -> u64 {
    let to = |address: &str| address.parse::<SocketAddr>().unwrap();
    lab.inside(|| {
        for _ in 0..7 {
            TcpStream::connect(to("127.0.0.1:2214")).unwrap();
            TcpStream::connect(to("127.0.0.1:8022")).unwrap();
            TcpStream::connect(to("127.0.0.1:2215")).unwrap_err();
            TcpStream::connect(to("127.0.0.1:8023")).unwrap_err();
        }
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap();
        let held: Vec<_> = std::iter::from_fn(|| TcpStream::connect(to("127.0.0.2:8022")).ok()).collect();
        for _ in 0..5 {
            let error = TcpStream::connect(to("127.0.0.2:8022")).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
        }
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "32768 60999").unwrap();
        assert!((1..=4).contains(&held.len()), "{held:?}");
        // A reset: TIME_WAIT would keep the ports from the next round.
        let reset =
            |stream: &TcpStream| socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        held.iter().for_each(reset);
        28 + held.len() as u64
    })
}

#[test]
fn it_counts_the_attempts_that_the_kernel_counts() {
    let lab = lab!();
    let ebpf = ebpf!(&[2214..=2215]);
    let _listeners = ["127.0.0.1:2214", "0.0.0.0:8022"].map(|address| lab.listen(address));
    let (netns, before) = (netns(&lab), lab.active_opens());
    assert_eq!(ebpf.count_attempts(netns), None, "nobody connected there");
    let mut sent = 0;
    for _ in 0..3 {
        sent += attempt_all(&lab);
        assert_eq!((lab.active_opens() - before, ebpf.count_attempts(netns)), (sent, Some(sent)));
    }
}

#[test]
fn auto_compares_them_and_asks_for_no_notice_of_ends_of_the_whole_machine() {
    let lab = lab!();
    let _listeners = ["127.0.0.1:2214", "0.0.0.0:8022"].map(|address| lab.listen(address));
    for options in [&["--events", "auto"][..], &["--events", "auto", "--inbound"], &["--events", "ebpf"]] {
        let mut watch = lab.watch(&[&["--ports", "2214,2215"], options].concat());
        let events =
            with_action(&watch.records(), "watch-started")[0]["portreeve"]["watch"]["events"].clone();
        if events["ebpf"] != "on" {
            let test = "auto_compares_them_and_asks_for_no_notice_of_ends_of_the_whole_machine";
            return not_run(test, &events["ebpf"].to_string());
        }
        let ends = match options.len() {
            2 if options[1] == "auto" => "off: ebpf tells more of the same",
            2 => "off: not asked for",
            _ => "on",
        };
        assert_eq!(events["destroy"], ends, "{options:?}: {events}");
        let sent = attempt_all(&lab);
        watch.wait_for("the end of each", |records| {
            (with_action(records, "connection-closed").len() >= 14).then_some(())
        });
        let records = watch.stop().records;
        let coverage = &with_action(&records, "coverage").pop().unwrap()["portreeve"]["coverage"];
        let fields = ["comparable", "accounted", "missed_at_most", "agrees", "kernel.active_opens"];
        let expected = json!({
            "comparable": true, "accounted": sent, "missed_at_most": 0, "agrees": true, "kernel.active_opens": sent,
        });
        assert_eq!(pick(coverage, &fields), expected, "{options:?}: {coverage:#}");
        let gaps = gaps_but_stalls(&records);
        assert!(gaps.is_empty(), "{options:?}: {gaps:#?}");
        let closes = with_action(&records, "connection-closed");
        // The kernel leaves a run of the program out now and then, and counts it: a look tells of that end, and not exactly.
        let inexact = closes.iter().filter(|close| close["portreeve"]["close"]["exact"] != true).count();
        let left_out = coverage["lost"]["ebpf"].as_u64().unwrap();
        assert!(inexact as u64 <= left_out, "{options:?}: {coverage:#} {closes:#?}");
        assert_eq!((with_action(&records, "connection-opened").len(), closes.len()), (14, 14), "{options:?}");
    }
}
