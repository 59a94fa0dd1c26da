//! Memory and size.

use std::fs;
use std::time::Duration;

use crate::figures::{number, thousands};
use crate::load::Crew;
use crate::plan::Plan;
use crate::tables::Table;
use crate::watch::{self, Log, Watcher};

pub fn run(plan: &Plan) {
    let _ssh = [Crew::ssh(), Crew::sleeping(100)];
    let mut table = Table::new("Memory and size, MiB", ["", "now", "peak"].map(str::to_owned));
    eprintln!("memory: idle");
    table.row("resident, following 5 connections", resident(&watch::portreeve(), 5));
    eprintln!("memory: {} connections", plan.followed);
    // Both ends are on this machine, and one of them is the one that connected.
    let _many = Crew::holding(2 * plan.followed);
    let name = format!("resident, following {} connections", thousands(plan.followed as u64));
    // And the five to port 22.
    table.row(&name, resident(&watch::portreeve_on_all_ports(), plan.followed + 5));
    let size = fs::metadata(watch::EXECUTABLE).map_or(f64::NAN, |file| mib(file.len() / 1_024));
    table.row("the program's file, release build", [number(size), "-".to_owned()]);
    table.print(plan.markdown);
}

/// A log has come to rest when nothing was written for so many seconds.
const STILL: u32 = 6;

/// Resident memory once its log has come to rest, and the most that it ever was.
fn resident(watcher: &Watcher, opens: usize) -> [String; 2] {
    let log = Log::new();
    let running = watcher.start(log.stdout());
    let (mut length, mut still) = (0, 0);
    for _ in 0..120 {
        std::thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut length, log.length());
        still = if before == length { still + 1 } else { 0 };
        if still == STILL {
            break;
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap_or_default();
    running.stop();
    let opened = log.read().matches("\"connection-opened\"").count();
    if opened != opens {
        eprintln!("memory: {opened} opens logged, {opens} expected");
    }
    ["VmRSS:", "VmHWM:"].map(|name| number(kib(&status, name).map_or(f64::NAN, mib)))
}

fn kib(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}
