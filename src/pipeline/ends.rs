//! Connections that are over: how that is known, and what is told of it.
//!
//! One missing row proves nothing. An end is believed where the kernel's notice tells it; where an exact lookup finds no
//! socket; where its TIME_WAIT (or the like) or another socket on its ports is in the table; where the descriptor is
//! gone and the row is absent from a complete read; or where the row is absent from three, because a peer's reset
//! leaves the descriptor standing and an unreadable one tells nothing. Where notices are on, every other evidence waits
//! a moment for the notice: it alone tells the moment and the bytes.

use std::sync::Arc;
use std::time::Duration;

use super::Pipeline;
use super::namespace::Namespace;
use crate::connection::{CloseReason, Connection, Counts, Key, Moment, Netns, TcpState, Transport};
use crate::event::{Bytes, Ending, Event, What};
use crate::netlink::Sight as Found;
use crate::proc::{Proc, Sight};
use crate::process::Attribution;
use crate::source::gate::Failures;
use crate::table::{ABSENT_READS, Delta};

/// So long an end that is known otherwise waits for its notice, and so long if nobody holds the socket any more.
const NOTICE_GRACE: Duration = Duration::from_millis(100);
const LATE_NOTICE: Duration = Duration::from_secs(1);
/// In a flood the word of an end waits behind others: so long it is waited for, if later ones have not been taken before.
const LATE_WORD: Duration = Duration::from_secs(5);
/// An attempt that fails before its first repetition could have been due was answered.
const FIRST_REPEAT: Duration = Duration::from_secs(1);

/// By what an end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The kernel's notice.
    Notice,
    /// Its last states are in the table.
    Row,
    /// An exact lookup found no such socket, or another uses its ports.
    Gone,
    /// No known holder holds it and its row is absent.
    LetGo,
    /// Its row is absent from three complete reads.
    Absence,
}

/// An end that is known and waits for its notice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    by: Evidence,
    failures: Failures,
    since: Moment,
}

impl Pipeline {
    /// Tells the ends that a table read shows; true if one waits for another read to be confirmed.
    pub(super) fn tell_ends(
        &mut self,
        proc: &Proc,
        space: &mut Namespace,
        delta: &Delta,
        failures: Failures,
        at: Moment,
        told: &mut Vec<Event>,
    ) -> bool {
        for key in &delta.ended {
            self.end(space, key, Evidence::Row, failures, at, told);
        }
        for key in &delta.replaced {
            // Its place is another's now: there is no time to wait for a notice.
            self.close(key, Evidence::Gone, failures, at, at, told);
        }
        let mut unconfirmed = false;
        for key in &delta.absent {
            if self.waiting.contains_key(key) {
                continue;
            }
            if let Some(found) = self.find(space, key) {
                self.take_sight(space, key, found, failures, at, told);
                continue;
            }
            let counted = *self.doubts.entry(*key).or_insert(failures);
            let absent = self.table.get(key).map_or(0, |entry| entry.absent);
            if self.holds.look(proc, key) == Sight::Gone {
                self.end(space, key, Evidence::LetGo, counted, at, told);
            } else if absent >= ABSENT_READS {
                self.end(space, key, Evidence::Absence, counted, at, told);
            } else {
                unconfirmed = true;
            }
        }
        // A row that is back was missed once; what was counted then says nothing of it.
        let netns = space.netns;
        self.doubts.retain(|key, _| key.netns != netns || delta.absent.binary_search(key).is_ok());
        unconfirmed
    }

    /// An exact lookup of an open connection. `None`: it cannot be made, as of a UDP flow.
    pub(super) fn find(&mut self, space: &mut Namespace, key: &Key) -> Option<Option<Found>> {
        let (device, cookie) = {
            let entry = self.table.get(key).filter(|entry| entry.connection.transport == Transport::Tcp)?;
            (entry.device, entry.connection.cookie)
        };
        let diag = space.tables.diag()?;
        self.totals.lookups += 1;
        diag.find(&key.tuple, device, cookie).ok()
    }

    /// What an exact lookup of an open connection means.
    pub(super) fn take_sight(
        &mut self,
        space: &mut Namespace,
        key: &Key,
        found: Option<Found>,
        failures: Failures,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        match found {
            None => self.end(space, key, Evidence::Gone, failures, at, told),
            Some(Found { socket, counts }) if socket.inode == Some(key.inode) => {
                if self.table.look(key, &socket, counts, at) {
                    self.tell_established(&[*key], at, told);
                }
            }
            Some(Found { socket, .. }) if socket.inode.is_none() => {
                self.end(space, key, Evidence::Row, failures, at, told);
            }
            Some(_) => {
                space.gate.want_read();
                self.close(key, Evidence::Gone, failures, at, at, told);
            }
        }
    }

    /// An end that is known, though not by its notice: waits for that where there will be one.
    pub(super) fn end(
        &mut self,
        space: &Namespace,
        key: &Key,
        by: Evidence,
        failures: Failures,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        if space.is_noticed(at.boot) || space.hears_words() && self.has_word(key) {
            self.waiting.entry(*key).or_insert(Waiting { by, failures, since: at });
        } else {
            let gone_by = self.table.get(key).and_then(|entry| entry.absent_from).unwrap_or(at);
            self.close(key, by, failures, gone_by, at, told);
        }
    }

