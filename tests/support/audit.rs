//! Audit records as auditd writes them, of processes that are really there.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use super::find_program;
use super::lab::Lab;

/// Connects to 127.0.0.1:22, waits so many seconds, and is gone; prints its own port.
const SHORT: &str = "use Socket; socket(S, PF_INET, SOCK_STREAM, 0); \
                     connect(S, sockaddr_in(22, INADDR_LOOPBACK)) or exit; select(undef, undef, undef, $ARGV[0]); \
                     print +(sockaddr_in(getsockname(S)))[0]";

/// An audit log of the test's own.
pub struct Log {
    pub path: PathBuf,
    serial: u64,
}

impl Log {
    pub fn new(lab: &Lab) -> Self {
        let path = lab.path("audit.log");
        std::fs::write(&path, "type=DAEMON_START msg=audit(1.000:1): op=start\n").unwrap();
        Self { path, serial: 100 }
    }

    /// A connect by this process to port 22 of the address, as long ago as it is said, with what it answered.
    pub fn connect(&mut self, pid: u32, to: [u8; 4], ago: Duration, exit: i32) {
        self.serial += 1;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() - ago;
        let stamp = format!("audit({}.{:03}:{})", since.as_secs(), since.subsec_millis(), self.serial);
        let success = if exit == 0 { "yes" } else { "no" };
        let (ppid, address) = (std::process::id(), to.map(|byte| format!("{byte:02X}")).concat());
        let mut lines = String::new();
        let _ = writeln!(
            lines,
            "type=SYSCALL msg={stamp}: arch=c000003e syscall=42 success={success} exit={exit} a0=3 a1=7f a2=10 a3=0 items=0 \
             ppid={ppid} pid={pid} auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts3 ses=7 \
             comm=\"perl\" exe=\"{}\" key=\"portreeve\"\u{1d}ARCH=x86_64 SYSCALL=connect AUID=\"alice\"",
            std::fs::canonicalize(find_program("perl").unwrap()).unwrap().display()
        );
        let _ = writeln!(lines, "type=SOCKADDR msg={stamp}: saddr=02000016{address}0000000000000000");
        let _ = writeln!(lines, "type=PROCTITLE msg={stamp}: proctitle=7065726C002D2D70617373776F72643D78");
        let _ = writeln!(lines, "type=EOE msg={stamp}: ");
        OpenOptions::new().append(true).open(&self.path).unwrap().write_all(lines.as_bytes()).unwrap();
    }
}

/// It, for so many seconds.
pub fn perl(lab: &Lab, seconds: &str) -> Child {
    lab.command("perl").args(["-e", SHORT, seconds]).stdout(Stdio::piped()).spawn().unwrap()
}

/// What it printed.
pub fn port_of(child: Child) -> u64 {
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().parse().unwrap()
}
