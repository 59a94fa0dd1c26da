//! How a connection ends in the kernel's own words: as it happens, with what it carried and the error that its process was
//! to be told.
//!
//! The end of one whose opening waits is told with it. Every word of a socket was there before any notice of its end was,
//! and is taken before it; so a notice whose word was taken is passed over.

use super::Pipeline;
use super::namespace::Namespace;
use super::words::{Pending, moment};
use crate::connection::{CloseReason, Connection, Cookie, Key, Moment, Netns, Seen, TcpState, Tuple};
use crate::ebpf::event::{Ended, Fault};
use crate::event::{Bytes, Ending, Event};
use crate::netlink::Destroyed;
use crate::proc::Proc;
use crate::source::Kind;

impl Pipeline {
    pub(super) fn take_closed(
        &mut self,
        proc: &Proc,
        space: &mut Option<&mut Namespace>,
        ended: &Ended,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let Ended { sight, .. } = ended;
        let Some(cookie) = sight.cookie else { return };
        let place = (sight.netns, sight.tuple);
        let hears = |kind| space.as_ref().is_some_and(|space| space.on.contains(&kind));
        let (hears_ends, hears_syns) = (hears(Kind::Destroy), hears(Kind::Syn));
        let pending = self.words.remove(cookie);
        if let Some(key) = self.known(sight) {
            if let Some(Pending { attribution, held, .. }) = pending {
                self.learn_owner(proc, key, attribution, held, at, told);
            }
            self.close_told(&key, ended, at, told);
        } else if self.is_told_by_others(pending.as_ref(), cookie, place) {
            self.totals.doubtful_ends += u64::from(space.as_ref().is_some_and(|s| s.is_doubtful(at.boot)));
        } else if pending.is_some() || sight.is_known && self.select.wants(&sight.tuple) {
            self.tell_word_pair(pending, cookie, ended, at, told);
            let syn = self.take_first_syn(place).is_some();
            if !syn && hears_syns {
                self.told_by_end.insert(place, at);
            }
        } else {
            return;
        }
        self.words.passed.remove(&place);
        if hears_ends {
            // As of the end itself: the same socket may have begun anew since.
            self.expect_end(cookie, moment(at, sight.at));
        }
    }

    /// True if this end was told by other evidence, and its word comes late.
    fn is_told_by_others(
        &mut self,
        pending: Option<&Pending>,
        cookie: Cookie,
        place: (Netns, Tuple),
    ) -> bool {
        let begun = |ended: &Moment| pending.is_none_or(|pending| ended.boot >= pending.opened.boot);
        let by_place = self.missed_notices.get(&place).is_some_and(begun);
        let by_cookie = self.missed_cookies.get(&cookie).is_some_and(begun);
        if by_place {
            self.missed_notices.remove(&place);
        }
        if by_cookie {
            self.missed_cookies.remove(&cookie);
        }
        by_place || by_cookie
    }

    /// A connection that is over when it is told, with who made it; or, where its opening was lost, without.
    fn tell_word_pair(
        &mut self,
        pending: Option<Pending>,
        cookie: Cookie,
        ended: &Ended,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let sight = ended.sight;
        let over = moment(at, sight.at);
        let state = if ended.counts.established { TcpState::Established } else { TcpState::SynSent };
        let connection = match pending {
            Some(mut pending) => {
                pending.sight.tuple = sight.tuple;
                self.connection_of(pending, cookie, state, at)
            }
            None => {
                let connection = self.passing((sight.netns, sight.tuple), None, Seen::Ebpf, over);
                Connection { state, cookie: Some(cookie), inode: sight.inode, ..connection }
            }
        };
        let (reason, success) = why(ended);
        let last_seen = Some(connection.opened);
        let ending = Ending { reason, success, last_seen, gone_by: over, exact: true, bytes: bytes(ended) };
        self.tell_pair(connection, ending, at, told);
    }

    fn close_told(&mut self, key: &Key, ended: &Ended, at: Moment, told: &mut Vec<Event>) {
        let (reason, success) = why(ended);
        let gone_by = moment(at, ended.sight.at);
        let ending = Ending { reason, success, last_seen: None, gone_by, exact: true, bytes: bytes(ended) };
        self.finish(key, ending, at, told);
    }

    /// The notice of the end of a socket whose last word was lost.
    pub(super) fn take_pending_end(&mut self, ended: &Destroyed, at: Moment, told: &mut Vec<Event>) -> bool {
        let Some(cookie) = ended.cookie else { return false };
        let Some(mut pending) = self.words.remove(cookie) else { return false };
        pending.sight.tuple.local.set_port(ended.tuple.local.port());
        let counts = ended.counts.unwrap_or_default();
        let state = if counts.established { TcpState::Established } else { TcpState::SynSent };
        let connection = self.connection_of(pending, cookie, state, at);
        let (reason, success) = match counts.established {
            true => (CloseReason::Closed, Some(true)),
            false => (CloseReason::Failed, None),
        };
        let last_seen = Some(connection.opened);
        let ending = Ending { reason, success, last_seen, gone_by: at, exact: true, bytes: None };
        self.tell_pair(connection, ending, at, told);
        true
    }

