//! An audit log that auditd writes, or a pipe into which somebody does: what is new in it.
//!
//! Followed from its end on, over its rotation: what was written before the watch is not told again. Bounded: of a flood what
//! does not fit is passed over, and counted as lost. The folder must be readable, or nobody would tell that there is more.

#![expect(clippy::disallowed_methods, reason = "this module opens the audit log")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, inotify};
use rustix::io::Errno;

use crate::audit::{Assembler, Connect};

/// Nothing that is of interest has longer lines: the kernel makes none of more than 8,970 bytes.
const LONGEST_LINE: usize = 16 * 1024;
/// As much is read at a time, and of what is new as much at most before the rest is passed over.
const CHUNK: usize = 64 * 1024;
const MOST: u64 = 16 << 20;

/// A log that is followed.
#[derive(Debug)]
pub(super) struct AuditLog {
    path: PathBuf,
    /// inotify on its folder; none for a pipe, which is waited for itself.
    folder: Option<OwnedFd>,
    file: Option<File>,
    lines: Lines,
}

/// Bytes cut into lines.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    /// True if the line that was begun is too long and is passed over to its end.
    skips: bool,
    lost: u64,
    assembler: Assembler,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], tell: &mut impl FnMut(Connect)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = part.strip_suffix(b"\n");
            if self.begun.len() + part.len() > LONGEST_LINE && !self.skips {
                self.skips = true;
                self.lost += 1;
            }
            match (whole, self.skips) {
                (None, false) => self.begun.extend_from_slice(part),
                (None, true) => self.begun.clear(),
                (Some(_), true) => self.forget(),
                (Some(whole), false) if self.begun.is_empty() => self.assembler.line(whole, &mut *tell),
                (Some(whole), false) => {
                    self.begun.extend_from_slice(whole);
                    let line = std::mem::take(&mut self.begun);
                    self.assembler.line(&line, &mut *tell);
                }
            }
        }
    }

    /// What was begun goes on nowhere.
    fn forget(&mut self) {
        self.begun.clear();
        self.skips = false;
    }
}

impl AuditLog {
    /// Follows the file, from its end if it is there. A file that is not there yet is followed from its beginning.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let said = |error: io::Error| format!("cannot follow {}: {error}", path.display());
        let kind = std::fs::metadata(path).map(|meta| meta.file_type());
        let is_pipe = kind.as_ref().is_ok_and(|kind| kind.is_fifo());
        let mut log = Self { path: path.to_owned(), folder: None, file: None, lines: Lines::default() };
        if is_pipe {
            log.file = Some(open_pipe(path).map_err(said)?);
            return Ok(log);
        }
        if kind.is_ok_and(|kind| !kind.is_file()) {
            return Err(format!("cannot follow {}: it is no file and no pipe", path.display()));
        }
        log.folder = Some(watch_folder(path).map_err(|error| said(error.into()))?);
        log.file = match File::open(path) {
            Ok(mut file) => {
                file.seek(SeekFrom::End(0)).map_err(said)?;
                Some(file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(said(error)),
        };
        Ok(log)
    }

    /// Gives what is new to `tell`; how many lines were lost. `Err`: it is of no more use.
    pub(super) fn take(&mut self, mut tell: impl FnMut(Connect)) -> Result<u64, String> {
        let outcome = match &self.folder {
            None => self.take_from_pipe(&mut tell),
            Some(folder) => {
                // Before it is read: what is written meanwhile wakes us again.
                drain(folder);
                self.take_from_file(&mut tell)
            }
        };
        outcome.map_err(|error| format!("cannot read {}: {error}", self.path.display()))?;
        Ok(std::mem::take(&mut self.lines.lost) + self.lines.assembler.take_given_up())
    }

    fn take_from_pipe(&mut self, tell: &mut impl FnMut(Connect)) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut chunk = vec![0; CHUNK];
        match file.read(&mut chunk) {
            Ok(0) => Err(io::Error::other("whoever wrote into it has gone")),
            Ok(read) => {
                self.lines.take(chunk.get(..read).unwrap_or_default(), tell);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// To its end; then, where another file has its name by now, that one from its beginning.
    fn take_from_file(&mut self, tell: &mut impl FnMut(Connect)) -> io::Result<()> {
        loop {
            if let Some(file) = &mut self.file {
                take_rest(file, &mut self.lines, tell)?;
            }
            let Some(new) = self.successor()? else { return Ok(()) };
            self.lines.forget();
            self.file = Some(new);
        }
    }

    /// The file that has the name now, if it is not the one that is read.
    fn successor(&self) -> io::Result<Option<File>> {
        let new = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome?,
        };
        let place = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        let is_same = match &self.file {
            Some(old) => place(old)? == place(&new)?,
            None => false,
        };
        Ok((!is_same).then_some(new))
    }
}

impl AsFd for AuditLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match (&self.folder, &self.file) {
            (Some(folder), _) => folder.as_fd(),
            (None, Some(pipe)) => pipe.as_fd(),
            (None, None) => unreachable!("a pipe is open as long as it is followed"),
        }
    }
}

