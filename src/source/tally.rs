//! What the event sockets and the pipeline share: which ports are meant, and what ended on any port. No locks: who waits
//! on the sockets may be another thread than who enters namespaces.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::netlink::Destroyed;

const WORDS: usize = 65_536 / 64;

/// A set of ports that may be changed while it is asked: 8 KiB.
#[derive(Debug)]
struct PortMap(Box<[AtomicU64]>);

impl PortMap {
    fn new() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    fn contains(&self, port: u16) -> bool {
        let word = self.0.get(usize::from(port / 64));
        word.is_some_and(|word| word.load(Relaxed) >> (port % 64) & 1 == 1)
    }

    /// Who asks meanwhile sees for each port what was or what is to be.
    fn set(&self, ports: impl IntoIterator<Item = RangeInclusive<u16>>) {
        let mut words = [0u64; WORDS];
        for port in ports.into_iter().flatten() {
            if let Some(word) = words.get_mut(usize::from(port / 64)) {
                *word |= 1 << (port % 64);
            }
        }
        for (word, new) in self.0.iter().zip(words) {
            word.store(new, Relaxed);
        }
    }

    fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in (0..=u16::MAX).filter(|port| self.contains(*port)) {
            match ranges.last_mut() {
                Some(last) if port - last.end() == 1 => *last = *last.start()..=port,
                _ => ranges.push(port..=port),
            }
        }
        ranges
    }
}

/// The ports that are watched: remote ones, and local ones at which sockets are accepted.
#[derive(Debug)]
pub struct Watched {
    remote: PortMap,
    accepting: PortMap,
}

impl Watched {
    /// These ports. 0 is no port.
    #[must_use]
    pub fn new(ports: &[RangeInclusive<u16>]) -> Self {
        let watched = Self { remote: PortMap::new(), accepting: PortMap::new() };
        watched.set(ports);
        watched
    }

    /// Others from now on.
    pub(super) fn set(&self, ports: &[RangeInclusive<u16>]) {
        self.remote.set(ports.iter().map(|range| (*range.start()).max(1)..=*range.end()));
    }

    /// These local ports from now on.
    pub(super) fn set_accepting(&self, ports: &[RangeInclusive<u16>]) {
        self.accepting.set(ports.iter().cloned());
    }

    /// True if sockets that were accepted at this local port are watched.
    #[must_use]
    pub fn accepts(&self, port: u16) -> bool {
        self.accepting.contains(port)
    }

    /// True if the port is watched.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.remote.contains(port)
    }

    /// All of them, without overlap.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        self.remote.ranges()
    }
}

/// What ended in one namespace since it was entered, on any port, as the kernel's notices tell it.
#[derive(Debug)]
pub struct Tally {
    listening: PortMap,
    /// First and last port that the kernel picks from, in one word.
    ephemeral: AtomicU32,
    active: AtomicU64,
    attempts: AtomicU64,
    passive: AtomicU64,
    disconnected: AtomicU64,
    overflows: AtomicU64,
}

/// The counts of a `Tally` at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ended {
    /// Connections that we opened and that were established.
    pub active: u64,
    /// Attempts of ours that ended with their remote end known, never answered or refused.
    pub attempts: u64,
    /// Sockets whose other end connected.
    pub passive: u64,
    /// Sockets of ours whose remote end is no longer told: failed attempts, and connections that we reset.
    pub disconnected: u64,
    /// How often notices were dropped for want of room. How many: `Proc::read_netlink_drops`.
    pub overflows: u64,
}

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A connection or an attempt of ours. True if its local port is one that something listens on.
    Ours,
    /// The other end connected, by the listening ports.
    Theirs,
    /// Ours or theirs: the remote end is gone, the local port nobody listens on.
    Disconnected,
    /// No connection and no attempt: a listener, or a socket that was never used.
    Neither,
}

impl Tally {
    /// Nothing listens, and the kernel picks from its default range.
    #[must_use]
    pub fn new() -> Self {
        let zero = || AtomicU64::new(0);
        let tally = Self {
            listening: PortMap::new(),
            ephemeral: AtomicU32::new(0),
            active: zero(),
            attempts: zero(),
            passive: zero(),
            disconnected: zero(),
            overflows: zero(),
        };
        tally.set_ephemeral((32_768, 60_999));
        tally
    }

    /// The local ports that something listens on, as the last table read found them.
    pub fn set_listening(&self, ports: impl IntoIterator<Item = u16>) {
        self.listening.set(ports.into_iter().map(|port| port..=port));
    }

