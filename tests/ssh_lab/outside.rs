//! One more watch, of the whole machine: by all sources beside each other, of which eBPF is one that no host of its own has.
//!
//! What it tells of a host's connections is held against what the host's own watch told of them, and that the scenario
//! compared: each is one story with one id, of the same process, from the same login. A host numbers its processes by
//! itself, so they are known by the moment of their start.
//!
//! `audit` is not among its sources: rules of audit are the machine's, and would stay where a test is killed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use crate::check::print;
use crate::host::{PATIENCE, USERS};
use crate::support::log::{self, pick, with_action};
use crate::support::{not_run, output, wait_for};

/// The group of the rule that each host has for it: one program alone hears a group, and the host's own watch has another.
const GROUP: &str = "77";

/// What any host's own watch may follow.
const PORTS: &str = "22,80,2200,2222,2299";

/// What is told late is told by then.
const SETTLED: Duration = Duration::from_millis(1_500);

/// The running watch and what it writes, to files without a name: nothing is left of them, however this process ends.
struct Outside {
    pid: Pid,
    log: File,
    errors: File,
}

/// One host as its own watch told it.
pub struct Host {
    pub name: &'static str,
    pub netns: u64,
    /// How long the log from outside was before the host was made.
    pub since: u64,
    /// Its processes that were alive in the end: their numbers there, and outside.
    pub pids: BTreeMap<u64, u64>,
    pub records: Vec<Value>,
}

thread_local! {
    /// Of the scenario that this thread runs.
    static HOSTS: RefCell<Vec<Host>> = const { RefCell::new(Vec::new()) };
}

/// Of the scenarios that have ended.
static JUDGED: Mutex<Vec<(String, Host)>> = Mutex::new(Vec::new());

/// It, from the first call on; `None` where it cannot hear the kernel's words, which is said once.
fn outside() -> Option<&'static Outside> {
    static OUTSIDE: OnceLock<Option<Outside>> = OnceLock::new();
    let start = || match Outside::start() {
        Ok(outside) => Some(outside),
        Err(reason) => {
            not_run("from_outside_each_connection_of_the_lab_is_one_story_too", &reason);
            None
        }
    };
    OUTSIDE.get_or_init(start).as_ref()
}

/// How much it has written so far.
pub fn written() -> u64 {
    outside().map_or(0, Outside::written)
}

/// A rule by which it is told of a host's SYNs, in a table beside the one that the host's own watch may have.
pub fn rule() -> String {
    let words = ["rule", "nflog", "--group", GROUP, "--ports", "1-65535"];
    let rule = output(Command::new(env!("CARGO_BIN_EXE_portreeve")).args(words));
    String::from_utf8(rule.stdout).unwrap().replace("inet portreeve", "inet outside")
}

/// Takes what a host's own watch told, for the end of its scenario.
pub fn told(host: Host) {
    HOSTS.with_borrow_mut(|hosts| hosts.push(host));
}

impl Outside {
    fn start() -> Result<Self, String> {
        let [log, errors] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_portreeve"), "watch"]);
        command.args(["--config", "/dev/null", "--netns", "all", "--inbound", "--ports", PORTS]);
        command.args(["--events", &format!("destroy,syn,nflog:{GROUP},proc,ebpf")]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(errors.try_clone().unwrap());
        let (started, pid) = mpsc::channel();
        // What a thread started dies with the thread: this one stays as long as its child.
        std::thread::spawn(move || {
            let mut child = command.spawn().unwrap();
            started.send(Pid::from_child(&child)).unwrap();
            child.wait()
        });
        let outside = Self { pid: pid.recv().unwrap(), log, errors };
        let started = wait_for("the watch from outside", PATIENCE, || {
            let is_there = test_kill_process(outside.pid).is_ok();
            assert!(is_there, "{}", String::from_utf8_lossy(&read(&outside.errors, 0)));
            with_action(&outside.records(0, "watch-started"), "watch-started").pop()
        });
        let state = started["portreeve"]["watch"]["events"]["ebpf"].as_str().unwrap();
        if state != "on" {
            kill_process(outside.pid, Signal::TERM).unwrap();
            return Err(format!("ebpf: {state}"));
        }
        Ok(outside)
    }

    fn written(&self) -> u64 {
        self.log.metadata().unwrap().len()
    }

    /// The whole records with these words, from a length of the log on: of a busy machine's log only few need be read.
    fn records(&self, from: u64, words: &str) -> Vec<Value> {
        let text = String::from_utf8(read(&self.log, from)).unwrap();
        let torn = if from == 0 || text.starts_with('{') { 0 } else { text.find('\n').unwrap_or(text.len()) };
        let whole = text.rfind('\n').unwrap_or(0).max(torn);
        let lines = text[torn..whole].lines().filter(|line| line.contains(words));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn gaps(&self, from: u64) -> Vec<Value> {
        self.records(from, "\"action\":\"gap\"")
    }
}

/// What a file holds from there on. Its place is its writer's, and must not be moved.
fn read(file: &File, from: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len() - from).unwrap()];
    file.read_exact_at(&mut bytes, from).unwrap();
    bytes
}

