//! Connections in network namespaces other than the watcher's own.
//!
//! The watcher runs among pids of its own: it looks into every namespace that it finds, and must find none but the
//! test's.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::{assert_fields, with_action};
use crate::support::wait_for;
use crate::support::watch::{PATIENCE, PORTREEVE, Watch};

const SYS_PTRACE: [&str; 2] = ["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"];

/// A server and, at a word on standard input, its clients: all in one process that says where it lives.
const HOST: &str = "
import os, socket, sys
server, held = socket.create_server(('', 22), backlog=100), []
print(os.stat('/proc/self/ns/net').st_ino, os.getpid(), flush=True)
for line in sys.stdin:
    if line == 'connect\\n':
        client = socket.create_connection(('127.0.0.1', 22))
        held.append((client, server.accept()[0]))
        print(client.getsockname()[1], flush=True)
    elif line == 'flow\\n':
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(('127.0.0.1', 22))
        held.append((client, client))
        print(client.getsockname()[1], flush=True)
    elif line.startswith('visit '):
        socket.create_connection((line.split()[1], 22)).close()
        print('visited', flush=True)
    else:
        client, accepted = held.pop()
        client.close()
        accepted.close()
        print('closed', flush=True)
";

/// Pids of the test's own, in a lab's network. All of them end with this.
struct Pids {
    /// Makes the namespace and waits for its first process.
    outer: Child,
    /// The first process, by its pid outside.
    init: u32,
}

impl Pids {
    fn new(lab: &Lab) -> Self {
        let first = ["--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"];
        let outer = lab.command("unshare").args(first).stderr(Stdio::null()).spawn().unwrap();
        let is_sleep =
            |pid: &u32| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == b"sleep\n");
        let init = wait_for("the first process", PATIENCE, || child_of(outer.id()).filter(is_sleep));
        Self { outer, init }
    }

    /// A command among these pids. What is spawned only waits for it.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--pid", "--target", &self.init.to_string(), "--"]);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
        command
    }

    fn watch(&self, lab: &Lab, setpriv: &[&str], arguments: &[&str]) -> Watch {
        let mut command = self.command();
        command.arg("setpriv").args(setpriv).args(["--", PORTREEVE, "watch", "--config"]);
        command.arg(lab.path("portreeve.toml"));
        let mut watch = Watch::start(lab, command.args(arguments));
        watch.inner = child_of(watch.child.id()).map(outside);
        watch
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        let _ended_already = kill_process(outside(self.init), Signal::KILL);
        let _reaped = self.outer.wait();
    }
}

