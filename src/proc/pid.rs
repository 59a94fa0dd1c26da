//! One process, read through one held `/proc/PID`, so that a reused pid can never be blamed.
//!
//! (pid, start time) is no identity: a pid that is reused at once mostly bears the same start tick. The held folder
//! is one: once its process is gone every read through it fails with ESRCH. Files: proc_pid_stat(5) and its like.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use procfs::FromRead;
use procfs::process::Stat;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, fstat, fstatfs, openat, readlinkat, statat, statx};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::patience::{Asked, Part, Whose};
use super::{
    Decimal, Listing, Proc, ProcError, is_gone, list_numbers, parse_u64, read_at, read_text, read_text_at,
};
use crate::process::{Ids, Login, Process, Tty, split_arguments};

/// Arguments are read up to here: what a person can have typed, and a bound for what a process can make us store.
pub const MAX_ARGS_BYTES: usize = 4096;

/// An environment is read up to here: sshd sets its variables among the first.
const MAX_ENVIRONMENT: usize = 64 * 1024;

/// The audit ids' "unset": (uint32_t)-1.
const UNSET: u32 = u32::MAX;

/// `statfs` magic of pidfs, whose inode numbers are unique within a boot (Linux 6.9).
const PIDFS_MAGIC: u64 = 0x5049_4446;

/// A held `/proc/PID`.
#[derive(Debug)]
pub struct Held {
    /// The number it was opened by.
    pub pid: u32,
    pub(super) dir: OwnedFd,
    /// The leader of its session, as `stat` told it last.
    leader: Cell<Option<u32>>,
}

/// A held process whose files stay open: another look at it costs 4 µs if it slept meanwhile and 12 µs if it did not,
/// where reading it costs 35 µs.
#[derive(Debug)]
pub struct Kept {
    /// The process.
    pub held: Rc<Held>,
    status: OwnedFd,
    arguments: Arc<OwnedFd>,
    /// `schedstat`: time on a processor, time of waiting for one, and how often it got one.
    schedule: Option<OwnedFd>,
}

/// What a kept process looked like.
#[derive(Debug, Clone)]
pub struct Print {
    face: Face,
    /// `schedstat` of a process that slept and has no second thread: as long as it reads the same, it has done nothing.
    asleep: Option<Vec<u8>>,
}

/// All that may change of what is read of a process at `Depth::Ancestor`: the program, its arguments, its name, its
/// parent, its users.
#[derive(Debug, Clone)]
struct Face {
    executable: Result<Vec<u8>, Errno>,
    /// TIMEDOUT: the process lets who asks for them wait.
    arguments: Result<Vec<u8>, Errno>,
    status: Status,
}

/// The lines of `status` that are of interest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// `Name:`, with the kernel's escapes.
    pub name: Vec<u8>,
    /// `State:`, its letter.
    pub state: Option<u8>,
    /// `PPid:`.
    pub parent: Option<u32>,
    /// `Uid:` and `Gid:`.
    pub ids: Option<Ids>,
}

/// A face of which the arguments are on their way.
struct Begun {
    executable: Result<Vec<u8>, Errno>,
    arguments: Asked<Vec<u8>>,
    status: Status,
}

impl Face {
    fn is_same(&self, other: &Self) -> bool {
        let Self { executable, arguments, status: Status { name, state: _, parent, ids } } = self;
        // Without the parent's line nothing would tell that it was adopted.
        parent.is_some()
            && (parent, ids) == (&other.status.parent, &other.status.ids)
            && (executable, name) == (&other.executable, &other.status.name)
            // Those that do not come now may be what they were.
            && (arguments.is_err() || *arguments == other.arguments)
    }
}

impl Held {
    /// The same process, held once more. `None`: we are out of descriptors.
    #[must_use]
    pub fn duplicate(&self) -> Option<Self> {
        let leader = self.leader.clone();
        self.dir.try_clone().ok().map(|dir| Self { pid: self.pid, dir, leader })
    }

    pub(super) fn error(&self, proc: &Proc, name: &str, error: Errno) -> ProcError {
        ProcError::Read { path: proc.root.join(self.pid.to_string()).join(name), source: error.into() }
    }

    fn read(&self, name: &str, most: usize) -> Result<Vec<u8>, Errno> {
        read_text_at(self.dir.as_fd(), name, most)
    }

