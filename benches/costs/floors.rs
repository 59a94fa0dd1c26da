//! What the kernel asks for the same answers: bare system calls, nothing kept, nothing parsed.

use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir, openat, readlinkat_raw};
use rustix::net::sockopt::set_socket_linger;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::diag::{Diag, Key, Notices, Rows};
use crate::figures::{Spread, children_cpu, cpu_us, number};
use crate::goals::Goal;
use crate::load::Crew;
use crate::plan::Plan;
use crate::tables::{Table, head};
use crate::watch;

const INTERVAL_NS: i64 = 50_000_000;

/// Calls `look` 20 times a second, for ever.
pub fn paced(mut look: impl FnMut()) {
    let mut next = clock_gettime(ClockId::Monotonic);
    loop {
        look();
        let tv_nsec = next.tv_nsec + INTERVAL_NS;
        next = Timespec { tv_sec: next.tv_sec + tv_nsec / 1_000_000_000, tv_nsec: tv_nsec % 1_000_000_000 };
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &next);
    }
}

/// Reads the kernel's count of outbound opens 20 times a second: the least that a poller of that pace can do
/// and still know that something opened.
pub fn gate() {
    let snmp = File::open("/proc/net/snmp").expect("/proc/net/snmp");
    let mut last = 0;
    paced(|| {
        let opens = active_opens(&snmp);
        if opens != last {
            last = opens;
        }
    });
}

/// The same, and whenever that count moved one walk over the table for the rows to port 22, and an exact question for
/// each that was not there before: the least that tells which connections those are.
pub fn gate_and_walk() {
    let snmp = File::open("/proc/net/snmp").expect("/proc/net/snmp");
    let mut diag = Diag::open();
    let (mut last, mut rows, mut before) = (0, Vec::new(), Vec::new());
    paced(|| {
        let opens = active_opens(&snmp);
        if opens != last {
            last = opens;
            std::mem::swap(&mut rows, &mut before);
            diag.walk(Rows::To(22), &mut rows);
            for key in rows.iter().filter(|key| !before.iter().any(|old: &Key| old.is_same_socket(key))) {
                diag.look_up(key);
            }
        }
    });
}

/// `ActiveOpens`: the fifth number after the second `Tcp:`.
fn active_opens(snmp: &File) -> u64 {
    let mut buffer = [0; 4_096];
    let length = snmp.read_at(&mut buffer, 0).expect("/proc/net/snmp");
    let text = std::str::from_utf8(&buffer[..length]).expect("ASCII");
    let numbers = text.split("\nTcp: ").nth(2).expect("the line of numbers");
    numbers.split(' ').nth(4).and_then(|word| word.parse().ok()).expect("ActiveOpens")
}

/// When to stop reading a table.
#[derive(Clone, Copy)]
pub enum Until {
    /// `read` returned 0. To find that out the kernel walks its whole hash table once more.
    Empty,
    /// `read` returned less than a page by more than a row: there was no further row to put there.
    Short,
}

/// One look at `net/tcp` and `net/tcp6`: `open`, `read` until the end, `close`.
pub fn read_tables(until: Until, buffer: &mut [u8]) {
    // The kernel fills one page per read. Rows are 150 bytes in tcp, up to 180 in tcp6.
    const SHORT: usize = 4_096 - 200;
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let mut file = File::open(path).expect(path);
        loop {
            let length = file.read(buffer).expect(path);
            match until {
                Until::Short if length < SHORT => break,
                _ if length == 0 => break,
                _ => {}
            }
        }
    }
}

/// Every descriptor of every process: the work of who searches an owner without knowing where to begin.
/// Returns how many are sockets.
pub fn walk_descriptors() -> usize {
    let proc = File::open("/proc").expect("/proc");
    let mut sockets = 0;
    each_number(&proc, |pid| {
        let Some(fds) = open_folder(proc.as_fd(), &format!("{pid}/fd")) else { return };
        each_number(&fds, |fd| {
            let mut target = [MaybeUninit::uninit(); 64];
            let link = readlinkat_raw(&fds, fd, &mut target);
            sockets += usize::from(link.is_ok_and(|(link, _)| link.starts_with(b"socket:[")));
        });
    });
    sockets
}

