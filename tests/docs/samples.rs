//! Records of every kind with every field that can be set, made by the library itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use portreeve::cli::Cli;
use portreeve::connection::{
    CloseReason, Connection, Cookie, Direction, Inode, Moment, Netns, Seen, TcpState, Transport, Tuple,
};
use portreeve::event::{
    Actor, Bytes, Coverage, Ending, Event, FileChanged, Gap, Host, KernelCounts, Packets, Percentiles,
    ProcessEnd, ProcessFate, Renderer, Seal, Started, Unseen, What,
};
use portreeve::files::{Change, Witness};
use portreeve::process::{
    Asker, Attribution, ChainCut, Departed, FileId, Hash, HashReason, Holder, Ids, Lineage, Login, Process,
    Reason, Tty,
};
use portreeve::sink::Stream;
use portreeve::source::Kind;
use portreeve::source::poll::Source;
use portreeve::ssh::{Forwards, Meaning, Route, TOOLS};
use portreeve::way::{Evidence, Kind as Origins, Origin, Way};
use serde_json::Value;
use uuid::Uuid;

/// All samples, as a log holds them.
pub fn log() -> String {
    let mut renderer = Renderer::new(host(), "stream".into(), "run".into(), Box::new(|_| Uuid::nil()));
    let mut stream = Stream::default();
    let mut log = Vec::new();
    for event in events() {
        let sealed = stream.seal(&renderer.render(&event).json);
        log.extend_from_slice(&sealed.line);
        stream.commit(&sealed);
    }
    String::from_utf8(log).unwrap()
}

/// All samples, parsed.
pub fn records() -> Vec<Value> {
    log().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All samples as text.
pub fn messages() -> Vec<String> {
    events().iter().map(portreeve::event::message::message).collect()
}

/// Of a close that tells all it can.
fn ending() -> Ending {
    Ending {
        reason: CloseReason::Closed,
        success: Some(true),
        last_seen: Some(moment(1)),
        gone_by: moment(2),
        exact: true,
        bytes: Some(Bytes {
            sent: Some(1_000),
            received: 2_000,
            exact: true,
            packets: Some(Packets { sent: 3, received: 2 }),
        }),
    }
}

/// One event of every kind at least; those with optional parts with all of them, and with none.
pub fn events() -> Vec<Event> {
    let owned = || Arc::new(connection(owner(process(4242), Some(ChainCut::Vanished))));
    let unknown = || Arc::new(connection(Attribution::Unknown(Reason::Denied)));
    let audited = |has_parent| {
        let mut connection = connection(departed(has_parent));
        connection.tuple.local.set_port(0);
        Arc::new(connection)
    };
    let mut long = process(4243);
    long.args = vec![vec![0xff; 4_096]];
    let ending = ending();
    let gap = Gap {
        cause: "backlog_full",
        from: moment(1),
        to: moment(2),
        count: Some(7),
        detail: Some("full".into()),
        lost: BTreeMap::from([("connection-opened", 7)]),
    };
    let path = || "/var/log/portreeve/events.jsonl".to_owned();
    let all = [
        What::LogOpened {
            path: path(),
            previous: Some("64512:13".to_owned()),
            sequence: 3,
            chain: "0".repeat(64),
        },
        What::LogRepaired { path: path(), offset: 6, bytes: 6 },
        What::Started(Box::new(started())),
        What::Opened(owned()),
        What::Opened(unknown()),
        What::Opened(Arc::new(connection(owner(long, None)))),
        What::Opened(audited(true)),
        What::Opened(audited(false)),
        What::Changed { connection: owned(), changed: vec!["process", "portreeve.attribution"] },
        What::Closed { connection: owned(), ending },
        What::Multiplexed(owned()),
        What::Opened(Arc::new(Connection {
            direction: Direction::Ingress,
            ..connection(owner(process(7), None))
        })),
        What::Opened(Arc::new(Connection {
            transport: Transport::Udp,
            ..connection(owner(process(7), None))
        })),
        What::Gap(Box::new(gap)),
        What::Coverage(Box::new(coverage())),
        reloaded(Ok(vec!["ports".to_owned()])),
        reloaded(Err("line 2".to_owned())),
        What::ClockStepped { by_us: -3_600_000_000 },
        What::Sealed(Box::new(seal())),
        What::Stopped { reason: "SIGTERM".to_owned(), totals: Box::default() },
    ];
    all.into_iter().chain(of_processes()).map(|what| Event { at: moment(3), what }).collect()
}

fn reloaded(outcome: Result<Vec<String>, String>) -> What {
    let Started { settings, events, .. } = started();
    What::Reloaded { outcome, settings, events }
}

/// Every way to be seen first. A new one breaks the build here.
fn sights() -> Vec<&'static str> {
    let name = |seen: Seen| match seen {
        Seen::Poll
        | Seen::Start
        | Seen::TimeWait
        | Seen::Syn
        | Seen::Nflog
        | Seen::Audit
        | Seen::Destroy
        | Seen::Ebpf => seen.name(),
    };
    let all = [
        Seen::Poll,
        Seen::Start,
        Seen::TimeWait,
        Seen::Syn,
        Seen::Nflog,
        Seen::Audit,
        Seen::Destroy,
        Seen::Ebpf,
    ];
    all.map(name).to_vec()
}

