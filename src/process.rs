//! Processes and what is known of who owns a socket, as plain values.
//!
//! Knows no I/O. Names and arguments are the process's own claims, kept as bytes; arguments are masked before they
//! get here. Sources: proc_pid_stat(5), proc_pid_status(5), proc_pid_cmdline(5), credentials(7).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One process as it was when it was read, all of it through one held `/proc/PID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Process id in the watcher's pid namespace.
    pub pid: u32,
    /// Parent's process id; 0 for none.
    pub ppid: u32,
    /// Start time, clock ticks after boot (`stat` field 22).
    pub start_ticks: u64,
    /// Inode of the process's pidfd, unique within a boot (Linux 6.9). `None` on older kernels.
    pub pidfd_inode: Option<u64>,
    /// The name it gave itself, at most 15 bytes.
    pub comm: Vec<u8>,
    /// Target of `exe`. `None`: not readable, or a kernel thread.
    pub executable: Option<Vec<u8>>,
    /// True if the file at `executable` is gone or another one by now.
    pub executable_deleted: bool,
    /// Arguments, secrets masked; empty for a kernel thread or one that erased them.
    pub args: Vec<Vec<u8>>,
    /// Bytes of arguments that the process has; more than `args` holds means that they were cut.
    pub args_bytes: u64,
    /// True if `args` lacks some of them.
    pub args_cut: bool,
    /// How many secrets were masked in `args`.
    pub redacted: u32,
    /// Target of `cwd`. `None`: not readable.
    pub working_directory: Option<Vec<u8>>,
    /// Controlling terminal (`stat` field 7), named as under `/dev`. `None`: it has none, or is no owner.
    pub tty: Option<Tty>,
    /// Real, effective user and group ids. `None`: gone or unreadable.
    pub ids: Option<Ids>,
    /// Login name of the real user.
    pub user: Option<Arc<str>>,
    /// Login name of the effective user where that is another one.
    pub effective_user: Option<Arc<str>>,
    /// The audit login, which stays through sudo and su. `None`: unset.
    pub login: Option<Login>,
    /// Path in the cgroup hierarchy that systemd keeps.
    pub cgroup: Option<Vec<u8>>,
    /// Files of it that may not, or cannot, be read: why what they would tell is missing.
    pub denied: Vec<&'static str>,
    /// True if it had ended before this was asked, or ran another program by then, and is told as it was when it forked, ran
    /// its program or connected.
    pub remembered: bool,
}

/// Splits arguments as the kernel keeps them, each with a NUL behind it, the last one perhaps without.
///
/// A process that gave itself a title leaves NULs where its arguments were. One empty argument may be meant.
#[must_use]
pub fn split_arguments(text: &[u8]) -> Vec<Vec<u8>> {
    let whole = text.strip_suffix(b"\0").unwrap_or(text);
    let end = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let whole = if whole.len() > end + 1 { whole.get(..end).unwrap_or_default() } else { whole };
    if whole.is_empty() {
        return Vec::new();
    }
    whole.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

impl Process {
    /// True if both are readings of one process. Two that bear one pid within a clock tick are taken for one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.pid, self.start_ticks) == (other.pid, other.start_ticks)
    }

    /// One of which nothing is known but its number; whoever makes it says what else is.
    #[must_use]
    pub fn of_pid(pid: u32) -> Self {
        Self {
            pid,
            ppid: 1,
            start_ticks: u64::from(pid),
            pidfd_inode: None,
            comm: Vec::new(),
            executable: None,
            executable_deleted: false,
            args: Vec::new(),
            args_bytes: 0,
            args_cut: false,
            redacted: 0,
            working_directory: None,
            tty: None,
            ids: None,
            user: None,
            effective_user: None,
            login: None,
            cgroup: None,
            denied: Vec::new(),
            remembered: false,
        }
    }
}

/// A terminal device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tty {
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
}

