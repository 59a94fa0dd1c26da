//! Lines of a log, one at a time, in bounded memory.
//! Knows nothing of JSON or of files: bytes in, lines out; a line is given out only when its end has been read.
//! A record has at most 16 KiB (portreeve-events(5)); four times that is room for what later versions may write.

use std::io::{self, BufRead, BufReader, Read};

/// Longest line that is kept. Longer ones are passed over and reported.
pub(super) const LIMIT_BYTES: usize = 64 * 1024;

/// How much of a line is enough to know it again: the chain's 64 digits and what closes the record.
const TAIL_BYTES: usize = 68;

pub(super) struct Lines {
    reader: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
    state: State,
    read_bytes: u64,
    place: Place,
}

/// Where the last whole line ended, and what stood there: the same bytes at the same place are the same log.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Offset just behind the line's end.
    pub offset: u64,
    /// How many lines stand before `offset`.
    pub number: u64,
    /// The last bytes before `offset`. Empty before the first line.
    pub tail: Vec<u8>,
}

impl Place {
    pub fn tail_offset(&self) -> u64 {
        self.offset.saturating_sub(to_u64(self.tail.len()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Within,
    /// Within a line that is already longer than the limit; `line` holds only its latest bytes.
    Skipping,
    /// `line` has been given out.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `Lines::line` is a whole line.
    Line,
    /// A line was longer than the limit.
    TooLong,
    /// Nothing more now. A growing file may have more later; a line that has begun is kept.
    End,
}

impl Lines {
    /// Reads from `source`, whose first byte stands at `place`; at the start that is the default.
    pub fn new(source: Box<dyn Read>, place: Place) -> Lines {
        Lines {
            reader: BufReader::with_capacity(256 * 1024, source),
            line: Vec::new(),
            state: State::Done,
            read_bytes: place.offset,
            place,
        }
    }

    /// Goes on to the next line.
    ///
    /// # Errors
    /// What the source says. What was read of a line until then is kept.
    pub fn advance(&mut self) -> io::Result<Step> {
        if self.state == State::Done {
            self.line.clear();
            self.state = State::Within;
        }
        loop {
            // Room for the line end, so that a line of exactly the limit is still whole.
            let room = (LIMIT_BYTES + 1).saturating_sub(self.line.len());
            let before = self.line.len();
            let outcome = self.reader.by_ref().take(to_u64(room)).read_until(b'\n', &mut self.line);
            self.read_bytes += to_u64(self.line.len() - before);
            let read = outcome?;
            if self.line.last() == Some(&b'\n') {
                return Ok(self.finish_line());
            }
            if read == 0 {
                return Ok(Step::End);
            }
            if self.line.len() > LIMIT_BYTES {
                self.line.clear();
                self.state = State::Skipping;
            }
        }
    }

    fn finish_line(&mut self) -> Step {
        self.place.number += 1;
        self.place.offset = self.read_bytes;
        let tail = self.line.get(self.line.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        self.place.tail.clear();
        self.place.tail.extend_from_slice(tail);
        self.line.pop();
        let step = if self.state == State::Skipping { Step::TooLong } else { Step::Line };
        self.state = State::Done;
        step
    }

    /// The line, without its end.
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// Number of the last whole line, from 1; the line that has begun is the next.
    pub fn number(&self) -> u64 {
        self.place.number
    }

    /// What stands after the last line end, if anything does. `None` also where it is longer than the limit.
    pub fn rest(&self) -> Option<&[u8]> {
        (self.state == State::Within && !self.line.is_empty()).then_some(self.line.as_slice())
    }

    /// Whether a line has begun whose end has not been read.
    pub fn is_torn(&self) -> bool {
        self.state == State::Skipping || self.rest().is_some()
    }

    /// Whether the next line can be had without asking the source, which may take its time.
    pub fn has_line(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    /// Offset of the first byte not read yet.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// Lossless on every platform that Linux runs on.
fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write as _};
    use std::sync::mpsc::{Receiver, channel};

    fn lines(bytes: &[u8]) -> Lines {
        Lines::new(Box::new(Cursor::new(bytes.to_vec())), Place::default())
    }

    #[test]
    fn lines_come_whole_and_the_rest_is_kept() {
        let mut lines = lines(b"one\n\ntwo\nthr");
        for expected in [&b"one"[..], b"", b"two"] {
            assert_eq!(lines.advance().unwrap(), Step::Line);
            assert_eq!(lines.line(), expected);
            assert!(!lines.is_torn());
        }
        assert_eq!(lines.place().offset, 9);
        assert_eq!(lines.place().tail, b"two\n");
        assert_eq!(lines.advance().unwrap(), Step::End);
        assert_eq!((lines.number(), lines.rest(), lines.read_bytes()), (3, Some(&b"thr"[..]), 12));
        assert_eq!(lines.advance().unwrap(), Step::End);
        assert_eq!(lines.rest(), Some(&b"thr"[..]));
    }

    #[test]
    fn a_line_of_the_limit_is_kept_and_a_longer_one_is_passed_over() {
        let fits = [b'a'; LIMIT_BYTES];
        let long = vec![b'b'; 3 * LIMIT_BYTES + 5];
        let mut lines = lines(&[&fits[..], b"\n", &long, b"\nnext\n", &long].concat());
        assert_eq!(lines.advance().unwrap(), Step::Line);
        assert_eq!(lines.line().len(), LIMIT_BYTES);
        assert_eq!(lines.advance().unwrap(), Step::TooLong);
        assert_eq!(lines.place().tail, b"bb\n");
        assert!(lines.line.capacity() <= 4 * LIMIT_BYTES);
        assert_eq!(lines.advance().unwrap(), Step::Line);
        assert_eq!((lines.line(), lines.number()), (&b"next"[..], 3));
        assert_eq!(lines.advance().unwrap(), Step::End);
        assert!(lines.is_torn() && lines.rest().is_none());
    }

    /// A source that ends for now whenever nothing is in the channel, as a growing file does.
    struct Growing(Receiver<&'static [u8]>);

    impl Read for Growing {
        fn read(&mut self, mut into: &mut [u8]) -> io::Result<usize> {
            let Ok(bytes) = self.0.try_recv() else { return Ok(0) };
            into.write(bytes)
        }
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_given_out_once_and_whole() {
        let (send, receive) = channel();
        let mut lines = Lines::new(Box::new(Growing(receive)), Place::default());
        send.send(&b"on"[..]).unwrap();
        assert_eq!(lines.advance().unwrap(), Step::End);
        assert_eq!(lines.advance().unwrap(), Step::End);
        send.send(&b"e\ntw"[..]).unwrap();
        assert_eq!(lines.advance().unwrap(), Step::Line);
        assert_eq!(lines.line(), b"one");
        assert_eq!(lines.advance().unwrap(), Step::End);
        send.send(&b"o\n"[..]).unwrap();
        assert_eq!(lines.advance().unwrap(), Step::Line);
        assert_eq!((lines.line(), lines.place().offset), (&b"two"[..], 8));
    }
}
