//! Reading what may never answer.
//!
//! A process can have two kinds of its files wait for a lock that it holds as long as it likes, by a page of a FUSE file that is
//! never read. Its arguments lie in its own memory: they wait for the lock of its memory map, which a thread holds
//! that touches the page with an `mmap` behind it. And `fdinfo` is written by whatever the descriptor is: that of an
//! epoll waits for a thread that has its events written into the page. Being killed ends the former wait, and
//! nothing ends the latter. So these are read on a thread that can be left behind; nothing else that is read of a
//! process was found to wait for anybody.
//!
//! Descriptors travel, by inheritance through set-user-ID programs and by unix sockets: nobody's `fdinfo` is safe, not
//! root's either. A memory map does not: root's arguments are.
//!
//! As long as a thread is in such a wait our process cannot be reaped: the watch ends as always, with record and state
//! written and its locks let go, and what is left of it goes when the wait ends. Of a watch that is killed the locks
//! stay as long.
#![expect(
    clippy::disallowed_methods,
    reason = "a reading's time is taken on its own thread, which also rests there, and its state asked for"
)]

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::gettid;
use rustix::time::{ClockId, clock_gettime};

/// So long is an answer waited for.
const PATIENCE: Duration = Duration::from_millis(100);
/// So many times as long where the answer is being worked on: it is the machine then that is slow.
const MOST_WAITS: u32 = 10;
/// Who let us wait so long is not asked again before this.
const REST: Duration = Duration::from_secs(10);
/// As many threads are left behind: in all, and by processes of one user. Those beyond are not asked. The unit's `TasksMax` has
/// room for them.
const MOST: usize = 16;
const MOST_OF_ONE: usize = 2;
/// A reading that takes longer has waited, and all of its time is counted.
const WAITED: Duration = Duration::from_millis(5);

type Reading = Box<dyn FnOnce() + Send>;

/// Threads that read.
#[derive(Debug, Default)]
pub(super) struct Patience {
    idle: Option<Reader>,
    stuck: Vec<(Whose, Part, JoinHandle<()>)>,
    spent: Duration,
    silences: u64,
}

/// What is read of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Arguments,
    Descriptors,
    /// Of its executable, the content.
    Executable,
}

/// Who is left alone: a process, and its user when several of his do not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whose {
    /// Who logged in, or the real user.
    pub uid: u32,
    /// The process, not a thread of it.
    pub pid: u32,
}

#[derive(Debug)]
struct Reader {
    ask: Sender<Reading>,
    thread: JoinHandle<()>,
    number: Arc<OnceLock<Pid>>,
}

/// What was asked for.
#[derive(Debug)]
pub(super) enum Asked<T> {
    /// It is there.
    There(Result<T, Errno>),
    /// Somebody reads it.
    Reading(Awaited<T>),
}

/// An answer that is on its way.
#[derive(Debug)]
pub(super) struct Awaited<T> {
    part: Part,
    reader: Reader,
    answer: Receiver<(Result<T, Errno>, Duration)>,
}

