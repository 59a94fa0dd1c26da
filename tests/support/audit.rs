//! Audit records as auditd writes them, of processes that are really there.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use super::find_program;
use super::lab::Lab;

/// Connects to 127.0.0.1:22, prints its own port and when it asked (0 where perl cannot tell), waits so many seconds, and
/// is gone.
const VISIT: &str = "use Socket; $| = 1; eval { require Time::HiRes }; socket(S, PF_INET, SOCK_STREAM, 0); \
                     $at = eval { Time::HiRes::time() } // 0; connect(S, sockaddr_in(22, INADDR_LOOPBACK)) or exit; \
                     print +(sockaddr_in(getsockname(S)))[0], \" $at\\n\"; select(undef, undef, undef, $ARGV[0])";

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

    /// What this one asked for.
    pub fn visited(&mut self, visitor: &Visitor) {
        self.connect(visitor.pid(), [127, 0, 0, 1], visitor.asked, 0);
    }

    /// A connect by this process to port 22 of the address, at that moment, with what it answered.
    pub fn connect(&mut self, pid: u32, to: [u8; 4], at: SystemTime, exit: i32) {
        self.serial += 1;
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
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

/// Who has connected to port 22.
pub struct Visitor {
    child: Child,
    /// Of its own end.
    pub port: u64,
    pub asked: SystemTime,
}

impl Visitor {
    /// One that stays for so many seconds.
    pub fn start(lab: &Lab, seconds: &str) -> Self {
        let mut perl = lab.command("perl");
        let mut child = perl.args(["-e", VISIT, seconds]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (port, at) = line.trim_end().split_once(' ').unwrap();
        let asked = match at.parse().unwrap() {
            0.0 => SystemTime::now(),
            seconds => SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds),
        };
        Self { child, port: port.parse().unwrap(), asked }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has gone by itself.
    pub fn wait(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
