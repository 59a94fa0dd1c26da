//! Secrets that show by themselves: a name with its value, a URL with a password, a token.
//!
//! Knows nothing of programs and their options.

use super::rules::{ENDINGS, FLAGS, HEADERS, NAMES, TOKENS};
use super::{Marks, quoting};

/// How an argument is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// As one value: `PASSWORD=a b` holds the password `a b`.
    Argument,
    /// As shell text: `PASSWORD=a b` runs `b`.
    Script,
}

/// Marks whatever in `arg` looks like a secret; `extra` are the user's names.
pub(super) fn find(arg: &[u8], reading: Reading, extra: &[String], marks: &mut Marks) {
    find_pairs(arg, reading, extra, marks);
    find_urls(arg, marks);
    find_tokens(arg, marks);
}

/// Whether the option called `name` takes a secret as its next argument.
pub(super) fn takes_secret(name: &[u8], extra: &[String]) -> bool {
    let name = without_dashes(name);
    let begins = |flag: &&str| name.get(..flag.len()).is_some_and(|start| same(start, flag));
    is_secret_name(name, extra) && !FLAGS.iter().any(begins)
}

/// The password of `user:password@host`, and what follows the `@`.
pub(super) fn split_password(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = |byte: &u8| matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'') || byte.is_ascii_whitespace();
    let (authority, _) = text.split_at(text.iter().position(end).unwrap_or(text.len()));
    let at = authority.iter().rposition(|byte| *byte == b'@').or_else(|| {
        // Nobody escapes the "/" in a password as a URL wants it. What follows ":" is no port if it is no number.
        let port = split_once(authority, b':').filter(|_| !authority.starts_with(b"["))?.1;
        let password = port.iter().any(|byte| !byte.is_ascii_digit());
        // Bounded, or many such URLs in a row would cost the square of their length.
        let reach = text.get(..256).unwrap_or(text);
        let reach = reach.split(u8::is_ascii_whitespace).next().filter(|_| password)?;
        reach.iter().rposition(|byte| *byte == b'@')
    })?;
    let (login, rest) = text.split_at(at);
    Some((split_once(login, b':').map_or(&[], |(_, password)| password), rest))
}

fn find_urls(text: &[u8], marks: &mut Marks) {
    let mut rest = text;
    while let Some(at) = rest.windows(3).position(|three| three == b"://") {
        rest = rest.get(at + 3..).unwrap_or_default();
        if let Some((password, after)) = split_password(rest) {
            marks.add(password);
            rest = after;
        }
    }
}

fn find_tokens(text: &[u8], marks: &mut Marks) {
    for run in text.split(|byte| !is_name_byte(*byte)) {
        let known = |(start, len): &(&str, usize)| run.len() >= *len && run.starts_with(start.as_bytes());
        // Header and claims of a JSON web token both begin with `{"`.
        let jwt = || run.starts_with(b"eyJ") && run.windows(4).any(|four| four == b".eyJ");
        if run.len() >= 20 && (TOKENS.iter().any(known) || jwt()) {
            marks.add(run);
        }
    }
}

/// Marks the values of secret names: `NAME=VALUE`, `Name: value`, `"name":"value"`, wherever they stand.
fn find_pairs(text: &[u8], reading: Reading, extra: &[String], marks: &mut Marks) {
    let mut frame = match reading {
        Reading::Argument => Frame::Argument,
        Reading::Script => Frame::Command,
    };
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'=' | b':')) {
        let (left, right) = rest.split_at(at);
        let (separator, after) = right.split_at(1);
        rest = after;
        let colon = separator == b":";
        let key = Key::at_end_of(if colon { left.trim_ascii_end() } else { left });
        frame = frame.after(key.lead, reading);
        let value = if colon { after.trim_ascii_start() } else { after };
        let header = colon && is_header(key.name);
        // Without a blank or a quote, a colon may as well stand in `scp token:file .` or `https://token:8080`.
        let parted = !colon || key.quoted || value.len() < after.len() || quoting::open(value).is_some();
        // `Uid=…;Pwd=…` is a password, a PWD that stands alone is a folder.
        let pwd = key.list_end().is_some() && same(key.name, "pwd");
        if header || (parted && (pwd || is_secret_name(key.name, extra))) {
            let (secret, others) = value.split_at(frame.value_len(value, &key, header));
            marks.add(secret);
            rest = others;
        }
    }
}

/// The name of a pair.
struct Key<'a> {
    /// What stands before the name, without its opening quote.
    lead: &'a [u8],
    name: &'a [u8],
    quoted: bool,
}