/// Every reason to name nobody, likewise.
fn unknowns() -> Vec<&'static str> {
    let name = |reason: Reason| match reason {
        Reason::NoHolder
        | Reason::HolderVanished
        | Reason::Denied
        | Reason::Timeout
        | Reason::TimeWait
        | Reason::Budget
        | Reason::InFlight => reason.name(),
    };
    let all = [
        Reason::NoHolder,
        Reason::HolderVanished,
        Reason::Denied,
        Reason::Timeout,
        Reason::TimeWait,
        Reason::Budget,
        Reason::InFlight,
    ];
    all.map(name).to_vec()
}

/// Every reason for which there is no hash, likewise.
fn unhashed() -> Vec<&'static str> {
    let name = |reason: HashReason| match reason {
        HashReason::Denied
        | HashReason::TooLarge
        | HashReason::Vanished
        | HashReason::Timeout
        | HashReason::Changed
        | HashReason::Busy
        | HashReason::Failed => reason.name(),
    };
    let none = FileId { device: (0, 0), inode: 1, modified: (0, 0), changed: (0, 0), size: 0 };
    let all = [
        HashReason::Denied,
        HashReason::TooLarge,
        HashReason::Vanished,
        HashReason::Timeout,
        HashReason::Changed,
        HashReason::Busy,
        HashReason::Failed,
    ];
    Hash::Pending(none).reason().into_iter().chain(all.map(name)).collect()
}

