//! One short real run with one fault in it, and what must hold of it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portreeve::verify::{Options, run as verify};
use serde_json::Value;

use crate::support::lab::Lab;
use crate::support::watch::{PORTREEVE, read_records};
use crate::support::{log, output};

/// Of a run without a fault.
const DURATION: &str = "250ms";
/// A run that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(25);
/// Documented in portreeve(8).
const STATUSES: [i32; 7] = [0, 1, 64, 73, 75, 77, 78];

/// One call that fails.
pub struct Fault {
    pub call: &'static str,
    pub error: &'static str,
    /// From 1.
    pub time: u32,
    /// All later ones fail too.
    pub lasts: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, error, time, lasts } = self;
        write!(f, "{call}:error={error}:when={time}{}", if *lasts { "+" } else { "" })
    }
}

/// What came of a fault.
pub struct Outcome {
    /// False: the run had no such call any more.
    pub fired: bool,
    pub wrong: Option<String>,
}

/// A host with a server on port 22 and a connection to it that stands for all runs.
pub struct Bench {
    lab: Lab,
    source: &'static str,
    /// Whether each run is followed by another on the same log.
    restarts: bool,
    server: TcpListener,
    standing: [TcpStream; 2],
    runs: u32,
    earlier: Option<u16>,
}

/// Source ports of the connections that a run made.
struct Made {
    standing: u16,
    /// Opened and closed within the run.
    short: Option<u16>,
    /// Opened within the run, closed after it.
    long: Option<u16>,
    /// That of the run before: where the machine is busy, the kernel ends it when the next one watches already.
    earlier: Option<u16>,
}

impl Bench {
    /// `Err`: why nothing can be injected here.
    pub fn new(lab: Lab, source: &'static str, restarts: bool) -> Result<Self, String> {
        let server = lab.listen("127.0.0.1:22");
        let standing = [lab.connect("127.0.0.1:22"), server.accept().unwrap().0];
        let mut bench = Self { lab, source, restarts, server, standing, runs: 0, earlier: None };
        let none = Fault { call: "write", error: "ENOSPC", time: 60_000, lasts: false };
        match bench.run(&none).wrong {
            Some(wrong) if wrong.contains("ptrace") || wrong.contains("PTRACE") => Err(wrong),
            Some(wrong) => panic!("a run without a fault: {wrong}"),
            None => Ok(bench),
        }
    }

    /// Runs the watcher with the fault.
    pub fn run(&mut self, fault: &Fault) -> Outcome {
        self.runs += 1;
        let folder = self.lab.path(&format!("run-{}", self.runs));
        fs::create_dir(&folder).unwrap();
        let mut child = self.command(fault, &folder).spawn().unwrap();
        let made = self.connect_meanwhile(&mut child, &folder.join("log"));
        self.earlier = made.0.long;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if began.elapsed() > LIMIT {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let trace = fs::read_to_string(folder.join("trace")).unwrap_or_default();
        let fired = trace.contains("(INJECTED)");
        let wrong = match status {
            None => Some(format!("it hangs; {}", said(&folder))),
            Some(status) => {
                let judged = std::panic::catch_unwind(|| {
                    judge(status, &folder, &made.0);
                    // Whoever could not read which namespace is ours told of connections of none.
                    if self.restarts && fault.call != "readlinkat" && status.code() == Some(0) {
                        self.goes_on(&folder, &made.0);
                    }
                });
                judged.err().map(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    format!(
                        "{}; {}",
                        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?"),
                        said(&folder)
                    )
                })
            }
        };
        if wrong.is_none() {
            fs::remove_dir_all(folder).unwrap();
        }
        Outcome { fired, wrong }
    }

    fn command(&self, fault: &Fault, folder: &Path) -> Command {
        let mut strace = self.lab.command("strace");
        strace.args(["-f", "--seccomp-bpf", "-qq", "-o"]).arg(folder.join("trace"));
        strace.arg(format!("--trace={}", fault.call)).arg(format!("--inject={fault}")).arg(PORTREEVE);
        let mut command = self.lab.watcher(strace);
        command.args(["--source", self.source, "--interval", "20ms", "--duration", DURATION, "--log-file"]);
        command.arg(folder.join("log"));
        command.stdout(fs::File::create(folder.join("stdout")).unwrap());
        command.stderr(fs::File::create(folder.join("stderr")).unwrap());
        command.stdin(Stdio::null());
        command
    }

    /// A second run without a fault goes on where the one with the fault left: what stands is the same, and stands.
    fn goes_on(&self, folder: &Path, made: &Made) {
        let mut command = self.lab.portreeve();
        command.args(["--source", self.source, "--interval", "20ms", "--duration", "60ms", "--log-file"]);
        let output = output(command.arg(folder.join("log")));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the run after it: {}, {said}", output.status);
        let records = log::check(&fs::read(folder.join("log")).unwrap());
        is_clean(&folder.join("log"));
        no_story_is_made_up(&records, made);
    }

