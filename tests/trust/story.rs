//! A log of several runs and files, read as one story, and the runs that write it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::lab::Lab;
use crate::support::log::{check_line, summary, with_action};
use crate::support::output;
use crate::support::watch::PATIENCE;

pub const SSH: &str = "127.0.0.1:22";
const NAME: &str = "events.jsonl";

/// A log in a folder of its own.
pub struct Log {
    /// As the watcher knows it.
    pub path: PathBuf,
    /// As the test reaches it.
    pub seen: PathBuf,
}

impl Log {
    /// In a new folder of the lab's.
    pub fn new(lab: &Lab) -> Self {
        let folder = lab.path("log");
        std::fs::create_dir(&folder).unwrap();
        Self { path: folder.join(NAME), seen: folder.join(NAME) }
    }

    /// In a folder that only the lab's mount namespace has.
    pub fn inside(lab: &Lab, folder: &str) -> Self {
        let path = Path::new(folder).join(NAME);
        Self { seen: lab.outside(&path), path }
    }

    pub fn folder(&self) -> &Path {
        self.seen.parent().unwrap()
    }

    /// A file beside the log.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.seen.with_file_name(name)
    }

    /// Starts a run of the shipped defaults and waits until it watches.
    pub fn run(&self, lab: &Lab) -> Run {
        self.run_as(&mut lab.portreeve())
    }

    /// The same of a command that `Lab::watcher` made.
    pub fn run_as(&self, command: &mut Command) -> Run {
        let before = self.starts();
        let mut run = self.spawn(command);
        run.wait("the watch's start", || (self.starts() > before).then_some(()));
        run
    }

    /// Starts a run, and does not wait.
    pub fn spawn(&self, command: &mut Command) -> Run {
        let errors = tempfile::NamedTempFile::new().unwrap();
        let stderr = errors.reopen().unwrap();
        command.arg("--log-file").arg(&self.path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        Run { child: command.spawn().unwrap(), errors }
    }

    fn starts(&self) -> usize {
        with_action(&self.now(), "watch-started").len()
    }

    /// Whole records of all files as they are now, in the order of their streams; torn lines are left out.
    pub fn now(&self) -> Vec<Value> {
        let files = files(self.folder());
        files.iter().flat_map(|file| &file.lines).filter_map(|line| line.record.clone()).collect()
    }

    /// Waits until `ask` finds what it wants in all records.
    pub fn wait<T>(&self, what: &str, ask: impl Fn(&[Value]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let records = self.now();
            if let Some(answer) = ask(&records) {
                return answer;
            }
            let all = || records.iter().map(summary).collect::<String>();
            assert!(Instant::now() < deadline, "no {what} in {PATIENCE:?}:\n{}", all());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for so many records of an action; more of them fail the test.
    pub fn wait_actions(&self, action: &str, count: usize) -> Vec<Value> {
        let found = self.wait(&format!("{count} × {action}"), |records| {
            let found = with_action(records, action);
            (found.len() >= count).then_some(found)
        });
        assert_eq!(found.len(), count, "{}", found.iter().map(summary).collect::<String>());
        found
    }

    /// One more connection that stays, once it is told.
    pub fn connect(&self, lab: &Lab, server: &TcpListener) -> Pair {
        let pair = Pair::new(lab, server);
        self.wait(&format!("the open of port {}", pair.port), |records| {
            opens_of(records, pair.port).first().map(|_| ())
        });
        pair
    }

    /// The whole story, checked here and by the program itself.
    #[track_caller]
    pub fn story(&self) -> Vec<Value> {
        let records = check(self.folder());
        let mut verify = Command::new(env!("CARGO_BIN_EXE_portreeve"));
        verify.arg("verify").args(files(self.folder()).iter().map(|file| &file.path));
        let verified = output(&mut verify);
        let said = [verified.stdout, verified.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat();
        assert_eq!(verified.status.code(), Some(0), "{said}");
        records
    }
}

/// A connection, both ends of it.
#[allow(dead_code, reason = "held")]
pub struct Pair {
    pub port: u16,
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Pair {
    pub fn new(lab: &Lab, server: &TcpListener) -> Self {
        let client = lab.connect(&server.local_addr().unwrap().to_string());
        let port = client.local_addr().unwrap().port();
        Self { port, client, server: server.accept().unwrap().0 }
    }
}

pub fn opens_of(records: &[Value], port: u16) -> Vec<Value> {
    of_port(records, "connection-opened", port)
}

pub fn closes_of(records: &[Value], port: u16) -> Vec<Value> {
    of_port(records, "connection-closed", port)
}

fn of_port(records: &[Value], action: &str, port: u16) -> Vec<Value> {
    let all = with_action(records, action).into_iter();
    // A pair's other end is there; others may use the same port towards elsewhere.
    all.filter(|record| record["source"]["port"] == port && record["destination"]["ip"] == "127.0.0.1")
        .collect()
}

/// What the records tell as gaps of this cause.
pub fn gaps(records: &[Value], cause: &str) -> Vec<Value> {
    let gaps = with_action(records, "gap").into_iter().map(|gap| gap["portreeve"]["gap"].clone());
    gaps.filter(|gap| gap["cause"] == cause).collect()
}

/// `portreeve.watch` of each start.
pub fn starts(records: &[Value]) -> Vec<Value> {
    with_action(records, "watch-started").iter().map(|start| start["portreeve"]["watch"].clone()).collect()
}

/// A watcher at work.
pub struct Run {
    pub child: Child,
    errors: tempfile::NamedTempFile,
}

impl Run {
    pub fn errors(&self) -> String {
        std::fs::read_to_string(self.errors.path()).unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn wait<T>(&mut self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().unwrap();
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(ended.is_none(), "waiting for {what}: {ended:?}: {}", self.errors());
            assert!(Instant::now() < deadline, "no {what} in {PATIENCE:?}: {}", self.errors());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As a crash ends it.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }

    pub fn ended(&mut self) -> ExitStatus {
        // Longer than all else: it may have to finish what it is at first.
        let deadline = Instant::now() + PATIENCE * 3;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            let id = self.child.id();
            let about =
                |name: &str| std::fs::read_to_string(format!("/proc/{id}/{name}")).unwrap_or_default();
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "no end: {} {} {}", about("stat"), about("wchan"), self.errors());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    pub fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{status}: {}", self.errors());
        self.errors()
    }

    /// True while it has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

struct Line {
    offset: u64,
    text: Vec<u8>,
    record: Option<Value>,
}

struct LogFile {
    path: PathBuf,
    lines: Vec<Line>,
}

impl LogFile {
    fn first(&self) -> Option<&Value> {
        self.lines.iter().find_map(|line| line.record.as_ref())
    }
}

fn place(record: &Value) -> (String, u64) {
    let stream = record["agent"]["id"].as_str().expect("a stream").to_owned();
    (stream, record["event"]["sequence"].as_u64().expect("a sequence"))
}

/// All files of the log, in the order in which they were written: streams by their first record's time, within a stream
/// by sequence.
fn files(folder: &Path) -> Vec<LogFile> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours =
        |path: &PathBuf| path.is_file() && path.file_name().unwrap().to_str().unwrap().starts_with(NAME);
    let mut files: Vec<_> =
        entries.filter(ours).filter_map(read).filter(|file| file.first().is_some()).collect();
    let mut begins: BTreeMap<String, String> = BTreeMap::new();
    for record in files.iter().flat_map(|file| &file.lines).filter_map(|line| line.record.as_ref()) {
        let time = record["@timestamp"].as_str().unwrap().to_owned();
        let begin = begins.entry(place(record).0).or_insert_with(|| time.clone());
        *begin = time.min(begin.clone());
    }
    files.sort_by_key(|file| {
        let (stream, sequence) = place(file.first().unwrap());
        (begins[&stream].clone(), stream, sequence)
    });
    files
}

fn read(path: PathBuf) -> Option<LogFile> {
    // Renamed meanwhile: it comes under its other name.
    let mut text = std::fs::read(&path).ok()?;
    if path.extension().is_some_and(|end| end == "gz") {
        let packed = std::mem::take(&mut text);
        MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut text).ok()?;
    }
    let mut offset = 0;
    let lines = text.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let begins = offset;
        offset += line.len() as u64;
        let whole = line.strip_suffix(b"\n");
        let record = whole.and_then(|line| serde_json::from_slice(line).ok());
        Line { offset: begins, text: whole.unwrap_or(line).to_vec(), record }
    });
    let lines = lines.collect();
    Some(LogFile { path, lines })
}

/// Checks form, numbers, chain, torn lines, time and stories of a log in many files, over all runs.
#[track_caller]
pub fn check(folder: &Path) -> Vec<Value> {
    let files = files(folder);
    for file in &files {
        let is_named = file.first().unwrap()["event"]["action"] == "log-opened";
        assert!(is_named, "{} does not begin with its name", file.path.display());
    }
    check_files(&files)
}

/// The same of one run's records in one file that another wrote.
#[track_caller]
pub fn check_file(path: &Path) -> Vec<Value> {
    check_files(&[read(path.to_owned()).expect("a file")])
}

#[track_caller]
fn check_files(files: &[LogFile]) -> Vec<Value> {
    let mut places: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut records = Vec::new();
    for file in files {
        let name = file.path.display();
        let mut torn = BTreeSet::new();
        for line in &file.lines {
            let Some(record) = &line.record else {
                torn.insert((line.offset, line.text.len() as u64));
                continue;
            };
            let (stream, _) = place(record);
            let (last, chain) = places.entry(stream).or_insert((0, "0".repeat(64)));
            *chain = check_line(std::str::from_utf8(&line.text).unwrap(), *last + 1, chain);
            *last += 1;
            records.push(record.clone());
        }
        let repairs = file.lines.iter().filter_map(|line| line.record.as_ref()).filter_map(|record| {
            let log = &record["portreeve"]["log"];
            let is_one = record["event"]["action"] == "log-repaired";
            is_one.then(|| (log["offset"].as_u64().unwrap(), log["bytes"].as_u64().unwrap()))
        });
        assert_eq!(torn, repairs.collect(), "{name}: torn lines against those that are told");
    }
    check_times(&records);
    check_stories(&records);
    records
}

/// Within a boot the log's own time never runs backwards, in any stream.
#[track_caller]
fn check_times(records: &[Value]) {
    let mut last: BTreeMap<(String, String), u64> = BTreeMap::new();
    for record in records {
        let at = record["portreeve"]["boottime_us"].as_u64().expect("a time since boot");
        let last = last.entry((place(record).0, record["host"]["boot"]["id"].to_string())).or_default();
        assert!(at >= *last, "{} us after a record of a later moment: {}", *last - at, summary(record));
        *last = at;
    }
}

/// One open, at most one close behind it, changes only between; but for what a gap counts as lost. Ids rise from run to
/// run.
#[track_caller]
fn check_stories(records: &[Value]) {
    let mut stories: BTreeMap<String, String> = BTreeMap::new();
    let (mut highest, mut of_run) = (String::new(), String::new());
    for record in records {
        let action = record["event"]["action"].as_str().expect("an action");
        let id = record["portreeve"]["connection"]["id"].as_str().unwrap_or_default().to_owned();
        match action {
            "watch-started" => highest = of_run.clone(),
            "connection-opened" => {
                assert!(id > highest, "an id of the runs before: {}", summary(record));
                of_run = of_run.max(id.clone());
            }
            _ => {}
        }
        let letter = match action {
            "connection-opened" => 'o',
            "connection-changed" => '.',
            "connection-closed" => 'x',
            _ => continue,
        };
        stories.entry(id).or_default().push(letter);
    }
    let lost: u64 = gaps(records, "backlog_full").iter().map(|gap| gap["count"].as_u64().unwrap()).sum();
    let broken: Vec<_> = stories.iter().filter(|(_, story)| !is_one_story(story)).collect();
    assert!(broken.len() as u64 <= lost, "{lost} records lost, and these stories are broken: {broken:?}");
}

/// Opened, changed as often as it was, closed at most once.
fn is_one_story(story: &str) -> bool {
    let rest = story.strip_prefix('o').map(|rest| rest.strip_suffix('x').unwrap_or(rest));
    rest.is_some_and(|changes| changes.chars().all(|change| change == '.'))
}
