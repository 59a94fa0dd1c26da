//! Names for numbers: users by the machine's name services, facts of the host.
//!
//! Adds only; never changes what was observed. Name services may ask a directory over the network: they are asked on a
//! thread of their own and waited for no longer than the patience given. A name that comes late serves the next record.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use sysinfo::System;

use crate::event::Host;

/// So long does one record wait for one name.
const PATIENCE: Duration = Duration::from_millis(100);
/// Names are asked for anew after this.
const KEPT: Duration = Duration::from_secs(600);
/// That there is none is asked anew after this, without waiting: a directory may not have been reached.
const MISS_KEPT: Duration = Duration::from_secs(30);
/// More users than this on one machine are not remembered all at once.
const MOST: usize = 10_000;
/// Where most users have their names.
const PASSWD: &str = "/etc/passwd";

/// Which file it is, and as of when: device, inode, size, and both parts of its time.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Login names by user id, remembered. That a user has none is believed no longer than the user database stays the same
/// file: it may have been read while somebody wrote it.
pub struct Users {
    known: HashMap<u32, Answer>,
    ask: Sender<u32>,
    answers: Receiver<(u32, Option<Arc<str>>)>,
    /// Who was asked for, and of which file.
    waiting: Vec<(u32, Stamp)>,
    stamp: Box<dyn Fn() -> Stamp>,
}

struct Answer {
    name: Option<Arc<str>>,
    learned: Duration,
    /// The user database before it was asked.
    file: Stamp,
}

