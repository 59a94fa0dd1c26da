//! Whether the watch is blind: asked before it begins, and again while it runs.
//!
//! A watcher that sees nothing and says nothing is worse than none. What cannot be told is a warning, never a refusal.

#![expect(clippy::disallowed_methods, reason = "our own executable is read")]

use std::fmt;
use std::io::Read;

use rustix::thread::CapabilitySet;
use sha2::{Digest, Sha256};

use crate::connection::Netns;
use crate::proc::{Held, Net, Proc, ProcError, Shows};

/// Why there is no point in watching.
#[derive(Debug)]
pub enum Blind {
    /// The tables cannot be read.
    NoTables(ProcError),
    /// `/proc` has processes alone.
    PartOfProc,
    /// Other processes cannot be seen. The mount option that hides them, where it is known.
    HiddenProcesses(Option<String>),
    /// The network namespace is not pid 1's and nobody else lives in it.
    EmptyNamespace(Option<Netns>),
    /// Owners cannot be read, although we hold the privilege that should be enough.
    NoOwners(Obstacle),
}

/// What takes effect from a privilege.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Privileges hold in a user namespace of our own.
    UserNamespace,
    /// No link can be read, not even our own.
    Links,
    /// `fdinfo` tells no inodes.
    Kernel,
    /// Landlock, or another security module.
    Domain,
}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTables(_) => f.write_str("the socket tables cannot be read, so nothing can be watched"),
            Self::PartOfProc => f.write_str(
                "/proc shows processes alone (subset=pid), so neither the boot nor the kernel's settings can be read; \
                 mount it whole (in a systemd unit: ProcSubset=all)",
            ),
            Self::HiddenProcesses(option) => {
                let option = option.as_deref().unwrap_or("hidepid or a security module");
                write!(
                    f,
                    "other processes are hidden here ({option}), so no connection could be attributed; grant \
                     CAP_SYS_PTRACE, or mount /proc without it (in a systemd unit: AmbientCapabilities=CAP_SYS_PTRACE, \
                     or ProtectProc=default)"
                )
            }
            Self::EmptyNamespace(netns) => {
                let number = netns.map_or_else(String::new, |Netns(number)| format!(" (net:[{number}])"));
                write!(
                    f,
                    "this network namespace{number} is not that of pid 1 and holds no other process, so there is \
                     nothing to watch in it; start portreeve in the namespace that is meant (in a systemd unit: \
                     PrivateNetwork=no)"
                )
            }
            Self::NoOwners(obstacle) => write!(
                f,
                "other users' processes cannot be read in spite of CAP_SYS_PTRACE, so no connection could be \
                 attributed: {obstacle}"
            ),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserNamespace => {
                "it counts in this user namespace alone; start portreeve outside (in a systemd unit: PrivateUsers=no)"
            }
            Self::Links => {
                "a filter of system calls forbids to read links (in a systemd unit: SystemCallFilter= must allow \
                 readlinkat)"
            }
            Self::Kernel => {
                "this kernel's fdinfo tells no inodes; grant CAP_DAC_READ_SEARCH too (in a systemd unit: \
                 AmbientCapabilities= and CapabilityBoundingSet=)"
            }
            Self::Domain => {
                "a Landlock domain or another security module forbids it; start portreeve outside of that"
            }
        })
    }
}

impl std::error::Error for Blind {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoTables(source) => Some(source),
            _ => None,
        }
    }
}

/// What there is to see.
#[derive(Debug, Default)]
pub struct View {
    /// Ours.
    pub netns: Option<Netns>,
    /// That of pid 1. `None`: may not be read.
    pub init_netns: Option<Netns>,
    /// True if other users' descriptors can be read.
    pub all_owners: bool,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

/// Looks. Costs less than a millisecond; where it answers `Blind` or a warning, up to some microseconds a process.
///
/// # Errors
/// `Blind`, with the cause and the mend.
pub fn look(proc: &Proc) -> Result<View, Blind> {
    proc.read_counters(Net::Own).map_err(Blind::NoTables)?;
    proc.try_tcp(Net::Own).map_err(Blind::NoTables)?;
    let hiding = proc.hiding_options();
    if hiding.iter().any(|option| option == "subset=pid") {
        return Err(Blind::PartOfProc);
    }
    let init = proc.hold(1).and_then(|init| proc.comm_of(&init).map(|_| init));
    let init = init.map_err(|_| match may_trace() && !proc.is_first_user_namespace() {
        true => Blind::NoOwners(Obstacle::UserNamespace),
        false => Blind::HiddenProcesses(hiding.into_iter().next()),
    })?;
    let owners = find_owners(proc, &init);
    let mut view = View {
        netns: proc.own_netns().ok(),
        init_netns: proc.netns_of("1").ok(),
        all_owners: owners == Owners::All,
        warnings: Vec::new(),
    };
    match owners {
        Owners::All => {}
        Owners::Own => view.warnings.push(denied(proc)),
        Owners::Nobody => return Err(Blind::NoOwners(obstacle(proc))),
    }
    view.warnings.extend(look_at_network(proc, view.netns)?);
    Ok(view)
}

/// Whose processes show themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owners {
    All,
    Own,
    Nobody,
}

