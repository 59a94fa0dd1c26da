//! Changes of SSH's own files: keys, known hosts and settings under the home folders and in `/etc/ssh`.
//!
//! By fanotify, which tells the process, where that is permitted; else by inotify. Knows which folders are watched and
//! which names matter (`plan`); nothing of processes, and never what is in a file. Folders are opened and watched by a
//! thread (`watch`), since a home may be on a file system that does not answer; `receive` waits for nobody.

mod fanotify;
mod inotify;
mod plan;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;

pub use fanotify::{parse_marks, parse_notices};
pub use plan::{is_served, parse_homes};
use watch::{Request, read_file};

/// Notices about folders that the thread has not entered yet; more are lost.
const MOST_UNCLAIMED: usize = 1_024;
/// As many are kept until they are taken.
const MOST_NEWS: usize = 4_096;

/// What a folder is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    /// `/etc`: the user database, and whether there is a folder `ssh`.
    Etc,
    /// Homes are made in it.
    Parent,
    /// A `.ssh` may appear.
    Home,
    /// A `.ssh`.
    Ssh,
    /// `/etc/ssh`, and what is below it.
    System,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    /// It was made, or linked.
    Created,
    /// It was given this name.
    MovedTo,
    /// It was there when its folder, which is new, was watched.
    Found,
    /// It was written to.
    Modified,
    /// Somebody who had opened it for writing closed it.
    Written,
    /// Mode, owner, times or links are others.
    Attributes,
    /// This name was taken from it.
    MovedFrom,
    /// It was removed.
    Deleted,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::MovedTo,
        Self::Found,
        Self::Modified,
        Self::Written,
        Self::Attributes,
        Self::MovedFrom,
        Self::Deleted,
    ];

    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::MovedTo => "moved_to",
            Self::Found => "found",
            Self::Modified => "modified",
            Self::Written => "written",
            Self::Attributes => "attributes",
            Self::MovedFrom => "moved_from",
            Self::Deleted => "deleted",
        }
    }
}

/// Who told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Witness {
    /// fanotify, which tells the process.
    Fanotify,
    /// inotify, which does not.
    Inotify,
    /// A look into a new folder.
    Listing,
}

impl Witness {
    /// As records write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
            Self::Listing => "listing",
        }
    }
}

/// Something happened to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNotice {
    /// Its path, as the folder was found.
    pub path: Vec<u8>,
    /// What; several at once where the kernel merged them.
    pub changes: Vec<Change>,
    /// By which process. `None`: that is not told.
    pub pid: Option<u32>,
    /// Who says so.
    pub by: Witness,
}

/// What `receive` gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A change.
    File(FileNotice),
    /// Some folders are not watched: how many, which is the first, and why.
    Unwatched {
        /// How many.
        count: u64,
        /// The first of them, and why.
        detail: String,
    },
}

/// A subscription to the changes of SSH's files.
#[derive(Debug)]
pub struct FileNotices {
    shared: Arc<Shared>,
    epoll: OwnedFd,
    requests: Sender<Request>,
    unclaimed: VecDeque<Raw>,
}

/// What the thread that watches folders and the one that reads have in common.
#[derive(Debug)]
struct Shared {
    fanotify: Result<fanotify::Group, String>,
    inotify: inotify::Group,
    bell: OwnedFd,
    /// Requests that were not answered yet.
    pending: AtomicUsize,
    places: Mutex<Places>,
}

/// Folders that are watched, by how the kernel names them.
#[derive(Debug, Default)]
struct Places {
    by_name: HashMap<Name, Vec<Place>>,
    count: usize,
    news: Vec<News>,
}

/// How the kernel names a folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Handle(fanotify::Handle),
    Watch(i32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: Vec<u8>,
    role: Role,
}

/// A notice as the kernel gives it.
#[derive(Debug)]
struct Raw {
    folder: Name,
    name: Vec<u8>,
    changes: Vec<Change>,
    is_folder: bool,
    pid: Option<u32>,
}

