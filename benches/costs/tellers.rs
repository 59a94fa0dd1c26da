//! Who tells of connections to port 22 while they are made: portreeve by its sources, programs in the kernel, conntrack.
//!
//! Each is tried first: what does not run here is named, with its own last words, and left out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::watch::{self, EXECUTABLE, Log, Rights, Running, Watcher, Who, installed};

/// The table that is made in the firewall of the run's own namespace, and removed again.
const TABLE: &str = "costs";

/// As little as makes the kernel track connections.
const TRACKING: &str =
    "table inet costs { chain output { type filter hook output priority 0; ct state new counter; }; }";

/// What a peer may take from its start to its first line: bcc compiles.
const PATIENCE: Duration = Duration::from_secs(25);

/// What its line says.
#[derive(Clone, Copy, PartialEq)]
pub enum Tells {
    Opening,
    End,
}

/// The fields of tcpconnect, by the tracepoint: for kernels without kprobes, and with the port's filter in the kernel. The
/// local port is there for sockets that were bound before, as those of the load are.
const CONNECTS: &str = r#"tracepoint:sock:inet_sock_set_state
/args->newstate == 2 && args->protocol == 6 && args->dport == 22/ {
    printf("%d %s %s %d %s %d\n", pid, comm, ntop(2, args->saddr), args->sport, ntop(2, args->daddr), args->dport);
}"#;

/// Those of tcplife, likewise.
const LIVES: &str = r#"tracepoint:sock:inet_sock_set_state
/args->protocol == 6 && args->dport == 22/ {
    if (args->newstate == 2) {
        @birth[args->skaddr] = nsecs;
        @pid[args->skaddr] = pid;
        @comm[args->skaddr] = comm;
    }
    if (args->newstate == 7 && @birth[args->skaddr]) {
        $tcp = (struct tcp_sock *)args->skaddr;
        printf("%d %s %s %d %s %d ", @pid[args->skaddr], @comm[args->skaddr], ntop(2, args->saddr), args->sport,
            ntop(2, args->daddr), args->dport);
        printf("%d %d %d\n", $tcp->bytes_acked / 1024, $tcp->bytes_received / 1024,
            (nsecs - @birth[args->skaddr]) / 1000000);
        delete(@birth[args->skaddr]);
        delete(@pid[args->skaddr]);
        delete(@comm[args->skaddr]);
    }
}"#;

#[derive(Clone)]
pub struct Teller {
    pub name: String,
    pub tells: Tells,
    /// It is told of UDP flows too.
    pub has_udp: bool,
    /// `None`: the rule alone.
    pub watcher: Option<Watcher>,
    /// For `nft -f -`.
    rule: Option<String>,
}

impl Teller {
    fn new(watcher: Watcher, tells: Tells) -> Self {
        Self {
            name: watcher.name.clone(),
            tells,
            has_udp: watcher.name.contains("tcp,udp"),
            watcher: Some(watcher.tethered()),
            rule: None,
        }
    }

    fn own(options: &[&str]) -> Option<Self> {
        // Other namespaces of the machine are none of this run's.
        let options: Vec<&str> = ["--netns", "own"].iter().chain(options).copied().collect();
        Some(Self::new(watch::portreeve_with(Rights::Root, &options)?, Tells::Opening))
    }

    fn with_rule(self, rule: &str) -> Self {
        Self { rule: Some(rule.to_owned()), ..self }
    }

    pub fn who(&self) -> Option<Who> {
        self.watcher.as_ref().map(|watcher| watcher.who)
    }

    /// Makes its rule, if it needs one: that stands until the answer is dropped.
    pub fn rule(&self) -> Result<Option<Rule>, String> {
        self.rule.as_deref().map(Rule::add).transpose()
    }

    /// Starts it, and waits until `heard` has a line of a connection from one of the ports that it is given.
    pub fn start(&self, stdout: Stdio, heard: impl Fn(&[u16]) -> bool) -> Result<Standing, String> {
        let rule = self.rule()?;
        let watcher = self.watcher.as_ref().ok_or("there is nobody to start")?;
        let said = Log::new();
        let mut running = watcher.start_with(stdout, said.stdout());
        let (began, mut ports) = (Instant::now(), Vec::new());
        while !heard(&ports) {
            let ended = running.child.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > PATIENCE {
                running.stop();
                return Err(last_words(&said, ended.is_some()));
            }
            ports.push(knock());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Standing { running, _rule: rule })
    }

    /// The same with its output in a log.
    pub fn start_into(&self, log: &Log) -> Result<Standing, String> {
        self.start(log.stdout(), |ports| {
            let told = |line: String| Told::read(&line).is_some_and(|told| ports.contains(&told.near.port()));
            log.lines().any(told)
        })
    }
}

