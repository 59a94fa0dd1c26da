//! The way by which somebody came to a connection, as plain values: from where, by which evidence, through what.
//!
//! Knows no I/O: `origin` finds it, `event` tells it. What is not known is absent and never guessed.

use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::connection::Tuple;
use crate::ssh::{Meaning, Route};

/// What is known of a connection beyond who owns it. Shared by the records of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// From where.
    pub origin: Arc<Origin>,
    /// By which kind of owner. `None`: the other end connected.
    pub route: Option<Route>,
    /// What the command line of the SSH client means. `None`: no client has to do with it.
    pub ssh: Option<Arc<Meaning>>,
    /// True if an SSH client or server owns the socket.
    pub is_ssh: bool,
    /// LISTEN sockets of the owner: forwards that stand.
    pub listening: Vec<SocketAddr>,
}

/// The session behind a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// What kind of session.
    pub kind: Kind,
    /// How an SSH login is known. `None` for other kinds.
    pub evidence: Option<Evidence>,
    /// The inbound SSH connection: our end, and who connected. `None`: not known.
    pub inbound: Option<Tuple>,
    /// Who logged in, as the SSH server says, or else by the user that it became.
    pub user: Option<Vec<u8>>,
    /// Terminal of the session, as the SSH server says.
    pub tty: Option<Vec<u8>>,
    /// systemd's name of the session.
    pub session: Option<String>,
    /// Process of the SSH server that holds the inbound socket, or bears the title.
    pub server: Option<u32>,
    /// The inbound connection's own id, where its records are told too.
    pub connection: Option<Uuid>,
}

/// From what kind of session a connection comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kind {
    /// An SSH login.
    Ssh,
    /// A terminal of this machine: console, serial line, desktop.
    LocalTty,
    /// A job of cron, anacron or at.
    Cron,
    /// A systemd unit.
    Service,
    /// A container.
    Container,
    /// Nothing tells.
    #[default]
    Unknown,
}

impl Way {
    /// The same of what a client opens for its server (`-R`), not for itself: what was typed names another end.
    #[must_use]
    pub fn for_its_server(mut self) -> Self {
        self.route = Some(Route::Forwarded);
        if let Some(meaning) = &mut self.ssh {
            Arc::make_mut(meaning).destination = None;
        }
        self
    }

    /// What is known of a connection that has passed to another owner: where it came from was known when it was opened,
    /// and a client that went into the background has erased what was asked of it.
    #[must_use]
    pub fn or_older(self, old: &Self) -> Self {
        let is_better = match (self.origin.evidence, old.origin.evidence) {
            (Some(new), Some(old)) => new <= old,
            (_, old) => old.is_none() && self.origin.kind != Kind::Unknown,
        };
        let ssh = match (self.ssh, &old.ssh) {
            (Some(new), Some(old)) if new.target.is_none() && old.target.is_some() => {
                let control_path = new.control_path.clone().or_else(|| old.control_path.clone());
                Some(Arc::new(Meaning { control_path, multiplexed: new.multiplexed, ..Meaning::clone(old) }))
            }
            (new, old) => new.or_else(|| old.clone()),
        };
        let origin = if is_better { self.origin } else { Arc::clone(&old.origin) };
        let listening = if self.listening.is_empty() { old.listening.clone() } else { self.listening };
        Self { origin, ssh, listening, ..self }
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ssh, Self::LocalTty, Self::Cron, Self::Service, Self::Container, Self::Unknown];

    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::LocalTty => "local_tty",
            Self::Cron => "cron",
            Self::Service => "service",
            Self::Container => "container",
            Self::Unknown => "unknown",
        }
    }

    /// ECS's word for it (`process.entry_leader.entry_meta.type`). `None`: it has none.
    #[must_use]
    pub fn entry(self) -> Option<&'static str> {
        match self {
            Self::Ssh => Some("sshd"),
            Self::LocalTty => Some("terminal"),
            Self::Cron | Self::Service => Some("init"),
            Self::Container => Some("container"),
            Self::Unknown => None,
        }
    }
}

/// How an SSH login is known, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// The owner, or an ancestor of it, is the SSH server that holds the inbound socket.
    Socket,
    /// The audit session of the owner is that of a login whose socket was seen.
    AuditSession,
    /// So is its session scope in the cgroup hierarchy.
    CgroupSession,
    /// Its process session was led by a process of such a login, or the server above it, which has ended, served it.
    Remembered,
    /// The title of an SSH server among the ancestors, and no more.
    Title,
    /// `SSH_CONNECTION` in the environment of the owner, which chooses it itself.
    Environment,
}

impl Evidence {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Socket,
        Self::AuditSession,
        Self::CgroupSession,
        Self::Remembered,
        Self::Title,
        Self::Environment,
    ];

    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::AuditSession => "audit_session",
            Self::CgroupSession => "cgroup_session",
            Self::Remembered => "remembered",
            Self::Title => "title",
            Self::Environment => "environment",
        }
    }
}
