//! A snapshot by reading `net/tcp` and `net/tcp6`.
//!
//! Refuses to conclude anything from what is absent; says only whether the read was complete. Rows that the kernel
//! gave twice while its table changed are kept once.

use std::collections::HashSet;

use super::Selection;
use super::direction::{Listeners, is_outbound};
use crate::connection::{Netns, Snapshot, Socket, TcpState};
use crate::proc::{Proc, ProcError, TableRead};

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
    let mut rows: Vec<(Socket, bool)> = Vec::new();
    let mut listeners = Listeners::default();
    let read = proc.read_tcp(|socket| {
        if socket.state == TcpState::Listen {
            listeners.add(socket.tuple.local);
            taken.listeners.push(socket);
            return;
        }
        let selected = wanted.select.wants(&socket.tuple);
        if selected || wanted.server_ports.contains(&socket.tuple.local.port()) {
            rows.push((socket, selected));
        }
    })?;
    // Which end we are can be told only now: a listener may stand behind the rows that it explains.
    let mut kept = HashSet::with_capacity(rows.len());
    for (socket, selected) in rows {
        if !kept.insert((socket.tuple, socket.inode)) {
            taken.duplicates += 1;
        } else if !is_outbound(&socket, &listeners, wanted.ephemeral) {
            taken.inbound.push(socket);
        } else if selected {
            taken.outbound.push(socket);
        }
    }
    taken.complete = read.unparsed == 0;
    Ok((taken, read))
}
