//! Which source tells, why, and what happens when one fails.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::{actions, assert_fields, with_action};
use crate::support::watch::{PORTREEVE, Stopped, Watch};
use crate::support::{not_run, output, wait_for};

const SSH: &str = "127.0.0.1:22";

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The watcher without the options that the other tests' watchers are given.
fn bare(lab: &Lab, mut command: Command) -> Command {
    command.arg("watch").arg("--config").arg(lab.path("portreeve.toml")).args(["--netns", "own"]);
    command
}

fn started(watch: &Watch) -> Value {
    with_action(&watch.records(), "watch-started")[0]["portreeve"]["watch"].clone()
}

fn gaps(records: &[Value], cause: &str) -> Vec<Value> {
    let gaps = with_action(records, "gap").into_iter();
    gaps.map(|gap| gap["portreeve"]["gap"].clone()).filter(|gap| gap["cause"] == cause).collect()
}

/// A watcher some of whose system calls fail as strace is told.
fn strained(lab: &Lab, options: &[&str], arguments: &[&str]) -> Watch {
    let mut strace = lab.command("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null"]).args(options).arg(PORTREEVE);
    let mut strace = bare(lab, strace);
    let mut watch = Watch::start(lab, strace.args(arguments));
    let children = format!("/proc/{0}/task/{0}/children", watch.child.id());
    watch.inner = wait_for("the watcher", Duration::from_secs(5), || {
        let children = std::fs::read_to_string(&children).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    })
    .into();
    watch
}

/// Connections that live for long enough to be polled, one after another; each is told once, and so is its end.
#[track_caller]
fn assert_tells(lab: &Lab, watch: Watch, count: usize) -> Vec<Value> {
    assert_tells_until(lab, watch, count, Watch::stop)
}

#[track_caller]
fn assert_tells_until(
    lab: &Lab,
    mut watch: Watch,
    count: usize,
    end: impl FnOnce(Watch) -> Stopped,
) -> Vec<Value> {
    let listener = lab.listen(SSH);
    for number in 1..=count {
        let mut client = lab.connect(SSH);
        let mut server = listener.accept().unwrap().0;
        server.write_all(&[7; 500]).unwrap();
        client.read_exact(&mut [0; 500]).unwrap();
        sleep_ms(150);
        watch.wait_actions("connection-opened", number);
        assert_eq!(with_action(&watch.records(), "connection-closed").len(), number - 1, "while it stands");
        drop(client);
        drop(server);
        watch.wait_actions("connection-closed", number);
    }
    let stopped = end(watch);
    assert_eq!(actions(&stopped.records).len(), 2 * count, "{:#?}", actions(&stopped.records));
    for close in with_action(&stopped.records, "connection-closed") {
        assert_fields(&close, &json!({ "event.outcome": "success", "portreeve.close.reason": "closed" }));
    }
    stopped.records
}

#[test]
fn auto_takes_the_cheaper_source_and_says_which_and_why() {
    let lab = lab!();
    let watch = Watch::start(&lab, &mut bare(&lab, lab.command(PORTREEVE)));
    let start = started(&watch);
    println!("{}: {}; {}", start["source"], start["source_reason"], start["events"]);
    let reason = start["source_reason"].as_str().unwrap();
    assert!(reason.contains("ms by netlink and") && reason.contains("cheaper by netlink"), "{reason}");
    let chosen = if reason.contains("not cheaper") { "procfs" } else { "netlink" };
    assert_eq!(start["source"], chosen);
    assert_eq!((&start["events"]["destroy"], &start["events"]["syn"]), (&json!("on"), &json!("on")));
    assert_tells(&lab, watch, 2);
    for asked in ["procfs", "netlink"] {
        let mut command = bare(&lab, lab.command(PORTREEVE));
        let watch = Watch::start(&lab, command.args(["--source", asked]));
        let start = started(&watch);
        assert_eq!((&start["source"], &start["source_reason"]), (&json!(asked), &json!("as asked for")));
        watch.stop();
    }
}

