//! What the kernel's notices tell: exact ends, bytes, connections that no poll could see, and why an attempt failed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use super::flows::verify;
use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{actions, assert_fields, pick, with_action};
use crate::support::session::{STAY, Session};
use crate::support::wait_for;
use crate::support::watch::{PATIENCE, Watch};

const SSH: &str = "127.0.0.1:22";

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Both ends of a connection.
fn pair(lab: &Lab, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = lab.connect(&listener.local_addr().unwrap().to_string());
    let server = listener.accept().unwrap().0;
    (client, server)
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends that much one way, read by the other end meanwhile.
fn send(mut from: &TcpStream, mut to: &TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(&vec![7; bytes]).unwrap());
        to.read_exact(&mut vec![0; bytes]).unwrap();
    });
}

fn port(stream: &TcpStream) -> u64 {
    u64::from(stream.local_addr().unwrap().port())
}

fn story_of(records: &[Value], port: u64) -> Vec<Value> {
    let of_it = |record: &&Value| {
        let connection = record["event"]["action"].as_str().unwrap().starts_with("connection-");
        connection && record["source"]["port"] == port
    };
    records.iter().filter(of_it).cloned().collect()
}

/// The close of the connection from this port, once it is told.
#[track_caller]
fn wait_close_of(watch: &mut Watch, port: u64) -> Value {
    watch.wait_for(&format!("a close of port {port}"), |records| {
        let story = story_of(records, port);
        story.into_iter().find(|record| record["event"]["action"] == "connection-closed")
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Client,
    Server,
    /// The watcher has seen in CLOSE_WAIT that the other end is done.
    ServerSeen,
    Both,
    /// The client says that it is done, and goes on reading.
    HalfClosed,
}

#[test]
fn payload_is_counted_exactly_or_marked_and_never_off_by_more_than_the_fin() {
    let lab = lab!();
    let mut exact: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for address in [SSH, "[::1]:22"] {
        let listener = lab.listen(address);
        let mut watch = lab.watch(&["--interval", "20ms"]);
        for first in [First::Client, First::Server, First::ServerSeen, First::Both, First::HalfClosed] {
            for (sent, received) in [(0, 0), (1, 0), (0, 1), (1000, 500), (100_000, 1), (1, 100_000)] {
                let (client, server) = pair(&lab, &listener);
                let from = port(&client);
                send(&client, &server, sent);
                match first {
                    First::HalfClosed => {
                        client.shutdown(Shutdown::Write).unwrap();
                        send(&server, &client, received);
                        drop(server);
                        sleep_ms(5);
                        drop(client);
                    }
                    _ => {
                        send(&server, &client, received);
                        end(&lab, &listener, first, client, server);
                    }
                }
                let close = wait_close_of(&mut watch, from);
                let told = pick(&close, &["source.bytes", "destination.bytes", "network.bytes"]);
                let marked = close["portreeve"]["close"]["bytes_exact"].clone();
                let what =
                    format!("{address} {first:?} {sent} {received}: {told} {}", close["portreeve"]["close"]);
                assert_eq!(close["portreeve"]["close"]["reason"], "closed", "{what}");
                assert_eq!(close["event"]["outcome"], "success", "{what}");
                assert_eq!(told["source.bytes"], sent, "{what}");
                let got = told["destination.bytes"].as_u64().unwrap();
                let most = received as u64 + u64::from(marked == false);
                assert!((received as u64..=most).contains(&got), "{what}");
                assert_eq!(told["network.bytes"].as_u64(), Some(got + sent as u64), "{what}");
                let (yes, all) = exact.entry(format!("{first:?}")).or_default();
                (*yes, *all) = (*yes + u32::from(marked == true), *all + 1);
            }
        }
        watch.stop();
    }
    println!("marked exact, of all: {exact:?}");
}

fn end(lab: &Lab, listener: &TcpListener, first: First, client: TcpStream, server: TcpStream) {
    match first {
        First::Client => {
            drop(client);
            sleep_ms(5);
            drop(server);
        }
        First::Server => {
            drop(server);
            drop(client);
        }
        First::ServerSeen => {
            drop(server);
            // Another connection has the table read.
            let other = pair(lab, listener);
            sleep_ms(60);
            drop(other);
            drop(client);
        }
        First::Both => std::thread::scope(|scope| {
            scope.spawn(move || drop(client));
            scope.spawn(move || drop(server));
        }),
        First::HalfClosed => unreachable!("ended by who made it"),
    }
}

#[test]
fn an_ssh_session_is_told_with_the_bytes_that_its_other_end_counted() {
    let mut lab = lab!("ss");
    lab.sshd(&[SSH]);
    let mut watch = lab.watch(&[]);
    for _ in 0..3 {
        let session = Session::start(lab.ssh().args(["127.0.0.1", STAY]));
        let from = session.addresses.1;
        // What the server has of it before the end; the end itself takes some hundred bytes more.
        let info = lab.run(&format!("ss -tinH 'sport = :22 and dport = :{from}'"));
        let count = |name: &str| -> u64 {
            let word = info.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.map_or(0, |count| count.parse().unwrap())
        };
        let (to_us, from_us) = (count("bytes_sent:"), count("bytes_received:"));
        assert!(to_us > 1000 && from_us > 1000, "{info}");
        assert!(session.end().success());
        let close = wait_close_of(&mut watch, u64::from(from));
        let told = pick(&close, &["source.bytes", "destination.bytes", "portreeve.close"]);
        println!("the server saw {from_us} and {to_us} before the end: {told}");
        assert_eq!(close["portreeve"]["close"]["exact"], true, "{told}");
        let (sent, received) = (close["source"]["bytes"].as_u64(), close["destination"]["bytes"].as_u64());
        assert!((from_us..from_us + 1000).contains(&sent.unwrap()), "{told}");
        assert!((to_us..to_us + 1000).contains(&received.unwrap()), "{told}");
    }
    watch.stop();
}

fn micros_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

fn micros_of(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

#[test]
fn an_end_is_told_when_it_happens_and_its_time_wait_tells_nothing_more() {
    let lab = lab!();
    let listener = lab.listen(SSH);
    // A poll would be up to a second late.
    let mut watch = lab.watch(&["--interval", "1s"]);
    let mut late = Vec::new();
    let mut ports = Vec::new();
    for client_first in [true, false, true, false, true, false] {
        let (client, server) = pair(&lab, &listener);
        let from = port(&client);
        ports.push(from);
        sleep_ms(30);
        let mut closed = micros_now();
        if client_first {
            drop(client);
            drop(server);
        } else {
            drop(server);
            closed = micros_now();
            drop(client);
        }
        let close = wait_close_of(&mut watch, from);
        assert_fields(&close, &json!({ "portreeve.close.exact": true, "portreeve.close.reason": "closed" }));
        late.push(micros_of(&close["portreeve"]["close"]["gone_by"]) - closed);
    }
    println!("told so many microseconds after the close: {late:?}");
    late.sort_unstable();
    assert!(late[0] >= 0 && late[3] < 20_000, "{late:?}");
    // Repair readings show the TIME_WAITs.
    sleep_ms(2500);
    let records = watch.stop().records;
    for port in ports {
        assert_eq!(actions(&story_of(&records, port)), ["connection-opened", "connection-closed"]);
    }
    assert_eq!(with_action(&records, "connection-opened").len(), 6);
}

#[test]
fn what_no_poll_could_see_is_told_by_its_end() {
    const COUNT: usize = 60;
    let lab = lab!();
    let listener = lab.listen(SSH);
    let mut watch = lab.watch(&["--interval", "1s", "--events", "destroy"]);
    let mut ports = BTreeSet::new();
    for number in 0..COUNT {
        let (client, server) = pair(&lab, &listener);
        ports.insert(port(&client));
        send(&client, &server, 10);
        let ends = if number % 2 == 0 { [client, server] } else { [server, client] };
        sleep_ms(1);
        drop(ends);
    }
    watch.wait_actions("connection-closed", COUNT);
    sleep_ms(1200);
    let records = watch.stop().records;
    let opens = with_action(&records, "connection-opened");
    let told: BTreeSet<_> = opens.iter().map(|open| open["source"]["port"].as_u64().unwrap()).collect();
    assert_eq!((told, opens.len()), (ports, COUNT));
    let by_end = opens.iter().filter(|open| open["portreeve"]["connection"]["seen"] == "destroy").count();
    println!("{by_end} of {COUNT} told by their end alone");
    assert!(by_end > COUNT / 2);
    for close in with_action(&records, "connection-closed") {
        let fields = json!({ "source.bytes": 10, "event.outcome": "success", "portreeve.close.exact": true });
        if close["portreeve"]["connection"]["seen"] == "destroy" {
            assert_fields(&close, &fields);
        }
    }
    assert_agreement(&records);
}

/// What the last coverage record says of the run: the kernel's count and ours are one. Without SYNs it is not known of
/// which port an end without a remote end is: those are what was missed.
#[track_caller]
fn assert_agreement(records: &[Value]) {
    let coverage = &with_action(records, "coverage").pop().unwrap()["portreeve"]["coverage"];
    let count = |field: &str| coverage[field].as_u64().unwrap();
    let kernel = coverage["kernel"]["active_opens"].as_u64().unwrap();
    assert_eq!(count("accounted") + count("missed_at_most"), kernel, "{coverage:#}");
    let started = &with_action(records, "watch-started")[0]["portreeve"]["watch"];
    let has_syns = started["events"]["syn"] == "on";
    assert_eq!(count("missed_at_most"), if has_syns { 0 } else { count("unmatched") }, "{coverage:#}");
    assert_eq!(coverage["agrees"], count("missed_at_most") == 0, "{coverage:#}");
}

/// Connects, waits so many seconds, and is gone.
const SHORT: &str = "use Socket; socket(S, PF_INET, SOCK_STREAM, 0); \
                     connect(S, sockaddr_in(22, INADDR_LOOPBACK)) or die; select(undef, undef, undef, $ARGV[0]); \
                     print +(sockaddr_in(getsockname(S)))[0]";

#[test]
fn with_syn_the_owner_of_a_connection_is_read_while_it_is_set_up() {
    let lab = lab!("perl");
    let listener = lab.listen(SSH);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || stream.read(&mut [0]));
        }
    });
    // Two looks are a second apart: whose process is gone by then has its owner by its SYN. A busy machine may be late by
    // more than the shorter ones last.
    for (seconds, count, most_missed) in [
        ("0.25", 12, Some(0)),
        ("0.02", 20, None),
        ("0.005", 100, None),
        ("0.001", 100, None),
        ("0.0002", 100, None),
    ] {
        let mut watch = lab.watch(&["--interval", "1s"]);
        let mut pids = BTreeMap::new();
        for _ in 0..count {
            let perl =
                lab.command("perl").args(["-e", SHORT, seconds]).stdout(Stdio::piped()).spawn().unwrap();
            let pid = u64::from(perl.id());
            let said = perl.wait_with_output().unwrap().stdout;
            pids.insert(String::from_utf8(said).unwrap().parse::<u64>().unwrap(), pid);
        }
        watch.wait_actions("connection-closed", count);
        let records = watch.stop().records;
        let opens = with_action(&records, "connection-opened");
        assert_eq!(opens.len(), count);
        let mut right = 0;
        for open in &opens {
            if let Some(pid) = open["process"]["pid"].as_u64() {
                assert_eq!(pids.get(&open["source"]["port"].as_u64().unwrap()), Some(&pid), "{open}");
                right += 1;
            }
        }
        let by_syn = opens.iter().filter(|open| open["portreeve"]["connection"]["seen"] == "syn").count();
        println!("{seconds} s: {count} made, {by_syn} seen by syn, {right} with their owner");
        assert!(most_missed.is_none_or(|most| right + most >= count));
        assert_agreement(&records);
    }
}