/// Numbers below the last that a young owner can have, far more than needed.
const PROBES: usize = 256;

/// The owner of a socket whose owner is young: from the last pid given out downwards, until one holds it.
pub fn probe_downwards(inode: u32) -> Option<u32> {
    let proc = File::open("/proc").expect("/proc");
    let wanted = format!("socket:[{inode}]");
    let loadavg = std::fs::read_to_string("/proc/loadavg").expect("/proc/loadavg");
    let last: u32 = loadavg.trim().rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("the last pid");
    (1..=last).rev().take(PROBES).find(|pid| {
        let Some(fds) = open_folder(proc.as_fd(), &format!("{pid}/fd")) else { return false };
        let mut held = false;
        each_number(&fds, |fd| {
            let mut target = [MaybeUninit::uninit(); 64];
            held |= readlinkat_raw(&fds, fd, &mut target).is_ok_and(|(link, _)| link == wanted.as_bytes());
        });
        held
    })
}

fn open_folder(at: BorrowedFd<'_>, path: &str) -> Option<OwnedFd> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn each_number(folder: impl AsFd, mut visit: impl FnMut(&str)) {
    let mut space = [MaybeUninit::uninit(); 32 * 1_024];
    let mut entries = RawDir::new(folder, &mut space);
    while let Some(Ok(entry)) = entries.next() {
        match entry.file_name().to_str() {
            Ok(name) if name.starts_with(|first: char| first.is_ascii_digit()) => visit(name),
            _ => {}
        }
    }
}

/// One run of a program: its CPU time.
pub fn run_us(argv: &[&str]) -> f64 {
    let before = children_cpu();
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("a program that was found before");
    (children_cpu() - before).as_secs_f64() * 1e6
}

/// The section: CPU time of one look.
pub fn look(plan: &Plan) -> Vec<Goal> {
    let title = "One look: CPU time in µs, median (min–max), by rows in the socket tables";
    let mut columns: Vec<Vec<(&str, String)>> = Vec::new();
    for &rows in &plan.sockets {
        eprintln!("look: N = {rows}");
        let _load = [Crew::ssh(), Crew::sleeping(100), Crew::holding(rows)];
        columns.push(look_once(plan.looks));
    }
    let mut table = Table::new(title, head("", "N", &plan.sockets));
    for (index, (name, _)) in columns[0].iter().enumerate() {
        table.row(name, columns.iter().map(|cells| cells[index].1.clone()));
    }
    table.print(plan.markdown);
    Vec::new()
}

fn look_once(times: usize) -> Vec<(&'static str, String)> {
    let snmp = File::open("/proc/net/snmp").expect("/proc/net/snmp");
    let mut cells = vec![(
        "counters: read of /proc/net/snmp",
        Spread::repeat(times, |_| cpu_us(|| active_opens(&snmp))).show(),
    )];
    cells.extend(look_by_netlink(times));
    cells.extend(look_by_files(times));
    for (name, argv) in [
        ("ss -Htn dport = 22", &["ss", "-Htn", "dport = 22"][..]),
        ("ss -Htnp dport = 22", &["ss", "-Htnp", "dport = 22"]),
        ("netstat -tn", &["netstat", "-tn"]),
        ("lsof -Pn -i :22", &["lsof", "-Pn", "-i", ":22"]),
    ] {
        if watch::installed(argv[0]) {
            cells.push((name, Spread::repeat(times.min(5), |_| run_us(argv)).show()));
        }
    }
    cells
}

