//! A clock that is set, and a watcher that is stopped: told once, and no duration, interval or order suffers.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lab;
use crate::story::{Log, SSH, closes_of, gaps, starts};
use crate::support::lab::Lab;
use crate::support::log::with_action;
use crate::support::output;

const HOUR: i64 = 3_600;

/// A clock that only the watcher sees.
struct Clock {
    library: PathBuf,
    set: PathBuf,
}

impl Clock {
    fn new(lab: &Lab) -> Self {
        let library = lab.path("clock.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/trust/clock.c");
        let built =
            output(Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source));
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let clock = Self { library, set: lab.path("clock") };
        clock.set(0);
        clock
    }

    fn set(&self, seconds: i64) {
        let new = self.set.with_extension("new");
        std::fs::write(&new, seconds.to_string()).unwrap();
        std::fs::rename(new, &self.set).unwrap();
    }

    /// The watcher with this clock.
    fn watcher(&self, lab: &Lab) -> Command {
        let mut command = lab.portreeve();
        command.env("LD_PRELOAD", &self.library).env("CLOCK_SET", &self.set);
        command
    }
}

fn wall(record: &Value) -> Timestamp {
    record["@timestamp"].as_str().unwrap().parse().unwrap()
}

fn boot_us(record: &Value) -> i64 {
    record["portreeve"]["boottime_us"].as_i64().unwrap()
}

/// Every record that bears the time of another clock than the one before it is `clock-stepped` and tells by how much, or
/// begins a run; answers the steps in seconds.
fn steps(records: &[Value]) -> Vec<i64> {
    let mut steps = Vec::new();
    for pair in records.windows(2) {
        let by = wall(&pair[1]).as_microsecond() - wall(&pair[0]).as_microsecond();
        let by = by - (boot_us(&pair[1]) - boot_us(&pair[0]));
        let action = pair[1]["event"]["action"].as_str().unwrap();
        let begins = ["log-opened", "watch-started"].contains(&action);
        let told = pair[1]["portreeve"]["clock"]["by_us"].as_i64();
        if let Some(told) = told {
            steps.push((told + told.signum() * 500_000) / 1_000_000);
        }
        let is_told = told.is_some_and(|told| (told - by).abs() < 300_000);
        assert!(
            by.abs() < 300_000 || is_told || begins,
            "{by} us: {} {}",
            pair[0]["message"],
            pair[1]["message"]
        );
    }
    steps
}

#[test]
fn a_clock_that_is_set_is_told_once_and_durations_intervals_and_ids_stand() {
    let lab = lab!("cc");
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let clock = Clock::new(&lab);
    let run = log.run_as(&mut clock.watcher(&lab));
    let mut pairs = Vec::new();
    for set in [0, -HOUR, HOUR, HOUR, 0] {
        clock.set(set);
        std::thread::sleep(Duration::from_millis(300));
        pairs.push(log.connect(&lab, &server));
    }
    clock.set(-HOUR);
    std::thread::sleep(Duration::from_millis(300));
    let ports: Vec<_> = pairs.iter().map(|pair| pair.port).collect();
    drop(pairs);
    log.wait_actions("connection-closed", 5);
    run.stop();
    let records = log.story();
    assert_eq!(steps(&records), [-HOUR, 2 * HOUR, -HOUR, -HOUR]);
    for (port, number) in ports.into_iter().zip(0..) {
        let close = closes_of(&records, port).remove(0);
        let lasted = Duration::from_nanos(close["event"]["duration"].as_u64().unwrap());
        let least = Duration::from_millis(300 * (5 - number));
        println!("{lasted:?} {}", close["portreeve"]["close"]);
        assert!(lasted > least && lasted < least + Duration::from_secs(3), "{lasted:?} and not {least:?}");
        let (seen, by) = (&close["portreeve"]["close"]["last_seen"], &close["portreeve"]["close"]["gone_by"]);
        assert!(seen.as_str() <= by.as_str(), "{}", close["portreeve"]["close"]);
    }
    let ids: Vec<_> = with_action(&records, "connection-opened")
        .iter()
        .map(|open| open["portreeve"]["connection"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(gaps(&records, "stalled"), [] as [Value; 0]);
}

#[test]
fn a_clock_that_was_set_back_between_two_runs_is_told_and_ids_go_on_rising() {
    let lab = lab!("cc");
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let clock = Clock::new(&lab);
    let run = log.run_as(&mut clock.watcher(&lab));
    let (stays, ends) = (log.connect(&lab, &server), log.connect(&lab, &server));
    run.kill();
    clock.set(-24 * HOUR);
    let port = ends.port;
    drop(ends);
    let run = log.run_as(&mut clock.watcher(&lab));
    let close = log.wait("the end meanwhile", |records| closes_of(records, port).pop());
    let new = log.connect(&lab, &server);
    drop((stays, new));
    log.wait_actions("connection-closed", 3);
    run.stop();
    let records = log.story();
    assert_eq!(starts(&records)[1]["stream"], "continued");
    assert_eq!(steps(&records), [-24 * HOUR]);
    let gap = gaps(&records, "not_watching").remove(0);
    println!("{gap}\n{}", close["portreeve"]["close"]);
    assert!(gap["from"].as_str() <= gap["to"].as_str(), "{gap}");
    let told = &close["portreeve"]["close"];
    assert!(told["last_seen"].as_str() <= told["gone_by"].as_str(), "{told}");
}

#[test]
fn a_watcher_that_was_stopped_says_for_how_long_it_saw_nothing() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let ends = log.connect(&lab, &server);
    run.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(500));
    drop(ends);
    std::thread::sleep(Duration::from_millis(2_500));
    run.signal(Signal::CONT);
    log.wait_actions("connection-closed", 1);
    run.stop();
    let records = log.story();
    let stalled = gaps(&records, "stalled");
    let [from, to] =
        ["from", "to"].map(|end| stalled[0][end].as_str().unwrap().parse::<Timestamp>().unwrap());
    let lasted = to.duration_since(from).as_secs_f64();
    println!("{lasted} s");
    assert!(stalled.len() == 1 && (2.9..4.5).contains(&lasted), "{stalled:?}");
    assert_eq!(gaps(&records, "suspended"), [] as [Value; 0]);
    assert_eq!(json!([] as [i64; 0]), json!(steps(&records)), "no clock was set");
}
