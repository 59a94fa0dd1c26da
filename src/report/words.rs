//! Words of the readers: names made harmless, amounts and times for people.
//! Knows nothing of records. Whatever a log says of a name is untrusted, and stays one word.

use std::net::SocketAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::text::{Style, harmless};

/// Longest name that is shown, in characters.
const NAME_CHARS: usize = 64;

/// A name as one word: quoted as a shell would where it is none, cut where it is long.
pub(super) fn word(name: &str) -> String {
    let text = harmless(name);
    let text = cut(&text, NAME_CHARS);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+./:=@%,^[]".contains(&byte);
    match text.bytes().all(is_plain) && !text.is_empty() {
        true => text,
        // Our own marks cannot come from a name.
        false => {
            format!("'{}'", text.replace(['\u{2192}', '\u{2190}', '\u{b7}'], "?").replace('\'', r"'\''"))
        }
    }
}

/// A text that may have several words, harmless.
pub(super) fn words(text: &str, most: usize) -> String {
    let text = harmless(text).replace(['\u{2192}', '\u{2190}', '\u{b7}'], "?");
    cut(&text, most)
}

/// At most so many characters, the last of them `…` where something is missing.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{kept}\u{2026}")
}

/// `3.6 kB`.
pub(super) fn bytes(count: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", count / unit, count % unit * 10 / unit),
        None => format!("{count} B"),
    }
}

/// `192.0.2.7:22`, `[::1]:22`; or that it is not known.
pub(super) fn end(end: Option<SocketAddr>) -> String {
    end.map_or_else(|| "an unknown address".to_owned(), |end| end.to_string())
}

/// Date and time as people of the style's zone write them, to the second.
pub(super) fn moment(micros: i64, style: &Style) -> (String, String) {
    let zone = if style.utc { &TimeZone::UTC } else { &style.zone };
    let at = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    let local = zone.to_datetime(at);
    let (date, time) = (local.date(), local.time());
    let mut clock = format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second());
    if style.utc {
        clock.push('Z');
    }
    (format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day()), clock)
}

/// The moment as JSON has it.
pub(super) fn rfc3339(micros: i64) -> String {
    let at = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, proptest};

    #[test]
    fn a_name_is_one_word() {
        for (name, shown) in [
            ("alice", "alice"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("a \u{2190} b", "'a ? b'"),
            ("\x1b[2J", "'\\u{1b}[2J'"),
        ] {
            assert_eq!(word(name), shown);
        }
        assert_eq!(word(&"x".repeat(99)).chars().count(), NAME_CHARS + 2);
    }

    proptest! {
        #[test]
        fn no_name_gets_through_raw(name: String) {
            let shown = word(&name);
            prop_assert!(shown.chars().all(|c| matches!(c, ' '..='~' | '\u{2026}')), "{shown}");
        }
    }
}
