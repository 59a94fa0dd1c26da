//! A host of the tests' own: network, mounts, processes, host name, users and control groups apart from the machine's.
//!
//! `/etc` is the machine's under a writable layer in memory, so that programs find their configuration and users can be
//! made; nothing of it is left. Every process of a host dies with its pid 1, which dies with the test.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::outside;
use crate::support::watch::read_records;
use crate::support::{find_program, log, wait_for};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Users of every host: name, uid, home. Each has the key that every host lets each of them in with; the password of
/// each is `lab`.
pub const USERS: &[(&str, u32, &str)] =
    &[("root", 0, "/root"), ("alice", 1000, "/home/alice"), ("bob", 1001, "/home/bob")];

/// `openssl passwd -6 -salt portreeve lab`
const PASSWORD: &str =
    "$6$portreeve$tg32nv6gRFyTmOzlsoKXYTkKj7yOjCvAcsuyf7rwz0uiP8LdEc11Yk5cAMxAac6jsLXLE7CWmvOlbN7nvVHqV.";

const BASE: &[&str] =
    &["bash", "ip", "mount", "nft", "nsenter", "setpriv", "setsid", "ssh", "ssh-keygen", "sshd", "unshare"];

/// $1: the folder of the host outside, which is `/run/lab` inside. $2: portreeve. $3: another `/usr`, or nothing.
/// Reaps what is left to it, as an init does.
const INIT: &str = r#"
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs tmpfs /mnt
mkdir /mnt/etc /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work overlay /etc
umount --lazy /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd /run/lab /run/lock
touch /run/portreeve
mount --bind "$2" /run/portreeve
mount --bind "$1" /run/lab
[ -z "$3" ] || { mkdir /run/usr; mount --bind "$3" /run/usr; }
for folder in /home /root /var/log /var/spool /var/mail; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
hostname "$(cat /run/lab/hostname)"
ip link set lo up
[ -z "$3" ] || mount --bind /run/usr /usr
trap : CHLD
echo ready
exec > /dev/null 2>&1
sleep infinity &
while :; do wait; done
"#;

/// What pam_systemd and logind do at a login, with the same names: the login's processes go into a scope of its own.
const PAM_SESSION: &str = r#"#!/bin/sh
[ "$PAM_TYPE" = open_session ] || exit 0
number=$(($(cat /run/lab/sessions) + 1))
echo "$number" > /run/lab/sessions
scope=$(cat /run/lab/cgroup)/user.slice/user-$(id -u "$PAM_USER").slice/session-$number.scope
mkdir -p "$scope"
echo "$PPID" > "$scope/cgroup.procs"
"#;

/// Every source that a host has which is a process namespace of its own: eBPF's processes are numbered in the first, and so is
/// audit's network.
const ALL_SOURCES: &str = "--events destroy,syn,nflog:22,proc";

/// What is told may not depend on where it was learned: of the scenarios half are watched by all sources, half by those that a
/// watcher takes by itself. `PORTREEVE_LAB=all` or `=auto` has all of them watched so.
fn listens_to_all() -> bool {
    match std::env::var("PORTREEVE_LAB").as_deref() {
        Ok("all") => true,
        Ok("auto") => false,
        _ => std::thread::current().name().is_some_and(|scenario| scenario.len() % 2 == 0),
    }
}

/// How sshd learns who somebody is, and what it makes of a login.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Logins {
    /// With PAM: login uid, audit session, and a scope as systemd-logind makes one.
    Audited,
    /// With PAM: the scope alone, as where the kernel has no audit.
    Scoped,
    /// `UsePAM no`: neither.
    Bare,
}

/// One host.
pub struct Host {
    pub name: &'static str,
    outer: Child,
    /// Its pid 1, as the machine numbers it.
    init: u32,
    folder: tempfile::TempDir,
    cgroup: Option<PathBuf>,
    is_watched: std::cell::Cell<bool>,
    /// How long the log from outside was before.
    since: u64,
}