/// One attempt by this socket, not waited for.
fn attempt(lab: &Lab, to: &str) -> Socket {
    let to: SocketAddr = to.parse().unwrap();
    lab.inside(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _in_progress = socket.connect(&to.into());
        socket
    })
}

/// One attempt that is waited for; what it failed with.
fn attempt_and_wait(lab: &Lab, to: &str) -> std::io::Error {
    let to: SocketAddr = to.parse().unwrap();
    lab.inside(|| TcpStream::connect(to).unwrap_err())
}

/// The one open and the one close of an attempt that failed, and why it is said to have failed.
#[track_caller]
fn failed(mut watch: Watch, attempts: usize) -> Vec<String> {
    watch.wait_actions("connection-closed", attempts);
    sleep_ms(700);
    let records = watch.stop().records;
    let closes = with_action(&records, "connection-closed");
    assert_eq!(with_action(&records, "connection-opened").len(), attempts, "{records:#?}");
    assert_eq!(closes.len(), attempts, "{records:#?}");
    assert!(!actions(&records).contains(&"connection-changed"));
    let mut reasons = Vec::new();
    for close in closes {
        assert_ne!(close["event"]["outcome"], "success", "{close}");
        assert!(close["source"]["bytes"].is_null(), "{close}");
        reasons.push(close["portreeve"]["close"]["reason"].as_str().unwrap().to_owned());
    }
    assert_agreement(&records);
    reasons
}

