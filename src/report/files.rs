//! Which files make up the log, and in which order: the rotated ones first.
//! Knows nothing of output or filters; of a record it reads only the time, to sort by it.
//! File names tell nothing certain of time (`dateext`, numbers, a copy by hand): the first record does.
#![expect(clippy::disallowed_methods, reason = "a reader of the log")]

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::lines::{Lines, Place, Step};
use super::notice::Notice;
use super::record::Record;
use super::unpack::{Packing, unpack};

/// How many lines are tried for a time before a file counts as one without.
const TRIED_LINES: usize = 16;

/// One open file of the log. It is kept open from the first look on, so that rotation cannot move it away.
pub(super) struct Log {
    pub path: PathBuf,
    file: File,
    /// `None`: a pipe or a terminal, which can be read only once and in its turn.
    identity: Option<Identity>,
    is_plain: bool,
    first_line: Option<Vec<u8>>,
    pub first_time: Option<Timestamp>,
}

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub fn of(metadata: &fs::Metadata) -> Identity {
        Identity(metadata.dev(), metadata.ino())
    }
}

impl Log {
    /// Opens a file, or standard input for `-`, and looks for its first time.
    ///
    /// # Errors
    /// What the system says. Content that cannot be read is no error yet.
    pub fn open(path: &Path) -> io::Result<Log> {
        let (file, identity) = if path == Path::new("-") {
            (File::from(io::stdin().as_fd().try_clone_to_owned()?), None)
        } else {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let identity = metadata.is_file().then(|| Identity::of(&metadata));
            (file, identity)
        };
        let mut log = Log {
            path: path.to_owned(),
            file,
            identity,
            is_plain: false,
            first_line: None,
            first_time: None,
        };
        if log.identity.is_some() {
            log.look();
        }
        Ok(log)
    }

    /// Reads the first lines and goes back to the start. A file without a readable time has none.
    pub fn look(&mut self) {
        let mut head = [0; 4];
        let count = self.file.read_at(&mut head, 0).unwrap_or(0);
        self.is_plain = Packing::infer(head.get(..count).unwrap_or_default()) == Packing::Plain;
        let Ok(mut lines) = self.lines() else { return };
        for _ in 0..TRIED_LINES {
            let Ok(Step::Line) = lines.advance() else { break };
            self.first_line.get_or_insert_with(|| lines.line().to_vec());
            let record = std::str::from_utf8(lines.line()).ok().and_then(|line| Record::parse(line).ok());
            if let Some((at, _)) = record {
                self.first_time = Some(at);
                break;
            }
        }
    }

    /// The lines, unpacked, from the start where there is one.
    ///
    /// # Errors
    /// What the system says.
    pub fn lines(&self) -> io::Result<Lines> {
        let mut file = self.file.try_clone()?;
        if self.identity.is_some() {
            file.rewind()?;
        }
        Ok(Lines::new(unpack(file)?, Place::default()))
    }

    /// Whether the file can grow: not compressed, not a pipe.
    pub fn is_followable(&self) -> bool {
        self.is_plain && self.identity.is_some()
    }

    /// Whether nothing has been written into it yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() == 0)
    }

    pub fn is_pipe(&self) -> bool {
        self.identity.is_none()
    }

    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Whether this is `plain`, compressed: the same first line under its name with an ending more.
    ///
    /// A compression under way leaves both for a moment. Ids and the chain make a first line unique.
    fn is_packed_copy_of(&self, plain: &Log) -> bool {
        let has_its_name =
            self.path.file_stem() == plain.path.file_name() && self.path.parent() == plain.path.parent();
        has_its_name && self.first_line.is_some() && self.first_line == plain.first_line
    }

    /// The lines behind `place` if this log holds there what is known of it, else `None`.
    ///
    /// Reads, and unpacks, all that stands before: logrotate may have compressed a copy at once.
    ///
    /// # Errors
    /// What the system or the decompressor says.
    pub fn lines_behind(&self, place: &Place) -> io::Result<Option<Lines>> {
        if self.is_pipe() || place.tail.is_empty() {
            return Ok(None);
        }
        let mut file = self.file.try_clone()?;
        file.rewind()?;
        let mut source = unpack(file)?;
        io::copy(&mut source.by_ref().take(place.tail_offset()), &mut io::sink())?;
        let mut found = vec![0; place.tail.len()];
        let is_there = source.read_exact(&mut found).is_ok() && found == place.tail;
        Ok(is_there.then(|| Lines::new(source, place.clone())))
    }

    /// Whether the file, which has been read up to `read_bytes`, has become another: shorter, or with other content.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_truncated(&self, read_bytes: u64, place: &Place) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() < read_bytes || !holds(&self.file, place))
    }
}

