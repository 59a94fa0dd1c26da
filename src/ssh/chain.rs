//! A connection's owner and the clients that it works for.
//!
//! A client need not hold the socket of its connection: `ssh -J a b` starts `ssh -W '[b]:22' a`, and a `ProxyCommand` may
//! be any program. So the way goes up from the owner, from client to client, to the one that somebody asked for.
//!
//! What is claimed of an owner that is no client: an SSH client stands at most eight generations above it, and there is
//! no server and no shell that somebody types into between. That client either names a `ProxyCommand` in its arguments,
//! or it names neither that nor a jump nor a `LocalCommand`, so that ssh_config may, and all between are shells and
//! scripts that run something. What a client starts otherwise (`LocalCommand`, `Match exec`, `KnownHostsCommand` of
//! ssh_config) cannot be told from a relay by its words, and is claimed as one.

use std::sync::Arc;

use super::Route;
use super::client::{Client, Proxy};
use super::program::{base_name, is_client, is_server};
use super::remote;
use super::shell::{self, Kind};
use crate::process::Process;

/// How many generations may stand between a client and its relay.
const BETWEEN: usize = 8;

/// How many clients of one chain are looked at.
const CLIENTS: usize = 64;

/// From the owner to the client that was asked for.
pub(super) struct Chain<'a> {
    /// The clients, the one next to the connection first; the last one is what somebody asked for.
    clients: Vec<Client>,
    /// The last client's process and its ancestors.
    outermost: (&'a Process, &'a [Arc<Process>]),
    /// How the connection came about.
    pub(super) route: Route,
    /// True if the owner is the first of the clients, so that the connection goes to that one's host.
    is_owned: bool,
}

impl<'a> Chain<'a> {
    /// Goes up from an owner. `None`: it is no client and works for none.
    pub(super) fn of(owner: &'a Process, ancestry: &'a [Arc<Process>]) -> Option<Self> {
        let mut chain = Self::beginning(owner, ancestry)?;
        while chain.clients.len() < CLIENTS {
            let Some(route) = chain.climb() else { break };
            if chain.is_owned && chain.clients.len() == 2 {
                chain.route = route;
            }
        }
        Some(chain)
    }

    fn beginning(owner: &'a Process, ancestry: &'a [Arc<Process>]) -> Option<Self> {
        if let Some(client) = Client::of(owner) {
            let route = match &client {
                Client { meaning, .. } if meaning.multiplexed => Route::MuxMaster,
                // ProxyUseFdpass: the relay made the connection and gave it away.
                Client { proxy: Proxy::Command(_), .. } => Route::ProxyCommand,
                _ => Route::Direct,
            };
            return Some(Self { clients: vec![client], outermost: (owner, ancestry), route, is_owned: true });
        }
        let Above { between, process, ancestry } = client_above(ancestry)?;
        let client = Client::of(process)?;
        let passes = |between: &Arc<Process>| shell::kind(between) == Kind::Script;
        let is_relay = match client.proxy {
            Proxy::Command(_) => true,
            Proxy::Untold if client.has_local_command || !client.meaning.jump.is_empty() => false,
            Proxy::Untold => !client.is_background_master && between.iter().all(passes),
            Proxy::None => false,
        };
        let chain = Self {
            clients: vec![client],
            outermost: (process, ancestry),
            route: Route::ProxyCommand,
            is_owned: false,
        };
        is_relay.then_some(chain)
    }

    /// Adds the client that the last one works for, if it works for one, and answers how.
    fn climb(&mut self) -> Option<Route> {
        let (inner, ancestry) = self.outermost;
        let Above { process, ancestry, .. } = client_above(ancestry)?;
        let outer = Client::of(process)?;
        let route = link(self.clients.last()?, inner, &outer)?;
        self.clients.push(outer);
        self.outermost = (process, ancestry);
        Some(route)
    }

    /// The client that was asked for, its process and its ancestors.
    pub(super) fn asked(&self) -> Option<(&Client, &'a Process, &'a [Arc<Process>])> {
        let (process, above) = self.outermost;
        self.clients.last().map(|client| (client, process, above))
    }

    /// Hosts on the way, as the clients below the one that was asked for name them.
    pub(super) fn hops(&self) -> Vec<Vec<u8>> {
        let below = self.clients.split_last().map_or(&[][..], |(_, below)| below);
        below.iter().filter_map(Client::hop).collect()
    }

    /// The client whose host this very connection goes to, if it is known to go to one.
    pub(super) fn nearest(&self) -> Option<&Client> {
        let client = self.clients.first().filter(|_| self.is_owned)?;
        let is_direct = !matches!(client.proxy, Proxy::Command(_)) && client.meaning.jump.is_empty();
        is_direct.then_some(client)
    }
}

/// A client among the ancestors of a process.
struct Above<'a> {
    /// What stands between both.
    between: &'a [Arc<Process>],
    process: &'a Process,
    /// The client's own ancestors.
    ancestry: &'a [Arc<Process>],
}

/// The nearest client above.
fn client_above(ancestry: &[Arc<Process>]) -> Option<Above<'_>> {
    let at = ancestry.iter().take(BETWEEN + 1).position(|process| is_client(process))?;
    let (between, from) = ancestry.split_at_checked(at)?;
    let (process, ancestry) = from.split_first()?;
    let is_barrier = |process: &Arc<Process>| is_server(process) || shell::kind(process) == Kind::Interactive;
    (!between.iter().any(is_barrier)).then_some(Above { between, process, ancestry })
}

/// How an inner client works for an outer one. `None`: it does not.
fn link(inner: &Client, process: &Process, outer: &Client) -> Option<Route> {
    if outer.is_background_master || outer.proxy == Proxy::None && outer.meaning.jump.is_empty() {
        return None;
    }
    if let Proxy::Command(command) = &outer.proxy {
        let is_named = inner.is_stdio_forward() || remote::is_relay(&inner.remote) || names(command, process);
        return is_named.then_some(Route::ProxyCommand);
    }
    if inner.is_stdio_forward() {
        // ssh writes its own with brackets, so that one which ssh_config asks for is known too.
        let is_own = inner.meaning.forwards.stdio.iter().any(|to| to.starts_with(b"["));
        return Some(if is_own || !outer.meaning.jump.is_empty() {
            Route::Jump
        } else {
            Route::ProxyCommand
        });
    }
    (remote::is_relay(&inner.remote) && !outer.has_local_command).then_some(Route::ProxyCommand)
}

/// True if a command has the name of the program that a process runs among its words.
fn names(command: &[u8], process: &Process) -> bool {
    let name = process.args.first().map_or(&[][..], |arg| base_name(arg));
    let mut words = command.split(|byte| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\''));
    !name.is_empty() && words.any(|word| base_name(word) == name)
}
