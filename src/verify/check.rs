//! All lines of a set, one after the other.
//! Knows which line is torn and which stream goes on; the rules about one record or a stream stand elsewhere.

use std::collections::BTreeMap;
use std::io;

use super::Options;
use super::chains::Chains;
use super::fields::on;
use super::findings::{Excuse, Findings};
use super::lines::{Lines, Step};
use super::record::{Reader, Record, Wrong, f};
use super::seal::Seals;
use super::stream::Stream;
use super::summary::Summary;

/// As many streams before the one that is read are known again.
const REMEMBERED: usize = 4_096;
/// `--expect-live`: the newest coverage or seal is at most so old.
const FRESH: i64 = 120_000_000;

/// A check under way.
pub struct Check {
    reader: Reader,
    /// Reads lines ahead.
    scout: Reader,
    wrong: Vec<Wrong>,
    log: Log,
    /// The torn line that was passed over last, as its record tells it: where it begins and how long it is.
    torn: Option<(u64, u64)>,
}

/// What is known beyond one line.
struct Log {
    stream: Option<Stream>,
    earlier: Vec<Vec<u8>>,
    chains: Chains,
    seals: Seals,
    anchors: BTreeMap<u64, Anchor>,
    /// When coverage or a seal was told last.
    fresh: Option<i64>,
    summary: Summary,
}

/// A chain that a record must have.
struct Anchor {
    chain: [u8; 64],
    is_there: bool,
    is_met: bool,
}

impl Check {
    /// Nothing was read.
    pub fn new(options: &Options) -> Self {
        let anchor =
            |(n, chain): &(u64, [u8; 64])| (*n, Anchor { chain: *chain, is_there: false, is_met: false });
        let log = Log {
            stream: None,
            earlier: Vec::new(),
            chains: Chains::new(),
            seals: Seals::new(options.secret.clone()),
            anchors: options.anchors.iter().map(anchor).collect(),
            fresh: None,
            summary: Summary::default(),
        };
        Self { reader: Reader::new(), scout: Reader::new(), wrong: Vec::new(), log, torn: None }
    }

    /// To look at files' first records with.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Reads one file.
    ///
    /// # Errors
    /// What the source says; what came before was checked.
    pub fn file(&mut self, lines: &mut Lines, is_newest: bool, found: &mut Findings<'_>) -> io::Result<()> {
        let mut is_first = true;
        self.torn = None;
        loop {
            let step = lines.advance()?;
            (found.line, found.sequence) = (lines.number, None);
            self.log.summary.files += u64::from(is_first && step != Step::End);
            match step {
                Step::End => return Ok(()),
                Step::TooLong => {
                    self.log.summary.others += 1;
                    found.add(3, format!("the line has more than {} bytes", super::lines::LIMIT));
                }
                Step::Unended if is_newest => {
                    let note =
                        format!("the last line of the newest file has no end: {} bytes", lines.line().len());
                    self.log.summary.notes.push(note);
                }
                Step::Unended => {
                    self.log.summary.others += 1;
                    let text = "the file ends within the line, and is not the newest".to_owned();
                    found.hold(1, text, Excuse::Crash, 0, 0);
                }
                Step::Line if self.is_torn(lines) => self.log.summary.torn += 1,
                Step::Line => is_first = !self.line(lines.line(), is_first, found) && is_first,
            }
        }
    }

    /// A line; true if it is a record.
    fn line(&mut self, line: &[u8], is_first: bool, found: &mut Findings<'_>) -> bool {
        let Self { reader, wrong, log, torn, .. } = self;
        let record = reader.read(line, wrong);
        found.sequence = record.as_ref().map(|record| record.n);
        for (rule, text) in wrong.drain(..) {
            found.add(rule, text);
        }
        let Some(record) = record else {
            log.summary.others += 1;
            return false;
        };
        if record.action == on::REPAIR {
            let told = record.number(f::OFFSET).zip(record.number(f::BYTES));
            if told != *torn {
                found.add(1, "log-repaired names a torn line that does not stand before it".to_owned());
            }
        }
        log.take(&record, is_first, found);
        true
    }

