//! A kernel's `/proc` in a folder: sockets, counters and processes that behave as the real ones, moved by hand.
//!
//! What each call does to the table, the descriptors and the counters was read in `net/ipv4/tcp*.c` and measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use portreeve::connection::{Moment, Netns};
use portreeve::ebpf::event::{Opening, Sight};
use portreeve::event::{Event, What};
use portreeve::pipeline::{Outside, Pipeline};
use portreeve::proc::Proc;
use portreeve::process::Ids;
use portreeve::secrets::Masker;
use portreeve::source::{Filter, Selection};
use tempfile::TempDir;
use uuid::Uuid;

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: u8,
    pub uid: u32,
    pub inode: u64,
    /// Hundredths of a second that TIME_WAIT will last.
    pub timewait: Option<u32>,
}

pub const ESTABLISHED: u8 = 1;
pub const SYN_SENT: u8 = 2;
pub const SYN_RECV: u8 = 3;
pub const FIN_WAIT2: u8 = 5;
pub const TIME_WAIT: u8 = 6;
pub const CLOSE: u8 = 7;
pub const CLOSE_WAIT: u8 = 8;
pub const LISTEN: u8 = 10;

/// What the kernel's own words tell of a process that connects, or sends: alice's, as `spawn` makes it.
pub fn opening(sight: Sight, pid: u32, args: &[&str]) -> Box<Opening> {
    Box::new(Opening {
        sight,
        is_attempt: false,
        socket_uid: 1_000,
        pid,
        tid: pid,
        start_ticks: 1_000 + u64::from(pid),
        pidfd_inode: None,
        ids: Ids { real_uid: 1_000, effective_uid: 1_000, real_gid: 1_000 },
        login: Some(1_000),
        session: Some(3),
        cgroup: 1,
        tty: None,
        comm: args[0].as_bytes().to_vec(),
        args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
        args_bytes: args.iter().map(|arg| arg.len() as u64 + 1).sum(),
        args_cut: false,
        args_whole: true,
        executable: Some(format!("/usr/bin/{}", args[0]).into_bytes()),
        executable_cut: false,
        executable_deleted: false,
        ancestors: Vec::new(),
    })
}

/// The folder, and what is in it.
pub struct Kernel {
    dir: TempDir,
    pub rows: Vec<Row>,
    /// Those of UDP, the unconnected ones too.
    pub flows: Vec<Row>,
    /// Datagrams sent.
    pub sent: u64,
    /// ActiveOpens, PassiveOpens, AttemptFails, EstabResets, CurrEstab.
    pub counters: [u64; 5],
    /// True: other connections' answers hide every movement of CurrEstab.
    pub frozen_level: bool,
    holders: BTreeMap<u64, (u32, u32)>,
    next_fd: u32,
}