/// What is new in a file, up to as much as is read at once.
fn take_rest(file: &mut File, lines: &mut Lines, tell: &mut impl FnMut(Connect)) -> io::Result<()> {
    let (from, size) = (file.stream_position()?, file.metadata()?.len());
    if size < from {
        // It was cut off and begins anew.
        file.seek(SeekFrom::Start(0))?;
        lines.forget();
    } else if size - from > MOST {
        file.seek(SeekFrom::Start(size - MOST))?;
        lines.forget();
        // The rest of a line that was cut in two is passed over.
        (lines.skips, lines.lost) = (true, lines.lost + 1);
    }
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => lines.take(chunk.get(..read).unwrap_or_default(), tell),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// For writing too where that may be: then it does not end with whoever writes into it.
fn open_pipe(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let open = |write: bool| OpenOptions::new().read(true).write(write).custom_flags(flags).open(path);
    open(true).or_else(|_| open(false))
}

fn watch_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let of = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, folder, of)?;
    Ok(watch)
}

fn drain(folder: &OwnedFd) {
    let mut events = [0; 4096];
    while rustix::io::read(folder, &mut events).is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LOG: &[u8] = include_bytes!("../../fuzz/seeds/audit/kernel.log");

    fn taken(log: &mut AuditLog) -> Vec<u64> {
        let mut told = Vec::new();
        assert_eq!(log.take(|connect| told.push(connect.serial)), Ok(0));
        told
    }

    fn append(path: &Path, bytes: &[u8]) {
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    fn is_ready(log: &AuditLog) -> bool {
        let mut fds = [rustix::event::PollFd::new(log, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() > 0
    }

    /// Where the event with this number begins.
    fn place_of(serial: u64) -> usize {
        let stamp = format!("type=SYSCALL msg=audit(1795870488.424:{serial})");
        LOG.windows(stamp.len()).position(|window| window == stamp.as_bytes()).unwrap()
    }

    #[test]
    fn what_stood_before_is_not_told_and_what_is_appended_is_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        append(&path, &LOG[..place_of(4)]);
        let mut log = AuditLog::open(&path).unwrap();
        assert!(taken(&mut log).is_empty() && !is_ready(&log));
        // In the middle of a line.
        append(&path, &LOG[place_of(4)..place_of(5) + 20]);
        assert!(is_ready(&log));
        assert_eq!(taken(&mut log), [4]);
        append(&path, &LOG[place_of(5) + 20..]);
        assert_eq!(taken(&mut log), [5, 6, 7, 8, 9, 10]);
        assert!(taken(&mut log).is_empty() && !is_ready(&log));
    }

    #[test]
    fn it_is_followed_over_rotation_truncation_and_from_before_it_exists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = AuditLog::open(&path).unwrap();
        append(&path, &LOG[..place_of(3)]);
        assert_eq!(taken(&mut log), [2], "its beginning is new too");
        append(&path, &LOG[place_of(3)..place_of(4)]);
        std::fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
        append(&path, &LOG[place_of(4)..place_of(5)]);
        assert_eq!(taken(&mut log), [3, 4], "the end of the old one first");
        std::fs::rename(&path, folder.path().join("audit.log.1")).unwrap();
        append(&folder.path().join("audit.log.1"), &LOG[place_of(5)..place_of(6)]);
        assert_eq!(taken(&mut log), [5], "auditd writes on until it opens the new one");
        append(&path, &LOG[place_of(6)..place_of(7)]);
        assert!(is_ready(&log));
        assert_eq!(taken(&mut log), [6]);
        File::create(&path).unwrap();
        assert_eq!(taken(&mut log), [0u64; 0]);
        append(&path, &LOG[place_of(7)..place_of(8)]);
        assert_eq!(taken(&mut log), [7]);
    }

    #[test]
    fn a_pipe_is_read_as_it_is_written_into() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let mut log = AuditLog::open(&path).unwrap();
        assert!(taken(&mut log).is_empty() && !is_ready(&log));
        for part in [&LOG[..place_of(3)], &LOG[place_of(3)..place_of(4)]] {
            let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
            writer.write_all(part).unwrap();
            drop(writer);
            assert!(is_ready(&log));
            assert_eq!(taken(&mut log).len(), 1);
        }
        assert!(!is_ready(&log), "it does not end with its writer");
    }

    #[test]
    fn a_line_without_end_and_more_than_is_read_at_once_are_counted_and_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut log = AuditLog::open(&path).unwrap();
        append(&path, &vec![b'x'; 100_000]);
        append(&path, b"\n");
        append(&path, &LOG[..place_of(3)]);
        let mut told = Vec::new();
        assert_eq!(log.take(|connect| told.push(connect.serial)), Ok(1));
        assert_eq!(told, [2]);
        let line = [vec![b'y'; 999], vec![b'\n']].concat();
        append(&path, &line.repeat(17 << 10));
        append(&path, &LOG[place_of(3)..place_of(4)]);
        told.clear();
        assert_eq!(log.take(|connect| told.push(connect.serial)), Ok(1));
        assert_eq!(told, [3]);
    }

    #[test]
    fn what_cannot_be_followed_says_why() {
        let why = |path: &str| AuditLog::open(Path::new(path)).unwrap_err();
        assert!(why("/nonexistent/audit.log").contains("No such file"));
        assert!(why("/dev/null").contains("no file and no pipe"));
        assert!(why("/tmp").contains("no file and no pipe"));
    }
}
