//! More connections than can be told one by one: what is said of the rest, and whether memory and pace hold.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use crate::figures::{number, thousands};
use crate::goals::Goal;
use crate::load::{Flood, LISTENERS};
use crate::memory::peak_mib;
use crate::plan::Plan;
use crate::records::Tally;
use crate::roles::Closes;
use crate::tables::Table;
use crate::watch::{self, Cost, Log, Rights, Watcher, Who};

pub const PER_S: u64 = 10_000;

const MEMORY_MIB: f64 = 64.0;

/// Half an interval late at most, 99 times of 100: then the loop has kept its pace.
const PACE_MS: f64 = 75.0;

struct Outcome {
    made: u64,
    seconds: f64,
    cost: Option<Cost>,
    peak_mib: f64,
    log: Log,
}

pub fn run(plan: &Plan) -> Vec<Goal> {
    let title =
        format!("A flood: {} connections a second, 10 ms each, {} s", thousands(PER_S), plan.flood.as_secs());
    let head = [
        "",
        "closed by",
        "made / s",
        "made",
        "opened",
        "twice",
        "closed",
        "in gaps",
        "unaccounted",
        "missed at most",
        "peak MiB",
        "interval p99 ms",
        "max ms",
        "late",
        "% of a core",
    ];
    let mut table = Table::new(&title, head.map(str::to_owned));
    let mut runs = vec![own(&mut table, &watch::portreeve(), Closes::Reset, plan)];
    if let Some(service) = watch::portreeve_with(Rights::Ptrace, &[]).filter(|_| !plan.quick) {
        runs.push(own(&mut table, &service, Closes::Reset, plan));
    }
    let beside = others(&mut table, plan);
    if !plan.quick {
        // The last, because of the TIME_WAITs that it leaves for a minute.
        runs.push(own(&mut table, &watch::portreeve(), Closes::Client, plan));
    }
    table.print(plan.markdown);
    goals(&runs, beside, plan)
}

/// What portreeve is held to, of one run.
struct Reached {
    unaccounted: i128,
    peak_mib: f64,
    p99_ms: Option<f64>,
}

/// Of the worst run.
fn goals(runs: &[Reached], beside: Vec<(Who, String)>, plan: &Plan) -> Vec<Goal> {
    let what = format!("flood of {} connections/s for {} s", thousands(PER_S), plan.flood.as_secs());
    let unaccounted = runs.iter().map(|run| run.unaccounted).max().unwrap_or(0);
    let peak = runs.iter().map(|run| run.peak_mib).fold(0.0, f64::max);
    // A run that does not tell its pace has not kept it.
    let paces: Option<Vec<f64>> = runs.iter().map(|run| run.p99_ms).collect();
    let pace = paces.map(|paces| paces.into_iter().fold(0.0, f64::max));
    let silent = Goal::new(
        format!("{what}: neither logged nor in a gap"),
        "0",
        missing(unaccounted),
        unaccounted <= 0,
    );
    let memory = Goal::new(
        format!("{what}: peak memory, MiB"),
        &MEMORY_MIB.to_string(),
        number(peak),
        peak <= MEMORY_MIB,
    );
    let pace = Goal::new(
        format!("{what}: interval of the polls, p99, ms"),
        &PACE_MS.to_string(),
        pace.map_or_else(|| "not told".to_owned(), number),
        pace.is_some_and(|ms| ms <= PACE_MS),
    );
    let silent = beside.into_iter().fold(silent, |goal, (who, missed)| goal.beside(who, missed));
    vec![silent, memory, pace]
}

/// A gap counts what was lost, notices for instance: two of one connection count twice.
pub fn missing(unaccounted: i128) -> String {
    match u64::try_from(unaccounted) {
        Ok(missing) => thousands(missing),
        Err(_) => format!("0 (over by {})", thousands(unaccounted.unsigned_abs() as u64)),
    }
}

