//! One tick through all stages: the file to read first.
//!
//! Decides when the tables are read, what a snapshot means, and what is told of it. Reads no clock, waits for nothing
//! and writes nowhere: moments, ids and names are given, records come out.

mod ends;
mod opens;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::attribution::{Attributor, Holds, Search, UserNames, Wanted};
use crate::connection::{Inode, Key, Moment, Netns, Snapshot, TcpState};
use crate::event::{Event, Totals, What};
use crate::proc::{Counters, Net, Proc, ProcError, Sight};
use crate::secrets::Masker;
use crate::source::gate::{Failures, Gate, Verdict};
use crate::source::{Selection, poll};
use crate::table::{Delta, Table};

/// As many connections that are about to change are looked at in one quiet tick.
const MOST_FRAGILE: usize = 32;
/// One look at one descriptor, for the purse: measured 4 µs.
const LOOK_COST: Duration = Duration::from_micros(4);

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
    netns: Netns,
    ephemeral: (u16, u16),
    search_time: Duration,
    new_id: Box<dyn FnMut(Moment) -> Uuid>,
    boottime: Box<dyn Fn() -> Duration>,
    cputime: Box<dyn Fn() -> Duration>,
    gate: Gate,
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
    /// Listeners: whether an SSH server holds them. `None`: being searched for.
    servers: HashMap<Inode, (u16, Option<bool>)>,
    server_ports: HashSet<u16>,
    /// Connections in SYN_SENT or CLOSE_WAIT: what happens to them next may move no counter.
    fragile: Vec<Key>,
    /// Failures that were counted when a connection's row was first found absent.
    doubts: HashMap<Key, Failures>,
    totals: Totals,
}

impl Pipeline {
    /// `search_time`: so long may one tick search for owners; what is not found goes on in the next. `most_held`:
    /// as many owners are held.
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
        Self {
            select,
            netns: proc.own_netns().unwrap_or_default(),
            ephemeral: proc.ephemeral_ports(),
            search_time,
            new_id,
            boottime,
            cputime,
            gate: Gate::default(),
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
            fragile: Vec::new(),
            doubts: HashMap::new(),
            totals: Totals::default(),
        }
    }

    /// One tick: reads the tables if the counters say so, goes on searching for owners, answers what is to be told.
    ///
    /// A quiet tick costs one `pread` of the counters.
    ///
    /// # Errors
    /// If the counters or the tables cannot be read. Then nothing is concluded: the table is unchanged, and the
    /// reading is made again in the next tick.
    pub fn tick(&mut self, proc: &Proc, at: Moment) -> Result<Vec<Event>, ProcError> {
        self.totals.polls += 1;
        let counters = proc.read_counters(Net::Own)?;
        let mut told = Vec::new();
        if self.must_read(proc, counters, at) {
            self.read(proc, at, &mut told)?;
        } else if self.search.is_under_way() {
            self.go_on_searching(proc, at, &mut told);
        }
        self.ask_owners(proc, at, &mut told);
        Ok(told)
    }

    /// A tick that reads the tables whatever the counters say.
    ///
    /// # Errors
    /// As `tick`.
    pub fn tick_ungated(&mut self, proc: &Proc, at: Moment) -> Result<Vec<Event>, ProcError> {
        self.gate.want_read();
        self.tick(proc, at)
    }

    /// The tables are read when something that only they can explain happened: the module `gate` argues why.
    fn must_read(&mut self, proc: &Proc, counters: Counters, at: Moment) -> bool {
        let verdict = self.gate.judge(counters, at.boot);
        if verdict == Verdict::Read || self.any_fragile_gone(proc) {
            return true;
        }
        let look = LOOK_COST * u32::try_from(self.holds.len()).unwrap_or(u32::MAX);
        let worth_it = verdict == Verdict::Look && look * 4 < self.gate.read_cost() && self.gate.pay(look);
        if worth_it && self.holds.keys().any(|key| self.holds.look(proc, key) == Sight::Gone) {
            return true;
        }
        verdict != Verdict::Quiet && !self.table.is_empty() && self.gate.pay(self.gate.read_cost())
    }

    fn any_fragile_gone(&self, proc: &Proc) -> bool {
        let offset =
            usize::try_from(self.totals.polls).unwrap_or(0) * MOST_FRAGILE % self.fragile.len().max(1);
        let turn = self.fragile.iter().cycle().skip(offset).take(MOST_FRAGILE.min(self.fragile.len()));
        turn.into_iter().any(|key| self.holds.look(proc, key) == Sight::Gone)
    }

    fn read(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) -> Result<(), ProcError> {
        let before = (self.cputime)();
        let wanted = poll::Wanted {
            select: &self.select,
            server_ports: &self.server_ports,
            ephemeral: self.ephemeral,
        };
        let outcome = poll::snapshot(proc, self.netns, &wanted);
        self.totals.failed_reads += u64::from(outcome.is_err());
        let (snapshot, rows) = outcome?;
        let cost = (self.cputime)().saturating_sub(before);
        let failures = proc.read_counters(Net::Own).map(|now| self.gate.failures(now)).unwrap_or_default();
        self.totals.reads += 1;
        self.totals.unparsed_rows += rows.unparsed;

        let adopting = self.table.is_adopting();
        let delta = self.table.take(&snapshot, at);
        self.totals.standing_ends += delta.standing_ends;
        self.totals.duplicate_rows += delta.duplicates;
        let unconfirmed = self.tell_ends(proc, &delta, failures, at, told);
        self.tell_established(&delta, at, told);
        self.tell_opened(proc, &snapshot, &delta, adopting, at, told);
        self.tell_passed(&delta, at, told);
        self.gate.has_read(at.boot, cost, unconfirmed);
        let waits = |state| matches!(state, TcpState::SynSent | TcpState::CloseWait);
        self.fragile =
            self.table.iter().filter(|(_, e)| waits(e.connection.state)).map(|(key, _)| key).collect();
        Ok(())
    }

    fn tell_established(&mut self, delta: &Delta, at: Moment, told: &mut Vec<Event>) {
        for key in &delta.established {
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
        self.select = select;
        self.attributor.set_masker(masker);
        self.table.adopt();
        self.gate.want_read();
        self.tell_out_of_scope(at)
    }

    /// What was done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals { live: self.table.iter().filter(|(_, entry)| entry.told).count() as u64, ..self.totals }
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
                (listener.tuple.local.port(), None)
            });
        }
        let search = &mut self.search;
        self.servers.retain(|inode, _| {
            let stands = standing.contains(inode);
            if !stands {
                search.forget(*inode);
            }
            stands
        });
        wanted
    }
}
