//! Lines in, what is shown of them out; lines that are no records are counted.
//! Knows nothing of files beyond the name that a notice gives, and no clock.
//! What a line means is `record`'s to say, what is wanted `filter`'s, how it looks `text`'s.

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::files::Log;
use super::lines::{Lines, Step};
use super::notice::{Flaw, Notice};
use super::record::Record;
use super::show::{Format, Show, ShowError, Summary};
use crate::text;

pub(super) struct Printer<'a> {
    show: &'a Show,
    out: BufWriter<&'a mut dyn Write>,
    say: &'a mut dyn FnMut(&Notice),
    stop: &'a dyn Fn() -> bool,
    summary: Summary,
}

/// Lines of one file that are no records.
pub(super) struct Flaws {
    path: PathBuf,
    first: Option<(u64, Flaw)>,
    count: u64,
    told: u64,
}

impl<'a> Printer<'a> {
    pub fn new(
        show: &'a Show,
        out: &'a mut dyn Write,
        say: &'a mut dyn FnMut(&Notice),
        stop: &'a dyn Fn() -> bool,
    ) -> Printer<'a> {
        Printer {
            show,
            out: BufWriter::with_capacity(64 * 1024, out),
            say,
            stop,
            summary: Summary::default(),
        }
    }

    pub fn summary(&self) -> Summary {
        self.summary
    }

    pub fn is_stopped(&self) -> bool {
        (self.stop)()
    }

    pub fn note(&mut self, notice: &Notice) {
        if notice.is_failure() {
            self.summary.failures += 1;
        }
        (self.say)(notice);
    }

    /// Prints a file that will not grow. What is wrong with it is noted.
    ///
    /// # Errors
    /// `Write` alone.
    pub fn print_log(&mut self, log: &Log) -> Result<(), ShowError> {
        match log.lines() {
            Ok(mut lines) => self.print_to_end(&mut lines, &mut Flaws::new(&log.path)),
            Err(source) => {
                self.note(&Notice::Cut { path: log.path.clone(), source });
                Ok(())
            }
        }
    }

    /// Prints lines to an end that is final, the started line included, and tells of the flaws.
    ///
    /// # Errors
    /// `Write` alone.
    pub fn print_to_end(&mut self, lines: &mut Lines, flaws: &mut Flaws) -> Result<(), ShowError> {
        let outcome = self.print_available(lines, flaws);
        let failure = match outcome {
            Ok(()) => None,
            Err(ShowError::Read { source, .. }) => Some(source),
            Err(error) => return Err(error),
        };
        if !self.is_stopped() && lines.is_torn() {
            let whole = match lines.rest() {
                Some(rest) => self.print_line(rest)?.is_ok(),
                None => false,
            };
            // Where reading failed, the notice of that explains the torn line.
            if !whole && failure.is_none() {
                flaws.add(lines.number() + 1, Flaw::Torn);
            }
        }
        if let Some(source) = failure {
            self.note(&Notice::Cut { path: flaws.path.clone(), source });
        }
        self.tell_at_end(flaws);
        Ok(())
    }

    /// Prints all whole lines that can be read now.
    ///
    /// # Errors
    /// `Write`, or `Read` where the source fails.
    pub fn print_available(&mut self, lines: &mut Lines, flaws: &mut Flaws) -> Result<(), ShowError> {
        while !self.is_stopped() {
            // The next read may wait for long, on a pipe or a terminal: nobody should wait for lines we have.
            if !lines.has_line() {
                self.flush()?;
            }
            let step =
                lines.advance().map_err(|source| ShowError::Read { path: flaws.path.clone(), source })?;
            let outcome = match step {
                Step::End => break,
                Step::TooLong => Err(Flaw::TooLong),
                Step::Line => self.print_line(lines.line())?,
            };
            if let Err(flaw) = outcome {
                flaws.add(lines.number(), flaw);
            }
        }
        self.flush()
    }

    fn print_line(&mut self, line: &[u8]) -> Result<Result<(), Flaw>, ShowError> {
        match self.render(line) {
            Ok(None) => Ok(Ok(())),
            Ok(Some(shown)) => {
                self.out.write_all(shown.as_bytes()).map_err(ShowError::Write)?;
                self.out.write_all(b"\n").map_err(ShowError::Write)?;
                self.summary.shown += 1;
                Ok(Ok(()))
            }
            Err(flaw) => Ok(Err(flaw)),
        }
    }

    /// The line as it is shown. `None`: the filter leaves it out.
    fn render<'l>(&self, line: &'l [u8]) -> Result<Option<Cow<'l, str>>, Flaw> {
        let Show { filter, format, style, .. } = self.show;
        let line = std::str::from_utf8(line).map_err(|_| Flaw::NoUtf8)?;
        if !filter.may_accept(line) {
            return Ok(None);
        }
        let (at, record) = Record::parse(line)?;
        Ok(filter.accepts(at, &record).then(|| match format {
            Format::Text => Cow::Owned(text::line(at, &record.message, style)),
            Format::Json => to_ascii_json(line),
        }))
    }

    pub fn flush(&mut self) -> Result<(), ShowError> {
        self.out.flush().map_err(ShowError::Write)
    }

    /// Tells of flaws when a growing file has been read to its present end: at once of the first, later ones wait.
    pub fn tell_while_growing(&mut self, flaws: &mut Flaws) {
        if flaws.told == 0 {
            self.tell_at_end(flaws);
        }
    }

    pub fn tell_at_end(&mut self, flaws: &mut Flaws) {
        if let Some(notice) = flaws.tell() {
            self.note(&notice);
        }
    }
}

