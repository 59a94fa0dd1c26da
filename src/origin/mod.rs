//! Which login, from where: the session behind an outbound connection.
//!
//! Proof first: going up from the owner, the nearest SSH server that holds an inbound socket tells who connected to it.
//! Where a client was cut off its login (tmux, `setsid`, a daemon) weaker evidence is asked in a fixed order, and named
//! as what it is. Nothing is guessed: two logins that fit are none. Reads only what `proc` and `netlink` say; is called
//! when somebody's connection was opened or changed hands, never in a quiet tick.

mod logins;
mod seats;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::cgroup;
use crate::connection::{Inode, Netns, Snapshot, Tuple};
use crate::proc::{Depth, Held, Proc};
use crate::process::{Lineage, Process};
use crate::ssh::{Role, is_server, parse_title};
use crate::way::{Evidence, Kind, Origin};

use logins::{Login, Logins, Marks};
use seats::Seats;

/// Daemons that run jobs.
const CRON: [&str; 7] = ["cron", "crond", "anacron", "atd", "fcron", "bcron-exec", "cronie"];
/// Programs that let in whoever sits at the machine.
const LOCAL: [&str; 10] = [
    "login",
    "agetty",
    "getty",
    "mingetty",
    "gdm-session-worker",
    "sddm-helper",
    "lightdm",
    "xdm",
    "greetd",
    "kmscon",
];
/// The variable in which sshd tells a session its connection.
const VARIABLE: &str = "SSH_CONNECTION";

/// Finds origins, and remembers logins.
#[derive(Debug)]
pub struct Origins {
    seats: Seats,
    logins: Logins,
}

/// Who is asked for, and what may be asked about.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The owner of a connection, and its ancestors.
    pub lineage: &'a Lineage,
    /// The owner, held. `None`: it has ended.
    pub owner: Option<&'a Held>,
    /// Ports that SSH servers listen on.
    pub ports: &'a HashSet<u16>,
    /// Processes that listen on these.
    pub listeners: &'a [u32],
}

impl Origins {
    /// Knows no login yet. `own`: our namespace; `ephemeral`: from `Proc::ephemeral_ports`.
    #[must_use]
    pub fn new(own: Netns, ephemeral: (u16, u16)) -> Self {
        Self { seats: Seats::new(own, ephemeral), logins: Logins::default() }
    }

    /// Asks the kernel by sock_diag from now on, not through `/proc` alone.
    pub fn use_netlink(&mut self) {
        self.seats.use_netlink();
    }

    /// Takes the inbound sockets that a reading of the table showed.
    pub fn learn(&mut self, snapshot: &Snapshot) {
        self.seats.learn(snapshot);
    }

    /// A namespace is gone.
    pub fn forget(&mut self, netns: Netns) {
        self.seats.forget(netns);
    }

    /// The session behind a connection. 25 µs where the login is known; 0.1 ms at the first connection of a login that
    /// began before the table was read last, or whose client tells its variable; else a walk over the kernel's table,
    /// which costs 0.2 ms to 3 ms.
    pub fn find(&mut self, proc: &Proc, question: Question<'_>) -> Arc<Origin> {
        let marks = Marks::of(proc, question.lineage, question.owner);
        let chain = || [&question.lineage.process].into_iter().chain(&question.lineage.ancestry);
        let entry = chain().position(|process| entry_of(process).is_some());
        let kind = entry.and_then(|at| chain().nth(at)).and_then(|process| entry_of(process));
        let found = match (kind, entry) {
            (Some(Kind::Ssh), Some(at)) => self.by_socket(proc, question, at, &marks),
            (Some(kind), _) => Some(Origin { kind, ..Origin::default() }),
            (None, _) => None,
        };
        let found = found.or_else(|| self.by_marks(proc, question, &marks));
        let found = found.or_else(|| self.by_server(question.lineage));
        let found = found.or_else(|| by_title(question.lineage));
        let found = found.or_else(|| by_environment(proc, question));
        let mut origin = found.unwrap_or_else(|| elsewhere(&question.lineage.process));
        origin.session = origin.session.or_else(|| marks.scope.map(|scope| scope.name));
        Arc::new(origin)
    }