#[test]
fn procfs_learns_cookies_for_the_notices() {
    let lab = lab!();
    for events in ["destroy", "destroy,syn"] {
        let mut command = bare(&lab, lab.command(PORTREEVE));
        let watch = Watch::start(&lab, command.args(["--source", "procfs", "--events", events]));
        let records = assert_tells(&lab, watch, 3);
        for close in with_action(&records, "connection-closed") {
            assert!(close["portreeve"]["connection"]["cookie"].is_string(), "{close}");
            let fields = json!({ "portreeve.close.exact": true, "source.bytes": 0 });
            assert_fields(&close, &fields);
            assert!((500..=501).contains(&close["destination"]["bytes"].as_u64().unwrap()), "{close}");
        }
    }
}

#[test]
fn where_netlink_is_forbidden_the_files_are_read_and_it_is_said_why() {
    let lab = lab!("strace");
    let options = ["-e", "trace=socket", "-e", "inject=socket:error=EAFNOSUPPORT"];
    let watch = strained(&lab, &options, &[]);
    let start = started(&watch);
    println!("{}: {}; {}", start["source"], start["source_reason"], start["events"]);
    assert_eq!(start["source"], "procfs");
    assert!(start["source_reason"].as_str().unwrap().starts_with("netlink cannot be had: "), "{start}");
    for kind in ["destroy", "syn"] {
        assert!(start["events"][kind].as_str().unwrap().starts_with("off: "), "{start}");
    }
    let records = assert_tells(&lab, watch, 3);
    for close in with_action(&records, "connection-closed") {
        assert_fields(&close, &json!({ "portreeve.close.exact": false, "source.bytes": null }));
    }
}

#[test]
fn where_netlink_stops_answering_the_files_are_read_and_nothing_is_lost_or_invented() {
    let lab = lab!("strace");
    for (call, error, all) in [
        ("sendto", "EPERM", &["none", "destroy,syn"][..]),
        ("sendto", "ECONNREFUSED", &["destroy"]),
        ("recvfrom", "ENOMEM", &["destroy,syn"]),
    ] {
        for events in all {
            let inject = format!("inject={call}:error={error}:when=12+");
            let trace = format!("trace={call}");
            let options = ["-e", &trace, "-e", &inject];
            // A signal is handed on by the same system calls.
            let arguments = ["--source", "netlink", "--events", events, "--duration", "4s"];
            let watch = strained(&lab, &options, &arguments);
            assert_eq!(started(&watch)["source"], "netlink");
            let records = assert_tells_until(&lab, watch, 4, Watch::wait_end);
            let failed = gaps(&records, "source_failed");
            println!("{call} {error}, {events}: {failed:?} {:?}", gaps(&records, "events_failed"));
            assert_eq!(failed.len(), 1, "{call} {error}, {events}");
            assert!(failed[0]["detail"].as_str().unwrap().contains("read by procfs now"), "{failed:?}");
        }
    }
}

