//! Watchers, portreeve and its peers: started, left alone, stopped by pid, and what they used.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{cage, figures};

/// Whose watcher it is, which decides what can be measured and in which column of the goals it stands.
#[derive(Clone, Copy, PartialEq)]
pub enum Who {
    Portreeve,
    /// Bare system calls.
    Floor,
    Ss,
    /// `ss` with owners.
    SsP,
    Tcpspy,
    Lsof,
    /// bpftrace, or the tools of bcc: programs in the kernel.
    Tracer,
    Conntrack,
}

impl Who {
    /// A shell that starts a program again and again: all counts, also what it starts. The others are one process
    /// that stays, and the first second, its start, is taken off.
    fn is_loop(self) -> bool {
        matches!(self, Self::Ss | Self::SsP | Self::Lsof)
    }

    /// So cheap that noise matters.
    pub fn is_cheap(self) -> bool {
        matches!(self, Self::Portreeve | Self::Floor)
    }
}

/// With what rights portreeve runs. Every row names them.
#[derive(Clone, Copy)]
pub enum Rights {
    /// Those of this run: the first lines of the report list them.
    Root,
    /// The shipped unit's: another user than anybody's in the load, and CAP_SYS_PTRACE alone.
    Ptrace,
    /// The unit's with the drop-in that lets it hear SYNs: CAP_NET_RAW as well.
    PtraceRaw,
}

#[derive(Clone)]
pub struct Watcher {
    pub name: String,
    pub who: Who,
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
    pub fn new(name: &str, who: Who, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { name: name.to_owned(), who, argv: argv.into_iter().map(Into::into).collect() }
    }

    /// A bare loop: this program under another name.
    pub fn floor(name: &str, role: &str) -> Self {
        let exe = std::env::current_exe().expect("this program's own path");
        let exe = exe.to_str().expect("a path in UTF-8");
        Self::new(name, Who::Floor, [exe, "role", role])
    }

    /// `command`, a pause of 50 ms, and again. Says at the end how often.
    fn looping(who: Who, command: &str) -> Self {
        let script = format!(
            "n=0; trap 'echo $n >&2; exit 0' TERM; while :; do {command}; n=$((n+1)); sleep .05; done"
        );
        Self::new(&format!("{command}; sleep .05"), who, ["sh", "-c", &script])
    }

