//! What was asked for, and how much of everything that means.

use std::time::Duration;

use crate::cage::Pids;

const USAGE: &str = "\
cargo bench --bench costs -- [--quick] [--markdown] [SECTION...]   (root, or sudo asks)

  quiet      CPU of watchers while nothing happens, by number of sockets
  processes  the same, by number of processes
  active     CPU of watchers while connections open in every tick
  forks      CPU of watchers while processes come and go and nothing connects
  look       one look at the tables: bare system calls, portreeve's reading, ss, lsof
  newborn    how soon the owner of a new connection is known, by number of processes
  origin     what it costs to know where a connection comes from, by number of sockets
  memory     resident memory, binary size
  recall     which share of short connections is seen, and attributed
  flood      10,000 connections a second: what is told, memory, pace
  verify     checking a log of a million records
  flows      UDP: one reading of many flows, and CPU of watchers beside them
  ebpf       the four below: they need a build with the feature ebpf, and run beside bpftrace, bcc and conntrack
  unwatched  what a watcher costs each connection and each UDP datagram that nobody watches
  latency    how soon a connection is told
  told       10,000 connections a second: what is told, and by whom they were made
  resident   resident memory once loaded, CPU while nothing happens
";

#[derive(Clone, Copy, PartialEq)]
pub enum Section {
    Quiet,
    Processes,
    Active,
    Forks,
    Look,
    Newborn,
    Origin,
    Memory,
    Recall,
    Flood,
    Verify,
    Flows,
    Unwatched,
    Latency,
    Told,
    Resident,
}

impl Section {
    /// The program in the kernel works in the machine's first namespace of processes alone.
    pub fn pids(self) -> Pids {
        if EBPF.contains(&self) || self == Self::Flows { Pids::First } else { Pids::Own }
    }
}

/// The sections of the source `ebpf`.
const EBPF: [Section; 4] = [Section::Unwatched, Section::Latency, Section::Told, Section::Resident];

const ALL: [(&str, Section); 16] = [
    ("quiet", Section::Quiet),
    ("processes", Section::Processes),
    ("active", Section::Active),
    ("forks", Section::Forks),
    ("look", Section::Look),
    ("newborn", Section::Newborn),
    ("origin", Section::Origin),
    ("memory", Section::Memory),
    ("recall", Section::Recall),
    ("flood", Section::Flood),
    ("verify", Section::Verify),
    ("flows", Section::Flows),
    ("unwatched", Section::Unwatched),
    ("latency", Section::Latency),
    ("told", Section::Told),
    ("resident", Section::Resident),
];

pub struct Plan {
    pub markdown: bool,
    /// portreeve as it comes and its floors, few others beside them.
    pub quick: bool,
    pub sections: Vec<Section>,
    /// Rows in the socket tables besides the five to port 22; a loopback connection is two.
    pub sockets: Vec<usize>,
    /// Processes besides the measuring and the socket holding ones.
    pub processes: Vec<usize>,
    /// How long one watcher runs, the first second not counted; portreeve three times as long where it is quiet.
    pub watch: Duration,
    /// Times that the cheap rows, which noise distorts most, are measured.
    pub repeats: usize,
    /// Times that one look is measured.
    pub looks: usize,
    /// Connections of newborn processes; half as many of the oldest ones.
    pub newborns: usize,
    pub lifetimes_us: Vec<u64>,
    /// Connections for each lifetime.
    pub recalls: usize,
    /// Rows in the socket tables while connections open.
    pub active_sockets: usize,
    /// How long the flood lasts.
    pub flood: Duration,
    /// A log has come to rest when nothing was written for so many seconds.
    pub still: u32,
    /// Records of the log that is checked.
    pub records: u64,
    /// Connections followed at once for the memory row.
    pub followed: usize,
    /// UDP flows, for one reading of them; of the last as many are watched.
    pub flows: Vec<usize>,
    /// Connections to a port that nobody watches, and times that each watcher is measured so.
    pub unwatched: usize,
    pub rounds: usize,
}

impl Plan {
    /// `None`: nothing to measure, because help was asked for, or `cargo test --benches` only tries the program.
    pub fn parse(args: &[String]) -> Result<Option<Self>, String> {
        let (mut plan, mut chosen, mut asked) = (Self::full(), Vec::new(), false);
        for arg in args {
            match arg.as_str() {
                "--bench" => asked = true,
                "--quick" => plan = Self { markdown: plan.markdown, ..Self::quick() },
                "--markdown" => plan.markdown = true,
                "--help" | "-h" => {
                    print!("{USAGE}");
                    return Ok(None);
                }
                "ebpf" => chosen.extend(EBPF),
                name => match ALL.iter().find(|(known, _)| *known == name) {
                    Some((_, section)) => chosen.push(*section),
                    None => return Err(format!("what is {name:?}?\n\n{USAGE}")),
                },
            }
        }
        if !chosen.is_empty() {
            plan.sections = chosen;
        }
        Ok(asked.then_some(plan))
    }

    fn full() -> Self {
        Self {
            markdown: false,
            quick: false,
            sections: ALL.iter().map(|(_, section)| *section).collect(),
            sockets: vec![100, 1_000, 10_000, 50_000],
            processes: vec![100, 1_000, 3_000],
            watch: Duration::from_secs(3),
            repeats: 2,
            looks: 21,
            newborns: 120,
            lifetimes_us: vec![200, 1_000, 5_000, 20_000, 100_000],
            active_sockets: 10_000,
            flood: Duration::from_secs(30),
            still: 6,
            recalls: 200,
            records: 1_000_000,
            followed: 50_000,
            flows: vec![100, 1_000, 10_000],
            unwatched: 20_000,
            rounds: 7,
        }
    }

    /// Without the section by processes: `newborn` tells what their number costs. Those of `ebpf` are named or left out: most of
    /// their time goes into starting peers.
    fn quick() -> Self {
        let full = Self::full();
        Self {
            sections: full
                .sections
                .iter()
                .copied()
                .filter(|section| *section != Section::Processes && !EBPF.contains(section))
                .collect(),
            quick: true,
            sockets: vec![10_000],
            processes: vec![1_000],
            watch: Duration::from_millis(600),
            repeats: 1,
            looks: 7,
            newborns: 8,
            lifetimes_us: vec![200, 5_000],
            flood: Duration::from_secs(3),
            still: 1,
            recalls: 20,
            records: 50_000,
            followed: 5_000,
            flows: vec![1_000],
            unwatched: 2_000,
            rounds: 2,
            ..full
        }
    }
}
