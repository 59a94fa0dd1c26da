//! The only reader of `/proc`: one struct over a root folder, so that tests give it another folder.
//!
//! Knows nothing of ports, programs, directions or connections: it says what the kernel says. "Gone" (ENOENT, ESRCH)
//! is an answer here and not a failure. Truth: proc(5) and Documentation/filesystems/proc.rst.

mod counters;
mod executable;
mod fd;
mod mounts;
mod net;
mod netlink;
mod netns;
mod patience;
mod pid;

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, fstatfs, openat, readlinkat, statat};
use rustix::io::{Errno, pread};
use rustix::process::{Pid, getpriority_process};

pub use counters::{Counters, UdpCounters, parse_counters, parse_sent, parse_sockets};
pub use executable::{Content, Executable, Reading, Unread};
pub use fd::{Descriptor, Shows, Sight, Table, parse_fdinfo, parse_in_flight, parse_ring, parse_socket_link};
pub use mounts::parse_hiding_options;
pub use net::{Net, TableRead, parse_row};
pub use netlink::parse_netlink_drops;
pub use netns::Lives;
pub use pid::{
    Depth, Held, Kept, MAX_ARGS_BYTES, Print, Status, parse_cgroup, parse_parent, parse_stat, parse_status,
    split_args,
};

use crate::connection::Netns;

/// What could not be read, and where.
#[derive(Debug)]
pub enum ProcError {
    /// A file that must be there could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was read and is not what the kernel writes there.
    Parse {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        field: &'static str,
    },
}

impl ProcError {
    /// True if the thing is gone: a process ended, which is no failure.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Read { source, .. } => is_gone(source.raw_os_error()),
            Self::Parse { .. } => false,
        }
    }
}

fn is_gone(code: Option<i32>) -> bool {
    [Errno::NOENT, Errno::SRCH].iter().any(|gone| Some(gone.raw_os_error()) == code)
}

impl fmt::Display for ProcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read {}", path.display()),
            Self::Parse { path, field } => write!(f, "{}: bad {field}", path.display()),
        }
    }
}

impl std::error::Error for ProcError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Parse { .. } => None,
        }
    }
}

/// `statfs` magic of a real `/proc`.
const PROC_MAGIC: u64 = 0x9fa0;

/// A `/proc`, or a folder that looks like one.
#[derive(Debug)]
pub struct Proc {
    root: PathBuf,
    dir: OwnedFd,
    /// True if the kernel is behind it, so that its process numbers mean something to system calls.
    live: bool,
    /// `mnt_id` of the socket file system as `fdinfo` prints it.
    socket_mount: Option<u64>,
    /// `self/net/snmp`, kept open: reading it again from 0 makes the kernel write it anew.
    snmp: OnceCell<OwnedFd>,
    /// The same of `self/net/sockstat` and `self/net/sockstat6`.
    sockstat: [OnceCell<OwnedFd>; 2],
    last_pid: OnceCell<OwnedFd>,
    version: OnceCell<Option<(u32, u32)>>,
    /// True if the kernel numbers processes by the inodes of their pidfds.
    has_pidfs: OnceCell<bool>,
    patience: RefCell<patience::Patience>,
}

