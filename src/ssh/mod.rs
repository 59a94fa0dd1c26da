//! What the process data of an SSH client or server mean: who is one, where it goes, by which way, what it carries.
//!
//! Owns the words of SSH's command lines and process titles. Knows no I/O, no socket and no configuration file: what
//! ssh_config adds is not seen, and a host that was typed may be an alias in it. Source: how the programs
//! themselves read their arguments (ssh.c, readconf.c and misc.c of OpenSSH up to 10, cli-runopts.c of Dropbear, cmdline.c
//! of PuTTY); a test asks the installed ssh. Names of files are the kernel's word, arguments and titles are what a process
//! says of itself.

mod chain;
mod client;
mod destination;
mod dropbear;
mod getopt;
mod line;
mod openssh;
mod program;
mod putty;
mod remote;
mod shell;
#[cfg(test)]
mod tests;
mod title;
mod tool;

use std::sync::Arc;

use crate::process::Process;

use chain::Chain;
use destination::is_name;

pub use program::{DROPBEAR_CLIENTS, OPENSSH_CLIENTS, OTHER_CLIENTS, PUTTY_CLIENTS, SERVERS};
pub use program::{is_client, is_server};
pub use title::{Role, Title, mux_title, parse_title};
pub use tool::TOOLS;

/// How a connection came about, by who holds its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// An SSH client, to the host that was asked for.
    Direct,
    /// The first leg of `ssh -J` or `ProxyJump`: the `ssh -W` that ssh itself starts.
    Jump,
    /// A relay that an SSH client started as its `ProxyCommand`.
    ProxyCommand,
    /// An SSH server on this machine, for its client.
    Forwarded,
    /// An SSH client that shares its connection with later sessions, or was told to.
    MuxMaster,
    /// Neither a client nor a server of SSH, as far as is known.
    Other,
}

impl Route {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Direct, Self::Jump, Self::ProxyCommand, Self::Forwarded, Self::MuxMaster, Self::Other];

    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Jump => "jump",
            Self::ProxyCommand => "proxy_command",
            Self::Forwarded => "forwarded",
            Self::MuxMaster => "mux_master",
            Self::Other => "other",
        }
    }
}

/// What was asked of a client, read from its arguments. Texts are bytes as they were typed, secrets masked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meaning {
    /// The destination as typed: `alice@web1`, `ssh://web1:2222`. `None`: only a title is left, or none was typed.
    pub target: Option<Vec<u8>>,
    /// The host in it, or the one that `-o HostName` puts in its place.
    pub host: Option<Vec<u8>>,
    /// The login at the far end. `None`: not typed, so the client's own or what ssh_config says.
    pub login: Option<Vec<u8>>,
    /// The port at the far end. `None`: not typed.
    pub port: Option<u16>,
    /// Hosts on the way, nearest first, as `-J` takes them.
    pub jump: Vec<Vec<u8>>,
    /// Forwards that were asked for.
    pub forwards: Forwards,
    /// What runs at the far end, if it has a name: that of `-s`, or `sftp`, `scp`, `rsync`, `git` from the remote command.
    pub subsystem: Option<Vec<u8>>,
    /// What started the client: a closed set of names, see [`TOOLS`].
    pub tool: Option<&'static str>,
    /// First word of the remote command. `None`: a shell, a subsystem, or nothing.
    pub command: Option<Vec<u8>>,
    /// Path of the control socket, as typed or as a master's title has it.
    pub control_path: Option<Vec<u8>>,
    /// What `-O` tells a master: `check`, `exit`, `forward`, ...
    pub control_command: Option<Vec<u8>>,
    /// True if sessions ride, or may ride, on its connection: `-M`, `ControlMaster` other than `no`, or a master's title.
    pub multiplexed: bool,
    /// Host name that was typed for this very connection: that of the first hop where there are some. `None`: none was
    /// typed, it is an address, or a relay that is no SSH client makes the connection.
    pub destination: Option<Vec<u8>>,
}

/// Forwards as they were typed, in the syntax of the option.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwards {
    /// `-L`: `[bind:]port:host:hostport` or with socket paths.
    pub local: Vec<Vec<u8>>,
    /// `-R`.
    pub remote: Vec<Vec<u8>>,
    /// `-D`: `[bind:]port`.
    pub dynamic: Vec<Vec<u8>>,
    /// `-W`: `host:port`.
    pub stdio: Vec<Vec<u8>>,
    /// `-w`: `local[:remote]`.
    pub tunnel: Vec<Vec<u8>>,
}

/// What was asked of the client that a connection's owner is, or works for. `None`: it is no client and works for none.
///
/// `ancestry` begins with the parent. Of `ssh -J a b`, whose connection an `ssh -W` holds, it is what was asked of the
/// first; of a process that is no client but speaks SSH by a library that its words name, nothing but the tool.
#[must_use]
pub fn meaning(owner: &Process, ancestry: &[Arc<Process>]) -> Option<Meaning> {
    let Some(chain) = Chain::of(owner, ancestry) else {
        return tool::library(owner).map(|tool| Meaning { tool: Some(tool), ..Meaning::default() });
    };
    let (client, process, above) = chain.asked()?;
    let mut meaning = client.meaning.clone();
    meaning.tool = tool::of(client, process, above);
    // Hops that only ssh_config names show as processes.
    let hops = chain.hops();
    if hops.len() > meaning.jump.len() {
        meaning.jump = hops;
    }
    let host = chain.nearest().and_then(|client| client.meaning.host.clone());
    meaning.destination = host.filter(|host| is_name(host));
    Some(meaning)
}

/// True if a server that listens waits there for logins. One that serves a login listens for what is forwarded: `-R`, X11.
#[must_use]
pub fn accepts_logins(server: &Process, parent: Option<&Process>) -> bool {
    match parse_title(&server.args) {
        Some(title) => title.role == Role::Listener,
        // Dropbear has no titles: what serves a login is a child of what waits for them.
        None => !parent.is_some_and(|parent| is_server(parent) && parent.executable == server.executable),
    }
}

/// How the connection of this owner came about.
#[must_use]
pub fn route(owner: &Process, ancestry: &[Arc<Process>]) -> Route {
    if is_server(owner) {
        return Route::Forwarded;
    }
    Chain::of(owner, ancestry).map_or(Route::Other, |chain| chain.route)
}
