//! Our rows are those of `ss`, and our owners those of `ss -p`: two programs, two kernel interfaces, one truth.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, and tests own their clock and files"
)]

mod support;

/// What the watchers of these tests are told of their sources.
pub const SOURCES: &[&str] = &[];

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use portreeve::connection::TcpState;
use portreeve::proc::Proc;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use serde_json::Value;

use support::lab::Lab;
use support::{find_program, log, not_run, output, wait_for};

/// State, both ends and, where a process holds it, inode and uid. Text, so that a difference can be read.
type Row = String;

fn end(address: IpAddr, port: u16) -> String {
    let address = address.to_canonical();
    // `ss` writes `*` for the IPv6 wildcard that takes IPv4 too.
    if address.is_unspecified() { format!("any:{port}") } else { format!("{address} {port}") }
}

fn row(state: &str, local: &str, remote: &str, inode: u64, uid: u32) -> Row {
    // Without an inode the uid means nothing: the two interfaces print different ones.
    if inode == 0 {
        format!("{state} {local} > {remote}")
    } else {
        format!("{state} {local} > {remote} inode {inode} uid {uid}")
    }
}

fn our_rows(proc: &Proc) -> Vec<Row> {
    let mut rows = Vec::new();
    let read = proc.read_tcp(portreeve::proc::Net::Own, |socket| {
        let (local, remote) = (socket.tuple.local, socket.tuple.remote);
        let inode = socket.inode.map_or(0, |inode| inode.get());
        // The kernel's other name for the same state: a request that waits for its handshake's end.
        let state = if socket.state == TcpState::NewSynRecv { TcpState::SynRecv } else { socket.state };
        let (local, remote) = (end(local.ip(), local.port()), end(remote.ip(), remote.port()));
        rows.push(row(state.name(), &local, &remote, inode, socket.uid));
    });
    assert_eq!(read.unwrap().unparsed, 0);
    rows.sort();
    rows
}

fn ss_state(word: &str) -> &'static str {
    match word {
        "ESTAB" => "established",
        "SYN-SENT" => "syn_sent",
        "SYN-RECV" => "syn_recv",
        "FIN-WAIT-1" => "fin_wait1",
        "FIN-WAIT-2" => "fin_wait2",
        "TIME-WAIT" => "time_wait",
        "UNCONN" => "close",
        "CLOSE-WAIT" => "close_wait",
        "LAST-ACK" => "last_ack",
        "LISTEN" => "listen",
        "CLOSING" => "closing",
        _ => panic!("ss: state {word}"),
    }
}

/// `127.0.0.1:22`, `[::1]:22`, `*:22`, `0.0.0.0:*`, `[fe80::1]%eth0:22`.
fn ss_end(word: &str) -> String {
    let (address, port) = word.rsplit_once(':').unwrap();
    let port = if port == "*" { 0 } else { port.parse().unwrap() };
    let address = address.split('%').next().unwrap().trim_matches(['[', ']']);
    if address == "*" { format!("any:{port}") } else { end(address.parse().unwrap(), port) }
}

fn number_after(line: &str, word: &str) -> Option<u64> {
    let (_, tail) = line.split_once(word)?;
    tail.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn ss_rows(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let uid = u32::try_from(number_after(line, " uid:").unwrap_or(0)).unwrap();
        let inode = number_after(line, " ino:").unwrap_or(0);
        row(ss_state(words[0]), &ss_end(words[3]), &ss_end(words[4]), inode, uid)
    };
    let mut rows: Vec<_> = text.lines().map(row).collect();
    rows.sort();
    rows
}

/// Sockets of a lab in many states, all held by this process or a child of it, until it is dropped.
struct Zoo {
    _sockets: Vec<OwnedFd>,
    children: Vec<Child>,
}

