//! Whether the watch would be blind: asked once, before it begins.
//!
//! A watcher that sees nothing and says nothing is worse than none. What cannot be told is a warning, never a refusal.

#![expect(clippy::disallowed_methods, reason = "our own executable is read")]

use std::fmt;
use std::io::Read;

use sha2::{Digest, Sha256};

use crate::connection::Netns;
use crate::proc::{Net, Proc, ProcError};

/// Why there is no point in watching.
#[derive(Debug)]
pub enum Blind {
    /// The tables cannot be read.
    NoTables(ProcError),
    /// Other processes cannot be seen. The mount option that hides them, where it is known.
    HiddenProcesses(Option<String>),
    /// The network namespace is not pid 1's and nobody else lives in it.
    EmptyNamespace(Netns),
}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTables(_) => f.write_str("the socket tables cannot be read, so nothing can be watched"),
            Self::HiddenProcesses(option) => {
                let option = option.as_deref().unwrap_or("hidepid or a security module");
                write!(
                    f,
                    "other processes are hidden here ({option}), so no connection could be attributed; grant \
                     CAP_SYS_PTRACE, or mount /proc without it"
                )
            }
            Self::EmptyNamespace(Netns(number)) => write!(
                f,
                "this network namespace (net:[{number}]) is not that of pid 1 and holds no other process, so there is \
                 nothing to watch in it; start portreeve in the namespace that is meant (in a systemd unit: \
                 PrivateNetwork=no)"
            ),
        }
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

/// Looks.
///
/// # Errors
/// `Blind`, with the cause and the mend.
pub fn look(proc: &Proc) -> Result<View, Blind> {
    proc.read_counters(Net::Own).map_err(Blind::NoTables)?;
    proc.read_tcp(Net::Own, |_| {}).map_err(Blind::NoTables)?;
    proc.hold(1)
        .and_then(|init| proc.comm_of(&init))
        .map_err(|_| Blind::HiddenProcesses(proc.hiding_option()))?;
    let mut view = View {
        netns: proc.own_netns().ok(),
        init_netns: proc.netns_of("1").ok(),
        all_owners: sees_all_owners(proc),
        warnings: Vec::new(),
    };
    if !view.all_owners {
        view.warnings.push(denied(proc));
    }
    match (view.netns, view.init_netns) {
        (Some(ours), Some(init)) if ours != init => match anyone_else_in(proc, ours) {
            Some(false) => return Err(Blind::EmptyNamespace(ours)),
            _ => {
                view.warnings.push(format!("this network namespace (net:[{}]) is not that of pid 1", ours.0))
            }
        },
        (Some(_), Some(_)) => {}
        _ => view.warnings.push("whether this network namespace is that of pid 1 may not be read".to_owned()),
    }
    Ok(view)
}

/// True if other users' descriptors can be read now.
#[must_use]
pub fn sees_all_owners(proc: &Proc) -> bool {
    proc.hold(1).is_ok_and(|init| proc.read_sockets(&init, None, |_, _| false).is_ok())
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

fn denied(proc: &Proc) -> String {
    let grant = match proc.reads_fdinfo() {
        true => "CAP_SYS_PTRACE",
        false => "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (this kernel's fdinfo tells no inodes)",
    };
    format!(
        "other users' descriptors may not be read, so their connections have no owner: run as root or grant {grant}"
    )
}

/// Whether another process lives in this namespace. `None`: some may not be asked, and of the others none does.
fn anyone_else_in(proc: &Proc, netns: Netns) -> Option<bool> {
    let mut denied = false;
    for pid in proc.pids().ok()?.into_iter().filter(|pid| *pid != std::process::id()) {
        match proc.netns_of(&pid.to_string()) {
            Ok(other) if other == netns => return Some(true),
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
