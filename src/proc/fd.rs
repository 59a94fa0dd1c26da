//! Which process holds which socket: `fd` links, or `fdinfo` where only CAP_SYS_PTRACE is held.
//!
//! Knows nothing of who should be asked first: `attribution` does. A link reads `socket:[INODE]`; `fdinfo` tells
//! `ino:` (Linux 5.14) and `mnt_id:`, and only both together mean a socket, because an ordinary file may bear the
//! same inode number. A socket without a descriptor may be in an io_uring, whose `fdinfo` lists it (Linux 6.14).
//! A link is read at once; `fdinfo` may never come, so a table's is read by another thread, some descriptors at a time
//! (`patience`).
//! Checked on 6.18; docs: proc_pid_fd(5), proc_pid_fdinfo(5).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::vec;

use rustix::fs::{AtFlags, Mode, OFlags, openat, readlinkat_raw, statat};
use rustix::io::Errno;

use super::{Decimal, Held, Listing, Proc, ProcError, is_gone, parse_u64, read_text, read_text_at};
use crate::connection::Inode;
use crate::process::Holder;

/// The text of a link to an io_uring.
const RING: &[u8] = b"anon_inode:[io_uring]";

/// So many descriptors of a table are handed over to be read by `fdinfo`, at first and at most: newborns have few, and what is
/// wanted is mostly among the first.
const FIRST_PORTION: usize = 4;
const MOST_PORTION: usize = 64;

/// A ring's `fdinfo` is read up to here: some 30,000 sockets.
const MOST_OF_RING: usize = 1 << 20;

/// What one look at one descriptor told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The descriptor is the socket.
    Stands,
    /// It is not, or its process is gone.
    Gone,
    /// It may not be read.
    Denied,
}

/// What `fdinfo` tells of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FdInfo {
    /// `ino:`.
    pub inode: Option<u64>,
    /// `mnt_id:`.
    pub mount: Option<u64>,
}

/// The inode of a socket link's text.
#[must_use]
pub fn parse_socket_link(target: &[u8]) -> Option<Inode> {
    parse_u64(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?).and_then(Inode::new)
}

/// The two lines of `fdinfo` that tell a socket.
#[must_use]
pub fn parse_fdinfo(text: &[u8]) -> FdInfo {
    let mut info = FdInfo::default();
    for line in text.split(|b| *b == b'\n') {
        let value = |key: &[u8]| line.strip_prefix(key).map(<[u8]>::trim_ascii).and_then(parse_u64);
        info.inode = info.inode.or_else(|| value(b"ino:"));
        info.mount = info.mount.or_else(|| value(b"mnt_id:"));
    }
    info
}

/// Sockets that a ring's `fdinfo` lists: `    1: socket:[31337]` below `UserFiles:`. `None`: it lists none now, because
/// the ring is at work.
#[must_use]
pub fn parse_ring(text: &[u8]) -> Option<Vec<Inode>> {
    let mut lines = text.split(|b| *b == b'\n').skip_while(|line| !line.starts_with(b"UserFiles:"));
    lines.next()?;
    let socket = |line: &[u8]| {
        let colon = line.iter().position(|b| *b == b':')?;
        let (slot, path) = line.split_at_checked(colon)?;
        parse_u64(slot.trim_ascii())?;
        parse_socket_link(path.strip_prefix(b": ")?)
    };
    Some(lines.take_while(|line| line.starts_with(b" ")).filter_map(socket).collect())
}

/// True if `fdinfo` of a unix socket says that descriptors wait in it to be received (Linux 5.5). Public for
/// `fuzz/`.
#[must_use]
pub fn parse_in_flight(text: &[u8]) -> bool {
    let mut lines = text.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(b"scm_fds:"));
    lines.next().and_then(|count| parse_u64(count.trim_ascii())).is_some_and(|count| count > 0)
}

/// Whether a process shows us what it takes to call it an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// A descriptor and the program.
    Itself,
    /// Not so: denied.
    Nothing,
    /// It has no descriptor, or is gone.
    Unknown,
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptor {
    /// A socket.
    Socket(Inode),
    /// An io_uring, which may hold sockets that have no descriptor.
    Ring,
    /// Something else, or closed meanwhile, or not to be read.
    Other,
}

/// Where a table of descriptors is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Links,
    Info,
}

