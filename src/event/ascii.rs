//! JSON in printable ASCII, and bytes as text from which they can be read back.
//!
//! serde_json escapes what JSON must escape and leaves DEL, C1 controls, bidirectional marks and line separators raw.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Writes everything outside 0x20 to 0x7E as `\uXXXX`.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        // The first byte of a character that is not among these is not either.
        while let Some(at) = rest.bytes().position(|byte| !(b' '..=b'~').contains(&byte)) {
            let (plain, odd) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = odd.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// A value as JSON in printable ASCII.
///
/// # Errors
/// Never for the values of this crate: their keys are strings and their numbers finite.
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = Vec::with_capacity(2048);
    write_json(value, &mut line)?;
    Ok(line)
}

/// The same, behind what is there.
///
/// # Errors
/// As `to_json`.
pub fn write_json<T: Serialize>(value: &T, to: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(to, Ascii))
}

/// Bytes as text: what is UTF-8 stays, another byte becomes `\xNN`, and a backslash that stands before `x` becomes
/// `\x5c`, so that different bytes give different text.
#[must_use]
pub fn readable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains("\\x")
    {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace("\\x", "\\x5cx"));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    Cow::Owned(text)
}

/// Reads back what `readable` wrote; what it would not have written stays as it is.
#[must_use]
pub fn unreadable(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_is_printable_ascii_and_says_the_same(text in "\\PC{0,40}|[\u{0}-\u{2fff}]{0,40}") {
            let line = to_json(&text).unwrap();
            prop_assert!(line.iter().all(|b| (0x20..=0x7e).contains(b)));
            prop_assert_eq!(serde_json::from_slice::<String>(&line).unwrap(), text);
        }

        #[test]
        fn different_bytes_give_different_text(bytes in vec(prop_oneof![any::<u8>(), Just(b'\\'), Just(b'x')], 0..40)) {
            prop_assert_eq!(unreadable(&readable(&bytes)), bytes);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let line = to_json(&"\u{1b}]0;x\u{7} \u{7f}\u{9b}\u{202e}\u{2028}\u{1f600}").unwrap();
        let wanted = r#""\u001b]0;x\u0007 \u007f\u009b\u202e\u2028\ud83d\ude00""#;
        assert_eq!(String::from_utf8(line).unwrap(), wanted);
    }
}