    /// Ends whose notice did not come. Of a socket that is still held it comes when that is let go of, and nobody knows
    /// when that is; else it is on its way, which takes long where processors are few.
    pub(super) fn tell_waited(&mut self, proc: &Proc, at: Moment, told: &mut Vec<Event>) {
        let waited = |waiting: &Waiting| at.boot.saturating_sub(waiting.since.boot);
        if self.waiting.values().any(|waiting| waited(waiting) >= NOTICE_GRACE) {
            self.hear_now(proc, at, told);
        }
        let due = |(key, waiting): &(&Key, &Waiting)| {
            let waited = waited(waiting);
            let has_time = match self.has_word(key) {
                // As long as the last row is there the kernel may not have let go of it: our FIN waits for its answer.
                true if waiting.by == Evidence::Row && waited < LATE_NOTICE => true,
                true => waited < LATE_WORD && !self.has_heard(waiting.since.boot + NOTICE_GRACE),
                false => waited < LATE_NOTICE && self.holds.look(proc, key) == Sight::Gone,
            };
            waited >= NOTICE_GRACE && !has_time
        };
        let mut keys: Vec<Key> = self.waiting.iter().filter(due).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        for key in keys {
            if let Some(Waiting { by, failures, since }) = self.waiting.get(&key).copied() {
                self.close(&key, by, failures, since, at, told);
            }
        }
    }

    /// All that was open in a namespace which is gone.
    pub(super) fn tell_vanished(&mut self, netns: Netns, at: Moment, told: &mut Vec<Event>) {
        let mut keys: Vec<Key> =
            self.table.iter().map(|(key, _)| key).filter(|key| key.netns == netns).collect();
        keys.sort_unstable();
        for key in keys {
            self.close(&key, Evidence::LetGo, Failures::default(), at, at, told);
        }
    }

    pub(super) fn tell_out_of_scope(&mut self, at: Moment) -> Vec<Event> {
        let mut told = Vec::new();
        let entries = self.table.iter();
        let out = entries.filter(|(_, e)| !self.select.keeps(&e.connection));
        let mut keys: Vec<Key> = out.map(|(key, _)| key).collect();
        keys.sort_unstable();
        for key in keys {
            if self.hears_end_of(&key) {
                self.end_flow(&key, CloseReason::OutOfScope, at, false, at, &mut told);
                continue;
            }
            let ending = Ending {
                reason: CloseReason::OutOfScope,
                success: None,
                last_seen: None,
                gone_by: at,
                exact: false,
                bytes: None,
            };
            self.finish(&key, ending, at, &mut told);
        }
        told
    }

    /// The kernel's notice of the end of an open connection.
    pub(super) fn close_noticed(
        &mut self,
        key: &Key,
        counts: Option<Counts>,
        after: After,
        failures: Failures,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        // What was counted when it was found gone says more than what was counted when it was let go.
        let waiting = self.waiting.get(key).map(|waiting| (waiting.by, waiting.failures));
        let (by, failures) = waiting.unwrap_or((Evidence::Notice, failures));
        let Some(entry) = self.table.get(key) else { return };
        let connection = &entry.connection;
        let established = connection.state != TcpState::SynSent || counts.is_some_and(|c| c.established);
        let (reason, success) = match (established, by, after) {
            (false, ..) => why_failed(connection, entry.counts, failures, self.most_repeats, at),
            (_, Evidence::Row, _) | (.., After::TimeWait | After::FinWait2) => {
                (CloseReason::Closed, Some(true))
            }
            (.., After::Disconnected) => (CloseReason::Reset, Some(true)),
            _ => (reset_or_closed(connection, failures), Some(true)),
        };
        let bytes =
            bytes_of(counts.filter(|_| after != After::Disconnected), entry.counts, connection.state, after);
        let ending = Ending {
            reason,
            success,
            last_seen: None,
            gone_by: at,
            exact: true,
            bytes: bytes.filter(|_| established),
        };
        self.finish(key, ending, at, told);
    }

    pub(super) fn close(
        &mut self,
        key: &Key,
        by: Evidence,
        failures: Failures,
        gone_by: Moment,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Some(entry) = self.table.get(key) else { return };
        let connection = &entry.connection;
        if connection.transport == Transport::Udp {
            return self.close_flow(key, gone_by, at, told);
        }
        let cookie = connection.cookie;
        let attempt = connection.state == TcpState::SynSent;
        let established = connection.state != TcpState::SynSent;
        let (reason, success) = match by {
            // The evidence is of now, the end was not.
            _ if entry.unseen => (CloseReason::WhileDown, established.then_some(true)),
            // States that only an established connection comes to.
            Evidence::Row => (CloseReason::Closed, Some(true)),
            _ if attempt && failures.attempts > 0 => {
                why_failed(connection, entry.counts, failures, self.most_repeats, gone_by)
            }
            Evidence::Absence if attempt => (CloseReason::Failed, None),
            _ if attempt => (CloseReason::Cancelled, None),
            Evidence::Absence | Evidence::Gone => (reset_or_closed(connection, failures), Some(true)),
            Evidence::LetGo | Evidence::Notice => (CloseReason::Closed, Some(true)),
        };
        let last = entry.counts.filter(|counts| counts.established);
        let bytes =
            last.map(|Counts { sent, received, .. }| Bytes { sent, received, exact: false, packets: None });
        let ending = Ending { reason, success, last_seen: None, gone_by, exact: false, bytes };
        self.expect_notice((key.netns, key.tuple), cookie, at);
        self.finish(key, ending, at, told);
    }