/// A table of descriptors that is being read, of any size: it can be left and gone on with.
#[derive(Debug)]
pub struct Table {
    pid: u32,
    tid: Option<u32>,
    way: Way,
    listing: Listing,
    portion: vec::IntoIter<u32>,
    /// What was read ahead by `fdinfo`, and how many are read the next time; none of a process that did not answer.
    ahead: vec::IntoIter<(u32, Descriptor)>,
    next_ahead: usize,
}

impl Table {
    fn next_number(&mut self) -> Option<u32> {
        loop {
            // What was opened last is mostly the highest number, and mostly what is wanted.
            match self.portion.next_back() {
                Some(fd) => return Some(fd),
                None => self.portion = self.listing.next()?.into_iter(),
            }
        }
    }

    fn next_numbers(&mut self) -> Vec<u32> {
        let most = self.next_ahead;
        self.next_ahead = (most * 2).min(MOST_PORTION);
        std::iter::from_fn(|| self.next_number()).take(most).collect()
    }
}

/// Path below `/proc/PID` of a folder of descriptors, or of one in it.
fn path(folder: &str, tid: Option<u32>, fd: Option<u32>) -> String {
    let mut path = tid.map_or_else(|| folder.to_owned(), |tid| format!("task/{tid}/{folder}"));
    if let Some(fd) = fd {
        path.push('/');
        path.push_str(Decimal::new(fd).as_str());
    }
    path
}

impl Proc {
    /// Gives every socket descriptor of a process (of one of its threads) to `visit`, which answers whether to go on.
    ///
    /// # Errors
    /// `Read`: gone, or denied in both ways.
    pub fn read_sockets(
        &self,
        held: &Held,
        tid: Option<u32>,
        mut visit: impl FnMut(Holder, Inode) -> bool,
    ) -> Result<(), ProcError> {
        let mut table = self.open_table(held, tid)?;
        while let Some((holder, descriptor)) = self.next_descriptor(held, &mut table) {
            if let Descriptor::Socket(inode) = descriptor
                && !visit(holder, inode)
            {
                break;
            }
        }
        Ok(())
    }

    /// How many descriptors a process has, as the size of its folder tells: 2.5 µs. `None`: gone, or a kernel before 6.2,
    /// which does not tell.
    #[must_use]
    pub fn descriptor_count(&self, held: &Held) -> Option<u64> {
        let stat = statat(&held.dir, "fd", AtFlags::empty()).ok()?;
        u64::try_from(stat.st_size).ok().filter(|count| *count > 0)
    }

    /// Begins to read the descriptors of a process, or of one of its threads.
    ///
    /// # Errors
    /// `Read`: gone, or denied in both ways.
    pub fn open_table(&self, held: &Held, tid: Option<u32>) -> Result<Table, ProcError> {
        let open = |way, folder| Listing::open(&held.dir, &path(folder, tid, None)).map(|dir| (way, dir));
        let outcome = match open(Way::Links, "fd") {
            Err(Errno::ACCESS | Errno::PERM) if self.reads_fdinfo() => open(Way::Info, "fdinfo"),
            outcome => outcome,
        };
        let (way, listing) = outcome.map_err(|e| held.error(self, &path("fd", tid, None), e))?;
        let (portion, ahead) = Default::default();
        Ok(Table { pid: held.pid, tid, way, listing, portion, ahead, next_ahead: FIRST_PORTION })
    }

    /// The next descriptor of a table: 2.7 µs by links, 6 µs by `fdinfo` and 20 µs for each portion. `None`: that was all, or
    /// the process does not answer (`Proc::silences`).
    pub fn next_descriptor(&self, held: &Held, table: &mut Table) -> Option<(Holder, Descriptor)> {
        let (fd, descriptor) = match table.way {
            Way::Links => {
                let fd = table.next_number()?;
                // A descriptor that was closed meanwhile, or may not be read, is passed over: the socket is not there.
                let read = read_link(&table.listing.dir, Decimal::new(fd).as_str());
                (fd, read.unwrap_or(Descriptor::Other))
            }
            Way::Info => match table.ahead.next() {
                Some(read) => read,
                None => {
                    table.ahead = self.read_ahead(held, table)?.into_iter();
                    table.ahead.next()?
                }
            },
        };
        Some((Holder { pid: table.pid, tid: table.tid, fd }, descriptor))
    }

