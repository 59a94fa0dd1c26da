//! Shell patterns for the names of programs: `*`, `?`, `[a-z]`, `[!a-z]`, `\` before a character that stands for itself.
//! Knows nothing of files: it compares bytes, because a path is bytes and need not be UTF-8.
//! Meaning: POSIX.1-2024 XCU 2.14 without the rule for slashes and leading dots, so that `/opt/*` covers all below it.

use std::str::FromStr;

/// A parsed pattern. `*` and `?` match any byte, a slash too; `?` and `[…]` stand for one byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    pieces: Vec<Piece>,
    has_slash: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Byte(u8),
    AnyByte,
    AnyBytes,
    OneOf { ranges: Vec<(u8, u8)>, negated: bool },
}

impl Piece {
    fn accepts(&self, byte: u8) -> bool {
        match self {
            Piece::Byte(wanted) => *wanted == byte,
            Piece::AnyByte => true,
            Piece::AnyBytes => false,
            Piece::OneOf { ranges, negated } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
            }
        }
    }
}

impl Glob {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Says what is wrong: an empty pattern, a `[` that is not closed, a range that runs backwards, a last `\`.
    pub fn parse(pattern: &[u8]) -> Result<Glob, String> {
        if pattern.is_empty() {
            return Err("an empty pattern matches nothing".to_owned());
        }
        let mut pieces = Vec::new();
        let mut rest = pattern;
        while let Some((first, after)) = rest.split_first() {
            let (piece, left) = match first {
                b'*' => (Piece::AnyBytes, after),
                b'?' => (Piece::AnyByte, after),
                b'[' => parse_set(after)?,
                _ => {
                    let (byte, left) = parse_byte(rest)?;
                    (Piece::Byte(byte), left)
                }
            };
            pieces.push(piece);
            rest = left;
        }
        Ok(Glob { pieces, has_slash: pattern.contains(&b'/') })
    }

    /// Whether the whole of `text` matches.
    ///
    /// On a mismatch only the last `*` takes one byte more, so the cost is at most text × pattern, never exponential.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        let (mut pieces, mut rest) = (self.pieces.as_slice(), text);
        let mut last_star = None;
        loop {
            match (pieces.split_first(), rest.split_first()) {
                (Some((Piece::AnyBytes, after)), _) => {
                    last_star = Some((after, rest));
                    pieces = after;
                }
                (Some((piece, after)), Some((byte, left))) if piece.accepts(*byte) => {
                    (pieces, rest) = (after, left);
                }
                (None, None) => return true,
                _ => {
                    let Some((after, [_, shorter @ ..])) = last_star else { return false };
                    last_star = Some((after, shorter));
                    (pieces, rest) = (after, shorter);
                }
            }
        }
    }

    /// Whether a path matches: as a whole if the pattern holds a slash, else by its last component.
    #[must_use]
    pub fn matches_path(&self, path: &[u8]) -> bool {
        let name = if self.has_slash { None } else { path.rsplit(|byte| *byte == b'/').next() };
        self.matches(name.unwrap_or(path))
    }
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(pattern: &str) -> Result<Glob, String> {
        Glob::parse(pattern.as_bytes())
    }
}

/// One literal byte, with its backslash taken off.
fn parse_byte(text: &[u8]) -> Result<(u8, &[u8]), String> {
    match text {
        [b'\\', byte, rest @ ..] => Ok((*byte, rest)),
        [b'\\'] => Err("nothing follows the last \\".to_owned()),
        [byte, rest @ ..] => Ok((*byte, rest)),
        [] => Err("a [ is not closed".to_owned()),
    }
}

/// The set whose `[` has just been read. A `]` that comes first stands for itself, as in the shell.
fn parse_set(text: &[u8]) -> Result<(Piece, &[u8]), String> {
    let (negated, mut rest) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        if let ([b']', after @ ..], false) = (rest, ranges.is_empty()) {
            return Ok((Piece::OneOf { ranges, negated }, after));
        }
        let (low, after) = parse_byte(rest)?;
        let (high, after) = match after {
            [b'-', upper @ ..] if !upper.starts_with(b"]") => parse_byte(upper)?,
            _ => (low, after),
        };
        if high < low {
            return Err("a range in [ ] runs backwards".to_owned());
        }
        ranges.push((low, high));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert_eq, proptest};

    fn glob(pattern: &str) -> Glob {
        pattern.parse().unwrap()
    }

    #[test]
    fn patterns_match_as_in_the_shell() {
        for (pattern, text, expected) in [
            ("ssh", "ssh", true),
            ("ssh", "sshd", false),
            ("ssh*", "sshd", true),
            ("*", "", true),
            ("?", "", false),
            ("?sh", "ssh", true),
            ("*a*b", "xaxxab", true),
            ("*a*b", "xaxxabc", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]x]", "]", true),
            ("[!]x]", "]", false),
            ("[a-]", "-", true),
            ("[a\\]b]", "]", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("/opt/*", "/opt/a/b", true),
        ] {
            assert_eq!(glob(pattern).matches(text.as_bytes()), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_pattern_without_a_slash_means_the_last_component() {
        assert!(glob("ssh*").matches_path(b"/usr/bin/ssh"));
        assert!(glob("ssh").matches_path(b"ssh"));
        assert!(!glob("bin").matches_path(b"/usr/bin/ssh"));
        assert!(glob("/usr/*/ssh").matches_path(b"/usr/bin/ssh"));
        assert!(!glob("bin/ssh").matches_path(b"/usr/bin/ssh"));
        assert!(glob("*").matches_path(b"/tmp/\xff"));
    }

    #[test]
    fn bad_patterns_say_why() {
        for bad in ["", "[", "[]", "[a", "[a-", "[!", "[z-a]", "x\\", "[\\"] {
            assert!(bad.parse::<Glob>().is_err(), "{bad}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = glob(&"*a".repeat(50));
        assert!(!pattern.matches(&[b'a'; 49]));
        assert!(!pattern.matches(&[&[b'a'; 4000][..], b"b"].concat()));
    }

    /// What the pieces mean, with no thought for cost.
    fn naive(pieces: &[Piece], text: &[u8]) -> bool {
        match pieces.split_first() {
            None => text.is_empty(),
            Some((Piece::AnyBytes, after)) => {
                (0..=text.len()).any(|taken| naive(after, text.split_at(taken).1))
            }
            Some((piece, after)) => {
                text.split_first().is_some_and(|(byte, rest)| piece.accepts(*byte) && naive(after, rest))
            }
        }
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_a_naive_one(pattern in "([ab/?*]|\\[!?[ab]-?[bc]?\\]){1,8}", text in "[abc/]{0,10}") {
            if let Ok(glob) = pattern.parse::<Glob>() {
                prop_assert_eq!(glob.matches(text.as_bytes()), naive(&glob.pieces, text.as_bytes()));
            }
        }

        #[test]
        fn no_pattern_makes_the_parser_or_the_matcher_fall_over(pattern: Vec<u8>, text: Vec<u8>) {
            if let Ok(glob) = Glob::parse(&pattern) {
                prop_assert_eq!(glob.matches(&text), naive(&glob.pieces, &text));
            }
        }
    }
}
