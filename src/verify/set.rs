//! A set of fields, one bit each.
//! Knows how many there are, not what they hold.

use super::fields::FIELDS;

/// How many fields there are.
pub const COUNT: usize = FIELDS.len();

/// A set of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set([u64; COUNT.div_ceil(64)]);

impl Set {
    /// Puts a field in.
    #[inline]
    pub fn insert(&mut self, field: usize) {
        if let Some(word) = self.0.get_mut(field / 64) {
            *word |= 1 << (field % 64);
        }
    }

    /// True if the field is in it.
    #[inline]
    pub fn has(&self, field: usize) -> bool {
        self.0.get(field / 64).is_some_and(|word| word >> (field % 64) & 1 == 1)
    }

    /// The first field that is in this set and not in the other.
    #[inline]
    pub fn beyond(&self, other: &Self) -> Option<usize> {
        let words = self.0.iter().zip(&other.0).map(|(ours, theirs)| ours & !theirs).enumerate();
        let mut found = words.filter(|(_, word)| *word != 0);
        found.next().map(|(index, word)| index * 64 + usize::try_from(word.trailing_zeros()).unwrap_or(0))
    }

    /// Puts all of the other in.
    pub fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(ours, theirs)| *ours |= theirs);
    }

    /// Takes a field out.
    pub fn remove(&mut self, field: usize) {
        if let Some(word) = self.0.get_mut(field / 64) {
            *word &= !(1 << (field % 64));
        }
    }
}
