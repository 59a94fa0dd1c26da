//! What it takes to stand there: memory once loaded, and CPU while nothing connects.

use std::fs;

use crate::figures::number;
use crate::goals::Goal;
use crate::load::Crew;
use crate::memory::{peak_mib, resident_mib};
use crate::plan::Plan;
use crate::quiet::{Costs, percent};
use crate::tables::Table;
use crate::tellers::{self, Teller};
use crate::watch::{Cost, Log, Who};

const AT_MOST_MIB: f64 = 12.0;

pub fn run(plan: &Plan) -> Vec<Goal> {
    let _load = [Crew::ssh(), Crew::sleeping(100)];
    let title = "Loaded, and nothing connects: memory in MiB, % of one core";
    let head = ["", "resident", "peak", "% of a core", "wakeups / s"];
    let mut table = Table::new(title, head.map(str::to_owned));
    let (mut own, mut beside) = (None, Vec::new());
    for teller in tellers::all() {
        eprintln!("resident: {}", teller.name);
        let stays: Vec<(Cost, f64, f64)> = (0..plan.repeats).filter_map(|_| stay(&teller, plan)).collect();
        let Some((_, now, peak)) = stays.last() else { continue };
        let costs: Costs = vec![stays.iter().map(|(cost, ..)| *cost).collect()];
        let wakeups =
            stays.last().and_then(|(cost, ..)| cost.wakeups_per_s).map_or_else(|| "-".to_owned(), number);
        table.row(&teller.name, [number(*now), number(*peak), percent(&costs[0]).show(), wakeups]);
        match teller.who() {
            Some(Who::Portreeve) => own = own.or(Some(*now)),
            Some(who) => beside.push((who, number(*now))),
            None => {}
        }
    }
    table.print(plan.markdown);
    tellers::print_missing();
    let Some(own) = own else { return Vec::new() };
    let goal = Goal::new(
        "resident memory, ebpf loaded, MiB",
        &AT_MOST_MIB.to_string(),
        number(own),
        own <= AT_MOST_MIB,
    );
    vec![beside.into_iter().fold(goal, |goal, (who, mib)| goal.beside(who, mib))]
}

fn stay(teller: &Teller, plan: &Plan) -> Option<(Cost, f64, f64)> {
    let log = Log::new();
    let mut standing =
        teller.start_into(&log).inspect_err(|error| eprintln!("{}: {error}", teller.name)).ok()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    standing.running.settle();
    std::thread::sleep(plan.watch * 3);
    let status =
        fs::read_to_string(format!("/proc/{}/status", standing.running.child.id())).unwrap_or_default();
    Some((standing.running.stop()?, resident_mib(&status), peak_mib(&status)))
}
