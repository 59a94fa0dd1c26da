//! What the tests of what ships share: the tools of the system, a network of one's own, the packages.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

pub mod container;
mod not_run;

pub use not_run::not_run;

/// Time that anything may take on a busy machine: long, for only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether everything in `needs` is there: names of programs, or `root`. If not, the test counts as not run.
pub fn can_run(test: &str, needs: &[&str]) -> bool {
    let missing: Vec<_> = needs.iter().copied().filter(|need| !is_there(need)).collect();
    if !missing.is_empty() {
        not_run(test, &format!("needs {}", missing.join(", ")));
    }
    missing.is_empty()
}

fn is_there(need: &str) -> bool {
    match need {
        "root" => is_root(),
        program => search_path().split(':').any(|folder| Path::new(folder).join(program).is_file()),
    }
}

/// Whether we may do what only root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A system tool, found also in the folders that only root has in its search path.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    command
}

fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

/// Runs a command to its end and returns what it wrote to standard output.
///
/// # Panics
/// If it fails; the message holds all that it said.
pub fn run(command: &mut Command) -> String {
    let output = outcome(command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// Runs a command to its end, whatever that is.
///
/// # Panics
/// If it cannot be started.
pub fn outcome(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// True in a network of our own, where only loopback is. Outside, runs the test of that name again in such a network.
///
/// A namespace belongs to a process and a test is a thread: hence the second process.
pub fn in_own_network(test: &str) -> bool {
    if env::var_os("PORTREEVE_OWN_NETWORK").is_some() {
        return true;
    }
    let mut unshare = command("unshare");
    unshare.arg("--net").args(if is_root() { None } else { Some("--map-root-user") });
    if !outcome(Command::new(unshare.get_program()).args(unshare.get_args()).arg("true")).status.success() {
        not_run(test, "no network namespace is to be had");
        return false;
    }
    let again = env::current_exe().expect("the test's own binary");
    unshare.args(["sh", "-euc", "ip link set lo up; exec \"$0\" \"$@\""]).arg(again);
    run(unshare.args(["--exact", test, "--nocapture"]).env("PORTREEVE_OWN_NETWORK", "yes"));
    false
}

/// Asks until there is an answer, or returns None when patience ends.
pub fn wait_for<T>(mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let asked = Instant::now();
    loop {
        let answer = answer();
        if answer.is_some() || asked.elapsed() > PATIENCE {
            return answer;
        }
        sleep(Duration::from_millis(50));
    }
}

/// Builds a package around the binary under test; returns its file.
///
/// # Panics
/// If the script of that name in `packaging` fails.
pub fn package(script: &str, folder: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(script);
    let mut build = command(script.to_str().expect("a path in UTF-8"));
    build.arg(folder).env("PORTREEVE_BINARY", env!("CARGO_BIN_EXE_portreeve"));
    let said = run(&mut build);
    PathBuf::from(said.lines().last().expect("the script prints the package's name"))
}
