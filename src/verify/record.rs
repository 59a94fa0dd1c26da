//! One line as a record: what every rule asks for, and a look at any field.
//! Knows no other record. Rules V2 to V6 are about a line alone and stand here.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::fields::{FIELDS, index_of, on};
use super::json::Flaw;
use super::moment;
use super::schema::{Fault, Found, Schema, signed, whole};
use super::set::Set;
use crate::text::escape;

/// The longest line, its end included.
pub const LONGEST: usize = 16 * 1024;

/// `event.action`, in the order of the bits in `fields::on`.
pub const ACTIONS: [&str; 16] = [
    "watch-started",
    "watch-stopped",
    "watch-reloaded",
    "connection-opened",
    "connection-changed",
    "connection-closed",
    "gap",
    "coverage",
    "log-opened",
    "log-repaired",
    "clock-stepped",
    "seal",
    "session-multiplexed",
    "process-started",
    "process-ended",
    "file-changed",
];

macro_rules! names {
    ($($name:ident = $path:literal;)*) => {
        $(#[doc = concat!("`", $path, "`")] pub const $name: usize = index_of($path);)*
    };
}

/// The fields that rules ask for.
pub mod f {
    use super::index_of;

    names! {
        TIMESTAMP = "@timestamp"; STREAM = "agent.id"; RUN = "agent.ephemeral_id"; AGENT = "agent.type";
        VERSION = "agent.version"; BOOT = "host.boot.id"; HOST = "host.name"; BOOTTIME = "portreeve.boottime_us";
        DIRECTION = "network.direction"; ROUTE = "portreeve.route"; TRANSPORT = "network.transport"; ORIGIN = "portreeve.origin.kind";
        EVIDENCE = "portreeve.origin.evidence"; OWNER_EVIDENCE = "portreeve.attribution.evidence";
        COMMUNITY_ID = "network.community_id"; ANYWHERE = "portreeve.watch.settings.ssh-anywhere";
        SCHEMA = "portreeve.schema"; ACTION = "event.action"; KIND = "event.kind"; CATEGORY = "event.category";
        TYPE = "event.type"; OUTCOME = "event.outcome"; EVENT_ID = "event.id"; PROVIDER = "event.provider";
        DATASET = "event.dataset"; SEQUENCE = "event.sequence"; CHAIN = "chain"; EVENT_REASON = "event.reason";
        START = "event.start"; END = "event.end"; DURATION = "event.duration"; SOURCE_IP = "source.ip";
        SOURCE_PORT = "source.port"; DESTINATION_IP = "destination.ip"; DESTINATION_PORT = "destination.port";
        CONNECTION = "portreeve.connection.id"; STATE = "portreeve.connection.state";
        SEEN = "portreeve.connection.seen"; INODE = "portreeve.connection.inode";
        NETNS = "portreeve.connection.netns"; STATUS = "portreeve.attribution.status";
        WITNESS = "portreeve.file.source"; UNSEEN = "portreeve.file.reason"; FATE = "portreeve.process.end"; NO_HASH = "portreeve.hash.reason";
        WHY_UNKNOWN = "portreeve.attribution.reason"; PID = "process.pid"; PROCESS_START = "process.start";
        PARENT_PID = "process.parent.pid"; CLOSE_REASON = "portreeve.close.reason"; RECEIVED = "destination.packets";
        LAST_SEEN = "portreeve.close.last_seen"; GONE_BY = "portreeve.close.gone_by";
        CAUSE = "portreeve.gap.cause"; GAP_FROM = "portreeve.gap.from"; GAP_TO = "portreeve.gap.to";
        GAP_COUNT = "portreeve.gap.count"; GAP_LOST = "portreeve.gap.lost"; OFFSET = "portreeve.log.offset";
        BYTES = "portreeve.log.bytes"; CONTINUES_N = "portreeve.log.continues.sequence";
        CONTINUES_CHAIN = "portreeve.log.continues.chain"; BY_US = "portreeve.clock.by_us";
        WATCH_STREAM = "portreeve.watch.stream"; PREVIOUS_END = "portreeve.watch.previous_end";
        CAPABILITIES = "portreeve.watch.capabilities";
        WATCH_UID = "portreeve.watch.uid"; OWNERS = "portreeve.watch.owners"; WATCH_SOURCE = "portreeve.watch.source";
        NETNS_SCOPE = "portreeve.watch.netns_scope"; EVENTS_DESTROY = "portreeve.watch.events.destroy";
        PORTS = "portreeve.watch.settings.ports"; INTERVAL = "portreeve.watch.settings.interval";
        SEALED = "portreeve.watch.settings.seal"; CHANGED_SETTINGS = "portreeve.watch.changed";
        TRUNCATED = "portreeve.truncated"; EPOCH = "portreeve.seal.epoch"; SEAL_KEY = "portreeve.seal.key";
        SEAL_N = "portreeve.seal.sequence"; SEAL_CHAIN = "portreeve.seal.chain"; SEAL_TIME = "portreeve.seal.time";
        MAC = "portreeve.seal.mac"; COVER_FROM = "portreeve.coverage.from"; COVER_TO = "portreeve.coverage.to";
        COVER_OPENS = "portreeve.coverage.opens"; COVER_CLOSES = "portreeve.coverage.closes";
        COVER_LIVE = "portreeve.coverage.live"; COVER_POLLS = "portreeve.coverage.polls";
        COVER_LATE = "portreeve.coverage.late"; COVER_READS = "portreeve.coverage.reads";
        COVER_LOOKUPS = "portreeve.coverage.lookups"; COVER_FAILED = "portreeve.coverage.failed_reads";
        COVER_ACTIVE = "portreeve.coverage.kernel.active_opens"; COVER_MISSED = "portreeve.coverage.missed_at_most";
        COMPARABLE = "portreeve.coverage.comparable"; SLOWEST = "portreeve.coverage.poll_interval_us.max";
        LOST_DESTROY = "portreeve.coverage.lost.destroy"; LOST_PROC = "portreeve.coverage.lost.proc";
        LOST_EBPF = "portreeve.coverage.lost.ebpf"; LOST_SYN = "portreeve.coverage.lost.syn";
        LOST_NFLOG = "portreeve.coverage.lost.nflog"; LOST_FILES = "portreeve.coverage.lost.files";
        LOST_AUDIT = "portreeve.coverage.lost.audit"; TOTAL_OPENS = "portreeve.watch.totals.opens";
        TOTAL_CLOSES = "portreeve.watch.totals.closes"; TOTAL_LOST = "portreeve.watch.totals.lost";
        TOTAL_LIVE = "portreeve.watch.totals.live"; TOTAL_POLLS = "portreeve.watch.totals.polls";
        TOTAL_LATE = "portreeve.watch.totals.late"; TOTAL_READS = "portreeve.watch.totals.reads";
        TOTAL_LOOKUPS = "portreeve.watch.totals.lookups"; TOTAL_FAILED = "portreeve.watch.totals.failed_reads";
        TOTAL_ACTIVE = "portreeve.watch.totals.active_opens"; TOTAL_MISSED = "portreeve.watch.totals.missed_at_most";
        TOTAL_INCOMPARABLE = "portreeve.watch.totals.incomparable";
        TOTAL_NOTICES = "portreeve.watch.totals.notices_lost"; TOTAL_UNKNOWN = "portreeve.watch.totals.unattributed";
    }
}

/// Lost notices of each kind.
pub const LOST_NOTICES: [usize; 7] =
    [f::LOST_DESTROY, f::LOST_PROC, f::LOST_SYN, f::LOST_NFLOG, f::LOST_AUDIT, f::LOST_EBPF, f::LOST_FILES];

/// A record's fields.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its line.
    pub line: &'a [u8],
    /// Where what stands.
    pub found: &'a Found,
    /// Its kind, as a bit; 0 for one that this version does not know.
    pub action: u32,
    /// `event.sequence`
    pub n: u64,
    /// `@timestamp`, microseconds since 1970.
    pub ts: i64,
    /// `portreeve.boottime_us`
    pub bt: i64,
    /// `host.boot.id`, where it is known.
    pub boot: Option<u128>,
}

