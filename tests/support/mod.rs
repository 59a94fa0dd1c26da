//! What the tests that use the real kernel share.
#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a helper that fails must fail the test, and tests own their clock and files"
)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub mod audit;
pub mod lab;
pub mod log;
mod not_run;
pub mod processes;
pub mod session;
pub mod udp;
pub mod watch;

pub use not_run::not_run;

/// Where a program is; `sbin` is searched as well, since a user's PATH lacks it.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Asks again every few milliseconds until there is an answer; panics with `what` when there is none in time.
pub fn wait_for<T>(what: &str, timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {timeout:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a command to its end and gives what it printed. One that never ends is killed and fails the test.
pub fn output(command: &mut Command) -> Output {
    const LIMIT: Duration = Duration::from_secs(60);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    match end.recv_timeout(LIMIT) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ended_meanwhile = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let output = end.recv_timeout(LIMIT).map(Result::unwrap);
            panic!("not ended in {LIMIT:?}: {command:?}: {output:?}");
        }
    }
}
