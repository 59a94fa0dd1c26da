//! A host of the test's own: a network and a mount namespace, a real sshd in them, and everything gone afterwards.
//!
//! The namespaces have no name and no file: they live as long as the processes in them. Every process started through
//! the lab dies with the test's thread, so nothing outlives even a killed test.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{find_program, wait_for};

/// The uid and gid that Debian calls nobody and nogroup: a user whose every process in a lab is the test's.
pub const NOBODY: u32 = 65534;

/// The lab of this test, or the end of the test with the reason said: `lab!()`, `lab!("nft")`.
#[macro_export]
macro_rules! lab {
    ($($program:literal),*) => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here).trim_end_matches("::here");
        match $crate::support::lab::Lab::new(&[$($program),*]) {
            Ok(lab) => lab,
            Err(reason) => return $crate::support::not_run(test, &reason),
        }
    }};
}

/// One host. Dropping it ends every process in its network namespace.
pub struct Lab {
    holder: Child,
    netns: u64,
    folder: tempfile::TempDir,
    servers: Vec<Child>,
}

impl Lab {
    /// Makes the namespaces, the keys and the client's configuration; `Err` says what this machine lacks.
    pub fn new(programs: &[&str]) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root for namespaces of its own".into());
        }
        let base = ["ip", "mount", "nsenter", "setpriv", "sh", "ssh", "ssh-keygen", "sshd", "unshare"];
        if let Some(missing) = base.iter().chain(programs).find(|name| find_program(name).is_none()) {
            return Err(format!("{missing} is not installed"));
        }
        let (holder, netns) = hold_namespaces()?;
        let folder = tempfile::Builder::new().prefix("portreeve-lab.").tempdir().expect("a temporary folder");
        // Another user's ssh and watcher work in it too.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let lab = Self { holder, netns, folder, servers: Vec::new() };
        lab.write_keys();
        Ok(lab)
    }

    fn write_keys(&self) {
        for name in ["host_key", "user_key"] {
            let key = ["-q", "-t", "ed25519", "-N", "", "-f"];
            let done = Command::new("ssh-keygen").args(key).arg(self.path(name)).status().unwrap();
            assert!(done.success(), "ssh-keygen: {done}");
        }
        std::fs::rename(self.path("user_key.pub"), self.path("authorized_keys")).unwrap();
        // A configuration file instead of options, because `ssh -J` hands only the file on to its child.
        let config = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking no\nLogLevel ERROR\nBatchMode yes\n",
            self.path("user_key").display()
        );
        std::fs::write(self.path("ssh_config"), config).unwrap();
        // The source `ebpf`, which `auto` would take too, has tests of its own; loading it takes a while.
        std::fs::write(self.path("portreeve.toml"), "events = \"destroy,syn\"\n").unwrap();
    }

    /// A file of the lab's own folder, in /tmp and so the same inside and outside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the test, which stays outside, finds a path of the lab's mount namespace.
    pub fn outside(&self, path: &Path) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.holder.id())).join(path.strip_prefix("/").unwrap())
    }

    /// A command in the lab. Its pid is the program's own: nothing on the way there forks.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.enter();
        command.arg("setpriv").args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// The same as another user, with no more rights than that user has; `options` are setpriv's.
    pub fn command_as(&self, user: u32, options: &[&str], program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.enter();
        let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
        command.arg("setpriv").args([&uid, &gid, "--clear-groups"]).args(options).arg("--");
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--target", &self.holder.id().to_string(), "--"]);
        for name in ["SLEEP", "SSH_AUTH_SOCK", "NOTIFY_SOCKET", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// Runs a shell script in the lab to its good end; what it printed.
    pub fn run(&self, script: &str) -> String {
        let Output { status, stdout, stderr } = self.command("sh").args(["-ec", script]).output().unwrap();
        assert!(status.success(), "{script}\n{status}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Opens that the kernel of a lab has counted.
    pub fn active_opens(&self) -> u64 {
        let snmp = self.run("grep ^Tcp: /proc/net/snmp | tail -n 1");
        snmp.split_whitespace().nth(5).unwrap().parse().unwrap()
    }

    /// Calls `act` on a thread that is in the lab's network: its sockets are there, owned by the test's process.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        let enter =
            || move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                enter();
                act()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn connect(&self, to: &str) -> TcpStream {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| TcpStream::connect(to).unwrap())
    }

    pub fn listen(&self, at: &str) -> TcpListener {
        let at: SocketAddr = at.parse().unwrap();
        self.inside(|| TcpListener::bind(at).unwrap())
    }

    /// Starts a real sshd at these addresses (`127.0.0.1:2222`, `[::1]:22`) and waits until it listens.
    pub fn sshd(&mut self, addresses: &[&str]) -> &mut Self {
        // Its folder for separated privileges: a tmpfs of the lab's own covers /run.
        let name = format!("sshd-{}", self.servers.len());
        let listen: String = addresses.iter().map(|address| format!("ListenAddress {address}\n")).collect();
        let config = format!(
            "{listen}HostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\nPrintMotd no\n\
             UseDNS no\nPermitRootLogin yes\nMaxStartups 200\nSubsystem sftp internal-sftp\n",
            self.path("host_key").display(),
            self.path("authorized_keys").display()
        );
        let (config_file, log) = (self.path(&format!("{name}.conf")), self.path(&format!("{name}.log")));
        std::fs::write(&config_file, config).unwrap();
        let stderr = std::fs::File::create(&log).unwrap();
        // By its path: sshd runs itself again for every session and refuses a relative name.
        let mut sshd = self.command(find_program("sshd").unwrap());
        let server =
            sshd.args(["-D", "-e", "-f"]).arg(config_file).stdout(Stdio::null()).stderr(stderr).spawn();
        self.servers.push(server.unwrap());
        wait_for("sshd to listen", Duration::from_secs(10), || {
            let said = std::fs::read_to_string(&log).unwrap();
            assert!(!said.contains("fatal"), "sshd: {said}");
            (said.matches("Server listening").count() >= addresses.len()).then_some(())
        });
        self
    }

    /// The process that keeps the namespaces alive; it holds no socket.
    pub fn holder(&self) -> u32 {
        self.holder.id()
    }

    /// The pid of the first sshd.
    pub fn sshd_pid(&self) -> u32 {
        self.servers[0].id()
    }

    /// `ssh` with the lab's key and no configuration of the machine's.
    pub fn ssh(&self) -> Command {
        let mut ssh = self.command("ssh");
        ssh.arg("-F").arg(self.path("ssh_config"));
        ssh
    }

    /// Drops packets that come to a port; `open_port` lets them through again.
    pub fn filter_port(&self, port: u16) {
        self.run(&format!(
            "nft add table inet lab; nft 'add chain inet lab input {{ type filter hook input priority 0; }}'; \
             nft add rule inet lab input tcp dport {port} drop"
        ));
    }

    pub fn open_ports(&self) {
        self.run("nft delete table inet lab");
    }

    /// Joins two hosts by a cable: 192.0.2.1 is this one, 192.0.2.2 the other.
    pub fn join(&self, other: &Self) {
        let (this, that) = (self.holder.id(), other.holder.id());
        let cable = format!("ip link add wire netns {this} type veth peer name wire netns {that}");
        let made = Command::new("sh").args(["-ec", &cable]).output().unwrap();
        assert!(made.status.success(), "{cable}: {}", String::from_utf8_lossy(&made.stderr));
        for (host, address) in [(self, "192.0.2.1/24"), (other, "192.0.2.2/24")] {
            host.run(&format!("ip address add {address} dev wire; ip link set wire up"));
        }
    }

    /// Every process in the lab's network: all of them were started by the test.
    fn processes(&self) -> Vec<u32> {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| netns_of(*pid) == Some(self.netns)).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Held, lest its number be given to another test's namespace, whose processes would then be taken for ours.
        let _held = std::fs::File::open(format!("/proc/{}/ns/net", self.holder.id()));
        // Again until none is left: a server may have forked between the look and the signal.
        for _ in 0..20 {
            let alive = self.processes();
            for pid in &alive {
                let pid = Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
                let _gone_meanwhile = kill_process(pid, Signal::KILL);
            }
            for child in self.servers.iter_mut().chain([&mut self.holder]) {
                let _never_started = child.wait();
            }
            if alive.is_empty() {
                break;
            }
        }
    }
}

fn netns_of(pid: u32) -> Option<u64> {
    Some(std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}

/// Starts the process that keeps the namespaces alive; `Err` where this machine allows none.
fn hold_namespaces() -> Result<(Child, u64), String> {
    // The program is bound to a place that every user can reach, wherever it was built.
    let script = "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 755 /run/sshd && touch /run/portreeve && \
                  mount --bind \"$0\" /run/portreeve && ip link set lo up && echo ready && exec sleep infinity";
    let mut holder = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "sh", "-c", script])
        .arg(env!("CARGO_BIN_EXE_portreeve"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("setpriv: {error}"))?;
    let mut ready = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    if ready != "ready\n" {
        let output = holder.wait_with_output().unwrap();
        return Err(format!("no namespaces here: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    let netns = netns_of(holder.id()).expect("the holder's network namespace");
    assert_ne!(Some(netns), netns_of(std::process::id()), "the lab must never be the machine's own network");
    Ok((holder, netns))
}