impl<'a> Record<'a> {
    /// A value that is there, without quotation marks.
    #[inline]
    pub fn text(&self, field: usize) -> Option<&'a [u8]> {
        self.line.get(self.found.span(field)?)
    }

    /// The bytes at a place.
    pub fn at(&self, span: &Range<usize>) -> &'a [u8] {
        self.line.get(span.clone()).unwrap_or_default()
    }

    /// A whole number.
    #[inline]
    pub fn number(&self, field: usize) -> Option<u64> {
        whole(self.text(field)?)
    }

    /// A number that may be below 0.
    pub fn signed(&self, field: usize) -> Option<i64> {
        signed(self.text(field)?)
    }

    /// A time, microseconds since 1970.
    #[inline]
    pub fn time(&self, field: usize) -> Option<i64> {
        moment::parse(self.text(field)?)
    }

    /// True if the value is this.
    #[inline]
    pub fn is(&self, field: usize, value: &str) -> bool {
        self.text(field) == Some(value.as_bytes())
    }

    /// The value for a sentence.
    pub fn quote(&self, field: usize) -> String {
        self.text(field).map_or_else(|| "nothing".to_owned(), quote)
    }
}

/// Untrusted bytes for a sentence: harmless, and not too long.
pub fn quote(bytes: &[u8]) -> String {
    let short = bytes.get(..80).unwrap_or(bytes);
    let more = if short.len() < bytes.len() { "..." } else { "" };
    format!("\"{}{more}\"", escape(short))
}

