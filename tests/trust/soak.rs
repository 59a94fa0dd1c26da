//! Real ssh sessions while everything happens to the watcher and its log that may: rotations, reloads, stops, kills, a
//! full disk. At the end each session is told once, or a gap says that nobody could see it.
//!
//! Short here, of minutes with `tests/soak`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::Value;

use crate::lab;
use crate::story::{Log, Run, SSH, gaps, starts};
use crate::support::lab::Lab;
use crate::support::log::{summary, with_action};
use crate::support::session::{STAY, Session};

const USERS: usize = 3;

/// A session as it was, by the wall clock.
struct Lived {
    port: u16,
    begun: Timestamp,
    logged_in: Timestamp,
    ending: Timestamp,
    gone: Timestamp,
}

/// xorshift64: the same seed, the same soak.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn sleep(&mut self, from_ms: u64, to_ms: u64) {
        std::thread::sleep(Duration::from_millis(from_ms + self.below(to_ms - from_ms)));
    }
}

/// Sessions one after another, until `done`.
fn live(lab: &Lab, mut dice: Dice, done: &AtomicBool, lived: &Mutex<Vec<Lived>>) {
    while !done.load(Ordering::Relaxed) {
        let begun = Timestamp::now();
        let session = Session::start(lab.ssh().args(["root@127.0.0.1", STAY]));
        let (port, logged_in) = (session.addresses.1, Timestamp::now());
        let lasts_ms = match dice.below(10) {
            0 => dice.below(9_000),
            1..4 => dice.below(2_500),
            _ => dice.below(400),
        };
        let until = Instant::now() + Duration::from_millis(lasts_ms);
        while Instant::now() < until && !done.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let ending = Timestamp::now();
        assert!(session.end().success());
        let gone = Timestamp::now();
        lived.lock().unwrap().push(Lived { port, begun, logged_in, ending, gone });
    }
}

/// The watcher, its log, and what happens to them.
struct Trouble<'a> {
    lab: &'a Lab,
    log: Log,
    run: Option<Run>,
    dice: Dice,
    rotated: usize,
    /// So many runs had begun before this one.
    starts: usize,
    done: BTreeMap<&'static str, usize>,
}

impl Trouble<'_> {
    fn start(&mut self) {
        self.starts = starts(&self.log.now()).len();
        let mut command = self.lab.portreeve();
        self.run = Some(self.log.spawn(&mut command));
    }

    fn run(&self) -> &Run {
        self.run.as_ref().expect("it runs")
    }

    /// As logrotate does it: renamed, maybe made anew, the one before packed.
    fn rotate(&mut self) {
        self.rotated += 1;
        let (new, old) = (self.rotated, self.rotated.saturating_sub(2));
        let path = self.log.path.display();
        let create = if self.dice.below(2) == 0 { format!("; touch {path}") } else { String::new() };
        self.lab.run(&format!("[ ! -e {path} ] || mv {path} {path}-{new:04}{create}"));
        self.lab.run(&format!("[ ! -e {path}-{old:04} ] || gzip {path}-{old:04}"));
    }

    fn happen(&mut self) {
        let what = match self.dice.below(10) {
            0 | 1 => {
                self.rotate();
                "rotation"
            }
            2 | 3 => {
                self.rotate();
                self.run().signal(Signal::HUP);
                "rotation with HUP"
            }
            4 => {
                let interval = if self.dice.below(2) == 0 { "20ms" } else { "100ms" };
                let config = self.lab.path("portreeve.toml");
                std::fs::write(config, format!("interval = '{interval}'\n")).unwrap();
                self.run().signal(Signal::HUP);
                "reload"
            }
            5 => {
                self.run().signal(Signal::STOP);
                self.dice.sleep(100, 2_500);
                self.run().signal(Signal::CONT);
                "stop and continue"
            }
            6 => {
                // Before it has set up its signals it ends as a kill ends it.
                let begun = self.starts;
                self.log.wait("its start", |records| (starts(records).len() > begun).then_some(()));
                self.run.take().expect("it runs").stop();
                self.dice.sleep(1, 800);
                self.start();
                "clean restart"
            }
            7 | 8 => {
                self.run.take().expect("it runs").kill();
                self.dice.sleep(1, 800);
                self.start();
                "kill"
            }
            _ => {
                self.lab.run("cat /dev/zero > /run/disk/filler 2> /dev/null || :");
                self.dice.sleep(100, 1_500);
                if self.dice.below(3) == 0 {
                    self.run.take().expect("it runs").kill();
                    self.start();
                    self.dice.sleep(100, 500);
                }
                self.lab.run("rm /run/disk/filler");
                "full disk"
            }
        };
        *self.done.entry(what).or_default() += 1;
    }
}

/// What became of the sessions in the log.
#[derive(Debug, Default)]
struct Verdict {
    sessions: usize,
    told_once: usize,
    /// Not told, but a gap says that nobody could see them.
    within_gaps: usize,
    lost: Vec<String>,
    false_opens: Vec<String>,
    false_closes: Vec<String>,
    without_close: Vec<String>,
    attributed: usize,
}

fn time(value: &Value) -> Timestamp {
    value.as_str().expect("a time").parse().expect("a time")
}