impl Patience {
    /// Has a part of a process read meanwhile. Whose it is costs something to know, and matters only once somebody did not
    /// answer.
    pub fn ask<T: Send + 'static>(
        &mut self,
        part: Part,
        whose: impl FnOnce() -> Whose,
        reading: impl FnOnce() -> Result<T, Errno> + Send + 'static,
    ) -> Asked<T> {
        if !self.may_ask(part, whose) {
            self.silences += 1;
            return Asked::There(Err(Errno::TIMEDOUT));
        }
        let (give, answer) = sync_channel(1);
        let reading = move || {
            let began = (now(ClockId::Monotonic), now(ClockId::ThreadCPUTime));
            let read = reading();
            let took = now(ClockId::Monotonic).saturating_sub(began.0);
            let worked = now(ClockId::ThreadCPUTime).saturating_sub(began.1);
            // Nobody waits any more for what comes late.
            let _late = give.send((read, if took > WAITED { took } else { worked }));
        };
        match self.idle.take().map_or_else(Reader::start, Ok) {
            Ok(reader) if reader.ask.send(Box::new(reading)).is_ok() => {
                Asked::Reading(Awaited { part, reader, answer })
            }
            _ => self.cannot(),
        }
    }

    /// What was read.
    ///
    /// # Errors
    /// As `reading`; TIMEDOUT if it does not answer, or did not lately, or others of this user's do not.
    pub fn wait<T>(&mut self, asked: Asked<T>, whose: impl FnOnce() -> Whose) -> Result<T, Errno> {
        let Awaited { part, reader, answer } = match asked {
            Asked::There(read) => return read,
            Asked::Reading(awaited) => awaited,
        };
        let mut waits = 1;
        loop {
            match answer.recv_timeout(PATIENCE) {
                Ok((read, spent)) => {
                    self.idle = Some(reader);
                    self.spent += spent;
                    return read;
                }
                Err(RecvTimeoutError::Timeout) if waits < MOST_WAITS && reader.is_at_work() => waits += 1,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Err(Errno::AGAIN),
            }
        }
        // When it comes back from there its reader rests, and then is gone.
        let _ended = reader.ask.send(Box::new(|| std::thread::sleep(REST)));
        self.stuck.push((whose(), part, reader.thread));
        self.spent += PATIENCE * waits;
        self.silences += 1;
        Err(Errno::TIMEDOUT)
    }

    /// What was read, if it comes in this time, and how long that took. That it is still on its way is no silence.
    ///
    /// # Errors
    /// What is on its way still.
    pub fn look<T>(
        &mut self,
        awaited: Awaited<T>,
        wait: Duration,
    ) -> Result<(Result<T, Errno>, Duration), Awaited<T>> {
        match awaited.answer.recv_timeout(wait) {
            Ok(answer) => {
                self.idle = Some(awaited.reader);
                Ok(answer)
            }
            Err(RecvTimeoutError::Timeout) => Err(awaited),
            Err(RecvTimeoutError::Disconnected) => Ok((Err(Errno::AGAIN), Duration::ZERO)),
        }
    }

    /// Waits no more for what does not come.
    pub fn give_up<T>(&mut self, awaited: Awaited<T>, whose: Whose) {
        let _ended = awaited.reader.ask.send(Box::new(|| std::thread::sleep(REST)));
        self.stuck.push((whose, awaited.part, awaited.reader.thread));
        self.silences += 1;
    }

    /// What the readers spent: their time on a processor, and all of it where they had to wait.
    pub fn spent(&self) -> Duration {
        self.spent
    }

    /// How often nothing was read.
    pub fn silences(&self) -> u64 {
        self.silences
    }

    fn may_ask(&mut self, part: Part, whose: impl FnOnce() -> Whose) -> bool {
        self.stuck.retain(|(.., thread)| !thread.is_finished());
        if self.stuck.is_empty() {
            return true;
        }
        let whose = whose();
        let of_this = self.stuck.iter().filter(|(of, ..)| of.uid == whose.uid).count();
        let known = self.stuck.iter().any(|(of, its, _)| (*of, *its) == (whose, part));
        !known && of_this < MOST_OF_ONE && self.stuck.len() < MOST
    }

    fn cannot<T>(&mut self) -> Asked<T> {
        self.silences += 1;
        Asked::There(Err(Errno::AGAIN))
    }
}

impl Reader {
    fn start() -> Result<Self, Errno> {
        let (ask, asked) = channel::<Reading>();
        let number = Arc::new(OnceLock::new());
        let ours = Arc::clone(&number);
        let work = move || {
            let _first = ours.set(gettid());
            asked.into_iter().for_each(|reading| reading());
        };
        let thread = std::thread::Builder::new().name("reader".to_owned()).stack_size(64 * 1024);
        let thread = thread.spawn(work).map_err(|_| Errno::AGAIN)?;
        Ok(Self { ask, thread, number })
    }

