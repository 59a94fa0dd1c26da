//! A pull parser of JSON: a cursor over one line that hands out slices of it and allocates nothing.
//! Knows no field; every byte that it must look at it looks at once. RFC 8259, and no more than eight levels deep.

use std::ops::Range;

/// Levels of nesting that a record may have.
pub const DEEPEST: usize = 8;

/// Why a line is no JSON that may stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Not JSON from this byte on, counted from 0.
    Syntax(usize),
    /// More than eight levels.
    Deep,
    /// A key that its object has already; where it stands.
    Twice(usize),
}

/// A place in a line.
#[derive(Debug)]
pub struct Cursor<'a> {
    /// The line.
    pub line: &'a [u8],
    /// The next byte.
    pub at: usize,
}

impl<'a> Cursor<'a> {
    /// At the line's first byte.
    pub fn new(line: &'a [u8]) -> Self {
        Self { line, at: 0 }
    }

    /// What was not read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.line.get(self.at..).unwrap_or_default()
    }

    /// The next byte that is no blank, without taking it. Lines hold no other white space than blanks.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        while self.line.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        self.line.get(self.at).copied()
    }

    /// That nothing else is meant here.
    pub fn flaw<T>(&self) -> Result<T, Flaw> {
        Err(Flaw::Syntax(self.at))
    }

    /// Takes this byte.
    #[inline]
    pub fn expect(&mut self, byte: u8) -> Result<(), Flaw> {
        if self.peek() != Some(byte) {
            return self.flaw();
        }
        self.at += 1;
        Ok(())
    }

    /// Takes these bytes if they come next.
    #[inline]
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        let is_next = self.rest().starts_with(bytes);
        if is_next {
            self.at += bytes.len();
        }
        is_next
    }

    /// A string; answers where its inside stands, escapes and all.
    #[inline]
    pub fn string(&mut self) -> Result<Range<usize>, Flaw> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            self.at += length_to_mark(self.rest());
            match self.line.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(start..self.at - 1);
                }
                Some(b'\\') => self.escape()?,
                _ => return self.flaw(),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Flaw> {
        match self.rest() {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.at += 2,
            [_, b'u', ..] => match self.unit()? {
                // A pair of surrogates is one character, one alone is none.
                0xd800..0xdc00
                    if self.rest().starts_with(b"\\u") && (0xdc00..0xe000).contains(&self.unit()?) => {}
                0xd800..0xe000 => return self.flaw(),
                _ => {}
            },
            _ => return self.flaw(),
        }
        Ok(())
    }

    /// `\uXXXX`
    fn unit(&mut self) -> Result<u32, Flaw> {
        let Some(digits) = self.rest().get(2..6) else { return self.flaw() };
        let mut unit = 0;
        for digit in digits {
            let Some(value) = char::from(*digit).to_digit(16) else { return self.flaw() };
            unit = unit * 16 + value;
        }
        self.at += 6;
        Ok(unit)
    }

    /// A number; answers where it stands.
    #[inline]
    pub fn number(&mut self) -> Result<Range<usize>, Flaw> {
        self.peek();
        let start = self.at;
        if self.line.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.line.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.flaw(),
        }
        if self.line.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if let Some(b'e' | b'E') = self.line.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.line.get(self.at) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(start..self.at)
    }

    fn some_digits(&mut self) -> Result<(), Flaw> {
        match self.line.get(self.at) {
            Some(b'0'..=b'9') => self.digits(),
            _ => return self.flaw(),
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.line.get(self.at) {
            self.at += 1;
        }
    }

    /// Takes any value that stands `depth` levels deep; answers where it stands.
    pub fn skip(&mut self, depth: usize) -> Result<Range<usize>, Flaw> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'"') => {
                self.string()?;
            }
            Some(b'{') => self.skip_object(depth + 1)?,
            Some(b'[') => {
                self.open(depth + 1)?;
                let mut more = !self.closes(b']');
                while more {
                    self.skip(depth + 1)?;
                    more = self.goes_on(b']')?;
                }
            }
            Some(b't') if self.take(b"true") => {}
            Some(b'f') if self.take(b"false") => {}
            Some(b'n') if self.take(b"null") => {}
            _ => {
                self.number()?;
            }
        }
        Ok(start..self.at)
    }

    fn skip_object(&mut self, depth: usize) -> Result<(), Flaw> {
        self.open(depth)?;
        let mut keys = Vec::new();
        let mut more = !self.closes(b'}');
        while more {
            keys.push(self.key()?);
            self.skip(depth)?;
            more = self.goes_on(b'}')?;
        }
        let text = |key: &Range<usize>| self.line.get(key.clone());
        keys.sort_unstable_by_key(text);
        match keys.windows(2).find_map(|pair| match pair {
            [a, b] if text(a) == text(b) => Some(b.start.max(a.start)),
            _ => None,
        }) {
            Some(at) => Err(Flaw::Twice(at)),
            None => Ok(()),
        }
    }

    /// A key and its colon; answers where the key's inside stands.
    pub fn key(&mut self) -> Result<Range<usize>, Flaw> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// Takes an opening bracket.
    #[inline]
    pub fn open(&mut self, depth: usize) -> Result<(), Flaw> {
        if depth > DEEPEST {
            return Err(Flaw::Deep);
        }
        self.peek();
        self.at += 1;
        Ok(())
    }

    /// Takes a closing bracket if it comes next: nothing was inside.
    #[inline]
    pub fn closes(&mut self, bracket: u8) -> bool {
        let closes = self.peek() == Some(bracket);
        self.at += usize::from(closes);
        closes
    }

    /// Takes a comma (true) or the closing bracket (false).
    #[inline]
    pub fn goes_on(&mut self, bracket: u8) -> Result<bool, Flaw> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == bracket => {
                self.at += 1;
                Ok(false)
            }
            _ => self.flaw(),
        }
    }
}

