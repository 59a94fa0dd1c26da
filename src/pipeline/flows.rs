//! UDP flows in the tables: opened with the owner of their socket, and over when the socket is gone or connected elsewhere.
//!
//! The table of UDP sockets tells no more of a flow than that it stands: not that one is idle, whether anybody answers, or
//! how much it carries. One that lives between two readings is not seen. `heard` has what the kernel's own words add.

use super::Pipeline;
use super::ends::Evidence;
use super::namespace::Namespace;
use crate::connection::{CloseReason, Key, Moment, Seen};
use crate::event::Event;
use crate::proc::{Proc, ProcError, Sight};
use crate::source::flows::{FlowGate, read_flows};
use crate::source::gate::Failures;
use crate::table::FlowDelta;

/// So many complete readings without its row end a flow whose descriptor cannot be asked.
const ABSENT_READS: u8 = 2;

/// What is known of a namespace's flows from tick to tick.
#[derive(Debug, Default)]
pub(super) struct FlowState {
    pub gate: FlowGate,
    /// True if what the next reading shows stood before it was asked for.
    pub standing: bool,
    /// True while they cannot be read and that has been told.
    failing: bool,
}

impl Pipeline {
    /// Reads a namespace's flows, if they are asked for and something moved.
    pub(super) fn tick_flows(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if !self.select.udp {
            return;
        }
        let Some(net) = self.net_of(space) else { return };
        let outcome = proc.read_udp_counters(net).and_then(|counters| {
            match space.flows.gate.judge(counters, at.boot, self.namespaces.len()) {
                true => self.read_flows(proc, space, at, told),
                false => Ok(()),
            }
        });
        match outcome {
            Ok(()) => space.flows.failing = false,
            Err(error) => {
                space.flows.gate.want_read();
                if !error.is_gone() && !std::mem::replace(&mut space.flows.failing, true) {
                    let detail = format!("net:[{}]: {error}; UDP flows are not seen", space.netns.0);
                    told.push(Event::gap(at, "source_failed", detail));
                }
            }
        }
    }

    fn read_flows(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> Result<(), ProcError> {
        let before = (self.cputime)();
        let Some(net) = self.net_of(space) else { return Ok(()) };
        let (flows, rows) = read_flows(&mut space.tables, proc, net, space.netns, &self.select, self.prefer)?;
        // What a process that has moved shows is another namespace's.
        if !space.is_own && !self.namespaces.stands(proc, space.netns) {
            space.flows.gate.want_read();
            self.namespaces.lost_member(proc, space.netns);
            return Ok(());
        }
        self.totals.reads += 1;
        self.totals.unparsed_rows += rows.unparsed;
        self.hear_flows(proc, space.netns, at, told);
        let mut delta = self.table.take_flows(&flows, at);
        delta.opened.retain(|socket| !self.open_flow_row(proc, space, socket, at, told));
        let unconfirmed = self.tell_flow_ends(proc, &delta, at, told);
        // Of ten thousand, marking costs more than reading.
        let cost = (self.cputime)().saturating_sub(before);
        // What stands in a namespace that is seen with the first look stood before the watch.
        let stood = std::mem::take(&mut space.flows.standing) || self.totals.polls <= 1;
        let seen = if stood { Seen::Start } else { Seen::Poll };
        self.open_flows(proc, space, &delta.opened, seen, at, told);
        self.count_on_flows(space.netns, &delta.opened, at);
        space.flows.gate.has_read(at.boot, cost, unconfirmed);
        Ok(())
    }

    /// True if an end waits for another reading.
    fn tell_flow_ends(&mut self, proc: &Proc, delta: &FlowDelta, at: Moment, told: &mut Vec<Event>) -> bool {
        for key in &delta.moved {
            self.close_flow(key, at, at, told);
        }
        let mut unconfirmed = false;
        for key in &delta.absent {
            let Some(entry) = self.table.get(key) else { continue };
            let (absent, gone_by) = (entry.absent, entry.absent_from.unwrap_or(at));
            // A word tells the moment and the bytes.
            let is_told = self.hears_end_of(key);
            if absent >= ABSENT_READS || !is_told && self.holds.look(proc, key) == Sight::Gone {
                self.close(key, Evidence::LetGo, Failures::default(), gone_by, at, told);
            } else {
                unconfirmed = true;
            }
        }
        unconfirmed
    }

    /// The end of a flow that a table, or its holder, shows.
    pub(super) fn close_flow(&mut self, key: &Key, gone_by: Moment, at: Moment, told: &mut Vec<Event>) {
        let Some(entry) = self.table.get(key) else { return };
        let reason = if entry.unseen { CloseReason::WhileDown } else { CloseReason::Closed };
        self.end_flow(key, reason, gone_by, false, at, told);
    }
}