impl Users {
    /// Starts the thread that asks. It ends when this is dropped.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn new() -> std::io::Result<Self> {
        let name_of = |uid| uzers::get_user_by_uid(uid).and_then(|user| user.name().to_str().map(Arc::from));
        // The first question loads the name services: no record waits for that.
        let begin = move || drop(name_of(0));
        Self::asking(begin, name_of, || stamp(Path::new(PASSWD)))
    }

    fn asking(
        begin: impl FnOnce() + Send + 'static,
        name_of: impl Fn(u32) -> Option<Arc<str>> + Send + 'static,
        stamp: impl Fn() -> Stamp + 'static,
    ) -> std::io::Result<Self> {
        let (ask, asked) = channel::<u32>();
        let (answer, answers) = channel();
        std::thread::Builder::new().name("names".to_owned()).stack_size(256 * 1024).spawn(move || {
            begin();
            for uid in asked {
                if answer.send((uid, name_of(uid))).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { known: HashMap::new(), ask, answers, waiting: Vec::new(), stamp: Box::new(stamp) })
    }

    /// The login name. `None`: there is none, or it did not come in time. `at`: time since boot.
    pub fn name(&mut self, uid: u32, at: Duration) -> Option<Arc<str>> {
        while let Ok(answer) = self.answers.try_recv() {
            self.learn(answer, at);
        }
        if let Some(Answer { name, learned, file }) = self.known.get(&uid) {
            let age = at.saturating_sub(*learned);
            let name = name.clone();
            if name.is_some() && age < KEPT {
                return name;
            }
            if name.is_none() && *file == (self.stamp)() {
                if age >= MISS_KEPT {
                    self.ask(uid)?;
                }
                return None;
            }
        }
        // Where an earlier question has no answer yet, this one stands behind it: no second wait.
        let stuck = !self.waiting.is_empty();
        if self.ask(uid)? && !stuck {
            self.wait_for(uid, at);
        }
        self.known.get(&uid).and_then(|answer| answer.name.clone())
    }

    /// True if it was not asked before. `None`: nobody answers.
    fn ask(&mut self, uid: u32) -> Option<bool> {
        if self.waiting.iter().any(|(waiting, _)| *waiting == uid) {
            return Some(false);
        }
        // Before it is read: what is written from now on is another file.
        self.waiting.push((uid, (self.stamp)()));
        self.ask.send(uid).ok().map(|()| true)
    }

    fn wait_for(&mut self, uid: u32, at: Duration) {
        loop {
            match self.answers.recv_timeout(PATIENCE) {
                Ok(answer) => {
                    let done = answer.0 == uid;
                    self.learn(answer, at);
                    if done {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn learn(&mut self, (uid, name): (u32, Option<Arc<str>>), at: Duration) {
        let asked = self.waiting.iter().position(|(waiting, _)| *waiting == uid);
        let file = asked.and_then(|asked| self.waiting.swap_remove(asked).1);
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(uid, Answer { name, learned: at, file });
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// What records say of the machine. `ticks_per_second` and the boot id come from whoever reads `/proc`.
#[must_use]
pub fn host(boot_id: Option<String>) -> Host {
    Host {
        name: System::host_name().unwrap_or_else(|_| "localhost".to_owned()),
        boot_id,
        os: System::long_os_version().ok(),
        kernel: System::kernel_version().ok(),
        ticks_per_second: procfs::ticks_per_second(),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test reads the file that it wrote, and takes the time")]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn root_has_a_name_and_nobody_has_number_4_billion() {
        let mut users = Users::new().unwrap();
        assert_eq!(users.name(0, Duration::ZERO).as_deref(), Some("root"));
        assert_eq!(users.name(4_000_000_000, Duration::ZERO), None);
        assert_eq!(users.known.len(), 2, "both answers are remembered");
    }

    /// A user database in a file, as a name service reads it, which counts how often that was.
    fn reading(path: &Path) -> (Users, Arc<AtomicU32>) {
        let asked = Arc::<AtomicU32>::default();
        let (count, file) = (Arc::clone(&asked), path.to_owned());
        let name_of = move |uid: u32| {
            count.fetch_add(1, Relaxed);
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
            lines.find(|line| line[2] == uid.to_string()).map(|line| Arc::from(line[0]))
        };
        let file = path.to_owned();
        (Users::asking(|| {}, name_of, move || stamp(&file)).unwrap(), asked)
    }

    #[test]
    fn that_there_is_no_name_is_believed_as_long_as_the_user_database_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let (mut users, asked) = reading(&path);
        let second = Duration::from_secs(1);
        // It is being written, is absent for a moment, and a user is added: as useradd, vipw and editors do.
        std::fs::write(&path, "").unwrap();
        assert_eq!(users.name(1000, second), None);
        std::fs::write(&path, "alice:x:1000:").unwrap();
        assert_eq!(users.name(1000, second).as_deref(), Some("alice"), "no second has passed");
        assert_eq!(users.name(1001, second), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(users.name(1001, second), None);
        std::fs::write(folder.path().join("new"), "alice:x:1000:\nbob:x:1001:").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(users.name(1001, second).as_deref(), Some("bob"));
        let before = asked.load(Relaxed);
        assert!((0..100).all(|_| users.name(1002, second).is_none()));
        assert_eq!(asked.load(Relaxed), before + 1, "nobody is asked again as long as it is the same");
    }

    #[test]
    fn a_directory_that_did_not_know_a_user_is_asked_again_and_not_waited_for() {
        let (release, held) = channel::<Option<Arc<str>>>();
        let mut users = Users::asking(|| {}, move |_| held.recv().ok().flatten(), || None).unwrap();
        release.send(None).unwrap();
        assert_eq!(users.name(1, Duration::ZERO), None);
        assert_eq!((users.name(1, MISS_KEPT / 2), users.waiting.len()), (None, 0));
        // It does not answer now; no record waits, and none is asked twice.
        let began = std::time::Instant::now();
        assert!((0..400).all(|_| users.name(1, MISS_KEPT).is_none()));
        assert!(began.elapsed() < PATIENCE && users.waiting.len() == 1);
        release.send(Some("alice".into())).unwrap();
        while users.name(1, MISS_KEPT).is_none() {}
        assert_eq!(users.name(1, MISS_KEPT).as_deref(), Some("alice"));
    }

    #[test]
    fn an_answer_from_before_the_user_database_was_written_is_not_believed_of_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        std::fs::write(&path, "root:x:0:").unwrap();
        let (release, held) = channel::<Option<Arc<str>>>();
        let file = path.clone();
        let mut users =
            Users::asking(|| {}, move |_| held.recv().ok().flatten(), move || stamp(&file)).unwrap();
        assert_eq!(users.name(1000, Duration::ZERO), None, "it did not come in time");
        std::fs::write(&path, "root:x:0:\nalice:x:1000:").unwrap();
        release.send(None).unwrap();
        release.send(Some("alice".into())).unwrap();
        while users.waiting.iter().any(|(uid, _)| *uid == 1000) {
            users.name(1000, Duration::ZERO);
        }
        assert_eq!(users.name(1000, Duration::ZERO).as_deref(), Some("alice"));
    }

    #[test]
    fn a_directory_that_does_not_answer_is_waited_for_once_and_its_answer_taken_when_it_comes() {
        let (release, held) = channel::<()>();
        let ask = move |uid: u32| held.recv().ok().map(|()| Arc::from(format!("user{uid}")));
        let mut users = Users::asking(|| {}, ask, || None).unwrap();
        assert_eq!((users.name(1, Duration::ZERO), users.waiting.len()), (None, 1));
        // These would take 40 seconds, each its patience.
        assert!((2..400).all(|uid| users.name(uid, Duration::ZERO).is_none()));
        release.send(()).unwrap();
        let mut told = None;
        while told.is_none() {
            told = users.name(1, Duration::ZERO);
        }
        assert_eq!(told.as_deref(), Some("user1"));
    }
}