    /// True if a record behind the line says that it was torn. Only a few records about the file may stand between.
    fn is_torn(&mut self, lines: &mut Lines) -> bool {
        const MOST_BETWEEN: usize = 4;
        const MOST_BYTES: usize = 2_048;
        let (offset, length) = (lines.offset, lines.line().len() as u64);
        // Records of connections are longer, and follow most lines.
        if lines.next_length().is_none_or(|length| length > MOST_BYTES) {
            return false;
        }
        let mut following = lines.following();
        for _ in 0..MOST_BETWEEN {
            let near = following.get(..MOST_BYTES).unwrap_or(following);
            let Some(length_of_next) = memchr::memchr(b'\n', near) else { return false };
            let next = following.get(..length_of_next).unwrap_or_default();
            following = following.get(length_of_next + 1..).unwrap_or_default();
            let head = next.get(next.len().saturating_sub(640)..).unwrap_or_default();
            if memchr::memmem::find(head, b"\"action\":\"").is_none_or(|at| !is_of_file(head, at)) {
                return false;
            }
            let Some(record) = self.scout.read(next, &mut Vec::new()) else { return false };
            if record.action == on::REPAIR {
                let (told, bytes) = (record.number(f::OFFSET), record.number(f::BYTES));
                if bytes != Some(length) || told != Some(offset) && !lines.is_joined {
                    continue;
                }
                self.torn = told.zip(bytes);
                return true;
            }
        }
        false
    }

    /// The end of the set.
    pub fn finish(mut self, newest: usize, expect_live: Option<i64>, found: &mut Findings<'_>) -> Summary {
        found.settle();
        self.log.chains.finish(found);
        self.log.end_stream();
        (found.file, found.line, found.sequence) = (newest, 0, None);
        for (n, anchor) in &self.log.anchors {
            if !anchor.is_met {
                let what = if anchor.is_there { "has another chain than the anchor" } else { "is not there" };
                found.add(46, format!("record {n} {what}"));
            }
        }
        if let Some(now) = expect_live {
            // Whoever cuts off the end could write a coverage of now, but no seal.
            let (fresh, what) = match self.log.seals.has_secret() {
                true => (self.log.seals.proved_at, "proved seal"),
                false => (self.log.fresh, "coverage or seal"),
            };
            match fresh.map(|fresh| now.saturating_sub(fresh)) {
                None => found.add(45, format!("no {what} was told")),
                Some(age) if age > FRESH => {
                    found.add(45, format!("the newest {what} is {} s old", age / 1_000_000));
                }
                Some(_) => {}
            }
        }
        if self.log.seals.has_secret() && self.log.seals.proved == 0 {
            found.add(44, "there is no seal that the secret proves".to_owned());
        }
        self.log.summary.seals = (self.log.seals.count, self.log.seals.proved);
        self.log.summary.epochs = self.log.seals.epochs;
        self.log.summary.count(found.counts());
        self.log.summary
    }
}

fn is_of_file(head: &[u8], at: usize) -> bool {
    let action = head.get(at + b"\"action\":\"".len()..).unwrap_or_default();
    action.starts_with(b"log-") || action.starts_with(b"gap")
}

impl Log {
    fn take(&mut self, record: &Record<'_>, is_first_of_file: bool, found: &mut Findings<'_>) {
        let id = record.text(f::STREAM).unwrap_or_default();
        if self.stream.as_ref().is_none_or(|stream| stream.id != id) {
            if self.earlier.iter().any(|earlier| earlier == id) {
                found.add(13, format!("the stream {} goes on after another began", record.quote(f::STREAM)));
                return;
            }
            self.begin_stream(record, found);
        }
        let Some(stream) = &mut self.stream else { return };
        let whole = (&mut self.chains, &mut self.seals, &mut self.summary);
        stream.take(record, is_first_of_file, whole, found);
        if record.action & (on::COVER | on::SEAL) != 0 {
            self.fresh = self.fresh.max(Some(record.ts));
        }
        if let Some(anchor) = self.anchors.get_mut(&record.n) {
            anchor.is_there = true;
            anchor.is_met |= record.text(f::CHAIN) == Some(&anchor.chain);
        }
    }

    fn begin_stream(&mut self, record: &Record<'_>, found: &mut Findings<'_>) {
        if self.stream.is_some() {
            found.settle();
            if record.n > 1 {
                found.add(11, format!("another stream comes in with record {}", record.n));
            }
        } else {
            self.summary.begins = record.n;
        }
        self.end_stream();
        self.summary.streams += 1;
        self.stream = Some(Stream::new(record));
    }

    fn end_stream(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        self.summary.end_run();
        self.summary.runs += stream.runs.count;
        self.summary.stopped += stream.runs.stopped;
        self.summary.open += stream.connections.live();
        if self.earlier.len() < REMEMBERED {
            self.earlier.push(stream.id);
        }
    }
}
