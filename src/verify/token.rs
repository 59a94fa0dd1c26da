//! Keys of a record as words of eight bytes, which are compared at one go.
//! Knows nothing of what a key means.

/// A key as the writer writes it, in words of eight bytes: a call of memcmp costs more than most keys are long.
#[derive(Debug)]
pub struct Token {
    words: [u64; WORDS],
    masks: [u64; WORDS],
    /// Its length in bytes.
    pub length: usize,
}

/// No key is longer than four words.
pub const WORDS: usize = 4;

impl Token {
    /// Of a member's name.
    pub fn new(name: &str) -> Self {
        let text = format!("\"{name}\":");
        let (mut words, mut masks) = ([0; WORDS], [0; WORDS]);
        for (part, (word, mask)) in text.as_bytes().chunks(8).zip(words.iter_mut().zip(&mut masks)) {
            *word = word_of(part);
            *mask = word_of(&part.iter().map(|_| 0xff).collect::<Vec<_>>());
        }
        Self { words, masks, length: text.len() }
    }

    /// True if these bytes, of which the first four words are given, begin with it.
    #[inline]
    pub fn begins(&self, next: &[u64; WORDS]) -> bool {
        let pairs = self.words.iter().zip(&self.masks).zip(next);
        pairs.fold(0, |other, ((word, mask), next)| other | (next & mask) ^ word) == 0
    }
}

/// The first four words of these bytes; where there are fewer, zeros, which no key holds.
#[inline]
pub fn words_of(bytes: &[u8]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    if let Some(bytes) = bytes.first_chunk::<{ 8 * WORDS }>() {
        for (word, part) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*part);
        }
    } else {
        words.iter_mut().zip(bytes.chunks(8)).for_each(|(word, part)| *word = word_of(part));
    }
    words
}

/// At most eight bytes, the first of which is the least.
fn word_of(part: &[u8]) -> u64 {
    part.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}
