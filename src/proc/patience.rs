//! Reading what may never answer.
//!
//! A process's arguments lie in its own memory, and the kernel waits for the lock of its memory map to read them. A process
//! can have that lock waited for as long as it likes (a page of a FUSE file that is never read, and an `mmap` behind
//! it), and nothing but being killed ends the wait. So they are read on a thread that can be left behind. All else that is
//! read of a process waits for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

use rustix::io::Errno;

/// So long is an answer waited for.
const PATIENCE: Duration = Duration::from_millis(100);
/// Who let us wait so long is not asked again before this.
const REST: Duration = Duration::from_secs(10);
/// As many threads are left behind: in all, and by processes of one user. Those beyond are not asked.
const MOST: usize = 16;
const MOST_OF_ONE: usize = 2;

type Bytes = Result<Vec<u8>, Errno>;
type Reading = Box<dyn FnOnce() -> Bytes + Send>;

/// Threads that read.
#[derive(Debug, Default)]
pub(super) struct Patience {
    idle: Option<Reader>,
    stuck: Vec<(u32, Reader)>,
}

#[derive(Debug)]
pub(super) struct Reader {
    ask: Sender<Reading>,
    answers: Receiver<Bytes>,
    late: Arc<AtomicBool>,
}

/// What was asked for.
#[derive(Debug)]
pub(super) enum Asked {
    /// It is there.
    There(Bytes),
    /// Somebody reads it for a user's process.
    Reading(u32, Reader),
}

impl Patience {
    /// Has something of a user's process read meanwhile.
    pub fn ask(&mut self, uid: u32, reading: impl FnOnce() -> Bytes + Send + 'static) -> Asked {
        // An answer that came too late has been thrown away; its reader rests, and then is gone.
        self.stuck.retain(|(_, reader)| matches!(reader.answers.try_recv(), Err(TryRecvError::Empty)));
        let of_this = self.stuck.iter().filter(|(of, _)| *of == uid).count();
        if self.stuck.len() >= MOST || of_this >= MOST_OF_ONE {
            return Asked::There(Err(Errno::TIMEDOUT));
        }
        match self.idle.take().map_or_else(Reader::start, Ok) {
            Ok(reader) if reader.ask.send(Box::new(reading)).is_ok() => Asked::Reading(uid, reader),
            _ => Asked::There(Err(Errno::AGAIN)),
        }
    }

    /// What was read.
    ///
    /// # Errors
    /// As `reading`; TIMEDOUT if it does not answer, or others of this user's do not.
    pub fn wait(&mut self, asked: Asked) -> Bytes {
        let (uid, reader) = match asked {
            Asked::There(read) => return read,
            Asked::Reading(uid, reader) => (uid, reader),
        };
        match reader.answers.recv_timeout(PATIENCE) {
            Ok(answer) => {
                self.idle = Some(reader);
                answer
            }
            Err(RecvTimeoutError::Timeout) => {
                reader.late.store(true, Ordering::Relaxed);
                self.stuck.push((uid, reader));
                Err(Errno::TIMEDOUT)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Errno::AGAIN),
        }
    }
}

impl Reader {
    fn start() -> Result<Self, Errno> {
        let (ask, asked) = channel::<Reading>();
        let (answer, answers) = channel();
        let late = Arc::new(AtomicBool::new(false));
        let is_late = Arc::clone(&late);
        let work = move || {
            while let Ok(reading) = asked.recv() {
                let text = reading();
                if is_late.load(Ordering::Relaxed) {
                    // Nobody asks this one any more: only time passes.
                    let _rested = asked.recv_timeout(REST);
                    return;
                }
                if answer.send(text).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("arguments".to_owned()).stack_size(64 * 1024);
        thread.spawn(work).map_err(|_| Errno::AGAIN)?;
        Ok(Self { ask, answers, late })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_left_and_his_user_is_not_asked_a_third_time() {
        let mut patience = Patience::default();
        let asked = |patience: &mut Patience, uid: u32| {
            let asked = patience.ask(uid, || Ok(vec![7]));
            patience.wait(asked)
        };
        assert_eq!(asked(&mut patience, 1), Ok(vec![7]));
        let mut silent = Vec::new();
        for _ in 0..MOST_OF_ONE {
            let (answer, wait) = channel::<()>();
            silent.push(answer);
            let read = patience.ask(1, move || wait.recv().map(|()| Vec::new()).map_err(|_| Errno::IO));
            assert_eq!(patience.wait(read), Err(Errno::TIMEDOUT));
        }
        assert_eq!(asked(&mut patience, 1), Err(Errno::TIMEDOUT), "without a wait");
        assert_eq!(asked(&mut patience, 2), Ok(vec![7]), "others are");
        drop(silent);
        assert_eq!(asked(&mut patience, 1), Err(Errno::TIMEDOUT), "they rest");
        assert_eq!(patience.stuck.len(), MOST_OF_ONE);
    }
}