/// What these records tell of each of a host's connections, of those that began while its own watch was on: numbers of
/// namespaces are given out again at once.
fn stories(records: &[Value], host: &Host) -> Vec<Vec<Value>> {
    let mut stories: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    let of_connections = records.iter().filter(|record| is_of_connection(record));
    for record in of_connections.filter(|record| record["portreeve"]["connection"]["netns"] == host.netns) {
        let id = record["portreeve"]["connection"]["id"].as_str().unwrap();
        stories.entry(id).or_default().push(record.clone());
    }
    let at = |record: Option<&Value>| record.unwrap()["@timestamp"].as_str().unwrap().to_owned();
    let watched = at(host.records.first())..at(host.records.last());
    let is_of_host = |story: &Vec<Value>| {
        let began = story[0]["event"]["start"].as_str().or(story[0]["@timestamp"].as_str());
        began.is_some_and(|began| watched.contains(&began.to_owned()))
    };
    stories.into_values().filter(is_of_host).collect()
}

/// What was told otherwise from outside than by the host itself.
#[derive(Default)]
struct Differences {
    /// What is missing, which is no fault where the watch tells that it lost something.
    less: Vec<String>,
    wrong: Vec<String>,
}

impl Differences {
    fn add(&mut self, other: Self) {
        self.less.extend(other.less);
        self.wrong.extend(other.wrong);
    }

    fn compare(&mut self, what: &str, found: &Value, expected: &Value) {
        if found != expected {
            let list = if found.is_null() { &mut self.less } else { &mut self.wrong };
            list.push(format!("{what} {found:#}\ninside {expected:#}"));
        }
    }
}

/// What tells a connection from the others of its host, but for one that has the same ends again.
const ENDS: &[&str] =
    &["network.direction", "network.community_id", "source.port", "destination.ip", "destination.port"];

/// What is the same of a connection whoever sees it.
const SAME: &[&str] = &[
    "source.ip",
    "network.transport",
    "network.protocol",
    "user.id",
    "portreeve.connection.inode",
    "portreeve.route",
    "destination.domain",
];

/// What is the same of a client wherever its process was read, which it is not where the kernel's word was all that was
/// left of it.
const READ: &[&str] = &["container.id", "service.name", "portreeve.ssh"];

/// What is the same of an origin that both know. One may know less of a login, or nothing: another evidence is left where
/// more is over before it is looked at.
const ORIGIN: &[&str] = &["kind", "ip", "port", "local_ip", "local_port", "community_id", "tty", "session"];

/// The process that a record names, by what does not depend on who numbers it: start, program and arguments.
fn process(record: &Value) -> Option<String> {
    let id = record["process"]["entity_id"].as_str()?;
    // Five groups of the boot's id, the pid, the start.
    let started = id.split('-').nth(6).unwrap();
    let program = pick(record, &["process.name", "process.executable", "process.args"]);
    Some(format!("{started} {program}"))
}

/// Who made the connection, as far as it was ever told, and all that had it.
fn owners(story: &[Value]) -> Vec<String> {
    story.iter().filter_map(process).collect()
}

/// True if it is of the connection itself: sessions that ride on it are told by looks, which may miss one.
fn is_of_connection(record: &Value) -> bool {
    record["event"]["action"].as_str().unwrap().starts_with("connection-")
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{} {}", record["@timestamp"], log::summary(record))).collect()
}

/// Compares one connection with what is told of it from outside.
fn compare(host: &Host, own: &[Value], stories: &[Vec<Value>], differences: &mut Differences) {
    let what = format!("{}: {}:", host.name, own[0]["message"]);
    let cookie = |story: &[Value]| story[0]["portreeve"]["connection"]["cookie"].clone();
    let is_same = |story: &&Vec<Value>| {
        let (own_cookie, cookie) = (cookie(own), cookie(story));
        pick(&story[0], ENDS) == pick(&own[0], ENDS)
            && (cookie == own_cookie || cookie.is_null() || own_cookie.is_null())
    };
    let same: Vec<_> = stories.iter().filter(is_same).collect();
    let story = match same[..] {
        [story] => story,
        [] => return differences.less.push(format!("{what} no story")),
        _ => return differences.wrong.push(format!("{what} {same:#?}")),
    };
    let (last, own_last) = (&story[story.len() - 1], &own[own.len() - 1]);
    if last["event"]["action"] != "connection-closed" {
        differences.less.push(format!("{what} no end"));
    }
    for name in SAME {
        differences.compare(
            &format!("{what} {name}"),
            &pick(last, &[name])[name],
            &pick(own_last, &[name])[name],
        );
    }
    compare_owners(host, &what, story, own, differences);
    compare_surroundings(&what, last, own_last, differences);
    if let Some(last) = differences.wrong.last_mut().or(differences.less.last_mut()) {
        last.push_str(&format!("\ntold\n{}inside\n{}", lines(story), lines(own)));
    }
}

