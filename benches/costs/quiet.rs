//! CPU of watchers while nothing happens: what a machine pays day and night.

use std::time::Duration;

use crate::figures::{Spread, number};
use crate::load::Crew;
use crate::plan::Plan;
use crate::tables::{Table, head};
use crate::watch::{self, Cost, Kind, Watcher};

/// Sockets beside the growing number of processes.
const SOCKETS: usize = 1_000;

pub fn by_sockets(plan: &Plan) {
    let exe = std::env::current_exe().expect("this program's own path");
    let exe = exe.to_str().expect("a path in UTF-8");
    let mut watchers = vec![
        Watcher::resident("bare timer, 20 Hz", [exe, "role", "timer"]),
        Watcher::resident("bare counters, 20 Hz", [exe, "role", "gate"]),
        watch::portreeve(),
    ];
    watchers.extend(peers(&["ss", "ssp", "tcpspy", "lsof"]));
    let mut costs = Vec::new();
    for &rows in &plan.sockets {
        eprintln!("quiet: N = {rows}");
        let _load = [Crew::ssh(), Crew::sleeping(100), Crew::holding(rows)];
        costs.push(measure(&watchers, plan));
    }
    let title = "Quiet, 100 processes, 5 connections to port 22: % of one core, by rows in the socket tables";
    print(title, head("", "N", &plan.sockets), &watchers, &costs, plan);
}

pub fn by_processes(plan: &Plan) {
    let mut watchers = vec![watch::portreeve()];
    watchers.extend(peers(&["ssp", "tcpspy", "lsof"]));
    let mut costs = Vec::new();
    for &processes in &plan.processes {
        eprintln!("processes: P = {processes}");
        let _load = [Crew::ssh(), Crew::sleeping(processes), Crew::holding(SOCKETS)];
        costs.push(measure(&watchers, plan));
    }
    let title = "Quiet, 1,000 socket rows, 5 connections to port 22: % of one core, by processes";
    print(title, head("", "P", &plan.processes), &watchers, &costs, plan);
}

/// Those of the peers that are installed.
fn peers(wanted: &[&str]) -> Vec<Watcher> {
    let all = [
        ("ss", "ss", Watcher::looping("ss -Htn dport = 22; sleep .05", "ss -Htn dport = 22")),
        ("ssp", "ss", Watcher::looping("ss -Htnp dport = 22; sleep .05", "ss -Htnp dport = 22")),
        ("tcpspy", "tcpspy", watch::tcpspy()),
        ("lsof", "lsof", Watcher::looping("lsof -Pn -i :22; sleep .05", "lsof -Pn -i :22")),
    ];
    let is_wanted = |key, program| wanted.contains(&key) && watch::installed(program);
    all.into_iter()
        .filter(|(key, program, _)| is_wanted(*key, program))
        .map(|(.., watcher)| watcher)
        .collect()
}

/// For each watcher what it used, several times for those whose cost is small enough for noise to matter.
fn measure(watchers: &[Watcher], plan: &Plan) -> Vec<Vec<Cost>> {
    // What starting the load left to do: closing files, freeing memory.
    std::thread::sleep(Duration::from_millis(500));
    let mut costs: Vec<Vec<Cost>> = watchers.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.repeats {
        for (watcher, costs) in watchers.iter().zip(&mut costs) {
            let cheap = watcher.kind == Kind::Resident && watcher.name != watch::TCPSPY;
            if round == 0 || cheap {
                // portreeve reads the tables unasked every few seconds: its time must hold some of these reads.
                let time = if watcher.name == watch::PORTREEVE { plan.watch * 3 } else { plan.watch };
                costs.extend(watcher.cost(time));
            }
        }
    }
    costs
}

fn print(title: &str, head: Vec<String>, watchers: &[Watcher], costs: &[Vec<Vec<Cost>>], plan: &Plan) {
    let mut used = Table::new(title, head.clone());
    let mut pace = Table::new("The same runs: looks a second (loops), wakeups a second (the others)", head);
    for (index, watcher) in watchers.iter().enumerate() {
        let runs = || costs.iter().map(|column| &column[index]);
        used.row(
            watcher.name,
            runs().map(|runs| Spread::of(runs.iter().map(|run| run.percent).collect()).show()),
        );
        let beat = |run: &Cost| run.wakeups_per_s.or(run.looks_per_s);
        let median = |runs: &Vec<Cost>| number(Spread::of(runs.iter().filter_map(beat).collect()).median());
        pace.row(watcher.name, runs().map(median));
    }
    used.print(plan.markdown);
    pace.print(plan.markdown);
}
