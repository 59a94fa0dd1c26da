//! What this program does as a member of the load, or as one of the bare loops: `costs role ...`.
//!
//! Each tells in one line on its standard output that it stands, and then lets go of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZero;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::set_current_timer_slack;
use socket2::{Domain, Socket, Type};

use crate::{diag, figures, floors, tap};

const SSH: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 22);

/// Where a login comes in.
pub const DOOR: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 3), 2_022);

/// Connections of one holder, two descriptors each. Small enough for any hard limit of descriptors.
pub const PAIRS: usize = 1_000;

/// Connections to port 22 that can stand at once.
const STANDING: usize = 256;

/// How long what has no end goes on.
const EVER: Duration = Duration::from_secs(86_400);

/// Who ends a connection, and how.
#[derive(Clone, Copy, PartialEq)]
pub enum Closes {
    /// The client, in good order: TIME_WAIT is left on its side.
    Client,
    /// The server, in good order: nothing is left on the client's side.
    Server,
    /// The client, by a reset: nothing is left anywhere.
    Reset,
}

impl Closes {
    const ALL: [(&str, Self); 3] =
        [("client", Self::Client), ("server", Self::Server), ("reset", Self::Reset)];

    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).expect("all are there").0
    }

    fn parse(word: &str) -> Self {
        Self::ALL.iter().find(|(known, _)| *known == word).expect("who closes").1
    }
}

pub fn play(args: &[String]) -> ExitCode {
    // Where there is no pid namespace, nothing else ends it when the run is killed.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let number = |index: usize| args[index].parse::<u64>().expect("a number");
    let micros = |index| Duration::from_micros(number(index));
    match args[0].as_str() {
        "sleeper" => sleeper(number(1) as usize),
        "holder" => holder(number(1) as usize),
        "server" => server(),
        "flowing" => flowing(number(1) as usize, number(2) as u16),
        "sender" => sender(number(1), micros(2)),
        "client" => client(),
        "door" => door(&args[1]),
        "waiter" => {
            // Until `Visits::call`, or the end of the run.
            let _ = std::io::stdin().read(&mut [0; 1]);
            client();
        }
        "visitor" => visitor(micros(1), Closes::parse(&args[2]), number(3) as u16),
        "caller" => caller(number(1), micros(2)),
        "spawner" => spawner(number(1), &args[2]),
        "forker" => forker(number(1)),
        "flooder" => {
            flooder(number(1) as u8, number(2), Duration::from_millis(number(3)), Closes::parse(&args[4]))
        }
        "timer" => floors::paced(|| ()),
        "gate" => floors::gate(),
        "looker" => floors::gate_and_walk(),
        "tap" => tap::run(),
        "notices" => diag::count_notices(),
        other => panic!("no role {other}"),
    }
    ExitCode::SUCCESS
}

fn sleeper(descriptors: usize) {
    let _held: Vec<File> = (3..descriptors).map(|_| File::open("/dev/null").expect("/dev/null")).collect();
    stand("");
    forever();
}

fn holder(pairs: usize) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    // Killed, they leave no TIME_WAIT: those of one row's load would stand in the tables of the next for a minute.
    let abrupt = |stream: &TcpStream| set_socket_linger(stream, Some(Duration::ZERO)).expect("an option");
    let connect = |_| {
        let near = TcpStream::connect(address).expect("a connection");
        let (far, _) = listener.accept().expect("its other end");
        abrupt(&near);
        abrupt(&far);
        (near, far)
    };
    let _held: Vec<_> = (0..pairs).map(connect).collect();
    stand("");
    forever();
}

/// A UDP socket that is connected; nothing is sent by that.
fn flow(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.connect((Ipv4Addr::LOCALHOST, port)).expect("a remote end");
    socket
}

fn flowing(flows: usize, port: u16) {
    let _held: Vec<UdpSocket> = (0..flows).map(|_| flow(port)).collect();
    stand("");
    forever();
}

fn sender(per_second: u64, life: Duration) {
    stand("");
    let mut standing = VecDeque::new();
    at_rate(per_second, EVER, || {
        let socket = flow(SSH.1);
        // Nobody listens: the answer is an error, which the next call would tell.
        let _ = socket.send(b".");
        standing.push_back((Instant::now(), socket));
        while standing.front().is_some_and(|(since, _)| since.elapsed() >= life) {
            standing.pop_front();
        }
    });
}

/// Accepts on port 22 and closes what its client has closed, as sshd does. Its threads stand from the start: one born
/// for each connection would be a newer task than the client's, which no sshd is.
fn server() {
    let listener = TcpListener::bind(SSH).expect("port 22 in the namespace");
    std::thread::scope(|threads| {
        for _ in 0..STANDING {
            threads.spawn(|| {
                for stream in listener.incoming() {
                    let _ = stream.expect("a connection").read(&mut [0; 1]);
                }
            });
        }
        stand("");
    });
}

/// From this port; 0: from any.
fn connect(port: u16) -> (TcpStream, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    if port != 0 {
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("a free port");
    }
    let connecting_ns = figures::monotonic_ns();
    socket.connect(&SocketAddr::from(SSH).into()).expect("the server on port 22");
    let stream = TcpStream::from(socket);
    let connected_ns = figures::monotonic_ns();
    let port = stream.local_addr().expect("its address").port();
    (stream, format!("{} {port} {connecting_ns} {connected_ns}", std::process::id()))
}