impl Host {
    /// Makes a host without a network; `Err` says what this machine lacks. `usr`: another system's `/usr`.
    pub fn new(name: &'static str, logins: Logins, usr: Option<&Path>) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root for namespaces of its own".into());
        }
        need(BASE)?;
        let folder =
            tempfile::Builder::new().prefix("portreeve-host.").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("hostname"), name).unwrap();
        fs::write(folder.path().join("sessions"), "0").unwrap();
        let cgroup = make_cgroup(name);
        let path = cgroup.as_deref().unwrap_or(Path::new("/dev/null"));
        fs::write(folder.path().join("cgroup"), path.to_str().unwrap()).unwrap();
        let since = outside::written();
        let (outer, init) = start_init(folder.path(), cgroup.as_deref(), usr)?;
        let host = Self { name, outer, init, folder, cgroup, is_watched: false.into(), since };
        host.write_users();
        host.write_ssh(logins);
        Ok(host)
    }

    fn write_users(&self) {
        let (mut passwd, mut shadow) = (String::new(), String::new());
        for (name, uid, home) in USERS {
            writeln!(passwd, "{name}:x:{uid}:{uid}::{home}:/bin/sh").unwrap();
            writeln!(shadow, "{name}:{PASSWORD}:19000:0:99999:7:::").unwrap();
        }
        passwd.push_str(
            "sshd:x:104:65534::/run/sshd:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
        );
        shadow.push_str("sshd:!:19000::::::\nnobody:*:19000::::::\n");
        self.write("/etc/passwd", &passwd);
        self.write("/etc/shadow", &shadow);
        let group = "root:x:0:\ntty:x:5:\ncrontab:x:101:\nnogroup:x:65534:\nalice:x:1000:\nbob:x:1001:\n";
        self.write("/etc/group", group);
        self.write("/etc/hostname", &format!("{}\n", self.name));
        self.run("chmod 600 /etc/shadow; rm -f /etc/nologin /run/nologin /etc/motd");
    }

    fn write_ssh(&self, logins: Logins) {
        let pam = if logins == Logins::Bare { "no" } else { "yes" };
        let sshd = format!(
            "HostKey /run/lab/host_key\nUsePAM {pam}\nPidFile /run/sshd.pid\nPermitRootLogin yes\nPrintMotd no\n\
             UseDNS no\nGatewayPorts clientspecified\nMaxStartups 100\nLogLevel VERBOSE\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\n"
        );
        self.write("/etc/ssh/sshd_config", &sshd);
        let ssh = "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null\n\
                   LogLevel ERROR\nConnectTimeout 10\n";
        self.write("/etc/ssh/ssh_config", ssh);
        let mut session = String::from("auth required pam_unix.so\naccount required pam_unix.so\n");
        if logins == Logins::Audited {
            session.push_str("session required pam_loginuid.so\n");
        }
        session.push_str("session optional pam_exec.so quiet /run/lab/pam_session\n");
        self.write("/etc/pam.d/sshd", &session);
        self.write("/run/lab/pam_session", PAM_SESSION);
        self.run("chmod 755 /run/lab/pam_session");
        // su, sudo and cron bring their own rules; they need no more than this of the common ones.
        for kind in ["auth", "account", "session", "session-noninteractive", "password"] {
            let word = kind.split('-').next().unwrap();
            self.write(&format!("/etc/pam.d/common-{kind}"), &format!("{word} required pam_permit.so\n"));
        }
        self.run("ssh-keygen -q -t ed25519 -N '' -f /run/lab/host_key; rm -rf /etc/ssh/ssh_config.d /etc/ssh/sshd_config.d");
    }

    /// Gives every user of these hosts one key, which lets each of them in as each.
    pub fn share_keys(hosts: &[&Self]) {
        let Some(first) = hosts.first() else { return };
        first.run("[ -e /run/lab/user_key ] || ssh-keygen -q -t ed25519 -N '' -C lab -f /run/lab/user_key");
        let (key, public) = (first.read("/run/lab/user_key"), first.read("/run/lab/user_key.pub"));
        for host in hosts {
            for (name, uid, home) in USERS {
                host.run(&format!("mkdir -p {home}/.ssh"));
                host.write(&format!("{home}/.ssh/id_ed25519"), &key);
                host.write(&format!("{home}/.ssh/authorized_keys"), &public);
                host.run(&format!("chmod -R go= {home}; chown -R {uid}:{uid} {home}; : {name}"));
            }
        }
    }

    /// Joins two hosts by a cable with these addresses at its ends.
    pub fn join(&self, address: &str, other: &Self, other_address: &str) {
        let (here, there) = (format!("to-{}", other.name), format!("to-{}", self.name));
        let made = Command::new("ip")
            .args([
                "link",
                "add",
                "name",
                &here,
                "netns",
                &self.init.to_string(),
                "type",
                "veth",
                "peer",
                "name",
            ])
            .args([&there, "netns", &other.init.to_string()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (host, wire, address) in [(self, &here, address), (other, &there, other_address)] {
            host.ip(&format!("address add {address} dev {wire}"));
            host.ip(&format!("link set {wire} up"));
        }
    }

    pub fn ip(&self, words: &str) {
        self.on_its_network(&format!("ip {words}"));
    }

    /// A program of the machine's on the host's network; another system's `/usr` may lack it.
    fn on_its_network(&self, words: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.init.to_string(), "--"]).args(words.split(' '));
        let done = command.output().unwrap();
        assert!(done.status.success(), "{words}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Where the test, which stays outside, finds a path of the host.
    fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    pub fn write(&self, path: &str, text: &str) {
        let file = self.outside(path);
        // A link of the machine's would lead out of the host.
        let _absent = fs::remove_file(&file);
        fs::write(&file, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    pub fn read(&self, path: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.outside(path)).unwrap_or_default()).into_owned()
    }

    /// A command of root's on the host, of which nothing there is the parent.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.enter();
        command.args(["env", "-i", PATH, "HOME=/root", "USER=root", "LOGNAME=root", "TERM=dumb", program]);
        command
    }

    /// The same as a user, who is in no login session.
    pub fn command_as(&self, user: &str, program: &str) -> Command {
        let (name, uid, home) = USERS.iter().find(|(name, ..)| *name == user).unwrap();
        let mut command = self.enter();
        command.arg("setpriv").args([format!("--reuid={uid}"), format!("--regid={uid}")]);
        command.args(["--init-groups", "env", "-i", PATH, "TERM=dumb"]);
        command.args([format!("HOME={home}"), format!("USER={name}"), format!("LOGNAME={name}")]);
        command.args(["sh", "-c", "cd; exec \"$@\"", "sh", program]);
        command
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--uts", "--ipc", "--pid"]);
        if self.cgroup.is_some() {
            command.arg("--cgroup");
        }
        command.args(["--target", &self.init.to_string(), "--"]);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs a shell script of root's to its good end; what it printed.
    pub fn run(&self, script: &str) -> String {
        let output = self.command("sh").args(["-ec", script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {script}\n{}: {said}", self.name, output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts what systemd would start as `NAME.service`: a child of pid 1 in that unit's control group.
    pub fn service(&self, name: &str, program: &str) {
        self.start_in(&format!("system.slice/{name}.service"), name, program);
    }

    /// Starts a child of pid 1 in a control group.
    pub fn start_in(&self, group: &str, name: &str, program: &str) {
        let join = self.cgroup.as_ref().map_or(String::new(), |cgroup| {
            let group = cgroup.join(group);
            let group = group.display();
            format!("mkdir -p {group}; echo $$ > {group}/cgroup.procs; ")
        });
        self.write(
            &format!("/run/lab/{name}.start"),
            &format!("echo $$ > /run/lab/{name}.pid\nexec {program}\n"),
        );
        let start = format!("setsid --fork sh /run/lab/{name}.start < /dev/null > /run/lab/{name}.log 2>&1");
        self.run(&format!("{join}exec {start}"));
    }

    /// Starts sshd at these addresses (`198.51.100.1`, `198.51.100.1:2222`), or at port 22 of all.
    pub fn sshd(&self, addresses: &[&str]) {
        let listen: String = addresses.iter().map(|address| format!(" -o ListenAddress={address}")).collect();
        self.service("ssh", &format!("/usr/sbin/sshd -D -e{listen}"));
        wait_for("sshd to listen", PATIENCE, || {
            let said = self.read("/run/lab/ssh.log");
            assert!(!said.contains("fatal"), "sshd: {said}");
            (said.matches("Server listening").count() >= addresses.len().max(1)).then_some(())
        });
    }

    /// Starts portreeve with more arguments.
    pub fn watch(&self, arguments: &[&str]) {
        let mut sources = crate::SOURCES.join(" ");
        if listens_to_all() {
            sources = format!("{sources} {ALL_SOURCES}");
            self.run("/run/portreeve rule nflog --ports 1-65535 > /run/lab/rule");
            self.on_its_network(&format!("nft -f {}", self.outside("/run/lab/rule").display()));
        }
        let more = arguments.join(" ");
        self.write("/run/lab/portreeve.toml", "");
        self.write("/run/lab/outside", &outside::rule());
        self.on_its_network(&format!("nft -f {}", self.outside("/run/lab/outside").display()));
        let command = "/run/portreeve watch --config /run/lab/portreeve.toml --netns own";
        let command = format!("{command} --log-file /run/lab/events.jsonl {sources} {more}");
        self.service("portreeve", &command);
        self.is_watched.set(true);
        self.wait_records("watch-started", |records| {
            records.iter().any(|record| record["event"]["action"] == "watch-started").then_some(())
        });
    }

    /// The log outside.
    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("events.jsonl")
    }

    pub fn records(&self) -> Vec<Value> {
        read_records(&self.log_file())
    }

    /// Waits until `ask` finds what it wants in the records; shows all of them when it never does.
    pub fn wait_records<T>(&self, what: &str, ask: impl Fn(&[Value]) -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let records = self.records();
            if let Some(answer) = ask(&records) {
                return answer;
            }
            if std::time::Instant::now() > deadline {
                let all: String = records.iter().map(log::summary).collect();
                panic!(
                    "{}: no {what} in {PATIENCE:?}:\n{all}{}{}",
                    self.name,
                    self.read("/run/lab/portreeve.log"),
                    self.read("/run/lab/ssh.log")
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops portreeve and gives its whole log, checked as every log is.
    pub fn stop_watch(&self) -> Vec<Value> {
        self.run("kill $(cat /run/lab/portreeve.pid)");
        self.wait_records("watch-stopped", |records| {
            records.iter().any(|record| record["event"]["action"] == "watch-stopped").then_some(())
        });
        self.is_watched.set(false);
        let records = log::check(&fs::read(self.log_file()).unwrap());
        let told = records.clone();
        let netns = netns_of(self.init).unwrap();
        outside::told(outside::Host {
            name: self.name,
            netns,
            since: self.since,
            pids: self.pids(),
            records: told,
        });
        records
    }

    /// Its processes: their numbers here, and outside.
    fn pids(&self) -> BTreeMap<u64, u64> {
        let namespace = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|file| file.ino());
        let own = namespace(&self.init.to_string());
        let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let pid = entry.file_name().into_string().ok().filter(|pid| namespace(pid) == own)?;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            Some((numbers.split_whitespace().last()?.parse().ok()?, pid.parse().ok()?))
        });
        all.collect()
    }

    pub fn is_watched(&self) -> bool {
        self.is_watched.get()
    }

    /// True if control groups can be made here, and so scopes as logind makes them.
    pub fn has_scopes(&self) -> bool {
        self.cgroup.is_some()
    }
}

const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// The first of these programs that is not installed.
pub fn need(programs: &[&str]) -> Result<(), String> {
    match programs.iter().find(|name| find_program(name).is_none()) {
        Some(missing) => Err(format!("{missing} is not installed")),
        None => Ok(()),
    }
}

/// A group of the test's own in the hierarchy that tells systemd's units; `None` where none can be made.
fn make_cgroup(name: &str) -> Option<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let roots = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup"].map(Path::new);
    let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists())?;
    let group = root.join(format!("portreeve-lab.{}.{number}.{name}", std::process::id()));
    fs::create_dir(&group).ok()?;
    Some(group)
}

fn netns_of(pid: u32) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}

