//! What it costs to know where a connection comes from, beside what its owner costs: in this process, with the library.
//!
//! Logins are copies of this program under the name `sshd`, each of which holds an inbound connection and has a client
//! as its child, which is what a login looks like from `/proc`.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portreeve::attribution::{Attributor, Found};
use portreeve::connection::{Inode, Netns, Snapshot, Socket, TcpState, Tuple};
use portreeve::origin::{Origins, Question};
use portreeve::proc::Proc;
use portreeve::process::{Attribution, Holder, Lineage};
use portreeve::secrets::Masker;
use portreeve::ssh;
use portreeve::way::Evidence;

use crate::cage::MEMORY;
use crate::figures::Spread;
use crate::goals::Goal;
use crate::load::Crew;
use crate::plan::Plan;
use crate::roles::DOOR;
use crate::tables::{Table, head};

/// What it may add to the median attribution.
const GOAL_MS: f64 = 0.3;

/// A login: its server, our end of the connection to it, and the socket of its client.
struct Login {
    server: Child,
    _outside: TcpStream,
    holder: Holder,
    inode: Inode,
    /// The server's end of it.
    inbound: (Inode, Tuple),
}

impl Drop for Login {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[derive(Default)]
struct Times {
    owner: Vec<f64>,
    walk: Vec<f64>,
    learned: Vec<f64>,
    again: Vec<f64>,
    meaning: Vec<f64>,
}

pub fn run(plan: &Plan) -> Vec<Goal> {
    let sockets: Vec<usize> = plan.sockets.iter().copied().filter(|n| *n <= 10_000).collect();
    let columns: Vec<Times> = sockets.iter().map(|sockets| times(*sockets, plan)).collect();
    let title = "Where a connection comes from, in ms, by sockets";
    let mut table = Table::new(title, head("", "N", &sockets));
    let mut row = |name: &str, of: fn(&Times) -> &Vec<f64>| {
        table.row(name, columns.iter().map(|times| Spread::of(of(times).clone()).show()));
    };
    row("owner and ancestors", |times| &times.owner);
    row("origin of a new login, in the last reading", |times| &times.learned);
    row("origin of a new login, by a walk of its own", |times| &times.walk);
    row("origin, further connections of it", |times| &times.again);
    row("route, and what the command line means", |times| &times.meaning);
    table.print(plan.markdown);
    let added = |times: &Times| {
        let both = times.learned.iter().zip(&times.meaning).map(|(learned, meaning)| learned + meaning);
        Spread::of(both.collect()).median()
    };
    let worst = columns.first().map_or(f64::NAN, added);
    vec![Goal::new(
        "origin and meaning added to an attribution, new login, 100 sockets, ms",
        &GOAL_MS.to_string(),
        crate::figures::number(worst),
        worst <= GOAL_MS,
    )]
}

fn times(sockets: usize, plan: &Plan) -> Times {
    eprintln!("origin: N = {sockets}");
    let _load = [Crew::ssh(), Crew::holding(sockets)];
    let proc = Proc::new("/proc").expect("/proc").with_own_socket_mount();
    let mut attributor = Attributor::new(Masker::new(&[]), Box::new(|_| None));
    let own = proc.own_netns().expect("a namespace");
    let fresh = || {
        let mut origins = Origins::new(own, proc.ephemeral_ports());
        origins.use_netlink();
        origins
    };
    let ports = HashSet::from([22, DOOR.1]);
    let mut times = Times::default();
    for _ in 0..plan.newborns {
        let login = log_in(&proc);
        attributor.begin_tick();
        let found = Found::Holders(vec![login.holder], None);
        let (attribution, spent) = timed(|| attributor.attribute(&proc, login.inode, &found, Duration::ZERO));
        let (Attribution::Owned { lineage, .. }, held) = attribution else { panic!("no owner") };
        times.owner.push(spent);
        let question = Question { lineage: &lineage, owner: held.as_deref(), ports: &ports, listeners: &[] };
        let ask = |origins: &mut Origins| {
            let (origin, spent) = timed(|| origins.find(&proc, question));
            assert_eq!(origin.evidence, Some(Evidence::Socket));
            spent
        };
        let mut taught = fresh();
        taught.learn(&reading(own, login.inbound));
        times.learned.push(ask(&mut taught));
        times.again.push(ask(&mut taught));
        times.walk.push(ask(&mut fresh()));
        let Lineage { process, ancestry, .. } = lineage.as_ref();
        let (_, spent) = timed(|| (ssh::route(process, ancestry), ssh::meaning(process, ancestry)));
        times.meaning.push(spent);
    }
    times
}

/// What a reading of the table shows of the inbound connection.
fn reading(netns: Netns, (inode, tuple): (Inode, Tuple)) -> Snapshot {
    let socket = Socket {
        tuple,
        state: TcpState::Established,
        uid: 0,
        inode: Some(inode),
        timewait_left: None,
        cookie: None,
        device: 0,
    };
    Snapshot { netns, inbound: vec![socket], ..Snapshot::default() }
}

/// In ms.
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let outcome = work();
    (outcome, began.elapsed().as_secs_f64() * 1_000.0)
}

fn log_in(proc: &Proc) -> Login {
    let path = format!("{MEMORY}/sshd");
    let own = std::env::current_exe().expect("this program's own path");
    if !std::path::Path::new(&path).exists() {
        std::fs::copy(&own, &path).expect("a copy");
    }
    let mut server = Command::new(path);
    server.args(["role", "door"]).arg(own).stdout(Stdio::piped());
    let mut server = server.spawn().expect("another copy of this program");
    let mut lines = BufReader::new(server.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("its text");
    assert_eq!(line(), "listens");
    let outside = TcpStream::connect(DOOR).expect("the door");
    let pid: u32 = line().trim().parse().expect("the client's pid");
    let (holder, inode) = socket_of(proc, pid);
    let (_, inbound) = socket_of(proc, server.id());
    let end = |address: std::io::Result<_>| address.expect("an end");
    let tuple = Tuple { local: end(outside.peer_addr()), remote: end(outside.local_addr()) };
    Login { server, _outside: outside, holder, inode, inbound: (inbound, tuple) }
}

fn socket_of(proc: &Proc, pid: u32) -> (Holder, Inode) {
    let held = proc.hold(pid).expect("a process of ours");
    let mut socket = None;
    proc.read_sockets(&held, None, |holder, inode| {
        socket = Some((holder, inode));
        false
    })
    .expect("its descriptors");
    socket.expect("its socket")
}