    fn read_ahead(&self, held: &Held, table: &mut Table) -> Option<Vec<(u32, Descriptor)>> {
        let numbers = table.next_numbers();
        if numbers.is_empty() {
            return None;
        }
        let (dir, socket_mount) = (Arc::clone(&table.listing.dir), self.socket_mount);
        let read = move |fd| {
            let text = read_text_at(&dir, Decimal::new(fd).as_str(), 4096);
            (fd, text.map_or(Descriptor::Other, |text| tell(&text, socket_mount)))
        };
        let ahead = self.read_patiently(held, move || Ok(numbers.into_iter().map(read).collect()));
        if ahead.is_err() {
            table.next_ahead = 0;
        }
        ahead.ok()
    }

    /// Tries what the search for an owner does with each process: 10 µs.
    #[must_use]
    pub fn shows(&self, held: &Held) -> Shows {
        let mut table = match self.open_table(held, None) {
            Ok(table) => table,
            Err(e) => return if e.is_gone() { Shows::Unknown } else { Shows::Nothing },
        };
        let Some(fd) = table.next_number() else { return Shows::Unknown };
        let folder = if table.way == Way::Links { "fd" } else { "fdinfo" };
        let read = self.read_descriptor(held, table.way, &path(folder, None, Some(fd)));
        // A folder can be listed where a sandbox forbids to read the links in it.
        match read.and_then(|_| held.link("exe")) {
            Ok(_) => Shows::Itself,
            Err(e) if e == Errno::TIMEDOUT || is_gone(Some(e.raw_os_error())) => Shows::Unknown,
            Err(_) => Shows::Nothing,
        }
    }

    fn read_descriptor(&self, held: &Held, way: Way, name: &str) -> Result<Descriptor, Errno> {
        match way {
            Way::Links => read_link(&held.dir, name),
            Way::Info => self.read_info(held, name, 4096).map(|text| tell(&text, self.socket_mount)),
        }
    }

