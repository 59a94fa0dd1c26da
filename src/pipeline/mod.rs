//! One tick through all stages: the file to read first.
//!
//! Decides when the tables are read, what a snapshot means, and what is told of it. Reads no clock, waits for nothing
//! and writes nowhere: moments, ids and names are given, records come out.

mod audited;
mod clients;
mod coverage;
mod descriptors;
mod ends;
mod executions;
mod files;
mod flows;
mod hashed;
mod heard;
mod last_words;
mod look;
mod namespace;
mod observe;
mod opens;
mod restore;
mod ways;
mod words;

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::attribution::{Attributor, Holds, Search, UserNames, Wanted};
use crate::connection::{Cookie, Inode, Key, Moment, Netns, Snapshot, TcpState, Tuple};
use crate::event::{Event, Totals, What};
use crate::netlink::UnixDiag;
use crate::origin::Origins;
use crate::proc::{Proc, ProcError};
use crate::secrets::Masker;
use crate::source::gate::Failures;
use crate::source::namespaces::Namespaces;
use crate::source::poll::{Reading, Source, Wanted as Rows};
use crate::source::{Events, Selection};
use crate::table::Table;

use audited::Audited;
use clients::Clients;
use coverage::Collected;
use descriptors::Counted;
use heard::Heard;
use namespace::Namespace;
use opens::Server;
use words::Words;

/// As many other namespaces' counters are read in one tick, 20 µs each; where there are more, each has its turn.
const MOST_SPACES: usize = 16;

/// More sockets than this whose owner is sought, and no time left for it, are a flood.
const FLOOD: usize = 64;

/// What the stages are given because they may not have it: clocks, randomness, name services.
pub struct Outside {
    /// A UUIDv7 later than all before.
    pub new_id: Box<dyn FnMut(Moment) -> Uuid>,
    /// Login name of a user id.
    pub user_name: UserNames,
    /// CLOCK_BOOTTIME.
    pub boottime: Box<dyn Fn() -> Duration>,
    /// CPU time of this thread.
    pub cputime: Box<dyn Fn() -> Duration>,
}

/// Everything that is known from tick to tick.
pub struct Pipeline {
    select: Selection,
    own: Netns,
    /// Our own namespace first.
    spaces: Vec<Namespace>,
    namespaces: Namespaces,
    /// When they were looked for last.
    looked: Duration,
    follows_all: bool,
    /// Those that have appeared and were not entered yet.
    appeared: VecDeque<Netns>,
    /// Whose turn it is of the others.
    turn: usize,
    events: Option<Rc<Events>>,
    /// True if notices of ends are on in our own namespace.
    hears_ends: bool,
    /// True once it has been told that they are off in others.
    told_off: bool,
    prefer: Option<Source>,
    ephemeral: (u16, u16),
    /// The kernel gives an attempt up after so many repetitions of its SYN.
    most_repeats: u8,
    search_time: Duration,
    /// What of it is left in this tick.
    search_left: Duration,
    new_id: Box<dyn FnMut(Moment) -> Uuid>,
    boottime: Box<dyn Fn() -> Duration>,
    cputime: Box<dyn Fn() -> Duration>,
    table: Table,
    attributor: Attributor,
    search: Search,
    /// Connections whose owner is being searched for, and since when.
    sought: HashMap<Inode, (Key, Duration)>,
    /// Owners that were not found: when to search again, and how long to wait after that.
    unknown: HashMap<Key, (Duration, Duration)>,
    holds: Holds,
    /// When owners are asked again whether they hold their sockets, and how often they were.
    ask_due: Duration,
    asked: u64,
    /// Listeners, by their socket.
    servers: HashMap<Inode, Server>,
    /// Ports and processes of those that SSH servers hold.
    server_ports: HashSet<u16>,
    server_processes: Vec<u32>,
    origins: Origins,
    /// Asks for unix sockets of our own namespace. `None`: the kernel cannot be asked.
    unix: Option<UnixDiag>,
    counted: Counted,
    clients: Clients,
    /// Failures that were counted when a connection's row was first found absent.
    doubts: HashMap<Key, Failures>,
    /// Ends that wait for their notice.
    waiting: HashMap<Key, ends::Waiting>,
    /// Ends that were told without their notice, and when: it may still come, as may the SYN of the same connection.
    missed_notices: HashMap<(Netns, Tuple), Moment>,
    /// The same, of sockets whose cookie is known.
    missed_cookies: HashMap<Cookie, Moment>,
    /// Connections that were told by a table or by their end alone, and when: their SYN may come behind it.
    told_by_end: HashMap<(Netns, Tuple), Moment>,
    /// Ends of sockets of which only the local port was told, and no SYN from there yet: since when, and how many.
    disconnected: HashMap<(Netns, u16), (Moment, u32)>,
    /// SYNs whose socket was gone when it was looked for.
    syns: HashMap<(Netns, Tuple), observe::Syn>,
    /// SYNs behind which another socket stood when they were looked up: the last of them, and how many. Repeated, or
    /// those of connections that were over by then: of these a notice tells.
    overtaken: HashMap<(Netns, Tuple), (observe::Syn, u32)>,
    /// Connections that were told to their end, when what tells of one before them may still come: when each was seen last.
    told_last: HashMap<(Netns, Tuple), Duration>,
    /// Where more than one kind of source tells SYNs: when one was told last, and how often each told it, first the tap.
    syns_told: HashMap<(Netns, Tuple), (Moment, u32, u32)>,
    audited: Audited,
    /// That of the last open that was told: ids rise in the order in which opens are told, and what came between takes a
    /// later one.
    last_id: Uuid,
    words: Words,
    heard: Heard,
    coverage: Collected,
    totals: Totals,
    /// `None`: no program's start and end is told.
    executions: Option<executions::Executions>,
    files: files::Files,
    /// What a tick had to tell that failed.
    untold: Vec<Event>,
    /// More connections than are followed: since when, and how many at most at once.
    left_out: Option<(Moment, u64)>,
}

