//! Diagnostics of the program itself, on standard error: never records.
//! They quote paths and configuration: no terminal and no journal may take a part of one for its own.

use std::io;

use flexi_logger::{DeferredNow, ErrorChannel, FlexiLoggerError, Logger, LoggerHandle, WriteMode};
use log::{Level, Record};

use crate::sink::LogFile;
use crate::text::harmless;

/// Starts diagnostics. The log file is plugged in so that one call opens everything again. Keep the handle.
///
/// # Errors
/// If a logger is running already.
pub fn start(level: log::LevelFilter, file: Option<&LogFile>) -> Result<LoggerHandle, FlexiLoggerError> {
    let format = if std::env::var_os("JOURNAL_STREAM").is_some() { for_journal } else { for_people };
    let mut logger = Logger::with(level)
        .format(format)
        .write_mode(WriteMode::Direct)
        .log_to_stderr()
        .error_channel(ErrorChannel::DevNull)
        .panic_if_error_channel_is_broken(false);
    if let Some(file) = file {
        logger = logger.add_writer("events", Box::new(file.clone()));
    }
    logger.start()
}

fn for_people(out: &mut dyn io::Write, _now: &mut DeferredNow, record: &Record<'_>) -> io::Result<()> {
    let level = match record.level() {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        _ => "",
    };
    write!(out, "portreeve: {level}{}", harmless(&record.args().to_string()))
}

/// The journal adds time and name itself, and takes the priority from the first characters (sd-daemon(3)).
fn for_journal(out: &mut dyn io::Write, _now: &mut DeferredNow, record: &Record<'_>) -> io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    write!(out, "<{priority}>{}", harmless(&record.args().to_string()))
}