/// Fields that hold one of a few values, and all of these. A new value breaks the build here.
pub fn closed_sets() -> Vec<(&'static str, Vec<&'static str>)> {
    let why = |reason| match reason {
        CloseReason::Closed
        | CloseReason::Reset
        | CloseReason::Failed
        | CloseReason::Cancelled
        | CloseReason::Refused
        | CloseReason::TimedOut
        | CloseReason::Unreachable
        | CloseReason::Idle
        | CloseReason::OutOfScope
        | CloseReason::WhileDown
        | CloseReason::Reboot => reason.name(),
    };
    let cut = |cut| match cut {
        ChainCut::Vanished | ChainCut::TooLong => cut.name(),
    };
    let reasons = [
        CloseReason::Closed,
        CloseReason::Reset,
        CloseReason::Failed,
        CloseReason::Cancelled,
        CloseReason::Refused,
        CloseReason::TimedOut,
        CloseReason::Unreachable,
        CloseReason::Idle,
        CloseReason::WhileDown,
        CloseReason::Reboot,
        CloseReason::OutOfScope,
    ];
    // A connection that we opened and that has a row is in none of the others.
    let states = [1, 2, 4, 5, 6, 7, 8, 9, 11, 99].map(|number| TcpState::from_number(number).name());
    let mut sets = vec![
        ("portreeve.close.reason", reasons.map(why).to_vec()),
        ("portreeve.attribution.reason", unknowns()),
        ("portreeve.process.end", fates()),
        ("portreeve.hash.reason", unhashed()),
        ("portreeve.ancestry_cut", [ChainCut::Vanished, ChainCut::TooLong].map(cut).to_vec()),
        ("portreeve.connection.seen", sights()),
        ("portreeve.connection.state", states.to_vec()),
        ("portreeve.attribution.evidence", vec!["audit"]),
        ("portreeve.attribution.status", vec!["owned", "shared", "unknown"]),
        (
            "network.transport",
            [Transport::Tcp, Transport::Udp].iter().filter_map(|transport| transport.name()).collect(),
        ),
        ("network.direction", [Direction::Egress, Direction::Ingress].map(Direction::name).to_vec()),
        ("portreeve.route", Route::ALL.map(Route::name).to_vec()),
        ("portreeve.origin.kind", Origins::ALL.map(Origins::name).to_vec()),
        ("portreeve.origin.evidence", Evidence::ALL.map(Evidence::name).to_vec()),
        ("portreeve.ssh.tool", TOOLS.to_vec()),
        ("event.outcome", vec!["success", "failure", "unknown"]),
    ];
    sets.extend(of_files());
    sets
}

/// A minute in which everything happened that is counted.
fn coverage() -> Coverage {
    let each = |names: Vec<&'static str>| names.into_iter().map(|name| (name, 1)).collect::<BTreeMap<_, _>>();
    let percentiles = Percentiles { count: 5, p50: 1, p99: 2, max: 3 };
    Coverage {
        span: Some((moment(0), moment(60))),
        seen: each(sights()),
        unattributed: each(unknowns()),
        attribution_latency_us: percentiles,
        poll_interval_us: percentiles,
        kernel: KernelCounts { active_opens: 5, attempt_fails: 1 },
        comparable: true,
        accounted: Some(5),
        missed_at_most: Some(0),
        agrees: Some(true),
        lost: each(Kind::ALL.map(Kind::name).to_vec()),
        ..Coverage::default()
    }
}

fn moment(seconds: i64) -> Moment {
    let wall = jiff::Timestamp::from_second(1_795_182_170 + seconds).unwrap();
    Moment { wall, boot: Duration::from_secs(3_600) + Duration::from_secs(seconds.unsigned_abs()) }
}

fn host() -> Host {
    let text = |text: &str| Some(text.to_owned());
    let (boot_id, os, kernel) = (text("b"), text("Debian"), text("6.18"));
    Host { name: "web1".to_owned(), boot_id, os, kernel, ticks_per_second: 100 }
}

fn started() -> Started {
    let typed = [
        "portreeve",
        "-l",
        "/log",
        "-n",
        "3",
        "-d",
        "10m",
        "-c",
        "/dev/null",
        "--state-dir",
        "/s",
        "--seal",
        "/k",
        "--audit-log",
        "/a",
    ];
    let lists = [
        "--include",
        "10.0.0.0/8",
        "--exclude",
        "user:git",
        "--mask",
        "--pin",
        "--ignore-hash",
        "/dev/null",
        "--executions",
        "--ssh-files",
    ];
    let args = Cli::try_parse_from(typed.iter().chain(&lists)).unwrap().watch;
    Started {
        settings: portreeve::config::load(&args, None).unwrap().by_name(),
        owners: "all",
        capabilities: vec!["CAP_SYS_PTRACE".to_owned()],
        uid: 999,
        netns: Some(4_026_531_840),
        init_netns: Some(4_026_531_840),
        source: Source::Netlink.name(),
        source_reason: "as asked for".to_owned(),
        events: Kind::ALL.into_iter().map(|kind| (kind.name(), "on".to_owned())).collect(),
        netns_scope: "all",
        namespaces: 3,
        stream: "lost",
        stream_reason: Some("it is gone".to_owned()),
        previous_end: Some("clean"),
        executable_sha256: Some("0".repeat(64)),
        warnings: vec!["something".to_owned()],
    }
}

