//! A log file that others rotate, remove and fill the disk under.
//!
//! One `write` a record, straight to the kernel, so that a killed process loses nothing that it told. A record is
//! whole or not there: what a full disk tore is cut off again, what a crash tore is ended before the next record. Only
//! one portreeve writes to a file: it is locked. Plugged into flexi_logger, whose own file writer
//! swallows errors, so that `reopen_output` reaches it; records come by `append`, which returns its error.

#![expect(clippy::disallowed_methods, reason = "this module opens the log")]

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flexi_logger::DeferredNow;
use flexi_logger::writers::LogWriter;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// Readable by its group, which reads logs; by nobody else, because arguments may tell secrets.
const MODE: u32 = 0o640;

/// Something about the file that must be told in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incident {
    /// It was opened. `previous`: what was written before under this path.
    Opened {
        /// `DEVICE:INODE` of that file.
        previous: Option<String>,
    },
    /// Its last line was torn, and was ended.
    Repaired {
        /// Where it begins.
        offset: u64,
        /// How long it is.
        bytes: u64,
    },
    /// It became shorter: somebody cut it.
    Truncated {
        /// By how much.
        lost_bytes: u64,
    },
}

/// A handle; clones share the file.
#[derive(Debug, Clone)]
pub struct LogFile(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: Arc<File>,
    /// Where the next record belongs.
    end: u64,
    /// True if a torn record could not be cut off.
    torn: bool,
    /// True if the last line is a crash's and has no end yet.
    unended: bool,
    told: Vec<Incident>,
    /// Why the path cannot be opened again, until it can.
    refused: Option<String>,
    /// Files that were left and may not be on the disk yet.
    left: Vec<Arc<File>>,
}

/// A file as it was opened.
struct Opened {
    file: File,
    end: u64,
    unended: bool,
    told: Vec<Incident>,
}

