//! From a program's call of connect(2) to the line about it in a reader's hands; of those that tell ends, from `close`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::figures::{self, Spread, number};
use crate::goals::Goal;
use crate::load::{Crew, Visit, Visits};
use crate::plan::Plan;
use crate::roles::Closes;
use crate::tables::Table;
use crate::tellers::{self, Teller, Tells, Told};
use crate::watch::Who;

const LIFE: Duration = Duration::from_millis(5);

const AT_MOST_MS: f64 = 1.0;

/// Lines, and when they came.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<(u64, String)>>>);

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread of its own stamps each as it arrives.
    fn follow(&self, pipe: impl std::io::Read + Send + 'static) {
        let lines = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.lock().push((figures::monotonic_ns(), line));
            }
        });
    }
}

struct Outcome {
    ms: Spread,
    right: usize,
    wrong: usize,
    percent: f64,
}

pub fn run(plan: &Plan) -> Vec<Goal> {
    let _load = [Crew::server(), Crew::sleeping(100)];
    let title = format!(
        "From connect(2) to the line that tells it, ms: {} connections of {} ms, a process each",
        plan.recalls,
        LIFE.as_millis()
    );
    let head = ["", "from", "told", "right process", "wrong", "p50", "p99", "max", "% of a core"];
    let mut table = Table::new(&title, head.map(str::to_owned));
    let mut goal: Option<Goal> = None;
    for teller in tellers::of_connections() {
        eprintln!("latency: {}", teller.name);
        let Some(outcome) = visit_all(&teller, plan) else { continue };
        let Outcome { ms, right, wrong, percent } = &outcome;
        let from = if teller.tells == Tells::End { "close" } else { "connect" };
        let quantiles = [ms.median(), ms.quantile(0.99), ms.quantile(1.0)].map(number);
        let cells = [from.to_owned(), ms.count().to_string(), right.to_string(), wrong.to_string()];
        table.row(&teller.name, cells.into_iter().chain(quantiles).chain([number(*percent)]));
        goal = reach(goal, &teller, ms.median());
    }
    table.print(plan.markdown);
    tellers::print_missing();
    goal.into_iter().collect()
}

/// The first of each kind, of those that tell openings.
fn reach(goal: Option<Goal>, teller: &Teller, ms: f64) -> Option<Goal> {
    match (goal, teller.who()?) {
        (None, Who::Portreeve) => {
            let what = "from connect(2) to the record, ebpf: p50, ms";
            Some(Goal::new(what, &AT_MOST_MS.to_string(), number(ms), ms <= AT_MOST_MS))
        }
        (Some(goal), who) if who != Who::Portreeve && teller.tells == Tells::Opening => {
            Some(goal.beside(who, number(ms)))
        }
        (goal, _) => goal,
    }
}

fn visit_all(teller: &Teller, plan: &Plan) -> Option<Outcome> {
    let (pipe, stdout) = std::io::pipe().expect("a pipe");
    let lines = Lines::default();
    lines.follow(pipe);
    let heard = |ports: &[u16]| {
        let is_one = |(_, line): &(u64, String)| {
            Told::read(line).is_some_and(|told| ports.contains(&told.near.port()))
        };
        lines.lock().iter().any(is_one)
    };
    let started = teller.start(Stdio::from(stdout), heard);
    let mut standing = started.inspect_err(|error| eprintln!("{}: {error}", teller.name)).ok()?;
    std::thread::sleep(Duration::from_millis(500));
    standing.running.settle();
    let mut visits = Visits::new();
    for index in 0..plan.recalls as u64 {
        visits.pass(LIFE, Closes::Server);
        // At uneven times, so that they fall anywhere between two ticks.
        std::thread::sleep(Duration::from_millis(10 + (index * 17) % 20));
    }
    let visits = visits.finish();
    std::thread::sleep(Duration::from_secs(1));
    let percent = standing.running.stop().map_or(f64::NAN, |cost| cost.percent);
    Some(judge(teller.tells, &visits, &lines.lock(), percent))
}

fn judge(tells: Tells, visits: &[Visit], lines: &[(u64, String)], percent: f64) -> Outcome {
    let mut first: HashMap<u16, (u64, Option<u32>)> = HashMap::new();
    for (at, told) in lines.iter().filter_map(|(at, line)| Some((*at, Told::read(line)?))) {
        first.entry(told.near.port()).or_insert((at, told.pid));
    }
    let (mut ms, mut right, mut wrong) = (Vec::new(), 0, 0);
    for visit in visits {
        let Some((at, pid)) = first.get(&visit.port) else { continue };
        let from = if tells == Tells::End { visit.closing_ns } else { visit.connecting_ns };
        ms.push(at.saturating_sub(from) as f64 / 1e6);
        match pid {
            Some(pid) if *pid == visit.pid => right += 1,
            Some(_) => wrong += 1,
            None => {}
        }
    }
    Outcome { ms: Spread::of(ms), right, wrong, percent }
}
