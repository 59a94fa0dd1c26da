//! Under loads that anybody may make: the loop keeps its pace, another user's connection has its owner, memory is
//! bounded, and what was left out is said.
//!
//! A time is no criterion here but where failure would take ten times as long; the figures are printed.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, and tests own their clock and files"
)]

#[path = "../support/mod.rs"]
mod support;

/// What the watchers of these tests are told of their sources.
pub const SOURCES: &[&str] = &[];

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use support::lab::{Lab, NOBODY};
use support::log::with_action;
use support::output;
use support::watch::{Stopped, Watch};

/// All that the service has.
const SYS_PTRACE: [&str; 3] = ["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace", "--no-new-privs"];
/// Who makes the load, and who makes an ordinary connection.
const CROWD: u32 = 1;
const ALICE: u32 = 2;

/// One load at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A load that stands. All of its processes die with the first.
struct Crowd {
    first: Child,
    count: usize,
}

impl Crowd {
    fn start(lab: &Lab, user: u32, words: &[&str]) -> Self {
        let program = lab.path("crowd");
        if !program.exists() {
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bounded/crowd.c");
            let built = output(Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(source));
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        }
        let mut command = lab.command_as(user, &[], program);
        let mut first = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let count = line.trim_end().strip_prefix("ready ").unwrap_or_else(|| panic!("{words:?}: {line:?}"));
        Self { first, count: count.parse().unwrap() }
    }

    fn connect(&mut self) {
        self.first.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ended_already = self.first.kill();
        let _reaped_already = self.first.wait();
    }
}

/// A watch with the service's rights, and what it has written so far.
struct Watched {
    watch: Watch,
    log: PathBuf,
    offset: u64,
    lines: Vec<String>,
}

impl Watched {
    fn start(lab: &Lab, mut command: Command) -> Self {
        let log = lab.path("bounded.jsonl");
        let stdout = File::create(&log).unwrap();
        let watch = Watch::start_into(lab, command.stdout(stdout), log.clone());
        Self { watch, log, offset: 0, lines: Vec::new() }
    }

    fn of(lab: &Lab) -> Self {
        Self::start(lab, lab.portreeve_as(NOBODY, &SYS_PTRACE))
    }

    /// Takes what was written since.
    fn read(&mut self) {
        let mut file = File::open(&self.log).unwrap();
        file.seek(SeekFrom::Start(self.offset)).unwrap();
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.offset += whole as u64;
        let text = String::from_utf8(text[..whole].to_vec()).unwrap();
        self.lines.extend(text.lines().map(str::to_owned));
    }

