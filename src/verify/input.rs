//! The files of a set, in the order in which they were written.
//! Knows of a file its first record only. Names prove nothing: the order is that of streams by their first time, and
//! of the files of a stream by their first number.
#![expect(clippy::disallowed_methods, reason = "a reader of the log")]

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::lines::{Lines, Step};
use super::record::{Reader, f};
use crate::report::{Packing, unpack};

/// As many lines are tried for a first record.
const TRIED: usize = 16;

/// One file.
pub struct Input {
    /// As it was named.
    pub path: PathBuf,
    file: File,
    /// Device and inode; `None`: a pipe, which is read once.
    identity: Option<(u64, u64)>,
    is_packed: bool,
    first_line: Vec<u8>,
    /// Stream, first number, time of the first record.
    place: Option<(Vec<u8>, u64, i64)>,
}

impl Input {
    /// Opens a file, or standard input for `-`, and looks at its first record.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path, reader: &mut Reader) -> io::Result<Self> {
        let file = if path == Path::new("-") {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(path)?
        };
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let identity = metadata.is_file().then(|| (metadata.dev(), metadata.ino()));
        let mut input = Self {
            path: path.to_owned(),
            file,
            identity,
            is_packed: false,
            first_line: Vec::new(),
            place: None,
        };
        if identity.is_some() {
            input.look(reader)?;
        }
        Ok(input)
    }

    fn look(&mut self, reader: &mut Reader) -> io::Result<()> {
        let mut head = [0; 4];
        let count = self.file.read_at(&mut head, 0)?;
        self.is_packed = Packing::infer(head.get(..count).unwrap_or_default()) != Packing::Plain;
        let mut lines = self.lines()?;
        let mut wrong = Vec::new();
        for _ in 0..TRIED {
            let Ok(Step::Line | Step::Unended) = lines.advance() else { break };
            if self.first_line.is_empty() {
                self.first_line = lines.line().to_vec();
            }
            if let Some(record) = reader.read(lines.line(), &mut wrong) {
                let stream = record.text(f::STREAM).unwrap_or_default().to_vec();
                self.place = Some((stream, record.n, record.ts));
                break;
            }
        }
        Ok(())
    }

    /// Its lines, from the start where there is one.
    ///
    /// # Errors
    /// What the system says.
    pub fn lines(&self) -> io::Result<Lines> {
        let mut file = self.file.try_clone()?;
        if self.identity.is_some() {
            file.rewind()?;
        }
        Ok(Lines::new(unpack(file)?, self.identity.is_none()))
    }

    /// A compression under way leaves both: a first line is unique by its chain.
    fn is_copy_of(&self, plain: &Self) -> bool {
        let has_its_name =
            self.path.file_stem() == plain.path.file_name() && self.path.parent() == plain.path.parent();
        self.is_packed && !plain.is_packed && has_its_name && self.first_line == plain.first_line
    }
}

/// Each file once, in order. Pipes come last, as they were named; so do files without a record.
pub fn in_order(inputs: Vec<Input>) -> Vec<Input> {
    let mut kept: Vec<Input> = Vec::new();
    for input in inputs {
        if input.identity.is_none() || !kept.iter().any(|other| other.identity == input.identity) {
            kept.push(input);
        }
    }
    let copies: Vec<bool> =
        kept.iter().map(|input| kept.iter().any(|plain| input.is_copy_of(plain))).collect();
    let mut keep = copies.into_iter().map(|is_copy| !is_copy);
    kept.retain(|_| keep.next().unwrap_or(true));
    let begins = |stream: &[u8]| {
        let places = kept.iter().filter_map(|input| input.place.as_ref());
        places.filter(|(of, ..)| of == stream).map(|(.., ts)| *ts).min()
    };
    type Key = (bool, Option<i64>, Option<(Vec<u8>, u64)>);
    let keys: Vec<Key> = kept
        .iter()
        .map(|input| match &input.place {
            Some((stream, n, _)) => (false, begins(stream), Some((stream.clone(), *n))),
            None => (true, None, None),
        })
        .collect();
    let mut keyed: Vec<(Key, Input)> = keys.into_iter().zip(kept).collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    keyed.into_iter().map(|(_, input)| input).collect()
}