fn flood(watcher: &Watcher, closes: Closes, time: Duration) -> Outcome {
    eprintln!("flood: {}, closed by {}", watcher.name, closes.word());
    let log = Log::new();
    let mut running = watcher.start(log.stdout());
    std::thread::sleep(Duration::from_secs(1));
    running.settle();
    let made = Flood::start(PER_S, time, closes).finish();
    // What it still has to say, and some ticks without a flood.
    std::thread::sleep(Duration::from_secs(2));
    let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap_or_default();
    Outcome { made, seconds: time.as_secs_f64(), cost: running.stop(), peak_mib: peak_mib(&status), log }
}

fn own(table: &mut Table, watcher: &Watcher, closes: Closes, plan: &Plan) -> Reached {
    let Outcome { made, seconds, cost, peak_mib, log } = flood(watcher, closes, plan.flood);
    let tally = Tally::of(log.lines());
    let known = tally.opened - tally.twice + tally.counted();
    let unaccounted = made as i128 - i128::from(known);
    let causes = tally.gaps.iter().map(|(cause, count)| format!("{cause} {}", thousands(*count)));
    let causes: Vec<String> = causes.collect();
    let count = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), thousands);
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    let cells = vec![
        closes.word().to_owned(),
        number(made as f64 / seconds),
        thousands(made),
        thousands(tally.opened - tally.twice),
        thousands(tally.twice),
        thousands(tally.closed),
        if causes.is_empty() { "0".to_owned() } else { causes.join(", ") },
        missing(unaccounted),
        count(tally.missed_at_most),
        number(peak_mib),
        figure(tally.interval_p99_ms),
        figure(tally.interval_max_ms),
        count(tally.late),
        figure(cost.map(|cost| cost.percent)),
    ];
    table.row(&watcher.name, cells);
    Reached { unaccounted, peak_mib, p99_ms: tally.interval_p99_ms }
}

/// A bare reader of the kernel's notices, and the peers for a third of the time: what they print of connections.
fn others(table: &mut Table, plan: &Plan) -> Vec<(Who, String)> {
    let mut beside = Vec::new();
    let time = plan.flood / 3;
    let mut watchers = vec![Watcher::floor("bare reading of notices of ends", "notices")];
    if !plan.quick {
        watchers.extend(watch::peers(&watch::NAMING));
    }
    for watcher in watchers {
        let Outcome { made, seconds, cost, peak_mib, log } = flood(&watcher, Closes::Reset, time);
        let seen = match watcher.who {
            // Both ends are here, and the kernel tells of each, and of the listeners.
            Who::Floor => {
                let notices = log.lines().last().and_then(|line| line.parse::<u64>().ok()).unwrap_or(0);
                notices.saturating_sub(LISTENERS) / 2
            }
            who => shown(who, log.lines()),
        };
        let unaccounted = made as i128 - i128::from(seen);
        let mut cells = vec!["-".to_owned(); 14];
        cells[0] = Closes::Reset.word().to_owned();
        cells[1] = number(made as f64 / seconds);
        cells[2] = thousands(made);
        cells[3] = thousands(seen);
        cells[7] = missing(unaccounted);
        if watcher.who == Who::Floor || watcher.who == Who::Tcpspy {
            cells[9] = number(peak_mib);
        }
        cells[13] = cost.map_or_else(|| "-".to_owned(), |cost| number(cost.percent));
        table.row(&watcher.name, cells);
        beside.push((watcher.who, format!("{} of {}", missing(unaccounted), thousands(made))));
    }
    beside
}

/// How many connections a peer shows: different pairs of addresses.
fn shown(who: Who, lines: impl Iterator<Item = String>) -> u64 {
    let pair = |line: String| match who {
        Who::SsP => line.split_whitespace().skip(3).take(2).map(str::to_owned).reduce(|a, b| a + " " + &b),
        Who::Lsof => line
            .split_whitespace()
            .find(|word| word.contains("->") && !word.contains(":22->"))
            .map(str::to_owned),
        _ => line.split_once(" local ").map(|(_, pair)| pair.to_owned()),
    };
    lines.filter_map(pair).collect::<HashSet<String>>().len() as u64
}
