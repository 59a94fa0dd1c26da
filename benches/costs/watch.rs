//! Watchers, portreeve and its peers: started, left alone, stopped by pid, and what they used.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::figures;

/// How a watcher goes about it, which decides what can be measured.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// One process that stays. The first second, its start, is taken off.
    Resident,
    /// A shell that starts a program again and again. All counts, also what it starts.
    Loop,
}

pub struct Watcher {
    pub name: &'static str,
    pub kind: Kind,
    argv: Vec<String>,
}

/// What a watcher used.
#[derive(Clone, Copy)]
pub struct Cost {
    /// Of one core.
    pub percent: f64,
    /// Times that it slept by itself and was woken. `None` for loops, which are more than one process.
    pub wakeups_per_s: Option<f64>,
    /// Looks at the sockets, where the watcher counts them.
    pub looks_per_s: Option<f64>,
}

impl Watcher {
    pub fn resident<const N: usize>(name: &'static str, argv: [&str; N]) -> Self {
        Self { name, kind: Kind::Resident, argv: argv.map(str::to_owned).to_vec() }
    }

    /// `command`, a pause of 50 ms, and again. Says at the end how often.
    pub fn looping(name: &'static str, command: &str) -> Self {
        let script = format!(
            "n=0; trap 'echo $n >&2; exit 0' TERM; while :; do {command}; n=$((n+1)); sleep .05; done"
        );
        Self { name, kind: Kind::Loop, argv: vec!["sh".to_owned(), "-c".to_owned(), script] }
    }

    /// Starts it with its output where `stdout` says.
    pub fn start(&self, stdout: Stdio) -> Running {
        let stderr = if self.kind == Kind::Loop { Stdio::piped() } else { Stdio::inherit() };
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        Running { kind: self.kind, child, started: Instant::now(), settled: None }
    }

    /// Runs it for a second, which does not count, and then for `time`.
    pub fn cost(&self, time: Duration) -> Option<Cost> {
        let mut running = self.start(Stdio::null());
        std::thread::sleep(Duration::from_secs(1));
        running.settle();
        std::thread::sleep(time);
        running.stop()
    }
}

/// portreeve at 50 ms, as users start it. An empty configuration, so that the machine's own does not count.
pub fn portreeve() -> Watcher {
    Watcher::resident(PORTREEVE, ARGV)
}

/// portreeve following every connection.
pub fn portreeve_on_all_ports() -> Watcher {
    let [exe, watch, config, null, format, json, interval, ms] = ARGV;
    let argv = [exe, watch, config, null, format, json, interval, ms, "--ports", "all"];
    Watcher::resident("portreeve --ports all", argv)
}

/// tcpspy at 50 ms, unbuffered, its greeting on standard error left out.
pub fn tcpspy() -> Watcher {
    Watcher::resident(TCPSPY, ["sh", "-c", "exec stdbuf -oL tcpspy -d -p -I 50 2>/dev/null"])
}

pub const TCPSPY: &str = "tcpspy -p -I 50";

pub const EXECUTABLE: &str = env!("CARGO_BIN_EXE_portreeve");

pub const PORTREEVE: &str = "portreeve";

const ARGV: [&str; 8] =
    [EXECUTABLE, "watch", "--config", "/dev/null", "--format", "json", "--interval", "50ms"];

/// portreeve's own reading of the two tables: its CPU time.
pub fn own_reading_us() -> f64 {
    let proc = portreeve::proc::Proc::new("/proc").expect("/proc");
    let visit = |socket| {
        std::hint::black_box(socket);
    };
    figures::cpu_us(|| proc.read_tcp(portreeve::proc::Net::Own, visit).expect("net/tcp"))
}

/// A file without a name for a watcher's output: nothing to remove, however the run ends.
pub struct Log(File);

impl Log {
    pub fn new() -> Self {
        Self(tempfile::tempfile().expect("a temporary file"))
    }

    pub fn stdout(&self) -> Stdio {
        Stdio::from(self.0.try_clone().expect("a descriptor"))
    }

    pub fn length(&self) -> u64 {
        self.0.metadata().map_or(0, |file| file.len())
    }

    pub fn read(&self) -> String {
        let own = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        String::from_utf8_lossy(&fs::read(own).expect("the watcher's output")).into_owned()
    }
}

/// Whether the shell would find this program.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

pub struct Running {
    kind: Kind,
    pub child: Child,
    started: Instant,
    settled: Option<Sample>,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cpu: Duration,
    wakeups: u64,
}

impl Running {
    /// Measures from here on.
    pub fn settle(&mut self) {
        self.settled = Some(self.sample());
    }

    /// SIGTERM, later SIGKILL. `None`: it had ended by itself, there is nothing to tell.
    pub fn stop(mut self) -> Option<Cost> {
        if self.child.try_wait().ok()?.is_some() {
            return None;
        }
        let last = self.sample();
        let pid = Pid::from_child(&self.child);
        let before = figures::children_cpu();
        kill_process(pid, Signal::TERM).ok()?;
        // A loop ends when the program that it runs does.
        let patience = if self.kind == Kind::Loop { Duration::from_secs(20) } else { Duration::from_secs(1) };
        let asked = Instant::now();
        while self.child.try_wait().ok()?.is_none() {
            if asked.elapsed() > patience {
                self.child.kill().ok()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let whole = (figures::children_cpu() - before, self.started.elapsed());
        Some(self.cost(last, whole))
    }

    fn cost(&mut self, last: Sample, (cpu, wall): (Duration, Duration)) -> Cost {
        let rate = |cpu: Duration, wall: Duration| 100.0 * cpu.as_secs_f64() / wall.as_secs_f64();
        match (self.kind, self.settled) {
            (Kind::Resident, Some(first)) => {
                let time = last.at - first.at;
                let wakeups = (last.wakeups - first.wakeups) as f64 / time.as_secs_f64();
                let percent = rate(last.cpu - first.cpu, time);
                Cost { percent, wakeups_per_s: Some(wakeups), looks_per_s: None }
            }
            _ => {
                let counted = self.child.stderr.take().and_then(|pipe| std::io::read_to_string(pipe).ok());
                let looks = counted.and_then(|text| text.lines().last()?.parse::<f64>().ok());
                let looks_per_s = looks.map(|looks| looks / wall.as_secs_f64());
                Cost { percent: rate(cpu, wall), wakeups_per_s: None, looks_per_s }
            }
        }
    }

    /// CPU time and sleeps of all threads so far. In nanoseconds, where `stat` would tell hundredths of a second:
    /// the whole of what a quiet watcher uses in some seconds.
    fn sample(&self) -> Sample {
        let (mut cpu, mut wakeups) = (Duration::ZERO, 0);
        let tasks = format!("/proc/{}/task", self.child.id());
        for task in fs::read_dir(tasks).into_iter().flatten().flatten() {
            let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            cpu += Duration::from_nanos(first_number(&schedstat));
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            wakeups += first_number(line.unwrap_or_default());
        }
        Sample { at: Instant::now(), cpu, wakeups }
    }
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}
