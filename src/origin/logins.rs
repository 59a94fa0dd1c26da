//! Logins whose inbound socket was seen, for what goes on after it was cut off them.
//!
//! Bounded; forgets the oldest. A number of an audit session is given out once in a boot, that of a session once in a boot of
//! its system: a container has sessions with the same.

use std::collections::VecDeque;

use crate::cgroup;
use crate::proc::{Held, Proc};
use crate::process::{Lineage, Process};
use crate::way::{Evidence, Origin};

/// As many are remembered: 3 MiB at most.
const MOST: usize = 4_096;
/// A longer path is taken for no scope's: whoever may make groups may make long ones.
const LONGEST: usize = 512;

/// Number and start of a process.
pub(super) type Identity = (u32, u64);

/// By what a process and a login can be known to belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Audit session.
    pub(super) audit: Option<u32>,
    /// The scope of systemd's session.
    pub(super) scope: Option<Scope>,
    /// Leader of the process session.
    pub(super) leader: Option<u32>,
}

/// The scope of a session in the cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    /// systemd's name of the session.
    pub(super) name: String,
    /// Up to the scope: a session of a container may bear the same name, and so may a group that a user makes.
    path: Box<[u8]>,
}

impl Marks {
    pub(super) fn of(proc: &Proc, lineage: &Lineage, owner: Option<&Held>) -> Self {
        let Process { login, cgroup, .. } = lineage.process.as_ref();
        Self {
            audit: login.as_ref().and_then(|login| login.session),
            scope: cgroup.as_deref().and_then(scope_of),
            leader: owner.and_then(|owner| proc.session_leader_then(owner)),
        }
    }

    /// Those that a process bears now.
    pub(super) fn now(proc: &Proc, held: &Held) -> Self {
        Self {
            audit: proc.audit_session_of(held),
            scope: proc.cgroup_of(held).as_deref().and_then(scope_of),
            leader: proc.session_leader_of(held),
        }
    }

    /// True if they share the audit session or the scope.
    pub(super) fn fits(&self, other: &Self) -> bool {
        self.audit.is_some() && self.audit == other.audit || self.scope.is_some() && self.scope == other.scope
    }
}

/// `3` of `/user.slice/user-1000.slice/session-3.scope`, and this path.
pub(super) fn scope_of(path: &[u8]) -> Option<Scope> {
    let unit = cgroup::unit(path)?;
    let name = unit.strip_prefix("session-")?.strip_suffix(".scope")?.to_owned();
    let mut scope = path;
    while scope.rsplit(|byte| *byte == b'/').next() != Some(unit.as_bytes()) {
        scope = scope.get(..scope.iter().rposition(|byte| *byte == b'/')?)?;
    }
    (scope.len() <= LONGEST).then(|| Scope { name, path: scope.into() })
}

/// A login, and its marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    origin: Origin,
    audit: Option<u32>,
    scope: Option<Scope>,
    leader: Option<Identity>,
    /// Who served it.
    server: Option<Identity>,
}

impl Login {
    pub(super) fn new(
        origin: &Origin,
        marks: &Marks,
        leader: Option<Identity>,
        server: Option<Identity>,
    ) -> Self {
        Self { origin: origin.clone(), audit: marks.audit, scope: marks.scope.clone(), leader, server }
    }
}

impl Login {
    /// True if both are of one inbound connection, as far as can be told.
    fn is_same(&self, other: &Self) -> bool {
        let (id, other_id) = (self.origin.connection, other.origin.connection);
        self.origin.inbound == other.origin.inbound && (id.is_none() || other_id.is_none() || id == other_id)
    }

    fn learn(&mut self, known: &Self) {
        let (origin, old) = (&mut self.origin, &known.origin);
        origin.user = origin.user.take().or_else(|| old.user.clone());
        origin.tty = origin.tty.take().or_else(|| old.tty.clone());
        origin.session = origin.session.take().or_else(|| old.session.clone());
        origin.connection = origin.connection.or(old.connection);
        self.audit = self.audit.or(known.audit);
        self.scope = self.scope.take().or_else(|| known.scope.clone());
        self.server = self.server.or(known.server);
    }
}

