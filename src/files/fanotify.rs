//! What fanotify tells: which name in which folder, what happened to it, and the process that did it.
//!
//! A folder is told by its file handle. How ours look the kernel says in `fdinfo`, so that no system call is needed that
//! could open files by their handles. Layout: fanotify(7); checked on 6.18.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno as NixErrno;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::{fstat, fstatvfs, major, minor};
use rustix::io::{Errno, read};

use super::{Change, Role};

/// FAN_REPORT_DIR_FID and FAN_REPORT_NAME, which nix has no names for.
const REPORT_FOLDER_AND_NAME: u32 = 0x400 | 0x800;
/// `info_type` of a folder's handle and a name in it.
const FOLDER_AND_NAME: u8 = 2;
/// Bytes of `struct fanotify_event_metadata`, and of an information's header and file system id.
const METADATA: usize = 24;
const INFO_HEADER: usize = 12;
const VERSION: u8 = 3;

/// A folder, as the kernel names it in events: file system, kind and bytes of the handle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Handle {
    file_system: u64,
    kind: i32,
    bytes: Vec<u8>,
}

/// A notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Something happened.
    Event {
        /// In which folder.
        folder: Handle,
        /// To which name in it; `.` for the folder itself.
        name: Vec<u8>,
        /// What, and whether to a folder.
        mask: u64,
        /// `None`: one that we cannot see.
        pid: Option<u32>,
    },
    /// Notices were dropped.
    Overflow,
}

/// A subscription.
#[derive(Debug)]
pub(super) struct Group(Fanotify);

impl Group {
    /// Needs CAP_SYS_ADMIN: without it the kernel subscribes us and tells no process. Linux 5.9.
    pub(super) fn open() -> Result<Self, String> {
        let may = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
        if !may {
            return Err("needs CAP_SYS_ADMIN".to_owned());
        }
        let flags = InitFlags::FAN_CLASS_NOTIF
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_UNLIMITED_MARKS
            | InitFlags::from_bits_retain(REPORT_FOLDER_AND_NAME);
        Fanotify::init(flags, EventFFlags::O_RDONLY).map(Self).map_err(|errno| match errno {
            NixErrno::EPERM => "is forbidden (in a systemd unit, by SystemCallFilter)".to_owned(),
            NixErrno::EINVAL => "needs Linux 5.9".to_owned(),
            other => other.desc().to_owned(),
        })
    }

    /// Watches an open folder; answers how events will name it.
    pub(super) fn watch(&self, folder: &OwnedFd, role: Role) -> Result<Handle, Errno> {
        let none: Option<&std::path::Path> = None;
        self.0
            .mark(MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_ONLYDIR, wanted(role), folder, none)
            .map_err(|errno| Errno::from_raw_os_error(errno as i32))?;
        let stat = fstat(folder)?;
        let file_system = fstatvfs(folder)?.f_fsid;
        let device = (major(stat.st_dev), minor(stat.st_dev));
        let path = format!("/proc/self/fdinfo/{}", self.as_fd().as_raw_fd());
        let text = super::read_file(&path, 16 << 20)?;
        let (kind, bytes) = parse_marks(&text, stat.st_ino, device).ok_or(Errno::NODEV)?;
        Ok(Handle { file_system, kind, bytes })
    }

