//! Which SSH server process holds which inbound socket, and who is at its other end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;

use crate::connection::{Inode, Netns, Snapshot, Socket, TcpState, Tuple};
use crate::netlink::{Clause, Diag, Filter, states};
use crate::proc::{Depth, Held, Net, Proc, Sight};
use crate::process::{Holder, Process};
use crate::source::direction::{Listeners, is_outbound};
use crate::ssh::is_server;
use crate::way::{Evidence, Kind, Origin};

use super::logins::{Login, Marks, scope_of};

/// As many servers are remembered; when there are more, all are asked again.
const MOST_SEATS: usize = 4_096;
/// As many descriptors of a server are looked at: a session has some twenty.
const MOST_DESCRIPTORS: usize = 512;
/// As many marks are remembered that no login bears.
const MOST_STRANGE: usize = 256;
/// As many server processes are asked for their sessions.
const MOST_SESSIONS: usize = 256;

/// A server's socket.
#[derive(Debug, Clone, Copy)]
struct Seat {
    start_ticks: u64,
    holder: Holder,
    inode: Inode,
    tuple: Tuple,
}

#[derive(Debug)]
pub(super) struct Seats {
    own: Netns,
    ephemeral: (u16, u16),
    /// Asks for the table of our own namespace. `None`: it is read through `/proc`.
    diag: Option<Diag>,
    known: HashMap<u32, Seat>,
    /// Inbound sockets of each namespace, as its table was read last.
    rows: HashMap<Netns, Vec<(Inode, Tuple)>>,
    /// Servers whose socket was sought in vain, with their start.
    vain: HashMap<u32, u64>,
    /// Marks that no login which stands bears: one that began later bears others.
    strange: VecDeque<Marks>,
}

impl Seats {
    pub(super) fn new(own: Netns, ephemeral: (u16, u16)) -> Self {
        Self {
            own,
            ephemeral,
            diag: None,
            known: HashMap::new(),
            rows: HashMap::new(),
            vain: HashMap::new(),
            strange: VecDeque::new(),
        }
    }

    pub(super) fn use_netlink(&mut self) {
        self.diag = Diag::open().ok();
    }

    /// Takes what a reading of the table shows anyway: most logins began before it.
    pub(super) fn learn(&mut self, snapshot: &Snapshot) {
        let inbound = snapshot.inbound.iter().chain(&snapshot.accepted);
        let rows = inbound.filter_map(|row| Some((row.inode?, row.tuple))).collect();
        self.rows.insert(snapshot.netns, rows);
    }

    /// A namespace is gone.
    pub(super) fn forget(&mut self, netns: Netns) {
        self.rows.remove(&netns);
    }

    /// Both ends of the inbound connection that a server process holds: from the last reading; or by an exact lookup of
    /// what `hint` claims, which proves it; or by a walk over the kernel's table, milliseconds where its caches are cold.
    pub(super) fn find(
        &mut self,
        proc: &Proc,
        server: &Process,
        ports: &HashSet<u16>,
        hint: impl FnOnce() -> Option<Tuple>,
    ) -> Option<Tuple> {
        let held = proc.hold(server.pid).ok()?;
        if let Some(seat) = self.known.get(&server.pid).filter(|seat| seat.start_ticks == server.start_ticks)
            && proc.look(&held, seat.holder, seat.inode) == Sight::Stands
        {
            return Some(seat.tuple);
        }
        if self.vain.get(&server.pid) == Some(&server.start_ticks) {
            return None;
        }
        let sockets = sockets_of(proc, &held);
        let seat = self.among_rows(&sockets);
        let seat = seat.or_else(|| self.by_hint(proc, &held, &sockets, hint()?));
        let seat = seat.or_else(|| self.among(proc, &held, &sockets, Some(ports)));
        // One that listens on a port that is not known to be a server's.
        let seat = seat.or_else(|| self.among(proc, &held, &sockets, None));
        if self.known.len() + self.vain.len() >= MOST_SEATS {
            (self.known, self.vain) = Default::default();
        }
        match seat {
            Some((holder, inode, tuple)) => {
                let seat = Seat { start_ticks: server.start_ticks, holder, inode, tuple };
                self.known.insert(server.pid, seat);
                Some(tuple)
            }
            None => {
                self.vain.insert(server.pid, server.start_ticks);
                None
            }
        }
    }