#[test]
fn events_are_switched_one_by_one_and_each_says_why_it_is_off() {
    let lab = lab!();
    for (events, on) in [
        ("none", &[][..]),
        ("destroy", &["destroy"]),
        ("syn", &["syn"]),
        ("destroy,syn", &["destroy", "syn"]),
    ] {
        let mut command = bare(&lab, lab.command(PORTREEVE));
        let watch = Watch::start(&lab, command.args(["--events", events]));
        let start = started(&watch);
        for kind in ["destroy", "syn", "proc", "ebpf"] {
            let state = start["events"][kind].as_str().unwrap();
            let expected = if on.contains(&kind) { "on" } else { "off: not asked for" };
            assert_eq!(state, expected, "{events}: {kind}");
        }
        let records = assert_tells(&lab, watch, 2);
        let seen = if on.contains(&"syn") { "syn" } else { "poll" };
        for open in with_action(&records, "connection-opened") {
            assert_eq!(open["portreeve"]["connection"]["seen"], seen, "{events}");
        }
        for close in with_action(&records, "connection-closed") {
            assert_eq!(close["portreeve"]["close"]["exact"], on.contains(&"destroy"), "{events}");
        }
    }
    for wrong in ["all", "destroy,sin", "", "none,syn", "auto,proc"] {
        let output = output(lab.portreeve().args(["--duration", "10ms", "--events", wrong]));
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{wrong}: {:?}: {}", output.status.code(), said.lines().next().unwrap_or_default());
        assert_eq!(output.status.code(), Some(2), "{wrong}: {said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn nobody_hears_of_ends_and_not_of_syns() {
    let lab = lab!();
    for events in ["auto", "destroy,syn,proc"] {
        let command = lab.command_as(NOBODY, &[], PORTREEVE);
        let watch = Watch::start(&lab, bare(&lab, command).args(["--events", events]));
        let start = started(&watch);
        println!("{}", start["events"]);
        assert_eq!(start["events"]["destroy"], "on");
        assert_eq!(start["events"]["syn"], "off: needs CAP_NET_RAW");
        assert!(start["events"]["proc"].as_str().unwrap().starts_with("off: "), "{start}");
        assert!(start["events"]["ebpf"].as_str().unwrap().starts_with("off: "), "{start}");
        let records = assert_tells(&lab, watch, 2);
        for close in with_action(&records, "connection-closed") {
            assert_eq!(close["portreeve"]["close"]["exact"], true);
        }
    }
}

/// In the machine's own network: only there the kernel tells of processes.
#[test]
fn with_proc_a_chain_whose_middle_ended_before_it_connects_is_whole() {
    let lab = lab!("bash");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // What is between it and us is gone before it connects, and lives long enough to be read on a busy machine.
    let last = format!("sleep 1; exec 3<>/dev/tcp/127.0.0.1/{port}; read -t 5 -u 3");
    let script = format!("sh -c \"bash -c '{last}' & sleep 0.3\"; exit");
    for (events, whole) in [("destroy,syn", false), ("destroy,syn,proc", true)] {
        let mut command = bare(&lab, Command::new(env!("CARGO_BIN_EXE_portreeve")));
        let mut watch = Watch::start(&lab, command.args(["--ports", &port, "--events", events]));
        let state = &started(&watch)["events"]["proc"];
        if whole && state != "on" {
            return not_run(
                "with_proc_a_chain_whose_middle_ended_before_it_connects_is_whole",
                &state.to_string(),
            );
        }
        let mut shell = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        let first = shell.id();
        assert!(shell.wait().unwrap().success());
        let open = watch.wait_opened();
        let chain = open["portreeve"]["ancestry"].as_array().unwrap();
        let names: Vec<_> =
            chain.iter().map(|link| (&link["name"], &link["pid"], &link["remembered"])).collect();
        println!("{events}: {names:?}");
        let is_first = |link: &Value| link["pid"] == first && link["remembered"] == true;
        assert_eq!(chain.iter().any(is_first), whole, "{names:?}");
        assert_eq!(open["process"]["name"], "bash");
        drop(listener.accept().unwrap());
        watch.wait_closed();
        watch.stop();
    }
}

#[test]
fn syn_follows_the_ports_that_are_watched() {
    let lab = lab!("bash");
    let (_first, _second) = (lab.listen(SSH), lab.listen("127.0.0.1:2222"));
    let mut watch = lab.watch(&["--interval", "1s"]);
    // Each lives until it is let go, so that it can be read. Answers when it has connected.
    let connect = |port: u16| {
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo; read");
        let mut bash = lab.command("bash");
        bash.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut bash = bash.spawn().unwrap();
        bash.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        bash
    };
    let end = |clients: Vec<Child>| {
        for mut client in clients {
            drop(client.stdin.take());
            client.wait().unwrap();
        }
    };
    let clients = vec![connect(22), connect(2222), connect(22)];
    let pids: Vec<u32> = clients.iter().map(Child::id).collect();
    let opens = watch.wait_opens(2);
    end(clients);
    for (open, pid) in opens.iter().zip([pids[0], pids[2]]) {
        let fields =
            json!({ "portreeve.connection.seen": "syn", "destination.port": 22, "process.pid": pid });
        assert_fields(open, &fields);
    }
    // So has been taken the end of the one between them, whose port is none of those that are watched yet.
    watch.wait_actions("connection-closed", 2);
    std::fs::write(lab.path("portreeve.toml"), "ports = '2222'\n").unwrap();
    watch.signal(Signal::HUP);
    watch.wait_actions("watch-reloaded", 1);
    let clients = vec![connect(22), connect(2222), connect(22), connect(2222)];
    let pids: Vec<u32> = clients.iter().map(Child::id).collect();
    let opens = watch.wait_opens(4);
    end(clients);
    for (open, pid) in opens[2..].iter().zip([pids[1], pids[3]]) {
        let fields =
            json!({ "portreeve.connection.seen": "syn", "destination.port": 2222, "process.pid": pid });
        assert_fields(open, &fields);
    }
    sleep_ms(1200);
    assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 4);
}
