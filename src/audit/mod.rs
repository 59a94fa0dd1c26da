//! The audit log's words on who connected where: its records of `connect`, put together from their lines.
//!
//! Pure, over bytes that others wrote: names and paths are what the process made them. Knows nothing of sockets: the log
//! does not say which protocol was meant, nor our own end. Records of one event bear one number and come apart from those
//! of others; what belongs together is found by it. Sources: ausearch(8), "RHEL audit system reference", the kernel's
//! `kernel/auditsc.c`; checked on 6.18 and on logs of auditd 3.

mod words;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::process::{Ids, Tty};

use words::{Fields, arguments, hexadecimal, number, text};

/// As many events are put together at once; of a log they come apart by a few lines.
const MOST: usize = 64;
/// An event whose last line does not come is told when so many lines of others have come since its own.
const PATIENCE: u32 = 32;
/// The kernel keeps so many bytes of a process's arguments.
const TITLE: usize = 128;

/// `AUDIT_SYSCALL` and the others of `linux/audit.h`.
const SYSCALL: u16 = 1300;
const SOCKADDR: u16 = 1306;
const EOE: u16 = 1320;
const PROCTITLE: u16 = 1327;

/// A process asked to be connected to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// When it asked, since 1970: the kernel's clock of whole ticks.
    pub time: Duration,
    /// The event's number.
    pub serial: u64,
    /// The process, in the machine's first pid namespace.
    pub pid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Its users.
    pub ids: Ids,
    /// The audit login and session. `None`: unset.
    pub login: Option<(u32, Option<u32>)>,
    /// Controlling terminal.
    pub tty: Option<Tty>,
    /// The name it gave itself.
    pub comm: Vec<u8>,
    /// Its program's file.
    pub executable: Option<Vec<u8>>,
    /// Its arguments, the first 127 bytes of them.
    pub args: Vec<Vec<u8>>,
    /// True if they may be longer than that.
    pub args_cut: bool,
    /// To whom; IPv4-mapped IPv6 is IPv4.
    pub remote: SocketAddr,
    /// What the call answered: 0 or a negative error number.
    pub exit: i32,
    /// The descriptor of its socket. `None`: the call is one that has its arguments elsewhere.
    pub fd: Option<u32>,
}

/// An event of which not all lines have come.
#[derive(Debug)]
struct Begun {
    time: Duration,
    serial: u64,
    call: Call,
    remote: Option<SocketAddr>,
    /// Lines of others that have come since.
    age: u32,
}

/// What the line about the call says.
#[derive(Debug)]
struct Call {
    pid: u32,
    ppid: u32,
    ids: Ids,
    login: Option<(u32, Option<u32>)>,
    tty: Option<Tty>,
    comm: Vec<u8>,
    executable: Option<Vec<u8>>,
    exit: i32,
    fd: Option<u32>,
}

/// Puts the lines of events together. Bounded: the oldest gives way.
#[derive(Debug, Default)]
pub struct Assembler {
    begun: VecDeque<Begun>,
    given_up: u64,
}

impl Assembler {
    /// One line of a log that auditd writes, without its end.
    pub fn line(&mut self, line: &[u8], tell: impl FnMut(Connect)) {
        if let Some((kind, record)) = split(line) {
            self.record(kind, record, tell);
        }
    }

    /// One record as the kernel gives it: its number, and its text from `audit(` on.
    pub fn record(&mut self, kind: u16, record: &[u8], mut tell: impl FnMut(Connect)) {
        if !matches!(kind, SYSCALL | SOCKADDR | EOE | PROCTITLE) {
            return;
        }
        let Some((time, serial, text)) = stamp(record) else { return };
        self.grow_old((time, serial), &mut tell);
        let place = self.begun.iter().position(|begun| (begun.time, begun.serial) == (time, serial));
        let fields = Fields::of(text);
        match (kind, place) {
            (SYSCALL, None) => self.begin(time, serial, &fields),
            // Of an event whose call is not known nothing is kept: it is about something else.
            (SYSCALL, Some(_)) | (_, None) => {}
            (SOCKADDR, Some(place)) => {
                if let Some(begun) = self.begun.get_mut(place) {
                    begun.remote = fields.get("saddr").and_then(hexadecimal).and_then(|a| remote(&a));
                }
            }
            // Of the lines that are of interest this is the last, and the only one after it bears no word.
            (_, Some(place)) => {
                let begun = self.begun.remove(place);
                let title = fields.get("proctitle").and_then(text_of_title);
                begun.and_then(|begun| begun.end(title)).into_iter().for_each(tell);
            }
        }
    }

    /// Events of which lines were kept, and that were given up because the rest of them did not come.
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    fn begin(&mut self, time: Duration, serial: u64, fields: &Fields<'_>) {
        let Some(call) = call(fields) else { return };
        if self.begun.len() >= MOST {
            self.begun.pop_front();
            self.given_up += 1;
        }
        self.begun.push_back(Begun { time, serial, call, remote: None, age: 0 });
    }

    /// A line of one event has come; others that have waited too long are told without their arguments.
    fn grow_old(&mut self, but: (Duration, u64), tell: &mut impl FnMut(Connect)) {
        let others = self.begun.iter_mut().filter(|begun| (begun.time, begun.serial) != but);
        others.for_each(|begun| begun.age += 1);
        while self.begun.front().is_some_and(|begun| begun.age > PATIENCE) {
            self.begun.pop_front().and_then(|begun| begun.end(None)).into_iter().for_each(&mut *tell);
        }
    }
}

