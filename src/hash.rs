//! SHA-256 of executables, each file read once.
//!
//! One file at a time is read, elsewhere (`proc`), and waited for no longer than a few milliseconds: what comes later is
//! told later. Remembered by device, inode, times and size. What cannot be had has a reason. Names no process.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::proc::{Content, Executable, Held, Proc, Reading, Unread};
use crate::process::{FileId, Hash, HashReason};

/// Larger files are not read.
pub const LARGEST: u64 = 256 << 20;
/// So long is the first hash of a file waited for, where nothing else is read meanwhile.
pub const WAIT: Duration = Duration::from_millis(5);
/// And so long at most until it is given up.
const LAST: Duration = Duration::from_secs(30);
/// As many are remembered, and as many wait for their turn.
const MOST_KNOWN: usize = 1_024;
const MOST_WAITING: usize = 64;
/// Whoever was busy for longer than this rests three times as long: a quarter of a processor at most.
const RESTS_AFTER: Duration = Duration::from_millis(50);
const REST: u32 = 3;

/// Hashes of executables.
#[derive(Debug, Default)]
pub struct Hasher {
    /// So long is a hash waited for. `None`: hashing is off.
    wait: Option<Duration>,
    known: HashMap<FileId, Hash>,
    /// In the order in which they were learned.
    order: VecDeque<FileId>,
    /// Whose turn will come.
    waiting: VecDeque<(FileId, Unread)>,
    /// The one that is read, and since when.
    reading: Option<(FileId, Reading<Sha256>, Option<Duration>)>,
    /// Hashes that came late.
    late: Vec<(FileId, Hash)>,
    /// After what was long nothing more is read for so long, ...
    owes: Duration,
    /// ... which is until then.
    rests_until: Duration,
}

impl Hasher {
    /// One that waits so long for a hash; the default one is off.
    #[must_use]
    pub fn new(wait: Duration) -> Self {
        Self { wait: Some(wait), ..Self::default() }
    }

    /// What is known of a process's executable: 4 µs. `None`: hashing is off. `Hash::Pending`: see `wait_for` and `take`.
    pub fn ask(&mut self, proc: &Proc, held: &Held) -> Option<Hash> {
        self.wait?;
        Some(match proc.executable_of(held) {
            Ok(executable) => self.ask_for(proc, held, executable),
            Err(error) if error.is_gone() => Hash::Unknown(HashReason::Vanished),
            Err(_) => Hash::Unknown(HashReason::Denied),
        })
    }

    /// What is told of a process that is gone.
    #[must_use]
    pub fn of_the_gone(&self) -> Option<Hash> {
        self.wait.map(|_| Hash::Unknown(HashReason::Vanished))
    }

    fn ask_for(&mut self, proc: &Proc, held: &Held, executable: Executable) -> Hash {
        let id = executable.id;
        if let Some(known) = self.known.get(&id) {
            return *known;
        }
        let is_asked = self.reading.as_ref().is_some_and(|(of, ..)| *of == id)
            || self.waiting.iter().any(|(of, _)| *of == id);
        if is_asked {
            return Hash::Pending(id);
        }
        if id.size > LARGEST {
            return Hash::Unknown(HashReason::TooLarge);
        }
        if self.waiting.len() >= MOST_WAITING {
            return Hash::Unknown(HashReason::Busy);
        }
        self.waiting.push_back((id, proc.to_be_read(held, executable)));
        if self.owes.is_zero() && self.rests_until.is_zero() {
            self.begin_next(proc);
        }
        Hash::Pending(id)
    }

    /// The same, a little later: waits for it if it is the one that is read.
    pub fn wait_for(&mut self, proc: &Proc, hash: Hash) -> Hash {
        let Hash::Pending(id) = hash else { return hash };
        if self.reading.as_ref().is_some_and(|(of, ..)| *of == id) {
            self.look(proc, self.wait.unwrap_or_default());
        }
        self.late.iter().find(|(of, _)| *of == id).map_or(hash, |(_, came)| *came)
    }

    /// Hashes that have come since they were asked for, also those that `wait_for` has answered. `at`: time since boot.
    pub fn take(&mut self, proc: &Proc, at: Duration) -> Vec<(FileId, Hash)> {
        if self.is_idle() {
            return Vec::new();
        }
        self.look(proc, Duration::ZERO);
        if !self.owes.is_zero() {
            self.rests_until = at + std::mem::take(&mut self.owes);
        }
        if at >= self.rests_until {
            self.rests_until = Duration::ZERO;
            self.begin_next(proc);
        }
        if let Some((id, reading, since)) = self.reading.take() {
            let since = since.unwrap_or(at);
            if at.saturating_sub(since) > LAST {
                proc.give_up_reading(reading);
                self.learn(id, Hash::Unknown(HashReason::Timeout));
            } else {
                self.reading = Some((id, reading, Some(since)));
            }
        }
        std::mem::take(&mut self.late)
    }

    fn is_idle(&self) -> bool {
        self.reading.is_none() && self.waiting.is_empty() && self.late.is_empty() && self.owes.is_zero()
    }

