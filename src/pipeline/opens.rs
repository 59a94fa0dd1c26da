//! Connections that are new: who made them, and what is told of it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use crate::attribution::{Found, Wanted};
use crate::connection::{CloseReason, Connection, Inode, Key, Moment, Seen, Snapshot, Socket};
use crate::event::{Ending, Event, What};
use crate::proc::{Held, Proc};
use crate::process::{Attribution, Reason};
use crate::source::selection::Known;
use crate::table::Delta;

/// An owner that was not found is searched for again after this, then after twice this, ...
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// ... up to this, and then no more.
const LAST_RETRY: Duration = Duration::from_secs(64);
/// So long may the first reading search for owners.
const FIRST_SEARCH: Duration = Duration::from_secs(1);
/// The kernel keeps TIME_WAIT this long (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Owners are asked this often whether they hold their sockets still, as many at a time: 0.3 ms a second at most.
const ASK_EVERY: Duration = Duration::from_secs(1);
const MOST_ASKED: usize = 64;

/// Programs that are SSH servers, by the name they run under.
const SSH_SERVERS: [&str; 6] = ["sshd", "sshd-session", "dropbear", "tinysshd", "lsh", "lshd"];

impl Pipeline {
    /// Searches for all owners that this snapshot asks for, and opens what is new.
    pub(super) fn tell_opened(
        &mut self,
        proc: &Proc,
        snapshot: &Snapshot,
        delta: &Delta,
        adopting: bool,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let sight = (self.boottime)();
        let seen = if adopting { Seen::Start } else { Seen::Poll };
        let mut wanted = self.learn_servers(snapshot);
        for socket in &delta.opened {
            let Some(inode) = socket.inode else { continue };
            let key = Key { netns: snapshot.netns, tuple: socket.tuple, inode };
            let connection = self.new_connection(key, socket, seen, at);
            self.table.open(key, connection, true);
            self.sought.insert(inode, (key, sight));
            wanted.push(Wanted { inode, uid: socket.uid });
        }
        // Before the watch has begun there is no pace to keep: what stands is told with its owners.
        let time = if adopting { self.search_time.max(FIRST_SEARCH) } else { self.search_time };
        let mut found = self.search(proc, &wanted, time);
        for socket in &delta.opened {
            let Some(inode) = socket.inode else { continue };
            let key = Key { netns: snapshot.netns, tuple: socket.tuple, inode };
            self.open(proc, key, found.remove(&inode).as_ref(), at, told);
        }
        self.tell_found(proc, found, at, told);
        if self.sought.is_empty() {
            self.sought.shrink_to(64);
        }
    }

    /// Between readings: owners that left and owners whose next search has come. A descriptor that is passed on moves no
    /// counter.
    pub(super) fn ask_owners(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        if at.boot < self.ask_due {
            return;
        }
        self.ask_due = at.boot + ASK_EVERY;
        let sight = (self.boottime)();
        let wanted = self.owners_to_find_again(proc, at, sight);
        if !wanted.is_empty() {
            let found = self.search(proc, &wanted, self.search_time);
            self.tell_found(proc, found, at, told);
        }
    }

    /// Goes on with searches of earlier ticks, more slowly: whoever is found now is no newborn that might leave.
    pub(super) fn go_on_searching(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        let found = self.search(proc, &[], self.search_time / 5);
        self.tell_found(proc, found, at, told);
    }

    fn search(&mut self, proc: &Proc, wanted: &[Wanted], time: Duration) -> HashMap<Inode, Found> {
        self.attributor.begin_tick();
        // By CPU time: what another process takes of the core is not spent on searching.
        let until = (self.cputime)() + time;
        self.search.run(proc, wanted, &self.cputime, until)
    }

    fn new_connection(&mut self, key: Key, socket: &Socket, seen: Seen, at: Moment) -> Connection {
        Connection {
            id: (self.new_id)(at),
            netns: key.netns,
            inode: Some(key.inode),
            tuple: key.tuple,
            state: socket.state,
            uid: Some(socket.uid),
            user: None,
            seen,
            opened: at,
            last_seen: at,
            attribution: Attribution::Unknown(Reason::Budget),
        }
    }

