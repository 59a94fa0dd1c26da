//! The walk over all processes, for sockets whose holder is none of the likely ones.
//!
//! In steps of at most half a millisecond, whatever anybody opened, so that it keeps to its budget: processes of the
//! socket's user, newest first, in a walk of that user's own; then, for all users together, everybody's; then threads
//! that have a table of descriptors of their own; then io_urings, which hold sockets without any descriptor. What still
//! nobody holds may be in flight: sent through a unix socket and not received. The kernel tells that there are such
//! descriptors, not which.

use std::collections::{HashMap, HashSet, VecDeque};

use super::search::{Ages, Found, Quest};
use crate::connection::Inode;
use crate::proc::{Descriptor, Held, Listing, Proc, Table};
use crate::process::{Holder, Reason};

/// So many descriptors are looked at in one step.
const STEP: usize = 64;
/// A table with more than this is put aside until the others of its stage were read, ...
const BIG: usize = 1_024;
/// ... as long as there are not more such tables than this: each costs a descriptor.
const MOST_BIG: usize = 8;
/// Rings, and sockets that may have received something, that are remembered for the last stages.
const MOST_RINGS: usize = 256;
const MOST_SOCKETS: usize = 4_096;

/// One pass over all processes.
#[derive(Debug)]
pub(super) struct Walk {
    /// What this pass must find; what was added later needs a pass of its own.
    covers: Vec<Inode>,
    /// Whose processes are visited; empty: everybody's.
    pub(super) users: HashSet<u32>,
    /// How much was done for these users, here and in the walks before.
    pub(super) steps: u64,
    stage: Stage,
    ages: Option<Ages>,
    /// Processes are still being listed, for the stage that is next.
    listing: Option<Listing>,
    listed: Vec<u32>,
    queue: VecDeque<u32>,
    /// The table that is being read, and those that were put aside.
    table: Option<Reading>,
    big: VecDeque<Reading>,
    /// The process that the stage of threads is at, and those of its threads that come next.
    crowd: Option<(u32, Listing)>,
    threads: Vec<(u32, u32)>,
    rings: Vec<Holder>,
    sockets: Vec<Holder>,
    denied: bool,
    in_flight: bool,
}

/// A table, and how many descriptors of it were read in one go.
#[derive(Debug)]
struct Reading {
    held: Held,
    table: Table,
    done: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Newest first.
    Tables,
    /// All once more, thread by thread.
    Threads,
    /// Rings that were met.
    Rings,
    /// Sockets that were met.
    Flight,
}

impl Walk {
    /// Of some users' processes; of none: of all. `None`: the root cannot be listed.
    pub(super) fn begin(
        proc: &Proc,
        users: HashSet<u32>,
        covers: Vec<Inode>,
        ages: Option<Ages>,
        steps: u64,
    ) -> Option<Self> {
        Some(Self {
            covers,
            users,
            steps,
            stage: Stage::Tables,
            ages,
            listing: Some(proc.list_pids().ok()?),
            listed: Vec::new(),
            queue: VecDeque::new(),
            table: None,
            big: VecDeque::new(),
            crowd: None,
            threads: Vec::new(),
            rings: Vec::new(),
            sockets: Vec::new(),
            denied: false,
            in_flight: false,
        })
    }

    /// True if all that it covers has been found.
    pub(super) fn has_found_all(&mut self, wanted: &HashMap<Inode, u32>) -> bool {
        while self.covers.pop_if(|inode| !wanted.contains_key(inode)).is_some() {}
        self.covers.is_empty()
    }

    /// What was not found among the users' own processes.
    pub(super) fn into_left(self) -> Vec<Inode> {
        self.covers
    }

    /// Goes on a little. False: it is at its end; where it visited everybody, what it covers is answered.
    pub(super) fn step(&mut self, quest: &mut Quest) -> bool {
        self.steps += 1;
        if let Some(listing) = &mut self.listing {
            match listing.next() {
                Some(portion) => self.listed.extend(portion),
                None => self.end_of_listing(),
            }
        } else if let Some(reading) = self.table.take() {
            self.read(quest, reading);
        } else if let Some((pid, tid)) = self.threads.pop() {
            self.open(quest.proc, pid, Some(tid));
        } else if let Some((pid, mut threads)) = self.crowd.take() {
            if let Some(portion) = threads.next() {
                self.threads.extend(portion.into_iter().filter(|tid| *tid != pid).map(|tid| (pid, tid)));
                self.crowd = Some((pid, threads));
            }
        } else if !self.queue.is_empty() {
            self.visit_next(quest.proc);
        } else if let Some(reading) = self.big.pop_front() {
            self.table = Some(Reading { done: 0, ..reading });
        } else {
            return self.look_closer(quest) || self.next_stage(quest);
        }
        true
    }

