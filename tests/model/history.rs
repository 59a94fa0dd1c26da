//! One history: connections come and go, and everything around them fails.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use portreeve::connection::Moment;
use portreeve::proc::Proc;
use tempfile::TempDir;

use super::kernel::Kernel;
use super::truth::Truth;
use super::watcher::{Paths, Watcher};

const STEPS: u64 = 60;
/// Far from any limit of a file's size.
const FREE: u64 = 1 << 40;

/// xorshift64*: a history is its seed.
pub struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.throw() % most
    }

    fn one_in(&mut self, most: u64) -> bool {
        self.below(most) == 0
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[usize::try_from(self.below(from.len() as u64)).unwrap()])
    }
}

pub struct History {
    seed: u64,
    dice: Dice,
    dir: TempDir,
    paths: Paths,
    kernel: Kernel,
    truth: Truth,
    watcher: Option<Watcher>,
    /// CLOCK_BOOTTIME, and how far the wall clock is from where it began.
    millis: u64,
    wall_offset: i64,
    clock: Rc<Cell<Duration>>,
    boots: u64,
    next: u64,
    rotations: u64,
    disk_is_full: bool,
    /// States that were saved, for a power cut between log and state.
    older_state: Option<Vec<u8>>,
    /// Rows that the last reads left out, so that none is left out of three.
    left_out: [Vec<u64>; 2],
    counts: BTreeMap<&'static str, u64>,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let paths = Paths { log: dir.path().join("log.jsonl"), state: dir.path().join("state") };
        Self {
            seed,
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            dir,
            paths,
            kernel: Kernel::new(),
            truth: Truth::default(),
            watcher: None,
            millis: 1_000_000,
            wall_offset: 0,
            clock: Rc::default(),
            boots: 1,
            next: 1,
            rotations: 0,
            disk_is_full: false,
            older_state: None,
            left_out: [Vec::new(), Vec::new()],
            counts: BTreeMap::new(),
        }
    }

    pub fn run(mut self) -> BTreeMap<&'static str, u64> {
        println!("history {}", self.seed);
        for _ in 0..STEPS {
            self.step();
        }
        self.fill_disk(false);
        if self.watcher.is_none() {
            self.start();
        }
        // What is left gets the time in which every end is believed.
        for _ in 0..8 {
            self.pass(200_000);
            self.tick(true);
        }
        let at = self.moment();
        self.watcher.take().unwrap().stop(at);
        if std::env::var_os("PORTREEVE_HISTORY").is_some() {
            println!("{}", super::truth::told(&self.logs()));
        }
        if std::env::var_os("PORTREEVE_KEEP").is_some() {
            println!("{}", self.dir.path().display());
            std::mem::forget(std::mem::replace(&mut self.dir, TempDir::new().unwrap()));
        }
        self.truth.compare(&self.logs(), self.seed);
        self.count("histories");
        self.counts
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn moment(&self) -> Moment {
        let wall = 1_795_182_170_000 + self.millis.cast_signed() + self.wall_offset;
        Moment { wall: Timestamp::from_millisecond(wall).unwrap(), boot: Duration::from_millis(self.millis) }
    }

    fn pass(&mut self, millis: u64) {
        self.millis += millis;
        self.clock.set(Duration::from_millis(self.millis));
        self.kernel.age(Duration::from_millis(millis));
    }

    fn step(&mut self) {
        for _ in 0..self.dice.below(3) {
            self.live();
        }
        match self.dice.below(60) {
            0..3 => self.rotate(),
            3..5 => self.kill(),
            5 => self.stop(),
            6 => self.reboot(),
            7..10 => self.set_clock(),
            10..14 => {
                let full = !self.disk_is_full;
                self.fill_disk(full);
            }
            14 => self.cut(),
            _ => {}
        }
        let millis = [50, 50, 50, 1_000, 70_000][usize::try_from(self.dice.below(5)).unwrap()];
        self.pass(millis);
        match self.watcher {
            Some(_) => self.tick(false),
            None if self.dice.one_in(2) => self.start(),
            None => {}
        }
    }

    /// Something happens to a connection.
    fn live(&mut self) {
        let open = self.truth.open();
        match (self.dice.below(6), self.dice.choose(&open)) {
            (0..3, _) | (_, None) => self.connect(),
            (3, Some(inode)) => self.end(inode, Kernel::close),
            (4, Some(inode)) if self.truth.is_established(inode) => self.end(inode, Kernel::reset),
            (4, Some(inode)) => self.end(inode, Kernel::refuse),
            (_, Some(inode)) if self.truth.is_established(inode) => self.kernel.peer_fin(inode),
            (_, Some(inode)) => {
                self.kernel.establish(inode);
                self.truth.establish(inode);
            }
        }
    }

    fn connect(&mut self) {
        let inode = self.boots * 100_000 + self.next;
        self.next += 1;
        // Ports come again: a tuple is no identity.
        let local = format!("10.0.0.1:{}", 50_000 + self.dice.below(40));
        if self.kernel.rows.iter().any(|row| row.local.to_string() == local) {
            return;
        }
        let pid = 200 + u32::try_from(self.next).unwrap();
        self.kernel.spawn(pid, 100, "ssh", &["ssh", "host"]);
        self.kernel.connect(pid, &local, "203.0.113.7:22", inode);
        self.truth.connect(inode, &local);
        if self.dice.one_in(2) {
            self.kernel.establish(inode);
            self.truth.establish(inode);
        }
        self.count("connections");
    }

    fn end(&mut self, inode: u64, how: fn(&mut Kernel, u64)) {
        let established = self.truth.is_established(inode);
        match established {
            true => how(&mut self.kernel, inode),
            false => self.kernel.give_up(inode),
        }
        self.truth.end(inode);
    }

    /// A read of the tables as the kernel gives it: rows missing, rows twice, or none at all.
    fn tick(&mut self, must_work: bool) {
        let whole = self.kernel.rows.clone();
        let mut left_out = Vec::new();
        let fails = !must_work && self.dice.one_in(12);
        if !must_work && self.dice.one_in(4) {
            let spared: Vec<u64> = self.left_out.concat();
            left_out = whole.iter().map(|row| row.inode).filter(|inode| !spared.contains(inode)).collect();
            left_out.retain(|inode| *inode != 0 && self.dice.one_in(3));
            self.kernel.rows.retain(|row| !left_out.contains(&row.inode));
            let again: Vec<_> = self.kernel.rows.iter().filter(|_| self.dice.one_in(4)).cloned().collect();
            self.kernel.rows.extend(again);
            self.count("rows left out or doubled");
        }
        self.kernel.write();
        self.kernel.rows = whole;
        if fails {
            fs::remove_file(self.kernel.path("self/net/tcp")).unwrap();
            self.count("reading failed");
        }
        self.left_out.rotate_left(1);
        self.left_out[1].clone_from(&left_out);
        let (at, proc) = (self.moment(), self.kernel.proc());
        let all_told = self.watcher.as_mut().unwrap().tick(&proc, at);
        if all_told && !fails {
            self.truth.seen(&left_out);
        }
    }

    fn start(&mut self) {
        if self.disk_is_full {
            return;
        }
        self.older_state = fs::read(self.paths.state.join("state.json")).ok();
        let (at, proc) = (self.moment(), self.proc());
        let boot = format!("boot-{}", self.boots);
        let watcher = Watcher::start(&proc, &self.paths, &boot, at, Rc::clone(&self.clock));
        self.watcher = Some(watcher);
        self.tick(true);
        self.count("started");
    }

    fn proc(&self) -> Proc {
        self.kernel.write();
        self.kernel.proc()
    }

    fn stop(&mut self) {
        if let Some(watcher) = self.watcher.take_if(|watcher| watcher.ledger.is_idle()) {
            watcher.stop(self.moment());
            self.count("stopped");
        }
    }

    /// kill -9: what was written stands, and the state may be an older one.
    fn kill(&mut self) {
        if self.watcher.take().is_none() {
            return;
        }
        self.count("killed");
        if let Some(older) = self.older_state.take().filter(|_| self.dice.one_in(2)) {
            // The thread of the one that was killed may still be saving.
            std::thread::sleep(Duration::from_millis(20));
            fs::write(self.paths.state.join("state.json"), older).unwrap();
            self.count("older state");
        }
        if self.dice.one_in(3) {
            self.tear();
        }
    }

    /// The last write was cut in the middle.
    fn tear(&mut self) {
        use std::io::Write;
        if let Ok(mut log) = fs::OpenOptions::new().append(true).open(&self.paths.log) {
            log.write_all(&b"{\"@timestamp\":\"2026-"[..usize::try_from(1 + self.dice.below(19)).unwrap()])
                .unwrap();
            self.count("torn");
        }
    }

    fn reboot(&mut self) {
        self.kill();
        self.boots += 1;
        // The wall clock goes on through a boot.
        self.wall_offset += self.millis.cast_signed();
        self.millis = 10_000 + self.dice.below(100_000);
        self.kernel = Kernel::new();
        self.truth.reboot();
        self.count("rebooted");
    }

    fn set_clock(&mut self) {
        self.wall_offset +=
            [-3_600_000, -5_000, -200, 100, 3_000, 86_400_000][usize::try_from(self.dice.below(6)).unwrap()];
        self.count("clock set");
    }

    fn rotate(&mut self) {
        if fs::metadata(&self.paths.log).is_ok_and(|meta| meta.len() > 0) {
            self.rotations += 1;
            let name = self.dir.path().join(format!("log.jsonl.{}", self.rotations));
            fs::rename(&self.paths.log, name).unwrap();
            self.count("rotated");
        }
    }

    /// copytruncate: between the copy and the cut nothing is written here.
    fn cut(&mut self) {
        if self.watcher.as_ref().is_some_and(|watcher| watcher.ledger.is_idle()) && self.paths.log.exists() {
            self.rotations += 1;
            fs::copy(&self.paths.log, self.dir.path().join(format!("log.jsonl.{}", self.rotations))).unwrap();
            fs::OpenOptions::new().write(true).truncate(true).open(&self.paths.log).unwrap();
            self.count("copied and cut");
        }
    }

    /// Writes are cut short, and then fail.
    fn fill_disk(&mut self, full: bool) {
        let length = fs::metadata(&self.paths.log).map_or(0, |meta| meta.len());
        let room = if full { (length + self.dice.below(4_000)).max(50_000) } else { FREE };
        let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, room.min(most), most).unwrap();
        self.disk_is_full = full;
        if full {
            self.count("disk full");
        }
    }

    fn logs(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.is_file()).collect()
    }
}
