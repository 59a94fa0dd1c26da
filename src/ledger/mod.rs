//! The log with its memory: records on their way, the state beside the log, and what waits for the disk.
//!
//! Everything that may wait for a disk is done by one thread (`disk`), but for `--sync always`, which is meant to wait.

mod disk;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::cli::SyncChoice;
use crate::connection::{Connection, Moment};
use crate::event::{Event, Host, Renderer};
use crate::sink::{Destination, Format, ReaderGone, Sink, Stream};
use crate::state::{Folder, Live, Past, Place, State};

use disk::{Disk, Done};

/// A state that took so long to save is saved again after this many times as long: 50,000 connections are 100 MB.
const SAVE_SHARE: u32 = 100;

/// What is opened before a watch begins.
#[derive(Debug)]
pub struct Output {
    /// How records are written.
    pub format: Format,
    /// Where to.
    pub destination: Destination,
    /// `None`: each run begins a stream of its own.
    pub state: Option<Folder>,
    /// When the disk is waited for.
    pub sync: SyncChoice,
}

/// What is known of the runs before.
#[derive(Debug, Default)]
pub struct Beginning {
    /// `new`, `continued` or `lost`.
    pub stream: &'static str,
    /// Why it is not `continued`.
    pub reason: Option<String>,
    /// Moment of the last record, and true if its run ended with it.
    pub previous: Option<(Moment, bool)>,
    /// What was open then.
    pub live: Vec<Live>,
    /// No id that was given so far is later.
    pub last_id: Option<Uuid>,
}

/// The log.
pub struct Ledger {
    sink: Sink,
    stream: String,
    sync: SyncChoice,
    /// `None`: there is no file.
    disk: Option<Disk>,
    keeps_state: bool,
    /// Epoch of the last seal that was told.
    seal: Option<u64>,
    wants_save: bool,
    saved: Duration,
    save_again: Duration,
    /// Number of the last record that the disk was asked to keep.
    asked: u64,
    /// Moment of the last record.
    told: Moment,
    /// Kinds of failures that have been told and have not passed.
    failing: Vec<&'static str>,
}

/// A stream to go on with, and what is known of it.
#[derive(Debug)]
pub struct Found {
    stream: Stream,
    id: Option<String>,
    seal: Option<u64>,
    /// For the daemon.
    pub beginning: Beginning,
}

/// Reads what the runs before left.
#[must_use]
pub fn find(output: &Output) -> Found {
    let past = match (&output.state, &output.destination) {
        (Some(folder), Destination::File(file)) => folder.past(&file.path()),
        _ => Past::None,
    };
    let anew = |stream, reason| Found {
        stream: Stream::default(),
        id: None,
        seal: None,
        beginning: Beginning { stream, reason, ..Beginning::default() },
    };
    match past {
        Past::None => anew("new", None),
        Past::Lost(why) => anew("lost", Some(why)),
        Past::Known(state) => {
            let State { stream, sequence, chain, at, is_clean, last_id, seal, live, .. } = *state;
            let beginning = Beginning {
                stream: "continued",
                reason: None,
                previous: Some((at, is_clean)),
                live,
                last_id: Some(last_id),
            };
            Found { stream: Stream::resume(sequence, chain), id: Some(stream), seal, beginning }
        }
    }
}