fn outside(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A process that serves and connects, in a network namespace of its own or in the lab's.
struct Host {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    netns: u64,
    /// As the watcher sees it.
    pid: u64,
}

impl Host {
    fn new(pids: &Pids) -> Self {
        let mut command = pids.command();
        command.args(["unshare", "--net", "sh", "-c", "ip link set lo up; exec python3 -c \"$0\""]);
        Self::start(command.arg(HOST))
    }

    fn in_the_lab(pids: &Pids) -> Self {
        Self::start(pids.command().args(["python3", "-c", HOST]))
    }

    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let mut words = line.split_whitespace().map(|word| word.parse().unwrap());
        let (netns, pid) = (words.next().unwrap(), words.next().unwrap());
        Self { child, stdin, stdout, netns, pid }
    }

    fn say(&mut self, word: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{word}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Connects to itself; answers what the record of it must say.
    fn connect(&mut self) -> Value {
        let port: u16 = self.say("connect").parse().unwrap();
        json!({
            "source.ip": "127.0.0.1",
            "source.port": port,
            "destination.port": 22,
            "process.pid": self.pid,
            "process.name": "python3",
            "user.id": "0",
            "portreeve.connection.netns": self.netns,
        })
    }

    /// The pid that the test sees.
    fn outside(&self) -> u32 {
        child_of(self.child.id()).unwrap()
    }

    /// Ends the process and with it its namespace.
    fn end(mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

fn is_of(record: &Value, connection: &Value) -> bool {
    record["source"]["port"] == connection["source.port"]
        && record["portreeve"]["connection"]["netns"] == connection["portreeve.connection.netns"]
}

/// Waits for the open. Where the machine is busy the search for an owner may outlast a tick: then a change tells it.
#[track_caller]
fn wait_told(watch: &mut Watch, connection: &Value) -> Value {
    let (open, owned) = watch.wait_for("the open and its owner", |records| {
        let mut told = records.iter().filter(|record| is_of(record, connection));
        let open = told.next()?;
        let settled = |record: &&Value| record["portreeve"]["attribution"]["reason"] != "budget";
        let owned = std::iter::once(open).chain(told).find(settled)?;
        Some((open.clone(), owned.clone()))
    });
    assert_eq!(open["event"]["action"], "connection-opened");
    assert_fields(&owned, connection);
    open
}

fn started(watch: &Watch) -> Value {
    with_action(&watch.records(), "watch-started")[0]["portreeve"]["watch"].clone()
}

/// Once by each source: netlink enters the other namespaces, procfs reads through their processes.
const BOTH: [[&str; 4]; 2] =
    [["--source", "procfs", "--events", "none"], ["--source", "netlink", "--events", "destroy"]];

#[test]
fn connections_are_told_under_their_own_namespace_with_their_owner() {
    let lab = lab!("python3");
    for source in BOTH {
        let pids = Pids::new(&lab);
        let mut hosts = [Host::in_the_lab(&pids), Host::new(&pids), Host::new(&pids)];
        assert_eq!(hosts.iter().map(|host| host.netns).collect::<BTreeSet<_>>().len(), 3);
        let standing = hosts.each_mut().map(Host::connect);
        let mut watch = pids.watch(&lab, &[], &[&["--netns", "all"], &source[..]].concat());
        let start = started(&watch);
        assert_eq!((&start["netns_scope"], &start["namespaces"]), (&json!("all"), &json!(3)), "{start}");
        for connection in &standing {
            let open = wait_told(&mut watch, connection);
            assert_fields(&open, &json!({ "portreeve.connection.seen": "start" }));
        }
        for host in &mut hosts {
            let connection = host.connect();
            let open = wait_told(&mut watch, &connection);
            assert_ne!(open["portreeve"]["connection"]["seen"], "start");
            assert_eq!(host.say("close"), "closed");
            let id = &open["portreeve"]["connection"]["id"];
            let close = watch.wait_for("the close", |records| {
                let closes = with_action(records, "connection-closed").into_iter();
                { closes }.find(|close| close["portreeve"]["connection"]["id"] == *id)
            });
            assert_fields(&close, &connection);
        }
        let records = watch.stop().records;
        assert_eq!(with_action(&records, "connection-opened").len(), 6);
        assert_eq!(with_action(&records, "connection-closed").len(), 3);
    }
}

#[test]
fn udp_flows_are_told_under_their_own_namespace_with_their_owner() {
    let lab = lab!("python3");
    for source in BOTH {
        let pids = Pids::new(&lab);
        let mut hosts = [Host::in_the_lab(&pids), Host::new(&pids)];
        let udp = ["--netns", "all", "--transport", "tcp,udp"];
        let mut watch = pids.watch(&lab, &[], &[&udp, &source[..]].concat());
        for host in &mut hosts {
            let port: u16 = host.say("flow").parse().unwrap();
            let flow = json!({
                "source.port": port,
                "network.transport": "udp",
                "process.pid": host.pid,
                "portreeve.connection.seen": "poll",
                "portreeve.connection.netns": host.netns,
            });
            let open = wait_told(&mut watch, &flow);
            assert_eq!(host.say("close"), "closed");
            watch.wait_for("the close", |records| {
                let closes = with_action(records, "connection-closed").into_iter();
                { closes }.find(|close| close["source"]["port"] == port)
            });
            assert_fields(&open, &flow);
        }
        assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 2);
    }
}

#[test]
fn with_netns_own_other_namespaces_are_not_told() {
    let lab = lab!("python3");
    let pids = Pids::new(&lab);
    let mut hosts = [Host::new(&pids), Host::in_the_lab(&pids)];
    let mut watch = pids.watch(&lab, &[], &["--netns", "own"]);
    let [_, own] = hosts.each_mut().map(Host::connect);
    wait_told(&mut watch, &own);
    let start = started(&watch);
    assert_eq!((&start["netns_scope"], &start["namespaces"]), (&json!("own"), &json!(1)), "{start}");
    assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 1);
}

#[test]
fn a_namespace_that_is_made_during_the_watch_is_noticed_at_once() {
    let lab = lab!("python3");
    let pids = Pids::new(&lab);
    let mut watch = pids.watch(&lab, &[], &["--netns", "all", "--interval", "50ms"]);
    let mut hosts = Vec::new();
    let mut waits = Vec::new();
    for _ in 0..10 {
        let mut host = Host::new(&pids);
        let connected = Instant::now();
        let connection = host.connect();
        let open = wait_told(&mut watch, &connection);
        waits.push(connected.elapsed());
        assert_ne!(open["portreeve"]["connection"]["seen"], "start");
        hosts.push(host);
    }
    waits.sort();
    println!("from connect to record, in a namespace about 50 ms old: {waits:?}");
    assert!(waits[5] < Duration::from_millis(500), "{waits:?}");
    watch.stop();
}

#[test]
fn a_namespace_whose_processes_end_is_left_and_not_kept_alive() {
    let lab = lab!("python3");
    for source in BOTH {
        let pids = Pids::new(&lab);
        let mut watch = pids.watch(&lab, &[], &[&["--netns", "all"], &source[..]].concat());
        let mut host = Host::new(&pids);
        // The kernel takes the far end of the cable away when the namespace of the near end is no more.
        let cable = format!("ip link add wire type veth peer name far netns {}", host.outside());
        lab.run(&cable);
        let connection = host.connect();
        wait_told(&mut watch, &connection);
        host.end();
        let ended = Instant::now();
        let close = watch.wait_closed();
        println!("closed {:?} after the last process ended", ended.elapsed());
        assert_fields(&close, &connection);
        let is_gone = || (!lab.run("ip -o link").contains("wire")).then_some(());
        wait_for("the namespace's end", PATIENCE, is_gone);
        println!("the namespace ended {:?} after its last process", ended.elapsed());
        watch.stop();
    }
}

#[test]
fn a_namespace_outlives_the_process_that_it_was_found_by() {
    let lab = lab!("python3");
    let pids = Pids::new(&lab);
    let mut watch = pids.watch(&lab, &[], &["--netns", "all"]);
    let mut first = Host::new(&pids);
    wait_told(&mut watch, &first.connect());
    let inside = |place: u32| {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--pid", "--target", &place.to_string(), "--"]);
        command
    };
    let mut stays = inside(first.outside()).args(["sleep", "60"]).spawn().unwrap();
    let place = wait_for("sleep", PATIENCE, || child_of(stays.id()));
    let netns = first.netns;
    first.end();
    watch.wait_closed();
    let mut second = Host::start(inside(place).args(["python3", "-c", HOST]));
    assert_eq!(second.netns, netns);
    wait_told(&mut watch, &second.connect());
    watch.stop();
    kill_process(outside(place), Signal::KILL).unwrap();
    stays.wait().unwrap();
}

#[test]
fn what_is_only_forwarded_is_not_told() {
    let lab = lab!("python3");
    let pids = Pids::new(&lab);
    let mut hosts = [Host::new(&pids), Host::new(&pids)];
    for (host, number) in hosts.iter().zip(["1", "2"]) {
        let place = host.outside();
        lab.run(&format!(
            "ip link add wire{number} type veth peer name wire netns {place}
             ip address add 10.{number}.0.1/24 dev wire{number}; ip link set wire{number} up
             nsenter --net --target {place} sh -ec 'ip address add 10.{number}.0.2/24 dev wire; ip link set wire up
                 ip route add default via 10.{number}.0.1'"
        ));
    }
    lab.run("echo 1 > /proc/sys/net/ipv4/ip_forward");
    for events in ["destroy,syn", "syn", "destroy", "none"] {
        let watch = pids.watch(&lab, &[], &["--netns", "own", "--events", events]);
        for _ in 0..5 {
            assert_eq!(hosts[0].say("visit 10.2.0.2"), "visited");
        }
        // Longer than a SYN is waited for.
        std::thread::sleep(Duration::from_millis(800));
        let records = watch.stop().records;
        assert_eq!(with_action(&records, "connection-opened"), [json!(null); 0], "{events}");
    }
}

#[test]
fn fifty_namespaces_keep_the_pace() {
    const COUNT: usize = 50;
    let lab = lab!("python3");
    let pids = Pids::new(&lab);
    let mut hosts: Vec<_> = (0..COUNT).map(|_| Host::new(&pids)).collect();
    let mut watch = pids.watch(&lab, &[], &["--netns", "all", "--interval", "50ms"]);
    assert_eq!(started(&watch)["namespaces"], COUNT + 1);
    let watcher = watch.inner.unwrap().as_raw_nonzero().get();
    let (cpu, began) = (cpu_ticks(watcher), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let share = (cpu_ticks(watcher) - cpu) as f64 / 100.0 / began.elapsed().as_secs_f64();
    println!("{COUNT} quiet namespaces: {:.2} % of a core", share * 100.0);
    let connections: Vec<_> = hosts.iter_mut().map(Host::connect).collect();
    for connection in &connections {
        wait_told(&mut watch, connection);
    }
    let records = watch.stop().records;
    let coverage = &with_action(&records, "coverage").pop().unwrap()["portreeve"]["coverage"];
    println!("{coverage}");
    let pace = coverage["poll_interval_us"]["p50"].as_u64().unwrap();
    assert!((45_000..65_000).contains(&pace), "{coverage}");
}

/// User and system time of a process, in hundredths of a second.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    behind_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn cap_sys_ptrace_alone_sees_every_namespace() {
    let lab = lab!("python3");
    let pids = Pids::new(&lab);
    let nobody = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
    let options = nobody.iter().map(String::as_str).chain(SYS_PTRACE).collect::<Vec<_>>();
    let mut hosts = [Host::new(&pids), Host::new(&pids)];
    let mut watch = pids.watch(&lab, &options, &["--netns", "all"]);
    assert_eq!(started(&watch)["namespaces"], 3);
    for host in &mut hosts {
        wait_told(&mut watch, &host.connect());
    }
    watch.stop();
}

#[test]
fn without_privilege_it_watches_its_own_namespace_and_says_so() {
    let lab = lab!("python3");
    let pids = Pids::new(&lab);
    let nobody = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
    let options = nobody.iter().map(String::as_str).collect::<Vec<_>>();
    let mut hosts = [Host::new(&pids), Host::in_the_lab(&pids)];
    let mut watch = pids.watch(&lab, &options, &["--netns", "all"]);
    let start = started(&watch);
    assert_eq!(start["namespaces"], 1, "{start}");
    assert!(start["warnings"].to_string().contains("network namespace"), "{start}");
    let [_, own] = hosts.each_mut().map(Host::connect);
    let mut seen = own;
    // Others' owners may not be read either.
    for denied in ["process.pid", "process.name"] {
        seen.as_object_mut().unwrap().remove(denied);
    }
    wait_told(&mut watch, &seen);
    assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 1);
}
