//! Logs into a model: files in their order, lines one at a time; what is no record is noted.
//! Knows nothing of what a record means.

use std::path::PathBuf;

use super::model::Model;
use super::record::Record;
use crate::report::files::{self, Log};
use crate::report::lines::Step;
use crate::report::notice::{Flaw, Notice};
use crate::report::printer::Flaws;
use crate::report::show::Logs;

/// What was read, and how many things could not be.
pub(crate) struct Read {
    pub model: Model,
    pub failures: u64,
}

/// Reads all logs, each line once.
///
/// # Errors
/// The path of the default log, where neither it nor a rotated one exists.
pub(crate) fn read(logs: &Logs, say: &mut dyn FnMut(&Notice)) -> Result<Read, PathBuf> {
    let mut read = Read { model: Model::default(), failures: 0 };
    let mut note = |failures: &mut u64, notice: &Notice| {
        *failures += u64::from(notice.is_failure());
        say(notice);
    };
    let mut failures = 0;
    let opened = match logs {
        Logs::Live(path) => files::open_with_rotated(path, &mut |notice| note(&mut failures, &notice)),
        Logs::Listed(paths) => files::open_listed(paths, &mut |notice| note(&mut failures, &notice)),
    };
    if let (Logs::Live(path), true, 0) = (logs, opened.is_empty(), failures) {
        return Err(path.clone());
    }
    for log in &opened {
        read_log(log, &mut read.model, &mut |notice| note(&mut failures, notice));
    }
    read.failures = failures;
    read.model.finish();
    Ok(read)
}

fn read_log(log: &Log, model: &mut Model, note: &mut dyn FnMut(&Notice)) {
    let mut flaws = Flaws::new(&log.path);
    let mut lines = match log.lines() {
        Ok(lines) => lines,
        Err(source) => return note(&Notice::Cut { path: log.path.clone(), source }),
    };
    let failure = loop {
        let outcome = match lines.advance() {
            Ok(Step::End) => break None,
            Ok(Step::TooLong) => Err(Flaw::TooLong),
            Ok(Step::Line) => take(model, lines.line()),
            Err(source) => break Some(source),
        };
        if let Err(flaw) = outcome {
            flaws.add(lines.number(), flaw);
        }
    };
    if lines.is_torn() {
        let is_whole = lines.rest().is_some_and(|rest| take(model, rest).is_ok());
        // Where reading failed, the notice of that explains the torn line.
        if !is_whole && failure.is_none() {
            flaws.add(lines.number() + 1, Flaw::Torn);
        }
    }
    if let Some(source) = failure {
        note(&Notice::Cut { path: log.path.clone(), source });
    }
    if let Some(notice) = flaws.tell() {
        note(&notice);
    }
}

fn take(model: &mut Model, line: &[u8]) -> Result<(), Flaw> {
    let line = std::str::from_utf8(line).map_err(|_| Flaw::NoUtf8)?;
    let (at, record) = Record::parse(line)?;
    model.take(at, &record);
    Ok(())
}