/// Whether the bytes before a place are still those that were read there.
fn holds(file: &File, place: &Place) -> bool {
    let mut found = vec![0; place.tail.len()];
    file.read_exact_at(&mut found, place.tail_offset()).is_ok() && found == place.tail
}

/// Opens the named files, each once, in the order of their first records.
///
/// Pipes and files without a record come last, as they were named. What cannot be opened is noted and left out.
pub(super) fn open_listed(paths: &[PathBuf], note: &mut dyn FnMut(Notice)) -> Vec<Log> {
    let mut logs = Vec::new();
    for path in paths {
        match Log::open(path) {
            Ok(log) => logs.push(log),
            Err(source) => note(Notice::Open { path: path.clone(), source }),
        }
    }
    in_order(logs)
}

/// Opens a live log, which need not exist, and its rotated neighbours, oldest first.
///
/// The live file is opened before the folder is listed: if it is rotated in between, the listing has it under its
/// new name, and as the same inode it is not shown twice. The other way round it would be missed.
pub(super) fn open_with_rotated(live: &Path, note: &mut dyn FnMut(Notice)) -> Vec<Log> {
    let mut logs = Vec::new();
    match Log::open(live) {
        Ok(log) => logs.push(log),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => note(Notice::Open { path: live.to_owned(), source }),
    }
    logs.extend(open_rotated(live, note));
    in_order(logs)
}

/// A live log and its rotated neighbours, in no order.
#[must_use]
pub fn with_rotated(live: &Path) -> Vec<PathBuf> {
    let rotated = list_rotated(live).unwrap_or_default();
    std::iter::once(live.to_owned()).chain(rotated).collect()
}

/// Opens the rotated neighbours of a live log, in no order.
pub(super) fn open_rotated(live: &Path, note: &mut dyn FnMut(Notice)) -> Vec<Log> {
    let mut logs = Vec::new();
    // A file that goes between listing and opening has just been compressed or rotated on: list anew.
    for _ in 0..3 {
        logs.clear();
        let mut gone = false;
        let paths = match list_rotated(live) {
            Ok(paths) => paths,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                note(Notice::Open { path: folder(live).to_owned(), source });
                Vec::new()
            }
        };
        for path in paths {
            match Log::open(&path) {
                Ok(log) => logs.push(log),
                Err(error) if error.kind() == io::ErrorKind::NotFound => gone = true,
                Err(source) => note(Notice::Open { path, source }),
            }
        }
        if !gone {
            break;
        }
    }
    logs
}

/// `events.jsonl.1`, `events.jsonl-20261120.gz`, … beside `events.jsonl`: regular files only, because whoever owns
/// the folder could leave a pipe there for the reader to wait at.
fn list_rotated(live: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let Some(name) = live.file_name() else { return Ok(paths) };
    for entry in fs::read_dir(folder(live))? {
        let entry = entry?;
        let entry_name = entry.file_name();
        let ending = entry_name.as_bytes().strip_prefix(name.as_bytes());
        if matches!(ending, Some([b'.' | b'-', ..])) && entry.file_type()?.is_file() {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Each file once, in the order of the first records.
pub(super) fn in_order(logs: Vec<Log>) -> Vec<Log> {
    let mut kept: Vec<Log> = Vec::new();
    for log in logs {
        if log.is_pipe() || !kept.iter().any(|other| other.identity == log.identity) {
            kept.push(log);
        }
    }
    let (mut kept, packed): (Vec<Log>, Vec<Log>) = kept.into_iter().partition(|log| log.is_plain);
    let is_copy = |log: &Log| kept.iter().any(|plain| log.is_packed_copy_of(plain));
    let packed: Vec<Log> = packed.into_iter().filter(|log| !is_copy(log)).collect();
    kept.extend(packed);
    kept.sort_by_key(|log| (log.first_time.is_none(), log.first_time));
    kept
}
