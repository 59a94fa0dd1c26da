//! A snapshot by reading `net/tcp` and `net/tcp6`.
//!
//! Refuses to conclude anything from what is absent; says only whether the read was complete.

use std::collections::HashSet;

use super::Selection;
use super::direction::{Listeners, is_outbound};
use crate::connection::{Netns, Snapshot, Socket, TcpState};
use crate::proc::{Net, Proc, ProcError, TableRead};

/// What a snapshot is reduced to.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which remote ends.
    pub select: &'a Selection,
    /// Ports that an SSH server listens on.
    pub server_ports: &'a HashSet<u16>,
    /// From `Proc::ephemeral_ports`.
    pub ephemeral: (u16, u16),
}

/// Reads both tables once.
///
/// # Errors
/// As `Proc::read_tcp`.
pub fn snapshot(proc: &Proc, netns: Netns, wanted: &Wanted<'_>) -> Result<(Snapshot, TableRead), ProcError> {
    let mut taken = Snapshot { netns, ..Snapshot::default() };
    let mut listeners = Listeners::default();
    let rows = &mut taken.outbound;
    let read = proc.read_tcp(Net::Own, |socket| {
        if socket.state == TcpState::Listen {
            listeners.add(socket.tuple.local);
            taken.listeners.push(socket);
        } else if wanted.selects(&socket) || wanted.is_servers(&socket) {
            rows.push(socket);
        }
    })?;
    // Which end we are can be told only now: a listener may stand behind the rows that it explains.
    let theirs = |socket: &mut Socket| !is_outbound(socket, &listeners, wanted.ephemeral);
    taken.inbound = taken.outbound.extract_if(.., theirs).collect();
    taken.outbound.retain(|socket| wanted.selects(socket));
    taken.complete = read.unparsed == 0;
    Ok((taken, read))
}

impl Wanted<'_> {
    fn selects(&self, socket: &Socket) -> bool {
        self.select.wants(&socket.tuple)
    }

    fn is_servers(&self, socket: &Socket) -> bool {
        self.server_ports.contains(&socket.tuple.local.port())
    }
}
