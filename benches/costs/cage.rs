//! Network, process and mount namespaces of the run's own, so that nothing outside is counted, touched or left over.
//!
//! Everything that measures or is measured lives in one pid namespace whose pid 1 is this program: when that
//! ends, however it ends, the kernel kills the rest, and the namespaces go with it. Nothing to clean up. Sections that
//! need the machine's own process numbers have no pid namespace: there each process ends when its parent does.

use std::io::Read;
use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::watch;

/// Which processes can be seen inside.
#[derive(Clone, Copy, PartialEq)]
pub enum Pids {
    /// Those of the run alone.
    Own,
    /// The machine's: a program in the kernel knows no other numbers. Whoever is started ends with its parent then.
    First,
}

impl Pids {
    fn word(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::First => "first",
        }
    }

    pub fn parse(word: &str) -> Self {
        if word == Self::First.word() { Self::First } else { Self::Own }
    }
}

/// Runs this program again inside, and waits for it. False: that failed, and was said.
pub fn enter(pids: Pids, args: &[String]) -> bool {
    let exe = std::env::current_exe().expect("this program's own path");
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("unshare")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("unshare");
        sudo
    };
    command.args(["--net", "--mount", "--fork", "--kill-child"]);
    if pids == Pids::Own {
        command.args(["--pid", "--mount-proc"]);
    }
    command.arg("--").arg(exe).args(["inside", pids.word()]);
    let mut child = match command.args(args).stdin(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("costs: cannot start unshare (util-linux): {error}");
            return false;
        }
    };
    // `settle` reads the other end. Whatever kills this process closes it: Ctrl-C, which pid 1 of a namespace
    // ignores, and SIGKILL alike. `wait` would close it at once if it still found it in the child.
    let leash = child.stdin.take();
    let status = child.wait().expect("a child to wait for");
    drop(leash);
    status.success()
}

/// A file system of the run's own, in memory: for what watchers write.
pub const MEMORY: &str = "/dev/shm";

/// A copy of portreeve that any user can reach and run.
pub const PUBLIC: &str = "/dev/shm/portreeve";

/// What the first process inside does first.
pub fn settle(pids: Pids) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|status| status.success()), "cannot bring loopback up with ip (iproute2)");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs", MEMORY]).status();
    assert!(mounted.is_ok_and(|status| status.success()), "cannot mount a tmpfs");
    std::fs::copy(watch::EXECUTABLE, PUBLIC).expect("a copy of portreeve");
    if pids == Pids::First {
        mount_tracing();
    }
    // On loopback a port in TIME_WAIT is given out again after a second: two connections of one name, which
    // `recall` could not tell apart.
    sysctl("net/ipv4/tcp_tw_reuse", 0);
    raise_descriptor_limit();
}

/// Where bpftrace looks for tracepoints, in the run's own mount namespace. Without it bpftrace says so itself.
fn mount_tracing() {
    for (kind, path) in [("tracefs", "/sys/kernel/tracing"), ("debugfs", "/sys/kernel/debug")] {
        if std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()) {
            let _ = Command::new("mount").args(["-t", kind, kind, path]).status();
        }
    }
}

/// Sets a number of the kernel's, in this run's namespaces alone.
pub fn sysctl(name: &str, value: u64) {
    if let Err(error) = std::fs::write(format!("/proc/sys/{name}"), value.to_string()) {
        eprintln!("costs: cannot set {name} to {value}: {error}");
    }
}

/// The last of the process numbers.
pub fn pid_max() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    text.trim().parse().expect("kernel/pid_max")
}

/// The next processes get the numbers from here on.
pub fn next_pid(pid: u64) {
    sysctl("kernel/ns_last_pid", pid - 1);
}

/// The soft limit (1,024 nearly everywhere) to the hard one. Inherited by all that is started.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}
