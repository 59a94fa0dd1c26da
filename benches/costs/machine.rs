//! What the numbers were measured on, and how much else ran there meanwhile.

use std::fmt::{self, Write};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;

use crate::figures;

/// What the line of a version holds, of those that have one.
const VERSIONS: [&str; 4] = ["revision", "iproute2", "bpftrace v", "conntrack v"];

/// Machine, kernel and peers in a few lines.
pub fn describe() -> String {
    let mut text = String::new();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = field("/proc/cpuinfo", "model name");
    let uname = rustix::system::uname();
    let kernel = uname.release().to_string_lossy();
    let memory = field("/proc/meminfo", "MemTotal");
    let _ = writeln!(text, "kernel {kernel}, {cpus} x {cpu}, {memory} of memory, load average {}", load());
    if let Ok(entries) = fs::read_to_string("/proc/sys/net/ipv4/tcp_ehash_entries") {
        // Negative in a namespace that shares the first one's table.
        let entries = entries.trim().trim_start_matches('-').parse().unwrap_or(0);
        let _ = writeln!(text, "the kernel's socket hash: {} buckets", figures::thousands(entries));
    }
    let _ = writeln!(text, "rights of [root]: {}; of [CAP_SYS_PTRACE]: that one alone, as nobody", rights());
    for (program, args) in
        [("lsof", ["-v"]), ("ss", ["-V"]), ("tcpspy", ["-h"]), ("bpftrace", ["-V"]), ("conntrack", ["-V"])]
    {
        match Command::new(program).args(args).output() {
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                if let Some(line) = said.lines().find(|line| VERSIONS.iter().any(|word| line.contains(word)))
                {
                    let _ = writeln!(text, "{program}: {}", line.trim());
                }
            }
            Err(_) => {
                let _ = writeln!(text, "{program}: not installed, its rows are left out");
            }
        }
    }
    text
}

/// What this process may do of what any of the programs measured here can use.
fn rights() -> String {
    use CapabilitySet as Cap;
    let useful = [
        ("CAP_SYS_PTRACE", Cap::SYS_PTRACE),
        ("CAP_DAC_READ_SEARCH", Cap::DAC_READ_SEARCH),
        ("CAP_NET_RAW", Cap::NET_RAW),
        ("CAP_NET_ADMIN", Cap::NET_ADMIN),
        ("CAP_SYS_ADMIN", Cap::SYS_ADMIN),
        ("CAP_BPF", Cap::BPF),
        ("CAP_PERFMON", Cap::PERFMON),
    ];
    let held = rustix::thread::capabilities(None).map_or(Cap::empty(), |sets| sets.effective);
    let held = useful.into_iter().filter(|(_, one)| held.contains(*one)).map(|(name, _)| name);
    held.collect::<Vec<_>>().join(", ")
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// CPU time that the whole machine and this run had used at one moment.
pub struct Busy {
    at: Instant,
    machine: Duration,
    ours: Duration,
}

/// How long a section took, and how much the rest of the machine computed meanwhile.
pub struct Noise {
    took: Duration,
    others_percent: f64,
}

impl Busy {
    /// To be called when no child is left running: only those waited for are counted as ours.
    pub fn now() -> Self {
        Self { at: Instant::now(), machine: busy(), ours: figures::own_cpu() + figures::children_cpu() }
    }

    pub fn until_now(&self) -> Noise {
        let now = Self::now();
        let took = now.at - self.at;
        let others = (now.machine - self.machine).saturating_sub(now.ours - self.ours);
        Noise { took, others_percent: 100.0 * others.as_secs_f64() / took.as_secs_f64() }
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { took, others_percent } = self;
        write!(
            f,
            "  [took {:.0} s; others and the kernel used at most {others_percent:.0} % of one core]",
            took.as_secs_f64()
        )
    }
}

/// `/proc/stat`: user, nice, system, then (idle, iowait) irq, softirq, in ticks of 10 ms.
fn busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> =
        text.split_whitespace().skip(1).take(7).filter_map(|word| word.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Duration::from_millis(10 * (ticks.iter().sum::<u64>() - idle))
}