impl Kernel {
    /// Pid 1, sshd's listener on port 22, and a shell with pid 100.
    pub fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() }.unwrap();
        fs::create_dir_all(dir.path().join("self/net")).unwrap();
        fs::create_dir_all(dir.path().join("self/ns")).unwrap();
        std::os::unix::fs::symlink("net:[4026531840]", dir.path().join("self/ns/net")).unwrap();
        let mut kernel = Self {
            dir,
            rows: Vec::new(),
            flows: Vec::new(),
            sent: 0,
            counters: [0; 5],
            frozen_level: false,
            holders: BTreeMap::new(),
            next_fd: 3,
        };
        kernel.spawn(1, 0, "systemd", &["/sbin/init"]);
        kernel.spawn(100, 1, "bash", &["-bash"]);
        kernel.write();
        kernel
    }

    pub fn proc(&self) -> Proc {
        Proc::new(self.dir.path()).unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A process of the user who runs the test: what a folder can tell.
    pub fn spawn(&mut self, pid: u32, ppid: u32, comm: &str, args: &[&str]) {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.spawn_bytes(pid, ppid, comm.as_bytes(), &args);
    }

    pub fn spawn_bytes(&mut self, pid: u32, ppid: u32, comm: &[u8], args: &[&[u8]]) {
        let dir = self.path(&pid.to_string());
        fs::create_dir_all(dir.join("fd")).unwrap();
        let mut stat = format!("{pid} (").into_bytes();
        stat.extend(comm);
        let start = 1_000 + u64::from(pid);
        stat.extend(
            format!(") S {ppid} {pid} {pid} 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0 0").bytes(),
        );
        stat.extend(b" 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
        fs::write(dir.join("stat"), stat).unwrap();
        let cmdline: Vec<u8> = args.iter().flat_map(|arg| [arg, &b"\0"[..]].concat()).collect();
        fs::write(dir.join("cmdline"), cmdline).unwrap();
        fs::write(dir.join("status"), "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\n")
            .unwrap();
        fs::write(dir.join("cgroup"), "0::/user.slice/user-1000.slice/session-3.scope\n").unwrap();
        fs::write(dir.join("loginuid"), "1000").unwrap();
        fs::write(dir.join("sessionid"), "3").unwrap();
        for (name, target) in
            [("exe", format!("/usr/bin/{}", String::from_utf8_lossy(comm))), ("cwd", "/home".into())]
        {
            let _ = fs::remove_file(dir.join(name));
            std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
        }
        fs::write(self.path("loadavg"), format!("0.00 0.00 0.00 1/9 {pid}\n")).unwrap();
    }

    /// Moves a process to another network namespace.
    pub fn move_to(&self, pid: u32, netns: u64) {
        let ns = self.path(&format!("{pid}/ns"));
        let _ = fs::remove_dir_all(&ns);
        fs::create_dir_all(&ns).unwrap();
        std::os::unix::fs::symlink(format!("net:[{netns}]"), ns.join("net")).unwrap();
    }

    /// What the namespace of a process shows through it, after so many opens.
    pub fn show(&self, pid: u32, rows: &[Row], opens: u64) {
        fs::create_dir_all(self.path(&format!("{pid}/net"))).unwrap();
        let rows: Vec<&Row> = rows.iter().collect();
        for (name, text) in
            [("snmp", counters([opens, 0, 0, 0, 1])), ("tcp", table(&rows)), ("tcp6", table(&[]))]
        {
            fs::write(self.path(&format!("{pid}/net/{name}")), text).unwrap();
        }
    }

    pub fn exit(&mut self, pid: u32) {
        fs::remove_dir_all(self.path(&pid.to_string())).unwrap();
        self.holders.retain(|_, (holder, _)| *holder != pid);
    }

    pub fn listen(&mut self, local: &str, inode: u64) {
        let any = if local.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        self.add(local, any, LISTEN, inode);
    }

    fn add(&mut self, local: &str, remote: &str, state: u8, inode: u64) {
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        self.rows.push(Row { local, remote, state, uid: 1000, inode, timewait: None });
    }

    /// `connect`: SYN_SENT, held by a process.
    pub fn connect(&mut self, pid: u32, local: &str, remote: &str, inode: u64) {
        self.counters[0] += 1;
        self.add(local, remote, SYN_SENT, inode);
        self.hold(pid, inode);
    }

    /// A UDP socket that is connected: no datagram is sent.
    pub fn connect_udp(&mut self, pid: u32, local: &str, remote: &str, inode: u64) {
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        self.flows.push(Row { local, remote, state: ESTABLISHED, uid: 1000, inode, timewait: None });
        self.hold(pid, inode);
    }

    /// A UDP socket that has a local port alone.
    pub fn bind_udp(&mut self, pid: u32, local: &str, inode: u64) {
        self.connect_udp(pid, local, if local.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }, inode);
        if let Some(row) = self.flows.last_mut() {
            row.state = CLOSE;
        }
    }

    /// `close` of one: its row goes with the descriptor.
    pub fn close_udp(&mut self, inode: u64) {
        self.let_go(inode);
        self.flows.retain(|row| row.inode != inode);
    }

    pub fn hold(&mut self, pid: u32, inode: u64) {
        self.let_go(inode);
        let fd = self.next_fd;
        self.next_fd += 1;
        std::os::unix::fs::symlink(format!("socket:[{inode}]"), self.path(&format!("{pid}/fd/{fd}")))
            .unwrap();
        self.holders.insert(inode, (pid, fd));
    }

    /// The descriptor goes; what becomes of the row is another matter.
    pub fn let_go(&mut self, inode: u64) {
        if let Some((pid, fd)) = self.holders.remove(&inode) {
            let _ = fs::remove_file(self.path(&format!("{pid}/fd/{fd}")));
        }
    }

    fn row(&mut self, inode: u64) -> &mut Row {
        self.rows.iter_mut().find(|row| row.inode == inode).unwrap()
    }

    fn level(&mut self, up: bool) {
        if !self.frozen_level {
            self.counters[4] = self.counters[4].checked_add_signed(if up { 1 } else { -1 }).unwrap();
        }
    }

    pub fn establish(&mut self, inode: u64) {
        self.row(inode).state = ESTABLISHED;
        self.level(true);
    }

    /// Another end connects to us.
    pub fn accept(&mut self, local: &str, remote: &str, inode: u64) {
        self.counters[1] += 1;
        self.level(true);
        self.add(local, remote, ESTABLISHED, inode);
    }

    pub fn peer_fin(&mut self, inode: u64) {
        self.row(inode).state = CLOSE_WAIT;
    }

    /// `close` by the last holder: our FIN leaves a TIME_WAIT, an answer to the peer's FIN leaves nothing.
    pub fn close(&mut self, inode: u64) {
        self.let_go(inode);
        self.level(false);
        let row = self.row(inode);
        if row.state == ESTABLISHED {
            (row.state, row.inode, row.uid, row.timewait) = (TIME_WAIT, 0, 0, Some(6_000));
        } else {
            self.remove(inode);
        }
    }

    /// RST: the row goes, the descriptor stands.
    pub fn reset(&mut self, inode: u64) {
        self.counters[3] += 1;
        self.level(false);
        self.remove(inode);
    }

    /// The attempt fails: the row goes, the descriptor stands.
    pub fn refuse(&mut self, inode: u64) {
        self.counters[2] += 1;
        self.remove(inode);
    }

    /// `close` in SYN_SENT: everything goes, no counter moves.
    pub fn give_up(&mut self, inode: u64) {
        self.let_go(inode);
        self.remove(inode);
    }

    pub fn remove(&mut self, inode: u64) {
        self.rows.retain(|row| row.inode != inode);
    }

    /// TIME_WAIT goes on by this much.
    pub fn age(&mut self, by: Duration) {
        let hundredths = u32::try_from(by.as_millis() / 10).unwrap();
        for row in &mut self.rows {
            row.timewait = row.timewait.map(|left| left.saturating_sub(hundredths));
        }
        self.rows.retain(|row| row.timewait != Some(0));
    }

    /// Makes the files say what the fields say.
    pub fn write(&self) {
        let sent = format!("Udp: InDatagrams OutDatagrams\nUdp: 0 {}\n", self.sent);
        fs::write(self.path("self/net/snmp"), counters(self.counters) + &sent).unwrap();
        for (rows, name, title) in [(&self.rows, "tcp", ""), (&self.flows, "udp", " ref pointer drops")] {
            let (four, six): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.local.is_ipv4());
            for (rows, name) in [(four, name.to_owned()), (six, format!("{name}6"))] {
                let text = table(&rows).replacen(" inode", &format!(" inode{title}"), 1);
                fs::write(self.path(&format!("self/net/{name}")), text).unwrap();
            }
        }
        let stat = format!("sockets: used 9\nUDP: inuse {} mem 0\n", self.flows.len());
        fs::write(self.path("self/net/sockstat"), stat).unwrap();
    }
}

