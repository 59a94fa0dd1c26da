//! The key file of seals: which key is next, and the seal that the key before it made.
//!
//! Forward-secure: each key makes one seal and the next key, and is then overwritten where it lies, so that whoever
//! reads the file later cannot make the seals of before. Nothing here knows the log, or when a seal is due.
//!
//! The file is two slots of a block each, one of them empty. A seal writes the empty one, with the next key and
//! the seal, waits for the disk, overwrites the other with zeros, and waits again: a crash leaves the slot of before
//! whole, or the new one, or both, and then the higher epoch counts. No file is renamed over another: that would
//! leave the used key in free blocks.

#![expect(clippy::disallowed_methods, reason = "this module opens its own file")]

use std::error::Error;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The block of most file systems: a slot shares none with the other.
const SLOT: usize = 4_096;
/// Begins a slot, with the version of its layout: epoch (8 bytes, big endian), key, its name, length of the seal (2),
/// the seal, zeros, SHA-256 of all that.
const MAGIC: &[u8] = b"portreeve seal 1";
const EMPTY: [u8; SLOT] = [0; SLOT];

/// A key file that is open, and locked against a second.
#[derive(Debug)]
pub struct Sealer {
    file: File,
    keys: Keys,
}

/// What is sealed.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// `agent.id`.
    pub stream: &'a str,
    /// `event.sequence` of the record up to which is sealed.
    pub sequence: u64,
    /// Its `chain`, 64 hex digits.
    pub chain: &'a str,
    /// RFC 3339, UTC, microseconds.
    pub time: String,
}

/// A seal, as the record tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// How many keys came before the one that made it.
    pub epoch: u64,
    /// Which first key all come from, 8 hex digits.
    pub key: String,
    /// As in `Place`.
    pub stream: String,
    /// As in `Place`.
    pub sequence: u64,
    /// As in `Place`.
    pub chain: String,
    /// As in `Place`.
    pub time: String,
    /// HMAC-SHA256 over all of it, 64 hex digits.
    pub mac: String,
}

/// Why there is no key file to work with.
#[derive(Debug)]
pub enum SealError {
    /// It cannot be trusted, or is none.
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What helps.
        mend: String,
    },
    /// The system refused.
    Failed {
        /// The file.
        path: PathBuf,
        /// What was tried: open, create, …
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Drop for Sealer {
    /// As of the folder of the state: a process that is being started has the open file too.
    fn drop(&mut self) {
        let _has_no_locks = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

impl Sealer {
    /// Opens a key file. A used key that a crash left in it is overwritten now.
    ///
    /// # Errors
    /// If it is missing, damaged, in use, or if somebody other than this process's user may read or replace it.
    pub fn open(path: &Path) -> Result<Self, SealError> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let flags = flags.bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let file = file.map_err(|e| explain(path, e))?;
        inspect(path, &file)?;
        let failed = |act, source| SealError::Failed { path: path.to_owned(), act, source };
        // A file system without locks cannot tell.
        if let Err(Errno::WOULDBLOCK) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Err(refused(
                path,
                "another process seals with it",
                "end that, or another key for this one",
            ));
        }
        let slots = read(&file).map_err(|e| failed("read", e))?;
        let Some(keys) = Keys::choose(&slots) else {
            let mend = format!("mv {0} {0}.damaged; portreeve seal init {0}", path.display());
            return Err(refused(path, "no key can be read from it: it is damaged, or no key file", &mend));
        };
        // Both again, whatever was read: after a sync that failed, the kernel shows what the disk never got.
        let settled = keys.state.encode().and_then(|slot| {
            write(&file, keys.slot, &slot)?;
            write(&file, 1 - keys.slot, &EMPTY)
        });
        settled.map_err(|e| failed("write", e))?;
        Ok(Self { file, keys })
    }

    /// The last seal that was made. It was on disk before it was answered: after a crash it must be told again if the
    /// log does not hold it, unless the log has become another stream than it seals.
    #[must_use]
    pub fn pending(&self) -> Option<&Seal> {
        self.keys.state.pending.as_ref()
    }

    /// Makes a seal. When it is answered, the next key and the seal are on disk and the key that made it is gone.
    ///
    /// The place must be on disk before: a power cut that takes sealed records would look like somebody who did.
    ///
    /// After an error the next call answers the seal that could not be finished, of the place that it was begun
    /// for, because the disk may hold it already: no epoch has two.
    ///
    /// # Errors
    /// As `pwrite` and `fdatasync`; or if the place has a line end in it.
    pub fn seal(&mut self, place: &Place<'_>) -> io::Result<Seal> {
        let Self { file, keys } = self;
        keys.seal(place, &mut |slot, bytes| write(file, slot, bytes))
    }
}

/// Makes a key file, and answers the secret that checks the seals: 64 hex digits, which are the first key.
///
/// # Errors
/// If something has this name, or it cannot be written.
pub fn init(path: &Path) -> Result<Zeroizing<String>, SealError> {
    let failed = |act, source| SealError::Failed { path: path.to_owned(), act, source };
    let mut key = Key(Zeroizing::new([0; 32]));
    let length = rustix::rand::getrandom(&mut *key.0, rustix::rand::GetRandomFlags::empty());
    if length.map_err(|e| failed("get random numbers for", e.into()))? != key.0.len() {
        return Err(failed("get random numbers for", io::ErrorKind::UnexpectedEof.into()));
    }
    let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let mend = format!("choose another name, or mv {0} {0}.old", path.display());
            return Err(refused(path, "there is something already, and no key is overwritten", &mend));
        }
        outcome => outcome.map_err(|e| failed("create", e))?,
    };
    let secret = Zeroizing::new(hex(&*key.0));
    let state = State { epoch: 0, name: name(&key), key, pending: None };
    let written = state.encode().and_then(|slot| {
        write(&file, 1, &EMPTY)?;
        write(&file, 0, &slot)?;
        file.sync_all()?;
        File::open(parent(path))?.sync_all()
    });
    if let Err(e) = written {
        // Nobody saw the secret: it is of no use, and in the way of a second try.
        let _ = std::fs::remove_file(path);
        return Err(failed("write", e));
    }
    Ok(secret)
}