    /// What it has to say now, one reading of it. Empty: nothing.
    pub(super) fn read(&self, visit: &mut dyn FnMut(Told)) -> Result<bool, Errno> {
        let mut buffer = vec![0; 16 * 1024];
        let got = match read(self.as_fd(), &mut buffer) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        parse_notices(buffer.get(..got).unwrap_or_default()).for_each(visit);
        Ok(got > 0)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn wanted(role: Role) -> MaskFlags {
    let names = MaskFlags::FAN_CREATE
        | MaskFlags::FAN_DELETE
        | MaskFlags::FAN_MOVED_FROM
        | MaskFlags::FAN_MOVED_TO
        | MaskFlags::FAN_ONDIR;
    let written = MaskFlags::FAN_CLOSE_WRITE | MaskFlags::FAN_EVENT_ON_CHILD;
    match role {
        Role::Parent | Role::Home => names,
        Role::Etc => names | written,
        Role::Ssh | Role::System => names | written | MaskFlags::FAN_MODIFY | MaskFlags::FAN_ATTRIB,
    }
}

/// What a mask means.
pub(super) fn changes(mask: u64) -> Vec<Change> {
    let all = [
        (MaskFlags::FAN_CREATE, Change::Created),
        (MaskFlags::FAN_MOVED_TO, Change::MovedTo),
        (MaskFlags::FAN_MODIFY, Change::Modified),
        (MaskFlags::FAN_CLOSE_WRITE, Change::Written),
        (MaskFlags::FAN_ATTRIB, Change::Attributes),
        (MaskFlags::FAN_MOVED_FROM, Change::MovedFrom),
        (MaskFlags::FAN_DELETE, Change::Deleted),
    ];
    all.into_iter().filter(|(flag, _)| mask & flag.bits() != 0).map(|(_, change)| change).collect()
}

/// True if the mask is of a folder.
pub(super) fn is_folder(mask: u64) -> bool {
    mask & MaskFlags::FAN_ONDIR.bits() != 0
}

/// What a reading holds; up to the first notice that is none. Public for `fuzz/`.
pub fn parse_notices(mut bytes: &[u8]) -> impl Iterator<Item = Told> {
    std::iter::from_fn(move || {
        loop {
            let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
            let event = bytes.get(..length).filter(|event| event.len() >= METADATA)?;
            bytes = bytes.get(length..)?;
            if let Some(told) = parse_event(event) {
                return Some(told);
            }
        }
    })
}

fn parse_event(event: &[u8]) -> Option<Told> {
    if event.get(4) != Some(&VERSION) {
        return None;
    }
    let mask = u64::from_ne_bytes(array_at(event, 8)?);
    if mask & MaskFlags::FAN_Q_OVERFLOW.bits() != 0 {
        return Some(Told::Overflow);
    }
    let pid = u32_at(event, 20).filter(|pid| *pid > 0 && pid.cast_signed() > 0);
    let mut rest = event.get(usize::from(u16::from_ne_bytes(array_at(event, 6)?))..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(array_at(rest, 2)?));
        let info = rest.get(..length).filter(|info| info.len() >= INFO_HEADER)?;
        rest = rest.get(length..)?;
        if info.first() == Some(&FOLDER_AND_NAME) {
            let (folder, name) = parse_folder(info)?;
            return Some(Told::Event { folder, name, mask, pid });
        }
    }
}

/// `struct fanotify_event_info_fid`, and the name behind the handle.
fn parse_folder(info: &[u8]) -> Option<(Handle, Vec<u8>)> {
    let file_system = u64::from_ne_bytes(array_at(info, 4)?);
    let length = usize::try_from(u32_at(info, INFO_HEADER)?).ok().filter(|length| *length <= 128)?;
    let kind = u32_at(info, INFO_HEADER + 4)?.cast_signed();
    let rest = info.get(INFO_HEADER + 8..)?;
    let (bytes, name) = rest.split_at_checked(length)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some((Handle { file_system, kind, bytes: bytes.to_vec() }, name.to_vec()))
}

/// Kind and bytes of the handle of a marked inode, from `fdinfo`:
/// `fanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:69f90400c275b5b4`
pub fn parse_marks(text: &[u8], inode: u64, device: (u32, u32)) -> Option<(i32, Vec<u8>)> {
    let of_inode = text.split(|byte| *byte == b'\n').filter_map(parse_mark);
    let same: Vec<_> = of_inode.filter(|mark| mark.0 == inode).collect();
    // Some file systems show another device number than the kernel has, and then there must be one alone.
    let of_device = same.iter().find(|mark| (mark.1 >> 20, mark.1 & 0xf_ffff) == device);
    let mark = of_device.or_else(|| same.first().filter(|_| same.len() == 1))?;
    Some((mark.2, mark.3.clone()))
}

fn parse_mark(line: &[u8]) -> Option<(u64, u32, i32, Vec<u8>)> {
    let line = std::str::from_utf8(line.strip_prefix(b"fanotify ")?).ok()?;
    let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix(':'));
    let inode = u64::from_str_radix(value("ino")?, 16).ok()?;
    let device = u32::from_str_radix(value("sdev")?, 16).ok()?;
    let kind = u32::from_str_radix(value("fhandle-type")?, 16).ok()?.cast_signed();
    let digits = value("f_handle")?.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    Some((inode, device, kind, pairs.iter().map(byte).collect::<Option<Vec<u8>>>()?))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: u64, pid: i32, infos: &[u8]) -> Vec<u8> {
        let length = u32::try_from(METADATA + infos.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([VERSION, 0, 24, 0]);
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1i32).to_ne_bytes());
        bytes.extend(pid.to_ne_bytes());
        bytes.extend(infos);
        bytes
    }

    fn folder(name: &[u8]) -> Vec<u8> {
        let length = u16::try_from(INFO_HEADER + 8 + 8 + name.len()).unwrap();
        let mut info = vec![FOLDER_AND_NAME, 0];
        info.extend(length.to_ne_bytes());
        info.extend(7u64.to_ne_bytes());
        info.extend(8u32.to_ne_bytes());
        info.extend(1i32.to_ne_bytes());
        info.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        info.extend(name);
        info
    }

    #[test]
    fn events_name_folder_file_and_process() {
        let create = MaskFlags::FAN_CREATE.bits();
        let mut bytes = event(create, 42, &folder(b"config\0\0"));
        bytes.extend(event(MaskFlags::FAN_Q_OVERFLOW.bits(), 0, &[]));
        bytes.extend(event(create | MaskFlags::FAN_ONDIR.bits(), 0, &folder(b"d\0")));
        let handle = Handle { file_system: 7, kind: 1, bytes: vec![1, 2, 3, 4, 5, 6, 7, 8] };
        let told: Vec<_> = parse_notices(&bytes).collect();
        let first =
            Told::Event { folder: handle.clone(), name: b"config".to_vec(), mask: create, pid: Some(42) };
        assert_eq!(told[..2], [first, Told::Overflow]);
        assert!(matches!(&told[2], Told::Event { pid: None, mask, .. } if is_folder(*mask)));
        assert_eq!(changes(create | MaskFlags::FAN_MODIFY.bits()), [Change::Created, Change::Modified]);
    }

    #[test]
    fn a_mark_is_found_by_inode_and_device() {
        let text = b"pos:\t0\nmnt_id:\t16\nino:\t9\nfanotify flags:c02 event-flags:0\n\
            fanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:0 fhandle-bytes:2 fhandle-type:1 f_handle:69f9\n\
            fanotify ino:4f969 sdev:800014 mflags:0 mask:3b ignored_mask:0 fhandle-bytes:2 fhandle-type:81 f_handle:0102\n\
            fanotify ino:5 sdev:99 mflags:0 mask:3b ignored_mask:0 fhandle-bytes:1 fhandle-type:1 f_handle:07\n";
        assert_eq!(parse_marks(text, 0x4f969, (8, 0x14)), Some((0x81, vec![1, 2])));
        assert_eq!(parse_marks(text, 0x4f969, (8, 0x15)), None, "which of the two?");
        assert_eq!(parse_marks(text, 5, (8, 0x15)), Some((1, vec![7])));
        assert_eq!(parse_marks(b"fanotify ino:5\n", 5, (0, 0)), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..200), infos in proptest::collection::vec(0u8.., 0..60)) {
            let _ = (parse_notices(&bytes).count(), parse_notices(&event(1, 1, &infos)).count(), parse_marks(&bytes, 5, (0, 0)));
        }
    }
}
