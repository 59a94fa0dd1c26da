//! Untrusted bytes on their way into records and lines: printable, and to be read back.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use portreeve::event::ascii::{readable, to_json};
use portreeve::event::message::word;
use portreeve::text::{Style, escape, line};

use super::{is_harmless, is_printable};

pub fn run(data: &[u8]) {
    let escaped = escape(data);
    assert!(is_printable(escaped.as_bytes()));
    assert_eq!(unescaped(&escaped), data);

    let text = readable(data);
    assert_eq!(unescaped_bytes(&text), data);
    let json = to_json(&text).unwrap();
    assert!(is_printable(&json));
    assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);

    let word = word(data);
    assert!(is_printable(word.as_bytes()));
    assert!(!word.is_empty() && (word.starts_with('\'') || !word.contains(' ')));

    let style = Style { zone: TimeZone::UTC, utc: true, color: false, width: Some(data.len()) };
    let line = line(Timestamp::UNIX_EPOCH, &String::from_utf8_lossy(data), &style);
    assert!(is_harmless(&line) && line.starts_with("1970-01-01 00:00:00.000Z  "));
}

/// The inverse of `escape`, from its documentation.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(hex) = rest.strip_prefix("\\x") {
            bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
            rest = &hex[2..];
        } else if let Some(code) = rest.strip_prefix("\\u{") {
            let (hex, after) = code.split_once('}').unwrap();
            bytes.extend(char::from_u32(u32::from_str_radix(hex, 16).unwrap()).unwrap().to_string().bytes());
            rest = after;
        } else {
            bytes.push(u8::try_from(c).unwrap());
            rest = &rest[1..];
        }
    }
    bytes
}

/// The inverse of `readable`.
fn unescaped_bytes(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
