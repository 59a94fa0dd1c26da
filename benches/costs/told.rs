//! A flood, by the sources that hear of each connection, and beside the peers that do.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use crate::figures::{number, thousands};
use crate::flood::{PER_S, missing};
use crate::goals::Goal;
use crate::load::{Crew, Flood};
use crate::memory::peak_mib;
use crate::plan::Plan;
use crate::records::Tally;
use crate::roles::Closes;
use crate::tables::Table;
use crate::tellers::{self, Teller, Told};
use crate::watch::{Cost, EXECUTABLE, Log, Who};

struct Outcome {
    made: u64,
    cost: Option<Cost>,
    peak_mib: f64,
    log: Log,
}

pub fn run(plan: &Plan) -> Vec<Goal> {
    let _ssh = Crew::server();
    let time = plan.flood / 3;
    let title = format!(
        "A flood, told: {} connections a second, 10 ms each, {} s, ended by a reset",
        thousands(PER_S),
        time.as_secs()
    );
    let head = [
        "",
        "made",
        "told with owner",
        "told",
        "twice",
        "in gaps",
        "in neither",
        "missed at most",
        "% of a core",
        "peak MiB",
        "portreeve verify",
    ];
    let mut table = Table::new(&title, head.map(str::to_owned));
    let mut goal: Option<Goal> = None;
    for teller in tellers::of_connections() {
        eprintln!("told: {}", teller.name);
        let Some(outcome) = flood(&teller, time) else { continue };
        if teller.who() == Some(Who::Portreeve) {
            let unaccounted = own(&mut table, &teller, &outcome);
            if goal.is_none() {
                let what =
                    format!("flood of {} connections/s, ebpf: neither logged nor in a gap", thousands(PER_S));
                goal = Some(Goal::new(what, "0", missing(unaccounted), unaccounted <= 0));
            }
        } else {
            let lost = peer(&mut table, &teller, &outcome);
            let cell = format!("{lost} of {}", thousands(outcome.made));
            goal = goal.map(|goal| teller.who().map_or_else(|| unreachable!(), |who| goal.beside(who, cell)));
        }
    }
    table.print(plan.markdown);
    tellers::print_missing();
    goal.into_iter().collect()
}

fn flood(teller: &Teller, time: Duration) -> Option<Outcome> {
    let log = Log::new();
    let started = teller.start_into(&log);
    let mut standing = started.inspect_err(|error| eprintln!("{}: {error}", teller.name)).ok()?;
    std::thread::sleep(Duration::from_secs(1));
    standing.running.settle();
    let made = Flood::start(PER_S, time, Closes::Reset).finish();
    // What it still has to say.
    std::thread::sleep(Duration::from_secs(3));
    let status =
        fs::read_to_string(format!("/proc/{}/status", standing.running.child.id())).unwrap_or_default();
    Some(Outcome { made, cost: standing.running.stop(), peak_mib: peak_mib(&status), log })
}

fn share(outcome: &Outcome) -> String {
    outcome.cost.map_or_else(|| "ended by itself".to_owned(), |cost| number(cost.percent))
}

fn own(table: &mut Table, teller: &Teller, outcome: &Outcome) -> i128 {
    // The knocks before the flood are told too: they go to another address.
    let is_other = |line: &str| line.contains("\"destination\":{\"ip\":\"127.0.0.1\"");
    let tally = Tally::of(outcome.log.lines().filter(|line| !is_other(line)));
    let unaccounted = i128::from(outcome.made) - i128::from(tally.opened - tally.twice + tally.counted());
    let causes = tally.gaps.iter().map(|(cause, count)| format!("{cause} {}", thousands(*count)));
    let causes: Vec<String> = causes.collect();
    let cells = [
        thousands(outcome.made),
        thousands(tally.owned),
        thousands(tally.opened - tally.twice),
        thousands(tally.twice),
        if causes.is_empty() { "0".to_owned() } else { causes.join(", ") },
        missing(unaccounted),
        tally.missed_at_most.map_or_else(|| "-".to_owned(), thousands),
        share(outcome),
        number(outcome.peak_mib),
        verify(&outcome.log),
    ];
    table.row(&teller.name, cells);
    unaccounted
}

/// How many it did not tell. With owner are those whose process it names.
fn peer(table: &mut Table, teller: &Teller, outcome: &Outcome) -> String {
    let is_flood = |told: &Told| matches!(told.far.ip(), IpAddr::V4(ip) if ip.octets()[2] != 0);
    let told = outcome.log.lines().filter_map(|line| Told::read(&line)).filter(is_flood);
    let (mut seen, mut owned) = (HashSet::new(), HashSet::new());
    for told in told {
        if told.pid.is_some_and(|pid| pid != 0) {
            owned.insert((told.near, told.far));
        }
        seen.insert((told.near, told.far));
    }
    let lost = missing(i128::from(outcome.made) - seen.len() as i128);
    let cells = [
        thousands(outcome.made),
        thousands(owned.len() as u64),
        thousands(seen.len() as u64),
        "-".to_owned(),
        "-".to_owned(),
        lost.clone(),
        "-".to_owned(),
        share(outcome),
        number(outcome.peak_mib),
        "-".to_owned(),
    ];
    table.row(&teller.name, cells);
    lost
}

/// What `portreeve verify` makes of the log.
fn verify(log: &Log) -> String {
    let output = Command::new(EXECUTABLE).arg("verify").arg(log.path()).output().expect("portreeve verify");
    if output.status.success() {
        return "good".to_owned();
    }
    eprintln!("{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    format!("exit {}", output.status.code().unwrap_or(-1))
}