impl Tty {
    /// True for the terminal of a program: a login's over the network, a terminal window's.
    #[must_use]
    pub fn is_pseudo(self) -> bool {
        (136..=143).contains(&self.major)
    }

    /// `pts/3`, `tty1`, `ttyS0`, or `MAJOR:MINOR`. Source: Documentation/admin-guide/devices.txt.
    #[must_use]
    pub fn name(self) -> String {
        let Self { major, minor } = self;
        match (major, minor) {
            (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
            (4, 0..=63) => format!("tty{minor}"),
            (4, _) => format!("ttyS{}", minor - 64),
            (5, 1) => "console".to_owned(),
            _ => format!("{major}:{minor}"),
        }
    }
}

/// `Uid:` and `Gid:` of `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Ids {
    pub real_uid: u32,
    pub effective_uid: u32,
    pub real_gid: u32,
}

/// `loginuid` and `sessionid`, as pam_loginuid set them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Who logged in.
    pub uid: u32,
    /// Login name of `uid`.
    pub user: Option<Arc<str>>,
    /// Audit session number. `None`: unset.
    pub session: Option<u32>,
}

/// A process that holds the socket, and by which descriptor. `fd` is 0 only for a real descriptor 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Thread whose table holds it, where it is not the process's own.
    pub tid: Option<u32>,
    /// Descriptor number.
    pub fd: u32,
}

/// Why nobody can be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// All descriptors were looked at and none is the socket.
    NoHolder,
    /// A holder that was found, or the socket itself, was gone before it could be read.
    HolderVanished,
    /// Some processes' descriptors may not be read.
    Denied,
    /// Some process let us wait for its descriptors.
    Timeout,
    /// Only the end was seen: the kernel had already forgotten the owner.
    TimeWait,
    /// The search has not finished; a later record may tell.
    Budget,
    /// All descriptors were looked at, and somebody sends descriptors through a unix socket that nobody has taken yet.
    InFlight,
}

impl Reason {
    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoHolder => "no_holder",
            Self::HolderVanished => "holder_vanished",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::TimeWait => "time_wait",
            Self::Budget => "budget",
            Self::InFlight => "in_flight",
        }
    }
}

/// An owner with its chain. Shared: connections of one process, and processes of one parent, hold it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The process itself.
    pub process: Arc<Process>,
    /// Begins with the parent, up to pid 1.
    pub ancestry: Vec<Arc<Process>>,
    /// Why it does not reach pid 1. `None`: it does.
    pub cut: Option<ChainCut>,
    /// Of the process's executable. `None`: hashing is off.
    pub hash: Option<Hash>,
}

impl Lineage {
    /// The same process with those above it that it had when it was read before, as `old`. What could not be read of them then
    /// is taken from now, where they are the same.
    #[must_use]
    pub fn with_chain_of(self: Arc<Self>, old: &Self) -> Arc<Self> {
        if old.cut.is_some() && old.process.ppid == self.process.ppid {
            return self;
        }
        let link = |then: &Arc<Process>| {
            let now = self.ancestry.iter().find(|now| then.args.is_empty() && then.is_same(now));
            Arc::clone(now.filter(|now| !now.args.is_empty()).unwrap_or(then))
        };
        let ancestry: Vec<_> = old.ancestry.iter().map(link).collect();
        if ancestry == self.ancestry && old.process.ppid == self.process.ppid {
            return self;
        }
        let process = match old.process.ppid == self.process.ppid {
            true => Arc::clone(&self.process),
            false => Arc::new(Process { ppid: old.process.ppid, ..Process::clone(&self.process) }),
        };
        Arc::new(Self { process, ancestry, cut: old.cut, hash: self.hash })
    }
}

/// What is known of an executable's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// It was read to its end.
    Sha256 {
        /// The hash.
        digest: [u8; 32],
        /// True if nobody but the kernel answered for the content, and it had been left alone for a while: then this is what
        /// runs.
        is_proven: bool,
    },
    /// It is being read.
    Pending(FileId),
    /// It is not known.
    Unknown(HashReason),
}