fn compare_owners(host: &Host, what: &str, story: &[Value], own: &[Value], differences: &mut Differences) {
    let (found, expected) = (owners(story), owners(own));
    // Who has it later is told by looks, which may miss one.
    match found.first() {
        Some(first) if !expected.is_empty() && !expected.contains(first) => {
            differences.wrong.push(format!("{what} owners {found:#?}\ninside {expected:#?}"));
        }
        None if !expected.is_empty() => {
            differences.less.push(format!("{what} no owner\ninside {expected:#?}"))
        }
        _ => {}
    }
    for record in own {
        let Some(pid) = record["process"]["pid"].as_u64().and_then(|pid| host.pids.get(&pid)) else {
            continue;
        };
        for same in story.iter().filter(|other| process(other) == process(record)) {
            differences.compare(&format!("{what} pid"), &same["process"]["pid"], &(*pid).into());
        }
    }
}

/// What is known of the process beside itself. Evidence may be another: a parent that was seen before it ended is known.
fn compare_surroundings(what: &str, last: &Value, own_last: &Value, differences: &mut Differences) {
    let is_word = |record: &Value| record["portreeve"]["attribution"]["holders"] == json!([]);
    let lacks = |record: &Value, value: &Value| is_word(record) && (value.is_null() || value == "unknown");
    let is_part = |part: &Value, whole: &Value| {
        let part = part.as_object().filter(|_| is_word(last));
        part.is_some_and(|part| part.iter().all(|(name, value)| &whole[name] == value))
    };
    for name in READ {
        let (found, expected) = (&pick(last, &[name])[name], &pick(own_last, &[name])[name]);
        if !lacks(last, found) && !lacks(own_last, expected) && !is_part(found, expected) {
            differences.compare(&format!("{what} {name}"), found, expected);
        }
    }
    let known = |record: &Value, name: &str| {
        let value = record["portreeve"]["origin"][name].clone();
        Some(value).filter(|value| !value.is_null() && value != "unknown")
    };
    for name in ORIGIN {
        if let (Some(found), Some(expected)) = (known(last, name), known(own_last, name)) {
            differences.compare(&format!("{what} origin.{name}"), &found, &expected);
        }
    }
    let user = |record: &Value| record["portreeve"]["origin"]["user"].as_str().map(str::to_owned);
    let (Some(user), Some(own_user)) = (user(last), user(own_last)) else { return };
    // The machine has another name for the same number.
    let uid = USERS.iter().find(|(name, ..)| *name == own_user).map(|(_, uid, _)| *uid);
    let outside = uid.and_then(uzers::get_user_by_uid);
    if user != own_user && outside.is_none_or(|outside| outside.name() != user.as_str()) {
        differences.wrong.push(format!("{what} origin.user {user}\ninside {own_user}"));
    }
}

/// The stories of a host's own log.
fn own_stories(host: &Host) -> Vec<Vec<Value>> {
    let of = |open: &Value| {
        let id = &open["portreeve"]["connection"]["id"];
        let records = host.records.iter().filter(|record| is_of_connection(record));
        let records = records.filter(|record| &record["portreeve"]["connection"]["id"] == id);
        records.cloned().collect()
    };
    with_action(&host.records, "connection-opened").iter().map(of).collect()
}

/// Ports that a host's own watch was told to watch.
fn ports(host: &Host) -> Vec<u64> {
    let started = with_action(&host.records, "watch-started");
    let ports = started[0]["portreeve"]["watch"]["settings"]["ports"].as_str().unwrap();
    ports.split(',').map(|port| port.parse().unwrap()).collect()
}

