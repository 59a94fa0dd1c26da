//! The hashes of a log's records (V43), on a second thread: they are half of a check's work, and none waits for another,
//! because each record tells the chain that the next one ties to.
//! Knows bytes and places; where there is no second thread, the first one does it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::findings::{Findings, Place};
use super::record::chain_of;

/// So many bytes are hashed at one go.
const BATCH: usize = 256 * 1024;
/// As many batches wait.
const WAITING: usize = 4;

/// Records whose chains are to be checked.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    jobs: Vec<Job>,
    /// Places where the chain does not hold.
    broken: Vec<Place>,
}

#[derive(Debug)]
struct Job {
    length: usize,
    before: [u8; 64],
    told: [u8; 64],
    place: Place,
}

/// The second thread, and what is collected for it.
#[derive(Debug)]
pub struct Chains {
    batch: Batch,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    todo: SyncSender<Batch>,
    done: Receiver<Batch>,
    thread: JoinHandle<()>,
}

impl Batch {
    fn check(&mut self) {
        let mut rest = self.bytes.as_slice();
        for Job { length, before, told, place } in &self.jobs {
            let (line, behind) = rest.split_at_checked(*length).unwrap_or_default();
            rest = behind;
            if chain_of(line, before) != *told {
                self.broken.push(*place);
            }
        }
        self.bytes.clear();
        self.jobs.clear();
    }
}

impl Chains {
    /// Nothing is to be checked yet.
    pub fn new() -> Self {
        let (todo, batches) = sync_channel::<Batch>(WAITING);
        let (checked, done) = sync_channel(2 * WAITING);
        let work = move || {
            for mut batch in batches {
                batch.check();
                // Whoever reads no further wants to know nothing.
                let _ = checked.send(batch);
            }
        };
        let thread = Builder::new().name("chains".to_owned()).spawn(work).ok();
        Self { batch: Batch::default(), worker: thread.map(|thread| Worker { todo, done, thread }) }
    }

    /// A record that tells a chain, behind one that told `before`.
    pub fn push(&mut self, line: &[u8], before: [u8; 64], told: [u8; 64], found: &mut Findings<'_>) {
        self.batch.bytes.extend_from_slice(line);
        self.batch.jobs.push(Job { length: line.len(), before, told, place: found.place() });
        if self.batch.bytes.len() >= BATCH {
            self.flush(found);
        }
    }

    fn flush(&mut self, found: &mut Findings<'_>) {
        let Some(worker) = &self.worker else {
            self.batch.check();
            tell(&mut self.batch, found);
            return;
        };
        let mut next = Batch::default();
        while let Ok(mut batch) = worker.done.try_recv() {
            tell(&mut batch, found);
            next = batch;
        }
        // The thread ends only when there is nothing more to do.
        let _ = worker.todo.send(std::mem::replace(&mut self.batch, next));
    }

    /// Waits for all that was collected.
    pub fn finish(&mut self, found: &mut Findings<'_>) {
        self.flush(found);
        let Some(Worker { todo, done, thread }) = self.worker.take() else { return };
        drop(todo);
        for mut batch in done {
            tell(&mut batch, found);
        }
        let _ = thread.join();
    }
}

fn tell(batch: &mut Batch, found: &mut Findings<'_>) {
    for place in batch.broken.drain(..) {
        found.add_at(
            place,
            43,
            "the chain does not hold: this record or the one before was changed".to_owned(),
        );
    }
}