    /// First and last port that the kernel picks from (`Proc::ephemeral_ports`).
    pub fn set_ephemeral(&self, (first, last): (u16, u16)) {
        self.ephemeral.store(u32::from(first) << 16 | u32::from(last), Relaxed);
    }

    /// The counts.
    #[must_use]
    pub fn read(&self) -> Ended {
        Ended {
            active: self.active.load(Relaxed),
            attempts: self.attempts.load(Relaxed),
            passive: self.passive.load(Relaxed),
            disconnected: self.disconnected.load(Relaxed),
            overflows: self.overflows.load(Relaxed),
        }
    }

    pub(super) fn overflowed(&self) {
        self.overflows.fetch_add(1, Relaxed);
    }

    /// Counts the end of a socket.
    pub(super) fn count(&self, ended: &Destroyed) -> Side {
        let (local, remote) = (ended.tuple.local.port(), ended.tuple.remote.port());
        let ephemeral = self.ephemeral.load(Relaxed);
        let picked = |port: u16| (ephemeral >> 16..=ephemeral & 0xffff).contains(&u32::from(port));
        let add = |count: &AtomicU64| count.fetch_add(1, Relaxed);
        let established = ended.counts.is_some_and(|counts| counts.established);
        match (remote, self.listening.contains(local)) {
            (0, _) if !ended.attempted => Side::Neither,
            (_, true) => {
                add(&self.passive);
                Side::Theirs
            }
            (0, false) => {
                // An accepted socket whose listener is gone would be taken for ours.
                add(if picked(local) { &self.disconnected } else { &self.passive });
                Side::Disconnected
            }
            // A guess, good enough for a count: who is told of it looks closer.
            (_, false) if !picked(local) && picked(remote) => {
                add(&self.passive);
                Side::Ours
            }
            (_, false) => {
                add(if established { &self.active } else { &self.attempts });
                Side::Ours
            }
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Counts, Tuple};

    #[test]
    fn ports_are_found_again_as_ranges() {
        let ports = [22..=22, 63..=64, 8000..=8100, 65_535..=65_535];
        let watched = Watched::new(&ports);
        assert_eq!(watched.ranges(), ports);
        for (port, wanted) in [(0, false), (22, true), (23, false), (63, true), (64, true), (65, false)] {
            assert_eq!(watched.contains(port), wanted, "{port}");
        }
        watched.set(&[0..=5, 3..=9]);
        assert_eq!(watched.ranges(), [1..=9], "0 is no port");
        watched.set(&[1..=u16::MAX]);
        assert_eq!(watched.ranges(), [1..=u16::MAX]);
        watched.set(&[]);
        assert_eq!(watched.ranges(), []);
    }

    fn ended(local: u16, remote: u16, established: bool, attempted: bool) -> Destroyed {
        let end = |port| ([192, 0, 2, 1], port).into();
        Destroyed {
            tuple: Tuple { local: end(local), remote: end(remote) },
            cookie: None,
            device: 0,
            counts: Some(Counts { established, ..Counts::default() }),
            attempted,
        }
    }

    #[test]
    fn each_end_is_counted_once_by_who_connected() {
        let one = Ended::default();
        for (local, remote, established, attempted, side, wanted) in [
            (50_000, 22, true, true, Side::Ours, Ended { active: 1, ..one }),
            (50_000, 22, false, true, Side::Ours, Ended { attempts: 1, ..one }),
            (1_023, 22, true, true, Side::Ours, Ended { active: 1, ..one }),
            (80, 50_000, true, true, Side::Theirs, Ended { passive: 1, ..one }),
            (81, 50_000, true, true, Side::Ours, Ended { passive: 1, ..one }),
            (80, 0, false, true, Side::Theirs, Ended { passive: 1, ..one }),
            (50_000, 0, false, true, Side::Disconnected, Ended { disconnected: 1, ..one }),
            (50_000, 0, false, false, Side::Neither, one),
            (80, 0, false, false, Side::Neither, one),
            (0, 0, false, false, Side::Neither, one),
        ] {
            let tally = Tally::new();
            tally.set_listening([80]);
            let told = tally.count(&ended(local, remote, established, attempted));
            assert_eq!((told, tally.read()), (side, wanted), "{local} {remote}");
        }
    }

    #[test]
    fn the_kernels_range_of_ports_may_be_another() {
        let tally = Tally::new();
        tally.set_ephemeral((1_024, 65_535));
        tally.count(&ended(2_222, 22, true, true));
        tally.count(&ended(22, 2_222, true, true));
        assert_eq!(tally.read(), Ended { active: 1, passive: 1, ..Ended::default() });
    }
}