fn seal() -> Seal {
    Seal {
        epoch: 0,
        key: "0".repeat(8),
        sequence: 3,
        chain: "0".repeat(64),
        time: "2026-11-20T13:42:50.123456Z".to_owned(),
        mac: "0".repeat(64),
    }
}

fn connection(attribution: Attribution) -> Connection {
    let end = |text: &str| text.parse::<SocketAddr>().unwrap();
    Connection {
        id: Uuid::nil(),
        netns: Netns(4_026_531_840),
        inode: Inode::new(31_337),
        cookie: Cookie::new(4_097),
        transport: Transport::Tcp,
        tuple: Tuple { local: end("192.0.2.10:51514"), remote: end("203.0.113.7:22") },
        state: TcpState::Established,
        uid: Some(1_000),
        user: Some("alice".into()),
        seen: Seen::Poll,
        opened: moment(0),
        last_seen: moment(1),
        direction: Direction::Egress,
        way: attribution.owner().map(|_| Arc::new(way())),
        attribution,
    }
}

/// Of processes that are not a connection's.
fn of_processes() -> Vec<What> {
    vec![
        What::ProcessStarted(actor()),
        What::ProcessEnded(Box::new(ended(ProcessFate::Exited(255)))),
        What::ProcessEnded(Box::new(ended(ProcessFate::Killed(15)))),
        What::ProcessEnded(Box::new(ended(ProcessFate::Unknown))),
        What::FileChanged(Box::new(touched(Change::ALL.to_vec(), Ok(actor())))),
        What::FileChanged(Box::new(touched(vec![Change::Modified], Err(Unseen::NotTold)))),
    ]
}

fn ended(fate: ProcessFate) -> ProcessEnd {
    ProcessEnd { who: actor(), started: moment(1), ended: moment(2), fate, connections: 1 }
}

fn actor() -> Actor {
    Actor { lineage: lineage(process(4242), None), origin: Some(way().origin) }
}

fn touched(changes: Vec<Change>, who: Result<Actor, Unseen>) -> FileChanged {
    let path = b"/home/alice/.ssh/authorized_keys".to_vec();
    FileChanged { path, changes, by: Witness::Fanotify, repeated: 3, who }
}

/// What can be told of a file, by whom, and why nobody is named, likewise.
fn of_files() -> Vec<(&'static str, Vec<&'static str>)> {
    let by = |by: Witness| match by {
        Witness::Fanotify | Witness::Inotify | Witness::Listing => by.name(),
    };
    let why = |why: Unseen| match why {
        Unseen::NotTold | Unseen::Vanished => why.name(),
    };
    vec![
        ("portreeve.file.change", Change::ALL.map(Change::name).to_vec()),
        ("portreeve.file.source", [Witness::Fanotify, Witness::Inotify, Witness::Listing].map(by).to_vec()),
        ("portreeve.file.reason", [Unseen::NotTold, Unseen::Vanished].map(why).to_vec()),
    ]
}

/// Every way in which a program can end, likewise.
fn fates() -> Vec<&'static str> {
    let name = |fate: ProcessFate| match fate {
        ProcessFate::Exited(_) | ProcessFate::Killed(_) | ProcessFate::Executed | ProcessFate::Unknown => {
            fate.name()
        }
    };
    let all = [ProcessFate::Exited(0), ProcessFate::Killed(9), ProcessFate::Executed, ProcessFate::Unknown];
    all.map(name).to_vec()
}