fn remove_cgroup(group: &Path) {
    for inner in fs::read_dir(group).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&inner.path());
        }
    }
    // Its last process may be on its way out still.
    for _ in 0..500 {
        if fs::remove_dir(group).is_ok() || !group.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts pid 1 and waits until the host is made.
fn start_init(folder: &Path, cgroup: Option<&Path>, usr: Option<&Path>) -> Result<(Child, u32), String> {
    let join = "if [ -n \"$1\" ]; then echo $$ > \"$1/cgroup.procs\"; shift; set -- unshare --cgroup \"$@\"; \
                else shift; set -- unshare \"$@\"; fi; exec setpriv --pdeathsig KILL \"$@\"";
    let mut outer = Command::new("sh")
        .args(["-ec", join, "sh"])
        .arg(cgroup.unwrap_or(Path::new("")))
        .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["bash", "-ec", INIT, "init"])
        .arg(folder)
        .arg(env!("CARGO_BIN_EXE_portreeve"))
        .arg(usr.unwrap_or(Path::new("")))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(folder.join("init.log")).unwrap())
        .spawn()
        .map_err(|error| format!("sh: {error}"))?;
    let mut ready = String::new();
    BufReader::new(outer.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let pid = outer.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    match children.trim().parse() {
        Ok(init) if ready == "ready\n" => Ok((outer, init)),
        _ => {
            let _ended_already = outer.kill();
            let _reaped_already = outer.wait();
            let said = fs::read_to_string(folder.join("init.log")).unwrap_or_default();
            Err(format!("no host can be made here: {}", said.trim_end()))
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = |record: &Value| {
                format!("{}  {}\n", record["portreeve"]["origin"], log::summary(record).trim_end())
            };
            let records: String = self.records().iter().map(told).collect();
            eprintln!("--- {}: sshd\n{}--- records\n{records}", self.name, self.read("/run/lab/ssh.log"));
        }
        // With it its child, pid 1, and with that every process of the host.
        let _ended_already = self.outer.kill();
        let _reaped_already = self.outer.wait();
        if let Some(cgroup) = &self.cgroup {
            remove_cgroup(cgroup);
        }
    }
}
