use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portreeve::connection::{Netns, TcpState};
use portreeve::ebpf::Ebpf;
use portreeve::ebpf::event::{Ended, Fault, Opening, Word};

use crate::lab;
use crate::support::lab::Lab;

/// Everything that is told of a lab.
pub fn taken(ebpf: &mut Ebpf, lab: &Lab) -> Vec<Word> {
    let netns = netns(lab);
    let mut words = Vec::new();
    loop {
        let received = ebpf.receive(1_000, |word| words.push(word));
        assert_eq!(received.lost, 0, "nothing else is done here");
        if !received.more {
            break;
        }
    }
    // Those of a flow's packets and of its end name no namespace: the ports are ours.
    words.retain(|word| !word.names_namespace() || word.sight().netns == netns);
    words
}

pub fn netns(lab: &Lab) -> Netns {
    use std::os::unix::fs::MetadataExt as _;
    Netns(std::fs::metadata(format!("/proc/{}/ns/net", lab.holder())).unwrap().ino())
}

fn openings(words: &[Word]) -> Vec<&Opening> {
    words
        .iter()
        .filter_map(|word| if let Word::Open(opening) = word { Some(&**opening) } else { None })
        .collect()
}

fn ends(words: &[Word]) -> Vec<&Ended> {
    words.iter().filter_map(|word| if let Word::Closed(ended) = word { Some(ended) } else { None }).collect()
}

/// A shell that connects and is gone: `host` as the shell's own `/dev/tcp` takes it.
fn visit(lab: &Lab, host: &str, port: u16) -> Child {
    let script = format!("exec 3<>/dev/tcp/{host}/{port}");
    let mut bash = lab.command("bash");
    bash.args(["-c", &script, "the-visitor", "second argument"]).stderr(Stdio::null()).spawn().unwrap()
}

/// `None` before Linux 6.9, where every pidfd has the same.
fn pidfd_inode(pid: u32) -> Option<u64> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let is_its_own = rustix::fs::fstatfs(&pidfd).unwrap().f_type == 0x5049_4446;
    is_its_own.then(|| rustix::fs::fstat(&pidfd).unwrap().st_ino)
}

fn start_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap()
}

#[test]
fn each_of_100_connections_of_no_length_has_its_process_and_its_end() {
    let lab = lab!("bash");
    let listener = lab.listen("127.0.0.1:2201");
    let mut ebpf = ebpf!(&[2201..=2201]);
    for _ in 0..100 {
        let mut child = visit(&lab, "127.0.0.1", 2201);
        drop(listener.accept().unwrap());
        let pid = child.id();
        let pidfd_inode = pidfd_inode(pid);
        child.wait().unwrap();
        let words = taken(&mut ebpf, &lab);
        let (openings, ends) = (openings(&words), ends(&words));
        assert_eq!((openings.len(), ends.len()), (1, 1), "{words:#?}");
        let (opening, ended) = (openings[0], ends[0]);
        assert_eq!(opening.pid, pid);
        assert_eq!(opening.pidfd_inode, pidfd_inode, "what names it for good");
        assert_eq!(opening.comm, b"bash");
        let args: Vec<_> = opening.args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        let script = "exec 3<>/dev/tcp/127.0.0.1/2201";
        assert_eq!(args, ["bash", "-c", script, "the-visitor", "second argument"]);
        let bash = std::fs::canonicalize(crate::support::find_program("bash").unwrap()).unwrap();
        assert_eq!(opening.executable.as_deref(), Some(bash.as_os_str().as_encoded_bytes()));
        assert!(!opening.executable_cut && !opening.executable_deleted && !opening.args_cut);
        assert_eq!(opening.ancestors[0].pid, std::process::id());
        assert_eq!(opening.ancestors[0].start_ticks, start_ticks(std::process::id()));
        assert!(opening.sight.inode.is_some() && opening.sight.cookie.is_some());
        assert_eq!(ended.sight.cookie, opening.sight.cookie);
        assert!(ended.counts.established && ended.sight.is_known);
        assert_ne!(ended.sight.tuple.local.port(), 0);
    }
}

#[test]
fn a_refused_attempt_has_its_process_and_says_that_it_was_refused() {
    let lab = lab!("bash");
    let mut ebpf = ebpf!(&[2202..=2202]);
    for host in ["127.0.0.1", "::1"] {
        let mut child = visit(&lab, host, 2202);
        let pid = child.id();
        child.wait().unwrap();
        let words = taken(&mut ebpf, &lab);
        let (openings, ends) = (openings(&words), ends(&words));
        assert_eq!((openings.len(), ends.len()), (1, 1), "{words:#?}");
        assert_eq!(openings[0].pid, pid);
        assert_eq!(ends[0].fault, Fault::Refused);
        assert!(!ends[0].counts.established);
        assert_eq!(ends[0].sight.before, TcpState::SynSent);
        assert_ne!(ends[0].sight.tuple.local.port(), 0, "the port is told though it is given back");
        assert_eq!(
            ends[0].sight.tuple.remote,
            format!("{}:2202", if host == "::1" { "[::1]" } else { host }).parse().unwrap()
        );
    }
}

