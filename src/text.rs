//! The words of text output: one line for a record, and untrusted bytes made harmless.
//! Knows nothing of where lines go or what a record is: no I/O, no clock, a message and a moment in, a line out.
//! Terminals obey control bytes (CVE-2003-0063 and its followers), so only printable ASCII and our own four marks pass.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The marks that our own messages hold beside ASCII.
const MARKS: [char; 4] = ['→', '←', '…', '·'];

/// Length of a UUID as text, and how much of it a narrow line keeps: time and counter, enough to be told apart.
const ID_CHARS: usize = 36;
const SHORT_ID_CHARS: usize = 18;

/// How a line looks.
#[derive(Clone, Debug)]
pub struct Style {
    /// Zone of the printed time. Not looked at where `utc` is set.
    pub zone: TimeZone,
    /// Print the time in UTC, ending in `Z`.
    pub utc: bool,
    /// Colour the verb for a terminal.
    pub color: bool,
    /// Columns of the terminal. `None`: the line is for a file or a pipe and keeps the whole connection id.
    pub width: Option<usize>,
}

/// A span of time for people: `320 ms`, `4.5 s`, `12m03s`, `3h00m`, `2d04h`.
#[must_use]
pub fn lasting(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{seconds}.{} s", millis / 100),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Renders one record: `2026-11-20 13:42:50.123  message`, without a line end.
///
/// The message is escaped once more, so that a forged log cannot reach the terminal; what `escape` wrote stays as
/// it is. Where the line is wider than `style.width`, a connection id that ends it is cut to 18 characters and `…`.
#[must_use]
pub fn line(at: Timestamp, message: &str, style: &Style) -> String {
    let mut line = String::with_capacity(message.len() + 48);
    push_time(&mut line, at, style);
    line.push_str("  ");
    let verb_start = line.len();
    line.push_str(&harmless(&aligned(message)));
    if style.width.is_some_and(|columns| line.chars().count() > columns) {
        shorten_id(&mut line);
    }
    if style.color {
        color_verb(&mut line, verb_start);
    }
    line
}

/// Widths of the first two columns behind the verb of a connection: who, and both ends (IPv4 and a port of two digits).
const WIDTHS: [usize; 2] = [12, 39];

/// Pads the columns of a connection's line so that those of several lines stand below each other.
fn aligned(message: &str) -> Cow<'_, str> {
    let verbs = ["open   ", "change ", "close  "];
    let Some(verb) = verbs.into_iter().find(|verb| message.starts_with(verb)) else { return message.into() };
    let mut columns = message.get(verb.len()..).unwrap_or_default().splitn(3, "  ");
    let (Some(who), Some(ends), Some(rest)) = (columns.next(), columns.next(), columns.next()) else {
        return message.into();
    };
    let [who_width, ends_width] = WIDTHS;
    format!("{verb}{who:<who_width$}  {ends:<ends_width$}  {rest}").into()
}