    /// Tells an open, with the owner if the search has found one in this tick.
    fn open(&mut self, proc: &Proc, key: Key, found: Option<&Found>, at: Moment, told: &mut Vec<Event>) {
        let (attribution, held) = match found {
            Some(found) => self.attribute(proc, key, found),
            None => (Attribution::Unknown(Reason::Budget), None),
        };
        let needs_name = attribution.owner().is_none();
        let uid = self.table.get(&key).and_then(|entry| entry.connection.uid).filter(|_| needs_name);
        let user = uid.and_then(|uid| self.attributor.user_name(uid));
        self.remember(proc, key, &attribution, held, at);
        let filter = &self.select.filter;
        let Some(entry) = self.table.get_mut(&key) else { return };
        let connection = Arc::make_mut(&mut entry.connection);
        connection.attribution = attribution;
        connection.user = user;
        let owner = connection.attribution.owner();
        let known = Known {
            remote: connection.tuple.remote,
            uid: owner.and_then(|owner| owner.ids).map(|ids| ids.real_uid).or(connection.uid),
            user: owner.map_or(connection.user.as_deref(), |owner| owner.user.as_deref()),
            executable: owner.and_then(|owner| owner.executable.as_deref()),
        };
        entry.told = filter.admits(&known);
        if entry.told {
            self.totals.opens += 1;
            self.totals.unattributed += u64::from(owner.is_none());
            told.push(Event { at, what: What::Opened(Arc::clone(&entry.connection)) });
        }
    }

    fn attribute(&mut self, proc: &Proc, key: Key, found: &Found) -> (Attribution, Option<Rc<Held>>) {
        let since = self.sought.remove(&key.inode).map_or_else(|| (self.boottime)(), |(_, since)| since);
        // The latency is taken when the owner has been read, so it is filled in behind it.
        let (mut attribution, mut held) = self.attributor.attribute(proc, key.inode, found, Duration::ZERO);
        if attribution == Attribution::Unknown(Reason::HolderVanished) {
            // Somebody short-lived had inherited it: who else holds it is worth another search.
            let uid = self.table.get(&key).and_then(|entry| entry.connection.uid).unwrap_or(0);
            let again = self.search(proc, &[Wanted { inode: key.inode, uid }], self.search_time);
            if let Some(found) = again.get(&key.inode) {
                (attribution, held) = self.attributor.attribute(proc, key.inode, found, Duration::ZERO);
            }
        }
        if let Attribution::Owned { latency, .. } = &mut attribution {
            *latency = (self.boottime)().saturating_sub(since);
        }
        (attribution, held)
    }

    /// Holds the owner, or plans the next search for it.
    fn remember(
        &mut self,
        proc: &Proc,
        key: Key,
        attribution: &Attribution,
        held: Option<Rc<Held>>,
        at: Moment,
    ) {
        match (attribution, held) {
            (Attribution::Owned { holders, .. }, Some(held)) => {
                self.unknown.remove(&key);
                self.holds.add(proc, key, holders.clone(), held);
            }
            (Attribution::Unknown(Reason::Budget), _) => {}
            _ => {
                self.holds.orphan(&key);
                let (_, delay) = self.unknown.get(&key).copied().unwrap_or((at.boot, FIRST_RETRY / 2));
                self.unknown.insert(key, (at.boot + delay * 2, delay * 2));
            }
        }
    }

    /// Owners to search for again: those that were not found, once their time has come, and those that let go of a
    /// socket that stands (a ControlPersist master hands it to its child).
    fn owners_to_find_again(&mut self, proc: &Proc, at: Moment, sight: Duration) -> Vec<Wanted> {
        self.unknown.retain(|_, (_, delay)| *delay <= LAST_RETRY);
        let due = self.unknown.iter().filter(|(_, (next, _))| *next <= at.boot).map(|(key, _)| *key);
        let left = self.holds.some(MOST_ASKED, self.asked).filter(|key| self.holds.owner_left(proc, key));
        let keys: Vec<Key> = due.chain(left).collect();
        self.asked += 1;
        let mut wanted = Vec::new();
        for key in keys {
            let Some(entry) = self.table.get(&key).filter(|entry| entry.absent == 0) else { continue };
            if let Some(uid) = entry.connection.uid
                && !self.sought.contains_key(&key.inode)
            {
                self.sought.insert(key.inode, (key, sight));
                wanted.push(Wanted { inode: key.inode, uid });
            }
        }
        wanted
    }

