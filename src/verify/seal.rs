//! Seals: V44. Written from the description in portreeve-events(5) alone.
//! Knows the secret only where it was given; without it a seal is held against the records that it names.

#![expect(clippy::disallowed_methods, reason = "a reader of the secret")]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::findings::Findings;
use super::moment;
use super::order::Order;
use super::record::{Record, f};
use crate::text::escape;

const SECOND: i64 = 1_000_000;
/// A seal is told every minute; two may pass.
const LATEST: i64 = 120 * SECOND;
/// One key more for each epoch: so many are a lifetime of minutes.
const MOST_EPOCHS: u64 = 50_000_000;

/// The first key.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// From a file whose first line is 64 hexadecimal digits.
    pub fn parse(content: &[u8]) -> Option<Self> {
        let line = content.split(|byte| *byte == b'\n').next()?.trim_ascii();
        moment::parse_hex(&line.to_ascii_lowercase()).map(Self)
    }

    /// Reads that file.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = || escape(path.as_os_str().as_bytes());
        let content = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", name()))?;
        Self::parse(&content)
            .ok_or_else(|| format!("{}: its first line is not 64 hexadecimal digits", name()))
    }

    fn name(&self) -> [u8; 8] {
        let mut text = [0; 64];
        moment::hex(&mac(&self.0, &[b"portreeve seal key id"]), &mut text);
        let [a, b, c, d, e, f, g, h, ..] = text;
        [a, b, c, d, e, f, g, h]
    }
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // A key of any length is taken: there is no error.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// The seals of a log.
#[derive(Debug)]
pub struct Seals {
    secret: Option<Secret>,
    /// The key of this epoch.
    key: Option<(u64, [u8; 32])>,
    /// The last seal: its key's name, epoch and all of it.
    last: Option<(Vec<u8>, u64, Vec<u8>)>,
    /// When the last was told, or a run with seals began: CLOCK_BOOTTIME. `None`: none is awaited.
    told: Option<i64>,
    /// So much of the time since is excused.
    unseen: i64,
    /// How many there are, and how many were held against the secret.
    pub count: u64,
    /// With the right mac.
    pub proved: u64,
    /// When the newest of those was made, by its own word, which the mac covers.
    pub proved_at: Option<i64>,
    /// First and last epoch.
    pub epochs: Option<(u64, u64)>,
}

impl Seals {
    /// None yet.
    pub fn new(secret: Option<Secret>) -> Self {
        Self {
            secret,
            key: None,
            last: None,
            told: None,
            unseen: 0,
            count: 0,
            proved: 0,
            proved_at: None,
            epochs: None,
        }
    }

    /// A run begins, with or without seals.
    pub fn begin_run(&mut self) {
        self.told = None;
    }

    /// Seals are on in this run.
    pub fn expect(&mut self, record: &Record<'_>) {
        self.told.get_or_insert(record.bt);
    }

    /// None is told in a time like this.
    pub fn excuse(&mut self, time: i64) {
        self.unseen = self.unseen.saturating_add(time);
    }

    /// True if seals are to be proved.
    pub fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// Any record: whether a seal is overdue.
    #[inline]
    pub fn check_due(&mut self, record: &Record<'_>, found: &mut Findings<'_>) {
        let Some(told) = self.told else { return };
        let since = record.bt.saturating_sub(told);
        if since > LATEST.saturating_add(self.unseen) {
            found.add(44, format!("no seal was told for {} s", since / SECOND));
            (self.told, self.unseen) = (Some(record.bt), 0);
        }
    }

    /// A seal.
    pub fn take(&mut self, record: &Record<'_>, order: &Order, found: &mut Findings<'_>) {
        self.count += 1;
        (self.told, self.unseen) = (Some(record.bt), 0);
        let (Some(epoch), Some(n)) = (record.number(f::EPOCH), record.number(f::SEAL_N)) else { return };
        self.epochs = Some((self.epochs.map_or(epoch, |(first, _)| first), epoch));
        let all = [f::SEAL_KEY, f::EPOCH, f::SEAL_N, f::SEAL_CHAIN, f::SEAL_TIME, f::MAC];
        let all = all.map(|field| record.text(field).unwrap_or_default()).join(&b' ');
        let key = record.text(f::SEAL_KEY).unwrap_or_default();
        match &self.last {
            Some((of, last, same)) if of == key && *last == epoch => {
                if *same != all {
                    found.add(44, format!("there are two different seals of epoch {epoch}"));
                }
                return;
            }
            Some((of, last, _)) if of == key && last.checked_add(1) != Some(epoch) => {
                found.add(44, format!("the epoch {epoch} comes behind {last}"));
            }
            Some((of, ..)) if of != key && epoch != 0 => {
                found.add(44, format!("another key begins with epoch {epoch}"));
            }
            _ => {}
        }
        self.last = Some((key.to_vec(), epoch, all));
        check_place(record, n, order, found);
        self.check_mac(record, epoch, found);
    }

    fn check_mac(&mut self, record: &Record<'_>, epoch: u64, found: &mut Findings<'_>) {
        let Some(secret) = &self.secret else { return };
        if record.text(f::SEAL_KEY) != Some(&secret.name()) {
            found.add(
                44,
                format!("the seal is of the key {}, which is not the secret's", record.quote(f::SEAL_KEY)),
            );
            return;
        }
        let known = self.key.filter(|(at, _)| *at <= epoch).unwrap_or((0, secret.0));
        if epoch - known.0 > MOST_EPOCHS {
            found.add(44, format!("no key was ever used for {epoch} minutes"));
            return;
        }
        let key = (known.0..epoch).fold(known.1, |key, _| mac(&key, &[b"portreeve seal next"]));
        self.key = Some((epoch, key));
        let mut right = [0; 64];
        let text = |field: usize| record.text(field).unwrap_or_default();
        let parts =
            [text(f::STREAM), text(f::EPOCH), text(f::SEAL_N), text(f::SEAL_CHAIN), text(f::SEAL_TIME)];
        let mut signed = b"portreeve seal 1\n".to_vec();
        for part in parts {
            signed.extend_from_slice(part);
            signed.push(b'\n');
        }
        moment::hex(&mac(&key, &[&signed]), &mut right);
        if record.text(f::MAC) == Some(&right) {
            self.proved += 1;
            self.proved_at = self.proved_at.max(record.time(f::SEAL_TIME));
        } else {
            found.add(44, format!("the mac of epoch {epoch} is not what the secret makes of it"));
        }
    }
}

fn check_place(record: &Record<'_>, n: u64, order: &Order, found: &mut Findings<'_>) {
    if n >= record.n {
        found.add(44, format!("the seal of record {n} is record {}", record.n));
        return;
    }
    if n.saturating_add(1) < order.first || n == 0 {
        return;
    }
    match order.chain_at(n) {
        Some(chain) if record.text(f::SEAL_CHAIN) == Some(chain) => {}
        Some(_) => found.add(44, format!("record {n} has not the chain that is sealed")),
        None => found.add(44, format!("the seal names record {n}, which is not there or too far back")),
    }
}