    fn begin_next(&mut self, proc: &Proc) {
        while self.reading.is_none()
            && let Some((id, unread)) = self.waiting.pop_front()
        {
            match proc.begin_reading(unread, |hash: &mut Sha256, piece| hash.update(piece)) {
                Ok(reading) => self.reading = Some((id, reading, None)),
                Err(errno) => self.learn(id, Hash::Unknown(why(errno))),
            }
        }
    }

    fn look(&mut self, proc: &Proc, wait: Duration) {
        let Some((id, reading, since)) = self.reading.take() else { return };
        let (read, spent) = match proc.look_at_reading(reading, wait) {
            Ok(read) => read,
            Err(reading) => return self.reading = Some((id, reading, since)),
        };
        if spent > RESTS_AFTER {
            self.owes = spent * REST;
        }
        match read {
            Ok(Content { made, is_settled, is_kernels_own }) => {
                let hash =
                    Hash::Sha256 { digest: made.finalize().into(), is_proven: is_settled && is_kernels_own };
                if is_settled {
                    self.remember(id, hash);
                }
                self.learn(id, hash);
            }
            Err(errno) => self.learn(id, Hash::Unknown(why(errno))),
        }
    }

    fn learn(&mut self, id: FileId, hash: Hash) {
        self.late.push((id, hash));
    }

    fn remember(&mut self, id: FileId, hash: Hash) {
        if self.known.insert(id, hash).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > MOST_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn why(errno: Errno) -> HashReason {
    match errno {
        Errno::ACCESS | Errno::PERM => HashReason::Denied,
        Errno::TIMEDOUT => HashReason::Timeout,
        Errno::STALE => HashReason::Changed,
        _ => HashReason::Failed,
    }
}

/// Hashes of a list: of each line the first word, 64 hexadecimal digits, as sha256sum writes it; `#` begins a comment.
///
/// # Errors
/// The number of the first line that is none, and what it has.
pub fn parse_list(text: &[u8]) -> Result<BTreeSet<[u8; 32]>, (usize, String)> {
    let mut list = BTreeSet::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        // A backslash stands before the hash of a name that had to be escaped.
        let line = line.strip_prefix(b"\\").unwrap_or(line);
        let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let digest = parse_digest(word).ok_or_else(|| (number + 1, crate::text::escape(word)))?;
        list.insert(digest);
    }
    Ok(list)
}

fn parse_digest(text: &[u8]) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut digest = [0; 32];
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (to, [high, low]) in digest.iter_mut().zip(pairs) {
        *to = digit(*high)? << 4 | digit(*low)?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_what_sha256sum_writes_and_its_first_fault_is_named() {
        let ones = "1".repeat(64);
        let text = format!("# ours\n\n{ones}  /usr/bin/ssh\n\\{}A *a\\nb\n", "a".repeat(63));
        let list = parse_list(text.as_bytes()).unwrap();
        assert_eq!(list.into_iter().collect::<Vec<_>>(), [[0x11; 32], [0xaa; 32]]);
        for (bad, line) in [("x", 1), ("\n11", 2), (&format!("{ones}1"), 1)] {
            assert_eq!(parse_list(bad.as_bytes()).unwrap_err().0, line, "{bad}");
        }
    }

    /// A hash of a running program, with all the time that it takes.
    fn hash_of(hasher: &mut Hasher, proc: &Proc, pid: u32) -> Hash {
        let asked = hasher.ask(proc, &proc.hold(pid).unwrap()).unwrap();
        let mut hash = hasher.wait_for(proc, asked);
        let mut at = Duration::from_secs(1);
        while let Hash::Pending(id) = hash {
            at += Duration::from_millis(1);
            std::thread::yield_now();
            hash = hasher.take(proc, at).iter().find(|(of, _)| *of == id).map_or(hash, |(_, hash)| *hash);
        }
        hash
    }

    #[test]
    fn a_program_is_hashed_once_and_known_by_its_file() {
        let proc = Proc::new("/proc").unwrap();
        let mut hasher = Hasher::new(WAIT);
        let mut child = std::process::Command::new("sleep").arg("9").spawn().unwrap();
        // It is our own program until it has become another.
        let held = proc.hold(child.id()).unwrap();
        let ours = proc.executable_of(&proc.hold(std::process::id()).unwrap()).unwrap().id;
        while proc.executable_of(&held).unwrap().id == ours {
            std::thread::yield_now();
        }
        let Hash::Sha256 { digest, is_proven } = hash_of(&mut hasher, &proc, child.id()) else {
            panic!("no hash")
        };
        let told = std::process::Command::new("sha256sum").arg(format!("/proc/{}/exe", child.id())).output();
        let list = parse_list(&told.unwrap().stdout).unwrap();
        assert!(list.contains(&digest));
        assert_eq!(hasher.ask(&proc, &held), Some(Hash::Sha256 { digest, is_proven }), "at once");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(hasher.ask(&proc, &held), Some(Hash::Unknown(HashReason::Vanished)));
        assert_eq!(Hasher::default().ask(&proc, &held), None, "off");
    }

    proptest::proptest! {
        #[test]
        fn no_list_makes_it_panic(text in proptest::collection::vec(0u8.., 0..200)) {
            let _ = parse_list(&text);
        }
    }
}