impl Drop for Zoo {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn pair(lab: &Lab, server: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
    let client = lab.connect(to);
    (client, server.accept().unwrap().0)
}

fn fill(lab: &Lab) -> Zoo {
    let v4 = lab.listen("127.0.0.1:1000");
    let v6 = lab.listen("[::1]:1000");
    let both = lab.listen("[::]:1001");
    let lost = lab.listen("127.0.0.1:1002");
    let deaf = lab.listen("127.0.0.1:1003");
    let mut sockets: Vec<OwnedFd> = Vec::new();
    let mut keep = |pair: (TcpStream, TcpStream)| sockets.extend([pair.0.into(), pair.1.into()]);
    for _ in 0..80 {
        keep(pair(lab, &v4, "127.0.0.1:1000"));
        keep(pair(lab, &v6, "[::1]:1000"));
    }
    for _ in 0..10 {
        keep(pair(lab, &both, "[::ffff:127.0.0.1]:1001"));
        // The server's end goes to FIN_WAIT2, the client's to CLOSE_WAIT; once held, once let go.
        let (client, accepted) = pair(lab, &v4, "127.0.0.1:1000");
        accepted.shutdown(std::net::Shutdown::Write).unwrap();
        keep((client, accepted));
        sockets_of_half_closed(lab, &v4, &mut keep);
        let (client, mut accepted) = pair(lab, &v6, "[::1]:1000");
        drop(client);
        std::io::copy(&mut accepted, &mut std::io::sink()).unwrap();
    }
    // Nothing reaches port 1002 any more, and nothing leaves port 1003.
    let cut: Vec<_> = (0..10).map(|_| pair(lab, &lost, "127.0.0.1:1002")).collect();
    let half: Vec<_> = (0..10).map(|_| pair(lab, &lost, "127.0.0.1:1002")).collect();
    for (client, accepted) in &half {
        client.shutdown(std::net::Shutdown::Write).unwrap();
        std::io::copy(&mut &*accepted, &mut std::io::sink()).unwrap();
    }
    lab.filter_port(1002);
    lab.run("nft add rule inet lab input tcp sport 1003 drop");
    for (client, accepted) in cut {
        drop(client); // FIN_WAIT1
        sockets.push(accepted.into());
    }
    for (client, accepted) in half {
        drop(accepted); // LAST_ACK
        sockets.push(client.into());
    }
    for port in [1002, 1003] {
        for _ in 0..5 {
            sockets.push(begin_to_connect(lab, port)); // SYN_SENT, and SYN_RECV on the deaf side
        }
    }
    sockets.extend([v4, v6, both, lost, deaf].map(OwnedFd::from));
    Zoo { _sockets: sockets, children: Vec::new() }
}

/// A pair whose server let go: its row has no inode any more.
fn sockets_of_half_closed(lab: &Lab, server: &TcpListener, keep: &mut impl FnMut((TcpStream, TcpStream))) {
    let (client, accepted) = pair(lab, server, "127.0.0.1:1000");
    drop(accepted);
    let (other, held) = pair(lab, server, "127.0.0.1:1000");
    keep((client, other));
    drop(held);
}

fn begin_to_connect(lab: &Lab, port: u16) -> OwnedFd {
    lab.inside(|| {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(connect(&socket, &to), Err(rustix::io::Errno::INPROGRESS));
        socket
    })
}

/// Compares until both agree; tables that change meanwhile may need some tries.
fn assert_same_rows(ours: impl Fn() -> Vec<Row>, theirs: impl Fn() -> Vec<Row>) -> Vec<Row> {
    let mut last = (Vec::new(), Vec::new());
    for _ in 0..20 {
        last = (ours(), theirs());
        if last.0 == last.1 {
            return last.0;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (ours, theirs) = last;
    let only = |these: &[Row], those: &[Row]| -> Vec<Row> {
        these.iter().filter(|row| !those.contains(row)).cloned().collect()
    };
    panic!("only ours: {:#?}\nonly ss's: {:#?}", only(&ours, &theirs), only(&theirs, &ours));
}

#[test]
fn the_rows_of_this_machine_are_those_of_ss() {
    if find_program("ss").is_none() {
        return not_run("the_rows_of_this_machine_are_those_of_ss", "ss is not installed");
    }
    let proc = Proc::new("/proc").unwrap();
    let ss = || String::from_utf8(output(Command::new("ss").arg("-tanHOe")).stdout).unwrap();
    let rows = assert_same_rows(|| our_rows(&proc), || ss_rows(&ss()));
    println!("{} rows", rows.len());
}

#[test]
fn the_rows_of_a_host_with_sockets_in_many_states_are_those_of_ss() {
    let lab = lab!("nft", "ss");
    let _zoo = fill(&lab);
    // The library reads `self/net`: here a root folder whose `self` is a process of the lab.
    std::fs::create_dir(lab.path("proc")).unwrap();
    std::os::unix::fs::symlink(format!("/proc/{}", lab.holder()), lab.path("proc/self")).unwrap();
    let proc = Proc::new(lab.path("proc")).unwrap();
    let rows = assert_same_rows(|| our_rows(&proc), || ss_rows(&lab.run("ss -tanHOe")));
    let states: BTreeSet<_> = rows.iter().map(|row| row.split(' ').next().unwrap()).collect();
    println!("{} rows in states {states:?}", rows.len());
    assert!(rows.len() > 400, "{}", rows.len());
    let all =
        ["close_wait", "established", "fin_wait1", "fin_wait2", "last_ack", "listen", "syn_recv", "syn_sent"];
    let missing: Vec<_> =
        all.iter().chain(&["time_wait"]).filter(|state| !states.contains(**state)).collect();
    assert!(missing.is_empty(), "no row in {missing:?}");
}

/// Both ends of each row that `ss -p` can name holders of, with the holders' pids.
fn ss_holders(text: &str) -> BTreeMap<String, BTreeSet<u64>> {
    let holders = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let pids = line.split("pid=").skip(1).map(|tail| number_after(tail, "").unwrap()).collect();
        (format!("{} > {}", ss_end(words[3]), ss_end(words[4])), pids)
    };
    text.lines().filter(|line| line.contains("pid=")).map(holders).collect()
}

fn our_holders(lab: &Lab) -> BTreeMap<String, BTreeSet<u64>> {
    let once = output(lab.portreeve().args(["--once", "--ports", "all", "--format", "json"]));
    assert!(once.status.success(), "{}", String::from_utf8_lossy(&once.stderr));
    let text = String::from_utf8(once.stdout).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |open: &Value| {
        let end_of = |side: &str| {
            let (ip, port) = (open[side]["ip"].as_str().unwrap(), open[side]["port"].as_u64().unwrap());
            end(ip.parse().unwrap(), u16::try_from(port).unwrap())
        };
        let holders = open["portreeve"]["attribution"]["holders"].as_array().cloned().unwrap_or_default();
        let pids: BTreeSet<_> = holders.iter().map(|pid| pid.as_u64().unwrap()).collect();
        assert!(
            open["process"]["pid"].as_u64().is_some_and(|owner| pids.contains(&owner)),
            "{}",
            log::summary(open)
        );
        (format!("{} > {}", end_of("source"), end_of("destination")), pids)
    };
    log::with_action(&records, "connection-opened").iter().map(of).collect()
}

#[test]
fn the_owners_of_outbound_connections_are_those_of_ss() {
    let lab = lab!("bash", "nft", "ss");
    let mut zoo = fill(&lab);
    // Shells with a connection each, and every other of them shares it with a child.
    for number in 0..20 {
        let share = if number % 2 == 0 { "sleep 60 &" } else { "" };
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/1000; {share} echo; read -t 60 line");
        let mut shell = lab.command("bash");
        let mut shell =
            shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(&mut shell.stdout.take().unwrap(), &mut [0]).unwrap();
        zoo.children.push(shell);
    }
    let theirs = || -> BTreeMap<_, _> {
        let all = ss_holders(&lab.run("ss -tnpHO"));
        // Ours are the ends that connected: to a port between 1000 and 1003, from one that is not.
        all.into_iter().filter(|(tuple, _)| tuple.split_once(" > ").unwrap().1.contains(" 100")).collect()
    };
    let (ours, theirs) = wait_for("the shells' children", Duration::from_secs(5), || {
        let theirs = theirs();
        (theirs.values().filter(|pids| pids.len() == 2).count() == 10).then(|| (our_holders(&lab), theirs))
    });
    assert!(theirs.len() > 200, "{}", theirs.len());
    assert_eq!(ours, theirs);
}
