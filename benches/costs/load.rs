//! The load: processes that hold sockets, that only stand there, or that connect to port 22.
//!
//! All are this program under another name (`costs role ...`). Each tells in one line on its standard
//! output that it stands, and then lets go of it.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use crate::{figures, floors};

const SSH: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 22);

/// Connections of one holder, two descriptors each. Small enough for any hard limit of descriptors.
const PAIRS: usize = 1_000;

/// Connections to port 22 that can stand at once.
const STANDING: usize = 256;

/// Runs as one member of the load, or as one of the bare loops that the watchers are compared with.
pub fn play(args: &[String]) -> ExitCode {
    let number = |index: usize| args[index].parse::<u64>().expect("a number");
    match args[0].as_str() {
        "sleeper" => sleeper(number(1) as usize),
        "holder" => holder(number(1) as usize),
        "server" => server(),
        "client" => client(None),
        "waiter" => {
            // Until `Visits::call`, or the end of the run.
            let _ = std::io::stdin().read(&mut [0; 1]);
            client(None);
        }
        "visitor" => client(Some(Duration::from_millis(number(1)))),
        "timer" => floors::paced(|| ()),
        "gate" => floors::gate(),
        other => panic!("no role {other}"),
    }
    ExitCode::SUCCESS
}

/// Processes of the load; killed and waited for when dropped.
pub struct Crew(Vec<Child>);

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

impl Crew {
    /// `rows` rows in the tables, both ends of loopback connections, none on port 22.
    pub fn holding(rows: usize) -> Self {
        let pairs = rows / 2;
        let holders = (0..pairs).step_by(PAIRS).map(|from| PAIRS.min(pairs - from));
        Self::of(holders.map(|pairs| format!("holder {pairs}")))
    }

    /// Processes that sleep, with 10 to 12 descriptors each.
    pub fn sleeping(count: usize) -> Self {
        Self::of((0..count).map(|index| format!("sleeper {}", 10 + index % 3)))
    }

    /// A listener on port 22 and five processes connected to it.
    pub fn ssh() -> Self {
        let mut crew = Self::of(["server".to_owned()]);
        crew.0.append(&mut Self::of(vec!["client".to_owned(); 5]).0);
        crew
    }

    fn of(roles: impl IntoIterator<Item = String>) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let crew: Vec<Child> = roles.into_iter().map(|role| start(&role, &writer)).collect();
        drop(writer);
        let standing = BufReader::new(reader).lines().count();
        assert_eq!(standing, crew.len(), "some of the load did not come up");
        Self(crew)
    }
}

fn start(role: &str, tell: &PipeWriter) -> Child {
    command(role, tell).spawn().expect("another copy of this program")
}

fn command(role: &str, tell: &PipeWriter) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program's own path"));
    command.arg("role").args(role.split(' ')).stdin(Stdio::null());
    command.stdout(tell.try_clone().expect("a descriptor"));
    command
}

/// A connection made by a process of its own, as that process tells it.
#[derive(Clone, Copy)]
pub struct Visit {
    pub pid: u32,
    pub port: u16,
    /// CLOCK_MONOTONIC when `connect` had returned.
    pub connected_ns: u64,
}

/// Processes that connect to port 22, one at a time: newborn, or older ones when called.
pub struct Visits {
    reader: BufReader<PipeReader>,
    writer: PipeWriter,
    crew: Crew,
    waiting: Vec<ChildStdin>,
}

impl Visits {
    pub fn new() -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        Self { reader: BufReader::new(reader), writer, crew: Crew(Vec::new()), waiting: Vec::new() }
    }

    /// Starts processes that connect when they are called.
    pub fn prepare(&mut self, count: usize) {
        for _ in 0..count {
            let mut child =
                command("waiter", &self.writer).stdin(Stdio::piped()).spawn().expect("another copy");
            self.waiting.extend(child.stdin.take());
            self.crew.0.push(child);
        }
    }

    /// Lets one that waits connect; it stays until all are dropped.
    pub fn call(&mut self) -> Visit {
        // From the middle: in no order that a search could share.
        let mut waiting = self.waiting.swap_remove(self.waiting.len() / 2);
        waiting.write_all(b".").expect("it listens");
        self.visit()
    }

    /// One that connects, stays for `life`, closes and exits.
    pub fn pass(&mut self, life: Duration) {
        self.crew.0.push(start(&format!("visitor {}", life.as_millis()), &self.writer));
    }

    /// One that connects and stays until all are dropped.
    pub fn stay(&mut self) -> Visit {
        self.crew.0.push(start("client", &self.writer));
        self.visit()
    }

    fn visit(&mut self) -> Visit {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line from the client");
        Visit::parse(&line)
    }

    /// Waits for all that pass; what they told.
    pub fn finish(self) -> Vec<Visit> {
        let Self { reader, writer, mut crew, waiting: _ } = self;
        drop(writer);
        for child in &mut crew.0 {
            child.wait().expect("a child to wait for");
        }
        reader.lines().map(|line| Visit::parse(&line.expect("a line"))).collect()
    }
}

impl Visit {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        let mut next = || words.next().expect("three numbers");
        Self { pid: next() as u32, port: next() as u16, connected_ns: next() }
    }
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

fn client(life: Option<Duration>) {
    let stream = TcpStream::connect(SSH).expect("the server on port 22");
    let connected_ns = figures::monotonic_ns();
    let port = stream.local_addr().expect("its address").port();
    stand(&format!("{} {port} {connected_ns}", std::process::id()));
    match life {
        Some(life) => std::thread::sleep(life),
        None => forever(),
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