/// Compares all outbound connections of a host with what these records tell.
fn judge(records: &[Value], host: &Host) -> Differences {
    let mut differences = Differences::default();
    let is_egress = |story: &Vec<Value>| story[0]["network"]["direction"] == "egress";
    let mut stories = stories(records, host);
    let own: Vec<_> = own_stories(host).into_iter().filter(is_egress).collect();
    for own in &own {
        let mut found = Differences::default();
        compare(host, own, &stories, &mut found);
        differences.add(found);
    }
    let ports = ports(host);
    stories.retain(is_egress);
    for story in stories {
        let is_known = own.iter().any(|own| pick(&own[0], ENDS) == pick(&story[0], ENDS));
        let is_watched = ports.contains(&story[0]["destination"]["port"].as_u64().unwrap());
        if is_watched && !is_known {
            differences.wrong.push(format!("{}: {}: not told inside", host.name, story[0]["message"]));
        }
    }
    differences
}

/// Holds what was told from outside of the hosts of this thread's scenario, which are gone, against what they told.
pub fn judge_scenario(name: &str) {
    let hosts = HOSTS.take();
    let (Some(outside), Some(since)) = (outside(), hosts.iter().map(|host| host.since).min()) else { return };
    let began = Instant::now();
    let Differences { less, wrong } = loop {
        let mut all = Differences::default();
        for host in &hosts {
            let records = outside.records(host.since, &format!("\"netns\":{}", host.netns));
            all.add(judge(&records, host));
        }
        let patience = if outside.gaps(since).is_empty() { PATIENCE } else { SETTLED };
        if all.less.is_empty() || began.elapsed() > patience {
            break all;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(wrong.is_empty(), "from outside:\n{}", wrong.join("\n"));
    JUDGED.lock().unwrap().extend(hosts.into_iter().map(|host| (name.to_owned(), host)));
    let gaps = outside.gaps(since);
    assert!(less.is_empty() || !gaps.is_empty(), "from outside:\n{}", less.join("\n"));
    if let (false, Some(gap)) = (less.is_empty(), gaps.last()) {
        let reason = format!("{} gaps, the last: {}; so {}", gaps.len(), gap["message"], less.join("; "));
        not_run(&format!("{name} from outside"), &reason.replace('\n', " "));
    }
}

/// When all scenarios have ended: nothing was told a second time later on, and the log is whole.
pub fn finish() {
    let Some(outside) = outside() else { return };
    std::thread::sleep(SETTLED);
    kill_process(outside.pid, Signal::TERM).unwrap();
    wait_for("the end of the watch from outside", PATIENCE, || {
        test_kill_process(outside.pid).is_err().then_some(())
    });
    let records = log::check(&read(&outside.log, 0));
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for connection in records.iter().map(|record| &record["portreeve"]["connection"]) {
        if let (Some(cookie), Some(id)) = (connection["cookie"].as_str(), connection["id"].as_str()) {
            ids.entry(cookie).or_default().insert(id);
        }
    }
    let judged = JUDGED.lock().unwrap();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut own = BTreeSet::new();
    for (scenario, host) in judged.iter() {
        let wrong = judge(&records, host).wrong;
        assert!(wrong.is_empty(), "from outside, in the end: {scenario}:\n{}", wrong.join("\n"));
        for open in stories(&records, host).into_iter().map(|mut story| story.remove(0)) {
            let connection = &open["portreeve"]["connection"];
            let same = connection["cookie"].as_str().and_then(|cookie| ids.get(cookie));
            assert!(same.is_none_or(|ids| ids.len() == 1), "one socket, several connections: {same:?}");
            own.insert(connection["id"].as_str().unwrap().to_owned());
            if open["network"]["direction"] == "egress" {
                let how = open["portreeve"]["connection"]["seen"].as_str().unwrap().to_owned();
                *seen.entry(how).or_default() += 1;
            }
        }
    }
    verify(outside, &records, &own);
    print(&format!("from outside: {seen:?} of {} hosts", judged.len()));
}

/// No rule of the log is broken by what is told of these connections: others are other tests'.
fn verify(outside: &Outside, records: &[Value], own: &BTreeSet<String>) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), outside.log.as_raw_fd());
    let verified = output(Command::new(env!("CARGO_BIN_EXE_portreeve")).arg("verify").arg(path));
    let said = String::from_utf8(verified.stdout).unwrap();
    for line in said.lines().filter(|line| line.starts_with('V')) {
        let number =
            line.split(" record ").nth(1).and_then(|tail| tail.split(':').next()?.parse::<usize>().ok());
        let Some(record) = number.and_then(|number| records.get(number - 1)) else { panic!("{said}") };
        let connection = &record["portreeve"]["connection"];
        if connection["id"].as_str().is_none_or(|id| own.contains(id)) {
            let ends = |other: &&Value| {
                other["portreeve"]["connection"]["netns"] == connection["netns"]
                    && pick(other, ENDS) == pick(record, ENDS)
            };
            let same: Vec<_> = records.iter().filter(ends).cloned().collect();
            panic!("{line}\n{}", lines(&same));
        }
    }
}
