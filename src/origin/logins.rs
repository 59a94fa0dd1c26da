//! Logins whose inbound socket was seen, for what goes on after it was cut off them.
//!
//! Bounded; forgets the oldest. A number of an audit session or a session scope is given out once in a boot.

use std::collections::VecDeque;

use crate::cgroup;
use crate::proc::{Held, Proc};
use crate::process::{Lineage, Process};
use crate::way::{Evidence, Origin};

/// As many are remembered: 1 MiB at most.
const MOST: usize = 4_096;

/// By what a process and a login can be known to belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Audit session.
    pub(super) audit: Option<u32>,
    /// Name of systemd's session, from the scope in the cgroup path.
    pub(super) scope: Option<String>,
    /// Leader of the process session.
    pub(super) leader: Option<u32>,
}

impl Marks {
    pub(super) fn of(proc: &Proc, lineage: &Lineage, owner: Option<&Held>) -> Self {
        let Process { login, cgroup, .. } = lineage.process.as_ref();
        Self {
            audit: login.as_ref().and_then(|login| login.session),
            scope: cgroup.as_deref().and_then(scope_of),
            leader: owner.and_then(|owner| proc.session_leader_of(owner)),
        }
    }

    /// True if they share the audit session or the scope.
    pub(super) fn fits(&self, other: &Self) -> bool {
        self.audit.is_some() && self.audit == other.audit || self.scope.is_some() && self.scope == other.scope
    }
}

/// `3` of `/user.slice/user-1000.slice/session-3.scope`.
pub(super) fn scope_of(path: &[u8]) -> Option<String> {
    let unit = cgroup::unit(path)?;
    Some(unit.strip_prefix("session-")?.strip_suffix(".scope")?.to_owned())
}

/// A login, and its marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    origin: Origin,
    audit: Option<u32>,
    scope: Option<String>,
    leader: Option<(u32, u64)>,
}

impl Login {
    pub(super) fn new(origin: &Origin, marks: &Marks, leader: Option<(u32, u64)>) -> Self {
        Self { origin: origin.clone(), audit: marks.audit, scope: marks.scope.clone(), leader }
    }
}

/// All of them, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Logins(VecDeque<Login>);

impl Logins {
    /// One more, or more of one.
    pub(super) fn remember(&mut self, login: Login) {
        if self.0.back() == Some(&login) {
            return;
        }
        self.0.retain(|known| known.origin.inbound != login.origin.inbound || known.leader != login.leader);
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(login);
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
    use super::*;
    use crate::connection::Tuple;
    use crate::way::Kind;

    fn login(port: u16, audit: Option<u32>, scope: Option<&str>, leader: Option<(u32, u64)>) -> Login {
        let tuple = Tuple { local: ([192, 0, 2, 1], 22).into(), remote: ([198, 51, 100, 7], port).into() };
        let origin = Origin { kind: Kind::Ssh, inbound: Some(tuple), ..Origin::default() };
        Login { origin, audit, scope: scope.map(str::to_owned), leader }
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
        let marks =
            |audit, scope: Option<&str>, leader| Marks { audit, scope: scope.map(str::to_owned), leader };
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
        assert_eq!(scope_of(b"/user.slice/user-1000.slice/session-c12.scope"), Some("c12".to_owned()));
        for none in [&b"/system.slice/ssh.service"[..], b"/user.slice/user@1000.service/init.scope", b"/"] {
            assert_eq!(scope_of(none), None);
        }
    }
}