impl Pipeline {
    /// Reads the tables of our own namespace from `/proc` until `attach` gives it more. `search_time`: so long may one
    /// tick search for owners; what is not found goes on in the next. `most_held`: as many owners are held.
    #[must_use]
    pub fn new(
        proc: &Proc,
        select: Selection,
        masker: Masker,
        outside: Outside,
        search_time: Duration,
        most_held: usize,
    ) -> Self {
        let Outside { new_id, user_name, boottime, cputime } = outside;
        let own = proc.own_netns().unwrap_or_default();
        let mut space = Namespace::new(own, true, None);
        space.standing = true;
        Self {
            select,
            own,
            spaces: vec![space],
            namespaces: Namespaces::new(own),
            looked: Duration::ZERO,
            follows_all: false,
            events: None,
            hears_ends: false,
            told_off: false,
            appeared: VecDeque::new(),
            turn: 0,
            prefer: None,
            ephemeral: proc.ephemeral_ports(),
            most_repeats: proc.syn_retries(),
            search_time,
            search_left: search_time,
            new_id,
            boottime,
            cputime,
            table: Table::new(),
            attributor: Attributor::new(masker, user_name),
            search: Search::default(),
            sought: HashMap::new(),
            unknown: HashMap::new(),
            holds: Holds::new(most_held),
            ask_due: Duration::ZERO,
            asked: 0,
            servers: HashMap::new(),
            server_ports: HashSet::from([22]),
            server_processes: Vec::new(),
            origins: Origins::new(own, proc.ephemeral_ports()),
            unix: None,
            counted: Counted::default(),
            clients: Clients::default(),
            doubts: HashMap::new(),
            waiting: HashMap::new(),
            missed_notices: HashMap::new(),
            missed_cookies: HashMap::new(),
            told_by_end: HashMap::new(),
            disconnected: HashMap::new(),
            syns: HashMap::new(),
            overtaken: HashMap::new(),
            told_last: HashMap::new(),
            syns_told: HashMap::new(),
            audited: Audited::default(),
            last_id: Uuid::nil(),
            words: Words::default(),
            heard: Heard::default(),
            coverage: Collected::default(),
            totals: Totals::default(),
            executions: None,
            files: files::Files::default(),
            untold: Vec::new(),
            left_out: None,
        }
    }