impl Begun {
    /// `None`: it was no connect to an address of the internet.
    fn end(self, title: Option<Vec<u8>>) -> Option<Connect> {
        let Self { time, serial, call, remote, .. } = self;
        let Call { pid, ppid, ids, login, tty, comm, executable, exit, fd } = call;
        let args_cut = title.as_ref().is_some_and(|title| title.len() + 1 >= TITLE);
        let args = title.map(|title| arguments(&title)).unwrap_or_default();
        let remote = remote?;
        Some(Connect {
            time,
            serial,
            pid,
            ppid,
            ids,
            login,
            tty,
            comm,
            executable,
            args,
            args_cut,
            remote,
            exit,
            fd,
        })
    }
}

/// The kind of a line of a log and its record.
fn split(line: &[u8]) -> Option<(u16, &[u8])> {
    // The name of a node may stand before it, and nothing else.
    let line = match line.strip_prefix(b"node=") {
        Some(rest) => rest.splitn(2, |byte| *byte == b' ').nth(1)?,
        None => line,
    };
    let mut words = line.strip_prefix(b"type=")?.splitn(2, |byte| *byte == b' ');
    let kind = match words.next()? {
        b"SYSCALL" => SYSCALL,
        b"SOCKADDR" => SOCKADDR,
        b"EOE" => EOE,
        b"PROCTITLE" => PROCTITLE,
        _ => return None,
    };
    Some((kind, words.next()?.strip_prefix(b"msg=")?))
}

/// `audit(1364481363.243:24287): ` and what follows, up to where auditd adds its own translation.
fn stamp(record: &[u8]) -> Option<(Duration, u64, &[u8])> {
    let inside = record.strip_prefix(b"audit(")?;
    let end = inside.iter().position(|byte| *byte == b')')?;
    let (stamp, rest) = inside.split_at_checked(end)?;
    let rest = rest.strip_prefix(b"):")?;
    let mut parts = stamp.splitn(2, |byte| *byte == b':');
    let (time, serial) = (parts.next()?, parts.next()?);
    let mut parts = time.splitn(2, |byte| *byte == b'.');
    let (seconds, millis) = (number::<u32>(parts.next()?)?, number::<u16>(parts.next()?)?);
    let time = Duration::from_secs(seconds.into()) + Duration::from_millis(millis.into());
    let own = rest.iter().position(|byte| *byte == 0x1d).unwrap_or(rest.len());
    Some((time, number(serial)?, rest.get(..own)?))
}

/// A call of `connect`. `None`: another one, or nonsense.
fn call(fields: &Fields<'_>) -> Option<Call> {
    let of = |name: &str| fields.get(name);
    let id = |name: &str| of(name).and_then(number::<u32>);
    if !is_connect(fields) {
        return None;
    }
    let set = |id: u32| (id != u32::MAX).then_some(id);
    let login = id("auid").and_then(set).map(|uid| (uid, id("ses").and_then(set)));
    Some(Call {
        pid: id("pid").filter(|pid| *pid > 0)?,
        ppid: id("ppid")?,
        ids: Ids { real_uid: id("uid")?, effective_uid: id("euid")?, real_gid: id("gid")? },
        login,
        tty: of("tty").and_then(terminal),
        comm: of("comm").and_then(text).unwrap_or_default(),
        executable: of("exe").and_then(text).filter(|path| path.starts_with(b"/")),
        exit: signed(of("exit")?)?,
        fd: of("a0").filter(|_| !is_multiplexed(fields)).and_then(hexadecimal_number),
    })
}

/// By the call's number on the machines that are known, or by the key of portreeve's own rules. What `socketcall` was called
/// for is its first argument.
fn is_connect(fields: &Fields<'_>) -> bool {
    let of = |name: &str| fields.get(name).unwrap_or_default();
    match (of("arch"), of("syscall")) {
        _ if is_multiplexed(fields) => of("a0") == b"3",
        (b"c000003e", b"42")
        | (b"40000003" | b"80000016", b"362")
        | (b"c00000b7" | b"c00000f3" | b"c0000102", b"203")
        | (b"40000028", b"283")
        | (b"c0000015" | b"80000015", b"328") => true,
        _ => of("key") == b"\"portreeve\"",
    }
}

/// True of `socketcall`, which is called for all that is done with sockets.
fn is_multiplexed(fields: &Fields<'_>) -> bool {
    let of = |name: &str| fields.get(name).unwrap_or_default();
    of("syscall") == b"102" && matches!(of("arch"), b"40000003" | b"80000016")
}

fn hexadecimal_number(text: &[u8]) -> Option<u32> {
    // from_str_radix would take a sign.
    text.first().filter(|first| first.is_ascii_hexdigit())?;
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn signed(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `pts0`, `tty1`, `ttyS0`: the kernel's names of terminals, not the paths.
fn terminal(name: &[u8]) -> Option<Tty> {
    let of = |prefix: &[u8], major: u32, first: u32, most: u32| {
        let number = number::<u32>(name.strip_prefix(prefix)?).filter(|number| *number < most)?;
        Some(Tty { major: major + number / 256, minor: (number + first) % 256 })
    };
    of(b"pts", 136, 0, 2048).or_else(|| of(b"ttyS", 4, 64, 192)).or_else(|| of(b"tty", 4, 0, 64))
}

fn text_of_title(value: &[u8]) -> Option<Vec<u8>> {
    text(value).filter(|title| !title.is_empty())
}

/// `struct sockaddr`, of the internet: the family in this machine's order, all else in the network's.
fn remote(address: &[u8]) -> Option<SocketAddr> {
    let family = address.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))?;
    let port = address.get(2..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))?;
    let ip: std::net::IpAddr = match family {
        2 => address.get(4..)?.first_chunk::<4>().copied()?.into(),
        10 => address.get(8..)?.first_chunk::<16>().copied()?.into(),
        _ => return None,
    };
    (port > 0).then(|| SocketAddr::new(crate::connection::fold(ip), port))
}

#[cfg(test)]
mod tests;