    /// Owners that were found later than the open was told, and holders of listeners.
    fn tell_found(&mut self, proc: &Proc, found: HashMap<Inode, Found>, at: Moment, told: &mut Vec<Event>) {
        for (inode, found) in found {
            if let Some((_, is_server)) = self.servers.get_mut(&inode) {
                *is_server = Some(is_ssh_server(proc, &found));
            } else if let Some((key, _)) = self.sought.get(&inode).copied() {
                let (attribution, held) = self.attribute(proc, key, &found);
                self.tell_owner(proc, key, attribution, held, at, told);
            }
        }
        let servers = self.servers.values().filter(|(_, is_server)| *is_server == Some(true));
        self.server_ports = servers.map(|(port, _)| *port).chain([22]).collect();
    }

    fn tell_owner(
        &mut self,
        proc: &Proc,
        key: Key,
        attribution: Attribution,
        held: Option<Rc<Held>>,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        self.remember(proc, key, &attribution, held, at);
        let Some(entry) = self.table.get_mut(&key) else { return };
        let old = &entry.connection.attribution;
        let changed = match (old, &attribution) {
            // Nothing is unlearned: an owner that was known stays on record.
            (Attribution::Owned { .. }, Attribution::Unknown(_)) => return,
            (Attribution::Owned { lineage: old, .. }, Attribution::Owned { lineage, .. }) => {
                if old.process == lineage.process {
                    return;
                }
                vec!["process"]
            }
            (Attribution::Unknown(_), Attribution::Owned { .. }) => vec!["process", "portreeve.attribution"],
            (Attribution::Unknown(old), Attribution::Unknown(new)) if old == new => return,
            (Attribution::Unknown(_), Attribution::Unknown(_)) => vec!["portreeve.attribution"],
        };
        Arc::make_mut(&mut entry.connection).attribution = attribution;
        if entry.told {
            let connection = Arc::clone(&entry.connection);
            told.push(Event { at, what: What::Changed { connection, changed } });
        }
    }

    /// Connections that began and ended between two readings: their TIME_WAIT tells that they were, and when they
    /// ended; not who made them.
    pub(super) fn tell_passed(&mut self, delta: &Delta, at: Moment, told: &mut Vec<Event>) {
        for socket in &delta.passed {
            let gone = socket.timewait_left.map_or(Duration::ZERO, |left| TIME_WAIT.saturating_sub(left));
            let connection = Arc::new(Connection {
                id: (self.new_id)(at),
                netns: self.netns,
                inode: None,
                tuple: socket.tuple,
                state: socket.state,
                uid: None,
                user: None,
                seen: Seen::TimeWait,
                opened: at,
                last_seen: at,
                attribution: Attribution::Unknown(Reason::TimeWait),
            });
            let ending = Ending {
                reason: CloseReason::Closed,
                success: Some(true),
                last_seen: None,
                gone_by: earlier(at, gone),
            };
            self.totals.opens += 1;
            self.totals.unattributed += 1;
            self.totals.passed += 1;
            self.totals.closes += 1;
            told.push(Event { at, what: What::Opened(Arc::clone(&connection)) });
            told.push(Event { at, what: What::Closed { connection, ending } });
        }
    }
}

fn earlier(at: Moment, by: Duration) -> Moment {
    Moment { wall: at.wall.checked_sub(by).unwrap_or(at.wall), boot: at.boot.saturating_sub(by) }
}

fn is_ssh_server(proc: &Proc, found: &Found) -> bool {
    let Found::Holders(holders) = found else { return false };
    let name = |pid| proc.hold(pid).and_then(|held| proc.comm_of(&held)).unwrap_or_default();
    holders.iter().any(|holder| SSH_SERVERS.iter().any(|server| server.as_bytes() == name(holder.pid)))
}