/// Writes untrusted bytes as printable ASCII from which they can be read back.
///
/// Control characters and whatever is not ASCII become `\u{hex}`, bytes that are no UTF-8 `\xNN`; a backslash before
/// `x` or `u` becomes `\x5c`, so that no name can pass itself off as an escape and different bytes stay different.
#[must_use]
pub fn escape(untrusted: &[u8]) -> String {
    let mut text = String::with_capacity(untrusted.len());
    for chunk in untrusted.utf8_chunks() {
        // A chunk ends where an invalid byte follows, which begins with a backslash of its own, never with x or u.
        let mut chars = chunk.valid().chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if matches!(chars.peek(), Some('x' | 'u')) => text.push_str("\\x5c"),
                ' '..='~' => text.push(c),
                _ => push_escaped(&mut text, c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A text of ours that may quote others', for a terminal: one line of printable ASCII and our own marks.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_harmless) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmless(c) { line.push(c) } else { push_escaped(&mut line, c) }
    }
    line.into()
}

fn is_harmless(c: char) -> bool {
    matches!(c, ' '..='~') || MARKS.contains(&c)
}

fn push_escaped(text: &mut String, c: char) {
    let _ = write!(text, "\\u{{{:x}}}", u32::from(c));
}

fn push_time(line: &mut String, at: Timestamp, style: &Style) {
    let zone = if style.utc { &TimeZone::UTC } else { &style.zone };
    let local = zone.to_datetime(at);
    let (date, time) = (local.date(), local.time());
    let _ = write!(
        line,
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
        date.year(),
        date.month(),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    );
    if style.utc {
        line.push('Z');
    }
}

/// Cuts the UUID that is the last column, if one is.
fn shorten_id(line: &mut String) {
    let Some((_, id)) = line.rsplit_once("  ") else { return };
    if is_uuid(id) {
        line.truncate(line.len() - (ID_CHARS - SHORT_ID_CHARS));
        line.push('…');
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == ID_CHARS
        && text.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn color_verb(line: &mut String, start: usize) {
    let verb = line.get(start..).and_then(|message| message.split(' ').next()).unwrap_or("");
    let color = match verb {
        "open" => "\x1b[32m",
        "close" => "\x1b[36m",
        "change" => "\x1b[33m",
        "start" | "stop" => "\x1b[34m",
        "gap" | "repair" => "\x1b[31m",
        _ => return,
    };
    line.insert_str(start + verb.len(), "\x1b[0m");
    line.insert_str(start, color);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    const ID: &str = "01a1f932-100b-7e5f-8a6b-7c8d9e0f1a2b";

    fn utc() -> Style {
        Style { zone: TimeZone::UTC, utc: true, color: false, width: None }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The reading that `escape` promises to allow: its inverse, written from its documentation alone.
    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(hex) = rest.strip_prefix("\\x") {
                bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
                rest = &hex[2..];
            } else if let Some(code) = rest.strip_prefix("\\u{") {
                let (hex, after) = code.split_once('}').unwrap();
                let c = char::from_u32(u32::from_str_radix(hex, 16).unwrap()).unwrap();
                bytes.extend(c.to_string().bytes());
                rest = after;
            } else {
                bytes.push(u8::try_from(c).unwrap());
                rest = &rest[1..];
            }
        }
        bytes
    }

    #[test]
    fn escape_leaves_ordinary_text_alone_and_shows_the_rest() {
        for (bytes, text) in [
            (&b"ssh -p 22 git.example.net"[..], "ssh -p 22 git.example.net"),
            (b"C:\\dir\\file", "C:\\dir\\file"),
            (b"a\x1b[31m\r\n\x7f", "a\\u{1b}[31m\\u{d}\\u{a}\\u{7f}"),
            ("é\u{202e}\u{9b}→".as_bytes(), "\\u{e9}\\u{202e}\\u{9b}\\u{2192}"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"\\xff", "\\x5cxff"),
            (b"\\u{1b}", "\\x5cu{1b}"),
            (b"\\\\x", "\\\\x5cx"),
            (b"\\\xff", "\\\\xff"),
        ] {
            assert_eq!(escape(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn escape_is_ascii_and_can_be_read_back(bytes: Vec<u8>) {
            let text = escape(&bytes);
            prop_assert!(text.bytes().all(|b| matches!(b, b' '..=b'~')));
            prop_assert_eq!(unescape(&text), bytes);
        }

        // Near misses of our own notation, which random bytes would rarely hit.
        #[test]
        fn different_text_stays_different(a in "[\\\\xu{}15cf\u{1}é]{0,8}", b in "[\\\\xu{}15cf\u{1}é]{0,8}") {
            prop_assert_eq!(escape(a.as_bytes()) == escape(b.as_bytes()), a == b);
        }

        #[test]
        fn whatever_a_log_says_a_line_is_harmless(message in any::<String>(), width in 0_usize..80) {
            let style = Style { width: Some(width), ..utc() };
            prop_assert!(line(Timestamp::UNIX_EPOCH, &message, &style).chars().all(is_harmless));
        }

        #[test]
        fn what_escape_wrote_is_printed_unchanged(bytes: Vec<u8>) {
            let message = escape(&bytes);
            let printed = line(Timestamp::UNIX_EPOCH, &message, &utc());
            prop_assert_eq!(printed.strip_prefix("1970-01-01 00:00:00.000Z  "), Some(message.as_str()));
        }
    }

    #[test]
    fn the_time_is_local_with_milliseconds_or_utc_with_a_z() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let local = Style { zone: berlin, utc: false, ..utc() };
        let summer = at("2026-07-01T11:42:50.123999Z");
        assert_eq!(line(summer, "stop", &local), "2026-07-01 13:42:50.123  stop");
        assert_eq!(line(at("2026-11-20T12:42:50Z"), "stop", &local), "2026-11-20 13:42:50.000  stop");
        assert_eq!(line(summer, "stop", &Style { utc: true, ..local }), "2026-07-01 11:42:50.123Z  stop");
    }

    #[test]
    fn the_id_is_cut_only_where_the_line_is_too_wide() {
        let message = format!("open  alice@pts/3  192.0.2.10:51514 → 203.0.113.7:22  {ID}");
        let whole = line(Timestamp::UNIX_EPOCH, &message, &utc());
        let columns = whole.chars().count();
        let fits = Style { width: Some(columns), ..utc() };
        let narrow = Style { width: Some(columns - 1), ..utc() };
        assert_eq!(line(Timestamp::UNIX_EPOCH, &message, &fits), whole);
        let cut = line(Timestamp::UNIX_EPOCH, &message, &narrow);
        assert!(cut.ends_with("203.0.113.7:22  01a1f932-100b-7e5f…"), "{cut}");
        for other in ["gap  12 lost", "open  x  01a1f932-100b-7e5f-8a6b", "", ID] {
            let wide = Style { width: None, ..utc() };
            let zero = Style { width: Some(0), ..utc() };
            let expected = line(Timestamp::UNIX_EPOCH, other, &wide);
            if other == ID {
                assert!(line(Timestamp::UNIX_EPOCH, other, &zero).ends_with('…'));
            } else {
                assert_eq!(line(Timestamp::UNIX_EPOCH, other, &zero), expected);
            }
        }
    }

    #[test]
    fn only_the_verb_is_coloured_and_the_log_cannot_add_colour() {
        let style = Style { color: true, ..utc() };
        let colored = |message: &str| line(Timestamp::UNIX_EPOCH, message, &style);
        assert_eq!(colored("open   x"), "1970-01-01 00:00:00.000Z  \x1b[32mopen\x1b[0m   x");
        assert!(colored("close  x").contains("\x1b[36mclose\x1b[0m  x"));
        assert!(colored("change x").contains("\x1b[33mchange\x1b[0m x"));
        assert!(colored("stop").ends_with("\x1b[34mstop\x1b[0m"));
        assert!(colored("gap    x").contains("\x1b[31mgap\x1b[0m"));
        for plain in ["opened x", "", " open", "op\x1b[5men"] {
            assert!(!colored(plain).contains('\x1b'), "{plain:?}");
        }
    }

    #[test]
    fn durations_read_well() {
        for (seconds, wanted) in
            [(0.32, "320 ms"), (4.56, "4.5 s"), (723.0, "12m03s"), (10_800.0, "3h00m"), (187_200.0, "2d04h")]
        {
            assert_eq!(lasting(Duration::from_secs_f64(seconds)), wanted);
        }
    }
}
