//! What SSH processes open after they have connected: forwards that listen, the control socket of a master, and the
//! sessions that ride on it. No TCP counter moves for these: the number of descriptors does.
//!
//! A stat of the folder of descriptors (2.5 µs), in each tick of a master's and of one that has just connected, of any
//! other SSH process's once a second; the descriptors are read where their number has changed. A client that goes into
//! the background leaves its socket to a child, which is looked at with it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use crate::attribution::{Found, Wanted};
use crate::connection::{Connection, Direction, Inode, Key, Moment};
use crate::event::{Event, What};
use crate::proc::{Held, Proc, Sight};
use crate::process::{Attribution, Holder, Lineage};
use crate::way::Way;

/// As many are looked at in one tick, and as many others in a second.
const MOST_EACH_TICK: usize = 256;
const MOST_OTHERS: usize = 64;
/// So long after its open a connection is being set up: keys, login, forwards, control socket.
const YOUNG: Duration = Duration::from_secs(5);
/// And so long a login may take.
const LOGIN: Duration = Duration::from_secs(120);
/// As many looks follow a change: a session has its descriptors before it has its process.
const AGAIN: u8 = 2;
/// The same of a login: it has its terminal before its server's title says so, on a busy machine long before.
const AGAIN_LOGIN: u8 = 20;
/// As many descriptors of one are read, and as many sessions that are new are searched for at once.
const MOST_DESCRIPTORS: usize = 256;
const MOST_RIDERS: usize = 16;
/// As many sessions of a master are known; when there are more, they are told again.
const MOST_KNOWN: usize = 4_096;
/// mux.c binds `PATH.` and so many random characters, and gives that file its name afterwards.
const RANDOM: usize = 16;

/// SSH processes whose descriptors are counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    by_key: HashMap<Key, Process>,
    /// Sessions whose client is being searched for, and what they ride on.
    pub(super) sought: HashMap<Inode, Key>,
    turn: usize,
}

#[derive(Debug)]
struct Process {
    held: Rc<Held>,
    /// Children that hold the socket too.
    heirs: Vec<Rc<Held>>,
    opened: Duration,
    /// Of all of them. `None`: not read yet, or the kernel does not count.
    count: Option<u64>,
    is_master: bool,
    is_login: bool,
    /// True while a login has not told whose it is.
    is_unnamed: bool,
    /// Looks that follow one at which something had changed.
    again: u8,
    riders: HashSet<Inode>,
}

impl Process {
    /// One of which the kernel does not count is read once a second.
    fn is_seen_each_tick(&self, at: Duration) -> bool {
        self.count.is_some() && (self.is_master || at < self.opened + YOUNG)
    }

    fn has_changed(&mut self, proc: &Proc, at: Duration) -> bool {
        // An heir that has ended counts as none: sshd's go one after another while somebody logs in.
        let heirs = self.heirs.iter().filter_map(|held| proc.descriptor_count(held)).sum::<u64>();
        let count = proc.descriptor_count(&self.held).map(|own| own + heirs);
        let is_changed = count.is_none() || count != self.count;
        self.count = count;
        if is_changed {
            self.again = if self.is_login { AGAIN_LOGIN } else { AGAIN };
        } else if self.again > 0 {
            self.again -= 1;
            return true;
        }
        is_changed || self.is_unnamed && at < self.opened + LOGIN
    }
}

impl Counted {
    /// The owner of a connection is an SSH process.
    fn add(&mut self, key: Key, held: Rc<Held>, connection: &Connection, is_unnamed: bool) {
        let old = self.by_key.remove(&key);
        let (is_master, riders) = old.map(|old| (old.is_master, old.riders)).unwrap_or_default();
        let process = Process {
            held,
            heirs: Vec::new(),
            opened: connection.opened.boot,
            count: Some(0),
            is_master,
            is_login: connection.direction == Direction::Ingress,
            is_unnamed,
            again: 0,
            riders,
        };
        self.by_key.insert(key, process);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if self.by_key.remove(key).is_some() {
            self.sought.retain(|_, of| of != key);
        }
    }

    /// Those of a kind whose turn it is and whose number of descriptors is another than at the last look.
    fn changed(&mut self, proc: &Proc, each_tick: bool, most: usize, at: Duration) -> Vec<Key> {
        let kind = |(_, one): &(&Key, &Process)| one.is_seen_each_tick(at) == each_tick;
        let mut keys: Vec<Key> = self.by_key.iter().filter(kind).map(|(key, _)| *key).collect();
        if keys.len() > most {
            self.turn = self.turn.wrapping_add(1);
            let skip = self.turn * most % keys.len();
            keys.rotate_left(skip);
            keys.truncate(most);
        }
        keys.retain(|key| self.by_key.get_mut(key).is_some_and(|process| process.has_changed(proc, at)));
        keys
    }
}