fn counters([active, passive, fails, resets, level]: [u64; 5]) -> String {
    format!(
        "Tcp: RtoAlgorithm ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab\n\
         Tcp: 1 {active} {passive} {fails} {resets} {level}\n"
    )
}

fn table(rows: &[&Row]) -> String {
    let mut text =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
            .to_owned();
    for (n, row) in rows.iter().enumerate() {
        let timer = row.timewait.map_or("00:00000000".to_owned(), |left| format!("03:{left:08X}"));
        let Row { local, remote, state, uid, inode, .. } = row;
        let (local, remote) = (end(*local), end(*remote));
        let _ = writeln!(
            text,
            "{n:4}: {local} {remote} {state:02X} 00000000:00000000 {timer} 00000000 {uid:5}        0 {inode} 1 0"
        );
    }
    text
}

fn end(at: SocketAddr) -> String {
    let bytes = match at.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let word = |four: &[u8]| format!("{:08X}", u32::from_ne_bytes(four.try_into().unwrap()));
    format!("{}:{:04X}", bytes.chunks(4).map(word).collect::<String>(), at.port())
}

/// Some moment, so many milliseconds after the first.
pub fn moment(millis: u64) -> Moment {
    let wall = Timestamp::from_millisecond(1_795_182_170_000 + millis.cast_signed()).unwrap();
    Moment { wall, boot: Duration::from_millis(3_600_000 + millis) }
}

/// A pipeline whose ids count up, whose users have one name, and whose clocks stand still.
pub fn pipeline(kernel: &Kernel, ports: &str, filter: Filter) -> Pipeline {
    let mut ids = 0u128;
    let outside = Outside {
        new_id: Box::new(move |_| {
            ids += 1;
            Uuid::from_u128(ids)
        }),
        user_name: Box::new(|uid| (uid == 1000).then(|| "alice".into())),
        boottime: Box::new(|| Duration::ZERO),
        cputime: Box::new(|| Duration::ZERO),
    };
    let select = Selection::new(ports.parse().unwrap(), filter);
    Pipeline::new(&kernel.proc(), select, Masker::new(&[]), outside, Duration::from_secs(1), 100)
}

/// What a record tells of connections, without its time.
pub fn told(events: &[Event]) -> Vec<String> {
    let of_a_connection = events.iter().filter(|event| event.what.connection().is_some());
    of_a_connection.map(portreeve::event::message::message).collect()
}

/// Action and connection of each event: what must not depend on when the tables are read.
pub fn story(event: &Event) -> String {
    let connection = event.what.connection().expect("only connections are told by a pipeline");
    let state = connection.state.name();
    let owner = connection.attribution.owner().map_or(0, |owner| owner.pid);
    let more = match &event.what {
        What::Closed { ending, .. } => format!("{} {:?}", ending.reason.name(), ending.success),
        What::Changed { changed, .. } => changed.join(","),
        What::Opened(_) => format!("{} {state}", connection.seen.name()),
        _ => String::new(),
    };
    let Netns(_) = connection.netns;
    format!("{} {} by {owner} {more}", connection.tuple.local, event.what.action())
}
