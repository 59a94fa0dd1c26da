//! Signals as messages.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: open the log again and read the configuration again.
    Reload,
    /// SIGINT or SIGTERM, by name.
    Stop(&'static str),
}

/// Delivers signals from a thread of its own.
///
/// SIGXFSZ is caught and means nothing: a file size limit is then an error of `write`, as any full disk.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn install(deliver: impl Fn(Signal) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGXFSZ])?;
    let work = move || {
        for number in signals.forever() {
            match number {
                SIGHUP => deliver(Signal::Reload),
                SIGINT => deliver(Signal::Stop("SIGINT")),
                SIGTERM => deliver(Signal::Stop("SIGTERM")),
                _ => {}
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).stack_size(64 * 1024).spawn(work).map(drop)
}
