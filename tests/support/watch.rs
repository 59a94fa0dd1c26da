//! The real watcher, running in a lab, and what it wrote.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lab::Lab;
use super::{log, wait_for};

/// Long enough for a busy machine; a right watcher answers within two intervals.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The real program, where a lab has it.
pub const PORTREEVE: &str = "/run/portreeve";

pub struct Watch {
    pub child: Child,
    /// The watcher itself, where `child` only waits for it.
    pub inner: Option<Pid>,
    records: PathBuf,
    errors: PathBuf,
}

/// How a watcher ended.
pub struct Stopped {
    pub records: Vec<Value>,
    pub status: ExitStatus,
    pub took: Duration,
}

impl Lab {
    /// The watcher as a command, with a configuration of the lab's own instead of the machine's.
    pub fn portreeve(&self) -> Command {
        self.watcher(self.command(PORTREEVE))
    }

    /// The same with a user's rights and what setpriv's options add to them.
    pub fn portreeve_as(&self, user: u32, options: &[&str]) -> Command {
        self.watcher(self.command_as(user, options, PORTREEVE))
    }

    /// A command that ends in the program's name, with the words that make it a watcher.
    pub fn watcher(&self, mut command: Command) -> Command {
        command.arg("watch").arg("--config").arg(self.path("portreeve.toml"));
        // Other namespaces are other tests', and the machine's.
        command.args(["--netns", "own"]).args(crate::SOURCES);
        command
    }

    /// Watches into a file of the lab's and waits until the watch is on.
    pub fn watch(&self, arguments: &[&str]) -> Watch {
        Watch::start(self, self.portreeve().args(arguments))
    }
}

impl Watch {
    /// Starts a command whose standard output gets the records.
    pub fn start(lab: &Lab, command: &mut Command) -> Self {
        let number = (0..).find(|n| !lab.path(&format!("records-{n}.jsonl")).exists()).unwrap();
        let records = lab.path(&format!("records-{number}.jsonl"));
        let stdout = File::create(&records).unwrap();
        Self::start_into(lab, command.stdout(stdout), records)
    }

    /// Starts a command that writes its records to `records` by itself.
    pub fn start_into(lab: &Lab, command: &mut Command, records: PathBuf) -> Self {
        let errors = lab.path(&format!("{}.stderr", records.file_name().unwrap().display()));
        let child = command.stdin(Stdio::null()).stderr(File::create(&errors).unwrap()).spawn().unwrap();
        let mut watch = Self { child, inner: None, records, errors };
        watch.wait_for("watch-started", |records| {
            records.iter().any(|record| record["event"]["action"] == "watch-started").then_some(())
        });
        watch
    }

    /// The whole lines written so far.
    pub fn records(&self) -> Vec<Value> {
        read_records(&self.records)
    }

    pub fn text(&self) -> Vec<u8> {
        std::fs::read(&self.records).unwrap()
    }

    pub fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap()
    }

    /// Waits until `ask` finds what it wants in the records; shows all of them when it never does.
    pub fn wait_for<T>(&mut self, what: &str, ask: impl Fn(&[Value]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait().unwrap();
            let records = self.records();
            if let Some(answer) = ask(&records) {
                return answer;
            }
            let all = || records.iter().map(log::summary).collect::<String>();
            assert!(ended.is_none(), "waiting for {what}: {ended:?}\n{}{}", all(), self.errors());
            assert!(Instant::now() < deadline, "no {what} in {PATIENCE:?}:\n{}{}", all(), self.errors());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the first `count` records of an action; more of them fail the test.
    pub fn wait_actions(&mut self, action: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} × {action}");
        let found = self.wait_for(&what, |records| {
            let found = log::with_action(records, action);
            (found.len() >= count).then_some(found)
        });
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }

    /// Waits for the one open and for its owner.
    pub fn wait_opened(&mut self) -> Value {
        self.wait_opens(1).remove(0)
    }

    /// Waits for the first `count` opens. Where the machine is busy the search for an owner may outlast a tick: then the
    /// change that told its outcome stands for the open.
    pub fn wait_opens(&mut self, count: usize) -> Vec<Value> {
        let opens = self.wait_actions("connection-opened", count);
        let settled = |open: Value| {
            if open["portreeve"]["attribution"]["reason"] != "budget" {
                return open;
            }
            println!("the owner was not found in the tick of the open: {}", open["message"]);
            let id = &open["portreeve"]["connection"]["id"];
            self.wait_for("the outcome of the search for an owner", |records| {
                let mut changes = log::with_action(records, "connection-changed").into_iter();
                changes.find(|change| {
                    &change["portreeve"]["connection"]["id"] == id
                        && change["portreeve"]["attribution"]["reason"] != "budget"
                })
            })
        };
        opens.into_iter().map(settled).collect()
    }

    pub fn wait_closed(&mut self) -> Value {
        self.wait_actions("connection-closed", 1).remove(0)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.inner.unwrap_or_else(|| Pid::from_child(&self.child)), signal).unwrap();
    }

    /// Waits for a watcher that ends by itself, and checks what every log must hold.
    pub fn wait_end(mut self) -> Stopped {
        let began = Instant::now();
        let status = wait_for("the watcher's end", PATIENCE, || self.child.try_wait().unwrap());
        let took = began.elapsed();
        let records = log::check(&self.text());
        Stopped { records, status, took }
    }

    pub fn stop(self) -> Stopped {
        self.signal(Signal::TERM);
        let stopped = self.wait_end();
        assert!(stopped.status.success(), "{}", stopped.status);
        stopped
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// The whole lines of a log; none where there is no file yet.
pub fn read_records(path: &Path) -> Vec<Value> {
    let text = std::fs::read(path).unwrap_or_default();
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    text[..whole]
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}