    pub(super) fn link(&self, name: &str) -> Result<Vec<u8>, Errno> {
        readlinkat(&self.dir, name, Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// The kernel writes ` (deleted)` behind the path of a file that has no name any more; but a file may be named so. Its
    /// links are asked of what is in memory: a file server that does not answer would hold us up.
    fn without_deleted(&self, name: &str, executable: Vec<u8>) -> (Option<Vec<u8>>, bool) {
        let links = || statx(&self.dir, name, AtFlags::STATX_DONT_SYNC, StatxFlags::NLINK);
        match executable.strip_suffix(b" (deleted)") {
            Some(bare) if links().is_ok_and(|stat| stat.stx_nlink == 0) => (Some(bare.to_vec()), true),
            _ => (Some(executable), false),
        }
    }

    /// True if it has this name still, or none can be read.
    fn is_called(&self, name: &[u8]) -> bool {
        self.read("comm", 64).map_or(true, |text| text.strip_suffix(b"\n") == Some(name))
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.read(name, 32)
            .ok()
            .and_then(|text| parse_u64(text.trim_ascii()))
            .and_then(|n| u32::try_from(n).ok())
    }
}

/// How much of a process is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All of it.
    Owner,
    /// What a link of the chain needs: name, executable, arguments, start, ids.
    Ancestor,
}

impl Proc {
    /// Holds a process.
    ///
    /// # Errors
    /// `Read`: gone or denied.
    pub fn hold(&self, pid: u32) -> Result<Held, ProcError> {
        let name = Decimal::new(pid);
        openat(&self.dir, name.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map(|dir| Held { pid, dir, leader: Cell::default() })
            .map_err(|e| self.read_error(name.as_str(), e))
    }

    /// Parent's pid as it is now; it changes when the parent dies.
    ///
    /// # Errors
    /// `Read` if gone, `Parse` if `stat` is not of the kernel's form.
    pub fn parent_of(&self, held: &Held) -> Result<u32, ProcError> {
        let text = held.read("stat", 4096).map_err(|e| held.error(self, "stat", e))?;
        parse_parent(&text).ok_or_else(|| self.bad_stat(held))
    }

    /// When a process started, since boot; to a hundredth of a second.
    #[must_use]
    pub fn started(&self, process: &Process) -> Duration {
        let nanos = u128::from(process.start_ticks) * 1_000_000_000;
        let nanos = nanos / u128::from(rustix::param::clock_ticks_per_second().max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// True if the process that was held has not been reaped: 1 µs.
    #[must_use]
    pub fn is_alive(&self, held: &Held) -> bool {
        statat(&held.dir, "task", AtFlags::empty()).is_ok() || (!self.live && held.read("stat", 1).is_ok())
    }

    /// True if a process has one thread, of which `task` is told by its count of links: 1 µs.
    #[must_use]
    pub fn is_alone(&self, held: &Held) -> bool {
        statat(&held.dir, "task", AtFlags::empty()).is_ok_and(|task| task.st_nlink == 3)
    }

    /// True if the number is that of a thread of the process: 1 µs.
    #[must_use]
    pub fn has_thread(&self, held: &Held, tid: u32) -> bool {
        let mut name = "task/".to_owned();
        name.push_str(Decimal::new(tid).as_str());
        statat(&held.dir, name, AtFlags::empty()).is_ok()
    }

    /// The process that a thread belongs to; a process's own number for itself (`Tgid:` of `status`).
    #[must_use]
    pub fn process_of(&self, held: &Held) -> Option<u32> {
        if self.is_alone(held) {
            return Some(held.pid);
        }
        let status = held.read("status", 4096).ok()?;
        let line = status.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"))?;
        parse_u64(line.trim_ascii()).and_then(|pid| u32::try_from(pid).ok())
    }

    /// Child processes, which the kernel lists by the thread that made them; of at most 64 threads. Empty where the
    /// kernel was built without `children`.
    #[must_use]
    pub fn children_of(&self, held: &Held) -> Vec<u32> {
        let of_thread =
            |tid: u32| read_at(&held.dir, &format!("task/{tid}/children"), 64 * 1024).unwrap_or_default();
        let threads = if self.is_alone(held) { vec![held.pid] } else { self.threads_of(held) };
        let text: Vec<u8> = threads.into_iter().take(64).flat_map(of_thread).collect();
        text.split(|b| *b == b' ').filter_map(parse_u64).filter_map(|pid| u32::try_from(pid).ok()).collect()
    }

    /// Threads of a process, the main one among them.
    #[must_use]
    pub fn threads_of(&self, held: &Held) -> Vec<u32> {
        list_numbers(&held.dir, "task").unwrap_or_default()
    }

    /// The same in portions. `None`: gone.
    #[must_use]
    pub fn list_threads(&self, held: &Held) -> Option<Listing> {
        Listing::open(&held.dir, "task").ok()
    }

    /// The name that a process gave itself.
    ///
    /// # Errors
    /// `Read` if gone.
    pub fn comm_of(&self, held: &Held) -> Result<Vec<u8>, ProcError> {
        self.read_stat(held).map(|(_, comm)| comm)
    }

    /// Reads a process: 35 µs for a link of the chain, 55 µs for an owner.
    ///
    /// A process that runs another program while it is read is read again, so that no name is put to another
    /// program's arguments.
    ///
    /// # Errors
    /// `Read` if it is gone, `Parse` if `stat` is not of the kernel's form.
    pub fn read_process(&self, held: &Held, depth: Depth) -> Result<Process, ProcError> {
        let begin = || {
            let executable = held.link("exe");
            let status = parse_status(&held.read("status", 4096).unwrap_or_default());
            Begun { executable, arguments: self.ask_arguments(held, "cmdline", status.ids), status }
        };
        let (mut process, _) = self.read_whole(held, depth, begin)?;
        self.ask_threads(held, depth, &mut process);
        Ok(process)
    }

    /// Reads an owner of which the kernel has told, a moment ago, the program, the arguments and the users: what there is
    /// beside these, 30 µs. `None`: it runs another program by now, or what was told cannot be held against what it is; then
    /// all of it is to be read.
    ///
    /// # Errors
    /// As `read_process`.
    pub fn read_rest(&self, held: &Held, told: Process) -> Result<Option<Process>, ProcError> {
        let (stat, comm) = self.read_stat(held)?;
        if (stat.starttime, &comm) != (told.start_ticks, &told.comm) || told.executable_deleted {
            return Ok(None);
        }
        let pidfd_inode = told.pidfd_inode.or_else(|| self.pidfd_inode(held));
        let cgroup = held.read("cgroup", 4096).ok().and_then(|text| parse_cgroup(&text));
        let Ok(working_directory) = held.link("cwd") else { return Ok(None) };
        // The last: a process that is gone has none.
        if held.link("exe").ok() != told.executable {
            return Ok(None);
        }
        Ok(Some(Process {
            ppid: unsigned(stat.ppid),
            pidfd_inode,
            working_directory: Some(working_directory),
            tty: parse_tty(&stat),
            cgroup,
            remembered: false,
            ..told
        }))
    }

    /// A process whose first thread has ended shows its program, arguments and folder only through those that live.
    fn ask_threads(&self, held: &Held, depth: Depth, process: &mut Process) {
        if process.executable.is_some() || !process.denied.is_empty() || self.is_alone(held) {
            return;
        }
        let others = self.list_threads(held).into_iter().flatten().flatten().filter(|tid| *tid != held.pid);
        let living = others.take(64).find_map(|tid| {
            let name = format!("task/{tid}/exe");
            held.link(&name).ok().map(|executable| (tid, held.without_deleted(&name, executable)))
        });
        let Some((tid, (executable, executable_deleted))) = living else { return };
        (process.executable, process.executable_deleted) = (executable, executable_deleted);
        let asked = self.ask_arguments(held, &format!("task/{tid}/cmdline"), process.ids);
        let arguments = self.wait_for(held, asked).unwrap_or_default();
        (process.args, process.args_cut) = split_args(&arguments, 0);
        process.args_bytes = arguments.len() as u64;
        if depth == Depth::Owner {
            process.working_directory = held.link(&format!("task/{tid}/cwd")).ok();
        }
    }

    /// Reads of a process's descriptors what may never come.
    pub(super) fn read_patiently<T: Send + 'static>(
        &self,
        held: &Held,
        reading: impl FnOnce() -> Result<T, Errno> + Send + 'static,
    ) -> Result<T, Errno> {
        let mut patience = self.patience.borrow_mut();
        let asked = patience.ask(Part::Descriptors, || self.whose(held), reading);
        patience.wait(asked, || self.whose(held))
    }

    /// Who is to blame if a process does not answer: who logged in, as long as that is known, for he may be several users.
    pub(super) fn whose(&self, held: &Held) -> Whose {
        let real_uid = ids_of(held).map_or(0, |ids| ids.real_uid);
        let uid = read_login(held).map_or(real_uid, |login| login.uid);
        Whose { uid, pid: self.process_of(held).unwrap_or(held.pid) }
    }

    /// What was spent on other threads on reading: to be added to this one's CPU time.
    #[must_use]
    pub fn spent_elsewhere(&self) -> Duration {
        self.patience.borrow().spent()
    }

    /// How often nothing was read, because a process did not answer.
    #[must_use]
    pub fn silences(&self) -> u64 {
        self.patience.borrow().silences()
    }

    /// Has arguments read meanwhile, without waiting for long, whatever the process does.
    fn ask_arguments(&self, held: &Held, name: &str, of: Option<Ids>) -> Asked<Vec<u8>> {
        match openat(&held.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => self.ask_for(held, &Arc::new(file), of),
            Err(e) => Asked::There(Err(e)),
        }
    }

    fn ask_for(&self, held: &Held, file: &Arc<OwnedFd>, of: Option<Ids>) -> Asked<Vec<u8>> {
        if is_root(of) {
            return Asked::There(read_text(file, MAX_ARGS_BYTES + 1));
        }
        let file = Arc::clone(file);
        self.ask_whole(held, move || read_text(&file, MAX_ARGS_BYTES + 1))
    }

    /// Empty where they cannot be had, but for the one reason that is told.
    fn wait_for(&self, held: &Held, asked: Asked<Vec<u8>>) -> Result<Vec<u8>, Errno> {
        match self.patience.borrow_mut().wait(asked, || self.whose(held)) {
            Err(e) if e != Errno::TIMEDOUT => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    /// The audit session that a process belongs to (`sessionid`). `None`: unset, or gone.
    #[must_use]
    pub fn audit_session_of(&self, held: &Held) -> Option<u32> {
        read_login(held).and_then(|login| login.session)
    }

    /// The path of a process's cgroup. `None`: gone, or there is none.
    #[must_use]
    pub fn cgroup_of(&self, held: &Held) -> Option<Vec<u8>> {
        held.read("cgroup", 4096).ok().and_then(|text| parse_cgroup(&text))
    }

    /// The process that leads the session of another (`stat` field 6), by its number: as long as anybody is in the
    /// session, no other process is given it. `None`: gone.
    #[must_use]
    pub fn session_leader_of(&self, held: &Held) -> Option<u32> {
        self.read_stat(held).ok().and_then(|_| held.leader.get())
    }

    /// The same, as it was when the process was read.
    #[must_use]
    pub fn session_leader_then(&self, held: &Held) -> Option<u32> {
        held.leader.get().or_else(|| self.session_leader_of(held))
    }

    /// A variable of the environment that a process began with. `None`: it has none of this name, or its environment
    /// may not be read, which takes its user's rights or root's. `of`: its users, as they were read before.
    #[must_use]
    pub fn variable_of(&self, held: &Held, of: Option<Ids>, name: &str) -> Option<Vec<u8>> {
        let file = openat(&held.dir, "environ", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        // Its pages are the process's, as those of its arguments are: it may let who asks for them wait. What is open stays of the
        // memory that it had: root's, if it was root before and is.
        let asked = if is_root(of) && is_root(ids_of(held)) {
            Asked::There(read_text(file, MAX_ENVIRONMENT))
        } else {
            self.ask_whole(held, move || read_text(file, MAX_ENVIRONMENT))
        };
        let text = self.wait_for(held, asked).ok()?;
        let value =
            |entry: &[u8]| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec);
        text.split(|b| *b == 0).find_map(value)
    }

    fn ask_whole(
        &self,
        held: &Held,
        read: impl FnOnce() -> Result<Vec<u8>, Errno> + Send + 'static,
    ) -> Asked<Vec<u8>> {
        self.patience.borrow_mut().ask(Part::Arguments, || self.whose(held), read)
    }

    /// Keeps the files of a process open.
    ///
    /// # Errors
    /// `Read` if it is gone.
    pub fn keep(&self, held: Held) -> Result<Kept, ProcError> {
        let open = |name: &str| {
            let file = openat(&held.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            file.map_err(|e| held.error(self, name, e))
        };
        let (status, arguments) = (open("status")?, Arc::new(open("cmdline")?));
        let schedule = open("schedstat").ok();
        Ok(Kept { held: Rc::new(held), status, arguments, schedule })
    }

    /// Reads a link of the chain.
    ///
    /// # Errors
    /// `Read` if it is gone, `Parse` if `stat` is not of the kernel's form.
    pub fn read_ancestor(&self, kept: &Kept) -> Result<(Process, Print), ProcError> {
        // First, so that whatever it does from here on shows.
        let schedule = read_schedule(kept);
        let (mut process, face) = self.read_whole(&kept.held, Depth::Ancestor, || self.begin(kept))?;
        self.ask_threads(&kept.held, Depth::Ancestor, &mut process);
        // It has given its children away, and is nobody's parent.
        if face.status.state == Some(b'Z') && self.is_alone(&kept.held) {
            return Err(kept.held.error(self, "status", Errno::SRCH));
        }
        let asleep = schedule.filter(|_| self.sleeps_alone(kept, &face));
        Ok((process, Print { face, asleep }))
    }

    /// Reads it again, unless it is as it was. `print` is kept up to date.
    ///
    /// # Errors
    /// `Read` if it is gone, `Parse` if `stat` is not of the kernel's form.
    pub fn read_if_changed(&self, kept: &Kept, print: &mut Print) -> Result<Option<Process>, ProcError> {
        let schedule = read_schedule(kept);
        // Its parent need not be asked for: as long as that lives it stays the parent, and if not, the caller sees that.
        // The program's file may be renamed or removed without any doing of the process.
        if schedule.is_some() && schedule == print.asleep && kept.held.link("exe") == print.face.executable {
            return Ok(None);
        }
        let Begun { executable, status, arguments } = self.begin(kept);
        let face = Face { executable, arguments: self.wait_for(&kept.held, arguments), status };
        if face.is_same(&print.face) {
            print.asleep = schedule.filter(|_| self.sleeps_alone(kept, &face));
            return Ok(None);
        }
        let (process, now) = self.read_ancestor(kept)?;
        *print = now;
        Ok(Some(process))
    }

    /// True if it neither ran when its face was read nor has threads that may have changed it.
    fn sleeps_alone(&self, kept: &Kept, face: &Face) -> bool {
        let sleeps = face.status.state.is_some_and(|state| b"SDI".contains(&state));
        sleeps && face.arguments.is_ok() && self.is_alone(&kept.held)
    }

    fn begin(&self, kept: &Kept) -> Begun {
        let executable = kept.held.link("exe");
        let status = parse_status(&read_text(&kept.status, 4096).unwrap_or_default());
        Begun { executable, arguments: self.ask_for(&kept.held, &kept.arguments, status.ids), status }
    }

    fn read_whole(
        &self,
        held: &Held,
        depth: Depth,
        begin: impl Fn() -> Begun,
    ) -> Result<(Process, Face), ProcError> {
        let mut tries = 4;
        loop {
            let Begun { executable, status, arguments } = begin();
            let outcome = self.read_once(held, depth, &executable, &status);
            let face = Face { executable, arguments: self.wait_for(held, arguments), status };
            let (mut process, size) = outcome?;
            process.denied.extend(face.arguments.is_err().then_some("cmdline"));
            let arguments = face.arguments.as_deref().unwrap_or_default();
            tries -= 1;
            // A program that is being started has its file before its name, and its arguments last. ESRCH both times is
            // what a kernel thread answers.
            let starts = face.executable.is_ok() && face.arguments.as_ref().is_ok_and(Vec::is_empty);
            let settled = !starts && held.link("exe") == face.executable && held.is_called(&process.comm);
            if settled {
                (process.args, process.args_cut) = split_args(arguments, size);
                process.args_bytes = size.max(arguments.len() as u64);
            }
            if settled || tries == 0 {
                return Ok((process, face));
            }
        }
    }

    /// All but the arguments, and how many bytes of them there are.
    fn read_once(
        &self,
        held: &Held,
        depth: Depth,
        executable: &Result<Vec<u8>, Errno>,
        status: &Status,
    ) -> Result<(Process, u64), ProcError> {
        let (stat, comm) = self.read_stat(held)?;
        let owner = depth == Depth::Owner;
        let mut denied = Vec::new();
        let mut allowed = |name: &'static str, link: Result<Vec<u8>, Errno>| {
            let cannot = link.as_ref().is_err_and(|e| !is_gone(Some(e.raw_os_error())));
            denied.extend(cannot.then_some(name));
            link.ok()
        };
        let executable = allowed("exe", executable.clone());
        let working_directory = if owner { allowed("cwd", held.link("cwd")) } else { None };
        let (executable, executable_deleted) =
            executable.map_or((None, false), |path| held.without_deleted("exe", path));
        let size = stat.arg_end.unwrap_or(0).saturating_sub(stat.arg_start.unwrap_or(0));
        let cgroup = || held.read("cgroup", 4096).ok().and_then(|text| parse_cgroup(&text));
        let process = Process {
            pid: held.pid,
            ppid: unsigned(stat.ppid),
            start_ticks: stat.starttime,
            pidfd_inode: if owner { self.pidfd_inode(held) } else { None },
            comm,
            executable,
            executable_deleted,
            args: Vec::new(),
            args_bytes: 0,
            args_cut: false,
            redacted: 0,
            working_directory,
            tty: if owner { parse_tty(&stat) } else { None },
            ids: status.ids,
            user: None,
            effective_user: None,
            login: if owner { read_login(held) } else { None },
            cgroup: if owner { cgroup() } else { None },
            denied,
            remembered: false,
        };
        Ok((process, size))
    }

    /// The inode of a pidfd, where that is an identity. The number is asked for by pid, so a pid that was reused since it
    /// was held gives another process's: the caller reads `exe` through the held folder afterwards, which then fails.
    fn pidfd_inode(&self, held: &Held) -> Option<u64> {
        let pid = Pid::from_raw(i32::try_from(held.pid).ok()?).filter(|_| self.live)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let is_identity = *self.has_pidfs.get_or_init(|| is_of_pidfs(&fd));
        is_identity.then(|| fstat(&fd).ok().map(|stat| stat.st_ino))?
    }

    fn bad_stat(&self, held: &Held) -> ProcError {
        ProcError::Parse { path: self.root.join(held.pid.to_string()).join("stat"), field: "stat" }
    }

    fn read_stat(&self, held: &Held) -> Result<(Stat, Vec<u8>), ProcError> {
        let text = held.read("stat", 4096).map_err(|e| held.error(self, "stat", e))?;
        let (stat, comm) = parse_stat(&text).ok_or_else(|| self.bad_stat(held))?;
        held.leader.set(Some(unsigned(stat.session)).filter(|pid| *pid != 0));
        Ok((stat, comm))
    }
}

/// `None`: it cannot be read, or the kernel does not count.
fn read_schedule(kept: &Kept) -> Option<Vec<u8>> {
    read_text(kept.schedule.as_ref()?, 128).ok().filter(|text| !text.starts_with(b"0 0 0"))
}

/// Root needs no tricks to let us wait, and his short-lived processes are read at once.
fn is_root(ids: Option<Ids>) -> bool {
    matches!(ids, Some(Ids { real_uid: 0, effective_uid: 0, .. }))
}

fn ids_of(held: &Held) -> Option<Ids> {
    parse_status(&held.read("status", 4096).unwrap_or_default()).ids
}

fn unsigned(pid: i32) -> u32 {
    u32::try_from(pid).unwrap_or(0)
}

/// `stat`: its numbers, and the name as bytes. Public for `fuzz/`.
#[must_use]
pub fn parse_stat(text: &[u8]) -> Option<(Stat, Vec<u8>)> {
    let comm = parse_comm(text)?;
    Some((Stat::from_read(text).ok()?, comm))
}

/// The name between the first `(`, which ends a number, and the last `)`: a process may call itself `x) S 1 (`.
fn parse_comm(stat: &[u8]) -> Option<Vec<u8>> {
    let open = stat.iter().position(|b| *b == b'(')?;
    parse_u64(stat.get(..open)?.strip_suffix(b" ")?)?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    // The state must follow: `procfs` counts on it.
    let follows =
        stat.get(close + 1) == Some(&b' ') && stat.get(close + 2).is_some_and(u8::is_ascii_alphabetic);
    follows.then(|| stat.get(open + 1..close).map(<[u8]>::to_vec))?
}

/// The parent is the second word behind the name. Public for `fuzz/`.
#[must_use]
pub fn parse_parent(stat: &[u8]) -> Option<u32> {
    parse_comm(stat)?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let word = stat.get(close + 1..)?.split(|b| *b == b' ').filter(|word| !word.is_empty()).nth(1)?;
    parse_u64(word).and_then(|pid| u32::try_from(pid).ok())
}

fn parse_tty(stat: &Stat) -> Option<Tty> {
    let (major, minor) = stat.tty_nr();
    (stat.tty_nr != 0).then(|| Tty { major: unsigned(major), minor: unsigned(minor) })
}

/// Splits NUL-terminated arguments. Cut, if the process has more bytes than were read: because it has more than we
/// take, or because it made the kernel stop early by a page that cannot be read. Public for `fuzz/`.
#[must_use]
pub fn split_args(text: &[u8], size: u64) -> (Vec<Vec<u8>>, bool) {
    let kept = text.get(..MAX_ARGS_BYTES.min(text.len())).unwrap_or_default();
    let cut = text.len() > MAX_ARGS_BYTES || size > text.len() as u64;
    (split_arguments(kept), cut)
}

/// Five lines; `Uid:` and `Gid:` are real, effective, saved, file system. Public for `fuzz/`.
#[must_use]
pub fn parse_status(text: &[u8]) -> Status {
    let mut status = Status::default();
    let (mut uids, mut gid) = (None, None);
    for line in text.split(|b| *b == b'\n') {
        let Some((key, value)) =
            line.iter().position(|b| *b == b':').and_then(|at| line.split_at_checked(at))
        else {
            continue;
        };
        let value = value.get(1..).unwrap_or_default().trim_ascii_start();
        let mut words = value.split(u8::is_ascii_whitespace);
        let mut number = || words.next().and_then(parse_u64).and_then(|n| u32::try_from(n).ok());
        match key {
            b"Name" => status.name = line.strip_prefix(b"Name:\t").unwrap_or_default().to_vec(),
            b"State" => status.state = value.first().copied(),
            b"PPid" => status.parent = number(),
            b"Uid" => uids = number().zip(number()),
            b"Gid" => {
                gid = number();
                break;
            }
            _ => {}
        }
    }
    let ids = uids.zip(gid);
    status.ids = ids.map(|((real_uid, effective_uid), real_gid)| Ids { real_uid, effective_uid, real_gid });
    status
}

fn read_login(held: &Held) -> Option<Login> {
    let uid = held.number("loginuid").filter(|uid| *uid != UNSET)?;
    Some(Login { uid, user: None, session: held.number("sessionid").filter(|session| *session != UNSET) })
}

/// The path in systemd's hierarchy (version 1) or in the only one (version 2, line `0::`). Public
/// for `fuzz/`.
#[must_use]
pub fn parse_cgroup(text: &[u8]) -> Option<Vec<u8>> {
    let lines = || text.split(|b| *b == b'\n');
    // The path may hold any byte but a line's end, so split at the second colon only.
    let path = |wanted: &[u8]| {
        lines().find_map(|line| {
            let mut parts = line.splitn(3, |b| *b == b':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            (controllers == wanted).then(|| path.to_vec())
        })
    };
    path(b"name=systemd").or_else(|| path(b""))
}

fn is_of_pidfs(pidfd: &OwnedFd) -> bool {
    fstatfs(pidfd).is_ok_and(|system| u64::try_from(system.f_type) == Ok(PIDFS_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses_and_lines() {
        assert_eq!(parse_comm(b"42 (x) S 1 (y\n) S 1 42 42 0 -1"), Some(b"x) S 1 (y\n".to_vec()));
        for bad in [&b""[..], b"42", b"42 (", b"42 (x", b"x (y) S", b"42 (x)", b") 42 ("] {
            assert_eq!(parse_comm(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn arguments_keep_their_bytes_and_say_when_they_were_cut() {
        let two = vec![b"ssh".to_vec(), b"\xff".to_vec()];
        assert_eq!(split_args(b"ssh\0\xff\0", 6), (two, false));
        assert_eq!(split_args(b"ssh\0\0h\0", 7).0, [b"ssh".to_vec(), Vec::new(), b"h".to_vec()]);
        assert_eq!(split_args(b"", 0), (Vec::new(), false));
        assert_eq!(split_args(b"ssh\0cut of", 10).0, [b"ssh".to_vec(), b"cut of".to_vec()]);
        assert_eq!(split_args(b"ssh\0\0", 5).0, [b"ssh".to_vec(), Vec::new()]);
        assert_eq!(split_args(b"sshd: alice\0\0\0\0", 15).0, [b"sshd: alice".to_vec()]);
        assert!(split_args(b"ssh\0", 100_008).1);
        let long = vec![b'a'; MAX_ARGS_BYTES + 1];
        let (args, cut) = split_args(&long, 0);
        assert!(cut && args.concat().len() == MAX_ARGS_BYTES);
    }

    #[test]
    fn ids_are_real_then_effective() {
        let ids = Some(Ids { real_uid: 1000, effective_uid: 0, real_gid: 100 });
        let users = "Uid:\t1000\t0\t0\t0\nGid:\t100\t100\t100\t100\n";
        let whole = format!("Name:\tssh\nState:\tS\nPPid:\t7\n{users}");
        assert_eq!(
            parse_status(whole.as_bytes()),
            Status { name: b"ssh".to_vec(), state: Some(b'S'), parent: Some(7), ids }
        );
        assert_eq!(parse_status(users.as_bytes()), Status { ids, ..Status::default() });
        assert_eq!(parse_status(b"Uid:\t1000\n"), Status::default());
    }

    #[test]
    fn a_kept_process_is_read_again_only_when_it_changed() {
        let proc = Proc::new("/proc").unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read go; exec sleep 9"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let name = |process: &Process| String::from_utf8(process.comm.clone()).unwrap();
        let kept = proc.keep(proc.hold(child.id()).unwrap()).unwrap();
        let (mut first, mut print) = proc.read_ancestor(&kept).unwrap();
        // Until it runs that and sleeps.
        let mut until = |what: &str| {
            while name(&first) != what || print.asleep.is_none() {
                first = proc.read_if_changed(&kept, &mut print).unwrap().unwrap_or_else(|| first.clone());
            }
            assert!(proc.read_if_changed(&kept, &mut print).unwrap().is_none());
            first.clone()
        };
        assert_eq!(until("sh").ppid, std::process::id());
        drop(child.stdin.take());
        assert_eq!(until("sleep").args, [b"sleep".to_vec(), b"9".to_vec()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(proc.read_if_changed(&kept, &mut print).unwrap_err().is_gone());
        assert!(!proc.is_alive(&kept.held));
    }

    #[test]
    fn systemds_hierarchy_is_preferred() {
        let hybrid = b"5:memory:/x\n1:name=systemd:/user.slice/a:b.scope\n0::/y\n";
        assert_eq!(parse_cgroup(hybrid), Some(b"/user.slice/a:b.scope".to_vec()));
        assert_eq!(
            parse_cgroup(b"0::/system.slice/ssh.service\n"),
            Some(b"/system.slice/ssh.service".to_vec())
        );
        assert_eq!(parse_cgroup(b""), None);
    }

    #[test]
    fn we_read_ourselves() {
        let proc = Proc::new("/proc").unwrap();
        let held = proc.hold(std::process::id()).unwrap();
        let me = proc.read_process(&held, Depth::Owner).unwrap();
        assert_eq!(me.executable.as_deref(), std::env::current_exe().unwrap().to_str().map(str::as_bytes));
        let args: Vec<_> = std::env::args().map(String::into_bytes).collect();
        assert_eq!((me.args, me.args_cut), (args, false));
        assert_eq!(proc.parent_of(&held).unwrap(), me.ppid);
    }

    #[test]
    fn a_variable_is_found_in_the_first_64_kib_of_an_environment() {
        let huge = "x".repeat(100_000);
        let run = |variables: &[(&str, &str)]| {
            let mut sleep = std::process::Command::new("sleep");
            sleep.arg("9").env_clear().envs(variables.iter().copied()).spawn().unwrap()
        };
        let proc = Proc::new("/proc").unwrap();
        for (variables, wanted) in [
            (&[("SSH_CLIENT", "no"), ("SSH", "yes")][..], Some(&b"yes"[..])),
            (&[("ASSH", "no")], None),
            (&[("A", &huge), ("SSH", "yes")], None),
        ] {
            let mut child = run(variables);
            let held = proc.hold(child.id()).unwrap();
            // Between fork and exec it is what we are.
            while !held.is_called(b"sleep") {}
            let ids = ids_of(&held);
            assert!(ids.is_some());
            for of in [None, ids] {
                assert_eq!(proc.variable_of(&held, of, "SSH").as_deref(), wanted, "{variables:?}");
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn what_was_told_of_a_process_is_not_read_again_unless_it_runs_another_program() {
        let proc = Proc::new("/proc").unwrap();
        let mut child = std::process::Command::new("sleep").arg("9").spawn().unwrap();
        let held = proc.hold(child.id()).unwrap();
        while !held.is_called(b"sleep") {}
        let whole = proc.read_process(&held, Depth::Owner).unwrap();
        let bare = |whole: &Process| Process {
            pidfd_inode: None,
            working_directory: None,
            tty: None,
            cgroup: None,
            remembered: true,
            ..whole.clone()
        };
        let told = bare(&whole);
        assert_eq!(proc.read_rest(&held, told.clone()).unwrap(), Some(whole));
        assert_eq!(proc.session_leader_then(&held), proc.session_leader_of(&held));
        for other in [
            Process { comm: b"slee".to_vec(), ..told.clone() },
            Process { start_ticks: told.start_ticks + 1, ..told.clone() },
            Process { executable: Some(b"/bin/other".to_vec()), ..told.clone() },
            Process { executable: None, ..told.clone() },
            Process { executable_deleted: true, ..told.clone() },
        ] {
            assert_eq!(proc.read_rest(&held, other.clone()).unwrap(), None, "{other:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(proc.read_rest(&held, told).unwrap_err().is_gone());
    }

    #[test]
    fn a_held_process_that_ended_is_gone_even_when_its_number_lives_on() {
        let proc = Proc::new("/proc").unwrap();
        let mut child = std::process::Command::new("sleep").arg("9").spawn().unwrap();
        let held = proc.hold(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(proc.read_process(&held, Depth::Owner).unwrap_err().is_gone());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(0u8.., 0..300)) {
            let _ = (parse_comm(&text), parse_status(&text), parse_parent(&text), parse_cgroup(&text), split_args(&text, 0));
        }

        #[test]
        fn no_stat_that_has_a_name_makes_procfs_panic(
            name in proptest::collection::vec(0u8.., 0..20), rest in "[ -~]{0,200}"
        ) {
            let mut text = b"42 (".to_vec();
            text.extend(name);
            text.extend(b") ");
            text.extend(rest.bytes());
            if parse_comm(&text).is_some() {
                let _ = Stat::from_read(text.as_slice());
            }
        }
    }
}
