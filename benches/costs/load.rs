//! The load: processes that hold sockets, that only stand there, or that connect to port 22.
//!
//! All are this program under another name (`roles`).

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::roles::{Closes, PAIRS, PLACES};

/// Who makes connection after connection.
#[derive(Clone, Copy)]
pub enum Callers {
    /// One process that stays.
    One,
    /// A new process for each.
    Many,
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

    /// UDP sockets connected to this port, where nobody listens.
    pub fn flowing(flows: usize, port: u16) -> Self {
        let holders = (0..flows).step_by(PAIRS).map(|from| PAIRS.min(flows - from));
        Self::of(holders.map(|flows| format!("flowing {flows} {port}")))
    }

    /// So many new UDP flows a second to port 22, each held for `life`.
    pub fn sending(per_second: u64, life: Duration) -> Self {
        Self::of([format!("sender {per_second} {}", life.as_micros())])
    }

    /// A listener on port 22.
    pub fn server() -> Self {
        Self::of(["server".to_owned()])
    }

    /// A listener on port 22 and five processes connected to it.
    pub fn ssh() -> Self {
        let mut crew = Self::server();
        crew.0.append(&mut Self::of(vec!["client".to_owned(); 5]).0);
        crew
    }

    /// So many connections a second, each held for `life`.
    pub fn calling(callers: Callers, per_second: u64, life: Duration) -> Self {
        let role = match callers {
            Callers::One => "caller",
            Callers::Many => "spawner",
        };
        Self::of([format!("{role} {per_second} {}", life.as_micros())])
    }

    /// Forks so many times a second; its children end at once.
    pub fn forking(per_second: u64) -> Self {
        Self::of([format!("forker {per_second}")])
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
    /// CLOCK_MONOTONIC before `connect`.
    pub connecting_ns: u64,
    /// When it had returned.
    pub connected_ns: u64,
    /// And before `close`; the same for those that stay.
    pub closing_ns: u64,
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

    /// One that connects, stays for `life`, closes and exits. From a port that no other had: it tells them apart.
    pub fn pass(&mut self, life: Duration, closes: Closes) {
        static PORTS: AtomicU16 = AtomicU16::new(10_000);
        let port = PORTS.fetch_add(1, Ordering::Relaxed);
        let role = format!("visitor {} {} {port}", life.as_micros(), closes.word());
        self.crew.0.push(start(&role, &self.writer));
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
        let mut next = || words.next().expect("five numbers");
        Self {
            pid: next() as u32,
            port: next() as u16,
            connecting_ns: next(),
            connected_ns: next(),
            closing_ns: next(),
        }
    }
}

/// Processes that open and close connections to port 22 as fast as they are told to.
pub struct Flood {
    reader: BufReader<PipeReader>,
    _crew: Crew,
}

/// Processes that share a flood.
const FLOODERS: u64 = 4;

/// Listening sockets of a flood.
pub const LISTENERS: u64 = FLOODERS * PLACES as u64;

impl Flood {
    pub fn start(per_second: u64, time: Duration, closes: Closes) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let (rate, time, how) = (per_second / FLOODERS, time.as_millis(), closes.word());
        let start = |index| start(&format!("flooder {index} {rate} {time} {how}"), &writer);
        let crew = Crew((0..FLOODERS).map(start).collect());
        Self { reader: BufReader::new(reader), _crew: crew }
    }

    /// Waits for its end: how many connections were made.
    pub fn finish(self) -> u64 {
        let made = |line: std::io::Result<String>| line.expect("a line").parse::<u64>().expect("a number");
        let made: Vec<u64> = self.reader.lines().map(made).collect();
        assert_eq!(made.len() as u64, FLOODERS, "some of the flood broke off");
        made.iter().sum()
    }
}
