//! What inotify tells: which name in which folder, and what happened to it; not who did it. Needs no privilege but to
//! read the folder.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use super::{Change, Role};

/// A notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// Something happened.
    Event { folder: i32, name: Vec<u8>, changes: Vec<Change>, is_folder: bool },
    /// A folder is gone.
    Gone { folder: i32 },
    /// Notices were dropped.
    Overflow,
}

/// A subscription.
#[derive(Debug)]
pub(super) struct Group(OwnedFd);

impl Group {
    pub(super) fn open() -> Result<Self, Errno> {
        init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map(Self)
    }

    /// Watches an open folder; answers how events will name it.
    pub(super) fn watch(&self, folder: &OwnedFd, role: Role) -> Result<i32, Errno> {
        let again = format!("/proc/self/fd/{}", folder.as_raw_fd());
        // One folder may have several roles.
        add_watch(&self.0, again, wanted(role) | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD)
    }

    /// What it has to say now, one reading of it. False: nothing.
    pub(super) fn read(&self, visit: &mut dyn FnMut(Told)) -> Result<bool, Errno> {
        let mut buffer = [MaybeUninit::uninit(); 8 * 1024];
        let mut reader = Reader::new(&self.0, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(errno) => return Err(errno),
            };
            let (folder, events) = (event.wd(), event.events());
            let name = event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default();
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                visit(Told::Overflow);
            } else if events.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
                visit(Told::Gone { folder });
            } else {
                let is_folder = events.contains(ReadFlags::ISDIR);
                visit(Told::Event { folder, name, changes: changes(events), is_folder });
            }
            if reader.is_buffer_empty() {
                return Ok(true);
            }
        }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn wanted(role: Role) -> WatchFlags {
    let names = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    match role {
        Role::Parent | Role::Home => names,
        Role::Etc => names | WatchFlags::CLOSE_WRITE,
        Role::Ssh | Role::System => names | WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY | WatchFlags::ATTRIB,
    }
}

fn changes(events: ReadFlags) -> Vec<Change> {
    let all = [
        (ReadFlags::CREATE, Change::Created),
        (ReadFlags::MOVED_TO, Change::MovedTo),
        (ReadFlags::MODIFY, Change::Modified),
        (ReadFlags::CLOSE_WRITE, Change::Written),
        (ReadFlags::ATTRIB, Change::Attributes),
        (ReadFlags::MOVED_FROM, Change::MovedFrom),
        (ReadFlags::DELETE, Change::Deleted),
    ];
    all.into_iter().filter(|(flag, _)| events.contains(*flag)).map(|(_, change)| change).collect()
}
