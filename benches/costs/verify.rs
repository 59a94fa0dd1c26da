//! What checking a log costs, beside reading its lines into a SHA-256.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::cage::MEMORY;
use crate::figures::{Spread, number, thousands};
use crate::goals::Goal;
use crate::memory::peak_mib;
use crate::plan::Plan;
use crate::tables::Table;
use crate::watch::{EXECUTABLE, Who};

/// Times of a reading of lines into one SHA-256.
const TIMES: f64 = 2.0;
/// Connections that are open at once.
const LIVE: usize = 200;
/// Records a second: a coverage record comes with every minute's last.
const RATE: u64 = 100;
/// 2026-11-20T12:00:00Z
const BEGIN: i64 = 1_795_176_000;

pub fn run(plan: &Plan) -> Vec<Goal> {
    let path = PathBuf::from(MEMORY).join("verify.jsonl");
    eprintln!("verify: making {} records", thousands(plan.records));
    let bytes = make(&path, plan.records);
    let mut floor = Vec::new();
    let mut ours = Vec::new();
    let mut peak = 0.0_f64;
    for _ in 0..plan.repeats + 1 {
        floor.push(timed(|| hash(&path)));
        let began = Instant::now();
        peak = peak.max(verify(&path));
        ours.push(began.elapsed().as_secs_f64());
    }
    let _ = std::fs::remove_file(&path);
    let (floor, ours) = (Spread::of(floor), Spread::of(ours));
    let title =
        format!("Checking a log of {} records, {} MB", thousands(plan.records), thousands(bytes / 1_000_000));
    let mut table = Table::new(&title, ["", "seconds", "MB a second", "peak MiB"].map(str::to_owned));
    let rate = |seconds: f64| number(bytes as f64 / 1e6 / seconds);
    table.row("its lines into one SHA-256", [floor.show(), rate(floor.median()), "-".to_owned()]);
    table.row("portreeve verify", [ours.show(), rate(ours.median()), number(peak)]);
    table.print(plan.markdown);
    let times = ours.median() / floor.median();
    let goal = Goal::new(
        "checking a log, times of reading its lines into a SHA-256",
        &number(TIMES),
        number(times),
        times <= TIMES,
    );
    vec![goal.beside(Who::Floor, "1".to_owned())]
}

fn timed(mut what: impl FnMut()) -> f64 {
    let began = Instant::now();
    what();
    began.elapsed().as_secs_f64()
}

fn hash(path: &Path) {
    let mut reader = BufReader::with_capacity(512 * 1024, File::open(path).unwrap());
    let (mut line, mut hash) = (Vec::new(), Sha256::new());
    while reader.read_until(b'\n', &mut line).unwrap() > 0 {
        hash.update(&line);
        line.clear();
    }
    std::hint::black_box(hash.finalize());
}

/// Answers the most memory that it had.
fn verify(path: &Path) -> f64 {
    let mut child = Command::new(EXECUTABLE).arg("verify").arg(path).stdout(Stdio::piped()).spawn().unwrap();
    let (mut peak, status) = (0.0_f64, format!("/proc/{}/status", child.id()));
    loop {
        if let Some(ended) = child.try_wait().unwrap() {
            let mut said = String::new();
            let _ = std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut said);
            assert!(ended.success(), "the log is not good: {said}");
            return peak;
        }
        let now = peak_mib(&std::fs::read_to_string(&status).unwrap_or_default());
        peak = if now.is_nan() { peak } else { peak.max(now) };
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A log as a watch writes it: connections by ssh from a shell in an SSH session; answers its length.
fn make(path: &Path, records: u64) -> u64 {
    let mut maker = Maker {
        out: BufWriter::with_capacity(1 << 20, File::create(path).unwrap()),
        n: 0,
        chain: "0".repeat(64),
        bytes: 0,
    };
    maker.log_opened();
    maker.started();
    let mut open = VecDeque::new();
    let [mut opens, mut closes] = [0, 0];
    while maker.n < records {
        if maker.n.is_multiple_of(RATE * 60) || maker.n + 1 == records {
            maker.coverage([opens, closes, open.len() as u64]);
            [opens, closes] = [0, 0];
        } else if open.len() < LIVE {
            open.push_back(maker.n + 1);
            maker.opened();
            opens += 1;
        } else if let Some(first) = open.pop_front() {
            maker.closed(first);
            closes += 1;
        }
    }
    maker.out.flush().unwrap();
    maker.bytes
}

struct Maker {
    out: BufWriter<File>,
    n: u64,
    chain: String,
    bytes: u64,
}

/// What a record tells beside what all do.
struct Told<'a> {
    action: &'a str,
    labels: &'a str,
    dataset: &'a str,
    host: &'a str,
    fields: &'a str,
    own: &'a str,
    event: &'a str,
}

