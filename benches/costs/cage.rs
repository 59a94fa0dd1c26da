//! Network, process and mount namespaces of the run's own, so that nothing outside is counted, touched or left over.
//!
//! Everything that measures or is measured lives in one pid namespace whose pid 1 is this program: when that
//! ends, however it ends, the kernel kills the rest, and the namespaces go with it. Nothing to clean up.

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Runs this program again inside, and waits for it.
pub fn enter(args: &[String]) -> ExitCode {
    let exe = std::env::current_exe().expect("this program's own path");
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("unshare")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("unshare");
        sudo
    };
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]).arg(exe).arg("inside");
    let mut child = match command.args(args).stdin(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("costs: cannot start unshare (util-linux): {error}");
            return ExitCode::FAILURE;
        }
    };
    // `settle` reads the other end. Whatever kills this process closes it: Ctrl-C, which pid 1 of a namespace
    // ignores, and SIGKILL alike. `wait` would close it at once if it still found it in the child.
    let leash = child.stdin.take();
    let status = child.wait().expect("a child to wait for");
    drop(leash);
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What pid 1 of the namespaces does first.
pub fn settle() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.is_ok_and(|status| status.success()), "cannot bring loopback up with ip (iproute2)");
    // On loopback a port in TIME_WAIT is given out again after a second: two connections of one name, which
    // `recall` could not tell apart.
    let _ = std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0");
    raise_descriptor_limit();
}

/// The soft limit (1,024 nearly everywhere) to the hard one. Inherited by all that is started.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}