    /// Looks at one of those that were met and may hide the socket. False: there is none, or it is not time for it.
    fn look_closer(&mut self, quest: &mut Quest) -> bool {
        let met = match self.stage {
            Stage::Rings => self.rings.pop(),
            Stage::Flight if !self.in_flight => self.sockets.pop(),
            _ => None,
        };
        let Some(met) = met else { return false };
        let Ok(held) = quest.proc.hold(met.pid) else { return true };
        if self.stage == Stage::Rings {
            for inode in quest.proc.read_ring(&held, met).unwrap_or_default() {
                quest.answer(&held, met, inode);
            }
        } else {
            self.in_flight = quest.proc.has_descriptors_in_flight(&held, met);
        }
        true
    }

    fn end_of_listing(&mut self) {
        self.listing = None;
        let mut pids = std::mem::take(&mut self.listed);
        match self.ages {
            Some(ages) => pids.sort_by_key(|pid| ages.of(*pid)),
            None => pids.reverse(),
        }
        self.queue = pids.into();
    }

    fn visit_next(&mut self, proc: &Proc) {
        // Others' processes take 1 µs each, less than a look at the clock.
        for _ in 0..STEP {
            let Some(pid) = self.queue.pop_front() else { return };
            match self.stage {
                // One that may not be dumped belongs to root here, whoever runs it: it is found when all are visited.
                _ if !self.users.is_empty()
                    && !proc.uid_of(pid).is_some_and(|uid| self.users.contains(&uid)) => {}
                Stage::Threads => self.crowd = threads_of(proc, pid).map(|threads| (pid, threads)),
                _ => self.open(proc, pid, None),
            }
            if self.table.is_some() || self.crowd.is_some() {
                return;
            }
        }
    }

    fn open(&mut self, proc: &Proc, pid: u32, tid: Option<u32>) {
        let Ok(held) = proc.hold(pid) else { return };
        match proc.open_table(&held, tid) {
            Ok(table) => self.table = Some(Reading { held, table, done: 0 }),
            Err(e) => self.denied |= !e.is_gone() && tid.is_none(),
        }
    }

    fn read(&mut self, quest: &mut Quest, mut reading: Reading) {
        let Self { rings, sockets, stage, .. } = self;
        let again = *stage == Stage::Threads;
        let Reading { held, table, done } = &mut reading;
        *done += STEP;
        let more = quest.read(held, table, STEP, |holder, descriptor| match descriptor {
            Descriptor::Ring if rings.len() < MOST_RINGS => {
                // Most threads show what their process showed.
                let known = |ring: &Holder| (ring.pid, ring.fd) == (holder.pid, holder.fd);
                if !again || !rings.iter().any(known) {
                    rings.push(holder);
                }
            }
            Descriptor::Socket(_) if !again && sockets.len() < MOST_SOCKETS => sockets.push(holder),
            _ => {}
        });
        if more && reading.done > BIG && self.big.len() < MOST_BIG {
            self.big.push_back(reading);
        } else if more {
            self.table = Some(reading);
        }
    }

    fn next_stage(&mut self, quest: &mut Quest) -> bool {
        self.stage = match self.stage {
            Stage::Tables if !self.users.is_empty() => return false,
            Stage::Tables => {
                self.listing = quest.proc.list_pids().ok();
                Stage::Threads
            }
            Stage::Threads => Stage::Rings,
            Stage::Rings => Stage::Flight,
            Stage::Flight => {
                let reason = match (self.denied, self.in_flight) {
                    (true, _) => Reason::Denied,
                    (false, true) => Reason::InFlight,
                    (false, false) => Reason::NoHolder,
                };
                let left = self.covers.drain(..).filter(|inode| quest.wanted.remove(inode).is_some());
                quest.found.extend(left.map(|inode| (inode, Found::Nobody(reason))));
                return false;
            }
        };
        true
    }
}

/// Threads of a process that has several. Only a thread with a table of its own can show what its process did not;
/// which one has, no file tells.
fn threads_of(proc: &Proc, pid: u32) -> Option<Listing> {
    let held = proc.hold(pid).ok()?;
    if proc.is_alone(&held) { None } else { proc.list_threads(&held) }
}
