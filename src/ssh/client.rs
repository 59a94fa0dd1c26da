//! What one client's own words say, whatever it is for. `openssh`, `dropbear` and `putty` fill it in.

use super::program::{Dialect, dialect, operands};
use super::{Forwards, Meaning, dropbear, openssh, putty, title};
use crate::process::Process;

/// How many texts of one kind are kept: a command line holds hundreds at most, and nobody reads so many.
const MOST: usize = 64;

/// A client and its words.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// All but what its ancestors tell.
    pub(super) meaning: Meaning,
    /// How it reaches its host, if that was typed.
    pub(super) proxy: Proxy,
    /// True if a `LocalCommand` was typed, so that a child may be that.
    pub(super) has_local_command: bool,
    /// The remote command, words joined by blanks as ssh joins them.
    pub(super) remote: Vec<u8>,
    /// True if the process is a master in the background, of which nothing but the title is left.
    pub(super) is_background_master: bool,
}

/// How a client was told to reach its host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Proxy {
    /// Not typed: ssh_config decides.
    #[default]
    Untold,
    /// By itself, whatever ssh_config says.
    None,
    /// By a program.
    Command(Vec<u8>),
}

impl Client {
    /// Reads a client. `None`: the process is none.
    pub(super) fn of(process: &Process) -> Option<Self> {
        let dialect = dialect(process)?;
        if let Some(path) = title::mux_title(&process.args) {
            let control_path = Some(path.to_vec());
            let meaning = Meaning { control_path, multiplexed: true, ..Meaning::default() };
            return Some(Self { meaning, is_background_master: true, ..Self::default() });
        }
        let args = operands(process);
        let mut client = match dialect {
            Dialect::OpenSsh => openssh::read(args),
            Dialect::Dropbear => dropbear::read(args),
            Dialect::Putty => putty::read(super::program::name(process), args),
            Dialect::Other => Self::default(),
        };
        client.meaning.bound();
        Some(client)
    }

    /// True if it was told to carry its own input and output on to another host.
    pub(super) fn is_stdio_forward(&self) -> bool {
        !self.meaning.forwards.stdio.is_empty()
    }

    /// Its destination as one hop: `[user@]host[:port]`.
    pub(super) fn hop(&self) -> Option<Vec<u8>> {
        let Meaning { host, login, port, .. } = &self.meaning;
        let host = host.as_deref()?;
        let mut hop = login.as_ref().map(|user| [user, &b"@"[..]].concat()).unwrap_or_default();
        match port {
            Some(_) if host.contains(&b':') => hop.extend([b"[", host, b"]"].concat()),
            _ => hop.extend_from_slice(host),
        }
        hop.extend(port.map(|port| format!(":{port}")).unwrap_or_default().into_bytes());
        Some(hop)
    }
}

impl Meaning {
    fn bound(&mut self) {
        let Forwards { local, remote, dynamic, stdio, tunnel } = &mut self.forwards;
        for texts in [local, remote, dynamic, stdio, tunnel, &mut self.jump] {
            texts.truncate(MOST);
        }
    }
}
