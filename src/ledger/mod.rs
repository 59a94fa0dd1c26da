//! The log with its memory: records on their way, the state beside the log, and what waits for the disk.
//!
//! Everything that may wait for a disk is done by one thread (`disk`), but for `--sync always`, which is meant to wait.

mod disk;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::cli::SyncChoice;
use crate::connection::{Connection, Moment};
use crate::event::record::time;
use crate::event::{self, Event, Host, Renderer, What};
use crate::seal::{Seal, Sealer};
use crate::sink::{Destination, Format, LogFile, ReaderGone, Sink, Stream};
use crate::state::{Folder, Live, Past, Place, State};

use disk::{Disk, Done, Sealed};

/// A state that took so long to save is saved again after this many times as long: 50,000 connections are 100 MB.
const SAVE_SHARE: u32 = 100;

/// A seal is made this often, also when nothing was told since: then a tail that was cut off shows by its age.
const SEAL_EVERY: Duration = Duration::from_secs(60);
/// So long the end waits for the disk.
const PATIENCE: Duration = Duration::from_millis(500);

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
    /// What to seal with.
    pub sealer: Option<Sealer>,
}

/// What is known of the runs before.
#[derive(Debug, Default)]
pub struct Beginning {
    /// `new`, `continued` or `lost`.
    pub stream: &'static str,
    /// Why it is not `continued`.
    pub reason: Option<String>,
    /// Until when was watched, and true if the run ended with its last record.
    pub previous: Option<(Moment, bool)>,
    /// In which boot that was. `None` where the boot id is hidden.
    pub boot: Option<String>,
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
    /// When the next seal is due. `None`: there is no key.
    seal_due: Option<Duration>,
    /// Time of the seal that was begun last.
    sealing: String,
    /// A seal that a crash kept from being told.
    untold: Option<Seal>,
    wants_save: bool,
    /// Not before then.
    save_due: Duration,
    /// Number of the last record that the disk was asked to keep.
    asked: u64,
    /// Moment of the last record.
    told: Moment,
    /// Kinds of failures that have been told and have not passed.
    failing: Vec<&'static str>,
    /// True once the last record of the run has been pushed.
    is_closing: bool,
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
    match past {
        Past::None => Found::anew("new", None),
        Past::Lost(why) => Found::anew("lost", Some(why)),
        Past::Known { state, cut } => {
            if let Destination::File(file) = &output.destination {
                file.tell_cut(cut);
            }
            let State { stream, sequence, chain, at, boot, is_clean, last_id, seal, live, .. } = *state;
            let beginning = Beginning {
                stream: "continued",
                reason: None,
                previous: Some((at, is_clean)),
                boot,
                live,
                last_id: Some(last_id),
            };
            Found { stream: Stream::resume(sequence, chain), id: Some(stream), seal, beginning }
        }
    }
}

/// Saves the state of a stream that has no record yet.
fn begin(
    folder: &mut Folder,
    file: &LogFile,
    stream: &str,
    host: &Host,
    last_id: Uuid,
    at: Moment,
) -> std::io::Result<()> {
    let ((device, inode, offset), (sequence, chain)) = (file.place()?, Stream::default().place());
    let state = State {
        stream: stream.to_owned(),
        sequence,
        chain,
        place: Place { device, inode, offset },
        at,
        boot: host.boot_id.clone(),
        is_clean: false,
        last_id,
        seal: None,
        live: Vec::new(),
    };
    folder.save(&state, host)
}

impl Found {
    fn anew(stream: &'static str, reason: Option<String>) -> Self {
        let beginning = Beginning { stream, reason, ..Beginning::default() };
        Self { stream: Stream::default(), id: None, seal: None, beginning }
    }