    /// True if it runs, or would if a processor were free: it does not wait for anybody.
    fn is_at_work(&self) -> bool {
        let Some(number) = self.number.get() else { return true };
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", number.as_raw_nonzero()));
        stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" R")))
    }
}

fn now(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(patience: &mut Patience, uid: u32, pid: u32) -> Result<u8, Errno> {
        let asked = patience.ask(Part::Descriptors, || Whose { uid, pid }, || Ok(7));
        patience.wait(asked, || Whose { uid, pid })
    }

    /// It answers when what this gives is dropped.
    fn fall_silent(patience: &mut Patience, uid: u32, pid: u32, part: Part) -> Sender<()> {
        let (answer, wait) = channel::<()>();
        let asked = patience.ask(part, || Whose { uid, pid }, move || wait.recv().map_err(|_| Errno::IO));
        assert_eq!(patience.wait(asked, || Whose { uid, pid }), Err(Errno::TIMEDOUT));
        answer
    }

    #[test]
    fn who_does_not_answer_is_left_and_his_user_is_not_asked_a_third_time() {
        let mut patience = Patience::default();
        assert_eq!(ask(&mut patience, 1, 10), Ok(7));
        let silent = [11, 12].map(|pid| fall_silent(&mut patience, 1, pid, Part::Arguments));
        assert_eq!(ask(&mut patience, 1, 10), Err(Errno::TIMEDOUT), "without a wait");
        assert_eq!(ask(&mut patience, 2, 20), Ok(7), "others are");
        drop(silent);
        assert_eq!(ask(&mut patience, 1, 10), Err(Errno::TIMEDOUT), "they rest");
        assert_eq!((patience.stuck.len(), patience.silences()), (MOST_OF_ONE, 4));
        assert!(patience.spent() >= 2 * PATIENCE, "waiting is counted");
    }

    #[test]
    fn a_silent_process_leaves_one_thread_and_others_of_its_user_are_asked() {
        const SILENT: Whose = Whose { uid: 1, pid: 10 };
        let mut patience = Patience::default();
        let _silent = fall_silent(&mut patience, 1, 10, Part::Descriptors);
        for _ in 0..3 {
            assert_eq!(ask(&mut patience, 1, 10), Err(Errno::TIMEDOUT), "without a wait");
            assert_eq!(ask(&mut patience, 1, 11), Ok(7));
        }
        assert_eq!(patience.stuck.len(), 1);
        let asked = patience.ask(Part::Arguments, || SILENT, || Ok(8));
        assert_eq!(patience.wait(asked, || SILENT), Ok(8), "its other part may answer");
    }

    #[test]
    fn a_reading_that_is_only_slow_is_waited_for() {
        let mut patience = Patience::default();
        let asked = patience.ask(
            Part::Descriptors,
            || Whose { uid: 1, pid: 10 },
            || {
                let began = now(ClockId::Monotonic);
                while now(ClockId::Monotonic) < began + PATIENCE * 2 {}
                Ok(())
            },
        );
        assert_eq!(patience.wait(asked, || Whose { uid: 1, pid: 10 }), Ok(()));
        assert!(patience.stuck.is_empty() && patience.spent() >= PATIENCE * 2);
    }

    #[test]
    fn no_more_threads_are_left_behind_than_the_unit_allows() {
        let mut patience = Patience::default();
        let silent: Vec<_> =
            (0..16).map(|uid| fall_silent(&mut patience, uid, 100 + uid, Part::Descriptors)).collect();
        assert_eq!(ask(&mut patience, 99, 99), Err(Errno::TIMEDOUT));
        let unit = include_str!("../../systemd/portreeve.service");
        let tasks = unit.lines().find_map(|line| line.strip_prefix("TasksMax=")).unwrap();
        // Beside them: the loop, a reader, and those that wait for signals, names and the disk.
        assert!(silent.len() == MOST && MOST + 8 <= tasks.parse().unwrap());
    }
}
