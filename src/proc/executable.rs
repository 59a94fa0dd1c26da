//! The file that a process runs: which one it is, and its content.
//!
//! Held as a place (`O_PATH`) through `/proc/PID/exe`, so that it is that file in whatever mount namespace, also after it
//! was deleted and after its process ended. Taking it waits for nobody; reading it may, and is done on a thread that can
//! be left behind (`patience`). Knows nothing of hashes.
#![expect(
    clippy::disallowed_methods,
    reason = "how long ago a file was changed is asked on the thread that reads it"
)]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, fstatfs, openat, statx};
use rustix::io::{Errno, read};
use rustix::time::{ClockId, clock_gettime};

use super::patience::{Asked, Awaited, Part, Whose};
use super::{Held, Proc, ProcError};
use crate::process::FileId;

/// `statfs` magic of file systems whose content is in the kernel's hands: nobody answers one reader otherwise than
/// another. ext, xfs, btrfs, tmpfs (and memfd), ramfs, f2fs, zfs, squashfs, erofs, bcachefs.
const KERNELS_OWN: [u64; 10] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0x7371_7368,
    0xe0f5_e1e2,
    0xca45_1a4e,
];
/// A change that is younger may not show in the file's times: they are as coarse as the kernel's tick, or as two seconds on
/// some file systems.
const SETTLED_AFTER: i64 = 3;
/// Bytes that are read at once.
const PIECE: usize = 128 * 1024;

/// A process's executable.
#[derive(Debug)]
pub struct Executable {
    /// As it is now.
    pub id: FileId,
    place: OwnedFd,
}

/// An executable that is to be read, and who is to blame if that does not come.
#[derive(Debug)]
pub struct Unread {
    executable: Executable,
    whose: Whose,
}

/// An executable that is being read elsewhere.
#[derive(Debug)]
pub struct Reading<T>(Awaited<Content<T>>, Whose);

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content<T> {
    /// What was made of it.
    pub made: T,
    /// True if its times tell of every change: the last is some time ago.
    pub is_settled: bool,
    /// True if the kernel alone answers for it.
    pub is_kernels_own: bool,
}

impl Proc {
    /// Takes hold of a process's executable: 4 µs, and waits for nobody.
    ///
    /// # Errors
    /// `Read`: gone, denied, or a kernel thread, which has none.
    pub fn executable_of(&self, held: &Held) -> Result<Executable, ProcError> {
        let open = || {
            let place = openat(&held.dir, "exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            Ok(Executable { id: identify(&place)?, place })
        };
        open().map_err(|errno| held.error(self, "exe", errno))
    }

    /// Prepares to read it later: 10 µs.
    #[must_use]
    pub fn to_be_read(&self, held: &Held, executable: Executable) -> Unread {
        Unread { executable, whose: self.whose(held) }
    }

    /// Has its content read elsewhere: each piece is given to a new `T`.
    ///
    /// # Errors
    /// TIMEDOUT if others of this user do not answer, AGAIN without a thread.
    pub fn begin_reading<T: Default + Send + 'static>(
        &self,
        unread: Unread,
        take: impl Fn(&mut T, &[u8]) + Send + 'static,
    ) -> Result<Reading<T>, Errno> {
        let Unread { executable: Executable { id, place }, whose } = unread;
        let read = move || read_whole(&place, &id, &take);
        match self.patience.borrow_mut().ask(Part::Executable, || whose, read) {
            Asked::Reading(awaited) => Ok(Reading(awaited, whose)),
            Asked::There(outcome) => Err(outcome.err().unwrap_or(Errno::AGAIN)),
        }
    }

    /// Looks whether it has been read, waiting for no longer than this; answers also how long that took.
    ///
    /// # Errors
    /// It is still being read.
    #[expect(clippy::type_complexity, reason = "an outcome and its price, or not yet")]
    pub fn look_at_reading<T>(
        &self,
        reading: Reading<T>,
        wait: Duration,
    ) -> Result<(Result<Content<T>, Errno>, Duration), Reading<T>> {
        let Reading(awaited, whose) = reading;
        self.patience.borrow_mut().look(awaited, wait).map_err(|awaited| Reading(awaited, whose))
    }