    /// What an inbound connection's own server processes tell of it; remembers it for what outlives it. And the server as
    /// it is now, its arguments not masked. `id`: under which it is logged.
    pub fn inbound(
        &mut self,
        proc: &Proc,
        lineage: &Lineage,
        owner: Option<&Held>,
        tuple: Tuple,
        id: Option<Uuid>,
    ) -> (Origin, Option<Process>) {
        // What was read when it connected was read before the login, which brings them.
        let marks = owner.map_or_else(|| Marks::of(proc, lineage, None), |owner| Marks::now(proc, owner));
        let mut origin = Origin {
            kind: Kind::Ssh,
            evidence: Some(Evidence::Socket),
            inbound: Some(tuple),
            server: Some(lineage.process.pid),
            session: marks.scope.as_ref().map(|scope| scope.name.clone()),
            ..Origin::default()
        };
        let children = owner.map(|owner| proc.children_of(owner)).unwrap_or_default();
        // The title was another before the login.
        let now = owner.and_then(|owner| proc.read_process(owner, Depth::Ancestor).ok());
        take_title(&mut origin, now.as_ref().map_or(&lineage.process.args, |now| &now.args));
        for args in children.iter().filter_map(|pid| title_of(proc, *pid)) {
            take_title(&mut origin, &args);
        }
        let known = Origin { connection: id, ..origin.clone() };
        let server = Some((lineage.process.pid, lineage.process.start_ticks));
        for leader in self.seats.led_by(proc, &children) {
            self.logins.remember(Login::new(&known, &marks, Some(leader), server));
        }
        let origin =
            Origin { connection: None, ..self.logins.remember(Login::new(&known, &marks, None, server)) };
        (origin, now)
    }

    /// Sockets of a process that listen, of these inodes.
    pub fn listening(&mut self, proc: &Proc, held: &Held, inodes: &[Inode]) -> Vec<SocketAddr> {
        self.seats.listening(proc, held, inodes)
    }

    /// The server at `at` in the chain, or one above it, holds the inbound socket.
    fn by_socket(&mut self, proc: &Proc, question: Question<'_>, at: usize, marks: &Marks) -> Option<Origin> {
        let lineage = question.lineage;
        let chain: Vec<&Arc<Process>> = [&lineage.process].into_iter().chain(&lineage.ancestry).collect();
        let servers = chain.iter().enumerate().skip(at).take_while(|(_, process)| is_server(process));
        let hint = || variable_of(proc, question).as_deref().and_then(parse_variable);
        let (server, tuple) =
            servers.filter(|(_, process)| !is_listener(process)).find_map(|(place, process)| {
                Some((place, self.seats.find(proc, process, question.ports, hint)?))
            })?;
        let mut origin = Origin {
            kind: Kind::Ssh,
            evidence: Some(Evidence::Socket),
            inbound: Some(tuple),
            server: chain.get(server).map(|process| process.pid),
            ..Origin::default()
        };
        chain.iter().skip(at).take_while(|process| is_server(process)).for_each(|process| {
            take_title(&mut origin, &process.args);
        });
        let below = at.checked_sub(1).and_then(|below| chain.get(below));
        origin.user = origin.user.or_else(|| became(chain.get(server)?).or_else(|| became(below?)));
        let identity = |process: &&Arc<Process>| (process.pid, process.start_ticks);
        let (leader, server) = (below.map(identity), chain.get(server).map(identity));
        self.logins.remember(Login::new(&origin, marks, leader, server));
        Some(origin)
    }

    /// The server above, whose socket cannot be seen any more, served a login that is remembered.
    fn by_server(&self, lineage: &Lineage) -> Option<Origin> {
        let chain = [&lineage.process].into_iter().chain(&lineage.ancestry);
        let servers =
            chain.skip_while(|process| !is_server(process)).take_while(|process| is_server(process));
        let mut servers = servers.map(|process| (process.pid, process.start_ticks));
        servers.find_map(|server| self.logins.served_by(server))
    }

    /// A login that bears the same marks: audit session, session scope, leader of the process session.
    fn by_marks(&mut self, proc: &Proc, question: Question<'_>, marks: &Marks) -> Option<Origin> {
        if let Some(origin) = self.logins.find(marks, &question.lineage.process) {
            return Some(origin);
        }
        if marks.audit.is_none() && marks.scope.is_none() {
            return None;
        }
        // One that stands and made no connection so far.
        for login in self.seats.standing(proc, question.listeners, question.ports, marks) {
            self.logins.remember(login);
        }
        self.logins.find(marks, &question.lineage.process)
    }
}

/// What a process that lets somebody in is an entry for. Whoever is not root lets nobody in: but a session's own SSH
/// server runs as its user.
fn entry_of(process: &Process) -> Option<Kind> {
    if is_server(process) {
        return Some(Kind::Ssh);
    }
    let is_root = process.ids.is_some_and(|ids| ids.real_uid == 0);
    let path = process.executable.as_deref().unwrap_or(&process.comm);
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let is_one = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
    match is_root {
        true if is_one(&CRON) => Some(Kind::Cron),
        true if is_one(&LOCAL) => Some(Kind::LocalTty),
        _ => None,
    }
}

fn is_listener(process: &Process) -> bool {
    parse_title(&process.args).is_some_and(|title| title.role == Role::Listener)
}