fn time(n: u64, decimals: usize) -> String {
    let at = jiff::Timestamp::from_microsecond(BEGIN * 1_000_000 + micros(n) as i64).unwrap();
    format!("{at:.decimals$}")
}

/// Since the beginning.
fn micros(n: u64) -> u64 {
    n * 1_000_000 / RATE
}

fn id(n: u64, kind: u64) -> uuid::Uuid {
    let millis = u128::from(BEGIN as u64 * 1_000 + micros(n) / 1_000);
    uuid::Uuid::from_u128(millis << 80 | 7 << 76 | 2 << 62 | u128::from(kind) << 48 | u128::from(n))
}

const INFO: &str = r#""kind":"state","category":["host"],"type":["info"],"outcome":"success""#;
const START: &str = r#""kind":"state","category":["host"],"type":["start"],"outcome":"success""#;
const METRIC: &str = r#""kind":"metric","category":["host"],"type":["info"],"outcome":"success""#;
const OPEN: &str =
    r#""kind":"event","category":["network"],"type":["connection","start"],"outcome":"success""#;
const CLOSE: &str =
    r#""kind":"event","category":["network"],"type":["connection","end"],"outcome":"success""#;

impl Maker {
    fn record(&mut self, told: &Told<'_>) {
        let Told { action, labels, dataset, host, fields, own, event } = told;
        self.n += 1;
        let n = self.n;
        let (at, run, stream, record) = (time(n, 6), id(0, 1), id(0, 2), id(n, 3));
        let boottime = micros(n) + 1_000_000_000;
        let version = env!("CARGO_PKG_VERSION");
        let line = format!(
            r#"{{"@timestamp":"{at}","message":"{action}  alice@pts/3  192.0.2.10:51514 \u2192 203.0.113.7:22  ssh[4242] \u2190 bash[4100] \u2190 sshd[900] \u2190 systemd[1]  ssh -p 22 git.example.net","ecs":{{"version":"9.4.0"}},"agent":{{"ephemeral_id":"{run}","id":"{stream}","type":"portreeve","version":"{version}"}},"host":{{"boot":{{"id":"71756a33-9dac-4239-980c-c62343cf5dac"}},"name":"host.example"{host}}},{fields}"portreeve":{{{own},"boottime_us":{boottime},"schema":1}},"event":{{"action":"{action}",{labels},{event}"id":"{record}","provider":"portreeve","dataset":"portreeve.{dataset}","sequence":{n}}}"#
        );
        let digest = Sha256::new().chain_update(&self.chain).chain_update(&line).finalize();
        self.chain = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let line = format!("{line},\"chain\":\"{}\"}}\n", self.chain);
        self.bytes += line.len() as u64;
        self.out.write_all(line.as_bytes()).unwrap();
    }