/// All that can be known of a way.
fn way() -> Way {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let texts = |all: &[&str]| all.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let end = |text: &str| text.parse::<SocketAddr>().unwrap();
    let meaning = Meaning {
        target: text("alice@web1"),
        login: text("alice"),
        port: Some(2_222),
        jump: texts(&["bastion"]),
        forwards: Forwards {
            local: texts(&["8080:db:80"]),
            remote: texts(&["9090:localhost:90"]),
            dynamic: texts(&["1080"]),
            stdio: texts(&["web1:22"]),
            tunnel: texts(&["0:0"]),
        },
        subsystem: text("sftp"),
        tool: Some("scp"),
        control_path: text("/run/user/1000/cm"),
        multiplexed: true,
        destination: text("bastion"),
        ..Meaning::default()
    };
    let origin = Origin {
        kind: Origins::Ssh,
        evidence: Some(Evidence::Socket),
        inbound: Some(Tuple { local: end("192.0.2.10:22"), remote: end("198.51.100.7:50122") }),
        user: text("alice"),
        tty: text("pts/3"),
        session: Some("3".to_owned()),
        server: Some(4_000),
        connection: Some(Uuid::nil()),
    };
    Way {
        origin: Arc::new(origin),
        route: Some(Route::Jump),
        ssh: Some(Arc::new(meaning)),
        is_ssh: true,
        listening: vec![end("0.0.0.0:1080")],
    }
}

fn owner(process: Process, cut: Option<ChainCut>) -> Attribution {
    let holders = vec![Holder { pid: process.pid, tid: None, fd: 3 }];
    let lineage = lineage(process, cut);
    Attribution::Owned { lineage, holders: holders.into(), latency: Duration::from_millis(1) }
}

fn lineage(process: Process, cut: Option<ChainCut>) -> Arc<Lineage> {
    let pid = process.pid;
    let parent = Process { remembered: true, ..self::process(4_100) };
    let parents = vec![Arc::new(parent), Arc::new(self::process(1))];
    // Pid 4243 is that of the sample whose program may not be read.
    let hash = match pid {
        4243 => Hash::Unknown(HashReason::Denied),
        _ => Hash::Sha256 { digest: [7; 32], is_proven: true },
    };
    Arc::new(Lineage { process: Arc::new(process), ancestry: parents, cut, hash: Some(hash) })
}

/// By an audit record, of a process that has gone.
fn departed(has_parent: bool) -> Attribution {
    let of = process(4_242);
    let parent = Lineage {
        process: Arc::new(process(4_100)),
        ancestry: Vec::new(),
        cut: Some(ChainCut::Vanished),
        hash: None,
    };
    let departed = Departed {
        pid: of.pid,
        comm: of.comm,
        executable: of.executable,
        args: of.args,
        args_cut: has_parent,
        redacted: 1,
        tty: of.tty,
        ids: Ids { real_uid: 1_000, effective_uid: 0, real_gid: 1_000 },
        user: of.user,
        effective_user: of.effective_user,
        login: of.login,
        parent: has_parent.then(|| Arc::new(parent)),
    };
    let asker = Arc::new(Asker::Departed(Box::new(departed)));
    Attribution::Audited { asker, latency: Duration::from_millis(1) }
}

/// All that can be known of a process is known of this one.
fn process(pid: u32) -> Process {
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    Process {
        pid,
        ppid: 1,
        start_ticks: 1_000,
        pidfd_inode: Some(7),
        comm: b"ssh".to_vec(),
        executable: bytes("/usr/bin/ssh"),
        executable_deleted: true,
        args: vec![b"ssh".to_vec(), b"h".to_vec()],
        args_bytes: 9_999,
        args_cut: true,
        redacted: 1,
        working_directory: bytes("/home/alice"),
        tty: Some(Tty { major: 136, minor: 3 }),
        ids: Some(Ids { real_uid: 1_000, effective_uid: 0, real_gid: 1_000 }),
        user: Some("alice".into()),
        effective_user: Some("root".into()),
        login: Some(Login { uid: 1_001, user: Some("carol".into()), session: Some(3) }),
        cgroup: bytes("/machine.slice/machine-web.scope"),
        denied: vec!["cwd"],
        remembered: true,
    }
}