impl LogFile {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// If it cannot be opened for writing, is a symbolic link, no ordinary file, or has a second name: then what is
    /// written to it could end where nobody meant it to. `WouldBlock` if another portreeve writes to it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let Opened { file, end, unended, told } = open(path, None)?;
        lock(&file)?;
        let (path, file) = (path.to_owned(), Arc::new(file));
        Ok(Self(Arc::new(Mutex::new(Inner {
            path,
            file,
            end,
            torn: false,
            unended,
            told,
            refused: None,
            left: Vec::new(),
        }))))
    }

    /// Device and inode of the file, and where the next record belongs.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn place(&self) -> io::Result<(u64, u64, u64)> {
        let inner = self.lock();
        let meta = inner.file.metadata()?;
        Ok((meta.dev(), meta.ino(), inner.end))
    }

    /// The file, for whoever waits until the disk has it.
    #[must_use]
    pub fn handle(&self) -> Arc<File> {
        Arc::clone(&self.lock().file)
    }

    /// Files that were left since the last call and may not be on the disk yet.
    #[must_use]
    pub fn left(&self) -> Vec<Arc<File>> {
        std::mem::take(&mut self.lock().left)
    }

    /// Has it told that so many bytes were cut off before it was opened.
    pub fn tell_cut(&self, lost_bytes: u64) {
        if lost_bytes > 0 {
            self.lock().told.push(Incident::Truncated { lost_bytes });
        }
    }

    /// Path as configured.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.lock().path.clone()
    }

    /// Writes one whole record.
    ///
    /// # Errors
    /// As `write`; then nothing of the record is in the file.
    pub fn append(&self, record: &[u8]) -> io::Result<()> {
        self.lock().append(record)
    }

    /// Opens the file again if the path names another by now, or none. Answers what is to be told, also of the first
    /// opening. Two `stat`, 2 µs.
    ///
    /// # Errors
    /// If it cannot be opened; the old file is kept then, unless that was removed.
    pub fn look(&self) -> io::Result<Vec<Incident>> {
        let mut inner = self.lock();
        let ours = inner.file.metadata()?;
        let named = std::fs::symlink_metadata(&inner.path).ok();
        if named.is_none_or(|named| (named.dev(), named.ino()) != (ours.dev(), ours.ino())) {
            match inner.reopen() {
                // It lives under another name: better there than nowhere, until the path can be opened.
                Err(e) if ours.nlink() > 0 => inner.warn_once(&e),
                outcome => outcome?,
            }
        } else if ours.len() < inner.end {
            inner.note_truncation(&ours)?;
        }
        Ok(std::mem::take(&mut inner.told))
    }

    /// Waits until the disk has it.
    ///
    /// # Errors
    /// As `fdatasync`.
    pub fn sync(&self) -> io::Result<()> {
        self.lock().file.sync_data()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn warn_once(&mut self, error: &io::Error) {
        let why = error.to_string();
        if self.refused.as_ref() != Some(&why) {
            log::warn!("cannot open {} again, the old file is gone on with: {why}", self.path.display());
            self.refused = Some(why);
        }
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.unended {
            self.write(b"\n")?;
            self.unended = false;
        }
        self.write(record)
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        if self.torn {
            // The disk is so full, or so broken, that the torn record could not even be cut off.
            self.file.set_len(self.end)?;
            self.torn = false;
        }
        let mut written = 0;
        while written < record.len() {
            let error = match (&*self.file).write(record.get(written..).unwrap_or_default()) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(length) => {
                    written += length;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => e,
            };
            if written > 0 {
                self.end = self.file.metadata()?.len().saturating_sub(written as u64);
                self.torn = self.file.set_len(self.end).is_err();
            }
            return Err(error);
        }
        self.end += written as u64;
        Ok(())
    }

    /// Somebody cut it, to nothing mostly: what is left begins a file anew.
    fn note_truncation(&mut self, ours: &Metadata) -> io::Result<()> {
        let lost_bytes = self.end - ours.len();
        let torn = torn_line(&self.file, ours.len())?;
        (self.end, self.torn, self.unended) = (ours.len(), false, torn.is_some());
        if ours.len() == 0 {
            self.told.push(Incident::Opened { previous: Some(name_of(ours)) });
        }
        self.told.extend(torn);
        self.told.push(Incident::Truncated { lost_bytes });
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let Opened { file, end, unended, told } = open(&self.path, Some(&ours))?;
        let same = file.metadata().is_ok_and(|new| (new.dev(), new.ino()) == (ours.dev(), ours.ino()));
        if same {
            // What is torn in it is our own, and is cut off before the next record.
            return Ok(());
        }
        lock(&file)?;
        if self.torn {
            let _ = self.file.set_len(self.end);
        }
        // The new one is open before the old one is let go.
        self.left.push(std::mem::replace(&mut self.file, Arc::new(file)));
        (self.end, self.torn, self.unended, self.refused) = (end, false, unended, None);
        // Of a file in which nothing was told, nothing is told.
        self.told.retain(|incident| !matches!(incident, Incident::Opened { .. }));
        self.told.extend(told);
        Ok(())
    }
}

/// Two watchers in one file would each break the other's chain. A file system without locks cannot tell.
fn lock(file: &File) -> io::Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "another portreeve writes to it"))
        }
        _ => Ok(()),
    }
}

fn open(path: &Path, previous: Option<&Metadata>) -> io::Result<Opened> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(MODE)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|e| explain(path, e))?;
    let meta = file.metadata()?;
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !meta.is_file() {
        return refuse("it is no ordinary file");
    }
    if meta.nlink() > 1 {
        return refuse("it has a second name (a hard link)");
    }
    if meta.mode() & 0o002 != 0 {
        return refuse("everybody may write to it (mend: chmod o-w)");
    }
    let previous = previous.map(name_of);
    let mut told = vec![Incident::Opened { previous }];
    let end = meta.len();
    let torn = torn_line(&file, end)?;
    let unended = torn.is_some();
    told.extend(torn);
    Ok(Opened { file, end, unended, told })
}

/// As records name a file.
fn name_of(meta: &Metadata) -> String {
    format!("{}:{}", meta.dev(), meta.ino())
}

/// ELOOP says nothing to most people.
fn explain(path: &Path, error: io::Error) -> io::Error {
    let link = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    if link {
        io::Error::new(error.kind(), "it is a symbolic link, and those are not followed")
    } else {
        error
    }
}