    /// An opening that came to nothing: its SYN was never sent; or it was, and nobody knows what came of it.
    pub(super) fn tell_unsent(
        &mut self,
        cookie: Cookie,
        pending: Pending,
        at: Moment,
        told: &mut Vec<Event>,
    ) {
        let is_lost = self.words.lost_at.is_some_and(|lost| lost >= pending.opened.boot);
        let (reason, success, gone_by) = match pending.is_sent || is_lost {
            true => (CloseReason::Failed, None, at),
            false => (CloseReason::Unreachable, Some(false), pending.opened),
        };
        let connection = self.connection_of(pending, cookie, TcpState::SynSent, at);
        let last_seen = Some(connection.opened);
        let ending = Ending { reason, success, last_seen, gone_by, exact: false, bytes: None };
        self.tell_pair(connection, ending, at, told);
    }
}

/// Why it ended: by the state that it left, and by the error that its process was to be told.
fn why(ended: &Ended) -> (CloseReason, Option<bool>) {
    if !ended.counts.established {
        return match ended.fault {
            Fault::Refused => (CloseReason::Refused, Some(false)),
            Fault::TimedOut => (CloseReason::TimedOut, Some(false)),
            Fault::Unreachable => (CloseReason::Unreachable, Some(false)),
            // No port was left for it.
            Fault::None if ended.sight.tuple.local.port() == 0 => (CloseReason::Failed, Some(false)),
            Fault::None => (CloseReason::Cancelled, None),
            Fault::Other => (CloseReason::Failed, Some(false)),
        };
    }
    let is_finished = match ended.sight.before {
        // Both ends had said that they were done.
        TcpState::LastAck | TcpState::Closing | TcpState::TimeWait => true,
        TcpState::CloseWait | TcpState::FinWait2 | TcpState::FinWait1 => ended.fault == Fault::None,
        _ => false,
    };
    (if is_finished { CloseReason::Closed } else { CloseReason::Reset }, Some(true))
}

/// The kernel counts the other end's FIN as a byte.
fn bytes(ended: &Ended) -> Option<Bytes> {
    let Ended { counts, has_fin, .. } = ended;
    let received = counts.received.saturating_sub(u64::from(*has_fin));
    counts.established.then_some(Bytes { sent: counts.sent, received, exact: true, packets: None })
}
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ebpf::event::Sight;

    fn ended(before: TcpState, fault: Fault, port: u16) -> Ended {
        let end = |port| ([192, 0, 2, 1], port).into();
        let established = before != TcpState::SynSent;
        Ended {
            sight: Sight {
                at: Duration::from_secs(1),
                cookie: Cookie::new(7),
                tuple: Tuple { local: end(port), remote: end(22) },
                inode: None,
                netns: Netns(1),
                device: 0,
                before,
                is_known: true,
            },
            counts: crate::connection::Counts { established, received: 5, ..Default::default() },
            fault,
            has_fin: true,
        }
    }

    #[test]
    fn an_end_is_told_by_the_state_that_was_left_and_the_error() {
        use CloseReason::{Cancelled, Closed, Failed, Refused, Reset, TimedOut, Unreachable};
        for (before, fault, port, reason, success) in [
            (TcpState::SynSent, Fault::Refused, 1, Refused, Some(false)),
            (TcpState::SynSent, Fault::TimedOut, 1, TimedOut, Some(false)),
            (TcpState::SynSent, Fault::Unreachable, 1, Unreachable, Some(false)),
            (TcpState::SynSent, Fault::None, 1, Cancelled, None),
            (TcpState::SynSent, Fault::None, 0, Failed, Some(false)),
            (TcpState::SynSent, Fault::Other, 1, Failed, Some(false)),
            (TcpState::FinWait2, Fault::None, 1, Closed, Some(true)),
            (TcpState::LastAck, Fault::None, 1, Closed, Some(true)),
            (TcpState::LastAck, Fault::Other, 1, Closed, Some(true)),
            (TcpState::CloseWait, Fault::None, 1, Closed, Some(true)),
            (TcpState::CloseWait, Fault::Other, 1, Reset, Some(true)),
            (TcpState::Established, Fault::None, 1, Reset, Some(true)),
            (TcpState::Established, Fault::Other, 1, Reset, Some(true)),
            (TcpState::FinWait1, Fault::TimedOut, 1, Reset, Some(true)),
        ] {
            let ended = ended(before, fault, port);
            assert_eq!(why(&ended), (reason, success), "{before:?} {fault:?}");
            assert_eq!(bytes(&ended).map(|bytes| bytes.received), ended.counts.established.then_some(4));
        }
    }
}
