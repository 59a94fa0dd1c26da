//! The thread that finds folders and has them watched.
//!
//! What may wait for ever, opening a folder on a file system that does not answer, is done by a helper that is left behind
//! then. Folders that FUSE or an automounter serves are not touched.
#![expect(clippy::disallowed_methods, reason = "this module opens the folders whose changes are told")]

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags, RawDir, open};
use rustix::io::Errno;

use super::plan::{self, is_served, parse_homes};
use super::{Change, FileNotice, Name, News, Place, Role, Shared, Witness};

/// So long is a folder waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// As many helpers are left behind at most; then no folder is added any more.
const MOST_STUCK: usize = 4;
/// As many folders are watched at most.
const MOST_PLACES: usize = 16_384;
/// As many names of a folder are looked at.
const MOST_NAMES: usize = 4_096;
const STACK: usize = 128 * 1024;

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Request {
    /// To watch all that there is.
    Everything,
    /// The user database is another.
    Users,
    /// A folder has appeared.
    New { path: Vec<u8>, role: Role },
}

type Task = Box<dyn FnOnce() + Send>;

struct Watcher {
    shared: Arc<Shared>,
    helper: Option<Sender<Task>>,
    stuck: usize,
    mounts: Vec<u8>,
    /// Homes that were known by the user database before.
    homes: HashSet<Vec<u8>>,
    /// For this request.
    entered: HashSet<Vec<u8>>,
    failed: u64,
    first: Option<String>,
}

/// A folder that was entered: its names, and which are folders.
type Entries = Vec<(Vec<u8>, bool)>;

pub(super) fn start(shared: Arc<Shared>, asked: Receiver<Request>) -> io::Result<()> {
    let work = move || {
        let (mounts, homes, entered) = Default::default();
        let mut watcher =
            Watcher { shared, helper: None, stuck: 0, mounts, homes, entered, failed: 0, first: None };
        for request in asked {
            watcher.mounts = read_file("/proc/self/mountinfo", 16 << 20).unwrap_or_default();
            match request {
                Request::Everything => watcher.everything(),
                Request::Users => watcher.users(true),
                Request::New { path, role } => watcher.enter(path, role, true),
            }
            watcher.tell_failed();
            watcher.entered.clear();
            watcher.shared.pending.fetch_sub(1, Ordering::AcqRel);
            // What was told of folders meanwhile is looked at again.
            watcher.shared.ring();
        }
    };
    Builder::new().name("files".to_owned()).stack_size(STACK).spawn(work).map(drop)
}

/// Up to `most` bytes of a file.
pub(super) fn read_file(path: &str, most: u64) -> Result<Vec<u8>, Errno> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut text))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(text)
}

impl Watcher {
    fn everything(&mut self) {
        self.enter(b"/etc".to_vec(), Role::Etc, false);
        self.enter(b"/etc/ssh".to_vec(), Role::System, false);
        self.users(false);
    }

    /// `are_new`: what is found in homes that were not watched is told.
    fn users(&mut self, are_new: bool) {
        let passwd = match read_file("/etc/passwd", 16 << 20) {
            Ok(passwd) => passwd,
            Err(errno) => return self.fail(b"/etc/passwd", &errno.to_string()),
        };
        let (homes, parents) = parse_homes(&passwd);
        for home in homes {
            let is_new = are_new && !self.homes.contains(&home);
            if self.homes.len() < MOST_PLACES {
                self.homes.insert(home.clone());
            }
            self.enter(home, Role::Home, is_new);
        }
        for parent in parents {
            // Who is in it is no news.
            self.enter(parent, Role::Parent, false);
        }
    }

    /// Watches a folder, and what is below it. Its names are read after that: what appears meanwhile is told twice rather
    /// than not at all.
    fn enter(&mut self, path: Vec<u8>, role: Role, is_new: bool) {
        if !self.entered.insert(path.clone()) {
            return;
        }
        if self.shared.places().count >= MOST_PLACES {
            return self.fail(&path, "too many are watched");
        }
        if is_served(&path, &self.mounts) {
            return self.fail(&path, "another process serves it");
        }
        let (shared, folder) = (Arc::clone(&self.shared), path.clone());
        let entries = match self.help(move || take_in(&shared, folder, role)) {
            Some(Ok(entries)) => entries,
            // A home that was never made, or one that is gone again.
            Some(Err(Errno::NOENT | Errno::NOTDIR)) => return,
            Some(Err(errno)) => return self.fail(&path, &errno.to_string()),
            None => return self.fail(&path, "it does not answer"),
        };
        for (name, is_folder) in entries {
            let below = plan::join(&path, &name);
            if is_new && plan::is_told(role, &name) {
                let (changes, by) = (vec![Change::Found], Witness::Listing);
                let notice = FileNotice { path: below.clone(), changes, pid: None, by };
                self.shared.places().tell(News::File(notice));
            }
            if let Some(role) = plan::role_below(role, &name).filter(|_| is_folder) {
                self.enter(below, role, is_new);
            }
        }
        self.shared.ring();
    }

    /// Has something done that may take for ever. `None`: it does.
    fn help<T: Send + 'static>(&mut self, act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.stuck >= MOST_STUCK {
            return None;
        }
        let (give, answer) = sync_channel(1);
        let task: Task = Box::new(move || drop(give.send(act())));
        let helper = self.helper.take().or_else(helper)?;
        helper.send(task).ok()?;
        let answer = answer.recv_timeout(PATIENCE);
        match answer {
            Ok(answer) => {
                self.helper = Some(helper);
                Some(answer)
            }
            Err(_) => {
                self.stuck += 1;
                None
            }
        }
    }

    fn fail(&mut self, path: &[u8], why: &str) {
        self.failed += 1;
        self.first.get_or_insert_with(|| format!("{}: {why}", String::from_utf8_lossy(path)));
    }

    fn tell_failed(&mut self) {
        if let Some(detail) = self.first.take() {
            let count = std::mem::take(&mut self.failed);
            self.shared.places().tell(News::Unwatched { count, detail });
            self.shared.ring();
        }
    }
}

fn helper() -> Option<Sender<Task>> {
    let (give, tasks) = channel::<Task>();
    let work = move || tasks.into_iter().for_each(|task| task());
    Builder::new().name("folders".to_owned()).stack_size(STACK).spawn(work).ok()?;
    Some(give)
}

fn take_in(shared: &Shared, path: Vec<u8>, role: Role) -> Result<Entries, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let folder = open(Path::new(std::ffi::OsStr::from_bytes(&path)), flags, Mode::empty())?;
    let by_handle = shared.fanotify.as_ref().ok().and_then(|group| group.watch(&folder, role).ok());
    // Some file systems have no handles, and some no number.
    let name = match by_handle {
        Some(handle) => Name::Handle(handle),
        None => Name::Watch(shared.inotify.watch(&folder, role)?),
    };
    shared.places().add(name, Place { path, role });
    shared.ring();
    Ok(names(&folder, role))
}

/// Names in a folder that may matter.
fn names(folder: &OwnedFd, role: Role) -> Entries {
    let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
    let mut entries = RawDir::new(folder, &mut buffer);
    let mut names = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_bytes();
        let matters = plan::is_told(role, name) || plan::role_below(role, name).is_some();
        // A `.ssh` may be a link.
        let is_folder = match entry.file_type() {
            FileType::Directory | FileType::Unknown => true,
            FileType::Symlink => role == Role::Home,
            _ => false,
        };
        if matters && name != b"." && name != b".." {
            names.push((name.to_vec(), is_folder));
        }
        if names.len() >= MOST_NAMES {
            break;
        }
    }
    names
}
