//! How soon the owner of a new connection is known, on machines with many processes: newborn ones, which is what
//! an `ssh` is, and for the worst case those that are older than all others.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::diag::{Diag, Rows};
use crate::figures::{self, Spread, number, thousands};
use crate::goals::Goal;
use crate::load::{Crew, Visit, Visits};
use crate::plan::Plan;
use crate::records::Record;
use crate::tables::{Table, head};
use crate::watch::{self, Who};
use crate::{cage, floors};

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

pub fn run(plan: &Plan) -> Vec<Goal> {
    let columns: Vec<Column> = plan.processes.iter().map(|processes| column(*processes, plan)).collect();
    let title = "Owner of a new connection, in ms, by processes with 10 to 12 descriptors each";
    let mut table = Table::new(title, head("", "P", &plan.processes));
    rows(&mut table, "newborn process", columns.iter().map(|column| &column.newborn).collect());
    rows(
        &mut table,
        "newborn after a wrap of the pids",
        columns.iter().map(|column| &column.wrapped).collect(),
    );
    rows(&mut table, "oldest process", columns.iter().filter_map(|column| column.oldest.as_ref()).collect());
    for (index, shot) in columns[0].shots.iter().enumerate() {
        table.row(shot.name, columns.iter().map(|column| column.shots[index].ms.show()));
    }
    table.print(plan.markdown);
    let (Some(processes), Some(column)) = (plan.processes.last(), columns.last()) else { return Vec::new() };
    let what = format!("newborn owner, {} processes", thousands(*processes as u64));
    [
        goals(&what, &column.newborn, &column.shots),
        goals(&format!("{what}, pids wrapped"), &column.wrapped, &[]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Numbers left between those of the processes that stand and the last, for all that is started before the wrap.
const SPARE: u64 = 1_000;

fn column(processes: usize, plan: &Plan) -> Column {
    eprintln!("newborn: P = {processes}");
    // Those that stand have the highest numbers, so that after the wrap all who are born have lower ones.
    let last = cage::pid_max() - 1;
    cage::next_pid(last - SPARE - processes as u64);
    let mut old = Visits::new();
    let _ssh = Crew::ssh();
    old.prepare(plan.newborns / 2);
    let _load = [Crew::sleeping(processes), Crew::holding(100)];
    let mut new = Visits::new();
    let shots = one_shots(plan.looks.min(5), || new.stay());
    let oldest = (!plan.quick).then(|| opens(plan.newborns / 2, || old.call()));
    let newborn = opens(plan.newborns, || new.stay());
    let mut born = 0;
    let wrapped = opens(plan.newborns, || {
        if born == 0 {
            cage::next_pid(last);
        }
        born += 1;
        new.stay()
    });
    Column { newborn, wrapped, oldest, shots }
}

/// The peers tell no latency: their CPU time for one search stands beside.
fn goals(what: &str, opens: &Opens, shots: &[Shot]) -> [Goal; 2] {
    let (p50, p99) = (opens.latency_ms.median(), opens.latency_ms.quantile(0.99));
    // Without an owner there is no latency: such a run has not reached anything.
    let owned = opens.at_once + opens.later == opens.made;
    let goal = Goal::new(format!("{what}: p50, ms"), "0.3", number(p50), owned && p50 <= 0.3);
    let p50 = shots.iter().fold(goal, |goal, shot| goal.beside(shot.who, number(shot.ms.median())));
    [p50, Goal::new(format!("{what}: p99, ms"), "5", number(p99), owned && p99 <= 5.0)]
}

/// All for one number of processes.
struct Column {
    newborn: Opens,
    wrapped: Opens,
    /// Not in a quick run.
    oldest: Option<Opens>,
    shots: Vec<Shot>,
}

/// CPU time of one search by others.
struct Shot {
    name: &'static str,
    who: Who,
    ms: Spread,
}

fn rows(table: &mut Table, who: &str, columns: Vec<&Opens>) {
    if columns.is_empty() {
        return;
    }
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

fn one_shots(times: usize, mut connect: impl FnMut() -> Visit) -> Vec<Shot> {
    let (mut diag, mut rows) = (Diag::open(), Vec::new());
    let probe = Spread::repeat(times, |_| {
        let visit = connect();
        diag.walk(Rows::To(22), &mut rows);
        let key = rows.iter().find(|key| key.local_port() == visit.port).expect("it stands");
        let mut found = None;
        let ms = figures::cpu_us(|| found = floors::probe_downwards(key.inode)) / 1e3;
        assert_eq!(found, Some(visit.pid), "the last pid leads to it");
        ms
    });
    let walk = floors::walk_ms(times);
    let mut shots = vec![
        Shot { name: "bare walk over all /proc/*/fd, CPU", who: Who::Floor, ms: walk },
        // Of the two the goals show the last.
        Shot { name: "bare probing downwards from the last pid, CPU", who: Who::Floor, ms: probe },
    ];
    for (name, who, argv) in [
        ("ss -Htnp dport = 22, CPU", Who::SsP, &["ss", "-Htnp", "dport = 22"][..]),
        ("lsof -Pn -i :22, CPU", Who::Lsof, &["lsof", "-Pn", "-i", ":22"]),
    ] {
        if watch::installed(argv[0]) {
            let ms = Spread::repeat(times, |_| floors::run_us(argv) / 1e3);
            shots.push(Shot { name, who, ms });
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
