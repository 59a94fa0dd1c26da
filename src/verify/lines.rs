//! Lines of one file, handed out where they lie in the buffer, with what follows them.
//! Knows nothing of JSON; a line that is longer than any record is passed over in bounded memory.

use std::io::{self, Read};
use std::ops::Range;

/// Longest line that is looked at: four times what a record may have.
pub const LIMIT: usize = 64 * 1024;
const BUFFER: usize = 512 * 1024;

/// A file, unpacked.
pub struct Lines {
    source: Box<dyn Read>,
    buffer: Vec<u8>,
    /// What is in the buffer and was not handed out.
    ahead: Range<usize>,
    has_ended: bool,
    /// What the source said at the end, until all that came before has been handed out.
    failure: Option<io::Error>,
    line: Range<usize>,
    /// Length of the next line, where it was looked for.
    next_length: Option<usize>,
    /// Where the line begins in the file.
    pub offset: u64,
    next_offset: u64,
    /// The line's number, from 1.
    pub number: u64,
    /// True for a pipe: several files may come through it, one behind the other, and offsets mean nothing then.
    pub is_joined: bool,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A line with its end.
    Line,
    /// The last line, which has no end.
    Unended,
    /// A line longer than the limit; all that is known of it is where it stands.
    TooLong,
    /// Nothing.
    End,
}

impl Lines {
    /// From the first byte.
    pub fn new(source: Box<dyn Read>, is_joined: bool) -> Self {
        Self {
            source,
            buffer: vec![0; BUFFER],
            ahead: 0..0,
            has_ended: false,
            failure: None,
            line: 0..0,
            next_length: None,
            offset: 0,
            next_offset: 0,
            number: 0,
            is_joined,
        }
    }

    /// Goes on to the next line.
    ///
    /// # Errors
    /// What the source says.
    pub fn advance(&mut self) -> io::Result<Step> {
        self.offset = self.next_offset;
        let mut skipped = false;
        loop {
            if self.ahead.len() <= LIMIT && !self.has_ended {
                self.fill();
            }
            let ahead = self.buffer.get(self.ahead.clone()).unwrap_or_default();
            let length = self.next_length.take().or_else(|| memchr::memchr(b'\n', ahead));
            let step = match length {
                Some(length) if skipped || length > LIMIT => {
                    self.pass(length + 1);
                    Step::TooLong
                }
                Some(length) => {
                    self.line = self.ahead.start..self.ahead.start + length;
                    self.pass(length + 1);
                    Step::Line
                }
                None if self.has_ended => {
                    let length = self.ahead.len();
                    if let Some(error) = self.failure.take() {
                        // The line that was cut is none of the log's.
                        return Err(error);
                    }
                    if length == 0 && !skipped {
                        return Ok(Step::End);
                    }
                    self.line = self.ahead.clone();
                    self.pass(length);
                    if skipped || length > LIMIT { Step::TooLong } else { Step::Unended }
                }
                None => {
                    self.pass(self.ahead.len());
                    skipped = true;
                    continue;
                }
            };
            self.number += 1;
            return Ok(step);
        }
    }

    fn pass(&mut self, bytes: usize) {
        self.ahead.start += bytes;
        self.next_offset += bytes as u64;
    }

    fn fill(&mut self) {
        self.buffer.copy_within(self.ahead.clone(), 0);
        self.ahead = 0..self.ahead.len();
        while !self.has_ended {
            let Some(room) = self.buffer.get_mut(self.ahead.end..).filter(|room| !room.is_empty()) else {
                break;
            };
            match self.source.read(room) {
                Ok(0) => self.has_ended = true,
                Ok(count) => self.ahead.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What came before is good.
                Err(error) => {
                    self.failure = Some(error);
                    self.has_ended = true;
                }
            }
        }
    }

    /// The line, without its end.
    pub fn line(&self) -> &[u8] {
        self.buffer.get(self.line.clone()).unwrap_or_default()
    }

    /// Length of the line behind this one, if it ends in what is ahead.
    pub fn next_length(&mut self) -> Option<usize> {
        self.next_length = memchr::memchr(b'\n', self.following());
        self.next_length
    }

    /// What stands behind the line: at least three more records, where there are.
    pub fn following(&self) -> &[u8] {
        self.buffer.get(self.ahead.clone()).unwrap_or_default()
    }
}