    fn among_rows(&self, sockets: &[(Holder, Inode)]) -> Option<(Holder, Inode, Tuple)> {
        let row = |(holder, inode): &(Holder, Inode)| {
            let mut rows = self.rows.values().flatten();
            rows.find(|(known, _)| known == inode).map(|(_, tuple)| (*holder, *inode, *tuple))
        };
        sockets.iter().find_map(row)
    }

    /// Whoever claims a connection that the server does not hold is not believed.
    fn by_hint(
        &mut self,
        proc: &Proc,
        held: &Held,
        sockets: &[(Holder, Inode)],
        tuple: Tuple,
    ) -> Option<(Holder, Inode, Tuple)> {
        let is_elsewhere = self.is_elsewhere(proc, held);
        let diag = self.diag.as_mut().filter(|_| !is_elsewhere)?;
        let inode = diag.find(&tuple, 0, None).ok()??.socket.inode?;
        let (holder, _) = sockets.iter().find(|(_, known)| *known == inode)?;
        Some((*holder, inode, tuple))
    }

    fn among(
        &mut self,
        proc: &Proc,
        held: &Held,
        sockets: &[(Holder, Inode)],
        ports: Option<&HashSet<u16>>,
    ) -> Option<(Holder, Inode, Tuple)> {
        if sockets.is_empty() {
            return None;
        }
        let rows = self.inbound_rows(proc, held, ports);
        sockets.iter().find_map(|(holder, inode)| Some((*holder, *inode, *rows.get(inode)?)))
    }

    /// Inbound rows of a process's namespace, by socket.
    fn inbound_rows(
        &mut self,
        proc: &Proc,
        held: &Held,
        ports: Option<&HashSet<u16>>,
    ) -> HashMap<Inode, Tuple> {
        let (mut listeners, mut rows) = (Listeners::default(), Vec::new());
        let mut take = |socket: Socket| match socket.state {
            TcpState::Listen => listeners.add(socket.tuple.local),
            _ if ports.is_none_or(|ports| ports.contains(&socket.tuple.local.port())) => rows.push(socket),
            _ => {}
        };
        let is_elsewhere = self.is_elsewhere(proc, held);
        match self.diag.as_mut().filter(|_| !is_elsewhere) {
            Some(diag) => {
                let clauses = ports.into_iter().flatten().map(|port| Clause::LocalPorts(*port..=*port));
                let filter = ports.and_then(|_| Filter::any_of(clauses));
                let listening = diag.dump(states::LISTEN, None, &mut take);
                let _told_below = listening.and_then(|_| diag.dump(states::LIVE, filter.as_ref(), &mut take));
            }
            None => drop(proc.read_tcp(if is_elsewhere { Net::Of(held) } else { Net::Own }, &mut take)),
        }
        let inbound = rows.iter().filter(|row| !is_outbound(row, &listeners, self.ephemeral));
        inbound.filter_map(|row| Some((row.inode?, row.tuple))).collect()
    }

    /// sock_diag, and our own folder, tell of our own namespace alone.
    fn is_elsewhere(&self, proc: &Proc, held: &Held) -> bool {
        proc.netns_of(&held.pid.to_string()).is_ok_and(|netns| netns != self.own)
    }

