//! One line of ssh_config, as `-o` takes it: `Key=value`, `Key value`, `Key = "value"`.
//!
//! Knows no key. Source: strdelim() and argv_split() of misc.c, process_config_line_depth() of readconf.c.

use super::destination::split_first;

/// The key in lower case, and what stands behind it. `None`: there is no key, or nothing behind it.
pub(super) fn split(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let line = line.trim_ascii();
    let (key, rest) = match line.strip_prefix(b"\"") {
        Some(quoted) => split_first(quoted, b'"')?,
        None => {
            let end = line.iter().position(|byte| is_blank(*byte) || matches!(byte, b'=' | b'"'))?;
            line.split_at(end)
        }
    };
    let rest = rest.trim_ascii_start();
    let value = rest.strip_prefix(b"=").unwrap_or(rest).trim_ascii_start();
    (!key.is_empty() && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

/// The words of a value: blanks part them, quotes hold them together, a backslash stands before a quote, a blank or
/// itself. A quote that is not closed ends with the line.
pub(super) fn words(value: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = value.trim_ascii_start();
    while !rest.is_empty() && !rest.starts_with(b"#") {
        let (word, behind) = first_word(rest);
        words.push(word);
        rest = behind.trim_ascii_start();
    }
    words
}

fn first_word(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let (mut word, mut quote, mut rest) = (Vec::new(), None, text);
    while let Some((byte, others)) = rest.split_first() {
        rest = others;
        match (byte, quote) {
            (b'\\', _) => {
                let next = others.first().filter(|next| {
                    matches!(next, b'\\' | b'"' | b'\'') || (**next == b' ' && quote.is_none())
                });
                word.push(*next.unwrap_or(byte));
                if next.is_some() {
                    rest = others.get(1..).unwrap_or_default();
                }
            }
            (byte, None) if is_blank(*byte) => break,
            (b'"' | b'\'', None) => quote = Some(*byte),
            (byte, Some(open)) if *byte == open => quote = None,
            (byte, _) => word.push(*byte),
        }
    }
    (word, rest)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'\x0c')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_key_and_words() {
        let cases: [(&str, &str, &[&str]); 9] = [
            ("Port=22", "port", &["22"]),
            ("Port 22", "port", &["22"]),
            ("  PORT = 22 ", "port", &["22"]),
            ("port==22", "port", &["=22"]),
            ("User=\"a b\"", "user", &["a b"]),
            ("LocalForward 8080 'web 1':80", "localforward", &["8080", "web 1:80"]),
            ("User=a\\ b # c", "user", &["a b"]),
            ("\"Port\" 22", "port", &["22"]),
            ("User=\"a", "user", &["a"]),
        ];
        for (line, key, wanted) in cases {
            let (found, value) = split(line.as_bytes()).unwrap();
            let wanted: Vec<_> = wanted.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!((found, words(value)), (key.as_bytes().to_vec(), wanted), "{line}");
        }
        for line in ["", "Port", "Port=", "=22", " = ", "\"Port"] {
            assert_eq!(split(line.as_bytes()), None, "{line}");
        }
    }
}
