//! Short connections: which share a watcher sees, and for which it names the right process.

use std::collections::HashMap;
use std::time::Duration;

use crate::figures::{Spread, number};
use crate::goals::Goal;
use crate::load::{Crew, Visit, Visits};
use crate::plan::Plan;
use crate::records::Record;
use crate::roles::Closes;
use crate::tables::Table;
use crate::watch::{self, Log, Rights, Watcher, Who};

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

#[derive(Default)]
struct Score {
    made: usize,
    /// From `connect` having returned to `close`: the median.
    life_ms: f64,
    seen: usize,
    alive: usize,
    owned: usize,
    wrong: usize,
}

pub fn run(plan: &Plan) -> Vec<Goal> {
    let _load = [Crew::ssh(), Crew::sleeping(100), Crew::holding(100)];
    let blind = watch::portreeve_with(Rights::Root, &["--events", "none"]);
    let service = || watch::portreeve_with(Rights::Ptrace, &[]).filter(|_| !plan.quick);
    let own = [
        (Some(watch::portreeve()), Closes::Client),
        (watch::portreeve_with(Rights::PtraceRaw, &[]), Closes::Client),
        (service(), Closes::Client),
        (blind, Closes::Client),
        (Some(watch::portreeve()), Closes::Server),
        (service(), Closes::Server),
    ];
    let peers: &[Who] = if plan.quick { &[] } else { &watch::NAMING };
    let peers = watch::peers(peers).into_iter().map(|peer| (peer, Closes::Client));
    let floor = Watcher::floor("bare tap for SYNs, lookup, probing [root]", "tap");
    let floors = [(floor, Closes::Client)];
    let candidates =
        own.into_iter().filter_map(|(watcher, closes)| Some((watcher?, closes))).chain(floors).chain(peers);
    let title = format!(
        "Short connections, {} of each lifetime, a process each: seen / seen alive / right owner named",
        plan.recalls
    );
    let lifetimes = plan.lifetimes_us.iter().map(|us| format!("{} ms", *us as f64 / 1e3));
    let head = ["", "closed by"].map(str::to_owned).into_iter().chain(lifetimes);
    let mut table = Table::new(&title, head.chain(["wrong owner", "% of one core"].map(str::to_owned)));
    let mut outcomes: Vec<(Who, Vec<Score>)> = Vec::new();
    for (watcher, closes) in candidates {
        eprintln!("recall: {}, closed by the {}", watcher.name, closes.word());
        let (scores, percent) = visit_all(&watcher, closes, plan);
        let wrong = scores.iter().map(|score| score.wrong).sum::<usize>();
        let cells =
            scores.iter().map(|Score { seen, alive, owned, .. }| format!("{seen} / {alive} / {owned}"));
        let first = std::iter::once(closes.word().to_owned());
        table.row(&watcher.name, first.chain(cells).chain([wrong.to_string(), number(percent)]));
        outcomes.push((watcher.who, scores));
    }
    let lives = outcomes[0].1.iter().map(|score| number(score.life_ms));
    table.row("(real lifetime of the first row, median, ms)", std::iter::once(String::new()).chain(lives));
    table.print(plan.markdown);
    goals(&outcomes, plan)
}

/// portreeve as it comes as root is the first of the outcomes.
fn goals(outcomes: &[(Who, Vec<Score>)], plan: &Plan) -> Vec<Goal> {
    let mut goals = Vec::new();
    let one = |what: String, share: f64, bound: &str, index: usize, of: fn(&Score) -> usize| {
        let cell = |score: &Score| format!("{} of {}", of(score), score.made);
        let own = &outcomes[0].1[index];
        let reached = of(own) as f64 >= share * own.made as f64;
        let peers = outcomes.iter().filter(|(who, _)| *who != Who::Portreeve);
        let goal = Goal::new(what, bound, cell(own), reached);
        peers.fold(goal, |goal, (who, scores)| goal.beside(*who, cell(&scores[index])))
    };
    for (index, us) in plan.lifetimes_us.iter().enumerate() {
        let life = format!("connections of {} ms", *us as f64 / 1e3);
        let (share, bound) = if *us < 1_000 { (0.85, "≥ 85 %") } else { (0.99, "≥ 99 %") };
        goals.push(one(format!("{life}: seen"), 1.0, "100 %", index, |score| score.seen));
        goals.push(one(format!("{life}: right owner named"), share, bound, index, |score| score.owned));
    }
    goals
}

fn visit_all(watcher: &Watcher, closes: Closes, plan: &Plan) -> (Vec<Score>, f64) {
    let log = Log::new();
    let mut running = watcher.start(log.stdout());
    std::thread::sleep(Duration::from_secs(1));
    running.settle();
    let visit = |us: &u64| visit(Duration::from_micros(*us), plan.recalls, closes);
    let visits: Vec<Vec<Visit>> = plan.lifetimes_us.iter().map(visit).collect();
    std::thread::sleep(Duration::from_millis(300));
    let percent = running.stop().map_or(f64::NAN, |cost| cost.percent);
    let mut sights: HashMap<u16, Sight> = HashMap::new();
    for (port, sight) in read(watcher.who, &log.read()) {
        let known = sights.entry(port).or_default();
        known.alive |= sight.alive;
        known.owner = known.owner.take().or(sight.owner);
    }
    (visits.iter().map(|visits| score(visits, &sights)).collect(), percent)
}

/// One connection every 5 to 35 ms: at any moment between two ticks.
fn visit(life: Duration, count: usize, closes: Closes) -> Vec<Visit> {
    let mut visits = Visits::new();
    for index in 0..count as u64 {
        std::thread::sleep(Duration::from_millis(5 + (index * 17) % 31));
        visits.pass(life, closes);
    }
    visits.finish()
}

/// What a watcher's output says.
fn read(who: Who, text: &str) -> Vec<(u16, Sight)> {
    match who {
        Who::Ss | Who::SsP => read_ss(text),
        Who::Lsof => read_lsof(text),
        Who::Tcpspy => read_tcpspy(text),
        Who::Portreeve => read_portreeve(text),
        Who::Floor => read_tap(text),
        // Not among the peers of this section.
        Who::Tracer | Who::Conntrack => Vec::new(),
    }
}

fn score(visits: &[Visit], sights: &HashMap<u16, Sight>) -> Score {
    let life = |visit: &Visit| (visit.closing_ns - visit.connected_ns) as f64 / 1e6;
    let life_ms = Spread::of(visits.iter().map(life).collect()).median();
    let mut score = Score { made: visits.len(), life_ms, ..Score::default() };
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

/// `40000 7`, the process 0 where none was found.
fn read_tap(text: &str) -> Vec<(u16, Sight)> {
    let row = |line: &str| {
        let (port, pid) = line.split_once(' ')?;
        let owner = Some(pid.parse().ok()?).filter(|pid| *pid != 0).map(Owner::Process);
        Some((port.parse().ok()?, Sight { alive: true, owner }))
    };
    text.lines().filter_map(row).collect()
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