/// A file as it was at a time: whoever changes its content changes this, unless he serves the file system himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Major and minor device number.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
    /// Last change of the content, seconds and nanoseconds: may be set.
    pub modified: (i64, u32),
    /// Last change of anything: may not.
    pub changed: (i64, u32),
    /// Bytes.
    pub size: u64,
}

/// Why an executable has no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashReason {
    /// It may not be read.
    Denied,
    /// It is larger than what is read.
    TooLarge,
    /// The process ended first.
    Vanished,
    /// It did not come within half a minute.
    Timeout,
    /// It was changed while it was read.
    Changed,
    /// Too many others are to be read first.
    Busy,
    /// Reading failed.
    Failed,
}

impl Hash {
    /// Why it is not told, as records write it. `None`: it is.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Sha256 { .. } => None,
            Self::Pending(_) => Some("pending"),
            Self::Unknown(reason) => Some(reason.name()),
        }
    }

    /// The hash, if it is that of what runs.
    #[must_use]
    pub fn proven(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Sha256 { digest, is_proven: true } => Some(digest),
            _ => None,
        }
    }
}

impl HashReason {
    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::TooLarge => "too_large",
            Self::Vanished => "vanished",
            Self::Timeout => "timeout",
            Self::Changed => "changed",
            Self::Busy => "busy",
            Self::Failed => "failed",
        }
    }
}

/// Why a chain of ancestors ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainCut {
    /// A parent ended, or may not be read, before it was.
    Vanished,
    /// It is longer than is told.
    TooLong,
}

impl ChainCut {
    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vanished => "vanished",
            Self::TooLong => "too_long",
        }
    }
}

/// Who owns a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribution {
    /// Somebody holds it.
    Owned {
        /// The one that the rule chose, with its ancestors.
        lineage: Arc<Lineage>,
        /// All holders that were found, the chosen one first.
        holders: Arc<[Holder]>,
        /// From first sight of the socket to here.
        latency: Duration,
    },
    /// Nobody can be named.
    Unknown(Reason),
    /// A former run told it, of a connection that stands still.
    Recorded(Arc<Recorded>),
    /// The audit log has who asked to be connected to there and then, and nobody else did. Nobody was seen with the socket.
    Audited {
        /// Who asked.
        asker: Arc<Asker>,
        /// From then to when that was known.
        latency: Duration,
    },
}

/// Who asked for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// It was there when the audit log was read.
    Living(Arc<Lineage>),
    /// It was not: what the log has of it.
    Departed(Box<Departed>),
}

/// A process as the audit log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    /// Process id in the machine's first pid namespace.
    pub pid: u32,
    /// The name it gave itself, at most 15 bytes.
    pub comm: Vec<u8>,
    /// Its program's file.
    pub executable: Option<Vec<u8>>,
    /// Arguments, the first 127 bytes of them, secrets masked.
    pub args: Vec<Vec<u8>>,
    /// True if there may have been more.
    pub args_cut: bool,
    /// How many secrets were masked in `args`.
    pub redacted: u32,
    /// Controlling terminal.
    pub tty: Option<Tty>,
    /// Its users.
    pub ids: Ids,
    /// Login name of the real user.
    pub user: Option<Arc<str>>,
    /// Login name of the effective user where that is another one.
    pub effective_user: Option<Arc<str>>,
    /// The audit login.
    pub login: Option<Login>,
    /// Its parent, which was there still, with its ancestors.
    pub parent: Option<Arc<Lineage>>,
}

impl Asker {
    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Living(lineage) => lineage.process.pid,
            Self::Departed(departed) => departed.pid,
        }
    }
}