#[test]
fn a_refused_attempt_is_told_as_refused_whether_or_not_it_was_waited_for() {
    let lab = lab!();
    for events in ["destroy,syn", "destroy"] {
        for (address, reason) in [(SSH, "refused"), ("[::1]:22", "failed")] {
            let watch = lab.watch(&["--events", events]);
            for _ in 0..5 {
                let error = attempt_and_wait(&lab, address);
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                sleep_ms(20);
            }
            if events == "destroy,syn" {
                assert_eq!(failed(watch, 5), [reason; 5], "{address} waited for");
            } else {
                // Its notice does not say any more where it went.
                let records = watch.stop().records;
                assert!(actions(&records).len() <= 10, "{records:#?}");
                assert_agreement(&records);
            }
            let watch = lab.watch(&["--events", events]);
            for _ in 0..5 {
                drop(attempt(&lab, address));
                sleep_ms(20);
            }
            assert_eq!(failed(watch, 5), [reason; 5], "{address} not waited for, {events}");
            let watch = lab.watch(&["--events", events, "--interval", "20ms"]);
            let held: Vec<_> = (0..5).map(|_| attempt(&lab, address)).collect();
            sleep_ms(200);
            drop(held);
            // Of a failure that was over before it was let go of the counters tell nothing any more.
            let reason = if events == "destroy,syn" { reason } else { "failed" };
            assert_eq!(failed(watch, 5), [reason; 5], "{address} held after it, {events}");
        }
    }
}

