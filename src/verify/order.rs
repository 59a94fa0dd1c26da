//! One record after the other: numbers and chains of a stream (V7 to V10, V43, V46).
//! Knows nothing of what records tell, but for the place that `log-opened` continues.

use super::chains::Chains;
use super::fields::on;
use super::findings::Findings;
use super::record::{Record, f, quote};

/// As many places are remembered, for seals.
const REMEMBERED: usize = 1 << 15;
/// What the first record of a stream ties to.
pub const GENESIS: [u8; 64] = [b'0'; 64];

/// Where a stream is.
#[derive(Debug)]
pub struct Order {
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
    /// The last chain; `None`: not known.
    chain: Option<[u8; 64]>,
    /// The last places, by their number's remainder.
    places: Vec<(u64, [u8; 64])>,
    /// True while a file tells what the one before it told.
    overlaps: bool,
}

/// Whether a record is one more of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is.
    Next,
    /// It stood already: it is passed over.
    Again,
}

impl Order {
    /// Before the first record that is there.
    pub fn new(first: u64) -> Self {
        let chain = (first == 1).then_some(GENESIS);
        Self {
            first,
            last: first.saturating_sub(1),
            chain,
            places: vec![(0, GENESIS); REMEMBERED],
            overlaps: false,
        }
    }

    /// True if older files are absent.
    pub fn begins_within(&self) -> bool {
        self.first > 1
    }

    /// The record comes next. `is_first_of_file`: in its file.
    pub fn take(
        &mut self,
        record: &Record<'_>,
        is_first_of_file: bool,
        chains: &mut Chains,
        found: &mut Findings<'_>,
    ) -> Turn {
        let next = self.last.saturating_add(1);
        if record.n < next {
            if is_first_of_file {
                self.overlaps = true;
                found.add(10, format!("record {} begins a file behind record {}", record.n, self.last));
            } else if !self.overlaps {
                found.add(7, format!("record {} comes again behind record {}", record.n, self.last));
            }
            return Turn::Again;
        }
        self.overlaps = false;
        if record.n > next {
            found.add(8, format!("records {next} to {} are missing", record.n - 1));
            self.chain = None;
        }
        if record.action == on::FILE {
            self.check_place(record, found);
        }
        self.check_chain(record, chains, found);
        Turn::Next
    }

    /// V9: what a file continues.
    fn check_place(&mut self, record: &Record<'_>, found: &mut Findings<'_>) {
        let (n, chain) = (record.number(f::CONTINUES_N), record.text(f::CONTINUES_CHAIN));
        let (Some(n), Some(chain)) = (n, chain.and_then(|chain| <[u8; 64]>::try_from(chain).ok())) else {
            found.add(9, "log-opened does not tell what it continues".to_owned());
            return;
        };
        if let Some(place) = self.places.get_mut(slot(n)).filter(|_| self.chain.is_none()) {
            *place = (n, chain);
        }
        if n.saturating_add(1) != record.n {
            found.add(9, format!("log-opened continues record {n} and is record {}", record.n));
        } else if *self.chain.get_or_insert(chain) != chain {
            found.add(
                9,
                format!("log-opened continues {}, which is not the chain of record {n}", quote(&chain)),
            );
        }
    }

    fn check_chain(&mut self, record: &Record<'_>, chains: &mut Chains, found: &mut Findings<'_>) {
        let told = record.text(f::CHAIN).and_then(|chain| <[u8; 64]>::try_from(chain).ok());
        if let (Some(before), Some(told)) = (self.chain, told) {
            chains.push(record.line, before, told, found);
        }
        self.chain = told;
        self.last = record.n;
        if let (Some(chain), Some(place)) = (told, self.places.get_mut(slot(record.n))) {
            *place = (record.n, chain);
        }
    }

    /// The chain of a record that is still remembered.
    pub fn chain_at(&self, n: u64) -> Option<&[u8; 64]> {
        self.places.get(slot(n)).filter(|(at, _)| *at == n && n > 0).map(|(_, chain)| chain)
    }
}

fn slot(n: u64) -> usize {
    usize::try_from(n % (REMEMBERED as u64)).unwrap_or(0)
}
