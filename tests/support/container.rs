//! A real systemd: this machine's own files under a writable layer in memory, booted by systemd-nspawn.
//!
//! Nothing is downloaded and nothing is left behind: the layer lives in a mount namespace of its own and ends with the
//! container, which ends with the test.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, command, outcome, run, wait_for};

/// $1: an empty folder; behind it options of systemd-nspawn. Host services, SysV scripts and mounts stay out; a machine id must stand, or systemd would take
/// this for a first boot and enable every service that is installed. Where systemd is the machine's own pid 1, nspawn
/// asks it for a scope; elsewhere it has to keep the control group it finds.
const BOOT: &str = r#"
mount -t tmpfs -o mode=0755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
shift
rm -rf etc/systemd/system/*.wants etc/rc?.d/S* etc/fstab usr/sbin/policy-rc.d
tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
keep=--keep-unit
[ ! -d /run/systemd/system ] || keep=
exec systemd-nspawn --quiet --directory=. --machine="portreeve-$$" --boot $keep --register=no --link-journal=no \
    --private-network --console=pipe "$@" systemd.unit=multi-user.target
"#;

/// A booted system; dropping it kills it.
pub struct Container {
    nspawn: Child,
    init: Pid,
}

impl Container {
    /// Boots a system, its console going to `folder/console`.
    ///
    /// # Errors
    /// Why this machine cannot: no portreeve is in it yet, so that its failure to boot says nothing of portreeve.
    pub fn boot(folder: &Path) -> Result<Self, String> {
        Self::boot_with(folder, &[])
    }

    /// The same with these options of systemd-nspawn.
    ///
    /// # Errors
    /// As `boot`.
    pub fn boot_with(folder: &Path, options: &[&str]) -> Result<Self, String> {
        let console = folder.join("console");
        let tree = folder.join("tree");
        fs::create_dir(&tree).expect("the test's folder is writable");
        let output = File::create(&console).expect("the test's folder is writable");
        // A test that is killed must not leave a system behind: nspawn dies with us, and all in it with nspawn.
        let mut nspawn = command("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-euc",
                BOOT,
                "boot",
            ])
            .arg(&tree)
            .args(options)
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a descriptor is free"))
            .stdout(output)
            .spawn()
            .expect("setpriv starts");
        match wait_for(|| find_init(&mut nspawn)) {
            Some(Ok(init)) => Ok(Self { nspawn, init }).and_then(Self::wait_until_up),
            Some(Err(ended)) => Err(format!("{ended}: {}", last_line(&console))),
            None => Err(format!("no init in {PATIENCE:?}: {}", last_line(&console))),
        }
    }

    fn wait_until_up(self) -> Result<Self, String> {
        // A unit of the host's that fails in here is no reason against the test.
        let is_up =
            || self.succeeds("systemctl is-system-running | grep -E 'running|degraded'").then_some(());
        wait_for(is_up).map(|()| self).ok_or(format!("not up after {PATIENCE:?}"))
    }

    /// Runs a script inside, as root; returns its standard output.
    ///
    /// # Panics
    /// If the script fails.
    pub fn sh(&self, script: &str) -> String {
        run(&mut self.command(script))
    }

    /// Whether a script succeeds inside.
    pub fn succeeds(&self, script: &str) -> bool {
        outcome(&mut self.command(script)).status.success()
    }

    /// A script to be run inside, as root.
    pub fn command(&self, script: &str) -> Command {
        let mut command = command("nsenter");
        let init = self.init.as_raw_nonzero().to_string();
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--target", &init]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "timeout", "60"]);
        command.args(["sh", "-euc", script]);
        command
    }

    /// A path inside, as it is reached from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init.as_raw_nonzero()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let traces = "journalctl --no-pager --lines 60; tail -n 20 /var/log/portreeve/events.jsonl";
            eprintln!("{}", String::from_utf8_lossy(&outcome(&mut self.command(traces)).stdout));
        }
        let _ = kill_process(self.init, Signal::KILL);
        let _ = self.nspawn.wait();
    }
}

/// The container's pid 1: nspawn's child once it is systemd. `Some(Err)` if nspawn ended before.
fn find_init(nspawn: &mut Child) -> Option<Result<Pid, String>> {
    if let Some(status) = nspawn.try_wait().expect("nspawn is our child") {
        return Some(Err(format!("systemd-nspawn ended, {status}")));
    }
    let id = nspawn.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    let is_systemd =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "systemd\n");
    let init = children.split_whitespace().find(is_systemd)?;
    Pid::from_raw(init.parse().ok()?).map(Ok)
}

fn last_line(console: &Path) -> String {
    let said = fs::read(console).unwrap_or_default();
    String::from_utf8_lossy(&said)
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
        .to_owned()
}
