//! How soon the owner of a new connection is known, on machines with many processes: newborn ones, which is what
//! an `ssh` is, and for the worst case those that are older than all others.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::figures::{self, Spread, number};
use crate::floors;
use crate::load::{Crew, Visit, Visits};
use crate::plan::Plan;
use crate::tables::{Table, head};
use crate::watch;

/// What portreeve made of the new connections of one run.
struct Opens {
    /// From its first sight of the socket to the owner, as it says itself.
    latency_ms: Spread,
    /// From `connect` having returned to the record in our hands: the wait for the next tick included.
    record_ms: Spread,
    /// Right owner in the record of the open, and in one that followed.
    at_once: usize,
    later: usize,
    made: usize,
    /// CPU time for one open: reading the tables, finding the owner, its ancestors, the record.
    cpu_ms: f64,
}

pub fn run(plan: &Plan) {
    let mut columns = Vec::new();
    for &processes in &plan.processes {
        eprintln!("newborn: P = {processes}");
        let mut old = Visits::new();
        let _ssh = Crew::ssh();
        old.prepare(plan.newborns / 2);
        let _load = [Crew::sleeping(processes), Crew::holding(100)];
        let shots = one_shots(plan.looks.min(5));
        let oldest = opens(plan.newborns / 2, || old.call());
        let mut new = Visits::new();
        columns.push(Column { newborn: opens(plan.newborns, || new.stay()), oldest, shots });
    }
    let title = "Owner of a new connection, in ms, by processes with 10 to 12 descriptors each";
    let mut table = Table::new(title, head("", "P", &plan.processes));
    rows(&mut table, "newborn process", columns.iter().map(|column| &column.newborn).collect());
    rows(&mut table, "oldest process", columns.iter().map(|column| &column.oldest).collect());
    for (index, (name, _)) in columns[0].shots.iter().enumerate() {
        table.row(name, columns.iter().map(|column| column.shots[index].1.show()));
    }
    table.print(plan.markdown);
}

/// All for one number of processes.
struct Column {
    newborn: Opens,
    oldest: Opens,
    shots: Vec<(&'static str, Spread)>,
}

fn rows(table: &mut Table, who: &str, columns: Vec<&Opens>) {
    let mut row = |name: &str, cell: &dyn Fn(&Opens) -> String| {
        table.row(&format!("portreeve, {who}: {name}"), columns.iter().map(|opens| cell(opens)));
    };
    row("first sight to owner, median", &|opens| number(opens.latency_ms.median()));
    row("first sight to owner, p99", &|opens| number(opens.latency_ms.quantile(0.99)));
    row("first sight to owner, max", &|opens| number(opens.latency_ms.quantile(1.0)));
    row("connect to record out, median", &|opens| number(opens.record_ms.median()));
    row("connect to record out, p99", &|opens| number(opens.record_ms.quantile(0.99)));
    row("CPU for one open", &|opens| number(opens.cpu_ms));
    row("right owner named at once", &|opens| format!("{} of {}", opens.at_once, opens.made));
    row("right owner named later", &|opens| format!("{} of {}", opens.later, opens.made));
}

/// CPU time of one search by others.
fn one_shots(times: usize) -> Vec<(&'static str, Spread)> {
    let mut shots = vec![("bare walk over all /proc/*/fd, CPU", floors::walk_ms(times))];
    for (name, argv) in [
        ("ss -Htnp dport = 22, CPU", &["ss", "-Htnp", "dport = 22"][..]),
        ("lsof -Pn -i :22, CPU", &["lsof", "-Pn", "-i", ":22"]),
    ] {
        if watch::installed(argv[0]) {
            shots.push((name, Spread::repeat(times, |_| floors::run_us(argv) / 1e3)));
        }
    }
    shots
}

/// Connections at uneven times, so that they fall anywhere between two ticks.
fn opens(count: usize, mut connect: impl FnMut() -> Visit) -> Opens {
    let mut running = watch::portreeve().start(Stdio::piped());
    let out = running.child.stdout.take().expect("a pipe");
    // A thread of its own stamps each record when it arrives.
    let records = std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.map(|line| (figures::monotonic_ns(), line)).collect::<Vec<_>>()
    });
    std::thread::sleep(Duration::from_secs(1));
    running.settle();
    let begun = Instant::now();
    let mut made = Vec::new();
    for index in 0..count as u64 {
        std::thread::sleep(Duration::from_millis(70 + (index * 17) % 50));
        made.push(connect());
    }
    // Time for searches that take more than one tick.
    std::thread::sleep(Duration::from_secs(2));
    let seconds = begun.elapsed().as_secs_f64();
    let cost = running.stop();
    let records = records.join().expect("the reading thread");
    let cpu_ms = cost.map_or(f64::NAN, |cost| cost.percent / 100.0 * seconds * 1e3 / count as f64);
    judge(&made, &records, cpu_ms)
}

fn judge(made: &[Visit], arrivals: &[(u64, String)], cpu_ms: f64) -> Opens {
    let mut records: HashMap<u16, Vec<(u64, Record)>> = HashMap::new();
    for (at, record) in arrivals.iter().filter_map(|(at, line)| Some((*at, Record::parse(line)?))) {
        records.entry(record.port).or_default().push((at, record));
    }
    let (mut latency_ms, mut record_ms) = (Vec::new(), Vec::new());
    let (mut at_once, mut later) = (0, 0);
    for visit in made {
        let Some(records) = records.get(&visit.port) else { continue };
        record_ms.extend(records.first().map(|(at, _)| at.saturating_sub(visit.connected_ns) as f64 / 1e6));
        let Some(place) = records.iter().position(|(_, record)| record.pid == Some(visit.pid)) else {
            continue;
        };
        *(if place == 0 { &mut at_once } else { &mut later }) += 1;
        latency_ms.extend(records[place].1.latency_ms);
    }
    let (latency_ms, record_ms) = (Spread::of(latency_ms), Spread::of(record_ms));
    Opens { latency_ms, record_ms, at_once, later, made: made.len(), cpu_ms }
}

/// What matters here of a record about a connection.
pub struct Record {
    pub port: u16,
    pub pid: Option<u32>,
    pub alive: bool,
    latency_ms: Option<f64>,
}

impl Record {
    /// `None`: the record is about something else than a connection.
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let number = |path| value.pointer(path).and_then(Value::as_u64);
        Some(Self {
            port: number("/source/port")? as u16,
            pid: number("/process/pid").map(|pid| pid as u32),
            alive: value.pointer("/portreeve/connection/seen")? != "time_wait",
            latency_ms: number("/portreeve/attribution/latency_us").map(|us| us as f64 / 1e3),
        })
    }
}
