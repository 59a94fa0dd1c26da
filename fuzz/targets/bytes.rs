//! Values out of a fuzzer's bytes: when these are used up, zeros.

/// What is left of them.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most so many.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A text of a length that the bytes tell: short, or long enough to strain a record.
    pub fn text(&mut self) -> Vec<u8> {
        let length = match self.u8() {
            short @ 0..=200 => usize::from(short),
            _ => usize::from(self.u16() % 5_000),
        };
        let text = self.take(length);
        // Few bytes make a long text too.
        text.iter().copied().cycle().take(if text.is_empty() { 0 } else { length }).collect()
    }

    pub fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.bool().then(|| value(self))
    }

    pub fn list<T>(&mut self, most: u8, mut value: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..u16::from(self.u8()) % (u16::from(most) + 1)).map(|_| value(self)).collect()
    }
}
