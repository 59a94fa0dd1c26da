//! Whether a tick must read the table, and what exact lookups tell without one.

use std::time::Duration;

use super::Pipeline;
use super::namespace::Namespace;
use crate::connection::{Key, Moment, Transport};
use crate::event::Event;
use crate::proc::{Proc, Sight};
use crate::source::gate::{Failures, Verdict};

/// As many connections that are about to change are looked at in one quiet tick.
const MOST_FRAGILE: usize = 32;
/// One look at one descriptor, or one exact lookup, for the purse: measured 4 µs.
const LOOK_COST: Duration = Duration::from_micros(4);

impl Pipeline {
    /// The table is read when something that only it can explain happened: the module `gate` argues why.
    pub(super) fn must_read(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        verdict: Verdict,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> bool {
        if verdict == Verdict::Read {
            return true;
        }
        if space.tables.looks_up() {
            return self.must_read_after_lookups(proc, space, verdict, at, told);
        }
        if self.turn(space).iter().any(|key| self.holds.look(proc, key) == Sight::Gone) {
            return true;
        }
        let is_tcp =
            |key: &Key| self.table.get(key).is_some_and(|e| e.connection.transport == Transport::Tcp);
        let followed = || self.holds.keys().filter(|key| key.netns == space.netns && is_tcp(key));
        let look = LOOK_COST * u32::try_from(followed().count()).unwrap_or(u32::MAX);
        let worth_it = verdict == Verdict::Look && look * 4 < space.gate.read_cost() && space.gate.pay(look);
        if worth_it && followed().any(|key| self.holds.look(proc, key) == Sight::Gone) {
            return true;
        }
        let any = self.followed(space).next().is_some();
        verdict != Verdict::Quiet && any && space.gate.pay(space.gate.read_cost())
    }

    /// An exact lookup tells what a descriptor and the table tell together: no table is read for an end.
    fn must_read_after_lookups(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        verdict: Verdict,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> bool {
        let mut keys = self.turn(space);
        let mut must_read = space.gate.is_strange() && space.gate.pay(space.gate.read_cost());
        if verdict != Verdict::Quiet {
            // A socket that was reset stays until its process lets go of it, and so does its notice.
            let noticed = space.is_noticed(at.boot) && !space.gate.has_resets();
            let followed: Vec<Key> = match noticed {
                // Every end will be told: what moved is theirs or nobody's that is followed.
                true => Vec::new(),
                false => self.followed(space).collect(),
            };
            let cost = LOOK_COST * u32::try_from(followed.len()).unwrap_or(u32::MAX);
            if followed.is_empty() || cost <= space.gate.read_cost() && space.gate.pay(cost) {
                keys.extend(followed);
                keys.sort_unstable();
                keys.dedup();
                space.gate.explained();
            } else {
                must_read = must_read || space.gate.pay(space.gate.read_cost());
            }
        }
        self.look_at(proc, space, &keys, at, told) || must_read
    }

    /// Its TCP connections: what moves TCP's counters.
    fn followed(&self, space: &Namespace) -> impl Iterator<Item = Key> {
        let netns = space.netns;
        let entries = self.table.iter();
        let own =
            entries.filter(move |(key, e)| key.netns == netns && e.connection.transport == Transport::Tcp);
        own.map(|(key, _)| key)
    }

    /// True if a lookup failed: then the table must tell.
    fn look_at(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        keys: &[Key],
        at: Moment,
        told: &mut Vec<Event>,
    ) -> bool {
        for key in keys {
            if self.waiting.contains_key(key) || self.table.get(key).is_none() {
                continue;
            }
            let Some(found) = self.find(space, key) else { return true };
            let failures = match &found {
                Some(sight) if sight.socket.inode.is_some() => Default::default(),
                _ => self.new_failures(proc, space),
            };
            self.take_sight(space, key, found, failures, at, told);
        }
        let table = &self.table;
        space.fragile.retain(|key| table.get(key).is_some_and(|e| super::is_fragile(e.connection.state)));
        false
    }

    /// Those whose turn it is to be looked at in this tick.
    fn turn(&self, space: &Namespace) -> Vec<Key> {
        let fragile = &space.fragile;
        let offset = usize::try_from(self.totals.polls).unwrap_or(0) * MOST_FRAGILE % fragile.len().max(1);
        fragile.iter().cycle().skip(offset).take(MOST_FRAGILE.min(fragile.len())).copied().collect()
    }

    /// Failures that the kernel counted since the last tick: read once for a batch of notices, 12 µs.
    pub(super) fn new_failures(&self, proc: &Proc, space: &Namespace) -> Failures {
        if let Some(known) = space.failures.get() {
            return known;
        }
        let now = self.net_of(space).and_then(|net| proc.read_counters(net).ok());
        let failures = now.map(|now| space.gate.new_failures(now)).unwrap_or_default();
        space.failures.set(Some(failures));
        failures
    }
}
