//! `portreeve show`: prints logs as text or JSON, filtered, the oldest first, and follows the live one.
//! Knows nothing of the command line or of exit codes; it reports what it could not show.
//! Order: files by the time of their first record, lines as they stand, because a clock may step back but a log does not.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use super::files::{self, Log};
use super::filter::Filter;
use super::follow::follow;
use super::notice::{Notice, shown};
use super::printer::Printer;
use crate::text::Style;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Show {
    /// Which files.
    pub logs: Logs,
    /// After the end wait for more, until the caller says stop.
    pub follow: bool,
    /// Which records.
    pub filter: Filter,
    /// As what.
    pub format: Format,
    /// How text looks. Not looked at for JSON.
    pub style: Style,
}

/// Which files make up the log.
#[derive(Clone, Debug)]
pub enum Logs {
    /// The file that the service writes, after its rotated neighbours in the same folder (`NAME.*`, `NAME-*`).
    Live(PathBuf),
    /// These files, in any order; `-` is standard input. With `follow`, the last plain one may grow.
    Listed(Vec<PathBuf>),
}

/// As what records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Time and message.
    Text,
    /// The log's own lines, byte for byte.
    Json,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records printed.
    pub shown: u64,
    /// Notices of things that could not be shown. The exit code is 1 unless it is 0.
    pub failures: u64,
}

/// Why there was nothing to show, or no way to show it.
#[derive(Debug)]
pub enum ShowError {
    /// Neither the live log nor a rotated one exists.
    NoLog {
        /// The live log.
        path: PathBuf,
    },
    /// The followed file cannot be read any more.
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output takes no more. A closed pipe is no error.
    Write(io::Error),
}

/// Prints the logs into `out` and says what cannot be shown through `say`, until the end or until `stop` says so.
///
/// Reads each file once, line by line, in bounded memory. All files are kept open from the start, so that rotation
/// takes none away: one descriptor each. A file and its compressed copy (`X`, `X.gz`) that begin with the same record
/// are shown once; other copies are not known as such.
///
/// # Errors
/// `NoLog` where the default log does not exist, `Write` where the output fails, `Read` where the followed file does.
pub fn run(
    show: &Show,
    out: &mut dyn Write,
    say: &mut dyn FnMut(&Notice),
    stop: &dyn Fn() -> bool,
) -> Result<Summary, ShowError> {
    let mut printer = Printer::new(show, out, say, stop);
    match print(show, &mut printer) {
        Err(ShowError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(printer.summary()),
        Err(error) => Err(error),
        Ok(()) => Ok(printer.summary()),
    }
}

fn print(show: &Show, printer: &mut Printer<'_>) -> Result<(), ShowError> {
    let mut awaited = None;
    let mut logs = open(show, printer, &mut awaited);
    if let (Logs::Live(path), true, false) = (&show.logs, logs.is_empty(), show.follow) {
        return if printer.summary().failures > 0 {
            Ok(())
        } else {
            Err(ShowError::NoLog { path: path.clone() })
        };
    }
    let live = if show.follow && awaited.is_none() { take_live(show, &mut logs, &mut awaited) } else { None };
    for log in &logs {
        printer.print_log(log)?;
    }
    match (live, awaited) {
        (Some(log), _) => follow(printer, &log.path.clone(), Some(log)),
        (None, Some(path)) => follow(printer, &path, None),
        (None, None) => {
            if show.follow && !logs.iter().any(Log::is_pipe) {
                printer.note(&Notice::NothingToFollow);
            }
            Ok(())
        }
    }
}

/// Opens the logs in the order to show. To follow, one listed file may be missing: it is put into `awaited`.
fn open(show: &Show, printer: &mut Printer<'_>, awaited: &mut Option<PathBuf>) -> Vec<Log> {
    match &show.logs {
        Logs::Live(path) => files::open_with_rotated(path, &mut |notice| printer.note(&notice)),
        Logs::Listed(paths) => files::open_listed(paths, &mut |notice| match notice {
            Notice::Open { path, source }
                if show.follow && awaited.is_none() && source.kind() == io::ErrorKind::NotFound =>
            {
                *awaited = Some(path);
            }
            _ => printer.note(&notice),
        }),
    }
}

/// Takes the file that may grow out of the others: the live log, or the last listed file that is not compressed.
fn take_live(show: &Show, logs: &mut Vec<Log>, awaited: &mut Option<PathBuf>) -> Option<Log> {
    let at = match &show.logs {
        Logs::Live(path) => {
            let at = logs.iter().position(|log| log.path == *path);
            if at.is_none() {
                *awaited = Some(path.clone());
            }
            at
        }
        Logs::Listed(_) => logs.iter().rposition(Log::is_followable),
    };
    at.map(|at| logs.remove(at))
}

impl fmt::Display for ShowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShowError::NoLog { path } => {
                write!(f, "there is no log at {}: name one, or start the watch", shown(path))
            }
            ShowError::Read { path, .. } => write!(f, "cannot read {}", shown(path)),
            ShowError::Write(_) => f.write_str("cannot write the output"),
        }
    }
}

impl std::error::Error for ShowError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ShowError::NoLog { .. } => None,
            ShowError::Read { source, .. } | ShowError::Write(source) => Some(source),
        }
    }
}