/// All of them, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Logins(VecDeque<Login>);

impl Logins {
    /// One more, or more of one: what was known of it stays known when its server has less to tell, as at its end.
    pub(super) fn remember(&mut self, mut login: Login) -> Origin {
        if let Some(known) = self.0.iter().rfind(|known| known.is_same(&login)) {
            login.learn(known);
        }
        let origin = login.origin.clone();
        if self.0.back() == Some(&login) {
            return origin;
        }
        self.0.retain(|known| !known.is_same(&login) || known.leader != login.leader);
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(login);
        origin
    }

    /// The one login that bears the strongest mark that any bears.
    pub(super) fn find(&self, marks: &Marks, owner: &Process) -> Option<Origin> {
        let by_audit = |login: &Login| marks.audit.is_some() && login.audit == marks.audit;
        let by_scope = |login: &Login| marks.scope.is_some() && login.scope == marks.scope;
        // A number is given to no other process while anybody is in the session that it leads.
        let by_leader = |login: &Login| {
            login.leader.is_some_and(|(pid, start)| Some(pid) == marks.leader && start <= owner.start_ticks)
        };
        self.only(Evidence::AuditSession, by_audit)
            .or_else(|| self.only(Evidence::CgroupSession, by_scope))
            .or_else(|| self.only(Evidence::Remembered, by_leader))
    }

    /// The one login that was served by this process.
    pub(super) fn served_by(&self, server: Identity) -> Option<Origin> {
        self.only(Evidence::Remembered, |login| login.server == Some(server))
    }