#[test]
fn an_attempt_without_a_way_is_told_and_never_goes_on() {
    let lab = lab!("bash");
    let mut ebpf = ebpf!(&[2203..=2203]);
    if let Some(reason) = ebpf.without_attempts() {
        return crate::support::not_run("an_attempt_without_a_way_is_told_and_never_goes_on", reason);
    }
    for host in ["192.0.2.9", "2001:db8::9"] {
        let mut child = visit(&lab, host, 2203);
        let pid = child.id();
        child.wait().unwrap();
        let words = taken(&mut ebpf, &lab);
        let openings = openings(&words);
        assert_eq!((words.len(), openings.len()), (1, 1), "{words:#?}");
        assert!(openings[0].is_attempt);
        assert_eq!(openings[0].pid, pid);
        assert_eq!(openings[0].sight.tuple.remote.ip(), host.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(openings[0].sight.tuple.local.port(), 0);
    }
}

#[test]
fn what_it_counts_and_how_it_ends_is_told_for_both_families() {
    let lab = lab!();
    let mut ebpf = ebpf!(&[2204..=2204]);
    for (at, to) in
        [("127.0.0.1:2204", "127.0.0.1:2204"), ("[::1]:2204", "[::1]:2204"), ("[::]:2204", "127.0.0.1:2204")]
    {
        lab.inside(|| {
            use std::io::{Read as _, Write as _};
            let listener = TcpListener::bind(at).unwrap();
            let mut client = TcpStream::connect(to).unwrap();
            let mut server = listener.accept().unwrap().0;
            client.write_all(&[7; 3_000]).unwrap();
            server.write_all(&[7; 500]).unwrap();
            let (mut theirs, mut ours) = ([0; 3_000], [0; 500]);
            server.read_exact(&mut theirs).unwrap();
            client.read_exact(&mut ours).unwrap();
            drop(client);
            drop(server);
        });
        std::thread::sleep(Duration::from_millis(50));
        let words = taken(&mut ebpf, &lab);
        assert!(words.iter().any(|word| matches!(word, Word::Established(_))), "{words:#?}");
        let [ended] = ends(&words)[..] else { panic!("{words:#?}") };
        assert_eq!((ended.counts.sent, ended.counts.received - u64::from(ended.has_fin)), (Some(3_000), 500));
        assert_eq!((ended.fault, ended.sight.before), (Fault::None, TcpState::FinWait2));
        assert_eq!(ended.sight.tuple.remote, to.parse().unwrap());
    }
}

#[test]
fn a_mapped_address_is_one_of_ipv4() {
    let lab = lab!("python3");
    let mut ebpf = ebpf!(&[2205..=2205]);
    let listener = lab.listen("127.0.0.1:2205");
    let script = "import socket; s = socket.socket(socket.AF_INET6); s.connect(('::ffff:127.0.0.1', 2205))";
    let mut python = lab.command("python3").args(["-c", script]).spawn().unwrap();
    drop(listener.accept().unwrap());
    python.wait().unwrap();
    let words = taken(&mut ebpf, &lab);
    assert_eq!((openings(&words).len(), ends(&words).len()), (1, 1), "{words:#?}");
    for word in &words {
        assert_eq!(word.sight().tuple.remote, "127.0.0.1:2205".parse().unwrap());
        assert!(word.sight().tuple.local.is_ipv4());
    }
}

#[test]
fn ports_that_are_not_watched_are_not_told_until_they_are() {
    let lab = lab!();
    let mut ebpf = ebpf!(&[2206..=2206]);
    let listener = lab.listen("127.0.0.1:2207");
    drop((lab.connect("127.0.0.1:2207"), listener.accept().unwrap()));
    assert_eq!(taken(&mut ebpf, &lab), []);
    ebpf.set_ports(&[2000..=2300]).unwrap();
    drop((lab.connect("127.0.0.1:2207"), listener.accept().unwrap()));
    assert_eq!(openings(&taken(&mut ebpf, &lab)).len(), 1);
}

#[test]
fn two_namespaces_are_told_apart() {
    let (one, other) = (lab!(), lab!());
    let mut ebpf = ebpf!(&[2208..=2208]);
    let listeners = [&one, &other].map(|lab| lab.listen("127.0.0.1:2208"));
    drop((one.connect("127.0.0.1:2208"), listeners[0].accept().unwrap()));
    drop((other.connect("127.0.0.1:2208"), listeners[1].accept().unwrap()));
    std::thread::sleep(Duration::from_millis(20));
    let mut words = Vec::new();
    while ebpf.receive(1_000, |word| words.push(word)).more {}
    for lab in [&one, &other] {
        let of_it = openings(&words).into_iter().filter(|opening| opening.sight.netns == netns(lab)).count();
        assert_eq!(of_it, 1, "{words:#?}");
    }
}

#[test]
fn what_finds_no_room_is_counted() {
    let lab = lab!();
    let mut ebpf = ebpf!(&[2209..=2209], Some(4_096));
    let listener = lab.listen("127.0.0.1:2209");
    for _ in 0..200 {
        drop((lab.connect("127.0.0.1:2209"), listener.accept().unwrap()));
    }
    std::thread::sleep(Duration::from_millis(50));
    let (mut told, mut lost) = (0, 0);
    loop {
        let received = ebpf.receive(1_000, |_| told += 1);
        lost += received.lost;
        if !received.more {
            break;
        }
    }
    // Each is opened, established and closed; where attempts are told, its SYN is a word of its own.
    let each = if ebpf.without_attempts().is_none() { 4 } else { 3 };
    assert_eq!(told + lost, 200 * each, "{told} told, {lost} lost");
    assert!(told > 2 && lost > 300);
}

#[test]
fn who_waits_is_woken_by_an_opening_and_by_nothing_else() {
    let lab = lab!();
    let ebpf = ebpf!(&[2210..=2210]);
    let listener = lab.listen("127.0.0.1:2210");
    let other = lab.listen("127.0.0.1:2211");
    let waited = |for_ms: i64, act: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            scope.spawn(act);
            let mut fds = [rustix::event::PollFd::new(&ebpf, rustix::event::PollFlags::IN)];
            let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: for_ms * 1_000_000 };
            let began = Instant::now();
            let ready = rustix::event::poll(&mut fds, Some(&patience)).unwrap();
            (ready, began.elapsed())
        })
    };
    let (ready, _) = waited(300, &|| {
        for _ in 0..50 {
            drop((lab.connect("127.0.0.1:2211"), other.accept().unwrap()));
        }
    });
    assert_eq!(ready, 0, "nothing that is watched happened");
    let (ready, took) = waited(900, &|| drop((lab.connect("127.0.0.1:2210"), listener.accept().unwrap())));
    assert_eq!(ready, 1);
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn a_loader_of_its_own_hands_the_program_over() {
    // What `Ebpf::open` starts is the running executable, which here is the test: so the program does it as the loader.
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .arg(portreeve::ebpf::LOADER)
        .stdin(theirs)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let mut said = [0; 1];
    rustix::net::recv(&ours, &mut said, rustix::net::RecvFlags::empty()).unwrap();
    assert!(said == *b"+" || said == *b"-");
}

