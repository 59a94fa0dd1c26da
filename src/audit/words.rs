//! The words of a record: `name=value`, where a value that its process chose is quoted, or hexadecimal if a quote could
//! not hold it.

use std::str::FromStr;

/// The fields of one record. The first of a name counts: what follows may be another's words.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn of(record: &'a [u8]) -> Self {
        Self(record)
    }

    /// As it stands there, quotes and all.
    pub(super) fn get(&self, name: &str) -> Option<&'a [u8]> {
        let words = self.0.split(|byte| matches!(byte, b' ' | 0));
        words.filter_map(|word| word.strip_prefix(name.as_bytes())).find_map(|rest| rest.strip_prefix(b"="))
    }
}

/// A number in decimal.
pub(super) fn number<T: FromStr>(text: &[u8]) -> Option<T> {
    text.first().filter(|first| first.is_ascii_digit())?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A value that the process chose. `None`: `(null)`, `(none)`, or neither of the two forms.
pub(super) fn text(value: &[u8]) -> Option<Vec<u8>> {
    match value.strip_prefix(b"\"") {
        Some(quoted) => quoted.strip_suffix(b"\"").map(<[u8]>::to_vec),
        None => hexadecimal(value),
    }
}

/// Pairs of hexadecimal digits.
pub(super) fn hexadecimal(value: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = value.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Arguments end with a zero byte each; the kernel leaves out the last one's.
pub(super) fn arguments(title: &[u8]) -> Vec<Vec<u8>> {
    let title = title.strip_suffix(b"\0").unwrap_or(title);
    title.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}