#[test]
fn an_attempt_that_nobody_answers_times_out_or_is_given_up_or_killed() {
    let lab = lab!("nft", "ss");
    lab.filter_port(22);
    for retries in [1, 2] {
        lab.run(&format!("echo {retries} > /proc/sys/net/ipv4/tcp_syn_retries"));
        for address in [SSH, "[::1]:22"] {
            let watch = lab.watch(&[]);
            let error = attempt_and_wait(&lab, address);
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
            assert_eq!(failed(watch, 1), ["timed_out"], "{address} after {retries} repetitions");
        }
    }
    let watch = lab.watch(&[]);
    let given_up = attempt(&lab, SSH);
    sleep_ms(300);
    drop(given_up);
    assert_eq!(failed(watch, 1), ["cancelled"]);
    let watch = lab.watch(&[]);
    drop(attempt(&lab, SSH));
    assert_eq!(failed(watch, 1), ["cancelled"], "at once");
    let watch = lab.watch(&[]);
    let killed = attempt(&lab, SSH);
    sleep_ms(200);
    lab.run("ss -K dport = :22");
    sleep_ms(200);
    drop(killed);
    println!("killed in SYN_SENT: {:?}", failed(watch, 1));
}

#[test]
fn an_unreachable_host_is_told_as_such_and_a_forbidden_route_is_no_attempt() {
    let (lab, router) = (lab!(), lab!());
    lab.join(&router);
    router.run("echo 1 > /proc/sys/net/ipv4/ip_forward; ip route add unreachable 198.51.100.0/24");
    lab.run(
        "ip route add 198.51.100.0/24 via 192.0.2.2; ip route add unreachable 203.0.113.1; \
         ip route add blackhole 203.0.113.2; ip route add prohibit 203.0.113.3",
    );
    let watch = lab.watch(&[]);
    for (last, count) in [(1, 1), (2, 2), (3, 3)] {
        let error = attempt_and_wait(&lab, &format!("203.0.113.{last}:22"));
        println!("{count}: {error}");
    }
    let records = watch.stop().records;
    assert_eq!(actions(&records), [""; 0], "no packet was sent");
    assert_agreement(&records);
    let failures = || -> u64 {
        let snmp = lab.run("grep ^Tcp: /proc/net/snmp | tail -n 1");
        snmp.split_whitespace().nth(7).unwrap().parse().unwrap()
    };
    for events in ["destroy,syn", "destroy"] {
        for address in
            ["198.51.100.1:22", "192.0.2.3:22"].into_iter().take(if events == "destroy,syn" { 2 } else { 1 })
        {
            let watch = lab.watch(&["--events", events]);
            let error = attempt_and_wait(&lab, address);
            assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable);
            assert_eq!(failed(watch, 1), ["unreachable"], "{address}, {events}");

            let watch = lab.watch(&["--events", events]);
            let before = failures();
            let held = attempt(&lab, address);
            // The neighbour is asked for three times, a second apart.
            wait_for("its failure", PATIENCE, || (failures() > before).then_some(()));
            sleep_ms(100);
            drop(held);
            assert_eq!(failed(watch, 1), ["unreachable"], "{address}, {events}, not waited for");
        }
    }
}