    /// Once it watches: a connection that ends again, and one that stays. What must be kept open is given back.
    fn connect_meanwhile(&self, child: &mut Child, log: &Path) -> (Made, Vec<TcpStream>) {
        let port = |stream: &TcpStream| stream.local_addr().unwrap().port();
        let mut made =
            Made { standing: port(&self.standing[0]), short: None, long: None, earlier: self.earlier };
        let began = Instant::now();
        while !has_started(log) {
            if child.try_wait().unwrap().is_some() || began.elapsed() > Duration::from_secs(2) {
                return (made, Vec::new());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let connect = || [self.lab.connect("127.0.0.1:22"), self.server.accept().unwrap().0];
        let short = connect();
        made.short = Some(port(&short[0]));
        std::thread::sleep(Duration::from_millis(70));
        drop(short);
        let long = connect();
        made.long = Some(port(&long[0]));
        (made, long.into())
    }
}

fn has_started(log: &Path) -> bool {
    fs::read_to_string(log).unwrap_or_default().contains("\"watch-started\"")
}

fn said(folder: &Path) -> String {
    let stderr = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    let records = read_records(&folder.join("log"));
    let told: Vec<_> = records.iter().filter_map(|record| record["message"].as_str()).collect();
    format!("it said {stderr:?} and told {told:#?}")
}

/// Panics where something does not hold.
fn judge(status: std::process::ExitStatus, folder: &Path, made: &Made) {
    let stderr = fs::read_to_string(folder.join("stderr")).unwrap();
    // The library for signals counts on its own pair of sockets, which on Linux never lacks memory to be read.
    if is_of_the_signals_bell(&stderr) {
        return;
    }
    assert!(!stderr.contains("panicked"), "it panicked");
    assert_eq!(status.signal(), None, "it died of a signal");
    let code = status.code().unwrap();
    // The loader of shared libraries is not ours.
    if code == 127 && stderr.contains("error while loading shared libraries") {
        return;
    }
    assert!(STATUSES.contains(&code), "status {code}");
    assert!(code == 0 || stderr.starts_with("portreeve: "), "status {code} and no reason");
    let log = folder.join("log");
    let text = fs::read(&log).unwrap_or_default();
    if text.is_empty() {
        // Its words may be what fails.
        let trace = fs::read_to_string(folder.join("trace")).unwrap();
        assert!(!stderr.is_empty() || trace.contains("write(2, \"portreeve: "), "no record and no word");
        return;
    }
    let records = log::check(&text);
    is_clean(&log);
    no_story_is_made_up(&records, made);
    if code == 0 {
        what_is_missing_is_told(&records, made, &stderr);
    }
}

fn is_of_the_signals_bell(stderr: &str) -> bool {
    stderr.contains("thread 'signals'") && stderr.contains("signal-hook")
}

/// `verify` judges as well.
fn is_clean(log: &Path) {
    let mut said = Vec::new();
    let options = Options { logs: vec![log.to_owned()], ..Options::default() };
    let outcome = verify(&options, &mut said).unwrap();
    assert!(outcome.is_clean() && outcome.is_readable(), "{}", String::from_utf8_lossy(&said));
}

fn ports(records: &[Value], action: &str) -> BTreeSet<u16> {
    let port = |record: &Value| u16::try_from(record["source"]["port"].as_u64().unwrap()).unwrap();
    log::with_action(records, action).iter().map(port).collect()
}

fn no_story_is_made_up(records: &[Value], made: &Made) {
    let all: BTreeSet<u16> =
        [Some(made.standing), made.short, made.long, made.earlier].into_iter().flatten().collect();
    let opened = ports(records, "connection-opened");
    assert!(opened.is_subset(&all), "opened {opened:?}, made {all:?}");
    assert_eq!(log::with_action(records, "connection-opened").len(), opened.len(), "one open each");
    let closed = ports(records, "connection-closed");
    let is_over = |port: &u16| [made.short, made.earlier].contains(&Some(*port));
    assert!(closed.iter().all(is_over), "closed {closed:?}, which stand");
}

fn what_is_missing_is_told(records: &[Value], made: &Made, stderr: &str) {
    let opened = ports(records, "connection-opened");
    let mut missing = Vec::new();
    if !opened.contains(&made.standing) {
        missing.push("the open of what stood");
    }
    if made.short.is_some_and(|port| !opened.contains(&port)) {
        missing.push("a short connection's open");
    }
    if made.short.is_some_and(|port| !ports(records, "connection-closed").contains(&port)) {
        missing.push("a short connection's close");
    }
    let last = records.last().unwrap();
    if last["event"]["action"] != "watch-stopped" {
        missing.push("the stop");
    }
    let totals = &last["portreeve"]["watch"]["totals"];
    let counted = |name: &str| totals[name].as_u64().unwrap_or(0) > 0;
    let told = !log::with_action(records, "gap").is_empty()
        || counted("missed_at_most")
        || counted("failed_reads")
        || counted("lost")
        || stderr.contains("portreeve: ");
    assert!(missing.is_empty() || told, "nothing tells of {missing:?}");
}