    /// Waits for it no more.
    pub fn give_up_reading<T>(&self, reading: Reading<T>) {
        let Reading(awaited, whose) = reading;
        self.patience.borrow_mut().give_up(awaited, whose);
    }
}

/// What is in the kernel's memory of it: a file server is not asked.
fn identify(file: impl AsFd) -> Result<FileId, Errno> {
    let wanted = StatxFlags::INO | StatxFlags::MTIME | StatxFlags::CTIME | StatxFlags::SIZE;
    let stat = statx(file, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wanted)?;
    Ok(FileId {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        size: stat.stx_size,
    })
}

/// STALE: it is not, or no longer, what it was when it was held.
fn read_whole<T: Default>(
    place: &OwnedFd,
    id: &FileId,
    take: &impl Fn(&mut T, &[u8]),
) -> Result<Content<T>, Errno> {
    let again = format!("/proc/self/fd/{}", place.as_raw_fd());
    let file = openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    let is_kernels_own = fstatfs(&file).is_ok_and(|fs| {
        u64::try_from(fs.f_type).is_ok_and(|magic| KERNELS_OWN.contains(&(magic & 0xffff_ffff)))
    });
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    let is_settled = now.saturating_sub(id.changed.0) > SETTLED_AFTER;
    let (mut made, mut left) = (T::default(), id.size);
    let mut piece = vec![0; PIECE];
    loop {
        let got = match read(&file, &mut piece) {
            Ok(0) => break,
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        // A file may grow for as long as somebody writes into it.
        left = left.checked_sub(got as u64).ok_or(Errno::STALE)?;
        take(&mut made, piece.get(..got).unwrap_or_default());
    }
    match left == 0 && identify(&file)? == *id {
        true => Ok(Content { made, is_settled, is_kernels_own }),
        false => Err(Errno::STALE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_through(proc: &Proc, pid: u32) -> Content<Vec<u8>> {
        let held = proc.hold(pid).unwrap();
        let unread = proc.to_be_read(&held, proc.executable_of(&held).unwrap());
        let take = |all: &mut Vec<u8>, piece: &[u8]| all.extend_from_slice(piece);
        let reading = proc.begin_reading(unread, take).unwrap();
        proc.look_at_reading(reading, Duration::from_secs(9)).unwrap().0.unwrap()
    }

    #[test]
    fn a_deleted_program_is_read_as_long_as_it_runs_and_one_that_ended_as_long_as_it_is_held() {
        let proc = Proc::new("/proc").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sleeper");
        std::fs::copy("/bin/sleep", &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut child = std::process::Command::new(&path).arg("9").spawn().unwrap();
        std::fs::remove_file(&path).unwrap();
        let content = read_through(&proc, child.id());
        assert!(content.made == whole && !content.is_settled, "it was made a moment ago");
        let held = proc.hold(child.id()).unwrap();
        let executable = proc.executable_of(&held).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(proc.executable_of(&held).unwrap_err().is_gone());
        let take = |sum: &mut usize, piece: &[u8]| *sum += piece.len();
        let reading = proc.begin_reading(proc.to_be_read(&held, executable), take).unwrap();
        let (content, _) = proc.look_at_reading(reading, Duration::from_secs(9)).unwrap();
        assert_eq!(content.map(|content| content.made), Ok(whole.len()));
    }

    #[test]
    fn a_file_that_is_another_by_then_is_not_told_for_the_one_that_was_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let place = openat(CWD, &path, OFlags::PATH, Mode::empty()).unwrap();
        let id = identify(&place).unwrap();
        let count = |sum: &mut usize, piece: &[u8]| *sum += piece.len();
        assert_eq!(read_whole::<usize>(&place, &id, &count).unwrap().made, 3);
        std::fs::write(&path, "longer").unwrap();
        assert_eq!(read_whole::<usize>(&place, &id, &count), Err(Errno::STALE));
    }
}
