//! What `show` has to say beside the records: files that cannot be read, lines that are none.
//! Knows nothing of where it is printed; it quotes no log text, and paths only escaped.
//! Truth: the errors of the readers; `is_failure` decides the exit code.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::lines::LIMIT_BYTES;
use crate::text;

/// A remark for stderr.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The file is not there or may not be read: the others are shown.
    Open {
        /// The file as it was named.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Reading ended before the file did: a compression under way, or damage. What came before was shown.
    Cut {
        /// The file as it was named.
        path: PathBuf,
        /// What the reader or the decompressor said.
        source: io::Error,
    },
    /// Lines that are no records were left out; one notice a file.
    Lines {
        /// The file as it was named.
        path: PathBuf,
        /// Number of the first such line, from 1.
        line: u64,
        /// What is wrong with that line.
        flaw: Flaw,
        /// How many more there are.
        others: u64,
    },
    /// The file to follow does not exist yet.
    Waiting {
        /// The file as it was named.
        path: PathBuf,
    },
    /// The followed file was cut and begins anew; no copy was found in which what it lost could be read.
    Truncated {
        /// The file as it was named.
        path: PathBuf,
    },
    /// Every given file is compressed: none can grow.
    NothingToFollow,
}

/// Why a line is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// It holds bytes that are no UTF-8.
    NoUtf8,
    /// It is no JSON text.
    NoJson {
        /// Where the parser gave up, from 1.
        column: usize,
    },
    /// It is JSON, but not an object with `@timestamp`, `message` and the types that portreeve-events(5) names.
    NoRecord,
    /// It is longer than 64 KiB, which no record is.
    TooLong,
    /// The file ends within it.
    Torn,
}

impl Notice {
    /// Whether something asked for could not be shown, so that the exit code has to say so.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        match self {
            Notice::Open { .. } | Notice::Cut { .. } | Notice::Lines { .. } | Notice::NothingToFollow => true,
            Notice::Waiting { .. } | Notice::Truncated { .. } => false,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Open { path, source } => write!(f, "cannot open {}: {source}", shown(path)),
            Notice::Cut { path, source } => {
                write!(f, "{}: cut or damaged, shown as far as it could be read: {source}", shown(path))
            }
            Notice::Lines { path, line, flaw, others: 0 } => write!(f, "{}:{line}: {flaw}", shown(path)),
            Notice::Lines { path, line, flaw, others } => {
                write!(f, "{}:{line}: {flaw} ({others} more in this file are no records)", shown(path))
            }
            Notice::Waiting { path } => write!(f, "{} does not exist yet: waiting for it", shown(path)),
            Notice::Truncated { path } => write!(f, "{} was truncated: going on from its start", shown(path)),
            Notice::NothingToFollow => f.write_str("nothing to follow: every given log is compressed"),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::NoUtf8 => f.write_str("line is no UTF-8"),
            Flaw::NoJson { column } => write!(f, "line is no JSON at column {column}"),
            Flaw::NoRecord => f.write_str("line is no record of portreeve"),
            Flaw::TooLong => write!(f, "line is longer than {} KiB", LIMIT_BYTES / 1024),
            Flaw::Torn => f.write_str("the file ends within the line"),
        }
    }
}

/// A path for a terminal: whoever can create a file chooses its name.
pub(super) fn shown(path: &Path) -> String {
    text::escape(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_names_the_file_and_cannot_be_forged_by_its_name() {
        let path = PathBuf::from("/tmp/\x1b]0;x\x07");
        let flaw = Flaw::NoJson { column: 3 };
        let one = Notice::Lines { path: path.clone(), line: 17, flaw, others: 0 };
        assert_eq!(one.to_string(), "/tmp/\\u{1b}]0;x\\u{7}:17: line is no JSON at column 3");
        let many = Notice::Lines { path, line: 17, flaw: Flaw::TooLong, others: 3 };
        assert!(
            many.to_string()
                .ends_with(":17: line is longer than 64 KiB (3 more in this file are no records)")
        );
    }
}