    /// Reads a descriptor's `fdinfo`. Opening it waits for nobody.
    fn read_info(&self, held: &Held, name: &str, most: usize) -> Result<Vec<u8>, Errno> {
        let file = openat(&held.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        self.read_patiently(held, move || read_text(file, most))
    }

    /// Looks whether a descriptor is still that socket, or a ring that has it: 3 µs by links, 25 µs by `fdinfo`. `Denied`
    /// also where the process does not answer.
    #[must_use]
    pub fn look(&self, held: &Held, holder: Holder, inode: Inode) -> Sight {
        let read = |way, folder| self.read_descriptor(held, way, &path(folder, holder.tid, Some(holder.fd)));
        let look = |way, folder| match read(way, folder) {
            Ok(Descriptor::Socket(found)) if found == inode => Sight::Stands,
            Ok(Descriptor::Ring) => self.look_into_ring(held, holder, inode),
            Ok(_) => Sight::Gone,
            Err(e) if is_gone(Some(e.raw_os_error())) => Sight::Gone,
            Err(_) => Sight::Denied,
        };
        match look(Way::Links, "fd") {
            Sight::Denied if self.reads_fdinfo() => look(Way::Info, "fdinfo"),
            sight => sight,
        }
    }

    fn look_into_ring(&self, held: &Held, ring: Holder, inode: Inode) -> Sight {
        match self.read_ring(held, ring) {
            Some(inodes) if inodes.contains(&inode) => Sight::Stands,
            Some(_) => Sight::Gone,
            None => Sight::Denied,
        }
    }

    /// The sockets in an io_uring, which need no descriptor of their own. `None`: it cannot be told now.
    ///
    /// The kernel writes all of it at once, however much that is.
    #[must_use]
    pub fn read_ring(&self, held: &Held, ring: Holder) -> Option<Vec<Inode>> {
        if !self.tells_ring_files() {
            return None;
        }
        let name = path("fdinfo", ring.tid, Some(ring.fd));
        // A ring at work lists nothing; it seldom is so three times.
        (0..3).find_map(|_| parse_ring(&self.read_info(held, &name, MOST_OF_RING).ok()?))
    }

    /// Older kernels write a file's bare name there, which whoever made the file chose, and none for a socket.
    fn tells_ring_files(&self) -> bool {
        self.kernel_version().is_some_and(|version| version >= (6, 14))
    }

    /// True if descriptors were sent to this unix socket and have not been received: 25 µs.
    #[must_use]
    pub fn has_descriptors_in_flight(&self, held: &Held, socket: Holder) -> bool {
        let name = path("fdinfo", socket.tid, Some(socket.fd));
        self.read_info(held, &name, 4096).is_ok_and(|text| parse_in_flight(&text))
    }
}

fn read_link(dir: impl AsFd, name: &str) -> Result<Descriptor, Errno> {
    let mut target = [0; 64];
    let length = readlinkat_raw(dir, name, &mut target)?;
    let target = target.get(..length).unwrap_or_default();
    Ok(match target == RING {
        true => Descriptor::Ring,
        false => parse_socket_link(target).map_or(Descriptor::Other, Descriptor::Socket),
    })
}

/// What `fdinfo` tells a descriptor to be.
fn tell(text: &[u8], socket_mount: Option<u64>) -> Descriptor {
    if text.split(|b| *b == b'\n').any(|line| line.starts_with(b"SqMask:")) {
        return Descriptor::Ring;
    }
    let info = parse_fdinfo(text);
    let is_socket = info.mount.is_some() && info.mount == socket_mount;
    info.inode.filter(|_| is_socket).and_then(Inode::new).map_or(Descriptor::Other, Descriptor::Socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_link_is_a_socket() {
        assert_eq!(parse_socket_link(b"socket:[31337]"), Inode::new(31337));
        for other in
            [&b"pipe:[31337]"[..], b"socket:[0]", b"socket:[]", b"socket:[1", b"/tmp/socket:[1]", b""]
        {
            assert_eq!(parse_socket_link(other), None);
        }
    }

    #[test]
    fn fdinfo_tells_inode_and_mount() {
        let text = b"pos:\t0\nflags:\t02000002\nmnt_id:\t10\nino:\t1041\n";
        assert_eq!(parse_fdinfo(text), FdInfo { inode: Some(1041), mount: Some(10) });
        assert_eq!(parse_fdinfo(b"pos:\t0\nino:\tx\n"), FdInfo::default());
    }

    #[test]
    fn a_ring_lists_its_sockets_unless_it_is_at_work() {
        // Read on 6.18, with a pipe and a file besides.
        let text =
            b"pos:\t0\nmnt_id:\t17\nino:\t12947701\nSqMask:\t0x7\nSqThread:\t-1\nUserFiles:\t4\n    1: \
            socket:[12947700]\n    2: pipe:[77]\n    3: /tmp/socket:[5]\nUserBufs:\t0\n    0: socket:[6]\n";
        assert_eq!(parse_ring(text), Some(vec![Inode::new(12_947_700).unwrap()]));
        assert_eq!(parse_ring(b"pos:\t0\nmnt_id:\t17\nino:\t12947701\n"), None);
        assert_eq!(parse_ring(b"UserFiles:\t0\nUserBufs:\t0\n"), Some(Vec::new()));
    }

    #[test]
    fn descriptors_in_flight_are_counted_by_the_socket_that_will_receive_them() {
        assert!(parse_in_flight(b"pos:\t0\nino:\t12946723\nscm_fds: 1\n"));
        for none in [&b"pos:\t0\nscm_fds: 0\n"[..], b"pos:\t0\n", b"scm_fds: x\n"] {
            assert!(!parse_in_flight(none));
        }
    }

    #[test]
    fn our_own_socket_is_found_in_both_ways() {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::MetadataExt;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.as_raw_fd();
        let link = std::fs::metadata(format!("/proc/self/fd/{number}")).unwrap();
        let inode = Inode::new(link.ino()).unwrap();
        let proc = Proc::new("/proc").unwrap().with_own_socket_mount();
        let held = proc.hold(std::process::id()).unwrap();
        let fd = u32::try_from(number).unwrap();
        for (way, folder) in [(Way::Links, "fd"), (Way::Info, "fdinfo")] {
            if way == Way::Info && !proc.reads_fdinfo() {
                continue;
            }
            let read = proc.read_descriptor(&held, way, &path(folder, None, Some(fd)));
            assert_eq!(read, Ok(Descriptor::Socket(inode)));
        }
        let mut found = Vec::new();
        proc.read_sockets(&held, None, |holder, at| {
            found.extend((at == inode).then_some(holder));
            true
        })
        .unwrap();
        assert_eq!(found, [Holder { pid: std::process::id(), tid: None, fd }]);
        drop(listener);
        assert_eq!(proc.look(&held, Holder { pid: held.pid, tid: None, fd: 9_999 }, inode), Sight::Gone);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(0u8.., 0..200)) {
            let _ = (parse_fdinfo(&text), parse_socket_link(&text), parse_ring(&text), parse_in_flight(&text));
        }
    }
}
