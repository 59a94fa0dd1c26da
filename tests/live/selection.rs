//! What is left out leaves no trace in the log; what is reloaded counts from then on.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::NOBODY;
use crate::support::log::{actions, assert_fields, tuple, with, with_action};
use crate::support::output;
use crate::support::session::{STAY, Session};

#[test]
fn an_excluded_user_has_neither_open_nor_close() {
    let mut lab = lab!("bash");
    lab.sshd(&["127.0.0.1:22"]);
    for (filter, what) in [("--exclude", "user:root"), ("--include", "user:nobody")] {
        let mut watch = lab.watch(&[filter, what]);
        let unwanted = Session::start(lab.ssh().args(["127.0.0.1", STAY]));
        std::thread::sleep(Duration::from_millis(200));
        assert!(unwanted.end().success());
        // A connection that is wanted shows that the watch went on, and has the last word.
        let mut bash = lab.command_as(NOBODY, &[], "bash");
        let mut bash = bash
            .args(["-c", "exec 3<>/dev/tcp/127.0.0.1/22; read -t 0.3 -u 3; read -t 0.3 -u 3"])
            .spawn()
            .unwrap();
        let open = watch.wait_opened();
        assert_fields(&open, &json!({ "process.pid": bash.id(), "user.id": "65534" }));
        bash.wait().unwrap();
        watch.wait_closed();
        let records = watch.stop().records;
        assert_eq!(actions(&records), ["connection-opened", "connection-closed"], "{filter} {what}");
    }
}

#[test]
fn an_excluded_program_is_left_out() {
    let mut lab = lab!("bash");
    lab.sshd(&["127.0.0.1:22"]);
    let ssh = Session::start(lab.ssh().args(["127.0.0.1", STAY]));
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; echo; read -u 3; read -t 20 -u 3";
    let mut bash = lab.command("bash").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(&mut bash.stdout.take().unwrap(), &mut [0]).unwrap();
    // Where it has all the time that it needs to find the owners: what stands is told at the start.
    for (what, expected) in [("exe:*/ssh", bash.id()), ("exe:*/bash", ssh.pid())] {
        let once = output(lab.portreeve().args(["--once", "--format", "json", "--exclude", what]));
        assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
        let text = String::from_utf8(once.stdout).unwrap();
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let pids: Vec<_> = with_action(&records, "connection-opened")
            .iter()
            .map(|open| open["process"]["pid"].clone())
            .collect();
        assert_eq!(pids, [json!(expected)], "{what}");
    }
    bash.kill().unwrap();
    bash.wait().unwrap();
}

#[test]
fn an_excluded_network_is_left_out_also_where_only_time_wait_is_seen() {
    let lab = lab!();
    let server = lab.listen("0.0.0.0:22");
    let mut watch = lab.watch(&["--exclude", "127.9.0.0/16", "--interval", "200ms"]);
    for to in ["127.9.0.1:22", "127.9.0.1:22", "127.0.0.1:22"] {
        let client = lab.connect(to);
        let mut accepted = server.accept().unwrap().0;
        drop(client);
        std::io::copy(&mut accepted, &mut std::io::sink()).unwrap();
    }
    let close = watch.wait_closed();
    assert_eq!(close["destination"]["ip"], "127.0.0.1");
    let records = watch.stop().records;
    assert_eq!(actions(&records), ["connection-opened", "connection-closed"]);
}

#[test]
fn sighup_reloads_the_configuration_and_a_wrong_one_changes_nothing() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22", "127.0.0.1:2222"]);
    let mut watch = lab.watch(&[]);
    let before = Session::start(lab.ssh().args(["127.0.0.1", STAY]));
    let first = watch.wait_opened();
    let reload = |watch: &mut crate::support::watch::Watch, config: &str, count: usize| {
        std::fs::write(lab.path("portreeve.toml"), config).unwrap();
        watch.signal(Signal::HUP);
        watch.wait_actions("watch-reloaded", count).remove(count - 1)
    };

    let refused = reload(&mut watch, "prots = \"2222\"\n", 1);
    assert_eq!(refused["event"]["outcome"], "failure", "{refused}");
    assert!(refused["portreeve"]["watch"]["error"].as_str().unwrap().contains("prots"), "{refused}");

    let reloaded = reload(&mut watch, "ports = \"2222\"\n", 2);
    assert_eq!(reloaded["event"]["outcome"], "success", "{reloaded}");
    let out = watch.wait_closed();
    let id = &first["portreeve"]["connection"]["id"];
    assert_fields(&out, &json!({ "portreeve.connection.id": id, "portreeve.close.reason": "out_of_scope" }));

    let after = Session::start(lab.ssh().args(["-p", "2222", "127.0.0.1", STAY]));
    let open = watch.wait_opens(2).remove(1);
    assert_fields(&open, &with(json!({ "process.pid": after.pid() }), tuple(&after.addresses)));
    // The old one has ended for the log; its real end is not told again.
    assert!(before.end().success());
    assert!(after.end().success());
    watch.wait_actions("connection-closed", 2);
    let records = watch.stop().records;
    assert_eq!(with_action(&records, "connection-closed").len(), 2);
}
