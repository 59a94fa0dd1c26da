//! The folder of the state: one portreeve's alone.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{Past, State, replay, saved};
use crate::event::Host;

const FILE: &str = "state.json";
const NEW: &str = "state.json.new";
const LOCK: &str = "lock";

/// Why there is no state.
#[derive(Debug)]
pub enum StateError {
    /// Another portreeve uses the folder; its process id, where it could be read.
    Taken(PathBuf, Option<u32>),
    /// The folder or a file in it cannot be had.
    Io(PathBuf, io::Error),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(path, pid) => {
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                write!(f, "another portreeve{pid} uses {}: stop it, or choose another log", path.display())
            }
            Self::Io(path, _) => {
                write!(f, "the state directory {} cannot be used (mend: --state-dir)", path.display())
            }
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, source) => Some(source),
            Self::Taken(..) => None,
        }
    }
}

/// A folder that is ours as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Makes the folder where there is none, and takes it.
    ///
    /// # Errors
    /// If another has it, or it cannot be written to.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        Ok(Self { path: path.to_owned(), lock: take(path)? })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the run before left: its state, and what it wrote into the log behind that.
    #[must_use]
    pub fn past(&self, log: &Path) -> Past {
        let state = match self.load() {
            Ok(Some(state)) => state,
            Ok(None) if std::fs::metadata(log).is_ok_and(|meta| meta.len() > 0) => {
                return Past::Lost(format!("the log has records, but {} has no state", self.path.display()));
            }
            Ok(None) => return Past::None,
            Err(e) => return Past::Lost(format!("{}: {e}", self.path.join(FILE).display())),
        };
        let is_begun = state.sequence > 0;
        match replay::replay(state, log) {
            // It ended before it had told that it began, or what it told was removed.
            Ok((state, _)) if !is_begun && state.sequence < 2 => {
                Past::Lost("a stream was begun, and nothing of it is there".to_owned())
            }
            Ok((state, cut)) => Past::Known { state: Box::new(state), cut },
            Err(why) => Past::Lost(why),
        }
    }

    fn load(&self) -> io::Result<Option<State>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed())
            .open(self.path.join(FILE));
        let file = match file {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        saved::read(BufReader::new(file)).map(Some)
    }

    /// Writes the state whole: synced, then renamed, then the folder synced. Makes the folder again where it was removed.
    ///
    /// # Errors
    /// As the file system says; then the old state stands.
    pub fn save(&mut self, state: &State, host: &Host) -> io::Result<()> {
        self.keep_lock()?;
        let new = self.path.join(NEW);
        let mut file = BufWriter::with_capacity(64 * 1024, create(&new)?);
        saved::write(state, host, &mut file)?;
        file.into_inner()?.sync_all()?;
        std::fs::rename(&new, self.path.join(FILE))?;
        File::open(&self.path)?.sync_all()
    }

    /// Whoever removed the folder removed the lock with it.
    fn keep_lock(&mut self) -> io::Result<()> {
        let ours = self.lock.metadata()?;
        let named = std::fs::symlink_metadata(self.path.join(LOCK));
        if !named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
            self.lock = take(&self.path).map_err(|error| match error {
                StateError::Io(_, error) => error,
                taken @ StateError::Taken(..) => io::Error::other(taken.to_string()),
            })?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    /// Closing would not do: the lock is the open file's, and a process that another thread starts has that too until it
    /// has become its own program.
    fn drop(&mut self) {
        let _has_no_locks = flock(&self.lock, FlockOperation::Unlock);
    }
}

fn take(path: &Path) -> Result<File, StateError> {
    let fail = |e| StateError::Io(path.to_owned(), e);
    let lock = lock(path).map_err(fail)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
            return Err(StateError::Taken(path.to_owned(), holder(lock)));
        }
        // A file system without locks: there is no telling, so there is no refusing.
        Err(e) => log::debug!("{} cannot be locked: {e}", path.display()),
    }
    name_ourselves(&lock).map_err(fail)?;
    Ok(lock)
}

fn make(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn create(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

fn lock(path: &Path) -> io::Result<File> {
    make(path)?;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path.join(LOCK))
}

fn holder(mut lock: File) -> Option<u32> {
    let mut text = String::new();
    lock.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn name_ourselves(mut lock: &File) -> io::Result<()> {
    lock.rewind()?;
    lock.set_len(0)?;
    // A disk that is full now need not be later: who holds the lock is told for convenience.
    let _ = writeln!(lock, "{}", std::process::id());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_has_the_folder_once_it_was_dropped_though_a_copy_of_the_descriptor_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        // As a process has it that another thread is about to start.
        let _copy = folder.lock.try_clone().unwrap();
        assert!(matches!(Folder::open(dir.path()), Err(StateError::Taken(..))));
        drop(folder);
        Folder::open(dir.path()).unwrap();
    }
}