fn last_words(said: &Log, has_ended: bool) -> String {
    let text = said.read();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let last = lines().rfind(|line| line.contains("rror")).or_else(|| lines().next_back());
    let what = if has_ended { "it ended" } else { "it told nothing" };
    last.map_or_else(|| what.to_owned(), |last| format!("{what}: {last}"))
}

/// A watcher that has told of a connection.
pub struct Standing {
    pub running: Running,
    _rule: Option<Rule>,
}

/// Removed when dropped.
pub struct Rule;

impl Rule {
    fn add(text: &str) -> Result<Self, String> {
        if !installed("nft") {
            return Err("nft (nftables) is not installed".to_owned());
        }
        let output = Command::new("nft").arg(text).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(Self)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        let _ = Command::new("nft").args(["delete", "table", "inet", TABLE]).status();
    }
}

/// A connection to port 22 that is reset at once: its local port.
fn knock() -> u16 {
    static PORTS: AtomicU16 = AtomicU16::new(0);
    // In front of those of `Visits::pass`, whose names nobody else may bear.
    let port = 5_000 + PORTS.fetch_add(1, Ordering::Relaxed) % 5_000;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("a free port");
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, 22)).into()).expect("the server on port 22");
    set_socket_linger(&socket, Some(Duration::ZERO)).expect("an option");
    port
}

/// What a line says of a connection to port 22.
#[derive(PartialEq, Eq, Hash)]
pub struct Told {
    pub near: SocketAddr,
    pub far: SocketAddr,
    pub pid: Option<u32>,
}

impl Told {
    /// `None`: the line is about something else, or the other end's.
    pub fn read(line: &str) -> Option<Self> {
        let told = if line.starts_with('{') {
            Self::of_record(line)
        } else if line.contains("src=") {
            Self::of_conntrack(line)
        } else {
            Self::of_columns(line)
        };
        told.filter(|told| told.far.port() == 22)
    }

    fn of_record(line: &str) -> Option<Self> {
        let record: Value = serde_json::from_str(line).ok()?;
        let end = |side: &str| {
            let ip = record.pointer(&format!("/{side}/ip"))?.as_str()?.parse().ok()?;
            Some(SocketAddr::new(ip, record.pointer(&format!("/{side}/port"))?.as_u64()? as u16))
        };
        let pid = record.pointer("/process/pid").and_then(Value::as_u64).map(|pid| pid as u32);
        Some(Self { near: end("source")?, far: end("destination")?, pid })
    }

    /// The first of each are those of the way there.
    fn of_conntrack(line: &str) -> Option<Self> {
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        let end = |ip, port| Some(SocketAddr::new(word(ip)?.parse().ok()?, word(port)?.parse().ok()?));
        Some(Self { near: end("src=", "sport=")?, far: end("dst=", "dport=")?, pid: None })
    }

    /// Somewhere in the line stand an address and a port, twice; the first number is the process.
    fn of_columns(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let end =
            |words: &[&str]| Some(SocketAddr::new(words[0].parse::<IpAddr>().ok()?, words[1].parse().ok()?));
        let (near, far) = words.windows(4).find_map(|four| Some((end(&four[..2])?, end(&four[2..])?)))?;
        Some(Self { near, far, pid: words.iter().find_map(|word| word.parse().ok()) })
    }
}

/// Who tells, in the order of the tables: portreeve's sources, then the peers that run here.
pub fn all() -> Vec<Teller> {
    TRIED.iter().filter_map(|(_, tried)| tried.as_ref().ok().cloned()).collect()
}

/// Those that tell of connections alone.
pub fn of_connections() -> Vec<Teller> {
    all().into_iter().filter(|teller| !teller.has_udp).collect()
}

/// What does not run here, loudly, below each table that lacks it.
pub fn print_missing() {
    println!();
    for (name, tried) in TRIED.iter() {
        if let Err(reason) = tried {
            println!("  NOT RUN: {name}: {reason}");
        }
    }
}

/// A rule by itself, for each that needs one.
pub fn rules() -> Vec<Teller> {
    let alone = |name: &str, rule: String| {
        let teller = Teller {
            name: name.to_owned(),
            tells: Tells::Opening,
            has_udp: false,
            watcher: None,
            rule: Some(rule),
        };
        teller.rule().is_ok().then_some(teller)
    };
    let rules = [
        alone("nft rule for nflog, alone", logging()),
        alone("nft rule with ct state, alone", TRACKING.to_owned()),
    ];
    rules.into_iter().flatten().collect()
}

