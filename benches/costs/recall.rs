//! Short connections: which share a watcher sees, and for which it names the right process.

use std::collections::HashMap;
use std::time::Duration;

use crate::figures::number;
use crate::load::{Crew, Visit, Visits};
use crate::newborn::Record;
use crate::plan::Plan;
use crate::tables::Table;
use crate::watch::{self, Log, Watcher};

/// What a watcher said of a connection, by its local port.
#[derive(Default)]
struct Sight {
    alive: bool,
    owner: Option<Owner>,
}

#[derive(PartialEq)]
enum Owner {
    Process(u32),
    /// The beginning of its program's path: all that tcpspy tells.
    Program(String),
}

/// Reads a watcher's output.
type Reader = fn(&str) -> Vec<(u16, Sight)>;

#[derive(Default)]
struct Score {
    seen: usize,
    alive: usize,
    owned: usize,
    wrong: usize,
}

pub fn run(plan: &Plan) {
    let _load = [Crew::ssh(), Crew::sleeping(100), Crew::holding(100)];
    let mut candidates: Vec<(Watcher, Reader)> = vec![(watch::portreeve(), read_portreeve)];
    if watch::installed("ss") {
        candidates.push((Watcher::looping("ss -Htnp; sleep .05", "ss -Htnp dport = 22"), read_ss));
    }
    if watch::installed("lsof") {
        candidates.push((Watcher::looping("lsof -Pn -i :22; sleep .05", "lsof -Pn -i :22"), read_lsof));
    }
    if watch::installed("tcpspy") {
        candidates.push((watch::tcpspy(), read_tcpspy));
    }
    let title = format!(
        "Short connections, {} of each lifetime: seen / seen alive / right owner named",
        plan.recalls
    );
    let lifetimes = plan.lifetimes_ms.iter().map(|ms| format!("{ms} ms"));
    let head = std::iter::once(String::new())
        .chain(lifetimes)
        .chain(["wrong owner", "% of one core"].map(str::to_owned));
    let mut table = Table::new(&title, head);
    for (watcher, read) in candidates {
        eprintln!("recall: {}", watcher.name);
        let (scores, percent) = visit_all(&watcher, read, plan);
        let wrong = scores.iter().map(|score| score.wrong).sum::<usize>();
        let cells =
            scores.iter().map(|Score { seen, alive, owned, .. }| format!("{seen} / {alive} / {owned}"));
        table.row(watcher.name, cells.chain([wrong.to_string(), number(percent)]));
    }
    table.print(plan.markdown);
}

fn visit_all(watcher: &Watcher, read: Reader, plan: &Plan) -> (Vec<Score>, f64) {
    let log = Log::new();
    let mut running = watcher.start(log.stdout());
    std::thread::sleep(Duration::from_secs(1));
    running.settle();
    let visits: Vec<Vec<Visit>> = plan.lifetimes_ms.iter().map(|ms| visit(*ms, plan.recalls)).collect();
    std::thread::sleep(Duration::from_millis(300));
    let percent = running.stop().map_or(f64::NAN, |cost| cost.percent);
    let mut sights: HashMap<u16, Sight> = HashMap::new();
    for (port, sight) in read(&log.read()) {
        let known = sights.entry(port).or_default();
        known.alive |= sight.alive;
        known.owner = known.owner.take().or(sight.owner);
    }
    (visits.iter().map(|visits| score(visits, &sights)).collect(), percent)
}

/// One connection every 40 to 90 ms: fewer than ticks, at any moment between two of them.
fn visit(lifetime_ms: u64, count: usize) -> Vec<Visit> {
    let mut visits = Visits::new();
    for index in 0..count as u64 {
        std::thread::sleep(Duration::from_millis(40 + (index * 17) % 50));
        visits.pass(Duration::from_millis(lifetime_ms));
    }
    visits.finish()
}

fn score(visits: &[Visit], sights: &HashMap<u16, Sight>) -> Score {
    let mut score = Score::default();
    let exe = std::env::current_exe().expect("this program's own path");
    let exe = exe.to_string_lossy();
    for (visit, sight) in visits.iter().filter_map(|visit| Some((visit, sights.get(&visit.port)?))) {
        score.seen += 1;
        score.alive += usize::from(sight.alive);
        let right = sight.owner.as_ref().map(|owner| match owner {
            Owner::Process(pid) => *pid == visit.pid,
            Owner::Program(path) => exe.starts_with(path),
        });
        score.owned += usize::from(right == Some(true));
        score.wrong += usize::from(right == Some(false));
    }
    score
}

fn read_portreeve(text: &str) -> Vec<(u16, Sight)> {
    let records = text.lines().filter_map(Record::parse);
    let sight = |Record { port, pid, alive, .. }| (port, Sight { alive, owner: pid.map(Owner::Process) });
    records.map(sight).collect()
}

/// `ESTAB 0 0 127.0.0.1:40000 127.0.0.1:22 users:(("costs",pid=7,fd=3))`
fn read_ss(text: &str) -> Vec<(u16, Sight)> {
    let row = |line: &str| {
        let port = line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok()?;
        let pid = line.split_once("pid=").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        Some((port, Sight { alive: true, owner: pid.map(Owner::Process) }))
    };
    text.lines().filter_map(row).collect()
}

/// `costs 7 root 3u IPv4 99 0t0 TCP 127.0.0.1:40000->127.0.0.1:22 (ESTABLISHED)`
fn read_lsof(text: &str) -> Vec<(u16, Sight)> {
    let row = |line: &str| {
        let (local, remote) = line.split_once("->")?;
        let pid = local.split_whitespace().nth(1)?.parse().ok()?;
        let port = local.rsplit_once(':')?.1.parse().ok()?;
        remote.contains(":22 ").then_some((port, Sight { alive: true, owner: Some(Owner::Process(pid)) }))
    };
    text.lines().filter_map(row).collect()
}

/// `Nov 20 16:12:07: connect: proc /usr/bin/ssh, user root, local 127.0.0.1:40000, remote 127.0.0.1:ssh`
fn read_tcpspy(text: &str) -> Vec<(u16, Sight)> {
    let row = |line: &str| {
        let (_, fields) = line.split_once(": connect: proc ")?;
        let (path, rest) = fields.split_once(", user ")?;
        let local = rest.split_once("local ")?.1.split(',').next()?;
        let port = local.rsplit_once(':')?.1.parse().ok()?;
        let owner = path.starts_with('/').then(|| Owner::Program(path.to_owned()));
        Some((port, Sight { alive: true, owner }))
    };
    text.lines().filter_map(row).collect()
}
