//! A machine of its own, emulated (`machine`, beside this): systemd is its first process, in the first namespaces of all kinds,
//! which no container's is.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::support::command;

/// Emulated, and beside others it boots slowly.
const PATIENCE: Duration = Duration::from_secs(400);

/// A booted machine; dropping it ends it.
pub struct Machine {
    qemu: Child,
    agent: RefCell<BufReader<UnixStream>>,
}

impl Machine {
    /// Where `tests/run` unpacks a kernel. `None`: it has not.
    pub fn kernel() -> Option<PathBuf> {
        let kernel = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel");
        kernel.join("boot").is_dir().then_some(kernel)
    }

    /// Boots with the package unpacked; what it says goes to `folder/console`.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub fn boot(folder: &Path, kernel: &Path, package: &Path) -> Result<Self, String> {
        let (console, inside) = (folder.join("console"), folder.join("machine"));
        fs::create_dir(&inside).expect("the test's folder is writable");
        let output = File::create(&console).expect("the test's folder is writable");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples/machine");
        let qemu = command("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(script)
            .args([&inside, kernel, package])
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a descriptor is free"))
            .stdout(output)
            .spawn()
            .expect("setpriv starts");
        let said = || {
            let said = fs::read(&console).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).into_owned();
            said.lines().rev().take(4).collect::<Vec<_>>().join(" / ")
        };
        let mut qemu = Ended(Some(qemu));
        let agent =
            connect(&mut qemu, &inside.join("agent.sock")).map_err(|error| format!("{error}: {}", said()))?;
        let Some(qemu) = qemu.0.take() else { return Err(said()) };
        let machine = Self { qemu, agent: RefCell::new(BufReader::new(agent)) };
        match machine.line() {
            Some(ready) if ready == "0" => Ok(machine),
            _ => Err(format!("not up after {PATIENCE:?}: {}", said())),
        }
    }

    fn line(&self) -> Option<String> {
        let mut line = String::new();
        let read = self.agent.borrow_mut().read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Runs a script inside, as root: how it ended, what it said, and what went wrong.
    fn outcome(&self, script: &str) -> (String, String, String) {
        let script = BASE64_STANDARD.encode(script);
        self.agent
            .borrow_mut()
            .get_mut()
            .write_all(format!("{script}\n").as_bytes())
            .expect("the machine listens");
        let line = self.line().expect("the machine answers");
        let mut words = line.split(' ');
        let status = words.next().unwrap_or_default().to_owned();
        let mut text = || {
            let bytes = BASE64_STANDARD.decode(words.next().unwrap_or_default()).expect("base64");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        (status, text(), text())
    }
}

impl crate::System for Machine {
    fn sh(&self, script: &str) -> String {
        let (status, said, wrong) = self.outcome(script);
        assert_eq!(status, "0", "{script}\n{said}\n{wrong}");
        said
    }

    fn succeeds(&self, script: &str) -> bool {
        self.outcome(script).0 == "0"
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let traces = "journalctl --no-pager --lines 60; tail -n 20 /var/log/portreeve/events.jsonl";
            eprintln!("{}", self.outcome(traces).1);
        }
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Ends what was started if it comes to nothing.
struct Ended(Option<Child>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn connect(qemu: &mut Ended, socket: &Path) -> Result<UnixStream, String> {
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        let child = qemu.0.as_mut().ok_or("it was not started")?;
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended, {status}"));
        }
        if let Ok(agent) = UnixStream::connect(socket) {
            agent.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
            return Ok(agent);
        }
        sleep(Duration::from_millis(100));
    }
    Err(format!("no machine in {PATIENCE:?}"))
}