fn refused(path: &Path, why: &str, mend: &str) -> SealError {
    SealError::Refused { path: path.to_owned(), why: why.to_owned(), mend: mend.to_owned() }
}

fn explain(path: &Path, error: io::Error) -> SealError {
    let us = rustix::process::geteuid().as_raw();
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => {
            refused(path, "there is none", &format!("portreeve seal init {}", path.display()))
        }
        Some(Errno::ACCESS) => {
            let mend = format!("chown {us} {}", path.display());
            refused(path, &format!("the user who seals (uid {us}) may not open it"), &mend)
        }
        Some(Errno::LOOP) => {
            refused(path, "it is a symbolic link, and those are not followed", "name the file itself")
        }
        _ => SealError::Failed { path: path.to_owned(), act: "open", source: error },
    }
}

/// Whether nobody but this user can have read or replaced it.
fn inspect(path: &Path, file: &File) -> Result<(), SealError> {
    let failed = |source| SealError::Failed { path: path.to_owned(), act: "inspect", source };
    let meta = file.metadata().map_err(failed)?;
    let us = rustix::process::geteuid().as_raw();
    let shown = path.display();
    if !meta.is_file() {
        return Err(refused(path, "it is no ordinary file", "name one that portreeve seal init made"));
    }
    if meta.nlink() > 1 {
        let why = "it has a second name (a hard link)";
        return Err(refused(path, why, &format!("find {} -inum {}", parent(path).display(), meta.ino())));
    }
    if meta.uid() != us {
        let why = format!("it belongs to uid {}, and the user who seals is uid {us}", meta.uid());
        return Err(refused(path, &why, &format!("chown {us} {shown}")));
    }
    if meta.mode() & 0o077 != 0 {
        let why = format!("others than its owner have rights on it (mode {:04o})", meta.mode() & 0o7777);
        let mend = format!("chmod 600 {shown}, and a new key if anybody may have read it");
        return Err(refused(path, &why, &mend));
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Both slots; what is missing at the end of the file is empty.
fn read(file: &File) -> io::Result<[Zeroizing<[u8; SLOT]>; 2]> {
    let mut slots = [Zeroizing::new(EMPTY), Zeroizing::new(EMPTY)];
    let mut offset = 0;
    for slot in &mut slots {
        let mut rest = &mut slot[..];
        while !rest.is_empty() {
            match file.read_at(rest, offset) {
                Ok(0) => return Ok(slots),
                Ok(length) => {
                    rest = rest.get_mut(length..).unwrap_or_default();
                    offset += length as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(slots)
}

/// Overwrites a slot where it lies, and waits until the disk has it.
fn write(file: &File, slot: usize, bytes: &[u8; SLOT]) -> io::Result<()> {
    file.write_all_at(bytes, (slot * SLOT) as u64)?;
    file.sync_data()
}

/// What one slot holds.
#[derive(Debug)]
struct State {
    /// Of `key`, which has made no seal yet.
    epoch: u64,
    key: Key,
    /// Which first key `key` comes from.
    name: String,
    pending: Option<Seal>,
}

impl State {
    fn encode(&self) -> io::Result<Zeroizing<[u8; SLOT]>> {
        let pending = self.pending.as_ref().map(told).unwrap_or_default();
        let length = u16::try_from(pending.len()).map_err(|_| too_long())?.to_be_bytes();
        let epoch = self.epoch.to_be_bytes();
        let parts = [MAGIC, &epoch, &*self.key.0, self.name.as_bytes(), &length, pending.as_bytes()];
        let mut slot = Zeroizing::new(EMPTY);
        let (body, sum) = slot.split_last_chunk_mut::<32>().ok_or_else(too_long)?;
        let mut rest = &mut *body;
        for part in parts {
            let (here, after) = rest.split_at_mut_checked(part.len()).ok_or_else(too_long)?;
            here.copy_from_slice(part);
            rest = after;
        }
        *sum = Sha256::digest(body).into();
        Ok(slot)
    }

    /// `None`: it is empty, torn, or something else.
    fn parse(slot: &[u8]) -> Option<Self> {
        let (body, sum) = slot.split_last_chunk::<32>()?;
        if *sum != <[u8; 32]>::from(Sha256::digest(body)) {
            return None;
        }
        let (epoch, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (name, rest) = rest.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let pending = std::str::from_utf8(rest.get(..usize::from(u16::from_be_bytes(*length)))?).ok()?;
        let epoch = u64::from_be_bytes(*epoch);
        let name = String::from_utf8(name.to_vec()).ok()?;
        let pending = if pending.is_empty() { None } else { Some(parse(pending, epoch, &name)?) };
        Some(Self { epoch, key: Key(Zeroizing::new(*key)), name, pending })
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "what is to be sealed does not fit into the key file")
}

/// A seal as a slot holds it: what follows from the slot itself is left out.
fn told(seal: &Seal) -> String {
    let Seal { epoch: _, key: _, stream, sequence, chain, time, mac } = seal;
    format!("{stream}\n{sequence}\n{chain}\n{time}\n{mac}")
}

fn parse(text: &str, next_epoch: u64, name: &str) -> Option<Seal> {
    let mut lines = text.split('\n').map(str::to_owned);
    Some(Seal {
        epoch: next_epoch.checked_sub(1)?,
        key: name.to_owned(),
        stream: lines.next()?,
        sequence: lines.next()?.parse().ok()?,
        chain: lines.next()?,
        time: lines.next()?,
        mac: lines.next()?,
    })
}

/// The slot that counts, and a seal that may be in the other by now.
#[derive(Debug)]
struct Keys {
    slot: usize,
    state: State,
    unfinished: Option<Seal>,
}

impl Keys {
    fn choose(slots: &[Zeroizing<[u8; SLOT]>; 2]) -> Option<Self> {
        let states = slots.iter().map(|slot| State::parse(&slot[..])).enumerate();
        let whole = states.filter_map(|(slot, state)| Some((slot, state?)));
        let (slot, state) = whole.max_by_key(|(_, state)| state.epoch)?;
        Some(Self { slot, state, unfinished: None })
    }

    fn seal(
        &mut self,
        place: &Place<'_>,
        write: &mut dyn FnMut(usize, &[u8; SLOT]) -> io::Result<()>,
    ) -> io::Result<Seal> {
        let State { epoch, key, name, pending: _ } = &self.state;
        let seal = self.unfinished.take().map_or_else(|| seal(*epoch, key, name, place), Ok)?;
        let next = State {
            epoch: epoch
                .checked_add(1)
                .ok_or_else(|| io::Error::other("there is no epoch after the last"))?,
            key: Key(hmac(key, b"portreeve seal next")),
            name: name.clone(),
            pending: Some(seal.clone()),
        };
        let slot = next.encode()?;
        self.unfinished = Some(seal.clone());
        write(1 - self.slot, &slot)?;
        write(self.slot, &EMPTY)?;
        *self = Self { slot: 1 - self.slot, state: next, unfinished: None };
        Ok(seal)
    }
}

fn seal(epoch: u64, key: &Key, name: &str, place: &Place<'_>) -> io::Result<Seal> {
    let Place { stream, sequence, chain, time } = place;
    if [*stream, *chain, time].iter().any(|text| text.contains('\n')) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "what is to be sealed has a line end in it"));
    }
    let text = format!("portreeve seal 1\n{stream}\n{epoch}\n{sequence}\n{chain}\n{time}\n");
    Ok(Seal {
        epoch,
        key: name.to_owned(),
        stream: (*stream).to_owned(),
        sequence: *sequence,
        chain: (*chain).to_owned(),
        time: time.clone(),
        mac: hex(&*hmac(key, text.as_bytes())),
    })
}

/// A key, which nothing prints.
struct Key(Zeroizing<[u8; 32]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// By which all keys that come from this first one are known.
fn name(first: &Key) -> String {
    hex(hmac(first, b"portreeve seal key id").first_chunk::<4>().unwrap_or(&[0; 4]))
}

fn hmac(key: &Key, text: &[u8]) -> Zeroizing<[u8; 32]> {
    // HMAC fills a short key up with zeros to SHA-256's block of 64 bytes: a block is the key that cannot be wrong.
    let mut block = Zeroizing::new([0_u8; 64]);
    block.iter_mut().zip(key.0.iter()).for_each(|(to, from)| *to = *from);
    let mac = Hmac::<Sha256>::new((&*block).into()).chain_update(text);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |text, byte| text + &format!("{byte:02x}"))
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { path, why, mend } => {
                write!(f, "cannot use the key file {}: {why} (mend: {mend})", path.display())
            }
            Self::Failed { path, act, source: _ } => {
                write!(f, "cannot {act} the key file {}", path.display())
            }
        }
    }
}

impl Error for SealError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused { .. } => None,
            Self::Failed { source, .. } => Some(source),
        }
    }
}

#[cfg(test)]
mod tests;
