//! What the kernel tells by itself: the event sockets of all namespaces, waited for together.
//!
//! Hints and ends, never the truth: the poll repairs what is lost here, and what is lost is told. Every end is counted
//! (`Tally`); those that may concern a watched port are told. The loop itself waits here: a thread between the kernel and
//! it would cost a short-lived process the time in which it could be read.

use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};

use super::Kind;
use super::sockets::{Socket, open, open_inside};
use super::tally::{Tally, Watched};
use super::words::{SOME_WORDS, WORDS, Words};
use crate::audit::Connect;
use crate::connection::{Netns, Tuple};
use crate::ebpf::event::Word;
use crate::files::FileNotice;
use crate::netlink::{Destroyed, Diag, ProcessNotice};

/// At most so many notices in one delivery.
pub const BATCH: usize = 64;
/// Under which epoll knows the bell.
const BELL: u64 = 0;
/// Bytes of a thread's stack.
pub(super) const STACK: usize = 128 * 1024;

/// What is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// A socket ended whose remote port is watched, or is no longer told; not one whose local port is listened on.
    Destroyed {
        /// Where.
        netns: Netns,
        /// What ended.
        ended: Destroyed,
    },
    /// A SYN left for a watched port. Whether a socket stands behind it is not known.
    Syn {
        /// Which kind of source told it.
        kind: Kind,
        /// Where.
        netns: Netns,
        /// Its ends.
        tuple: Tuple,
        /// Network device that it left through.
        device: u32,
        /// Who opened the socket behind it, where that is told.
        uid: Option<u32>,
    },
    /// A process asked to be connected to a watched port. The log does not say in which namespace, from where and by which
    /// protocol.
    Connect(Box<Connect>),
    /// Something happened to a process.
    Process(ProcessNotice),
    /// A word of the kernel's own, of any namespace.
    Word(Word),
    /// Something happened to one of SSH's files.
    File(FileNotice),
    /// Some of the folders that hold them are not watched.
    Unwatched {
        /// How many.
        count: u64,
        /// The first of them, and why.
        detail: String,
    },
    /// Notices were dropped.
    Lost {
        /// Which.
        kind: Kind,
        /// Where.
        netns: Netns,
        /// `None`: the kernel does not say how many.
        count: Option<u64>,
    },
    /// Words of ends may be missing, of any port: nobody told them.
    Missed {
        /// As many at most.
        count: u64,
    },
    /// A source failed and is closed.
    Failed {
        /// Which.
        kind: Kind,
        /// Where.
        netns: Netns,
        /// Why.
        reason: String,
    },
}

impl Observation {
    /// Which kind of source told it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Destroyed { .. } => Kind::Destroy,
            Self::Connect(_) => Kind::Audit,
            Self::Process(_) => Kind::Proc,
            Self::Word(_) | Self::Missed { .. } => Kind::Ebpf,
            Self::File(_) | Self::Unwatched { .. } => Kind::Files,
            Self::Syn { kind, .. } | Self::Lost { kind, .. } | Self::Failed { kind, .. } => *kind,
        }
    }
}

/// What was opened in a namespace.
#[derive(Debug)]
pub struct Entered {
    /// Asks the kernel's table there; or why it cannot be asked. As all sockets there it pins the namespace.
    pub diag: Result<Diag, String>,
    /// Sources that are open.
    pub on: Vec<Kind>,
    /// Those that were wanted and are not, and why.
    pub off: Vec<(Kind, String)>,
    /// What of that is worth to be known.
    pub notes: Vec<String>,
    /// What ends there, on any port.
    pub tally: Arc<Tally>,
    /// Inode of the socket that receives the ends, by which `Proc::read_netlink_drops` tells its losses.
    pub destroy_inode: Option<u64>,
}

/// The sockets of all namespaces that were entered.
#[derive(Debug)]
pub struct Events {
    pub(super) epoll: OwnedFd,
    bell: Arc<OwnedFd>,
    rooms: Mutex<Rooms>,
    pub(super) watched: Arc<Watched>,
    pub(super) wanted: Vec<Kind>,
    audit_log: Option<PathBuf>,
    /// Of all namespaces together.
    pub(super) words: Mutex<Words>,
}