    /// Addresses at which a process listens by one of these sockets.
    pub(super) fn listening(&mut self, proc: &Proc, held: &Held, inodes: &[Inode]) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        let mut take = |socket: Socket| {
            let is_theirs = socket.inode.is_some_and(|inode| inodes.contains(&inode));
            if is_theirs && socket.state == TcpState::Listen {
                found.push(socket.tuple.local);
            }
        };
        if inodes.is_empty() {
            return found;
        }
        let is_elsewhere = self.is_elsewhere(proc, held);
        match self.diag.as_mut().filter(|_| !is_elsewhere) {
            Some(diag) => drop(diag.dump(states::LISTEN, None, &mut take)),
            None => drop(proc.read_tcp(if is_elsewhere { Net::Of(held) } else { Net::Own }, &mut take)),
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Logins that stand now and bear one of these marks: by the processes of the servers that listen.
    pub(super) fn standing(
        &mut self,
        proc: &Proc,
        listeners: &[u32],
        ports: &HashSet<u16>,
        marks: &Marks,
    ) -> Vec<Login> {
        let mut logins = Vec::new();
        let asked_for = Marks { leader: None, ..marks.clone() };
        if self.strange.contains(&asked_for) {
            return logins;
        }
        let mut asked = 0;
        let mut below: Vec<u32> = listeners.iter().flat_map(|pid| children(proc, *pid)).collect();
        while let Some(pid) = below.pop().filter(|_| asked < MOST_SESSIONS) {
            asked += 1;
            let Ok(held) = proc.hold(pid) else { continue };
            let theirs = Marks {
                audit: proc.audit_session_of(&held),
                scope: proc.cgroup_of(&held).as_deref().and_then(scope_of),
                leader: None,
            };
            let login = theirs.fits(marks).then(|| self.served_by(proc, &held, ports)).flatten();
            match login {
                Some(origin) => logins.push(Login::new(&origin, &theirs, None, None)),
                None => below.extend(proc.children_of(&held)),
            }
        }
        if logins.is_empty() {
            self.strange.push_back(asked_for);
            let more = self.strange.len().saturating_sub(MOST_STRANGE);
            self.strange.drain(..more);
        }
        logins
    }

    /// The login that a process serves. `None`: it is no SSH server, or holds no inbound socket.
    fn served_by(&mut self, proc: &Proc, held: &Held, ports: &HashSet<u16>) -> Option<Origin> {
        let process = proc.read_process(held, Depth::Ancestor).ok().filter(is_server)?;
        let mut origin = Origin {
            kind: Kind::Ssh,
            evidence: Some(Evidence::Socket),
            inbound: Some(self.find(proc, &process, ports, || None)?),
            server: Some(held.pid),
            ..Origin::default()
        };
        super::take_title(&mut origin, &process.args);
        for args in proc.children_of(held).into_iter().filter_map(|pid| super::title_of(proc, pid)) {
            super::take_title(&mut origin, &args);
        }
        Some(origin)
    }

    /// Leaders of process sessions among the children of servers, and their children: number and start.
    pub(super) fn led_by(&self, proc: &Proc, servers: &[u32]) -> Vec<(u32, u64)> {
        let mut leaders = Vec::new();
        let mut below = servers.to_vec();
        let mut asked = 0;
        while let Some(pid) = below.pop().filter(|_| asked < MOST_SESSIONS) {
            asked += 1;
            let Ok(held) = proc.hold(pid) else { continue };
            let Ok(process) = proc.read_process(&held, Depth::Ancestor) else { continue };
            if is_server(&process) {
                below.extend(proc.children_of(&held));
            } else if proc.session_leader_of(&held) == Some(pid) {
                leaders.push((pid, process.start_ticks));
            }
        }
        leaders
    }
}

fn children(proc: &Proc, pid: u32) -> Vec<u32> {
    proc.hold(pid).map(|held| proc.children_of(&held)).unwrap_or_default()
}

fn sockets_of(proc: &Proc, held: &Held) -> Vec<(Holder, Inode)> {
    let mut sockets = Vec::new();
    let mut left = MOST_DESCRIPTORS;
    let visit = |holder: Holder, inode: Inode| {
        sockets.push((holder, inode));
        left = left.saturating_sub(1);
        left > 0
    };
    let _denied_is_none = proc.read_sockets(held, None, visit);
    sockets
}