impl Attribution {
    /// The owner, if there is one and this run has read it.
    #[must_use]
    pub fn owner(&self) -> Option<&Process> {
        match self {
            Self::Owned { lineage, .. } => Some(&lineage.process),
            Self::Audited { asker, .. } => match asker.as_ref() {
                Asker::Living(lineage) => Some(&lineage.process),
                Asker::Departed(_) => None,
            },
            Self::Unknown(_) | Self::Recorded(_) => None,
        }
    }

    /// What is known of the executable of an owner who was seen with the socket.
    #[must_use]
    pub fn hash(&self) -> Option<&Hash> {
        match self {
            Self::Owned { lineage, .. } => lineage.hash.as_ref(),
            Self::Audited { .. } | Self::Unknown(_) | Self::Recorded(_) => None,
        }
    }

    /// The owner with its ancestors, if this run has read it.
    #[must_use]
    pub fn lineage(&self) -> Option<&Arc<Lineage>> {
        match self {
            Self::Owned { lineage, .. } => Some(lineage),
            Self::Audited { asker, .. } => match asker.as_ref() {
                Asker::Living(lineage) => Some(lineage),
                Asker::Departed(_) => None,
            },
            Self::Unknown(_) | Self::Recorded(_) => None,
        }
    }

    /// The same owner, of whom more is known now.
    pub fn renew(&mut self, new: Arc<Lineage>) {
        match self {
            Self::Owned { lineage, .. } => *lineage = new,
            Self::Audited { asker, .. } => *asker = Arc::new(Asker::Living(new)),
            Self::Unknown(_) | Self::Recorded(_) => {}
        }
    }

    /// True if somebody is named.
    #[must_use]
    pub fn is_known(&self) -> bool {
        match self {
            Self::Owned { .. } | Self::Audited { .. } => true,
            Self::Recorded(recorded) => recorded.is_owned(),
            Self::Unknown(_) => false,
        }
    }

    /// What the audit log has of a process that nothing else tells of.
    #[must_use]
    pub fn departed(&self) -> Option<&Departed> {
        match self {
            Self::Audited { asker, .. } => match asker.as_ref() {
                Asker::Departed(departed) => Some(departed),
                Asker::Living(_) => None,
            },
            _ => None,
        }
    }
}

/// An owner as the log has it. Kept as it was written, not read back into a process: what is told again of a connection
/// is then the same to the letter, and ancestors that have ended since are not lost. As text, because there may be many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    text: Box<str>,
    entity_id: Option<Box<str>>,
}

/// The same, to be looked at.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Told {
    /// Members of the record that tell of the owner: `process`, `user`, `group`, ...
    pub fields: Map<String, Value>,
    /// Members of its `portreeve` that do: `ancestry`, `attribution`, `login`, ...
    pub own: Map<String, Value>,
}

impl Recorded {
    /// Keeps what was told.
    #[must_use]
    pub fn new(told: &Told) -> Self {
        // Maps with texts as keys: serde_json has no error for them.
        let text = serde_json::to_string(told).unwrap_or_default();
        let entity_id = told.process("pid").and(told.process("entity_id")).and_then(Value::as_str);
        Self { text: text.into(), entity_id: entity_id.map(Into::into) }
    }

    /// What was told.
    #[must_use]
    pub fn told(&self) -> Told {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// True if the log names an owner.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.entity_id.is_some()
    }

    /// True if that owner is this process, and no later one of its number.
    #[must_use]
    pub fn is(&self, process: &Process) -> bool {
        let unique = process.pidfd_inode.map(|inode| format!("-{inode}")).unwrap_or_default();
        let tail = format!("-{}-{}{unique}", process.pid, process.start_ticks);
        self.entity_id.as_ref().is_some_and(|id| id.ends_with(&tail))
    }
}

impl Told {
    /// A member of `process`.
    #[must_use]
    pub fn process(&self, name: &str) -> Option<&Value> {
        self.fields.get("process").and_then(|process| process.get(name))
    }
}
