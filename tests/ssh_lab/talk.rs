//! Somebody at a shell: lines are typed, what comes back is read. What a login is is asked of the login itself, by
//! means that portreeve does not use, and is the truth of these tests.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use crate::host::{Host, PATIENCE};
use crate::support::wait_for;

/// A shell somewhere, at the other end of a command.
pub struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<String>>,
    asked: u32,
}

/// A login over SSH as it sees itself.
#[derive(Debug, Clone)]
pub struct Login {
    pub ip: String,
    pub port: u16,
    pub local_ip: String,
    pub local_port: u16,
    /// The parent of the login's shell.
    pub sshd_pid: u32,
    /// The parent of that, which holds the inbound socket too where it is one of a pair.
    pub monitor_pid: u32,
    /// `None`: no terminal.
    pub tty: Option<String>,
    pub user: String,
    /// The audit session's number.
    pub audit: Option<u32>,
    /// NAME of `session-NAME.scope`.
    pub scope: Option<String>,
}

impl Talk {
    /// Starts a command that ends in a shell which reads lines.
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (stdin, mut stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, stdin, said, asked: 0 }
    }

    /// `ssh ARGUMENTS` as a user of a host, who is in no session there, with a shell at the far end.
    pub fn ssh(host: &Host, user: &str, arguments: &[&str]) -> Self {
        Self::start(host.command_as(user, "ssh").args(arguments))
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Goes on into another shell, by a command that ends when that does.
    pub fn enter(&mut self, command: &str) {
        self.say(&format!("{command}; echo \"[ba\"\"ck]\""));
    }

    /// Leaves that shell again. What is typed before it has ended would be its last words.
    pub fn leave(&mut self) {
        let backs = |said: &str| said.matches("[back]").count();
        let before = backs(&self.said());
        self.say("exit");
        wait_for("the end of an inner shell", PATIENCE, || (backs(&self.said()) > before).then_some(()));
    }

    /// What a shell's expression is over there. A terminal repeats what is typed, with the quotes that tell it apart.
    #[track_caller]
    pub fn ask(&mut self, expression: &str) -> String {
        self.asked += 1;
        let (begin, end) = (format!("[{}:", self.asked), format!(":{}]", self.asked));
        self.say(&format!("echo \"{begin}\"\"{expression}\"\"{end}\""));
        let found = |said: &str| {
            let mut tails = said.split(begin.as_str()).skip(1).filter(|tail| !tail.starts_with('"'));
            tails.find_map(|tail| Some(tail.split_once(end.as_str())?.0.to_owned()))
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = found(&self.said.lock().unwrap()) {
                return answer;
            }
            let ended = self.child.try_wait().unwrap();
            let said = self.said();
            assert!(std::time::Instant::now() < deadline, "no answer to {expression} ({ended:?}): {said:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// What the login is that this shell is in.
    #[track_caller]
    pub fn login(&mut self) -> Login {
        Login::parse(&self.ask(LOGIN))
    }

    /// Ends it as a user does, by the end of the input or by `exit`.
    pub fn end(mut self) -> ExitStatus {
        let _ended_already = writeln!(self.stdin.as_mut().unwrap(), "exit");
        drop(self.stdin.take());
        wait_for("the end of a shell", PATIENCE, || self.child.try_wait().unwrap())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

/// A shell's expression for [`Login::parse`].
pub const LOGIN: &str = "$SSH_CONNECTION|$PPID|$(cat /proc/$PPID/stat)|$SSH_TTY|$USER|$(cat /proc/self/sessionid)|$(cat /proc/self/cgroup)|";

impl Login {
    #[track_caller]
    pub fn parse(told: &str) -> Self {
        let parts: Vec<_> = told.split('|').collect();
        let [connection, parent, monitor, tty, user, audit, cgroup, _] = parts[..] else {
            panic!("no login: {told:?}")
        };
        let words: Vec<_> = connection.split(' ').collect();
        let [ip, port, local_ip, local_port] = words[..] else { panic!("no SSH_CONNECTION: {told:?}") };
        let scope = cgroup.split_once("/session-").and_then(|(_, tail)| tail.split_once(".scope"));
        Self {
            ip: ip.into(),
            port: port.parse().unwrap(),
            local_ip: local_ip.into(),
            local_port: local_port.parse().unwrap(),
            sshd_pid: parent.parse().unwrap(),
            monitor_pid: monitor
                .rsplit(") ")
                .next()
                .and_then(|tail| tail.split(' ').nth(1))
                .unwrap()
                .parse()
                .unwrap(),
            tty: tty.strip_prefix("/dev/").map(str::to_owned),
            user: user.into(),
            audit: audit.parse().ok().filter(|session| *session != u32::MAX),
            scope: scope.map(|(name, _)| name.to_owned()),
        }
    }

    /// The origin of what was started in this login, as a record must have it; of two processes that hold the socket,
    /// what weaker evidence leads to may be either.
    pub fn origin(&self, evidence: &str) -> Value {
        let mut origin = json!({
            "kind": "ssh",
            "ip": self.ip,
            "port": self.port,
            "local_ip": self.local_ip,
            "local_port": self.local_port,
            "community_id": community_id(&self.ip, self.port, &self.local_ip, self.local_port),
            "user": self.user,
            "sshd_pid": if evidence == "socket" { json!(self.sshd_pid) } else { json!([self.sshd_pid, self.monitor_pid]) },
            "evidence": evidence,
        });
        for (name, value) in [("tty", &self.tty), ("session", &self.scope)] {
            if let Some(value) = value {
                origin[name] = json!(value);
            }
        }
        origin
    }
}

/// Community ID v1 with seed 0: the lower end first, SHA-1 of seed, addresses, protocol, padding, ports.
pub fn community_id(ip: &str, port: u16, other_ip: &str, other_port: u16) -> String {
    let bytes = |ip: &str| match ip.parse().unwrap() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut ends = [(bytes(ip), port), (bytes(other_ip), other_port)];
    ends.sort();
    let [(low, low_port), (high, high_port)] = ends;
    let hash = Sha1::new().chain_update([0, 0]).chain_update(low).chain_update(high).chain_update([6, 0]);
    let hash = hash.chain_update(low_port.to_be_bytes()).chain_update(high_port.to_be_bytes()).finalize();
    use base64::Engine as _;
    format!("1:{}", base64::engine::general_purpose::STANDARD.encode(hash))
}