/// How many bytes come before the next quotation mark or backslash. Most strings end within a few bytes, for which a
/// call of memchr costs more than it saves.
#[inline]
fn length_to_mark(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut length = 0;
    for word in bytes.chunks_exact(8).take(6) {
        let Ok(word) = <[u8; 8]>::try_from(word) else { break };
        let word = u64::from_le_bytes(word);
        let found = is_zero(word ^ (ONES * 0x22)) | is_zero(word ^ (ONES * 0x5c));
        if found != 0 {
            // 0 to 7.
            return length + usize::try_from(found.trailing_zeros() / 8).unwrap_or(0);
        }
        length += 8;
    }
    let rest = bytes.get(length..).unwrap_or_default();
    length + memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    fn whole(line: &[u8]) -> Result<(), Flaw> {
        let mut cursor = Cursor::new(line);
        cursor.skip(0)?;
        if cursor.peek().is_some() { cursor.flaw() } else { Ok(()) }
    }

    #[test]
    fn what_is_json_is_taken_and_what_is_not_is_refused() {
        for good in [
            "{}",
            "[]",
            " [ 1 , -0.5e+3 ] ",
            "{\"a\":{\"b\":[true,false,null]}}",
            "\"\\u00e9\\ud83d\\ude00\\n\"",
        ] {
            assert_eq!(whole(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            "",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1 2]",
            "01",
            "1.",
            "-",
            "\"\\x\"",
            "\"\\ud83d\"",
            "\"\\udc00\"",
            "\"abc",
            "tru",
            "{} {}",
            "\"\\ud83d\\u0041\"",
            "\"\\u00g0\"",
        ] {
            assert!(matches!(whole(bad.as_bytes()), Err(Flaw::Syntax(_))), "{bad}");
        }
        assert_eq!(whole(b"{\"a\":1,\"b\":2,\"a\":3}"), Err(Flaw::Twice(14)));
        assert_eq!(whole(&[b'['; 100_000]), Err(Flaw::Deep));
    }

    proptest! {
        #[test]
        fn a_mark_is_found_where_it_stands(bytes in proptest::collection::vec(0x20_u8..0x7f, 0..200)) {
            let slow = bytes.iter().position(|b| matches!(b, b'"' | b'\\')).unwrap_or(bytes.len());
            prop_assert_eq!(length_to_mark(&bytes), slow);
        }

        #[test]
        fn serde_json_agrees(text in "[\\[\\]{}\",:0-9eE.+\\-tfnrul\\\\ ab]{0,12}") {
            let line = text.as_bytes();
            let theirs = serde_json::from_slice::<serde_json::Value>(line).is_ok();
            // serde_json allows a key twice, and refuses numbers beyond a float.
            if !matches!(whole(line), Err(Flaw::Twice(_))) && !text.contains(['e', 'E']) {
                prop_assert_eq!(whole(line).is_ok(), theirs, "{}", text);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = whole(&bytes);
        }
    }
}