    /// One tick: reads the tables whose counters say so, goes on searching for owners, answers what is to be told.
    ///
    /// A quiet tick costs one `pread` of the counters of each namespace.
    ///
    /// # Errors
    /// If the counters or the tables of our own namespace cannot be read. Then nothing is concluded of it: the table is
    /// unchanged, and the reading is made again in the next tick, which tells what this one would have.
    pub fn tick(&mut self, proc: &Proc, at: Moment) -> Result<Vec<Event>, ProcError> {
        let mut told = std::mem::take(&mut self.untold);
        self.totals.polls += 1;
        // A tick that comes late leaves the search what keeps the next one in time.
        let interval = self.coverage.tick(at).unwrap_or_default();
        let is_late = interval > self.search_time * 3;
        self.note_interval(interval);
        // So does one that finds more sought than the last could search for: in a flood most of them are gone anyway.
        let is_flooded = self.search_left.is_zero() && self.sought.len() > FLOOD;
        self.search_left = if is_late || is_flooded { self.search_time / 5 } else { self.search_time };
        self.find_namespaces(proc, at, &mut told);
        let reads = self.totals.reads;
        let outcome = self.tick_spaces(proc, at, &mut told);
        if self.totals.polls == 1 {
            self.tell_homeless(at, &mut told);
        }
        self.hear_rest(proc, at, &mut told);
        if self.totals.reads == reads && self.search.is_under_way() {
            self.go_on_searching(proc, at, &mut told);
        }
        self.tell_waited(proc, at, &mut told);
        self.tell_hashed(proc, at, &mut told);
        self.tell_executions(proc, at, &mut told);
        self.tell_repeated_changes(at, &mut told);
        self.tell_old_syns(at, &mut told);
        self.settle_audited(proc, at, false, &mut told);
        self.tell_old_words(proc, at, &mut told);
        self.tell_idle_flows(proc, at, &mut told);
        self.look_at_masters(proc, at, &mut told);
        self.ask_owners(proc, at, &mut told);
        self.tell_coverage_if_due(at, &mut told);
        match outcome {
            Ok(()) => Ok(told),
            Err(error) => {
                self.untold = told;
                Err(error)
            }
        }
    }

    /// A tick that reads the tables whatever the counters say.
    ///
    /// # Errors
    /// As `tick`.
    pub fn tick_ungated(&mut self, proc: &Proc, at: Moment) -> Result<Vec<Event>, ProcError> {
        for space in &mut self.spaces {
            space.gate.want_read();
            space.flows.gate.want_read();
        }
        self.tick(proc, at)
    }

    /// Our own namespace, and the others in turn.
    fn tick_spaces(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) -> Result<(), ProcError> {
        let mut spaces = std::mem::take(&mut self.spaces);
        let mut outcome = Ok(());
        if let Some((own, others)) = spaces.split_first_mut() {
            outcome = self.tick_space(proc, own, at, told);
            // The first look is at all of them.
            let first = self.totals.polls == 1;
            let count = if first { others.len() } else { MOST_SPACES.min(others.len()) };
            let until = self.until_spent();
            for _ in 0..count {
                self.turn = (self.turn + 1) % others.len();
                let Some(space) = others.get_mut(self.turn) else { break };
                match self.tick_space(proc, space, at, told) {
                    Ok(()) => space.failing = false,
                    Err(error) => self.note_unreadable(proc, space, &error, at, told),
                }
                if !first && (self.cputime)() > until {
                    break;
                }
            }
        }
        self.spaces = spaces;
        outcome
    }

    /// Until when, by the CPU's clock, this tick may be busy with others' namespaces, which anybody may make: what is left
    /// to do is done in the next.
    fn until_spent(&self) -> Duration {
        (self.cputime)() + self.search_time / 2
    }

