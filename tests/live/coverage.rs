//! What was not seen, in numbers: floods, lost notices, and the kernel's count beside ours.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::with_action;
use crate::support::wait_for;
use crate::support::watch::PATIENCE;

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn coverage(records: &[Value]) -> Value {
    with_action(records, "coverage").pop().unwrap()["portreeve"]["coverage"].clone()
}

/// Serves with room for a flood: who connects is let go of when he closes, or at once.
fn serve(lab: &Lab, at: &str, first: bool) {
    let at: SocketAddr = at.parse().unwrap();
    let listener: TcpListener = lab.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&at.into()).unwrap();
        socket.listen(4096).unwrap();
        socket.into()
    });
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            if !first {
                stream.set_nonblocking(true).unwrap();
                held.push(stream);
                held.retain_mut(|stream: &mut TcpStream| !matches!(stream.read(&mut [0]), Ok(0)));
            }
        }
    });
}

/// Connects as often as its second argument says, to the port that its first says; holds each for so many seconds.
const CLIENTS: &str = "use Socket; my @held; for (1 .. $ARGV[1]) { socket(my $s, PF_INET, SOCK_STREAM, 0) or die; \
                       connect($s, sockaddr_in($ARGV[0], INADDR_LOOPBACK)) or die $!; push @held, $s; \
                       if ($ARGV[2] < 0.1) { select(undef, undef, undef, $ARGV[2]); @held = () } } \
                       select(undef, undef, undef, $ARGV[2]);";

fn clients(lab: &Lab, processes: usize, arguments: [&str; 3]) {
    let start = || {
        let mut command = lab.command("prlimit");
        command.args(["--nofile=4096:4096", "perl", "-e", CLIENTS]).args(arguments);
        command.stderr(Stdio::inherit()).spawn().unwrap()
    };
    let children: Vec<_> = (0..processes).map(|_| start()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
}

/// Every connection is in the log once, or counted as missed.
#[track_caller]
fn assert_all_told(records: &[Value], made: u64) {
    let coverage = coverage(records);
    let (opens, closes) =
        (with_action(records, "connection-opened"), with_action(records, "connection-closed"));
    let tuples: BTreeSet<_> = opens.iter().map(|open| open["source"]["port"].as_u64()).collect();
    println!("{made} made, {} opened, {} closed: {coverage}", opens.len(), closes.len());
    assert_eq!(coverage["kernel"]["active_opens"], made);
    assert_eq!(tuples.len(), opens.len(), "none twice");
    assert_eq!(coverage["comparable"], true);
    let missed = coverage["missed_at_most"].as_u64().unwrap();
    assert_eq!(coverage["agrees"], missed == 0);
    assert_eq!(coverage["accounted"].as_u64().unwrap() + missed, made);
    let told = opens.len() as u64;
    assert!(told <= made && told + missed >= made, "{told} told and {missed} missed of {made}");
    assert_eq!(opens.len(), closes.len());
}

#[test]
fn a_flood_is_told_whole_or_what_is_missing_is_counted() {
    let lab = lab!("perl", "prlimit");
    serve(&lab, "127.0.0.1:22", false);
    for (processes, arguments, made) in
        [(1, ["22", "2000", "0.5"], 2000), (50, ["22", "40", "0.5"], 2000), (4, ["22", "500", "0"], 2000)]
    {
        let before = lab.active_opens();
        let watch = lab.watch(&[]);
        clients(&lab, processes, arguments);
        assert_eq!(lab.active_opens() - before, made);
        // Until it has no more to tell: a watcher that is built for tests takes its time.
        // An end whose notice was lost comes with a reading that is made for repair, two minutes later at most.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(130);
        let (mut told, mut all_ended) = (0, false);
        while told < watch.text().len() || !all_ended && std::time::Instant::now() < deadline {
            told = watch.text().len();
            sleep_ms(2000);
            let records = watch.records();
            let count = |action| with_action(&records, action).len();
            all_ended = count("connection-opened") == count("connection-closed");
        }
        println!("{processes} processes:");
        let records = watch.stop().records;
        assert_all_told(&records, made);
    }
}

#[test]
fn the_kernels_count_agrees_with_ours_on_all_ports_and_what_is_no_open_is_not_counted() {
    let lab = lab!("perl", "prlimit");
    serve(&lab, "127.0.0.1:22", false);
    serve(&lab, "127.0.0.1:8080", false);
    let standing = (lab.connect("127.0.0.1:22"), lab.connect("127.0.0.1:8080"));
    let watch = lab.watch(&[]);
    let alive = (lab.connect("127.0.0.1:22"), lab.connect("127.0.0.1:8080"), lab.connect("127.0.0.1:8080"));
    clients(&lab, 2, ["8080", "10", "0.01"]);
    clients(&lab, 1, ["22", "3", "0.01"]);
    // Neither a listener nor a socket that never connected is an open; nor is one that was accepted.
    let listener = lab.listen("127.0.0.1:40000");
    let (client, accepted) = (lab.connect("127.0.0.1:40000"), listener.accept().unwrap());
    // Who listened there is learned from a reading of the table.
    sleep_ms(1500);
    drop(listener);
    lab.inside(|| {
        for _ in 0..5 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        }
        // Refused: an open all the same.
        let to = "127.0.0.1:81".parse::<SocketAddr>().unwrap();
        TcpStream::connect(to).unwrap_err();
    });
    drop(accepted);
    drop(client);
    drop(standing);
    sleep_ms(300);
    let records = watch.stop().records;
    let coverage = coverage(&records);
    println!("{coverage}");
    let expected = 3 + 20 + 3 + 1 + 1;
    assert_eq!(coverage["kernel"]["active_opens"], expected);
    assert_eq!(coverage["accounted"], expected);
    assert_eq!((&coverage["agrees"], &coverage["missed_at_most"]), (&true.into(), &0.into()));
    drop(alive);
}