impl Ledger {
    /// Goes on with what was found, or begins. `new_id` gives ids later than all before.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn new(
        output: Output,
        found: Found,
        host: Host,
        mut new_id: impl FnMut(Moment) -> Uuid + 'static,
        at: Moment,
    ) -> std::io::Result<(Self, Beginning)> {
        let Output { format, destination, state, sync } = output;
        let Found { stream, id, seal, beginning } = found;
        let keeps_state = state.is_some();
        let disk = match &destination {
            Destination::File(_) => Some(Disk::start(state, host.clone(), sync != SyncChoice::Never)?),
            Destination::Stdout(_) => None,
        };
        let id = id.unwrap_or_else(|| new_id(at).to_string());
        let renderer = Renderer::new(host, id.clone(), new_id(at).to_string(), Box::new(new_id));
        let (asked, _) = stream.place();
        let ledger = Self {
            sink: Sink::new(renderer, stream, format, destination),
            stream: id,
            sync,
            disk,
            keeps_state,
            seal,
            wants_save: true,
            saved: Duration::ZERO,
            save_again: Duration::ZERO,
            asked,
            told: at,
            failing: Vec::new(),
        };
        Ok((ledger, beginning))
    }

    /// Takes an event; it is written by `flush`.
    pub fn push(&mut self, mut event: Event) {
        // What waited while a tick was made tells of a moment before it: the log's own time never runs backwards.
        if event.at.boot < self.told.boot {
            event.at = self.told;
        }
        self.told = event.at;
        self.wants_save |= matches!(event.what, crate::event::What::Coverage(_));
        self.sink.push(&event);
    }

    /// Writes what waits, as much as can be written now.
    ///
    /// # Errors
    /// `ReaderGone` if standard output is a pipe that nobody reads.
    pub fn flush(&mut self, now: Moment) -> Result<(), ReaderGone> {
        self.sink.flush(now)?;
        let (sequence, _) = self.sink.place();
        if sequence != self.asked {
            self.asked = sequence;
            self.keep(now);
        }
        Ok(())
    }

    /// Has the disk keep what was written.
    fn keep(&mut self, now: Moment) {
        let (Some(file), Some(disk)) = (self.sink.file(), &self.disk) else { return };
        let (handle, left) = (file.handle(), file.left());
        let folder = file.path().parent().map(Path::to_owned);
        if self.sink.took_new_file() {
            self.wants_save = true;
            disk.sync_folder(folder);
        }
        left.into_iter().for_each(|left| disk.sync_left(left));
        match self.sync {
            SyncChoice::Never => {}
            SyncChoice::Interval => disk.sync(handle),
            SyncChoice::Always => {
                let outcome = handle.sync_data().map_err(|e| e.to_string());
                self.note("sync_failed", outcome, now);
            }
        }
    }

    /// Takes what the disk has answered; saves the state if it is time to. `live`: what is open.
    pub fn turn(&mut self, now: Moment, live: impl FnOnce() -> Vec<Arc<Connection>>) {
        self.take_answers(now);
        let is_due = now.boot >= self.saved + self.save_again;
        if self.wants_save && is_due && self.sink.is_idle() && self.disk.as_ref().is_some_and(Disk::is_free) {
            self.save(now, live(), false);
        }
    }

    fn take_answers(&mut self, now: Moment) {
        while let Some(done) = self.disk.as_mut().and_then(Disk::answer) {
            match done {
                Done::Synced(outcome) => self.note("sync_failed", outcome, now),
                Done::Saved(outcome, took) => {
                    self.save_again = took * SAVE_SHARE;
                    self.wants_save |= outcome.is_err();
                    self.note("state_failed", outcome, now);
                }
            }
        }
    }

    /// Tells a failure once, until it has passed.
    fn note(&mut self, cause: &'static str, outcome: Result<(), String>, now: Moment) {
        match outcome {
            Ok(()) => self.failing.retain(|failing| *failing != cause),
            Err(text) if !self.failing.contains(&cause) => {
                self.failing.push(cause);
                log::error!("{}: {text}", cause.replace('_', " "));
                self.push(Event::gap(now, cause, text));
            }
            Err(_) => {}
        }
    }

    /// Nothing may wait to be written: what is saved is true at a place of the log.
    fn save(&mut self, now: Moment, live: Vec<Arc<Connection>>, is_clean: bool) {
        let (Some(file), true) = (self.sink.file(), self.keeps_state) else { return };
        let Ok((device, inode, offset)) = file.place() else { return };
        let (sequence, chain) = self.sink.place();
        let handle = file.handle();
        let boot = self.sink.host().boot_id.clone();
        let live = live.into_iter().map(|connection| Live { connection, boot: boot.clone() }).collect();
        let state = State {
            stream: self.stream.clone(),
            sequence,
            chain,
            place: Place { device, inode, offset },
            at: self.told,
            is_clean,
            last_id: self.sink.new_id(now),
            seal: self.seal,
            live,
        };
        if let Some(disk) = &mut self.disk {
            disk.save(state, handle);
        }
        (self.wants_save, self.saved) = (false, now.boot);
    }

    /// The last record has been pushed: writes all, saves the state, waits for the disk; as long as `patience` allows.
    pub fn close(
        &mut self,
        live: Vec<Arc<Connection>>,
        patience: Duration,
        now: &dyn Fn() -> Moment,
        nap: &dyn Fn(),
    ) {
        let until = now().boot + patience;
        while self.flush(now()).is_ok() && !self.sink.is_idle() {
            if now().boot >= until {
                log::error!("some records could not be written before the end");
                break;
            }
            nap();
        }
        if self.sink.is_idle() {
            self.save(now(), live, true);
        }
        let wait = until.saturating_sub(now().boot).max(Duration::from_millis(500));
        if let Some(disk) = self.disk.take()
            && !disk.stop(wait)
        {
            log::error!("the disk did not answer before the end");
        }
    }

    /// True if everything was written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sink.is_idle()
    }

    /// Records that memory could not hold, so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sink.lost()
    }
}