    fn tick_space(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> Result<(), ProcError> {
        let Some(net) = self.net_of(space) else { return Ok(()) };
        let is_first = !space.balance.begun;
        let attempts = if is_first { self.attempts_in(space) } else { None };
        let counters = proc.read_counters(net)?;
        space.failures.set(None);
        let verdict = space.gate.judge(counters, at.boot, self.opens_of(space, counters, at));
        if self.must_read(proc, space, verdict, at, told) {
            self.read(proc, space, at, told)?;
        }
        if is_first {
            self.begin_balance(space, attempts);
        }
        self.tick_flows(proc, space, at, told);
        Ok(())
    }

    fn read(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> Result<(), ProcError> {
        let Some(net) = self.net_of(space) else { return Ok(()) };
        let before = (self.cputime)();
        let wanted = Rows {
            select: &self.select,
            server_ports: &self.server_ports,
            ephemeral: self.ephemeral,
            noticed: space.leaves_ends(at.boot),
        };
        let outcome = space.tables.read(proc, net, &wanted);
        let cost = (self.cputime)().saturating_sub(before);
        let now = proc.read_counters(net);
        // What a process that has moved shows is another namespace's.
        let moved = !space.is_own && !self.namespaces.stands(proc, space.netns);
        if moved {
            space.gate.want_read();
            self.namespaces.lost_member(proc, space.netns);
            return Ok(());
        }
        self.totals.failed_reads += u64::from(outcome.is_err());
        let Reading { mut snapshot, rows, fallback } = outcome?;
        let failures = now.map(|now| space.gate.failures(now)).unwrap_or_default();
        self.totals.reads += 1;
        self.totals.unparsed_rows += rows.unparsed;
        if let Some(fallback) = fallback {
            let detail =
                format!("net:[{}]: {}; read by {} now", space.netns.0, fallback.error, fallback.to.name());
            told.push(Event::gap(at, "source_failed", detail));
        }
        snapshot.standing = std::mem::take(&mut space.standing);
        self.take(proc, space, &snapshot, failures, cost, at, told);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one reading and all that was learned around it")]
    fn take(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        snapshot: &Snapshot,
        failures: Failures,
        cost: Duration,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if let Some(tally) = &space.tally {
            tally.set_listening(snapshot.listeners.iter().map(|listener| listener.tuple.local.port()));
        }
        self.origins.learn(snapshot);
        let delta = self.table.take(snapshot, at);
        if delta.unaccepted {
            space.gate.note_accepted();
        }
        self.totals.standing_ends += delta.standing_ends;
        self.totals.doubtful_ends += delta.doubtful_ends;
        self.totals.ends_left_out = self.totals.ends_left_out.max(snapshot.ends_left_out);
        self.totals.duplicate_rows += delta.duplicates;
        let unconfirmed = self.tell_ends(proc, space, &delta, failures, at, told);
        self.tell_established(&delta.established, at, told);
        self.tell_opened(proc, space, snapshot, &delta, at, told);
        self.tell_passed(space, &delta, at, told);
        space.gate.share_with(self.namespaces.len());
        space.gate.has_read(at.boot, cost, unconfirmed);
        if self.has_put_off(at) {
            space.gate.want_read();
        }
        let fragile = self.table.iter().filter(|(_, entry)| is_fragile(entry.connection.state));
        space.fragile = fragile.map(|(key, _)| key).filter(|key| key.netns == space.netns).collect();
    }

    fn tell_established(&mut self, keys: &[Key], at: Moment, told: &mut Vec<Event>) {
        for key in keys {
            if let Some(entry) = self.table.get(key).filter(|entry| entry.told) {
                let connection = Arc::clone(&entry.connection);
                let what = What::Changed { connection, changed: vec!["portreeve.connection.state"] };
                told.push(Event { at, what });
            }
        }
    }

    /// Other connections are wanted from now on. Those that no longer are end for the log as out of scope; those that
    /// stand and now are will be opened as standing.
    pub fn select(&mut self, select: Selection, masker: Masker, at: Moment) -> Vec<Event> {
        if let Some(events) = &self.events {
            events.set_ports(select.looked_at().ranges());
        }
        self.words.retain(|tuple| select.wants(tuple));
        self.select = select;
        self.attributor.set_masker(masker);
        self.watch_server_ports();
        for space in &mut self.spaces {
            space.gate.follow_accepted(self.select.inbound);
            space.hears_all = !self.select.inbound;
            (space.standing, space.flows.standing) = (true, true);
            space.gate.want_read();
            space.flows.gate.want_read();
        }
        let told = self.tell_out_of_scope(at);
        self.select_flows();
        told
    }

    /// What was done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let told = self.table.iter().filter(|(_, entry)| entry.told).count() + self.ending().count();
        Totals { live: told as u64, ..self.totals }
    }

    /// Ports on which an SSH server listens, as far as is known; 22 always.
    #[must_use]
    pub fn server_ports(&self) -> &HashSet<u16> {
        &self.server_ports
    }

    /// Remembers which ports an SSH server listens on; searches for the holders of listeners that are new.
    fn learn_servers(&mut self, snapshot: &Snapshot) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        let mut standing = HashSet::new();
        for listener in &snapshot.listeners {
            let Some(inode) = listener.inode else { continue };
            standing.insert(inode);
            self.servers.entry(inode).or_insert_with(|| {
                wanted.push(Wanted { inode, uid: listener.uid });
                Server { netns: snapshot.netns, port: listener.tuple.local.port(), processes: None }
            });
        }
        let (search, before) = (&mut self.search, self.servers.len());
        self.servers.retain(|inode, Server { netns, .. }| {
            let stands = *netns != snapshot.netns || standing.contains(inode);
            if !stands {
                search.forget(*inode);
            }
            stands
        });
        if self.servers.len() != before {
            self.know_servers();
        }
        wanted
    }
}

/// What happens next to a connection in these states may move no counter.
fn is_fragile(state: TcpState) -> bool {
    matches!(state, TcpState::SynSent | TcpState::CloseWait)
}