    pub(super) fn finish(&mut self, key: &Key, ending: Ending, at: Moment, told: &mut Vec<Event>) {
        let Some(entry) = self.table.close(key, at) else { return };
        self.holds.remove(key);
        self.counted.remove(key);
        self.clients.remove(key);
        if self.sought.get(&key.inode).is_none_or(|(of, _)| of == key) {
            self.sought.remove(&key.inode);
            self.search.forget(key.inode);
        }
        self.unknown.remove(key);
        self.waiting.remove(key);
        if !entry.told {
            return;
        }
        let mut connection = entry.connection;
        self.name_late(&mut connection);
        // A word may tell of an end that was before the last look's own moment.
        let is_before = connection.last_seen.boot > ending.gone_by.boot && ending.exact;
        let last_seen = if is_before { ending.gone_by } else { connection.last_seen };
        let ending = Ending { last_seen: Some(last_seen), ..ending };
        self.note_told_last(&connection, ending.last_seen);
        if self.lets_end_wait(key, &connection, &ending, at) {
            return;
        }
        self.totals.closes += 1;
        told.push(Event { at, what: What::Closed { connection, ending } });
    }

    /// A user's name that did not come in time for the open is told with the close.
    fn name_late(&mut self, connection: &mut Arc<Connection>) {
        match &connection.attribution {
            Attribution::Owned { lineage, .. } => {
                let Some(named) = self.attributor.named(lineage) else { return };
                if let Attribution::Owned { lineage, .. } = &mut Arc::make_mut(connection).attribution {
                    *lineage = named;
                }
            }
            Attribution::Unknown(_) if connection.user.is_none() => {
                let user = connection.uid.and_then(|uid| self.attributor.user_name(uid));
                if user.is_some() {
                    Arc::make_mut(connection).user = user;
                }
            }
            _ => {}
        }
    }
}

/// What was left of a socket when its notice had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Our end in TIME_WAIT: we closed first, in order.
    TimeWait,
    /// The same, and the other end's FIN had not come.
    FinWait2,
    /// Nothing: the other end closed first, or one of them reset it.
    Nothing,
    /// Its remote end was erased before: a reset by us, or an attempt that failed.
    Disconnected,
}

/// Of an attempt that the kernel counted as failed, as far as the evidence goes.
pub(super) fn why_failed(
    connection: &Connection,
    counts: Option<Counts>,
    failures: Failures,
    most_repeats: u8,
    gone_by: Moment,
) -> (CloseReason, Option<bool>) {
    if failures.attempts == 0 {
        return (CloseReason::Cancelled, None);
    }
    let lasted = gone_by.boot.saturating_sub(connection.opened.boot);
    let repeats = counts.map(|counts| counts.repeats);
    let reason = match repeats {
        // Over IPv6 the messages are counted elsewhere: a quick failure may be either.
        _ if failures.unreachable > 0 => CloseReason::Unreachable,
        Some(repeats) if repeats >= most_repeats => CloseReason::TimedOut,
        _ if lasted >= FIRST_REPEAT && repeats.is_none() => CloseReason::Failed,
        _ if connection.tuple.remote.is_ipv6() => CloseReason::Failed,
        _ => CloseReason::Refused,
    };
    (reason, Some(false))
}

fn reset_or_closed(connection: &Connection, failures: Failures) -> CloseReason {
    let finished = connection.state == TcpState::CloseWait || connection.state.is_ending();
    if failures.resets > 0 && !finished { CloseReason::Reset } else { CloseReason::Closed }
}

/// `bytes_received` counts a peer's FIN as one byte: told exactly where it is known whether that had come.
pub(super) fn bytes_of(
    last: Option<Counts>,
    looked: Option<Counts>,
    state: TcpState,
    after: After,
) -> Option<Bytes> {
    let Some(counts) = last else {
        // What is left of a reset by us is zeros: the last look told more, though not the last of it.
        let counts = looked?;
        return Some(Bytes { sent: counts.sent, received: counts.received, exact: false, packets: None });
    };
    let finished = matches!(state, TcpState::CloseWait | TcpState::LastAck);
    let (received, exact) = match after {
        _ if counts.received_segments == 0 => (0, true),
        _ if finished => (counts.received.saturating_sub(1), true),
        After::FinWait2 => (counts.received, true),
        _ => (counts.received, false),
    };
    Some(Bytes { sent: counts.sent, received, exact: exact && counts.sent.is_some(), packets: None })
}