    /// Two logins that fit are none: a session that a later login joined, or a number that was used again.
    fn only(&self, evidence: Evidence, fits: impl Fn(&Login) -> bool) -> Option<Origin> {
        let mut fitting = self.0.iter().rev().filter(|login| fits(login));
        let last = fitting.next()?;
        let one = fitting.all(|login| login.origin.inbound == last.origin.inbound);
        one.then(|| Origin { evidence: Some(evidence), ..last.origin.clone() })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::connection::Tuple;
    use crate::way::Kind;

    fn scope(name: &str) -> Option<Scope> {
        scope_of(format!("/user.slice/session-{name}.scope").as_bytes())
    }

    fn login(port: u16, audit: Option<u32>, name: Option<&str>, leader: Option<Identity>) -> Login {
        let tuple = Tuple { local: ([192, 0, 2, 1], 22).into(), remote: ([198, 51, 100, 7], port).into() };
        let origin = Origin { kind: Kind::Ssh, inbound: Some(tuple), ..Origin::default() };
        Login { origin, audit, scope: name.and_then(scope), leader, server: None }
    }

    fn find(logins: &Logins, marks: Marks) -> Option<(u16, Evidence)> {
        let owner = Process { start_ticks: 100, ..Process::of_pid(7) };
        let found = logins.find(&marks, &owner)?;
        Some((found.inbound?.remote.port(), found.evidence?))
    }

    #[test]
    fn the_strongest_mark_decides_and_two_that_fit_are_none() {
        let mut logins = Logins::default();
        logins.remember(login(1, Some(10), Some("a"), Some((50, 90))));
        logins.remember(login(2, Some(11), Some("b"), Some((60, 90))));
        logins.remember(login(3, None, None, Some((60, 95))));
        logins.remember(login(4, None, Some("b"), Some((70, 101))));
        let marks = |audit, name: Option<&str>, leader| Marks { audit, scope: name.and_then(scope), leader };
        for (marks, wanted) in [
            (marks(Some(10), Some("b"), Some(60)), Some((1, Evidence::AuditSession))),
            (marks(None, Some("a"), Some(60)), Some((1, Evidence::CgroupSession))),
            (marks(None, None, Some(50)), Some((1, Evidence::Remembered))),
            (marks(None, Some("b"), None), None),
            (marks(None, None, Some(60)), None),
            (marks(None, None, Some(70)), None),
            (marks(Some(12), None, None), None),
            (Marks::default(), None),
        ] {
            assert_eq!(find(&logins, marks.clone()), wanted, "{marks:?}");
        }
    }

    #[test]
    fn what_was_known_of_a_login_stays_known_and_is_no_other_logins() {
        let mut logins = Logins::default();
        let with_id = |id, mut login: Login| {
            login.origin.connection = Some(Uuid::from_u128(id));
            login
        };
        let mut first = with_id(1, login(1, Some(10), None, None));
        first.origin.user = Some(b"alice".to_vec());
        logins.remember(first);
        logins.remember(with_id(1, login(1, None, None, None)));
        logins.remember(login(1, None, None, Some((50, 90))));
        logins.remember(with_id(2, login(1, Some(11), None, None)));
        let owner = Process { start_ticks: 100, ..Process::of_pid(7) };
        let known = |marks: Marks| {
            let origin = logins.find(&marks, &owner).unwrap();
            (origin.connection.map(|id| id.as_u128()), origin.user)
        };
        let of_audit = |audit| Marks { audit: Some(audit), ..Marks::default() };
        assert_eq!(known(of_audit(10)), (Some(1), Some(b"alice".to_vec())));
        assert_eq!(known(Marks { leader: Some(50), ..Marks::default() }), (Some(1), Some(b"alice".to_vec())));
        assert_eq!(known(of_audit(11)), (Some(2), None), "its ends are those of the first");
    }

    #[test]
    fn who_is_below_a_server_that_has_ended_is_of_its_login() {
        let mut logins = Logins::default();
        logins.remember(Login { server: Some((40, 80)), ..login(1, None, None, None) });
        logins.remember(login(1, None, None, Some((50, 90))));
        logins.remember(Login { server: Some((40, 95)), ..login(2, None, None, None) });
        let port = |server| Some(logins.served_by(server)?.inbound?.remote.port());
        assert_eq!((port((40, 80)), port((40, 95)), port((40, 99))), (Some(1), Some(2), None));
    }

    #[test]
    fn as_many_as_are_remembered_and_the_last_of_each() {
        let mut logins = Logins::default();
        for port in 1..=u16::try_from(MOST).unwrap() + 9 {
            logins.remember(login(port, Some(u32::from(port)), None, None));
            logins.remember(login(port, Some(u32::from(port)), Some("x"), None));
        }
        assert_eq!(logins.0.len(), MOST);
        let oldest = Marks { audit: Some(9), ..Marks::default() };
        assert_eq!(find(&logins, oldest), None);
        let next = Marks { audit: Some(10), ..Marks::default() };
        assert_eq!(find(&logins, next), Some((10, Evidence::AuditSession)));
    }

    #[test]
    fn a_scope_of_a_session_names_it() {
        let path = b"/user.slice/user-1000.slice/session-c12.scope";
        let scope = scope_of(path).unwrap();
        assert_eq!((scope.name.as_str(), &*scope.path), ("c12", &path[..]));
        assert_eq!(scope_of(&[path, &b"/inner"[..]].concat()), Some(scope.clone()));
        let of_a_container = scope_of(&[&b"/lxc/web"[..], path].concat()).unwrap();
        assert!(of_a_container.name == scope.name && of_a_container != scope);
        let long = [&b"/"[..], &[b'x'; LONGEST], path].concat();
        assert_eq!(scope_of(&long), None);
        for none in [&b"/system.slice/ssh.service"[..], b"/user.slice/user@1000.service/init.scope", b"/"] {
            assert_eq!(scope_of(none), None);
        }
    }
}
