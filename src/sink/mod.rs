//! Where records go: standard output or a file, as JSON or as text.
//!
//! Knows no stage. A record that cannot be written waits in bounded memory and is tried again; what memory cannot hold
//! is counted, and the first record after recovery is a `gap` that tells how many. A destination that would block is
//! left for the next turn, so that a slow reader never holds up the watch.

mod file;
mod stdout;
mod stream;

use std::collections::VecDeque;
use std::fmt;
use std::io;

pub use file::{Incident, LogFile};
pub use stdout::Stdout;
pub use stream::{GENESIS, Stream};

use crate::connection::Moment;
use crate::event::{Body, Event, Gap, Renderer, What};
use crate::text::{Style, line};

/// Bytes of records that wait at most.
pub const BACKLOG: usize = 4 * 1024 * 1024;

/// How records are written.
#[derive(Debug, Clone)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// One line for people.
    Text(Style),
}

/// Where they are written.
#[derive(Debug)]
pub enum Destination {
    /// Standard output.
    Stdout(Stdout),
    /// A file that is rotated.
    File(LogFile),
}

impl Destination {
    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.finish(),
            Self::File(_) => Ok(()),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Stdout(stdout) => stdout.is_done(),
            Self::File(_) => true,
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write(line),
            Self::File(file) => file.append(line),
        }
    }
}

/// Why the daemon must stop writing for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

/// Records on their way.
pub struct Sink {
    renderer: Renderer,
    stream: Stream,
    format: Format,
    destination: Destination,
    waiting: VecDeque<Body>,
    waiting_bytes: usize,
    /// What could not be kept since the last record that was written.
    dropped: Option<Dropped>,
    lost: u64,
    /// The last error, until a write succeeds.
    failing: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Dropped {
    from: Moment,
    to: Moment,
    count: u64,
}

impl Sink {
    /// Nothing is written yet.
    #[must_use]
    pub fn new(renderer: Renderer, stream: Stream, format: Format, destination: Destination) -> Self {
        Self {
            renderer,
            stream,
            format,
            destination,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            dropped: None,
            lost: 0,
            failing: None,
        }
    }

    /// Takes an event; it is written by `flush`.
    pub fn push(&mut self, event: &Event) {
        let body = self.renderer.render(event);
        let size = size_of(&body);
        if self.waiting_bytes + size > BACKLOG {
            // More than memory may hold came at once: what can be written goes now. `flush` says if nobody reads.
            let _ = self.flush(event.at);
        }
        if self.waiting_bytes + size > BACKLOG {
            self.lost += 1;
            let dropped = self.dropped.get_or_insert(Dropped { from: event.at, to: event.at, count: 0 });
            (dropped.to, dropped.count) = (event.at, dropped.count + 1);
            return;
        }
        self.waiting_bytes += size;
        self.waiting.push_back(body);
    }

    /// Writes what waits, as much as can be written now. An error leaves the rest waiting.
    ///
    /// # Errors
    /// `ReaderGone` if standard output is a pipe that nobody reads.
    pub fn flush(&mut self, now: Moment) -> Result<(), ReaderGone> {
        if self.is_idle() {
            return Ok(());
        }
        if let Err(e) = self.write_waiting(now) {
            if matches!(self.destination, Destination::Stdout(_)) && e.kind() == io::ErrorKind::BrokenPipe {
                return Err(ReaderGone);
            }
            self.report(&e);
            return Ok(());
        }
        if let Some(Dropped { from, to, count }) = self.dropped.take() {
            let detail = self.failing.clone();
            let gap = Gap { cause: "backlog_full", from, to, count: Some(count), detail };
            self.push(&Event { at: now, what: What::Gap(Box::new(gap)) });
            return self.flush(now);
        }
        if self.failing.take().is_some() {
            log::warn!("records are written again");
        }
        Ok(())
    }

    fn write_waiting(&mut self, now: Moment) -> io::Result<()> {
        self.look_at_the_file(now)?;
        while let Some(body) = self.waiting.pop_front() {
            if let Err(e) = self.write(&body) {
                self.waiting.push_front(body);
                return Err(e);
            }
            self.waiting_bytes = self.waiting_bytes.saturating_sub(size_of(&body));
        }
        self.destination.finish()
    }

    fn write(&mut self, body: &Body) -> io::Result<()> {
        match &self.format {
            Format::Json => {
                let sealed = self.stream.seal(&body.json);
                self.destination.write(&sealed.line)?;
                self.stream.commit(&sealed);
            }
            Format::Text(style) => {
                let mut text = line(body.at.wall, &body.message, style);
                text.push('\n');
                self.destination.write(text.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Says a failure once, not once for each record.
    fn report(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            return;
        }
        let text = match &self.destination {
            Destination::Stdout(_) => format!("cannot write to standard output: {error}"),
            Destination::File(file) => format!("cannot write {}: {error}", file.path().display()),
        };
        if self.failing.as_ref() != Some(&text) {
            log::error!("{text}; records wait in memory and are tried again");
            self.failing = Some(text);
        }
    }

    /// Opens the file again if it was renamed, removed or cut underneath; tells a new file's first record.
    fn look_at_the_file(&mut self, now: Moment) -> io::Result<()> {
        if let Destination::File(file) = &mut self.destination {
            let incidents = file.look()?;
            self.tell_incidents(&incidents, now);
        }
        Ok(())
    }

    /// Puts records about the file itself before those that wait: they are a file's first.
    fn tell_incidents(&mut self, incidents: &[Incident], now: Moment) {
        let path = match &self.destination {
            Destination::File(file) => file.path().display().to_string(),
            Destination::Stdout(_) => return,
        };
        // They stand before what waits, and so does their time.
        let now =
            self.waiting.front().map_or(now, |first| if first.at.boot < now.boot { first.at } else { now });
        for incident in incidents.iter().rev() {
            let path = path.clone();
            let what = match incident {
                Incident::Opened { previous } => What::LogOpened { path, previous: previous.clone() },
                Incident::Repaired { offset, bytes } => {
                    What::LogRepaired { path, offset: *offset, bytes: *bytes }
                }
                Incident::Truncated { lost_bytes } => What::Gap(Box::new(Gap {
                    cause: "log_truncated",
                    from: now,
                    to: now,
                    count: None,
                    detail: Some(format!("{lost_bytes} bytes of the log were cut off by another program")),
                })),
            };
            let body = self.renderer.render(&Event { at: now, what });
            self.waiting_bytes += size_of(&body);
            self.waiting.push_front(body);
        }
    }

    /// Records that memory could not hold, so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// True if everything was written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.dropped.is_none() && self.destination.is_done()
    }

    /// Asks the disk to keep what was written.
    pub fn sync(&mut self) {
        if let Destination::File(file) = &self.destination
            && let Err(e) = file.sync()
        {
            log::warn!("cannot sync {}: {e}", file.path().display());
        }
    }
}

fn size_of(body: &Body) -> usize {
    body.json.len() + body.message.len()
}

#[cfg(test)]
mod tests;