    /// Waits for the record that names the owner of a connection, by words that are in its line.
    fn wait_owned(&mut self, what: &str, words: &str) -> (Value, Duration) {
        let asked = Instant::now();
        loop {
            self.read();
            let told = |line: &&String| line.contains("\"status\":\"owned\"") && line.contains(words);
            if let Some(line) = self.lines.iter().find(told) {
                return (serde_json::from_str(line).unwrap(), asked.elapsed());
            }
            assert!(
                asked.elapsed() < Duration::from_secs(100),
                "no owner of {what}: {:#?}",
                self.lines.last()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it; its log is checked, 16 KiB a record among the rest.
    fn stop(mut self, load: &str) -> Figures {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.watch.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kib: u64 = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        self.read();
        let stopped = self.watch.stop();
        let coverage = with_action(&stopped.records, "coverage");
        let most = |field: &str| {
            let of = |record: &Value| record["portreeve"]["coverage"]["poll_interval_us"][field].as_u64();
            coverage.iter().filter_map(of).max().unwrap()
        };
        let late: u64 =
            coverage.iter().filter_map(|record| record["portreeve"]["coverage"]["late"].as_u64()).sum();
        let figures = Figures { peak_kib, p99_us: most("p99"), max_us: most("max"), stopped };
        println!(
            "{load}: interval p99 {:.0} ms, max {:.0} ms, {late} late; peak {:.1} MiB",
            figures.p99_us as f64 / 1e3,
            figures.max_us as f64 / 1e3,
            peak_kib as f64 / 1024.0,
        );
        figures
    }
}

struct Figures {
    peak_kib: u64,
    p99_us: u64,
    max_us: u64,
    stopped: Stopped,
}

impl Figures {
    /// An interval is 50 ms, and other programs may have the processor for longer than that. A loop that did a load's work
    /// in one go would stand for ten seconds and more.
    fn keeps_its_pace(&self) {
        assert!(self.p99_us < 1_000_000, "{} us", self.p99_us);
        assert!(self.max_us < 5_000_000, "{} us", self.max_us);
        assert!(self.peak_kib < 64 * 1024, "{} KiB", self.peak_kib);
    }

    /// With the owner, or with the reason why there is none yet.
    fn tells_the_crowds(&self) {
        let mut opens = with_action(&self.stopped.records, "connection-opened").into_iter();
        let user = CROWD.to_string();
        let theirs = opens.rfind(|open| open["user"]["id"].as_str() == Some(&user)).expect("it is told");
        let attribution = &theirs["portreeve"]["attribution"];
        println!("the crowd's own: {attribution}");
        assert!(attribution["status"] == "owned" || attribution["reason"] == "budget", "{attribution}");
    }

    fn gaps(&self) -> Vec<Value> {
        with_action(&self.stopped.records, "gap")
    }
}

/// Another user's process, older than the load: it is not among the newest, who are asked first.
fn patient(lab: &Lab) -> Crowd {
    Crowd::start(lab, ALICE, &["patient"])
}

/// That one connects, and is to be named within what a search takes that is not held up.
fn is_named(watched: &mut Watched, alice: &mut Crowd) -> Duration {
    let pid = alice.first.id();
    alice.connect();
    let (record, took) = watched.wait_owned("another user's connection", &format!("\"pid\":{pid},"));
    assert_eq!(record["process"]["pid"], pid);
    assert_eq!(record["user"]["id"].as_str(), Some(ALICE.to_string().as_str()));
    assert!(took < Duration::from_secs(5), "{took:?}");
    took
}

#[test]
fn twenty_processes_with_twenty_thousand_descriptors_each() {
    let (_alone, lab) = (alone(), lab!("cc"));
    let _server = lab.listen("127.0.0.1:22");
    let (mut alice, mut watched) = (patient(&lab), Watched::of(&lab));
    let mut crowd = Crowd::start(&lab, CROWD, &["descriptors", "20", "19900"]);
    crowd.connect();
    std::thread::sleep(Duration::from_millis(60));
    let took = is_named(&mut watched, &mut alice);
    println!("{} descriptors: another's owner after {took:?}", crowd.count);
    let figures = watched.stop("descriptors");
    figures.keeps_its_pace();
    figures.tells_the_crowds();
}

#[test]
fn a_command_line_of_two_megabytes() {
    let (_alone, lab) = (alone(), lab!("cc"));
    let _server = lab.listen("127.0.0.1:22");
    let (mut alice, mut watched) = (patient(&lab), Watched::of(&lab));
    let mut crowd = Crowd::start(&lab, CROWD, &["arguments", "2000000"]);
    crowd.connect();
    let (record, theirs) = watched.wait_owned("the long one", "\"patient\",\"xxx");
    let took = is_named(&mut watched, &mut alice);
    println!("{} arguments: its owner after {theirs:?}, another's {took:?} later", crowd.count);
    assert!(record["portreeve"]["args_cut"]["bytes"].as_u64().unwrap() > 1_900_000, "{record}");
    watched.stop("arguments").keeps_its_pace();
}

#[test]
fn thirty_thousand_processes() {
    let (_alone, lab) = (alone(), lab!("cc"));
    let _server = lab.listen("127.0.0.1:22");
    let (mut alice, mut watched) = (patient(&lab), Watched::of(&lab));
    // Some are left to the machine and its other users.
    let room = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let most = room("/proc/sys/kernel/pid_max").unwrap().saturating_sub(3_000).min(30_000);
    let mut crowd = Crowd::start(&lab, CROWD, &["processes", &most.to_string()]);
    crowd.connect();
    std::thread::sleep(Duration::from_millis(60));
    let took = is_named(&mut watched, &mut alice);
    println!("{} processes: another's owner after {took:?}", crowd.count);
    let figures = watched.stop("processes");
    figures.keeps_its_pace();
    figures.tells_the_crowds();
}

#[test]
fn a_thousand_network_namespaces() {
    let (_alone, lab) = (alone(), lab!("cc"));
    let _server = lab.listen("127.0.0.1:22");
    let mut alice = patient(&lab);
    let mut command = lab.command_as(NOBODY, &SYS_PTRACE, support::watch::PORTREEVE);
    command.args(["watch", "--netns", "all", "--config"]).arg(lab.path("portreeve.toml"));
    let mut watched = Watched::start(&lab, command);
    let mut crowd = Crowd::start(&lab, 0, &["namespaces", "1000"]);
    let took = is_named(&mut watched, &mut alice);
    println!("{} namespaces: another's owner after {took:?}", crowd.count);
    crowd.connect();
    let (_, theirs) = watched.wait_owned("the last namespace's", "\"namespaces\",\"1000\"");
    println!("and that in the last namespace after {theirs:?}");
    watched.stop("namespaces").keeps_its_pace();
}

#[test]
fn a_flood_of_short_connections() {
    let (_alone, lab) = (alone(), lab!("cc"));
    let _server = lab.listen("127.0.0.1:22");
    let sink = lab.listen("127.0.0.2:22");
    std::thread::spawn(move || sink.incoming().for_each(drop));
    let (mut alice, mut watched) = (patient(&lab), Watched::of(&lab));
    let (made, took) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| Crowd::start(&lab, CROWD, &["flood", "5", "2000"]).count);
        std::thread::sleep(Duration::from_secs(2));
        let took = is_named(&mut watched, &mut alice);
        (flood.join().unwrap(), took)
    });
    std::thread::sleep(Duration::from_secs(2));
    let figures = watched.stop("flood");
    let opened = with_action(&figures.stopped.records, "connection-opened").len();
    let said = |gap: &Value| gap["portreeve"]["gap"]["count"].as_u64().unwrap_or(0);
    let left_out: u64 = figures.gaps().iter().map(said).sum();
    println!("{made} connections: {opened} opened, {left_out} in gaps; another's owner after {took:?}");
    assert!(opened as u64 + left_out >= made as u64, "left out in silence");
    figures.keeps_its_pace();
}