#[test]
fn what_was_missed_is_told_as_missed() {
    const COUNT: u64 = 40;
    let lab = lab!("perl", "prlimit");
    // Closes first: no TIME_WAIT is left on our side.
    serve(&lab, "127.0.0.1:22", true);
    let watch = lab.watch(&["--ports", "all", "--events", "none", "--interval", "500ms"]);
    clients(&lab, 1, ["22", "40", "0.001"]);
    sleep_ms(700);
    let records = watch.stop().records;
    let coverage = coverage(&records);
    println!("{coverage}");
    let opens = with_action(&records, "connection-opened").len() as u64;
    assert_eq!(coverage["kernel"]["active_opens"], COUNT);
    assert_eq!((&coverage["comparable"], coverage["accounted"].as_u64()), (&true.into(), Some(opens)));
    assert_eq!(coverage["missed_at_most"].as_u64(), Some(COUNT - opens));
    assert_eq!(coverage["agrees"], opens == COUNT);
    assert!(opens < COUNT, "nothing missed: this proves nothing");
    // Of one port the kernel keeps no count.
    let watch = lab.watch(&["--events", "none"]);
    let records = watch.stop().records;
    assert_eq!(self::coverage(&records)["comparable"], false);
}

#[test]
fn notices_that_are_lost_are_counted_and_nothing_is_told_twice() {
    const WATCHED: u64 = 200;
    let lab = lab!("perl", "prlimit", "strace");
    serve(&lab, "127.0.0.1:22", false);
    serve(&lab, "127.0.0.1:8080", false);
    // Those of the program in the kernel are of watched ports alone, and so few are not lost.
    let mut watch = lab.watch(&["--events", "destroy,syn"]);
    let standing: Vec<_> = (0..20).map(|_| lab.connect("127.0.0.1:22")).collect();
    watch.wait_actions("connection-opened", 20);
    let before = lab.active_opens();
    watch.signal(Signal::STOP);
    let state = format!("/proc/{}/stat", watch.child.id());
    let is_stopped = || std::fs::read_to_string(&state).unwrap().contains(") T ");
    wait_for("the watcher to stand still", PATIENCE, || is_stopped().then_some(()));
    // Sockets of both sides end: twice as many notices.
    clients(&lab, 3, ["8080", "3500", "0"]);
    clients(&lab, 1, ["22", "200", "0"]);
    drop(standing);
    // On a busy machine the server closes its ends later, and a kernel thread sends the notices later.
    let tables = format!("/proc/{}/net/netlink", watch.child.id());
    wait_for("notices for which there is no room", PATIENCE, || {
        let rows = std::fs::read_to_string(&tables).unwrap();
        let dropped = |row: &str| row.split_whitespace().nth(8)?.parse::<u64>().ok();
        rows.lines().skip(1).filter_map(dropped).any(|drops| drops > 0).then_some(())
    });
    sleep_ms(2000);
    let made = lab.active_opens() - before;
    assert!(is_stopped());
    watch.signal(Signal::CONT);
    watch.wait_for("a gap of lost notices", |records| {
        let gaps = with_action(records, "gap").into_iter();
        { gaps }.find(|gap| gap["portreeve"]["gap"]["cause"] == "events_lost")
    });
    sleep_ms(3000);
    // On a busy machine the readings that repair it take longer.
    watch.wait_for("as many ends as openings", |records| {
        let count = |action| with_action(records, action).len();
        (count("connection-opened") == count("connection-closed")).then_some(())
    });
    let records = watch.stop().records;
    let gaps: Vec<_> =
        with_action(&records, "gap").iter().map(|gap| gap["portreeve"]["gap"].clone()).collect();
    println!("{gaps:#?}");
    let coverage = coverage(&records);
    let (opens, closes) =
        (with_action(&records, "connection-opened"), with_action(&records, "connection-closed"));
    let ports: BTreeSet<_> = opens.iter().map(|open| open["source"]["port"].as_u64()).collect();
    println!(
        "{made} made, {WATCHED} + 20 watched, {} told, {} closed: {coverage}",
        opens.len(),
        closes.len()
    );
    assert_eq!(ports.len(), opens.len(), "none twice");
    let told = opens.len() as u64 - 20;
    let missed = coverage["missed_at_most"].as_u64();
    assert!(told <= WATCHED);
    assert!(told == WATCHED || missed.is_none_or(|missed| told + missed >= WATCHED), "{told}");
    assert_eq!(opens.len(), closes.len());
    let lost = gaps.iter().find(|gap| gap["cause"] == "events_lost").unwrap();
    assert!(lost["count"].as_u64().unwrap() > 0, "{lost}");
    assert_eq!(coverage["kernel"]["active_opens"].as_u64(), Some(made + 20));
}

#[test]
fn an_accepted_socket_of_a_listener_that_is_gone_is_no_open() {
    let lab = lab!();
    let watch = lab.watch(&["--interval", "20ms"]);
    for _ in 0..3 {
        let listener = lab.listen("127.0.0.1:41000");
        let client = lab.connect("127.0.0.1:41000");
        let server = listener.accept().unwrap().0;
        // Who listened there is learned from a reading of the table.
        sleep_ms(1500);
        drop(listener);
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        drop(client);
        sleep_ms(100);
    }
    let coverage = coverage(&watch.stop().records);
    println!("{coverage}");
    assert_eq!((&coverage["kernel"]["active_opens"], &coverage["accounted"]), (&3.into(), &3.into()));
}