#[test]
fn a_reset_is_told_once_whoever_resets() {
    let lab = lab!("ss");
    let listener = lab.listen(SSH);
    for events in ["destroy,syn", "destroy"] {
        let mut watch = lab.watch(&["--events", events]);
        for round in 0..3 {
            for how in ["peer, held", "peer, let go", "us", "ss"] {
                let (client, server) = pair(&lab, &listener);
                let from = port(&client);
                send(&client, &server, 10);
                sleep_ms(if round == 0 { 120 } else { 3 });
                let ended = micros_now();
                match how {
                    "peer, held" => {
                        reset(server);
                        // Without SYNs only a poll finds it while it is held.
                        if events == "destroy,syn" || round == 0 {
                            wait_close_of(&mut watch, from);
                        }
                        drop(client);
                    }
                    "peer, let go" => {
                        reset(server);
                        drop(client);
                    }
                    "us" => reset(client),
                    _ => {
                        lab.run(&format!("ss -K sport = :{from}"));
                        drop(client);
                    }
                }
                let seen = Instant::now() + Duration::from_millis(400);
                let close = match events == "destroy" && how == "us" && round > 0 {
                    // Its notice does not say any more where it went: only what a poll saw of it can be told.
                    true => continue,
                    false => wait_close_of(&mut watch, from),
                };
                let what =
                    format!("{events}, {how}, {round}: {}", pick(&close, &["message", "portreeve.close"]));
                assert_eq!(close["portreeve"]["close"]["reason"], "reset", "{what}");
                assert_eq!(close["event"]["outcome"], "success", "{what}");
                let (bytes, marked) =
                    (&close["source"]["bytes"], &close["portreeve"]["close"]["bytes_exact"]);
                // What is left of our own reset is zeros; what has not been let go of has not been told.
                let is_gone = how == "us" || how == "peer, held";
                assert!(*bytes == 10 || is_gone && (bytes.is_null() || *marked == false), "{what}");
                let late = micros_of(&close["@timestamp"]) - ended;
                assert!(late < 500_000, "told {late} us after it: {what}");
                std::thread::sleep(seen.saturating_duration_since(Instant::now()));
            }
        }
        let records = watch.stop().records;
        let opens = with_action(&records, "connection-opened").len();
        assert_eq!(opens, with_action(&records, "connection-closed").len());
        assert!(opens == 12 || events == "destroy" && opens <= 12, "{opens}");
        assert_agreement(&records);
    }
}

