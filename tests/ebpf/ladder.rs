//! What `auto` takes, with one privilege after the other taken away.

use std::time::Duration;

use serde_json::Value;

use super::reloads::reload;
use crate::lab;
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::with_action;
use crate::support::not_run;
use crate::support::watch::Watch;

/// The kinds that are on, and what is said of `ebpf` and `syn`.
fn rung(lab: &Lab, capabilities: &str) -> (Vec<String>, Value) {
    let options = match capabilities {
        "" => vec!["--no-new-privs".to_owned()],
        some => {
            vec![format!("--inh-caps={some}"), format!("--ambient-caps={some}"), "--no-new-privs".to_owned()]
        }
    };
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let watch = Watch::start(lab, lab.portreeve_as(NOBODY, &options).args(["--events", "auto"]));
    let events = with_action(&watch.records(), "watch-started")[0]["portreeve"]["watch"]["events"].clone();
    watch.stop();
    let on =
        events.as_object().unwrap().iter().filter(|(_, state)| *state == "on").map(|(kind, _)| kind.clone());
    (on.collect(), events)
}

#[test]
fn auto_takes_the_best_that_the_privileges_allow_and_says_why_no_better() {
    let lab = lab!();
    let all = "+sys_ptrace,+bpf,+perfmon,+net_raw";
    let (on, events) = rung(&lab, all);
    if on != ["ebpf"] {
        return not_run(
            "auto_takes_the_best_that_the_privileges_allow_and_says_why_no_better",
            &events["ebpf"].to_string(),
        );
    }
    for spared in ["destroy", "syn"] {
        assert_eq!(events[spared], "off: ebpf tells more of the same");
    }
    for (without, expected) in [
        ("+sys_ptrace,+bpf,+perfmon", &["ebpf"][..]),
        ("+sys_ptrace,+perfmon,+net_raw", &["destroy", "syn"]),
        ("+sys_ptrace,+bpf,+net_raw", &["destroy", "syn"]),
        ("+sys_ptrace,+net_raw", &["destroy", "syn"]),
        ("+sys_ptrace", &["destroy"]),
        ("", &["destroy"]),
    ] {
        let (on, events) = rung(&lab, without);
        assert_eq!(on, expected, "{without}: {events}");
        if !expected.contains(&"ebpf") {
            assert_eq!(events["ebpf"], "off: needs CAP_BPF and CAP_PERFMON", "{without}");
        }
        if *expected == ["destroy"] {
            assert_eq!(events["syn"], "off: needs CAP_NET_RAW", "{without}");
        }
    }
}

#[test]
fn with_the_privileges_of_the_drop_in_owners_of_other_users_are_told() {
    let lab = lab!("bash");
    let listener = lab.listen("127.0.0.1:22");
    let capabilities = [
        "--inh-caps=+sys_ptrace,+bpf,+perfmon",
        "--ambient-caps=+sys_ptrace,+bpf,+perfmon",
        "--no-new-privs",
    ];
    let mut watch = Watch::start(&lab, lab.portreeve_as(NOBODY, &capabilities).args(["--events", "ebpf"]));
    let events = &with_action(&watch.records(), "watch-started")[0]["portreeve"]["watch"]["events"];
    if events["ebpf"] != "on" {
        return not_run(
            "with_the_privileges_of_the_drop_in_owners_of_other_users_are_told",
            &events["ebpf"].to_string(),
        );
    }
    let mut bash = lab.command("bash").args(["-c", "exec 3<>/dev/tcp/127.0.0.1/22"]).spawn().unwrap();
    drop(listener.accept().unwrap());
    let open = watch.wait_opened();
    assert_eq!((&open["process"]["pid"], &open["user"]["name"]), (&bash.id().into(), &"root".into()));
    bash.wait().unwrap();
    watch.wait_closed();
    watch.stop();
}

#[test]
fn what_it_costs_of_memory_is_small() {
    let lab = lab!();
    let mut watch = lab.watch(&["--events", "ebpf"]);
    let events = &with_action(&watch.records(), "watch-started")[0]["portreeve"]["watch"]["events"];
    if events["ebpf"] != "on" {
        return not_run("what_it_costs_of_memory_is_small", &events["ebpf"].to_string());
    }
    let with = rss(&watch);
    // The program is loaded anew, by another process.
    for (number, transport) in (1..).zip(["tcp,udp", "tcp", "tcp,udp", "tcp"]) {
        reload(&lab, &mut watch, number, &format!("transport = '{transport}'\n"));
        std::thread::sleep(Duration::from_millis(1_500));
    }
    let reloaded = rss(&watch);
    println!("{with} KiB, {reloaded} KiB after reloads");
    assert!(reloaded - with < 1_024, "{with} KiB, {reloaded} KiB after reloads");
    watch.stop();
    let watch = lab.watch(&["--events", "destroy"]);
    let without = rss(&watch);
    watch.stop();
    println!("{with} KiB with, {without} KiB without");
    assert!(with - without < 4 * 1_024, "{with} KiB with, {without} KiB without");
}

/// Resident memory, in KiB.
fn rss(watch: &Watch) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", watch.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