#[test]
fn no_word_of_a_busy_machine_is_missing_without_being_counted() {
    let lab = lab!();
    let mut ebpf = ebpf!(&[2212..=2213], Some(16 << 20));
    // What the same test does elsewhere on this machine is heard too.
    let netns = netns(&lab);
    let ended = std::sync::atomic::AtomicUsize::new(0);
    let (mut opened, mut over, mut lost) = (0u64, 0u64, 0u64);
    std::thread::scope(|scope| {
        for port in [2212, 2213] {
            let (lab, ended) = (&lab, &ended);
            scope.spawn(move || {
                lab.inside(|| {
                    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
                    for round in 0..20_000 {
                        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
                        let server = listener.accept().unwrap().0;
                        if round % 2 == 0 {
                            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                            drop((client, server));
                        } else {
                            drop((server, client));
                        }
                    }
                });
                ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        let until = Instant::now() + Duration::from_secs(120);
        let mut idle = 0;
        while idle < 200 && Instant::now() < until {
            let before = opened + over;
            let received = ebpf.receive(10_000, |word| match word {
                Word::Open(opening) => opened += u64::from(opening.sight.netns == netns),
                Word::Closed(ended) if ended.sight.netns == netns => over += u64::from(ended.sight.is_known),
                _ => {}
            });
            lost += received.lost + received.missed;
            if opened + over == before {
                std::thread::sleep(Duration::from_millis(2));
                idle += usize::from(ended.load(std::sync::atomic::Ordering::Relaxed) == 2);
            }
        }
    });
    println!("{opened} openings, {over} ends, {lost} lost");
    assert!(40_000 - opened + (40_000 - over) <= lost, "{opened} openings, {over} ends, {lost} lost");
}