    fn log_opened(&mut self) {
        let chain = &self.chain;
        let own =
            format!(r#""log":{{"continues":{{"chain":"{chain}","sequence":0}},"path":"verify.jsonl"}}"#);
        let (action, labels, dataset) = ("log-opened", INFO, "watch");
        self.record(&Told { action, labels, dataset, host: "", fields: "", own: &own, event: "" });
    }

    fn started(&mut self) {
        let own = format!(
            r#""watch":{{"capabilities":["CAP_SYS_PTRACE"],"events":{{"destroy":"on"}},"executable_sha256":"{}","namespaces":1,"netns_scope":"all","owners":"all","settings":{{"interval":"50ms","ports":"22"}},"source":"netlink","source_reason":"cheaper","stream":"new","uid":990,"warnings":[]}}"#,
            self.chain,
        );
        let (action, labels, dataset) = ("watch-started", START, "watch");
        let host = r#","os":{"type":"linux"}"#;
        self.record(&Told { action, labels, dataset, host, fields: "", own: &own, event: "" });
    }

    fn coverage(&mut self, [opens, closes, live]: [u64; 3]) {
        let spread = r#"{"count":1200,"max":60671,"p50":50175,"p99":54015}"#;
        let own = format!(
            r#""coverage":{{"accounted":3,"agrees":true,"attribution_latency_us":{spread},"closes":{closes},"comparable":true,"failed_reads":0,"kernel":{{"active_opens":3,"attempt_fails":1}},"late":0,"live":{live},"lookups":4,"lost":{{"destroy":0,"proc":0,"syn":0}},"missed_at_most":0,"namespaces":1,"namespaces_left_out":0,"opens":{opens},"poll_interval_us":{spread},"polls":1200,"reads":60,"seen":{{"syn":2}},"unattributed":{{}},"unmatched":1}}"#
        );
        let (action, labels, dataset) = ("coverage", METRIC, "watch");
        self.record(&Told { action, labels, dataset, host: "", fields: "", own: &own, event: "" });
    }

    fn opened(&mut self) {
        let n = self.n + 1;
        let (fields, own) = (who(n, ""), connection(n, ""));
        let event = format!(r#""start":"{}","#, time(n, 6));
        let (action, labels, dataset) = ("connection-opened", OPEN, "connection");
        self.record(&Told { action, labels, dataset, host: "", fields: &fields, own: &own, event: &event });
    }

    fn closed(&mut self, first: u64) {
        let n = self.n + 1;
        let (start, end, nanos) = (time(first, 6), time(n, 6), (micros(n) - micros(first)) * 1_000);
        let close = format!(
            r#""close":{{"bytes_exact":true,"exact":true,"gone_by":"{end}","last_seen":"{end}","reason":"closed"}},"#
        );
        let (fields, own) = (who(first, r#""bytes":4689,"#), connection(first, &close));
        let event = format!(r#""reason":"closed","start":"{start}","end":"{end}","duration":{nanos},"#);
        let (action, labels, dataset) = ("connection-closed", CLOSE, "connection");
        self.record(&Told { action, labels, dataset, host: "", fields: &fields, own: &own, event: &event });
    }
}

/// Both ends and the owner of the connection that this record opened.
fn who(first: u64, bytes: &str) -> String {
    let (born, older, port) = (time(first, 2), time(0, 2), 20_000 + first % 40_000);
    format!(
        r#""destination":{{{bytes}"ip":"203.0.113.7","port":22}},"group":{{"id":"1000"}},"network":{{"community_id":"1:HYqrS5H52pMcZ2VAiJvikFzG9dY=","direction":"egress","transport":"tcp","type":"ipv4"}},"process":{{"args":["ssh","-p","22","git.example.net","git-upload-pack 'project/repository.git'"],"args_count":5,"cgroup":"/user.slice/user-1000.slice/session-3.scope","command_line":"ssh -p 22 git.example.net \"git-upload-pack 'project/repository.git'\"","entity_id":"71756a33-9dac-4239-980c-c62343cf5dac-4242-{first}-123456","executable":"/usr/bin/ssh","name":"ssh","parent":{{"args":["bash"],"command_line":"bash","executable":"/usr/bin/bash","name":"bash","pid":4100,"start":"{older}"}},"pid":4242,"start":"{born}","tty":{{"char_device":{{"major":136,"minor":3}},"name":"pts/3"}},"working_directory":"/home/alice/project"}},"service":{{"name":"session-3.scope"}},"source":{{{bytes}"ip":"192.0.2.10","port":{port}}},"user":{{"id":"1000","name":"alice"}},"#
    )
}

/// What stands under `portreeve`.
fn connection(first: u64, close: &str) -> String {
    let older = time(0, 2);
    let chain = [(4_100, "bash"), (4_090, "sshd"), (4_080, "sshd"), (900, "sshd"), (1, "systemd")].map(|(pid, name)| {
        format!(
            r#"{{"command_line":"{name}: alice@pts/3","executable":"/usr/sbin/{name}","name":"{name}","pid":{pid},"start":"{older}","user":"alice"}}"#
        )
    });
    let (chain, id) = (chain.join(","), id(first, 4));
    format!(
        r#""ancestry":[{chain}],"attribution":{{"holders":[4242],"latency_us":312,"status":"owned"}},{close}"connection":{{"cookie":"{}","id":"{id}","inode":{},"netns":4026531840,"seen":"poll","state":"established"}},"login":{{"name":"alice","session":3,"uid":1000}}"#,
        first + 5_000_000,
        first + 22_000_000,
    )
}