impl Proc {
    /// Opens the folder; nothing in it is read yet.
    ///
    /// # Errors
    /// `Read` if `root` cannot be opened.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, ProcError> {
        let root = root.into();
        let dir = openat(CWD, &root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| ProcError::Read { path: root.clone(), source: e.into() })?;
        let live = fstatfs(&dir).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(PROC_MAGIC));
        Ok(Self {
            root,
            dir,
            live,
            socket_mount: None,
            snmp: OnceCell::new(),
            sockstat: Default::default(),
            last_pid: OnceCell::new(),
            version: OnceCell::new(),
            has_pidfs: OnceCell::new(),
            patience: RefCell::default(),
        })
    }

    /// Learns by which mount id `fdinfo` tells a socket from a file that bears the same inode number: asks for that of
    /// a socket of our own. Without it descriptors are read through `fd` links alone.
    #[must_use]
    pub fn with_own_socket_mount(self) -> Self {
        let mount = std::os::unix::net::UnixDatagram::unbound().ok().and_then(|socket| {
            use std::os::fd::AsRawFd;
            let info = self.read_file(&format!("self/fdinfo/{}", socket.as_raw_fd()), 4096).ok()?;
            let info = parse_fdinfo(&info);
            info.mount.filter(|_| info.inode.is_some())
        });
        self.with_socket_mount(mount)
    }

    /// Sets that mount id.
    #[must_use]
    pub fn with_socket_mount(mut self, mount: Option<u64>) -> Self {
        self.socket_mount = mount;
        self
    }

    /// True if `fdinfo` of this kernel tells a socket's inode (Linux 5.14).
    #[must_use]
    pub fn reads_fdinfo(&self) -> bool {
        self.socket_mount.is_some()
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Our own network namespace, one `readlink`.
    ///
    /// # Errors
    /// `Read` or `Parse`.
    pub fn own_netns(&self) -> Result<Netns, ProcError> {
        self.netns_of("self")
    }

    /// The network namespace of a process. Needs CAP_SYS_PTRACE for another user's.
    ///
    /// # Errors
    /// `Read` if gone or denied, `Parse` if the link is not of the kernel's form.
    pub fn netns_of(&self, process: &str) -> Result<Netns, ProcError> {
        let name = format!("{process}/ns/net");
        let link = readlinkat(&self.dir, name.as_str(), Vec::new()).map_err(|e| self.read_error(&name, e))?;
        parse_netns_link(link.as_bytes()).ok_or_else(|| self.parse_error(&name, "namespace link"))
    }

    /// What tells network namespaces apart without any privilege: the inode of `net/tcp`, of which each has its own.
    ///
    /// # Errors
    /// `Read` if the process is gone.
    pub fn network_mark(&self, process: &str) -> Result<u64, ProcError> {
        let name = format!("{process}/net/tcp");
        let stat =
            statat(&self.dir, name.as_str(), AtFlags::empty()).map_err(|e| self.read_error(&name, e))?;
        Ok(stat.st_ino)
    }

    /// True unless users are numbered here as nowhere else: then privileges hold inside alone.
    #[must_use]
    pub fn is_first_user_namespace(&self) -> bool {
        let Ok(map) = self.read_file("self/uid_map", 4096) else { return true };
        map.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).eq([
            &b"0"[..],
            b"0",
            b"4294967295",
        ])
    }

    /// True if links can be read at all: our own program's.
    #[must_use]
    pub fn reads_links(&self) -> bool {
        readlinkat(&self.dir, "self/exe", Vec::new()).is_ok()
    }

    /// All process ids, in the kernel's order (ascending).
    ///
    /// Costs about 1 µs a process.
    ///
    /// # Errors
    /// `Read` if the root cannot be listed.
    pub fn pids(&self) -> Result<Vec<u32>, ProcError> {
        Ok(self.list_pids()?.flatten().collect())
    }

    /// The same in portions of at most 0.3 ms.
    ///
    /// # Errors
    /// `Read` if the root cannot be listed.
    pub fn list_pids(&self) -> Result<Listing, ProcError> {
        Listing::open(&self.dir, ".").map_err(|e| self.read_error("", e))
    }

    /// False if no process or thread bears the number: 0.2 µs, where opening its folder in vain costs 3 µs. True where
    /// that cannot be asked.
    #[must_use]
    pub fn may_exist(&self, pid: u32) -> bool {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
        // The one question about another process that needs no permission, is answered for threads, and changes nothing.
        !self.live || getpriority_process(Some(pid)) != Err(Errno::SRCH)
    }

    /// Who owns `/proc/PID`: the effective user, or root for a process that may not be dumped. `None`: gone.
    #[must_use]
    pub fn uid_of(&self, pid: u32) -> Option<u32> {
        statat(&self.dir, Decimal::new(pid).as_str(), AtFlags::empty()).ok().map(|stat| stat.st_uid)
    }

    /// The last pid that the kernel gave out (`loadavg` field 5). `None` where that cannot be read.
    #[must_use]
    pub fn last_pid(&self) -> Option<u32> {
        let mut buffer = [0; 128];
        let text = self.read_kept(&self.last_pid, "loadavg", &mut buffer).ok()?;
        parse_last_pid(text)
    }

    /// One past the largest pid. 4,194,304 where it cannot be read: the most that 64-bit kernels allow.
    #[must_use]
    pub fn pid_max(&self) -> u32 {
        let text = self.read_file("sys/kernel/pid_max", 32).unwrap_or_default();
        parse_u64(text.trim_ascii()).and_then(|n| u32::try_from(n).ok()).unwrap_or(1 << 22)
    }

    /// Major and minor number of the kernel, read once. `None` where `sys` is hidden.
    #[must_use]
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        *self.version.get_or_init(|| {
            let text = self.read_file("sys/kernel/osrelease", 128).ok()?;
            let mut parts = text.split(|b| !b.is_ascii_digit()).map(parse_u64);
            let mut part = || parts.next()?.and_then(|n| u32::try_from(n).ok());
            Some((part()?, part()?))
        })
    }

    /// First and last port that the kernel gives to a socket which did not choose one.
    #[must_use]
    pub fn ephemeral_ports(&self) -> (u16, u16) {
        let text = self.read_file("sys/net/ipv4/ip_local_port_range", 64).unwrap_or_default();
        let mut words = text.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
        let mut port = || words.next().and_then(parse_u64).and_then(|n| u16::try_from(n).ok());
        port().zip(port()).unwrap_or((32768, 60999))
    }

    /// How often a SYN is repeated before an attempt is given up (`tcp_syn_retries`; 6 where it cannot be read).
    #[must_use]
    pub fn syn_retries(&self) -> u8 {
        let text = self.read_file("sys/net/ipv4/tcp_syn_retries", 16).unwrap_or_default();
        parse_u64(text.trim_ascii()).and_then(|n| u8::try_from(n).ok()).unwrap_or(6)
    }

    /// The boot's id. `None` where `sys` is hidden.
    #[must_use]
    pub fn boot_id(&self) -> Option<String> {
        let text = self.read_file("sys/kernel/random/boot_id", 64).ok()?;
        let id = String::from_utf8(text.trim_ascii().to_vec()).ok()?;
        (id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')).then_some(id)
    }

    fn read_file(&self, name: &str, most: usize) -> Result<Vec<u8>, ProcError> {
        read_at(&self.dir, name, most).map_err(|e| self.read_error(name, e))
    }

    /// Reads a small file whose descriptor is kept: 4 µs cheaper than opening it each time.
    fn read_kept<'b>(
        &self,
        kept: &OnceCell<OwnedFd>,
        name: &str,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], ProcError> {
        let fd = match kept.get() {
            Some(fd) => fd,
            None => {
                let fd = openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| self.read_error(name, e))?;
                kept.get_or_init(|| fd)
            }
        };
        let length = pread(fd, &mut *buffer, 0).map_err(|e| self.read_error(name, e))?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    fn read_error(&self, name: &str, error: Errno) -> ProcError {
        ProcError::Read { path: self.root.join(name), source: error.into() }
    }

    fn parse_error(&self, name: &str, field: &'static str) -> ProcError {
        ProcError::Parse { path: self.root.join(name), field }
    }
}