/// What a login is made of: the server's process, which holds the inbound connection, and the client below it.
fn door(client: &str) {
    let listener = TcpListener::bind(DOOR).expect("the door's port");
    println!("listens");
    let (inbound, _) = listener.accept().expect("somebody");
    drop(listener);
    // Under its own name: by ours it would be a server too.
    let mut client = Command::new(client);
    let mut client = client.args(["role", "client"]).stdout(Stdio::piped()).spawn().expect("a client");
    let _ = client.stdout.take().expect("a pipe").read(&mut [0; 1]);
    stand(&client.id().to_string());
    let _ = (&inbound).read(&mut [0; 1]);
    let _ = client.kill();
    let _ = client.wait();
}

fn client() {
    let (_stream, visit) = connect(0);
    stand(&format!("{visit} {}", figures::monotonic_ns()));
    forever();
}

/// Tells of itself once the connection is closed: before, it would add to a short life.
fn visitor(life: Duration, closes: Closes, port: u16) {
    // The kernel rounds a sleep up by 50 µs otherwise.
    let _ = set_current_timer_slack(NonZero::new(1));
    let (mut stream, visit) = connect(port);
    std::thread::sleep(life);
    let closing_ns = figures::monotonic_ns();
    if closes == Closes::Server {
        // It closes at the first byte.
        stream.write_all(b".").expect("the server");
        let _ = stream.read(&mut [0; 1]);
    }
    drop(stream);
    println!("{visit} {closing_ns}");
}

fn caller(per_second: u64, life: Duration) {
    stand("");
    let mut standing = VecDeque::new();
    at_rate(per_second, EVER, || {
        standing.push_back((Instant::now(), connect(0)));
        while standing.front().is_some_and(|(since, _)| since.elapsed() >= life) {
            standing.pop_front();
        }
    });
}

fn spawner(per_second: u64, life_us: &str) {
    stand("");
    let exe = std::env::current_exe().expect("this program's own path");
    let mut passing: VecDeque<Child> = VecDeque::new();
    at_rate(per_second, EVER, || {
        let mut visitor = Command::new(&exe);
        visitor.args(["role", "visitor", life_us, Closes::Client.word(), "0"]).stdout(Stdio::null());
        passing.push_back(visitor.spawn().expect("another copy of this program"));
        while passing.front_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_)))) {
            passing.pop_front();
        }
    });
}

/// By a shell, which forks for each pair of parentheses: cheaper than any start of a program.
fn forker(per_second: u64) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "while read -r _; do ( : ); done"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut orders = shell.spawn().expect("a shell").stdin.take().expect("a pipe");
    stand("");
    at_rate(per_second, EVER, || orders.write_all(b"\n").expect("the shell"));
}

/// Addresses that each flooder connects to, so that it does not run out of ports while TIME_WAIT holds them.
pub const PLACES: u8 = 8;

/// From here on; each port serves all addresses. Behind those of `Visits::pass`, whose TIME_WAITs still hold theirs,
/// and in front of those that the kernel gives out.
const FLOOD_PORTS: u16 = 20_000;

/// Connections of a flooder that stand at once: at 2,500 a second each lives for 10 ms.
const IN_FLIGHT: usize = 25;

fn flooder(index: u8, per_second: u64, time: Duration, closes: Closes) {
    let listen = |place| TcpListener::bind((Ipv4Addr::new(127, 0, index + 1, place), 22)).expect("port 22");
    let listeners: Vec<TcpListener> = (1..=PLACES).map(listen).collect();
    let mut standing = VecDeque::new();
    // No two connections of a flood bear the same name: that tells one that is logged twice.
    let ports = FLOOD_PORTS..;
    let mut names = ports.flat_map(|port| listeners.iter().map(move |listener| (port, listener)));
    let made = at_rate(per_second, time, || {
        let (port, listener) = names.next().expect("endless");
        let near = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        near.set_reuse_address(true).expect("an option");
        near.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("a port");
        near.connect(&listener.local_addr().expect("its address").into()).expect("a connection");
        if closes == Closes::Reset {
            set_socket_linger(&near, Some(Duration::ZERO)).expect("an option");
        }
        let (far, _) = listener.accept().expect("its other end");
        // Dropped in this order: the near end closes first.
        standing.push_back((near, far));
        if standing.len() > IN_FLIGHT {
            standing.pop_front();
        }
    });
    drop(standing);
    println!("{made}");
}

/// Calls `act` so many times a second, and faster after it was late. Returns how often.
fn at_rate(per_second: u64, time: Duration, mut act: impl FnMut()) -> u64 {
    let _ = set_current_timer_slack(NonZero::new(1));
    let begun = Instant::now();
    let mut done = 0;
    loop {
        let due = Duration::from_nanos((done + 1) * 1_000_000_000 / per_second);
        let now = begun.elapsed();
        if now >= time {
            return done;
        }
        std::thread::sleep(due.saturating_sub(now));
        act();
        done += 1;
    }
}

/// Tells that this process stands, and closes its end of the pipe, so that the reader sees an end even when others died.
fn stand(word: &str) {
    let mut out = std::io::stdout();
    out.write_all(format!("{word}\n").as_bytes()).and_then(|()| out.flush()).expect("a reader");
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    rustix::stdio::dup2_stdout(null).expect("a descriptor");
}

fn forever() {
    loop {
        std::thread::sleep(Duration::from_secs(3_600));
    }
}
