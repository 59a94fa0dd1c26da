//! Where records go: standard output or a file, as JSON or as text.
//!
//! Knows no stage. A record that cannot be written waits in bounded memory and is tried again; what memory cannot hold
//! is counted, and the first record after recovery is a `gap` that tells how many. A destination that would block is
//! left for the next turn, so that a slow reader never holds up the watch.

mod file;
mod stdout;
mod stream;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;

use uuid::Uuid;

pub use file::{Incident, LogFile};
pub use stdout::Stdout;
pub use stream::{GENESIS, Stream, chain};

use crate::connection::Moment;
use crate::event::{Body, Event, Gap, Host, Renderer, What};
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
    /// What happened to the file and is not told yet.
    incidents: VecDeque<Incident>,
    /// True until it was asked whether the file is another.
    is_new: bool,
    /// Moment of the last record that was taken.
    last: Moment,
}

#[derive(Debug, Clone)]
struct Dropped {
    from: Moment,
    to: Moment,
    lost: BTreeMap<&'static str, u64>,
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
            incidents: VecDeque::new(),
            is_new: false,
            last: Moment::default(),
        }
    }

    /// Takes an event; it is written by `flush`.
    pub fn push(&mut self, event: &Event) {
        self.last = event.at;
        if let What::Stopped { .. } = event.what {
            // The last one: what is still to be said comes before it, and there is room for both.
            let gap = self.take_dropped(event.at);
            gap.iter().chain([event]).for_each(|event| self.keep(event));
            return;
        }
        let body = self.renderer.render(event);
        let size = size_of(&body);
        if self.waiting_bytes + size > BACKLOG {
            // More than memory may hold came at once: what can be written goes now. `flush` says if nobody reads.
            let _ = self.flush(event.at);
        }
        // What an open and its close repeat is given up first.
        let room = if body.action == "connection-changed" { BACKLOG / 4 * 3 } else { BACKLOG };
        if self.waiting_bytes + size > room {
            self.lost += 1;
            let dropped = self.dropped.get_or_insert_with(|| Dropped {
                from: event.at,
                to: event.at,
                lost: BTreeMap::new(),
            });
            dropped.to = event.at;
            *dropped.lost.entry(body.action).or_default() += 1;
            return;
        }
        self.waiting_bytes += size;
        self.waiting.push_back(body);
    }

    fn keep(&mut self, event: &Event) {
        let body = self.renderer.render(event);
        self.waiting_bytes += size_of(&body);
        self.waiting.push_back(body);
    }

    /// What tells how many records had no room.
    fn take_dropped(&mut self, at: Moment) -> Option<Event> {
        let Dropped { from, to, lost } = self.dropped.take()?;
        let (detail, count) = (self.failing.clone(), Some(lost.values().sum()));
        let gap = Gap { cause: "backlog_full", from, to, count, detail, lost };
        Some(Event { at, what: What::Gap(Box::new(gap)) })
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
        if let Some(gap) = self.take_dropped(now) {
            self.push(&gap);
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

    /// Opens the file again if it was renamed, removed or cut underneath; tells what happened to it, before what waits:
    /// that is a file's first record.
    fn look_at_the_file(&mut self, now: Moment) -> io::Result<()> {
        let Destination::File(file) = &mut self.destination else { return Ok(()) };
        let incidents = file.look()?;
        if !incidents.is_empty() && incidents.iter().any(|i| matches!(i, Incident::Opened { .. })) {
            // Of a file in which nothing was told, nothing is told.
            self.incidents.retain(|incident| !matches!(incident, Incident::Opened { .. }));
            self.is_new = true;
        }
        self.incidents.extend(incidents);
        // They stand before what waits, and so does their time.
        let first = self.waiting.front().map(|first| first.at);
        let at = first.filter(|first| first.boot < now.boot).unwrap_or(now);
        while let Some(incident) = self.incidents.front() {
            let event = Event { at, what: self.tell(incident) };
            let body = self.renderer.render(&event);
            self.write(&body)?;
            self.incidents.pop_front();
        }
        Ok(())
    }

    fn tell(&self, incident: &Incident) -> What {
        let path = match &self.destination {
            Destination::File(file) => file.path().display().to_string(),
            Destination::Stdout(_) => String::new(),
        };
        match incident {
            Incident::Opened { previous } => {
                let (sequence, chain) = self.stream.place();
                let chain = String::from_utf8_lossy(&chain).into_owned();
                What::LogOpened { path, previous: previous.clone(), sequence, chain }
            }
            Incident::Repaired { offset, bytes } => {
                What::LogRepaired { path, offset: *offset, bytes: *bytes }
            }
            Incident::Truncated { lost_bytes } => What::Gap(Box::new(Gap {
                cause: "log_truncated",
                from: self.last,
                to: self.last,
                count: None,
                detail: Some(format!("{lost_bytes} bytes of the log were cut off by another program")),
                lost: BTreeMap::new(),
            })),
        }
    }

    /// What records repeat of the machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        self.renderer.host()
    }

    /// An id later than all that records bear so far.
    pub fn new_id(&mut self, at: Moment) -> Uuid {
        self.renderer.new_id(at)
    }

    /// Number and chain of the last record that was written.
    #[must_use]
    pub fn place(&self) -> (u64, [u8; 64]) {
        self.stream.place()
    }

    /// The log, where there is one.
    #[must_use]
    pub fn file(&self) -> Option<&LogFile> {
        match &self.destination {
            Destination::File(file) => Some(file),
            Destination::Stdout(_) => None,
        }
    }

    /// True once if another file has been begun since the last call.
    pub fn took_new_file(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
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
}

fn size_of(body: &Body) -> usize {
    body.json.len() + body.message.len()
}

#[cfg(test)]
mod tests;