    /// The same, ending when this program does: for where no pid namespace sees to that.
    pub fn tethered(self) -> Self {
        let tether = ["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned);
        Self { argv: tether.into_iter().chain(self.argv).collect(), ..self }
    }

    /// Starts it with its output where `stdout` says.
    pub fn start(&self, stdout: Stdio) -> Running {
        let stderr = if self.who.is_loop() { Stdio::piped() } else { Stdio::inherit() };
        self.start_with(stdout, stderr)
    }

    pub fn start_with(&self, stdout: Stdio, stderr: Stdio) -> Running {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        Running { who: self.who, child, started: Instant::now(), settled: None }
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

/// portreeve at 50 ms as root, all else as it comes. An empty configuration, so that the machine's own does not count.
pub fn portreeve() -> Watcher {
    Watcher::new("portreeve [root]", Who::Portreeve, WATCH)
}

/// portreeve with other rights or options. `None`: the program does not know one of the options.
pub fn portreeve_with(rights: Rights, options: &[&str]) -> Option<Watcher> {
    if let Some(unknown) = options.iter().find(|option| option.starts_with("--") && !knows(option)) {
        eprintln!("costs: portreeve has no {unknown}: that row is left out");
        return None;
    }
    let (granted, start) = match rights {
        Rights::Root => ("root", vec![EXECUTABLE.to_owned()]),
        Rights::Ptrace => ("CAP_SYS_PTRACE", as_nobody("-all,+sys_ptrace")),
        Rights::PtraceRaw => ("CAP_SYS_PTRACE, CAP_NET_RAW", as_nobody("-all,+sys_ptrace,+net_raw")),
    };
    let name: Vec<&str> = std::iter::once("portreeve").chain(options.iter().copied()).collect();
    let name = format!("{} [{granted}]", name.join(" "));
    let words = WATCH[1..].iter().chain(options).map(|word| (*word).to_owned());
    Some(Watcher::new(&name, Who::Portreeve, start.into_iter().chain(words)))
}

/// As the shipped unit starts it: another user than anybody's in the load, these capabilities, and never more.
fn as_nobody(capabilities: &str) -> Vec<String> {
    let sets = ["bounding-set", "inh-caps", "ambient-caps"].map(|set| format!("--{set}={capabilities}"));
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];
    user.map(str::to_owned).into_iter().chain(sets).chain(["--", cage::PUBLIC].map(str::to_owned)).collect()
}

fn knows(option: &str) -> bool {
    static HELP: LazyLock<String> = LazyLock::new(|| {
        let help = Command::new(EXECUTABLE).args(["watch", "--help"]).output().expect("portreeve --help");
        String::from_utf8_lossy(&help.stdout).into_owned()
    });
    HELP.contains(option)
}

/// Those of the peers that are installed.
pub fn peers(wanted: &[Who]) -> Vec<Watcher> {
    let peer = |who: &Who| match who {
        Who::Ss if installed("ss") => Some(Watcher::looping(Who::Ss, "ss -Htn dport = 22")),
        Who::SsP if installed("ss") => Some(Watcher::looping(Who::SsP, "ss -Htnp dport = 22")),
        Who::Lsof if installed("lsof") => Some(Watcher::looping(Who::Lsof, "lsof -Pn -i :22")),
        Who::Tcpspy if installed("tcpspy") => Some(tcpspy()),
        _ => None,
    };
    wanted.iter().filter_map(peer).collect()
}

/// The peers that name an owner.
pub const NAMING: [Who; 3] = [Who::SsP, Who::Tcpspy, Who::Lsof];

/// tcpspy at 50 ms, unbuffered, its greeting on standard error left out.
fn tcpspy() -> Watcher {
    let script = "exec stdbuf -oL tcpspy -d -p -I 50 2>/dev/null";
    Watcher::new("tcpspy -p -I 50", Who::Tcpspy, ["sh", "-c", script])
}

pub const EXECUTABLE: &str = env!("CARGO_BIN_EXE_portreeve");

const WATCH: [&str; 8] =
    [EXECUTABLE, "watch", "--config", "/dev/null", "--format", "json", "--interval", "50ms"];

/// portreeve's own reading of the two tables: its CPU time.
pub fn own_reading_us() -> f64 {
    let proc = portreeve::proc::Proc::new("/proc").expect("/proc");
    let visit = |socket| {
        std::hint::black_box(socket);
    };
    figures::cpu_us(|| proc.read_tcp(portreeve::proc::Net::Own, visit).expect("net/tcp"))
}

/// Its reading of the rows to port 22 by sock_diag: CPU time of each call.
pub fn own_netlink_reading() -> impl FnMut() -> f64 {
    use portreeve::netlink::{Clause, Diag, Filter};
    let mut diag = Diag::open().expect("sock_diag");
    let filter = Filter::any_of([Clause::RemotePorts(22..=22)]).expect("one port is a filter");
    let visit = |socket| {
        std::hint::black_box(socket);
    };
    move || figures::cpu_us(|| diag.dump(u32::MAX, Some(&filter), visit).expect("a dump"))
}

/// A file in memory and without a name for a watcher's output: nothing to remove, however the run ends.
pub struct Log(File);

impl Log {
    pub fn new() -> Self {
        Self(tempfile::tempfile_in(cage::MEMORY).expect("a temporary file"))
    }

    pub fn stdout(&self) -> Stdio {
        Stdio::from(self.0.try_clone().expect("a descriptor"))
    }

    pub fn length(&self) -> u64 {
        self.0.metadata().map_or(0, |file| file.len())
    }

    pub fn read(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path()).expect("the watcher's output")).into_owned()
    }

    pub fn lines(&self) -> impl Iterator<Item = String> {
        BufReader::new(File::open(self.path()).expect("the watcher's output")).lines().map_while(Result::ok)
    }

    /// By which it can be opened once more, from its beginning.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Whether the shell would find this program.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

pub struct Running {
    who: Who,
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
        let patience = if self.who.is_loop() { Duration::from_secs(20) } else { Duration::from_secs(1) };
        let asked = Instant::now();
        while self.child.try_wait().ok()?.is_none() {
            if asked.elapsed() > patience {
                if self.who == Who::Portreeve {
                    eprintln!("costs: portreeve did not stop within {patience:?} and is killed");
                }
                self.child.kill().ok()?;
                self.child.wait().ok()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let whole = (figures::children_cpu() - before, self.started.elapsed());
        Some(self.cost(last, whole))
    }

    fn cost(&mut self, last: Sample, (cpu, wall): (Duration, Duration)) -> Cost {
        let rate = |cpu: Duration, wall: Duration| 100.0 * cpu.as_secs_f64() / wall.as_secs_f64();
        match self.settled {
            Some(first) if !self.who.is_loop() => {
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