/// Wakes who waits, from another thread.
#[derive(Debug, Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// Wakes who waits, or who will wait next.
    pub fn ring(&self) {
        let _only_if_rung_without_end = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

#[derive(Debug, Default)]
struct Rooms {
    /// By the number under which epoll knows their sockets. None is given out again.
    open: HashMap<u64, Room>,
    last: u64,
}

/// A namespace that was entered.
#[derive(Debug)]
struct Room {
    netns: Netns,
    tally: Arc<Tally>,
    /// In the order in which they are read: ends first, then SYNs, then processes. What is delivered is turned round,
    /// so that whatever came before an end is told before it.
    sockets: Vec<Socket>,
}

impl Events {
    /// No socket yet. `wanted`: the kinds that `enter` tries.
    ///
    /// # Errors
    /// If we are out of descriptors.
    pub fn new(wanted: Vec<Kind>, watched: Arc<Watched>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &*bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        let (rooms, words) = Default::default();
        Ok(Self { epoll, bell, rooms, watched, wanted, audit_log: None, words })
    }

    /// Reads audit records from this file or pipe, and not from the kernel.
    #[must_use]
    pub fn reading(self, audit_log: Option<PathBuf>) -> Self {
        Self { audit_log, ..self }
    }

    /// True if audit records come from a file: those that the kernel gives come in the machine's first namespaces alone.
    #[must_use]
    pub fn reads_audit_log(&self) -> bool {
        self.audit_log.is_some()
    }

    /// What wakes `wait`.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.bell))
    }

    /// Waits until something is told, the bell rings, or the patience is over: batches of one to 65 observations, in the
    /// order in which they are to be taken. Empty where there is nothing to tell.
    pub fn wait(&self, patience: Duration) -> Vec<Vec<Observation>> {
        let (mut words, is_full) = self.take_words(SOME_WORDS);
        if is_full {
            // Notices of ends are not to overtake the words of those sockets: they stay where they are.
            return words;
        }
        let patience = if words.is_empty() { patience } else { Duration::ZERO };
        let mut notices = self.wait_for_notices(patience);
        // Behind the notices, and told before them: every word of a socket was there before the notice of its end.
        words.append(&mut self.take_words(usize::MAX).0);
        words.append(&mut notices);
        words
    }

    fn wait_for_notices(&self, patience: Duration) -> Vec<Vec<Observation>> {
        let patience = Timespec::try_from(patience).ok();
        // Not by epoll's own clock, which counts whole milliseconds.
        let ready = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], patience.as_ref());
        if !matches!(ready, Ok(1..)) {
            return Vec::new();
        }
        let mut ready = Vec::with_capacity(16);
        let at_once = Timespec::default();
        if epoll::wait(&self.epoll, spare_capacity(&mut ready), Some(&at_once)).is_err() {
            return Vec::new();
        }
        // Each socket of a room is ready for itself, and each time all of them are read.
        let mut numbers: Vec<_> = ready.iter().map(|event: &epoll::Event| event.data.u64()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut batches = Vec::new();
        for number in numbers {
            match number {
                BELL => drop(rustix::io::read(&*self.bell, &mut [0; 8])),
                WORDS => {}
                _ => batches.extend(self.take(number).into_iter().rev().filter(|batch| !batch.is_empty())),
            }
        }
        batches
    }

    /// Opens the wanted sources, and a `Diag`, in our own network namespace or in that behind a `/proc/PID/ns/net` or
    /// bound file: 0.15 ms, 0.3 ms in another. Sources of another kind are off for a reason in plain words; notices of
    /// processes, of files and audit records come from our own namespace alone.
    pub fn enter(&self, netns: Netns, file: Option<OwnedFd>) -> Entered {
        self.leave(netns);
        let is_own = file.is_none();
        let words = self.open_words(netns, is_own, &self.watched.ranges());
        let is_wanted = |kind: &&Kind| match kind {
            Kind::Proc | Kind::Audit | Kind::Files => is_own,
            _ => !self.is_spared(**kind),
        };
        let (wanted, spared): (Vec<Kind>, Vec<Kind>) = self.wanted.iter().partition(is_wanted);
        let mut entered = self.enter_for(netns, file, &wanted, Arc::new(Tally::new()));
        match words {
            None => {}
            Some(Ok(without)) => {
                entered.on.push(Kind::Ebpf);
                entered.notes.extend(without);
            }
            Some(Err(reason)) => entered.off.push((Kind::Ebpf, reason)),
        }
        if is_own {
            entered
                .off
                .extend(spared.into_iter().map(|kind| (kind, "ebpf tells more of the same".to_owned())));
        }
        entered
    }

    /// Opens these too in a namespace that was entered, with its tally.
    pub fn enter_for(
        &self,
        netns: Netns,
        file: Option<OwnedFd>,
        kinds: &[Kind],
        tally: Arc<Tally>,
    ) -> Entered {
        let ports = self.watched.ranges();
        let opened = match file {
            None => Ok(open(kinds, &ports, self.audit_log.as_deref())),
            Some(file) => open_inside(file.as_fd(), kinds, &ports),
        };
        let (on, off, notes) = Default::default();
        let mut entered = Entered { diag: Err(String::new()), on, off, notes, tally, destroy_inode: None };
        match opened {
            Err(reason) => {
                entered.off = kinds.iter().map(|kind| (*kind, reason.clone())).collect();
                entered.diag = Err(reason);
            }
            Ok(opened) => {
                entered.diag = opened.diag;
                self.add(netns, opened.sockets, &mut entered);
            }
        }
        entered
    }

    /// Closes the sources of a namespace, which does not keep it in existence any longer. Its `Diag` does.
    pub fn leave(&self, netns: Netns) {
        let left: Vec<_> = self.rooms().open.extract_if(|_, room| room.netns == netns).collect();
        if !left.is_empty() {
            left.iter().flat_map(|(_, room)| &room.sockets).for_each(|socket| self.forget(socket));
            // The kernel takes 4 to 8 ms to close a packet socket. Without a thread it is done here.
            let close = thread::Builder::new().name("leave".to_owned()).stack_size(STACK);
            let _closed_here = close.spawn(move || drop(left));
        }
    }

    /// Watches other ports from now on, in every namespace.
    pub fn set_ports(&self, ports: &[RangeInclusive<u16>]) {
        self.watched.set(ports);
        let rooms = self.rooms();
        for socket in rooms.open.values().flat_map(|room| &room.sockets) {
            if let Socket::Syn(tap) = socket {
                // The filter for all ports was the last resort: if even that is refused the old one stays.
                let _left_as_it_was = tap.set_ports(ports);
            }
        }
        drop(rooms);
        if let Some(source) = &mut self.words().source {
            let _left_as_it_was = source.set_ports(ports);
        }
    }

    /// Ends of sockets that were accepted at these ports are told too.
    pub fn set_accepting(&self, ports: &[RangeInclusive<u16>]) {
        self.watched.set_accepting(ports);
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, netns: Netns, sockets: Vec<(Kind, Result<Socket, String>)>, entered: &mut Entered) {
        let mut rooms = self.rooms();
        rooms.last += 1;
        let new = rooms.last;
        let entered_before = rooms.open.extract_if(|_, room| room.netns == netns).next();
        let (number, mut room) = entered_before
            .unwrap_or_else(|| (new, Room { netns, tally: Arc::clone(&entered.tally), sockets: Vec::new() }));
        for (kind, socket) in sockets {
            let added = socket.and_then(|socket| {
                let data = epoll::EventData::new_u64(number);
                epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN).map_err(|e| e.to_string())?;
                Ok(socket)
            });
            match added {
                Ok(socket) => {
                    match &socket {
                        Socket::Destroy(notices) => entered.destroy_inode = Some(notices.inode()),
                        Socket::Files(notices) => {
                            let why = notices.without_process();
                            entered.notes.extend(why.map(|why| {
                                format!(
                                    "changes of SSH's files are told without their process: fanotify {why}"
                                )
                            }));
                        }
                        _ => {}
                    }
                    room.sockets.push(socket);
                    entered.on.push(kind);
                }
                Err(reason) => entered.off.push((kind, reason)),
            }
        }
        room.sockets.sort_by_key(|socket| match socket.kind() {
            Kind::Destroy => 0,
            Kind::Syn => 1,
            Kind::Nflog(_) => 2,
            Kind::Audit => 3,
            Kind::Proc | Kind::Ebpf => 4,
            Kind::Files => 5,
        });
        rooms.open.insert(number, room);
    }

    fn forget(&self, socket: &Socket) {
        // Closing it would do as well, unless a child held a copy.
        let _closed_next = epoll::delete(&self.epoll, socket);
    }

    /// What the sockets of a room have to say now, one batch each. Nothing where it was left meanwhile.
    fn take(&self, number: u64) -> Vec<Vec<Observation>> {
        let mut rooms = self.rooms();
        let Some(Room { netns, tally, sockets }) = rooms.open.get_mut(&number) else { return Vec::new() };
        let mut batches = Vec::with_capacity(sockets.len());
        sockets.retain_mut(|socket| {
            let taken = socket.take(*netns, tally, &self.watched);
            let works = taken.is_ok();
            batches.push(taken.unwrap_or_else(|reason| {
                self.forget(socket);
                vec![Observation::Failed { kind: socket.kind(), netns: *netns, reason }]
            }));
            works
        });
        batches
    }
}