impl Flaws {
    pub fn new(path: &Path) -> Flaws {
        Flaws { path: path.to_owned(), first: None, count: 0, told: 0 }
    }

    pub fn add(&mut self, line: u64, flaw: Flaw) {
        self.first.get_or_insert((line, flaw));
        self.count += 1;
    }

    /// What is to be told of them, if there are any that were not told of.
    pub fn tell(&mut self) -> Option<Notice> {
        let (line, flaw) = self.first?;
        let is_new = self.count > self.told;
        self.told = self.count;
        is_new.then(|| Notice::Lines { path: self.path.clone(), line, flaw, others: self.count - 1 })
    }
}

/// The line unchanged if it is printable ASCII, as portreeve writes it; else the same JSON in printable ASCII.
///
/// JSON allows C1 controls and bidirectional marks in strings and carriage returns between tokens; a terminal
/// would obey them.
pub(super) fn to_ascii_json(line: &str) -> Cow<'_, str> {
    if line.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(line);
    }
    let mut ascii = String::with_capacity(line.len() * 2);
    for c in line.chars() {
        match c {
            ' '..='~' => ascii.push(c),
            // The line has been parsed: below the space, JSON has only white space between tokens.
            '\0'..' ' => ascii.push(' '),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    Cow::Owned(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use serde_json::Value;

    proptest! {
        #[test]
        fn ascii_json_says_the_same(text: String) {
            let raw = format!("[\r{},\t1 ]", Value::from(text));
            let ascii = to_ascii_json(&raw);
            prop_assert!(ascii.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let (a, b): (Value, Value) = (serde_json::from_str(&ascii).unwrap(), serde_json::from_str(&raw).unwrap());
            prop_assert_eq!(a, b);
        }
    }

    #[test]
    fn what_portreeve_wrote_is_passed_on_untouched() {
        assert!(matches!(to_ascii_json(r#"{"a":"\u2192"}"#), Cow::Borrowed(_)));
        assert_eq!(to_ascii_json("{\"a\":\r\"\u{9b}2J→😀\"}"), r#"{"a": "\u009b2J\u2192\ud83d\ude00"}"#);
    }
}
