//! A real ssh session that stays until the test ends it, and that tells its own addresses.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::wait_for;

/// What the far end of a session runs: it prints the connection as sshd sees it, then waits for the end of its input.
pub const STAY: &str = "echo $SSH_CONNECTION; exec cat";

/// Source address and port, destination address and port.
pub type Addresses = (String, u16, String, u16);

pub struct Session {
    pub child: Child,
    /// As sshd tells them: a witness independent of the kernel's tables.
    pub addresses: Addresses,
    stdin: Option<ChildStdin>,
}

/// A session on its way.
pub struct Beginning {
    pub child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
}

impl Beginning {
    /// Runs a command that ends in an ssh with [`STAY`] as the remote command.
    pub fn new(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// Waits until it is logged in.
    pub fn logged_in(self) -> Session {
        let Self { mut child, stdin, stdout } = self;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let [from, from_port, to, to_port] = words[..] else {
            panic!("no session: {line:?}: {:?}", child.wait())
        };
        let addresses = (from.into(), from_port.parse().unwrap(), to.into(), to_port.parse().unwrap());
        Session { child, addresses, stdin }
    }
}

impl Session {
    /// Runs a command that ends in an ssh with [`STAY`] as the remote command and waits until it is logged in.
    pub fn start(command: &mut Command) -> Self {
        Beginning::new(command).logged_in()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes its input, upon which it ends as a user's session does.
    pub fn end(mut self) -> ExitStatus {
        drop(self.stdin.take());
        wait_for("the session's end", Duration::from_secs(10), || self.child.try_wait().unwrap())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}
