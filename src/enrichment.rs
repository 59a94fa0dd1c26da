//! Names for numbers: users by the machine's name services, facts of the host.
//!
//! Adds only; never changes what was observed. Name services may ask a directory over the network: they are asked on a
//! thread of their own and waited for no longer than the patience given. A name that comes late serves the next record.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use sysinfo::System;

use crate::event::Host;

/// So long does one record wait for one name.
const PATIENCE: Duration = Duration::from_millis(100);
/// Names are asked for anew after this.
const KEPT: Duration = Duration::from_secs(600);
/// More users than this on one machine are not remembered all at once.
const MOST: usize = 10_000;

/// Login names by user id, remembered.
pub struct Users {
    known: HashMap<u32, (Option<Arc<str>>, Duration)>,
    ask: Sender<u32>,
    answers: Receiver<(u32, Option<Arc<str>>)>,
    waiting: Vec<u32>,
}

impl Users {
    /// Starts the thread that asks. It ends when this is dropped.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn new() -> std::io::Result<Self> {
        Self::asking(|uid| uzers::get_user_by_uid(uid).and_then(|user| user.name().to_str().map(Arc::from)))
    }

    fn asking(name_of: impl Fn(u32) -> Option<Arc<str>> + Send + 'static) -> std::io::Result<Self> {
        let (ask, asked) = channel::<u32>();
        let (answer, answers) = channel();
        std::thread::Builder::new().name("names".to_owned()).stack_size(256 * 1024).spawn(move || {
            for uid in asked {
                if answer.send((uid, name_of(uid))).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { known: HashMap::new(), ask, answers, waiting: Vec::new() })
    }

    /// The login name. `None`: there is none, or it did not come in time. `at`: time since boot.
    pub fn name(&mut self, uid: u32, at: Duration) -> Option<Arc<str>> {
        while let Ok(answer) = self.answers.try_recv() {
            self.learn(answer, at);
        }
        if let Some((name, learned)) = self.known.get(&uid)
            && at.saturating_sub(*learned) < KEPT
        {
            return name.clone();
        }
        if !self.waiting.contains(&uid) {
            self.ask.send(uid).ok()?;
            // Where an earlier question has no answer yet, this one stands behind it: no second wait.
            let stuck = !self.waiting.is_empty();
            self.waiting.push(uid);
            if stuck {
                return None;
            }
            self.wait_for(uid, at);
        }
        self.known.get(&uid).and_then(|(name, _)| name.clone())
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
        self.waiting.retain(|waiting| *waiting != uid);
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(uid, (name, at));
    }
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
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_nobody_has_number_4_billion() {
        let mut users = Users::new().unwrap();
        assert_eq!(users.name(0, Duration::ZERO).as_deref(), Some("root"));
        assert_eq!(users.name(4_000_000_000, Duration::ZERO), None);
        assert_eq!(users.known.len(), 2, "both answers are remembered");
    }

    #[test]
    fn a_directory_that_does_not_answer_is_waited_for_once_and_its_answer_taken_when_it_comes() {
        let (release, held) = channel::<()>();
        let ask = move |uid: u32| held.recv().ok().map(|()| Arc::from(format!("user{uid}")));
        let mut users = Users::asking(ask).unwrap();
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