/// A number as text, without the heap: the descriptor walk makes one of these for each name that it asks for.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(number: impl Into<u64>) -> Self {
        let mut rest = number.into();
        let mut text = Self { digits: [b'0'; 20], start: 20 };
        for (position, digit) in text.digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            text.start = position;
            if rest == 0 {
                break;
            }
        }
        text
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(self.digits.get(self.start..).unwrap_or_default()).unwrap_or("0")
    }
}

/// Reads a file to its end.
fn read_at(dir: impl AsFd, name: &str, most: usize) -> Result<Vec<u8>, Errno> {
    read_all(openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, most)
}

/// Up to `most` bytes of a file.
fn read_all(fd: OwnedFd, most: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(most.min(4096));
    while bytes.len() < most {
        bytes.reserve(1);
        let from = bytes.len() as u64;
        if pread(&fd, spare_capacity(&mut bytes), from)? == 0 {
            break;
        }
    }
    bytes.truncate(most);
    Ok(bytes)
}

/// Reads a text that the kernel makes as a whole, from its beginning: a read that leaves room was the last.
fn read_text(fd: impl AsFd, most: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(most.min(4096));
    loop {
        let (from, room) = (bytes.len(), bytes.capacity() - bytes.len());
        let got = pread(&fd, spare_capacity(&mut bytes), from as u64)?;
        if got < room || bytes.len() >= most {
            bytes.truncate(most);
            return Ok(bytes);
        }
        bytes.reserve(4096);
    }
}