    /// A virtual machine was set back to a snapshot and its log was not: that past is not this machine's, and its
    /// sockets are others.
    #[must_use]
    pub fn unless_ahead(self, boot: Option<&str>, now: Moment) -> Self {
        let Beginning { previous, boot: before, .. } = &self.beginning;
        let same_boot = boot.is_some() && before.as_deref() == boot;
        match previous.filter(|(at, _)| same_boot && at.boot > now.boot) {
            None => self,
            Some((at, _)) => {
                let ahead = (at.boot - now.boot).as_secs();
                let reason = format!("its last record is of a moment {ahead} s later in this boot than now");
                Self::anew("lost", Some(reason))
            }
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
        let Output { format, destination, mut state, sync, sealer } = output;
        let Found { stream, id, seal, beginning } = found;
        let keeps_state = state.is_some();
        let begins = id.is_none();
        let id = id.unwrap_or_else(|| new_id(at).to_string());
        if let (Some(folder), Destination::File(file), true) = (&mut state, &destination, begins) {
            // From its first record on the stream can be gone on with. If not, it can as soon as a state is saved.
            let _ = begin(folder, file, &id, &host, new_id(at), at);
        }
        let seal_due = sealer.is_some().then_some(at.boot);
        let pending = sealer.as_ref().and_then(Sealer::pending).cloned();
        let disk = match &destination {
            Destination::File(_) => {
                Some(Disk::start(state, sealer, host.clone(), sync != SyncChoice::Never)?)
            }
            Destination::Stdout(_) => None,
        };
        let renderer = Renderer::new(host, id.clone(), new_id(at).to_string(), Box::new(new_id));
        let (asked, _) = stream.place();
        // That of another stream would prove nothing in this one.
        let untold = pending.filter(|pending| pending.stream == id && seal < Some(pending.epoch));
        let ledger = Self {
            sink: Sink::new(renderer, stream, format, destination),
            stream: id,
            sync,
            disk,
            keeps_state,
            seal,
            seal_due,
            sealing: String::new(),
            untold,
            wants_save: true,
            save_due: Duration::ZERO,
            asked,
            told: at,
            failing: Vec::new(),
            is_closing: false,
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
        self.wants_save |= matches!(event.what, What::Coverage(_));
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
        let is_new = self.sink.took_new_file();
        let (Some(file), Some(disk)) = (self.sink.file(), &self.disk) else { return };
        let handle = file.handle();
        if is_new {
            self.wants_save = true;
            file.left().into_iter().for_each(|left| disk.sync_left(left));
            if let Some(folder) = file.path().parent() {
                disk.sync_folder(folder.to_owned());
            }
        }
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
        let is_due = now.boot >= self.save_due;
        if self.wants_save && is_due && self.sink.is_idle() && self.disk.as_ref().is_some_and(Disk::is_free) {
            self.save(now, live(), false);
        }
        if let Some(seal) = self.untold.take() {
            self.tell_seal(seal, now);
        }
        if self.seal_due.is_some_and(|due| now.boot >= due) && self.begin_seal(now) {
            self.seal_due = Some(now.boot + SEAL_EVERY);
        }
    }

    /// Has what was written sealed; false if that must wait.
    fn begin_seal(&mut self, now: Moment) -> bool {
        let (sequence, chain) = self.sink.place();
        let idle = self.sink.is_idle() && sequence > 0;
        let Some(log) = self.sink.file().map(LogFile::handle).filter(|_| idle) else { return false };
        let Some(disk) = self.disk.as_mut().filter(|disk| disk.may_seal()) else { return false };
        self.sealing = time(now);
        let chain = String::from_utf8_lossy(&chain).into_owned();
        let (stream, time) = (self.stream.clone(), self.sealing.clone());
        disk.seal(Sealed { stream, sequence, chain, time }, log);
        true
    }

    fn tell_seal(&mut self, seal: Seal, now: Moment) {
        let Seal { epoch, key, stream: _, sequence, chain, time, mac } = seal;
        self.seal = Some(epoch);
        let seal = event::Seal { epoch, key, sequence, chain, time, mac };
        self.push(Event { at: now, what: What::Sealed(Box::new(seal)) });
    }

    fn take_answers(&mut self, now: Moment) {
        while let Some(done) = self.disk.as_mut().and_then(Disk::answer) {
            self.take(done, now);
        }
    }

    fn take(&mut self, done: Done, now: Moment) {
        match done {
            Done::Synced(outcome) => self.note("sync_failed", outcome, now),
            Done::Saved(outcome, took) => {
                self.save_due = now.boot + took * SAVE_SHARE;
                self.wants_save |= outcome.is_err();
                self.note("state_failed", outcome, now);
            }
            Done::Sealed(Ok(seal)) => {
                self.note("seal_failed", Ok(()), now);
                // One that was begun before a failure is of an older place: it is told, but is not the one that is due.
                if seal.time != self.sealing {
                    self.seal_due = self.seal_due.map(|_| now.boot);
                }
                self.tell_seal(seal, now);
            }
            Done::Sealed(Err(why)) => {
                self.seal_due = self.seal_due.map(|_| now.boot + Duration::from_secs(1));
                self.note("seal_failed", Err(why), now);
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
                if !self.is_closing {
                    self.push(Event::gap(now, cause, text));
                }
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
        let live = live.into_iter().map(|connection| Live { connection, boot: boot.clone() });
        let state = State {
            stream: self.stream.clone(),
            sequence,
            chain,
            place: Place { device, inode, offset },
            at: self.told,
            boot: boot.clone(),
            is_clean,
            last_id: self.sink.new_id(now),
            seal: self.seal,
            live: live.collect(),
        };
        if let Some(disk) = &mut self.disk {
            disk.save(state, handle);
        }
        self.wants_save = false;
    }

    /// The last record has been pushed: writes all, saves the state, waits for the disk; as long as `patience` allows.
    /// Answers whether all was written.
    pub fn close(
        &mut self,
        live: Vec<Arc<Connection>>,
        patience: Duration,
        now: &dyn Fn() -> Moment,
        nap: &dyn Fn(),
    ) -> bool {
        self.is_closing = true;
        let until = now().boot + patience;
        let mut written = self.write_all(until, now, nap);
        if self.seal_due.is_some() {
            self.seal_the_end(now);
            written = self.write_all(until, now, nap);
        }
        if self.sink.is_idle() {
            self.save(now(), live, true);
        }
        let wait = until.saturating_sub(now().boot).max(PATIENCE);
        if let Some(disk) = self.disk.take()
            && !disk.stop(wait)
        {
            log::error!("the disk did not answer before the end");
        }
        if let Some(file) = self.sink.file() {
            file.release();
        }
        written
    }

    /// False if there was no time for all. What nobody wants to read any more is written.
    fn write_all(&mut self, until: Duration, now: &dyn Fn() -> Moment, nap: &dyn Fn()) -> bool {
        while self.flush(now()).is_ok() && !self.sink.is_idle() {
            if now().boot >= until {
                return false;
            }
            nap();
        }
        true
    }

    /// The last records are sealed too, as far as the disk answers soon.
    fn seal_the_end(&mut self, now: &dyn Fn() -> Moment) {
        let mut begun = self.begin_seal(now());
        while let Some(done) =
            self.disk.as_mut().filter(|disk| !disk.may_seal()).and_then(|d| d.wait(PATIENCE))
        {
            self.take(done, now());
            if !begun {
                begun = self.begin_seal(now());
            }
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
