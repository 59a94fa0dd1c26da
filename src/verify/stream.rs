//! One stream, record by record, through all rules.
//! Knows who must see a record before whom: the order of a stream first, then its runs, its clocks, what is told.

use super::alone::{self, Ports, parse_ports};
use super::chains::Chains;
use super::clock::Clock;
use super::connections::{Connections, Now};
use super::counters::Counters;
use super::fields::on;
use super::findings::{Excuse, Findings};
use super::order::{Order, Turn};
use super::record::{Record, f};
use super::runs::Runs;
use super::seal::Seals;
use super::summary::Summary;

/// What is known of a stream.
#[derive(Debug)]
pub struct Stream {
    /// Its id.
    pub id: Vec<u8>,
    /// Numbers and chains.
    pub order: Order,
    /// Runs.
    pub runs: Runs,
    clock: Clock,
    /// What is open.
    pub connections: Connections,
    counters: Counters,
    ports: Ports,
    /// First time, where older files are absent.
    begins_at: Option<i64>,
}

impl Stream {
    /// Before its first record that is there.
    pub fn new(record: &Record<'_>) -> Self {
        let order = Order::new(record.n);
        let begins_within = order.begins_within();
        Self {
            id: record.text(f::STREAM).unwrap_or_default().to_vec(),
            order,
            runs: Runs::new(),
            clock: Clock::new(),
            connections: Connections::new(),
            counters: Counters::new(!begins_within),
            ports: None,
            begins_at: begins_within.then_some(record.ts),
        }
    }

    /// The next record; one that stood before is passed over.
    pub fn take(
        &mut self,
        record: &Record<'_>,
        is_first_of_file: bool,
        (chains, seals, summary): (&mut Chains, &mut Seals, &mut Summary),
        found: &mut Findings<'_>,
    ) {
        if self.order.take(record, is_first_of_file, chains, found) == Turn::Again {
            return;
        }
        let is_new = self.runs.take(record, is_first_of_file, found);
        if is_new {
            if self.runs.followed_a_crash() {
                found.excuse(Excuse::Crash, 0, 0);
            }
            found.settle();
            self.connections.begin_run(record);
            self.counters.begin_run(record, self.runs.is_whole());
            seals.begin_run();
            self.ports = None;
        }
        self.clock.take(record, is_new, found);
        if record.action & on::CONN != 0 {
            let now = Now { run: self.runs.count, back: self.clock.back, begins_at: self.begins_at };
            alone::check(record, &self.ports, found);
            self.connections.take(record, now, found);
        } else {
            self.take_other(record, seals, found);
        }
        self.counters.take(record, self.connections.balance(), found);
        if self.runs.is_watching() {
            seals.check_due(record, found);
        }
        summary.take(record, is_new);
    }

    fn take_other(&mut self, record: &Record<'_>, seals: &mut Seals, found: &mut Findings<'_>) {
        match record.action {
            on::START | on::RELOAD => {
                self.take_ports(record);
                if record.found.present.has(f::SEALED) {
                    seals.expect(record);
                }
            }
            on::GAP => {
                let (from, to) = (record.time(f::GAP_FROM).unwrap_or(0), record.time(f::GAP_TO).unwrap_or(0));
                match record.text(f::CAUSE).unwrap_or_default() {
                    b"backlog_full" => {
                        self.connections.lose(from, to);
                        found.excuse(Excuse::Loss, from, to);
                        seals.excuse(to.saturating_sub(from).max(0));
                    }
                    b"stalled" | b"suspended" | b"state_failed" => {
                        seals.excuse(to.saturating_sub(from).max(0))
                    }
                    _ => {}
                }
            }
            on::BEGAN | on::ENDED | on::TOUCHED => alone::check_ancestry(record, found),
            on::SEAL => seals.take(record, &self.order, found),
            _ => {}
        }
    }

    fn take_ports(&mut self, record: &Record<'_>) {
        let changed = record.text(f::CHANGED_SETTINGS).unwrap_or_default();
        if record.is(f::ANYWHERE, "true") {
            self.ports = None;
            return;
        }
        match record.text(f::PORTS) {
            Some(ports) => self.ports = parse_ports(ports),
            None if memchr::memmem::find(changed, b"\"ports\"").is_some() => self.ports = None,
            None => {}
        }
    }
}