fn look_by_netlink(times: usize) -> Vec<(&'static str, String)> {
    let (mut diag, mut keys) = (Diag::open(), Vec::new());
    let mut walk =
        |rows, keys: &mut Vec<Key>| Spread::repeat(times, |_| cpu_us(|| diag.walk(rows, keys))).show();
    let all = walk(Rows::All, &mut keys);
    let by_code = walk(Rows::ToByCode(22), &mut keys);
    // In turns, so that noise and the cache are the same for both.
    let mut own_reading = watch::own_netlink_reading();
    let mut floor = |keys: &mut Vec<Key>| cpu_us(|| diag.walk(Rows::To(22), keys));
    let pairs: Vec<(f64, f64)> = (0..times).map(|_| (floor(&mut keys), own_reading())).collect();
    let (by_id, own, ratio) = compare(&pairs);
    let rested = Spread::repeat(2 * times, |_| {
        std::thread::sleep(Duration::from_millis(50));
        cpu_us(|| diag.walk(Rows::To(22), &mut keys))
    });
    let mut found = 0;
    let mut look_up =
        |index| cpu_us(|| found += usize::from(diag.look_up(&keys[index % keys.len()]).is_some()));
    let known = Spread::repeat(5 * times, &mut look_up).show();
    assert_eq!(found, 5 * times, "connections that stand are found");
    vec![
        ("sock_diag: one walk, port in the request", by_id),
        ("sock_diag: portreeve's reading, the same", own),
        ("  times the walk", ratio),
        ("sock_diag: one walk, 50 ms after the last", rested.show()),
        ("sock_diag: one walk, port by bytecode", by_code),
        ("sock_diag: one walk, every row", all),
        ("sock_diag: a known connection looked up", known),
        ("sock_diag: a notice of an end read", notice_us(5 * times).show()),
    ]
}

/// What reading one notice costs, of connections that end here: two each.
fn notice_us(connections: usize) -> Spread {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let mut notices = Notices::open();
    for _ in 0..connections {
        let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let far = listener.accept().expect("its other end");
        set_socket_linger(&near, Some(Duration::ZERO)).expect("an option");
        drop(near);
        drop(far);
    }
    // The kernel sends them by a worker of its own, shortly after.
    std::thread::sleep(Duration::from_millis(100));
    Spread::repeat(2 * connections, |_| {
        let mut read = 0;
        let us = cpu_us(|| read = notices.read());
        if read == 1 { us } else { f64::NAN }
    })
}

/// Of a floor, of portreeve beside it, and the median of how many times as much that is.
fn compare(pairs: &[(f64, f64)]) -> (String, String, String) {
    let floor = Spread::of(pairs.iter().map(|(floor, _)| *floor).collect());
    let own = Spread::of(pairs.iter().map(|(_, own)| *own).collect());
    let ratio = Spread::of(pairs.iter().map(|(floor, own)| own / floor).collect());
    (floor.show(), own.show(), number(ratio.median()))
}

fn look_by_files(times: usize) -> Vec<(&'static str, String)> {
    let mut buffer = vec![0; 64 * 1_024];
    let to_empty = Spread::repeat(times, |_| cpu_us(|| read_tables(Until::Empty, &mut buffer)));
    // In turns, so that noise and the cache are the same for both.
    let mut floor = || cpu_us(|| read_tables(Until::Short, &mut buffer));
    let pairs: Vec<(f64, f64)> = (0..times).map(|_| (floor(), watch::own_reading_us())).collect();
    let (short, own, ratio) = compare(&pairs);
    vec![
        ("files: read() loop to the last row", short),
        ("files: portreeve's reading, parsed", own),
        ("  times the loop to the last row", ratio),
        ("files: read() loop to the empty read", to_empty.show()),
    ]
}

/// CPU time of the full walk in milliseconds, and what it found.
pub fn walk_ms(times: usize) -> Spread {
    Spread::repeat(times, |_| cpu_us(walk_descriptors) / 1e3)
}