fn judge(lived: &[Lived], records: &[Value]) -> Verdict {
    let slack = Duration::from_millis(100);
    let blind: Vec<_> = ["not_watching", "stalled", "suspended", "events_lost"]
        .iter()
        .flat_map(|cause| gaps(records, cause))
        .map(|gap| (time(&gap["from"]), time(&gap["to"])))
        .collect();
    let mut closes: BTreeMap<String, &Value> = BTreeMap::new();
    let (all_closes, all_opens) =
        (with_action(records, "connection-closed"), with_action(records, "connection-opened"));
    let id = |record: &Value| record["portreeve"]["connection"]["id"].to_string();
    closes.extend(all_closes.iter().map(|close| (id(close), close)));
    let mut opens: Vec<Option<&Value>> = all_opens.iter().map(Some).collect();
    let mut verdict = Verdict { sessions: lived.len(), ..Verdict::default() };
    for session in lived {
        // A watcher that was stopped, or has much to do, tells later; a port is hardly used again so soon.
        let (from, to) = (session.begun - slack, session.gone + Duration::from_secs(8));
        let is_its = |open: &&mut Option<&Value>| {
            let its = |open: &Value| (from..=to).contains(&time(&open["@timestamp"]));
            open.is_some_and(|open| open["source"]["port"] == session.port && its(open))
        };
        let found = opens.iter_mut().find(is_its).and_then(Option::take);
        let name = format!("port {} {}..{}", session.port, session.begun, session.gone);
        let Some(open) = found else {
            let unseen = |(from, to): &(Timestamp, Timestamp)| {
                *from <= session.logged_in + slack && *to + slack >= session.ending
            };
            match blind.iter().any(unseen) {
                true => verdict.within_gaps += 1,
                false => verdict.lost.push(name),
            }
            continue;
        };
        verdict.told_once += 1;
        verdict.attributed += usize::from(open["process"]["name"] == "ssh");
        match closes.get(&id(open)) {
            None => verdict.without_close.push(name),
            Some(close) if time(&close["portreeve"]["close"]["gone_by"]) + slack < session.ending => {
                verdict.false_closes.push(format!("{name}: {}", summary(close)));
            }
            Some(_) => {}
        }
    }
    verdict.false_opens = opens.into_iter().flatten().map(summary).collect();
    verdict
}

fn minutes() -> Option<f64> {
    std::env::var("PORTREEVE_SOAK").ok()?.parse().ok()
}

#[test]
fn every_session_is_told_once_whatever_happens_to_the_watcher_and_its_log() {
    let mut lab = lab!("gzip");
    let length = minutes().map_or(Duration::from_secs(15), |minutes| Duration::from_secs_f64(minutes * 60.0));
    let seed = std::env::var("PORTREEVE_SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    let how = if minutes().is_some() { "" } else { " (more: tests/soak MINUTES)" };
    eprintln!("SOAK: {} s{how}, PORTREEVE_SOAK_SEED={seed}", length.as_secs());
    lab.sshd(&[SSH]);
    lab.run("mkdir /run/disk && mount -t tmpfs -o size=64m tmpfs /run/disk");
    let (done, lived) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let log = Log::inside(&lab, "/run/disk");
    let first = log.run(&lab);
    let mut trouble = Trouble {
        lab: &lab,
        log,
        run: Some(first),
        dice: Dice(seed),
        rotated: 0,
        starts: 0,
        done: BTreeMap::new(),
    };
    std::thread::scope(|scope| {
        for user in 0..USERS {
            let (lab, done, lived) = (&lab, &done, &lived);
            scope.spawn(move || live(lab, Dice(seed.rotate_left(7) + user as u64), done, lived));
        }
        let began = Instant::now();
        while began.elapsed() < length {
            trouble.dice.sleep(300, 1_500);
            trouble.happen();
        }
        done.store(true, Ordering::Relaxed);
    });
    std::thread::sleep(Duration::from_secs(2));
    trouble.run.take().expect("it runs").stop();
    report(&lab, &trouble, &lived.into_inner().unwrap());
}

fn report(lab: &Lab, trouble: &Trouble<'_>, lived: &[Lived]) {
    // sshd's own list.
    let sshd = std::fs::read_to_string(lab.path("sshd-0.log")).unwrap();
    let mut accepted: Vec<u16> = sshd
        .lines()
        .filter(|line| line.contains("Accepted publickey"))
        .filter_map(|line| line.split(" port ").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    let mut ports: Vec<_> = lived.iter().map(|session| session.port).collect();
    accepted.sort_unstable();
    ports.sort_unstable();
    assert_eq!(accepted, ports, "sshd and the sessions agree");
    let records = trouble.log.story();
    let verdict = judge(lived, &records);
    let streams: Vec<_> = starts(&records).iter().map(|start| start["stream"].clone()).collect();
    eprintln!(
        "SOAK: {} sessions: {} told once ({} with their owner), {} within gaps, {} lost, {} false opens, {} false closes, {} \
         without a close; {:?}; {} runs, {} records",
        verdict.sessions,
        verdict.told_once,
        verdict.attributed,
        verdict.within_gaps,
        verdict.lost.len(),
        verdict.false_opens.len(),
        verdict.false_closes.len(),
        verdict.without_close.len(),
        trouble.done,
        streams.len(),
        records.len(),
    );
    assert!(streams.iter().skip(1).all(|stream| stream == "continued"), "{streams:?}");
    let wrong = [&verdict.lost, &verdict.false_opens, &verdict.false_closes, &verdict.without_close];
    if wrong.iter().any(|list| !list.is_empty()) {
        let kept = std::env::temp_dir().join(format!("portreeve-soak-{}", std::process::id()));
        lab.run(&format!("cp -r /run/disk {}", kept.display()));
        panic!("the log is kept in {}: {verdict:#?}", kept.display());
    }
    assert!(verdict.told_once > 0);
}
