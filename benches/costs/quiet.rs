//! CPU of watchers while nothing happens: what a machine pays day and night.

use std::time::Duration;

use crate::figures::{Spread, number};
use crate::goals::Goal;
use crate::load::Crew;
use crate::plan::Plan;
use crate::tables::{Table, head};
use crate::watch::{self, Cost, Rights, Watcher, Who};

/// Sockets beside the growing number of processes.
const SOCKETS: usize = 1_000;

/// What each watcher used, each time that it was measured.
pub type Costs = Vec<Vec<Cost>>;

pub fn by_sockets(plan: &Plan) -> Vec<Goal> {
    let mut watchers = vec![
        Watcher::floor("bare timer, 20 Hz", "timer"),
        Watcher::floor("bare counters, 20 Hz", "gate"),
        watch::portreeve(),
    ];
    if !plan.quick {
        watchers.extend(watch::portreeve_with(Rights::Root, &["--source", "procfs", "--events", "none"]));
        watchers.extend(watch::peers(&[Who::Ss]));
        watchers.extend(watch::peers(&watch::NAMING));
    }
    let mut columns = Vec::new();
    for &rows in &plan.sockets {
        eprintln!("quiet: N = {rows}");
        let _load = [Crew::ssh(), Crew::sleeping(100), Crew::holding(rows)];
        columns.push(quiet_costs(&watchers, plan));
    }
    let title = "Quiet, 100 processes, 5 connections to port 22: % of one core, by rows in the socket tables";
    print(title, &head("", "N", &plan.sockets), &watchers, &columns, plan);
    let ends = plan.sockets.iter().zip(&columns).enumerate();
    ends.filter(|(index, _)| [0, columns.len() - 1].contains(index))
        .map(|(_, (rows, costs))| {
            let what = format!("quiet, {} sockets: % of a core", crate::figures::thousands(*rows as u64));
            share(what, 0.3, &watchers, costs)
        })
        .collect()
}

pub fn by_processes(plan: &Plan) -> Vec<Goal> {
    let mut watchers = vec![watch::portreeve()];
    watchers.extend(watch::peers(&watch::NAMING));
    let mut columns = Vec::new();
    for &processes in &plan.processes {
        eprintln!("processes: P = {processes}");
        let _load = [Crew::ssh(), Crew::sleeping(processes), Crew::holding(SOCKETS)];
        columns.push(quiet_costs(&watchers, plan));
    }
    let title = "Quiet, 1,000 socket rows, 5 connections to port 22: % of one core, by processes";
    print(title, &head("", "P", &plan.processes), &watchers, &columns, plan);
    Vec::new()
}

fn quiet_costs(watchers: &[Watcher], plan: &Plan) -> Costs {
    // portreeve reads the tables unasked every few seconds: its time must hold some of these reads.
    measure(watchers, plan, |who| if who == Who::Portreeve { plan.watch * 3 } else { plan.watch })
}

/// For each watcher what it used, several times for those whose cost is small enough for noise to matter.
pub fn measure(watchers: &[Watcher], plan: &Plan, time: impl Fn(Who) -> Duration) -> Costs {
    // What starting the load left to do: closing files, freeing memory.
    std::thread::sleep(Duration::from_millis(500));
    let mut costs: Costs = watchers.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.repeats {
        for (watcher, costs) in watchers.iter().zip(&mut costs) {
            if round == 0 || watcher.who.is_cheap() {
                costs.extend(watcher.cost(time(watcher.who)));
            }
        }
    }
    costs
}

pub fn percent(runs: &[Cost]) -> Spread {
    Spread::of(runs.iter().map(|run| run.percent).collect())
}

/// The share of a core that portreeve as it comes took, beside those of the others.
pub fn share(what: String, at_most: f64, watchers: &[Watcher], costs: &Costs) -> Goal {
    let shares: Vec<(Who, f64)> =
        watchers.iter().zip(costs).map(|(watcher, runs)| (watcher.who, percent(runs).median())).collect();
    let own = shares.iter().find(|(who, _)| *who == Who::Portreeve).map_or(f64::NAN, |(_, share)| *share);
    let goal = Goal::new(what, &at_most.to_string(), number(own), own <= at_most);
    let others = shares.iter().filter(|(who, _)| *who != Who::Portreeve);
    others.fold(goal, |goal, (who, share)| goal.beside(*who, number(*share)))
}

/// One table of what was used, one of how often each looked.
pub fn print(title: &str, head: &[String], watchers: &[Watcher], columns: &[Costs], plan: &Plan) {
    let mut used = Table::new(title, head.to_vec());
    let pace = "The same runs: looks a second (loops), wakeups a second (the others)";
    let mut pace = Table::new(pace, head.to_vec());
    for (index, watcher) in watchers.iter().enumerate() {
        let runs = || columns.iter().map(|column| &column[index]);
        used.row(&watcher.name, runs().map(|runs| percent(runs).show()));
        let beat = |run: &Cost| run.wakeups_per_s.or(run.looks_per_s);
        let median = |runs: &Vec<Cost>| number(Spread::of(runs.iter().filter_map(beat).collect()).median());
        pace.row(&watcher.name, runs().map(median));
    }
    used.print(plan.markdown);
    pace.print(plan.markdown);
}
