//! The live end of the log: waits for more, and stays with it through rotation.
//! Knows nothing of signals or sockets: a file that is looked at five times a second until the caller says stop.
//! logrotate(8): `create` renames the file and makes a new one, `copytruncate` copies it and cuts it to nothing.
#![expect(clippy::disallowed_methods, reason = "a reader that waits for the log to grow")]

use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::files::{self, Identity, Log};
use super::lines::Lines;
use super::notice::Notice;
use super::printer::{Flaws, Printer};
use super::show::ShowError;

/// Between two looks at the file: a reader's eye does not notice it, nor does the machine.
const POLL: Duration = Duration::from_millis(200);

/// Between two looks at whether to stop.
const STOP_POLL: Duration = Duration::from_millis(50);

struct Live {
    log: Log,
    lines: Lines,
    flaws: Flaws,
}

/// What has become of the path since the last look.
enum Change {
    Nothing,
    Truncated,
    /// Another file stands there and holds something: nothing more comes into the old one.
    Replaced(Log),
}

/// Prints `found`, or what will appear at `path`, and whatever is written there until the caller says stop.
///
/// # Errors
/// `Write`, or `Read` where the file cannot be read any more.
pub(super) fn follow(printer: &mut Printer<'_>, path: &Path, found: Option<Log>) -> Result<(), ShowError> {
    let log = match found {
        Some(log) => Some(log),
        None => await_file(printer, path).map_err(unreadable(path))?,
    };
    let Some(log) = log else { return Ok(()) };
    let mut live = Live::new(log)?;
    let mut is_hidden = false;
    while !printer.is_stopped() {
        printer.print_available(&mut live.lines, &mut live.flaws)?;
        printer.tell_while_growing(&mut live.flaws);
        wait(printer);
        match live.look() {
            Ok(Change::Nothing) => is_hidden = false,
            Ok(Change::Truncated) => live = live.restarted(printer)?,
            Ok(Change::Replaced(log)) => live = live.replaced_by(log, printer)?,
            // Told once: it may become readable again, and the old file may still grow.
            Err(source) if !is_hidden => {
                is_hidden = true;
                printer.note(&Notice::Open { path: path.to_owned(), source });
            }
            Err(_) => {}
        }
    }
    printer.tell_at_end(&mut live.flaws);
    Ok(())
}

impl Live {
    fn new(log: Log) -> Result<Live, ShowError> {
        let lines = log.lines().map_err(unreadable(&log.path))?;
        let flaws = Flaws::new(&log.path);
        Ok(Live { log, lines, flaws })
    }

    fn look(&self) -> io::Result<Change> {
        let metadata = match fs::metadata(&self.log.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Change::Nothing),
            outcome => outcome?,
        };
        if self.log.identity() == Some(Identity::of(&metadata)) {
            let is_truncated = self.log.is_truncated(self.lines.read_bytes(), self.lines.place())?;
            return Ok(if is_truncated { Change::Truncated } else { Change::Nothing });
        }
        if !metadata.is_file() {
            return Ok(Change::Nothing);
        }
        match Log::open(&self.log.path) {
            // logrotate makes the new file first and has the daemon reopen later: as long as nothing is in it, the
            // daemon still writes into the old one.
            Ok(log) if log.is_empty()? => Ok(Change::Nothing),
            Ok(log) => Ok(Change::Replaced(log)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Change::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Goes on at the start of the same file, after what it held when it was cut, if a copy was made.
    fn restarted(mut self, printer: &mut Printer<'_>) -> Result<Live, ShowError> {
        printer.tell_at_end(&mut self.flaws);
        let place = self.lines.place();
        let rotated =
            files::in_order(files::open_rotated(&self.log.path, &mut |notice| printer.note(&notice)));
        // The newest first: the copy has just been made.
        let copy = rotated
            .into_iter()
            .rev()
            .find_map(|copy| copy.lines_behind(place).ok().flatten().map(|lines| (copy, lines)));
        match copy {
            Some((copy, mut lines)) => printer.print_to_end(&mut lines, &mut Flaws::new(&copy.path))?,
            None => printer.note(&Notice::Truncated { path: self.log.path.clone() }),
        }
        Live::new(self.log)
    }

    /// Finishes the old file and goes on in the new one.
    ///
    /// Where the output was blocked for long, files may have come and gone in between: those whose first record
    /// lies between the two files' are shown too.
    fn replaced_by(mut self, new: Log, printer: &mut Printer<'_>) -> Result<Live, ShowError> {
        printer.print_to_end(&mut self.lines, &mut self.flaws)?;
        self.log.look();
        let between = files::open_rotated(&new.path, &mut |notice| printer.note(&notice));
        for log in files::in_order(between) {
            let is_one_of_them = [self.log.identity(), new.identity()].contains(&log.identity());
            let is_later = log.first_time > self.log.first_time && self.log.first_time.is_some();
            let is_earlier = new.first_time.is_none() || log.first_time < new.first_time;
            if !is_one_of_them && is_later && is_earlier {
                printer.print_log(&log)?;
            }
        }
        Live::new(new)
    }
}

/// Waits until the file can be opened. `None`: the caller said stop.
fn await_file(printer: &mut Printer<'_>, path: &Path) -> io::Result<Option<Log>> {
    printer.note(&Notice::Waiting { path: path.to_owned() });
    while !printer.is_stopped() {
        wait(printer);
        match Log::open(path) {
            Ok(log) => return Ok(Some(log)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn wait(printer: &Printer<'_>) {
    let mut left = POLL;
    while !left.is_zero() && !printer.is_stopped() {
        sleep(STOP_POLL);
        left = left.saturating_sub(STOP_POLL);
    }
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> ShowError {
    move |source| ShowError::Read { path: path.to_owned(), source }
}