fn may_trace() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE))
}

fn find_owners(proc: &Proc, init: &Held) -> Owners {
    if proc.shows(init) == Shows::Itself {
        Owners::All
    } else if may_trace() {
        read_owners(proc)
    } else {
        Owners::Own
    }
}

/// True if other users' descriptors can be read now.
#[must_use]
pub fn sees_all_owners(proc: &Proc) -> bool {
    proc.hold(1).is_ok_and(|init| find_owners(proc, &init) == Owners::All)
}

/// Of our own executable: which program wrote a log.
#[must_use]
pub fn executable_sha256() -> Option<String> {
    let (mut file, mut hash) = (std::fs::File::open("/proc/self/exe").ok()?, Sha256::new());
    let mut piece = vec![0; 64 * 1024];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => hash.update(piece.get(..read)?),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// For who holds the privilege by which all should show themselves.
fn read_owners(proc: &Proc) -> Owners {
    let (us, our_user) = (std::process::id(), rustix::process::geteuid().as_raw());
    let (mut denied, mut own) = (false, false);
    for pid in proc.pids().unwrap_or_default().into_iter().filter(|pid| *pid != us) {
        let foreign = proc.uid_of(pid) != Some(our_user);
        match proc.hold(pid).map_or(Shows::Unknown, |held| proc.shows(&held)) {
            Shows::Itself if foreign => return Owners::All,
            Shows::Itself => own = true,
            Shows::Nothing => denied |= foreign,
            Shows::Unknown => {}
        }
    }
    match (own, denied) {
        // There is nobody else.
        (true, false) => Owners::All,
        (true, true) => Owners::Own,
        (false, _) => Owners::Nobody,
    }
}

fn obstacle(proc: &Proc) -> Obstacle {
    if !proc.reads_links() {
        Obstacle::Links
    } else if !proc.is_first_user_namespace() {
        Obstacle::UserNamespace
    } else if !proc.reads_fdinfo() {
        Obstacle::Kernel
    } else {
        Obstacle::Domain
    }
}

fn denied(proc: &Proc) -> String {
    let grant = match proc.reads_fdinfo() {
        true => "CAP_SYS_PTRACE",
        false => "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (this kernel's fdinfo tells no inodes)",
    };
    format!(
        "other users' descriptors may not be read, so their connections have no owner: run as root or grant {grant}"
    )
}

/// Whether there is anybody in our network whose connections could be seen; a warning where it is not the machine's.
fn look_at_network(proc: &Proc, netns: Option<Netns>) -> Result<Option<String>, Blind> {
    let (Ok(ours), Ok(init)) = (proc.network_mark("self"), proc.network_mark("1")) else {
        return Ok(Some("whether this network namespace is that of pid 1 may not be read".to_owned()));
    };
    if ours == init {
        return Ok(None);
    }
    if anyone_else_in(proc, ours) == Some(false) {
        return Err(Blind::EmptyNamespace(netns));
    }
    let number = netns.map_or_else(String::new, |Netns(number)| format!(" (net:[{number}])"));
    Ok(Some(format!("this network namespace{number} is not that of pid 1")))
}

/// Whether another process lives in this network namespace. `None`: some may not be asked, and of the others none does.
fn anyone_else_in(proc: &Proc, network: u64) -> Option<bool> {
    let mut denied = false;
    for pid in proc.pids().ok()?.into_iter().filter(|pid| *pid != std::process::id()) {
        match proc.network_mark(&pid.to_string()) {
            Ok(other) if other == network => return Some(true),
            Ok(_) => {}
            Err(e) => denied |= !e.is_gone(),
        }
    }
    if denied { None } else { Some(false) }
}

/// Capabilities in force, by name.
#[must_use]
pub fn capabilities() -> Vec<String> {
    let sets = rustix::thread::capabilities(None);
    let names = sets.map(|sets| sets.effective.iter_names().map(|(name, _)| format!("CAP_{name}")).collect());
    names.unwrap_or_default()
}
