//! CPU of watchers while much happens: connections in every tick, and forks without any connection.

use std::fs;
use std::time::{Duration, Instant};

use crate::cage;
use crate::figures::number;
use crate::goals::Goal;
use crate::load::{Callers, Crew};
use crate::plan::Plan;
use crate::quiet::{Costs, measure, percent, print, share};
use crate::watch::{self, Rights, Watcher, Who};

const CONNECTIONS_PER_S: u64 = 100;

/// Each is seen alive by four ticks.
const LIFE: Duration = Duration::from_millis(200);

const FORKS_PER_S: u64 = 1_000;

/// What a kernel allows where nothing else is said is more than any run leaves.
const TIME_WAITS: u64 = 131_072;

pub fn active(plan: &Plan) -> Vec<Goal> {
    let mut watchers =
        vec![Watcher::floor("bare counters, one walk, lookups, 20 Hz", "looker"), watch::portreeve()];
    if !plan.quick {
        watchers.extend(watch::portreeve_with(Rights::Ptrace, &[]));
        watchers.extend(watch::portreeve_with(Rights::Root, &["--source", "procfs", "--events", "none"]));
        watchers.extend(watch::peers(&watch::NAMING));
    }
    let loads = [("one process", Callers::One), ("a process each", Callers::Many)];
    // Connections close in good order and leave nothing: with TIME_WAIT each row measured would find more rows to
    // read than the one before it.
    cage::sysctl("net/ipv4/tcp_max_tw_buckets", 0);
    let mut columns = Vec::new();
    for (name, callers) in loads {
        eprintln!("active: {name}");
        let _load = [Crew::ssh(), Crew::sleeping(100), Crew::holding(plan.active_sockets)];
        let _busy = Crew::calling(callers, CONNECTIONS_PER_S, LIFE);
        columns.push(measure(&watchers, plan, |_| plan.watch * 2));
    }
    cage::sysctl("net/ipv4/tcp_max_tw_buckets", TIME_WAITS);
    let title = format!(
        "Active in every tick: {CONNECTIONS_PER_S} connections a second to port 22, each for {} ms, {} rows in the \
         socket tables: % of one core, by who connects",
        LIFE.as_millis(),
        crate::figures::thousands(plan.active_sockets as u64),
    );
    let head: Vec<String> = ["", loads[0].0, loads[1].0].map(str::to_owned).to_vec();
    print(&title, &head, &watchers, &columns, plan);
    loads.iter().zip(&columns).flat_map(|((load, _), costs)| active_goals(load, &watchers, costs)).collect()
}

fn active_goals(load: &str, watchers: &[Watcher], costs: &Costs) -> [Goal; 2] {
    let what = format!("{CONNECTIONS_PER_S} connections/s from {load}");
    let [floor, own, ..] = costs.as_slice() else { unreachable!("the first two rows always stand") };
    let times = percent(own).median() / percent(floor).median();
    [
        share(format!("{what}: % of a core"), 3.0, watchers, costs),
        Goal::new(format!("{what}: times the bare calls"), "1.5", number(times), times <= 1.5)
            .beside(Who::Floor, "1".to_owned()),
    ]
}

pub fn forks(plan: &Plan) -> Vec<Goal> {
    let mut watchers = vec![Watcher::floor("bare counters, 20 Hz", "gate"), watch::portreeve()];
    watchers.extend(watch::portreeve_with(Rights::Root, &["--netns", "own"]));
    if !plan.quick {
        watchers.extend(watch::portreeve_with(Rights::Ptrace, &[]));
        watchers.extend(watch::peers(&watch::NAMING));
    }
    eprintln!("forks");
    let _load = [Crew::ssh(), Crew::sleeping(100), Crew::holding(100)];
    let _busy = Crew::forking(FORKS_PER_S);
    let rate = forks_per_s(Duration::from_secs(1));
    let costs = measure(&watchers, plan, |_| plan.watch * 2);
    let title = format!("{} forks a second (measured) and no connection: % of one core", number(rate));
    print(
        &title,
        &["".to_owned(), "% of one core".to_owned()],
        &watchers,
        std::slice::from_ref(&costs),
        plan,
    );
    vec![share(format!("{} forks/s, no connection: % of a core", number(rate)), 0.5, &watchers, &costs)]
}

/// Of the whole machine: processes and threads.
fn forks_per_s(time: Duration) -> f64 {
    let count = || {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("processes "));
        line.and_then(|number| number.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let (before, begun) = (count(), Instant::now());
    std::thread::sleep(time);
    (count() - before) / begun.elapsed().as_secs_f64()
}