/// Reads lines.
#[derive(Debug)]
pub struct Reader {
    schema: Schema,
    found: Found,
    /// For each kind of record, and for those that are not known: what it may have, what it must have.
    may: Vec<Set>,
    must: Vec<Set>,
}

/// What is wrong with a line: the rule that it breaks, and how.
pub type Wrong = (u8, String);

impl Reader {
    /// With the fields of this version.
    pub fn new() -> Self {
        let sets = |of: fn(&super::fields::Field) -> u32| {
            let bits = (0..ACTIONS.len()).map(|index| 1 << index).chain([on::ALL]);
            bits.map(|bit| {
                FIELDS
                    .iter()
                    .enumerate()
                    .filter(|(_, field)| of(field) & bit == bit)
                    .map(|(i, _)| i)
                    .collect()
            })
            .collect()
        };
        Self { schema: Schema::new(), found: Found::default(), may: sets(|f| f.may), must: sets(|f| f.must) }
    }

    /// Reads one line, without its end. What is wrong with it goes to `wrong`; `None`: it is no record.
    pub fn read<'a>(&'a mut self, line: &'a [u8], wrong: &mut Vec<Wrong>) -> Option<Record<'a>> {
        if line.len() >= LONGEST {
            wrong.push((
                3,
                format!("the line has {} bytes with its end, more than {LONGEST}", line.len() + 1),
            ));
        }
        if !is_printable(line) {
            let at = line.iter().position(|byte| !(b' '..=b'~').contains(byte)).unwrap_or(0);
            let byte = line.get(at).copied().unwrap_or(0);
            wrong.push((2, format!("byte {at} of the line is 0x{byte:02x}, which is not printable ASCII")));
        }
        if let Err(flaw) = self.schema.walk(line, &mut self.found) {
            wrong.push((4, syntax(flaw)));
            return None;
        }
        let mut record = Record { line, found: &self.found, action: 0, n: 0, ts: 0, bt: 0, boot: None };
        let action = record.text(f::ACTION).and_then(action_of);
        record.action = action.map_or(0, |index| 1 << index);
        if let Some(text) = self.fields(&record, action) {
            wrong.push((5, text));
        }
        record.n = record.number(f::SEQUENCE)?;
        record.ts = record.time(f::TIMESTAMP)?;
        record.bt = i64::try_from(record.number(f::BOOTTIME)?).ok()?;
        record.boot = record.text(f::BOOT).and_then(moment::parse_uuid);
        if !is_sealed(&record) {
            let text = "the line does not end in event, whose last member is sequence, and in chain";
            wrong.push((6, text.to_owned()));
            return None;
        }
        (record.text(f::STREAM).is_some() && record.text(f::RUN).is_some()).then_some(record)
    }

