//! Memory and size.

use std::fs;
use std::time::Duration;

use crate::figures::{number, thousands};
use crate::goals::Goal;
use crate::load::Crew;
use crate::plan::Plan;
use crate::tables::Table;
use crate::watch::{self, Log, Rights, Watcher};

const IDLE_MIB: f64 = 6.0;

pub fn run(plan: &Plan) -> Vec<Goal> {
    let _ssh = [Crew::ssh(), Crew::sleeping(100)];
    let mut table = Table::new("Memory and size, MiB", ["", "now", "peak"].map(str::to_owned));
    eprintln!("memory: idle");
    let (idle, peak) = row(&mut table, &watch::portreeve(), 5, plan);
    let service = watch::portreeve_with(Rights::Ptrace, &[]).filter(|_| !plan.quick);
    if let Some(watcher) = service {
        row(&mut table, &watcher, 5, plan);
    }
    eprintln!("memory: {} connections", plan.followed);
    // Both ends are on this machine, and one of them is the one that connected.
    let _many = Crew::holding(2 * plan.followed);
    if let Some(watcher) = watch::portreeve_with(Rights::Root, &["--ports", "all"]) {
        // And the five to port 22.
        row(&mut table, &watcher, plan.followed + 5, plan);
    }
    let size = fs::metadata(watch::EXECUTABLE).map_or(f64::NAN, |file| mib(file.len() / 1_024));
    table.row("the program's file, release build", [number(size), "-".to_owned()]);
    table.print(plan.markdown);
    let measured = format!("{} (peak {})", number(idle), number(peak));
    vec![Goal::new("resident memory, idle, MiB", &IDLE_MIB.to_string(), measured, idle <= IDLE_MIB)]
}

fn row(table: &mut Table, watcher: &Watcher, opens: usize, plan: &Plan) -> (f64, f64) {
    let (now, peak) = resident(watcher, opens, plan);
    let name = format!("{}, following {} connections", watcher.name, thousands(opens as u64));
    table.row(&name, [number(now), number(peak)]);
    (now, peak)
}

/// Resident memory once its log has come to rest, and the most that it ever was.
fn resident(watcher: &Watcher, opens: usize, plan: &Plan) -> (f64, f64) {
    let log = Log::new();
    let running = watcher.start(log.stdout());
    let (mut length, mut still) = (0, 0);
    for _ in 0..120 {
        std::thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut length, log.length());
        still = if before == length { still + 1 } else { 0 };
        if still == plan.still {
            break;
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap_or_default();
    running.stop();
    let opened = log.lines().filter(|line| line.contains("\"connection-opened\"")).count();
    if opened != opens {
        eprintln!("memory: {opened} opens logged, {opens} expected");
    }
    (resident_mib(&status), peak_mib(&status))
}

/// The most that a process ever had resident, by its `status`.
pub fn peak_mib(status: &str) -> f64 {
    kib(status, "VmHWM:").map_or(f64::NAN, mib)
}

/// What it has resident now.
pub fn resident_mib(status: &str) -> f64 {
    kib(status, "VmRSS:").map_or(f64::NAN, mib)
}

fn kib(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}
