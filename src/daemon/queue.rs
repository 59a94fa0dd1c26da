//! What waits for the loop: signals and observations, in the order in which they came, in bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use crate::connection::Moment;
use crate::signals::Signal;
use crate::source::{Kind, Observation};

/// As many observations wait at most, 200 bytes each.
const MOST_WAITING: usize = 32_768;

/// What ends a wait.
pub(super) enum Message {
    /// Somebody sent a signal.
    Signal(Signal),
    /// The kernel told something, at this moment.
    Observed(Moment, Vec<Observation>),
}

/// How full it is, and what did not fit.
#[derive(Default)]
pub(super) struct Queue {
    waiting: AtomicUsize,
    overrun: [AtomicU64; Kind::ALL.len()],
}

impl Queue {
    /// Puts a batch into it, or counts what does not fit.
    pub fn put(&self, sender: &Sender<Message>, at: Moment, batch: Vec<Observation>) {
        let size = batch.len();
        if self.waiting.fetch_add(size, Ordering::Relaxed) + size > MOST_WAITING {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            for observation in &batch {
                if let Some(count) = self.overrun.get(place(observation.kind())) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            return;
        }
        // The loop that receives ends with the process.
        let _ = sender.send(Message::Observed(at, batch));
    }

    /// So many have been taken out of it.
    pub fn taken(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// What did not fit since the last call.
    pub fn overrun(&self) -> impl Iterator<Item = (Kind, u64)> {
        let counts = Kind::ALL.into_iter().zip(&self.overrun);
        counts.map(|(kind, count)| (kind, count.swap(0, Ordering::Relaxed))).filter(|(_, count)| *count > 0)
    }
}

fn place(kind: Kind) -> usize {
    Kind::ALL.into_iter().position(|known| known == kind).unwrap_or(0)
}

/// Shared by the loop and the thread that waits for notices.
pub(super) type Shared = Arc<Queue>;