    /// V5.
    fn fields(&self, record: &Record<'_>, action: Option<usize>) -> Option<String> {
        let found = &self.found;
        let is_newer = record.text(f::VERSION).is_some_and(is_newer);
        match &found.fault {
            Some(Fault::Unknown(name)) if !is_newer => {
                return Some(format!("no field is called {}", quote(record.at(name))));
            }
            Some(Fault::Type(value)) if !is_newer => {
                return Some(format!("{} is of another type than its field", quote(record.at(value))));
            }
            _ => {}
        }
        if action.is_none() && !is_newer {
            return Some(format!("event.action is {}", record.quote(f::ACTION)));
        }
        let index = action.unwrap_or(ACTIONS.len());
        let name = |field: usize| FIELDS.get(field).map_or("", |field| field.path);
        let of = |set: &[Set]| set.get(index).copied().unwrap_or_default();
        if let Some(field) = of(&self.must).beyond(&found.present) {
            return Some(format!("{} is missing", name(field)));
        }
        if let (Some(field), false) = (found.present.beyond(&of(&self.may)), is_newer || action.is_none()) {
            return Some(format!("{} does not belong in this kind of record", name(field)));
        }
        if found.ancestry.iter().any(|process| process.pid.is_none() || !process.is_named) {
            return Some("a process in portreeve.ancestry has no pid or no name".to_owned());
        }
        if is_newer { None } else { super::words::check(record, index) }
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<T: IntoIterator<Item = usize>>(fields: T) -> Self {
        let mut set = Self::default();
        fields.into_iter().for_each(|field| set.insert(field));
        set
    }
}

#[inline]
fn action_of(text: &[u8]) -> Option<usize> {
    ACTIONS.iter().position(|action| action.as_bytes() == text)
}

/// V2, without a branch for each byte.
fn is_printable(line: &[u8]) -> bool {
    line.chunks(64)
        .all(|part| part.iter().fold(true, |good, byte| good & (byte.wrapping_sub(b' ') <= b'~' - b' ')))
}

fn syntax(flaw: Flaw) -> String {
    match flaw {
        Flaw::Syntax(at) => format!("it is no JSON object from byte {at} of the line on"),
        Flaw::Deep => format!("it is nested more than {} levels deep", super::json::DEEPEST),
        Flaw::Twice(at) => format!("the key at byte {at} of the line is there twice"),
    }
}

/// `,"chain":"`, 64 digits, `"}`
const ENDING: usize = 10 + 64 + 2;

/// V6.
fn is_sealed(record: &Record<'_>) -> bool {
    let ending = record.line.len().checked_sub(ENDING).and_then(|at| record.line.get(at..));
    let chain = record.text(f::CHAIN).unwrap_or_default();
    record.found.is_in_order
        && ending.is_some_and(|ending| ending.starts_with(b",\"chain\":\""))
        && moment::parse_hex::<32>(chain).is_some()
}

/// What the chain of a record must be, if the one before it is known.
pub fn chain_of(line: &[u8], before: &[u8; 64]) -> [u8; 64] {
    let bytes = line.get(..line.len().saturating_sub(ENDING)).unwrap_or_default();
    let digest: [u8; 32] = Sha256::new().chain_update(before).chain_update(bytes).finalize().into();
    let mut text = [0; 64];
    moment::hex(&digest, &mut text);
    text
}

/// True if a version of portreeve is later than this one.
fn is_newer(version: &[u8]) -> bool {
    let ours = env!("CARGO_PKG_VERSION").as_bytes();
    version != ours && numbers(version).is_some_and(|theirs| Some(theirs) > numbers(ours))
}

fn numbers(version: &[u8]) -> Option<Vec<u64>> {
    let numbers = version.split(|byte| matches!(byte, b'-' | b'+')).next()?;
    numbers.split(|byte| *byte == b'.').map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_version_may_know_more() {
        assert!(is_newer(b"99.0.0") && is_newer(b"0.99.0-rc.1"));
        assert!(!is_newer(env!("CARGO_PKG_VERSION").as_bytes()) && !is_newer(b"0.0.1") && !is_newer(b"x"));
    }
}