impl Key<'_> {
    fn at_end_of(text: &[u8]) -> Key<'_> {
        // A field of a form: `user[password]=…`.
        let text = text.strip_suffix(b"]").unwrap_or(text);
        let (text, quote) = split_quote_at_end(text);
        let start = text.iter().rposition(|byte| !is_name_byte(*byte)).map_or(0, |at| at + 1);
        let (lead, name) = text.split_at(start);
        let unquoted = lead.strip_suffix(quote).filter(|_| !quote.is_empty());
        Key { lead: unquoted.unwrap_or(lead), name, quoted: unquoted.is_some() }
    }

    /// What ends the value, where the pair stands in a list.
    fn list_end(&self) -> Option<u8> {
        match self.lead.last()? {
            b',' | b'{' => Some(b','),
            b';' => Some(b';'),
            b'?' | b'&' => Some(b'&'),
            _ => None,
        }
    }
}

/// What holds a pair, and so how far its value reaches.
#[derive(Clone, Copy)]
enum Frame<'a> {
    /// The whole argument.
    Argument,
    /// The text in these quotes.
    Quotes(&'a [u8]),
    /// One of several words in an argument.
    Word,
    /// A word of shell text.
    Command,
}

impl<'a> Frame<'a> {
    /// The frame of a name that has `lead` before it.
    fn after(self, lead: &'a [u8], reading: Reading) -> Frame<'a> {
        let Some(at) = lead.iter().rposition(|byte| is_quote(*byte) || byte.is_ascii_whitespace()) else {
            return self;
        };
        let (_, quote) = split_quote_at_end(lead.get(..=at).unwrap_or_default());
        match (quote, reading) {
            ([], Reading::Argument) => Frame::Word,
            ([], Reading::Script) => Frame::Command,
            (quote, _) => Frame::Quotes(quote),
        }
    }

    fn value_len(self, value: &[u8], key: &Key, header: bool) -> usize {
        let quoted = quoting::open(value).and_then(|(quote, inside)| quoting::close(inside, quote));
        if let Some((_, after)) = quoted.filter(|(_, after)| self.ends_before(after, key)) {
            return value.len() - after.len();
        }
        let listed = key.list_end().and_then(|end| value.split(|byte| *byte == end).next());
        let value = listed.unwrap_or(value);
        match self {
            Frame::Argument => value.len(),
            Frame::Quotes(quote) => {
                quoting::close(value, quote).map_or(value.len(), |(inside, _)| inside.len())
            }
            // `Authorization: Bearer …` is more than one word.
            _ if header => value.iter().position(|byte| is_quote(*byte)).unwrap_or(value.len()),
            Frame::Word => quoting::word_len(value, |byte| byte.is_ascii_whitespace()),
            Frame::Command => quoting::word_len(value, quoting::is_end),
        }
    }

    /// Whether a quoted value ends before `after`; in `PASSWORD='a'b` and `PASSWORD='a'"b"` it does not.
    fn ends_before(self, after: &[u8], key: &Key) -> bool {
        let Some(byte) = after.first() else { return true };
        let listed =
            matches!(byte, b',' | b';' | b'&' | b'}' | b']') && (key.quoted || key.list_end().is_some());
        listed
            || match self {
                Frame::Argument => false,
                Frame::Quotes(quote) => byte.is_ascii_whitespace() || after.starts_with(quote),
                Frame::Word | Frame::Command => quoting::is_end(*byte),
            }
    }
}

fn is_secret_name(name: &[u8], extra: &[String]) -> bool {
    let name = without_dashes(name);
    let ends = |ending: &&str| name.len().checked_sub(ending.len()).and_then(|at| name.get(at..));
    ENDINGS.iter().any(|ending| ends(ending).is_some_and(|end| same(end, ending)))
        || NAMES.iter().any(|known| same(name, known))
        || extra.iter().any(|known| same(name, known))
}

fn is_header(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"-H").unwrap_or(name);
    HEADERS.iter().any(|known| same(name, known))
}

fn without_dashes(name: &[u8]) -> &[u8] {
    name.get(name.iter().take_while(|byte| **byte == b'-').count()..).unwrap_or_default()
}

/// Whether two names are the same but for case and the choice of `-`, `_` or `.`.
fn same(name: &[u8], known: &str) -> bool {
    fn fold(byte: &u8) -> u8 {
        if matches!(byte, b'_' | b'.') { b'-' } else { byte.to_ascii_lowercase() }
    }
    name.len() == known.len() && name.iter().zip(known.as_bytes()).all(|(a, b)| fold(a) == fold(b))
}

/// Splits off the quote, with its backslashes, that `text` ends with; empty if there is none.
fn split_quote_at_end(text: &[u8]) -> (&[u8], &[u8]) {
    let Some((_, before)) = text.split_last().filter(|(last, _)| is_quote(**last)) else {
        return (text, &[]);
    };
    let slashes = before.iter().rev().take(3).take_while(|byte| **byte == b'\\').count();
    text.split_at(before.len() - slashes)
}

fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (left, right) = text.split_at(text.iter().position(|byte| *byte == at)?);
    Some((left, right.get(1..)?))
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'')
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}
