//! What may wait for the disk, in a thread of its own: a slow one must not hold up the watch.

#![expect(
    clippy::disallowed_methods,
    reason = "this thread keeps the time between two syncs, and opens folders to sync"
)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::event::Host;
use crate::seal::{Place, Seal, Sealer};
use crate::state::{Folder, State};

/// So much of what was written is at risk in a power cut.
const SYNC_EVERY: Duration = Duration::from_secs(1);

enum Job {
    Sync(Arc<File>),
    SyncNow(Arc<File>),
    SyncFolder(PathBuf),
    Save(Box<State>, Arc<File>),
    Seal(Box<Sealed>, Arc<File>),
    Stop,
}

/// What the thread has done.
#[derive(Debug)]
pub(super) enum Done {
    Synced(Result<(), String>),
    /// And how long it took.
    Saved(Result<(), String>, Duration),
    Sealed(Result<Seal, String>),
}

/// What is to be sealed.
pub(super) struct Sealed {
    pub stream: String,
    pub sequence: u64,
    pub chain: String,
    pub time: String,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Disk {
    jobs: Sender<Job>,
    answers: Receiver<Done>,
    ended: Receiver<()>,
    /// True while a sync has been asked for and has not begun.
    asked: Arc<AtomicBool>,
    /// True while a state is being saved.
    is_saving: bool,
    /// True while a seal is being made.
    is_sealing: bool,
}

struct Thread {
    folder: Option<Folder>,
    sealer: Option<Sealer>,
    host: Host,
    /// False: nothing is ever waited for.
    syncs: bool,
    asked: Arc<AtomicBool>,
    answers: Sender<Done>,
    /// What is to be synced, and when.
    due: Option<(Arc<File>, Instant)>,
    synced: Option<Instant>,
}

impl Disk {
    pub fn start(
        folder: Option<Folder>,
        sealer: Option<Sealer>,
        host: Host,
        syncs: bool,
    ) -> io::Result<Self> {
        let ((jobs, work), (done, answers), (end, ended)) = (channel(), channel(), channel());
        let asked = Arc::new(AtomicBool::new(false));
        let mut thread = Thread {
            folder,
            sealer,
            host,
            syncs,
            asked: Arc::clone(&asked),
            answers: done,
            due: None,
            synced: None,
        };
        let run = move || {
            thread.run(&work);
            // Its locks before its end is told, behind which this thread may be ended at any place.
            drop(thread);
            let _ = end.send(());
        };
        std::thread::Builder::new().name("disk".to_owned()).stack_size(256 * 1024).spawn(run)?;
        Ok(Self { jobs, answers, ended, asked, is_saving: false, is_sealing: false })
    }

    /// Has a file synced, within a second.
    pub fn sync(&self, file: Arc<File>) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            let _ = self.jobs.send(Job::Sync(file));
        }
    }

    /// Has a file synced that nothing more is written to.
    pub fn sync_left(&self, file: Arc<File>) {
        let _ = self.jobs.send(Job::SyncNow(file));
    }

    /// Has the name of a new file synced.
    pub fn sync_folder(&self, folder: PathBuf) {
        let _ = self.jobs.send(Job::SyncFolder(folder));
    }

    /// Has the log synced and then the state saved, so that the state never tells of more than the log.
    pub fn save(&mut self, state: State, log: Arc<File>) {
        self.is_saving = self.jobs.send(Job::Save(Box::new(state), log)).is_ok();
    }

    /// Has the log synced and then sealed up to a place.
    pub fn seal(&mut self, place: Sealed, log: Arc<File>) {
        self.is_sealing = self.jobs.send(Job::Seal(Box::new(place), log)).is_ok();
    }

    /// True if no seal is being made.
    pub fn may_seal(&self) -> bool {
        !self.is_sealing
    }

    /// True if no state is being saved.
    pub fn is_free(&self) -> bool {
        !self.is_saving
    }

    pub fn answer(&mut self) -> Option<Done> {
        let done = self.answers.try_recv().ok()?;
        self.note(&done);
        Some(done)
    }

    /// Waits for an answer.
    pub fn wait(&mut self, patience: Duration) -> Option<Done> {
        let done = self.answers.recv_timeout(patience).ok()?;
        self.note(&done);
        Some(done)
    }

    fn note(&mut self, done: &Done) {
        self.is_saving &= !matches!(done, Done::Saved(..));
        self.is_sealing &= !matches!(done, Done::Sealed(_));
    }

    /// Waits until all is done that was asked for; false if that took too long.
    pub fn stop(self, patience: Duration) -> bool {
        let _ = self.jobs.send(Job::Stop);
        self.ended.recv_timeout(patience).is_ok()
    }
}

impl Thread {
    fn run(&mut self, work: &Receiver<Job>) {
        loop {
            let job = match &self.due {
                None => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((_, due)) => work.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match job {
                Ok(Job::Sync(file)) => self.plan(file),
                Ok(Job::SyncNow(file)) => self.sync_now(&file),
                Ok(Job::SyncFolder(folder)) => self.sync_folder(&folder),
                Ok(Job::Save(state, log)) => self.save(&state, &log),
                Ok(Job::Seal(place, log)) => self.seal(&place, &log),
                Err(RecvTimeoutError::Timeout) => self.sync_due(),
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.sync_due();
                    return;
                }
            }
        }
    }

    fn plan(&mut self, file: Arc<File>) {
        let earliest = self.synced.map_or_else(Instant::now, |synced| synced + SYNC_EVERY);
        self.due = Some((file, earliest));
    }

    fn sync_now(&mut self, file: &Arc<File>) {
        if self.due.take_if(|(due, _)| Arc::ptr_eq(due, file)).is_some() {
            self.asked.store(false, Ordering::Relaxed);
        }
        self.sync(file);
    }

    fn sync_due(&mut self) {
        if let Some((file, _)) = self.due.take() {
            self.asked.store(false, Ordering::Relaxed);
            self.sync(&file);
            self.synced = Some(Instant::now());
        }
    }

    fn sync(&self, file: &File) {
        if self.syncs {
            let _ = self.answers.send(Done::Synced(file.sync_data().map_err(|e| e.to_string())));
        }
    }

    fn sync_folder(&self, folder: &Path) {
        if self.syncs {
            // A folder that cannot be read cannot be synced either; its files can.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
    }

    fn seal(&mut self, place: &Sealed, log: &File) {
        // Whatever is promised of syncs: what is sealed must be there after a power cut, or it would look cut off.
        let outcome = log.sync_data().and_then(|()| match &mut self.sealer {
            Some(sealer) => {
                let Sealed { stream, sequence, chain, time } = place;
                let (sequence, time) = (*sequence, time.clone());
                sealer.seal(&Place { stream, sequence, chain, time })
            }
            None => Err(io::ErrorKind::NotFound.into()),
        });
        let _ = self.answers.send(Done::Sealed(outcome.map_err(|e| e.to_string())));
    }

    fn save(&mut self, state: &State, log: &File) {
        let began = Instant::now();
        self.sync(log);
        let outcome = self.folder.as_mut().map_or(Ok(()), |folder| folder.save(state, &self.host));
        let outcome = outcome.map_err(|e| e.to_string());
        let _ = self.answers.send(Done::Saved(outcome, began.elapsed()));
    }
}