/// What a server's title tells, unless one nearer to the session has told it.
fn take_title(origin: &mut Origin, args: &[Vec<u8>]) {
    let Some(title) = parse_title(args).filter(|title| title.role != Role::Listener) else { return };
    if origin.user.is_none() {
        origin.user = title.user.map(<[u8]>::to_vec);
    }
    if origin.tty.is_none() {
        origin.tty = title.tty.filter(|tty| *tty != b"notty").map(<[u8]>::to_vec);
    }
}

fn title_of(proc: &Proc, pid: u32) -> Option<Vec<Vec<u8>>> {
    let process = proc.read_process(&proc.hold(pid).ok()?, Depth::Ancestor).ok()?;
    is_server(&process).then_some(process.args)
}

/// The user that a server, or the session below it, runs as, where that is not the server's own.
fn became(process: &Arc<Process>) -> Option<Vec<u8>> {
    let uid = process.ids?.real_uid;
    if is_server(process) && uid == 0 {
        return None;
    }
    let name = process.user.as_ref().map(|user| user.as_bytes().to_vec());
    Some(name.unwrap_or_else(|| uid.to_string().into_bytes()))
}

/// An SSH server is among the ancestors, and its socket cannot be seen.
fn by_title(lineage: &Lineage) -> Option<Origin> {
    let mut chain = [&lineage.process].into_iter().chain(&lineage.ancestry);
    let server = chain.find(|process| is_server(process) && !is_listener(process))?;
    let mut origin = Origin {
        kind: Kind::Ssh,
        evidence: Some(Evidence::Title),
        server: Some(server.pid),
        ..Origin::default()
    };
    take_title(&mut origin, &server.args);
    origin.user = origin.user.or_else(|| became(server));
    Some(origin)
}

fn variable_of(proc: &Proc, question: Question<'_>) -> Option<Vec<u8>> {
    proc.variable_of(question.owner?, question.lineage.process.ids, VARIABLE)
}

/// `198.51.100.7 50122 192.0.2.10 22`
fn by_environment(proc: &Proc, question: Question<'_>) -> Option<Origin> {
    // What a unit or a container starts may have been started from a login, and is none.
    if elsewhere(&question.lineage.process).kind != Kind::Unknown {
        return None;
    }
    let value = variable_of(proc, question)?;
    let inbound = parse_variable(&value)?;
    Some(Origin {
        kind: Kind::Ssh,
        evidence: Some(Evidence::Environment),
        inbound: Some(inbound),
        ..Origin::default()
    })
}

/// Public for `fuzz/`.
#[must_use]
pub fn parse_variable(value: &[u8]) -> Option<Tuple> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let mut end = || {
        let ip = words.next()?.parse().ok()?;
        Some(SocketAddr::new(crate::connection::fold(ip), words.next()?.parse().ok()?))
    };
    let (remote, local) = (end()?, end()?);
    words.next().is_none().then_some(Tuple { local, remote })
}

/// No SSH login, as far as is known: what the cgroup and the terminal of the owner tell.
fn elsewhere(owner: &Process) -> Origin {
    let path = owner.cgroup.as_deref().unwrap_or_default();
    let unit = cgroup::unit(path).filter(|unit| unit.ends_with(".service"));
    let is_login = |unit: &str| ["ssh", "sshd", "dropbear", "user"].contains(&bare(unit));
    let kind = if cgroup::container(path).is_some() {
        Kind::Container
    } else if unit.is_some_and(|unit| !is_login(unit)) {
        if CRON.contains(&bare(unit.unwrap_or_default())) { Kind::Cron } else { Kind::Service }
    } else if owner.tty.is_some_and(|tty| !tty.is_pseudo()) {
        Kind::LocalTty
    } else {
        Kind::Unknown
    };
    Origin { kind, ..Origin::default() }
}

/// `ssh` of `ssh@1.service`.
fn bare(unit: &str) -> &str {
    let name = unit.strip_suffix(".service").unwrap_or(unit);
    name.split_once('@').map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_holds_both_ends_and_nothing_else() {
        let tuple = parse_variable(b"198.51.100.7 50122 192.0.2.10 22").unwrap();
        assert_eq!(
            (tuple.remote.to_string(), tuple.local.to_string()),
            ("198.51.100.7:50122".into(), "192.0.2.10:22".into())
        );
        let mapped = parse_variable(b"::ffff:198.51.100.7 1 ::1 22").unwrap();
        assert_eq!(mapped.remote.to_string(), "198.51.100.7:1");
        for bad in [
            &b""[..],
            b"198.51.100.7",
            b"a b c d",
            b"1.2.3.4 1 1.2.3.4 1 x",
            b"1.2.3.4 70000 1.2.3.4 1",
            b"\xff",
        ] {
            assert_eq!(parse_variable(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_unit_of_an_ssh_server_is_no_origin() {
        for (unit, wanted) in [("ssh@1-2.service", "ssh"), ("cron.service", "cron"), ("a", "a")] {
            assert_eq!(bare(unit), wanted);
        }
    }
}