#[test]
fn of_one_port_that_is_used_again_and_again_each_connection_is_another() {
    const ROUNDS: usize = 200;
    let lab = lab!();
    let listener = lab.listen(SSH);
    let to: SocketAddr = SSH.parse().unwrap();
    for lasts in [0, 20] {
        let mut watch = lab.watch(&[]);
        for _ in 0..ROUNDS {
            let client = lab.inside(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                socket.bind(&"127.0.0.1:50022".parse::<SocketAddr>().unwrap().into()).unwrap();
                // A child of another test may hold the last one until it runs its program.
                let connected = || socket.connect(&to.into()).ok();
                wait_for("the port", PATIENCE, connected);
                TcpStream::from(socket)
            });
            let server = listener.accept().unwrap().0;
            sleep_ms(lasts);
            reset(client);
            drop(server);
        }
        sleep_ms(1000);
        watch.wait_for("some close", |records| with_action(records, "connection-closed").pop());
        verify(&lab, &watch);
        let records = watch.stop().records;
        let (opens, closes) =
            (with_action(&records, "connection-opened"), with_action(&records, "connection-closed"));
        let reasons = closes.iter().fold(BTreeMap::<_, u32>::new(), |mut all, close| {
            *all.entry(close["portreeve"]["close"]["reason"].to_string()).or_default() += 1;
            all
        });
        // Those that came too late, on a busy machine.
        let gaps = with_action(&records, "gap");
        let counted: u64 = gaps.iter().filter_map(|gap| gap["portreeve"]["gap"]["count"].as_u64()).sum();
        println!(
            "{ROUNDS} rounds of {lasts} ms: {} opened, {} closed, {counted} counted, {reasons:?}",
            opens.len(),
            closes.len()
        );
        assert_eq!(opens.len(), closes.len());
        let coverage = with_action(&records, "coverage");
        assert!(
            opens.len() <= ROUNDS && opens.len() as u64 + counted >= ROUNDS as u64,
            "{gaps:#?} {coverage:#?}"
        );
        assert!(opens.len() > ROUNDS / 2);
        assert_agreement(&records);
    }
}

#[test]
fn a_socket_that_is_used_for_several_attempts_is_several_connections() {
    let lab = lab!("nft");
    let listener = lab.listen("127.0.0.2:22");
    lab.filter_port(2222);
    lab.run("echo 1 > /proc/sys/net/ipv4/tcp_syn_retries");
    for events in ["destroy,syn", "destroy", "none"] {
        let watch = lab.watch(&["--events", events, "--interval", "20ms", "--ports", "22,2222"]);
        let mut ports = Vec::new();
        for round in 0..5 {
            let client = lab.inside(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let to = |address: &str| address.parse::<SocketAddr>().unwrap().into();
                socket.connect(&to(SSH)).unwrap_err();
                if round == 0 {
                    // Two seconds: this one is seen, and its end is found just before the next begins.
                    socket.connect(&to("127.0.0.1:2222")).unwrap_err();
                }
                socket.connect(&to("127.0.0.2:22")).unwrap();
                TcpStream::from(socket)
            });
            let server = listener.accept().unwrap().0;
            ports.push(port(&client));
            sleep_ms(if round == 0 { 400 } else { 60 });
            drop(client);
            drop(server);
        }
        sleep_ms(1500);
        let records = watch.stop().records;
        for port in ports {
            // An attempt that was refused may have had this port before.
            let mut story = story_of(&records, port);
            story.retain(|record| record["destination"]["ip"] == "127.0.0.2");
            assert_eq!(actions(&story), ["connection-opened", "connection-closed"], "{events}: {story:#?}");
            let close = story.last().unwrap();
            assert_eq!(close["portreeve"]["close"]["reason"], "closed", "{events}: {close:#}");
        }
    }
}