fn read_text_at(dir: impl AsFd, name: &str, most: usize) -> Result<Vec<u8>, Errno> {
    read_text(openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?, most)
}

/// The numbers in a folder, in portions: one of any size can be left and gone on with, since the kernel keeps the place.
#[derive(Debug)]
pub struct Listing {
    dir: Arc<OwnedFd>,
}

impl Listing {
    fn open(dir: impl AsFd, name: &str) -> Result<Self, Errno> {
        let dir = openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { dir: Arc::new(dir) })
    }
}

impl Iterator for Listing {
    type Item = Vec<u32>;

    /// What one system call gives, about 300 numbers. `None`: the end, or the folder's process ended.
    fn next(&mut self) -> Option<Vec<u32>> {
        let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
        let mut entries = RawDir::new(&self.dir, &mut buffer);
        let mut numbers = Vec::new();
        loop {
            let entry = entries.next()?.ok()?;
            if let Some(number) = parse_u64(entry.file_name().to_bytes()) {
                numbers.extend(u32::try_from(number));
            }
            if entries.is_buffer_empty() {
                return Some(numbers);
            }
        }
    }
}

/// The entries of a folder that are numbers.
fn list_numbers(dir: impl AsFd, name: &str) -> Result<Vec<u32>, Errno> {
    Ok(Listing::open(dir, name)?.flatten().collect())
}

fn parse_u64(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `net:[4026531840]`. Public for `fuzz/`.
#[must_use]
pub fn parse_netns_link(link: &[u8]) -> Option<Netns> {
    parse_u64(link.strip_prefix(b"net:[")?.strip_suffix(b"]")?).map(Netns)
}

/// `0.00 0.01 0.05 1/97 4242`.
fn parse_last_pid(loadavg: &[u8]) -> Option<u32> {
    let last = loadavg.trim_ascii_end().rsplit(|b| *b == b' ').next()?;
    parse_u64(last).and_then(|pid| u32::try_from(pid).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_text() {
        for number in [0u64, 1, 9, 10, 4242, u64::MAX] {
            assert_eq!(Decimal::new(number).as_str(), number.to_string());
        }
    }

    #[test]
    fn the_last_pid_is_the_last_word_of_loadavg() {
        assert_eq!(parse_last_pid(b"0.00 0.01 0.05 1/97 4242\n"), Some(4242));
        assert_eq!(parse_last_pid(b""), None);
        assert_eq!(parse_last_pid(b"0.00 x\n"), None);
    }

    #[test]
    fn a_namespace_link_holds_its_inode() {
        assert_eq!(parse_netns_link(b"net:[4026531840]"), Some(Netns(4_026_531_840)));
        assert_eq!(parse_netns_link(b"mnt:[1]"), None);
    }

    #[test]
    fn gone_is_told_from_denied() {
        let proc = Proc::new("/proc").unwrap();
        assert!(proc.netns_of("4294967295").unwrap_err().is_gone());
        assert!(proc.netns_of("self").is_ok());
    }
}