/// The last line, if a crash or a full disk tore it: it does not end in a line end.
fn torn_line(mut file: &File, end: u64) -> io::Result<Option<Incident>> {
    let start = end.saturating_sub(64 * 1024);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    Read::by_ref(&mut file).take(end - start).read_to_end(&mut tail)?;
    if tail.last().is_none_or(|last| *last == b'\n') {
        return Ok(None);
    }
    let begins = tail.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let offset = start + begins as u64;
    Ok(Some(Incident::Repaired { offset, bytes: end - offset }))
}

impl LogWriter for LogFile {
    fn write(&self, _now: &mut DeferredNow, record: &log::Record<'_>) -> io::Result<()> {
        // Nothing is sent here: records come by `append`.
        self.append(format!("{}\n", record.args()).as_bytes())
    }

    fn flush(&self) -> io::Result<()> {
        self.sync()
    }

    fn reopen_output(&self) -> Result<(), flexi_logger::FlexiLoggerError> {
        let mut inner = self.lock();
        inner.reopen().map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn opened(file: &LogFile) -> Vec<Incident> {
        file.look().unwrap()
    }

    #[test]
    fn only_an_ordinary_file_of_its_own_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("real"), "").unwrap();
        std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
        fs::write(at("two"), "").unwrap();
        fs::hard_link(at("two"), at("names")).unwrap();
        fs::write(at("open"), "").unwrap();
        fs::set_permissions(at("open"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RUSR).unwrap();
        for (name, why) in [
            ("link", "symbolic link"),
            ("names", "second name"),
            ("open", "everybody"),
            ("fifo", ""),
            (".", "directory"),
            ("missing/log", "No such file"),
        ] {
            let error = LogFile::open(&at(name)).unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
        assert_eq!(fs::read(at("real")).unwrap(), b"");
        LogFile::open(&at("new")).unwrap();
        assert_eq!(fs::metadata(at("new")).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_renamed_or_removed_file_is_opened_anew_and_says_what_it_goes_on_from() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = LogFile::open(&path).unwrap();
        assert_eq!(opened(&file), [Incident::Opened { previous: None }]);
        file.append(b"one\n").unwrap();
        assert_eq!(opened(&file), []);
        let inode = fs::metadata(&path).unwrap().ino();
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        assert!(
            matches!(&opened(&file)[..], [Incident::Opened { previous: Some(p) }] if p.ends_with(&inode.to_string()))
        );
        file.append(b"two\n").unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(opened(&file)[..], [Incident::Opened { previous: Some(_) }]));
        file.append(b"three\n").unwrap();
        assert_eq!(fs::read(dir.path().join("log.1")).unwrap(), b"one\n");
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
    }

    #[test]
    fn a_path_that_cannot_be_opened_again_costs_nothing_while_the_old_file_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = LogFile::open(&path).unwrap();
        opened(&file);
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(opened(&file), []);
        file.append(b"one\n").unwrap();
        assert_eq!(fs::read(dir.path().join("log.1")).unwrap(), b"one\n");
        fs::remove_file(dir.path().join("log.1")).unwrap();
        assert!(file.look().is_err(), "what is written now would be lost");
        fs::remove_dir(&path).unwrap();
        assert_eq!(opened(&file).len(), 1);
    }

    #[test]
    fn a_torn_line_is_ended_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "whole\n{\"torn").unwrap();
        let file = LogFile::open(&path).unwrap();
        assert_eq!(opened(&file)[1], Incident::Repaired { offset: 6, bytes: 6 });
        file.append(b"next\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole\n{\"torn\nnext\n");
    }

    #[test]
    fn a_file_that_was_cut_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = LogFile::open(&path).unwrap();
        opened(&file);
        file.append(b"0123456789\n").unwrap();
        fs::write(&path, "").unwrap();
        assert!(matches!(
            opened(&file)[..],
            [Incident::Opened { previous: Some(_) }, Incident::Truncated { lost_bytes: 11 }]
        ));
        file.append(b"next\n").unwrap();
        assert_eq!((opened(&file), fs::read(&path).unwrap()), (vec![], b"next\n".to_vec()), "and no hole");
    }

    #[test]
    fn flexi_logger_opens_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = LogFile::open(&path).unwrap();
        opened(&file);
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        LogWriter::reopen_output(&file).unwrap();
        assert_eq!(opened(&file).len(), 1, "and the record about it is not forgotten");
    }
}