impl Pipeline {
    /// In each tick: masters, and what has just connected.
    pub(super) fn look_at_masters(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        for key in self.counted.changed(proc, true, MOST_EACH_TICK, at.boot) {
            self.look_at_descriptors(proc, key, at, told);
        }
    }

    /// Once a second: the others.
    pub(super) fn look_at_others(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        for key in self.counted.changed(proc, false, MOST_OTHERS, at.boot) {
            self.look_at_descriptors(proc, key, at, told);
        }
    }

    fn look_at_descriptors(&mut self, proc: &Proc, key: Key, at: Moment, told: &mut Vec<Event>) {
        let Some(connection) = self.table.get(&key).map(|entry| Arc::clone(&entry.connection)) else {
            return;
        };
        let (Some(old), Some(process)) = (connection.way.clone(), self.counted.by_key.get_mut(&key)) else {
            return;
        };
        let held = Rc::clone(&process.held);
        process.heirs = heirs(proc, &held, &connection.attribution, key.inode);
        let holders = [&held].into_iter().chain(&process.heirs);
        let mut sockets: Vec<Inode> =
            holders.flat_map(|holder| sockets_of(proc, holder, key.inode)).collect();
        sockets.sort_unstable();
        sockets.dedup();
        let mut way = Way::clone(&old);
        way.listening = self.origins.listening(proc, &held, &sockets);
        let (mut riders, mut retitled) = (Vec::new(), None);
        match connection.direction {
            Direction::Ingress => {
                if let Some(lineage) = lineage_of(&connection) {
                    let (origin, now) =
                        self.origins.inbound(proc, &lineage, Some(&held), key.tuple, Some(connection.id));
                    way.origin = Arc::new(origin);
                    retitled = now.and_then(|now| self.attributor.retitled(&lineage, now));
                }
                if let Some(process) = self.counted.by_key.get_mut(&key) {
                    process.is_unnamed = way.origin.user.is_none();
                }
            }
            Direction::Egress if key.netns == self.own => {
                riders = self.look_for_master(&key, &sockets, &mut way);
            }
            Direction::Egress => {}
        }
        self.tell_way(&key, &old, way, retitled, at, told);
        self.find_riders(proc, key, riders, connection.uid.unwrap_or(0), at, told);
    }

    /// Looks for a control socket among a client's; answers the sessions that are new on it.
    fn look_for_master(&mut self, key: &Key, sockets: &[Inode], way: &mut Way) -> Vec<Inode> {
        let Some(unix) = &mut self.unix else { return Vec::new() };
        let found = sockets.iter().filter_map(|inode| unix.find(*inode).ok().flatten()).collect::<Vec<_>>();
        let Some(name) = found.iter().find(|one| one.listens && !one.name.is_empty()).map(|one| &one.name)
        else {
            return Vec::new();
        };
        let meaning = way.ssh.get_or_insert_default();
        if !meaning.multiplexed || meaning.control_path.is_none() {
            let meaning = Arc::make_mut(meaning);
            meaning.multiplexed = true;
            meaning.control_path = meaning.control_path.take().or_else(|| Some(given_name(name)));
        }
        way.route = match way.route {
            Some(crate::ssh::Route::Direct) => Some(crate::ssh::Route::MuxMaster),
            route => route,
        };
        let Some(process) = self.counted.by_key.get_mut(key) else { return Vec::new() };
        process.is_master = true;
        let clients = found.iter().filter(|one| !one.listens && one.name == *name).filter_map(|one| one.peer);
        if process.riders.len() > MOST_KNOWN {
            process.riders.clear();
        }
        clients.filter(|peer| process.riders.insert(*peer)).take(MOST_RIDERS).collect()
    }

    /// Tells what has changed of a way, and that its server has another title.
    pub(super) fn tell_way(
        &mut self,
        key: &Key,
        old: &Way,
        new: Way,
        retitled: Option<Arc<Lineage>>,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let mut changed = Vec::new();
        changed.extend(retitled.is_some().then_some("process.args"));
        changed.extend((old.origin != new.origin).then_some("portreeve.origin"));
        changed.extend((old.route != new.route).then_some("portreeve.route"));
        changed.extend((old.ssh != new.ssh).then_some("portreeve.ssh"));
        changed.extend((old.listening != new.listening).then_some("portreeve.listening"));
        let Some(entry) = self.table.get_mut(key).filter(|_| !changed.is_empty()) else { return };
        let connection = Arc::make_mut(&mut entry.connection);
        connection.way = Some(Arc::new(new));
        if let (Attribution::Owned { lineage, .. }, Some(retitled)) = (&mut connection.attribution, retitled)
        {
            *lineage = retitled;
        }
        if entry.told {
            let connection = Arc::clone(&entry.connection);
            told.push(Event { at, what: What::Changed { connection, changed } });
        }
    }

