//! How soon the owner of a new connection is known: processes born to connect, on machines with many others.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::figures::{self, Spread, number};
use crate::floors;
use crate::load::{Crew, Visit, Visits};
use crate::plan::Plan;
use crate::tables::{Table, head};
use crate::watch;

/// What portreeve made of the newborn connections of one run.
struct Births {
    /// From its first sight of the socket to the owner, as it says itself.
    latency_ms: Spread,
    /// From `connect` having returned to the record in our hands: the wait for the next tick included.
    record_ms: Spread,
    attributed: usize,
    born: usize,
    /// CPU time for one open: reading the tables, finding the owner, its ancestors, the record.
    cpu_ms: f64,
}

pub fn run(plan: &Plan) {
    let mut columns = Vec::new();
    for &processes in &plan.processes {
        eprintln!("newborn: P = {processes}");
        let _load = [Crew::ssh(), Crew::sleeping(processes), Crew::holding(100)];
        let births = births(plan.newborns);
        columns.push((births, one_shots(plan.looks.min(5))));
    }
    let title = "Owner of a newborn process's connection, in ms, by processes with 10 to 12 descriptors each";
    let mut table = Table::new(title, head("", "P", &plan.processes));
    let mut row = |name: &str, cell: &dyn Fn(&Births) -> String| {
        table.row(name, columns.iter().map(|(births, _)| cell(births)));
    };
    row("portreeve: first sight to owner, median", &|births| number(births.latency_ms.median()));
    row("portreeve: first sight to owner, p99", &|births| number(births.latency_ms.quantile(0.99)));
    row("portreeve: first sight to owner, max", &|births| number(births.latency_ms.quantile(1.0)));
    row("portreeve: connect to record out, median", &|births| number(births.record_ms.median()));
    row("portreeve: connect to record out, p99", &|births| number(births.record_ms.quantile(0.99)));
    row("portreeve: CPU for one open", &|births| number(births.cpu_ms));
    row("portreeve: right owner named", &|births| format!("{} of {}", births.attributed, births.born));
    for (index, (name, _)) in columns[0].1.iter().enumerate() {
        table.row(name, columns.iter().map(|(_, shots)| shots[index].1.show()));
    }
    table.print(plan.markdown);
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

fn births(count: usize) -> Births {
    let mut running = watch::portreeve().start(Stdio::piped());
    let out = running.child.stdout.take().expect("a pipe");
    // A thread of its own stamps each record when it arrives.
    let records = std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.map(|line| (figures::monotonic_ns(), line)).collect::<Vec<_>>()
    });
    std::thread::sleep(Duration::from_secs(1));
    running.settle();
    let mut visits = Visits::new();
    let begun = std::time::Instant::now();
    let born: Vec<Visit> = (0..count).map(|index| visit(&mut visits, index)).collect();
    std::thread::sleep(Duration::from_millis(300));
    let seconds = begun.elapsed().as_secs_f64();
    let cost = running.stop();
    drop(visits);
    let records = records.join().expect("the reading thread");
    let cpu_ms = cost.map_or(f64::NAN, |cost| cost.percent / 100.0 * seconds * 1e3 / count as f64);
    judge(&born, &records, cpu_ms)
}

/// Births come at uneven times, so that they fall anywhere between two ticks.
fn visit(visits: &mut Visits, index: usize) -> Visit {
    std::thread::sleep(Duration::from_millis(70 + (index as u64 * 17) % 50));
    visits.stay()
}

fn judge(born: &[Visit], records: &[(u64, String)], cpu_ms: f64) -> Births {
    let opens: HashMap<u64, (u64, Value)> = records.iter().filter_map(|(at, line)| open(*at, line)).collect();
    let (mut latency, mut record, mut attributed) = (Vec::new(), Vec::new(), 0);
    for visit in born {
        let Some((at, value)) = opens.get(&u64::from(visit.port)) else { continue };
        record.push(at.saturating_sub(visit.connected_ns) as f64 / 1e6);
        if value.pointer("/process/pid").and_then(Value::as_u64) == Some(u64::from(visit.pid)) {
            attributed += 1;
            let latency_us = value.pointer("/portreeve/attribution/latency_us").and_then(Value::as_f64);
            latency.extend(latency_us.map(|us| us / 1e3));
        }
    }
    Births {
        latency_ms: Spread::of(latency),
        record_ms: Spread::of(record),
        attributed,
        born: born.len(),
        cpu_ms,
    }
}

/// Source port, time of arrival and record, if this line opens a connection.
pub fn open(at: u64, line: &str) -> Option<(u64, (u64, Value))> {
    let value: Value = serde_json::from_str(line).ok()?;
    let action = value.pointer("/event/action")?.as_str()?;
    let port = value.pointer("/source/port")?.as_u64()?;
    (action == "connection-opened").then_some((port, (at, value)))
}
