//! A record's place: its number and the chain that ties it to all before it.
//!
//! Pure. `chain` is the SHA-256 of the previous chain, as 64 hex digits, and the line from `{` up to `,"chain":`.
//! A place is used up only when the line was written: `seal`, write, `commit`.

use sha2::{Digest, Sha256};

/// What the first record of a stream ties to.
pub const GENESIS: [u8; 64] = [b'0'; 64];

/// Where a stream is.
#[derive(Debug, Clone)]
pub struct Stream {
    sequence: u64,
    chain: [u8; 64],
}

/// A line at its place, not yet written.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// With its line end.
    pub line: Vec<u8>,
    sequence: u64,
    chain: [u8; 64],
}

impl Default for Stream {
    fn default() -> Self {
        Self { sequence: 0, chain: GENESIS }
    }
}

impl Stream {
    /// Goes on behind a record.
    #[must_use]
    pub fn resume(sequence: u64, chain: [u8; 64]) -> Self {
        Self { sequence, chain }
    }

    /// Number and chain of the last record.
    #[must_use]
    pub fn place(&self) -> (u64, [u8; 64]) {
        (self.sequence, self.chain)
    }

    /// Gives a body the next place. `body` ends where `event.sequence` belongs.
    #[must_use]
    pub fn seal(&self, body: &[u8]) -> Sealed {
        let sequence = self.sequence + 1;
        let mut line = Vec::with_capacity(body.len() + 128);
        line.extend_from_slice(body);
        line.extend_from_slice(format!(",\"sequence\":{sequence}}}").as_bytes());
        let chain = chain(&self.chain, &line);
        line.extend_from_slice(b",\"chain\":\"");
        line.extend_from_slice(&chain);
        line.extend_from_slice(b"\"}\n");
        Sealed { line, sequence, chain }
    }

    /// The line has been written.
    pub fn commit(&mut self, sealed: &Sealed) {
        (self.sequence, self.chain) = (sealed.sequence, sealed.chain);
    }
}

/// What ties a line, up to where its chain begins, to the one before.
#[must_use]
pub fn chain(previous: &[u8; 64], line: &[u8]) -> [u8; 64] {
    hex(&Sha256::new().chain_update(previous).chain_update(line).finalize())
}

fn hex(bytes: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 64];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_chained() {
        let mut stream = Stream::default();
        let body = br#"{"event":{"action":"gap""#;
        let first = stream.seal(body);
        let unhashed = br#"{"event":{"action":"gap","sequence":1}"#;
        assert!(first.line.starts_with(unhashed));
        let chain = hex(&Sha256::new().chain_update(GENESIS).chain_update(unhashed).finalize());
        assert!(first.line.ends_with(&[b",\"chain\":\"", &chain[..], b"\"}\n"].concat()));
        let parsed: serde_json::Value = serde_json::from_slice(&first.line).unwrap();
        assert_eq!(parsed["event"]["sequence"], 1);

        assert_eq!(stream.seal(body).line, first.line, "a line that was not written leaves no hole");
        stream.commit(&first);
        let second: serde_json::Value = serde_json::from_slice(&stream.seal(body).line).unwrap();
        assert_eq!(second["event"]["sequence"], 2);
        assert_ne!(second["chain"], parsed["chain"]);
    }
}