    fn find_riders(
        &mut self,
        proc: &Proc,
        key: Key,
        riders: Vec<Inode>,
        uid: u32,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if riders.is_empty() {
            return;
        }
        let wanted: Vec<_> = riders.into_iter().map(|inode| Wanted { inode, uid }).collect();
        self.counted.sought.extend(wanted.iter().map(|one| (one.inode, key)));
        let found = self.search(proc, &wanted, self.search_left.max(Duration::from_millis(1)));
        self.tell_found(proc, found, at, told);
    }

    /// The client of a session that rides on a connection was found, or was not.
    pub(super) fn tell_rider(
        &mut self,
        proc: &Proc,
        inode: Inode,
        found: &Found,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Some(key) = self.counted.sought.remove(&inode) else { return };
        let Some(connection) = self.table.get(&key).filter(|entry| entry.told).map(|entry| &entry.connection)
        else {
            return;
        };
        let mut rider = Connection::clone(connection);
        let (attribution, held) = self.attributor.attribute(proc, inode, found, Duration::ZERO);
        // The master itself holds no client's end: whoever cannot be found has gone again.
        let Attribution::Owned { lineage, .. } = &attribution else { return };
        let mut way = self.way_out(proc, key.netns, lineage, held.as_deref());
        // `ssh -O check` asks the master and is no session.
        if way.ssh.as_ref().is_some_and(|meaning| meaning.control_command.is_some()) {
            return;
        }
        way.route = rider.way.as_ref().and_then(|way| way.route);
        rider.attribution = attribution;
        rider.way = Some(Arc::new(way));
        told.push(Event { at, what: What::Multiplexed(Arc::new(rider)) });
    }
}

fn lineage_of(connection: &Connection) -> Option<Arc<Lineage>> {
    match &connection.attribution {
        Attribution::Owned { lineage, .. } => Some(Arc::clone(lineage)),
        _ => None,
    }
}

/// Children of the owner that hold its socket by the same descriptor.
fn heirs(proc: &Proc, owner: &Held, attribution: &Attribution, inode: Inode) -> Vec<Rc<Held>> {
    let Attribution::Owned { holders, .. } = attribution else { return Vec::new() };
    let Some(first) = holders.first() else { return Vec::new() };
    let children = proc.children_of(owner).into_iter().filter_map(|pid| proc.hold(pid).ok());
    let holds = |held: &Held| {
        proc.look(held, Holder { pid: held.pid, tid: None, fd: first.fd }, inode) == Sight::Stands
    };
    children.filter(holds).map(Rc::new).collect()
}

fn sockets_of(proc: &Proc, held: &Held, but: Inode) -> Vec<Inode> {
    let mut sockets = Vec::new();
    let mut left = MOST_DESCRIPTORS;
    let visit = |_, inode: Inode| {
        sockets.extend(Some(inode).filter(|inode| *inode != but));
        left = left.saturating_sub(1);
        left > 0
    };
    let _none_if_denied = proc.read_sockets(held, None, visit);
    sockets
}

/// The name that the control socket was given.
fn given_name(bound: &[u8]) -> Vec<u8> {
    let given = bound.len().checked_sub(RANDOM + 1).and_then(|at| {
        let (name, random) = bound.split_at_checked(at)?;
        let random = random.strip_prefix(b".")?;
        random.iter().all(u8::is_ascii_alphanumeric).then_some(name)
    });
    given.filter(|name| !name.is_empty()).unwrap_or(bound).to_vec()
}

impl Pipeline {
    /// An SSH process owns a connection that is told.
    pub(super) fn count_descriptors(&mut self, key: Key, held: Option<&Rc<Held>>) {
        let connection = self.table.get(&key).filter(|entry| entry.told).map(|entry| &entry.connection);
        let way = connection.and_then(|connection| connection.way.as_ref()).filter(|way| way.is_ssh);
        match (connection, way, held) {
            (Some(connection), Some(way), Some(held)) => {
                let is_unnamed = connection.direction == Direction::Ingress && way.origin.user.is_none();
                self.counted.add(key, Rc::clone(held), connection, is_unnamed);
            }
            _ => self.counted.remove(&key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_socket_goes_by_the_name_that_it_was_given() {
        assert_eq!(given_name(b"/run/cm.abcDEF0123456789"), b"/run/cm");
        for other in
            [&b"/run/cm"[..], b"/run/cm.short", b".abcDEF0123456789", b"/run/cm.abcDEF012345678-", b""]
        {
            assert_eq!(given_name(other), other);
        }
    }
}
