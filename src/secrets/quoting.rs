//! Shell quoting, as far as needed to find words and quoted parts in text that may be shell text or not.
//!
//! A quote is a quote character with the backslashes before it: inside `"…"` it is `\"` that opens and closes the
//! next level. So text can be read as deep as it is nested without ever being unquoted, and stays where it is.

/// Splits `text` after the quote that it begins with.
pub(super) fn open(text: &[u8]) -> Option<(&[u8], &[u8])> {
    // Four backslashes are more than anyone types; without a bound, hostile text would cost the square of its length.
    let slashes = text.iter().take(4).take_while(|byte| **byte == b'\\').count();
    let quoted = matches!(text.get(slashes), Some(b'"' | b'\''));
    quoted.then(|| text.split_at(slashes + 1))
}

/// Splits the text behind an opened `quote` into what it encloses and what follows. `None`: it is never closed.
pub(super) fn close<'a>(text: &'a [u8], quote: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (character, slashes) = quote.split_last()?;
    let end = text.iter().enumerate().find_map(|(at, byte)| {
        let before = text.get(..at).filter(|_| byte == character)?;
        let run = before.iter().rev().take(4).take_while(|byte| **byte == b'\\').count();
        // In '…' a backslash is a backslash.
        let closes = run == slashes.len() || quote == b"'";
        closes.then(|| at.saturating_sub(slashes.len()))
    })?;
    let (inside, rest) = text.split_at(end);
    Some((inside, rest.get(quote.len()..).unwrap_or_default()))
}

/// The first quoted part of `text` and what follows it.
pub(super) fn next_quoted(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = text;
    loop {
        let at = rest.iter().position(|byte| matches!(byte, b'"' | b'\'' | b'\\'))?;
        let (_, from) = rest.split_at(at);
        rest = match open(from) {
            Some((quote, inside)) => match close(inside, quote) {
                Some(found) => return Some(found),
                None => inside,
            },
            None => from.get(escaped(from)..)?,
        };
    }
}

/// `text` without the quotes, if it is one quoted part and nothing else.
pub(super) fn unwrap(text: &[u8]) -> &[u8] {
    let whole = open(text).and_then(|(quote, inside)| close(inside, quote));
    whole.filter(|(_, rest)| rest.is_empty()).map_or(text, |(inside, _)| inside)
}

/// The words of shell text, quotes and all. A separator is a word of its own.
pub(super) fn words(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let start = text.iter().position(|byte| !is_blank(*byte))?;
        let (_, from) = text.split_at(start);
        let (word, rest) = from.split_at(word_len(from, is_end).max(1));
        text = rest;
        Some(word)
    })
}

/// Length of the word that `text` begins with: up to the first `end` that is neither quoted nor escaped.
pub(super) fn word_len(text: &[u8], end: fn(u8) -> bool) -> usize {
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        rest = match open(rest) {
            // An apostrophe is never closed: it stands for itself.
            Some((quote, inside)) => close(inside, quote).map_or(inside, |(_, after)| after),
            None if *first == b'\\' => rest.get(escaped(rest)..).unwrap_or_default(),
            None if end(*first) => break,
            None => others,
        };
    }
    text.len() - rest.len()
}

/// Length of the backslashes that `text` begins with and the byte that they escape.
fn escaped(text: &[u8]) -> usize {
    text.iter().take_while(|byte| **byte == b'\\').count() + 1
}

/// What ends a word of shell text.
pub(super) fn is_end(byte: u8) -> bool {
    is_blank(byte) || is_separator(byte)
}

/// Whether `word` ends a command: `;`, `&&`.
pub(super) fn is_separation(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|byte| is_separator(*byte))
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b';' | b'|' | b'&' | b'\n')
}

/// White space; a new line is not among it, it separates.
fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() && byte != b'\n'
}

/// Whether `text` could be more than one word.
pub(super) fn has_space(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_whitespace)
}