/// As `portreeve rule nflog` prints it, in this run's table.
fn logging() -> String {
    let output =
        Command::new(EXECUTABLE).args(["rule", "nflog", "--group", "22"]).output().expect("portreeve rule");
    let text = String::from_utf8_lossy(&output.stdout);
    let table = text.rsplit_once("table inet portreeve").map_or("", |(_, table)| table);
    format!("table inet {TABLE}{}", table.replace('\n', ";").replace("{;", "{").replace(";;", ";"))
}

type Tried = (String, Result<Teller, String>);

static TRIED: LazyLock<Vec<Tried>> = LazyLock::new(|| {
    let own = [
        &["--events", "ebpf"][..],
        &["--events", "ebpf", "--transport", "tcp,udp"],
        &["--events", "auto"],
        &["--events", "destroy,syn"],
    ];
    let mut tried: Vec<Tried> = own.into_iter().filter_map(Teller::own).map(try_out).collect();
    if let Some(teller) = Teller::own(&["--events", "nflog:22"]) {
        tried.push(try_out(teller.with_rule(&logging())));
    }
    tried.extend(bpftrace());
    tried.extend(bcc());
    tried.push(conntrack());
    tried
});

fn absent(name: &str, package: &str) -> Tried {
    (name.to_owned(), Err(format!("not installed (Debian: {package})")))
}

fn bpftrace() -> Vec<Tried> {
    let names = ["tcpconnect by the tracepoint", "tcplife by the tracepoint", "tcpconnect.bt", "tcplife.bt"];
    let script = |tool: &str| {
        ["/usr/sbin", "/usr/share/bpftrace/tools"]
            .map(|folder| format!("{folder}/{tool}"))
            .into_iter()
            .find(|path| Path::new(path).is_file())
    };
    let argv = |name: &str| match name {
        "tcpconnect by the tracepoint" => Some(["-e".to_owned(), CONNECTS.to_owned()].to_vec()),
        "tcplife by the tracepoint" => Some(["-e".to_owned(), LIVES.to_owned()].to_vec()),
        tool => script(tool).map(|path| vec![path]),
    };
    let teller = |name: &str| {
        let full = format!("bpftrace, {name}");
        let Some(argv) = argv(name).filter(|_| installed("bpftrace")) else {
            return absent(&full, "bpftrace");
        };
        let argv = ["bpftrace", "-B", "line"].map(str::to_owned).into_iter().chain(argv);
        let tells = if name.starts_with("tcplife") { Tells::End } else { Tells::Opening };
        try_out(Teller::new(Watcher::new(&full, Who::Tracer, argv), tells))
    };
    names.into_iter().map(teller).collect()
}

fn bcc() -> Vec<Tried> {
    let tools = [("tcpconnect", "-LP 22", Tells::Opening), ("tcplife", "-D 22", Tells::End)];
    let teller = |(tool, options, tells): (&str, &str, Tells)| {
        let name = format!("bcc, {tool} {options}");
        let found = [format!("{tool}-bpfcc"), format!("/usr/share/bcc/tools/{tool}")];
        let Some(path) = found.iter().find(|path| installed(path)) else {
            return absent(&name, "bpfcc-tools");
        };
        let argv = ["env", "PYTHONUNBUFFERED=1", path].into_iter().chain(options.split(' '));
        try_out(Teller::new(Watcher::new(&name, Who::Tracer, argv), tells))
    };
    tools.into_iter().map(teller).collect()
}

fn conntrack() -> Tried {
    let name = "conntrack -E -p tcp --orig-port-dst 22";
    if !installed("conntrack") {
        return absent(name, "conntrack");
    }
    let watcher = Watcher::new(name, Who::Conntrack, name.split(' '));
    try_out(Teller::new(watcher, Tells::Opening).with_rule(TRACKING))
}

/// Starts it once.
fn try_out(teller: Teller) -> Tried {
    eprintln!("trying {}", teller.name);
    let log = Log::new();
    let started = teller.start_into(&log).map(|standing| {
        standing.running.stop();
    });
    // Where the source is off, that is why nothing was told.
    let off = if teller.name.contains("--events ebpf") { ebpf_is_off(&log) } else { None };
    let tried = off.map_or(started, Err);
    if let Err(reason) = &tried {
        eprintln!("costs: NOT RUN: {}: {reason}", teller.name);
    }
    (teller.name.clone(), tried.map(|()| teller))
}

/// Why, as the first record of a watch says it.
fn ebpf_is_off(log: &Log) -> Option<String> {
    let line = log.lines().find(|line| line.contains("\"watch-started\""))?;
    let record: Value = serde_json::from_str(&line).ok()?;
    let state = record.pointer("/portreeve/watch/events/ebpf")?.as_str()?;
    (state != "on").then(|| format!("ebpf is {state}"))
}