impl FileNotices {
    /// Begins to watch, by a thread.
    ///
    /// # Errors
    /// Without descriptors or a thread.
    pub fn open() -> io::Result<Self> {
        let inotify = inotify::Group::open()?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let fanotify = fanotify::Group::open();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut sources = vec![inotify.as_fd(), bell.as_fd()];
        sources.extend(fanotify.as_ref().ok().map(fanotify::Group::as_fd));
        for source in sources {
            epoll::add(&epoll, source, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        let shared = Arc::new(Shared {
            fanotify,
            inotify,
            bell,
            pending: AtomicUsize::new(0),
            places: Mutex::default(),
        });
        let (requests, asked) = channel();
        watch::start(Arc::clone(&shared), asked)?;
        let notices = Self { shared, epoll, requests, unclaimed: VecDeque::new() };
        notices.ask(Request::Everything);
        Ok(notices)
    }

    /// Why no process is told. `None`: it is.
    #[must_use]
    pub fn without_process(&self) -> Option<&str> {
        self.shared.fanotify.as_ref().err().map(String::as_str)
    }

    /// Gives what is to be told to `visit`, `most` and what one reading brings beyond that, without waiting. True if the kernel
    /// dropped some.
    ///
    /// # Errors
    /// If a descriptor fails.
    pub fn receive(&mut self, most: usize, mut visit: impl FnMut(News)) -> Result<bool, Errno> {
        let _was_rung = rustix::io::read(&self.shared.bell, &mut [0; 8]);
        let (mut raw, mut lost) = (std::mem::take(&mut self.unclaimed), false);
        let shared = Arc::clone(&self.shared);
        while raw.len() < most {
            let before = raw.len();
            if let Ok(group) = &shared.fanotify {
                lost |= read_fanotify(group, &mut raw)?;
            }
            lost |= self.read_inotify(&mut raw)?;
            if raw.len() == before {
                break;
            }
        }
        // Before the lock: who has entered the last folder has added it.
        let is_entering = shared.pending.load(Ordering::Acquire) > 0;
        let mut places = shared.places();
        std::mem::take(&mut places.news).into_iter().for_each(&mut visit);
        for notice in raw {
            match places.by_name.get(&notice.folder).cloned() {
                Some(found) => {
                    found.iter().for_each(|place| self.take(&mut places, place, &notice, &mut visit));
                }
                // Of a folder that was left, or that the thread is about to enter.
                None if !is_entering => {}
                None if self.unclaimed.len() < MOST_UNCLAIMED => self.unclaimed.push_back(notice),
                None => lost = true,
            }
        }
        drop(places);
        if lost {
            self.ask(Request::Everything);
        }
        Ok(lost)
    }

    fn ask(&self, request: Request) {
        self.shared.pending.fetch_add(1, Ordering::AcqRel);
        let _ended = self.requests.send(request);
    }

    fn read_inotify(&self, raw: &mut VecDeque<Raw>) -> Result<bool, Errno> {
        let (mut lost, mut gone) = (false, Vec::new());
        self.shared.inotify.read(&mut |told| match told {
            inotify::Told::Overflow => lost = true,
            inotify::Told::Gone { folder } => gone.push(Name::Watch(folder)),
            inotify::Told::Event { folder, name, changes, is_folder } => {
                raw.push_back(Raw { folder: Name::Watch(folder), name, changes, is_folder, pid: None });
            }
        })?;
        // What was told of it before stands in `raw`: its places are needed for that still, and its number is not given
        // out again.
        if raw.is_empty() {
            let mut places = self.shared.places();
            gone.iter().for_each(|name| places.remove(name));
        }
        Ok(lost)
    }

    fn take(&self, places: &mut Places, place: &Place, notice: &Raw, visit: &mut impl FnMut(News)) {
        let Raw { folder, name, changes, is_folder, pid } = notice;
        let path = plan::join(&place.path, name);
        let has = |change: &Change| changes.contains(change);
        if place.role == Role::Etc && name == b"passwd" && (has(&Change::MovedTo) || has(&Change::Written)) {
            self.ask(Request::Users);
        }
        // A `.ssh` may be a link.
        if (*is_folder || place.role == Role::Home) && !name.is_empty() {
            if has(&Change::MovedFrom) || has(&Change::Deleted) {
                places.forget(&path);
            }
            if let Some(role) = plan::role_below(place.role, name)
                && (has(&Change::Created) || has(&Change::MovedTo))
            {
                self.ask(Request::New { path: path.clone(), role });
            }
        }
        if plan::is_told(place.role, name) {
            let by = match folder {
                Name::Handle(_) => Witness::Fanotify,
                Name::Watch(_) => Witness::Inotify,
            };
            visit(News::File(FileNotice { path, changes: changes.clone(), pid: *pid, by }));
        }
    }
}

impl AsFd for FileNotices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn read_fanotify(group: &fanotify::Group, raw: &mut VecDeque<Raw>) -> Result<bool, Errno> {
    let mut lost = false;
    group.read(&mut |told| match told {
        fanotify::Told::Overflow => lost = true,
        fanotify::Told::Event { folder, name, mask, pid } => {
            // The folder itself.
            let name = if name == b"." { Vec::new() } else { name };
            let (changes, is_folder) = (fanotify::changes(mask), fanotify::is_folder(mask));
            raw.push_back(Raw { folder: Name::Handle(folder), name, changes, is_folder, pid });
        }
    })?;
    Ok(lost)
}

impl Shared {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is to be taken.
    fn ring(&self) {
        let _only_if_rung_without_end = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

impl Places {
    fn add(&mut self, name: Name, place: Place) {
        let places = self.by_name.entry(name).or_default();
        if !places.contains(&place) {
            places.push(place);
            self.count += 1;
        }
    }

    fn remove(&mut self, name: &Name) {
        self.count -= self.by_name.remove(name).map_or(0, |places| places.len());
    }

    /// A folder has another name now, or is gone, and what is below it.
    fn forget(&mut self, path: &[u8]) {
        let below = |place: &Place| {
            place.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        for places in self.by_name.values_mut() {
            let before = places.len();
            places.retain(|place| !below(place));
            self.count -= before - places.len();
        }
        self.by_name.retain(|_, places| !places.is_empty());
    }

    fn tell(&mut self, news: News) {
        if self.news.len() < MOST_NEWS {
            self.news.push(news);
        }
    }
}
