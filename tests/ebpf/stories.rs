//! The whole program with the kernel's words among its sources: one story a connection, whoever tells it first.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab;
use crate::support::audit::{Log, Visitor};
use crate::support::lab::Lab;
use crate::support::log::with_action;
use crate::support::watch::Watch;
use crate::support::{not_run, output};

/// Milliseconds between connect and close.
const LIVES: [&str; 6] = ["0", "0.2", "1", "5", "20", "100"];

/// A shell that connects, waits for an answer that does not come, and is gone.
fn visit(lab: &Lab, to: &str, life_ms: &str) -> Child {
    let seconds = life_ms.parse::<f64>().unwrap() / 1e3;
    let script = match life_ms {
        "0" => format!("exec 3<>/dev/tcp/{to}"),
        _ => format!("exec 3<>/dev/tcp/{to}; read -t {seconds:.4} -u 3"),
    };
    lab.command("bash").args(["-c", &script]).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits for the watch, or says why the source is off.
fn watch(lab: &Lab, test: &str, events: &str, more: &[&str]) -> Option<Watch> {
    watch_ports(lab, test, "22,2222", events, more)
}

fn watch_ports(lab: &Lab, test: &str, ports: &str, events: &str, more: &[&str]) -> Option<Watch> {
    let watch = lab.watch(&[&["--ports", ports, "--events", events], more].concat());
    let started = with_action(&watch.records(), "watch-started").remove(0);
    let state = started["portreeve"]["watch"]["events"]["ebpf"].as_str().unwrap().to_owned();
    if state == "on" {
        return Some(watch);
    }
    not_run(test, &state);
    None
}

/// Accepts until told to stop; a connection is held as long as the other end holds it. Longer, and that end might stay in
/// FIN_WAIT2, where the kernel has not let go of it yet.
fn serve(listener: &TcpListener, stop: &AtomicBool) -> usize {
    listener.set_nonblocking(true).unwrap();
    let (mut held, mut count) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            held.push(stream);
            count += 1;
        }
        held.retain_mut(|stream| !matches!(stream.read(&mut [0; 16]), Ok(0)));
        std::thread::sleep(Duration::from_micros(500));
    }
    count
}

/// Each of these processes made one connection: it has exactly one open and one close, and its owner is no other.
fn check(records: &[Value], pids: &[u32], events: &str) {
    let opens = with_action(records, "connection-opened");
    let closes = with_action(records, "connection-closed");
    // The kernel leaves a run of the program out now and then, and the ring is full while nothing reads: both are counted.
    let lost = |one: &Value| one["portreeve"]["coverage"]["lost"]["ebpf"].as_u64().unwrap();
    let lost: u64 = with_action(records, "coverage").iter().map(lost).sum();
    let (told, others): (Vec<_>, Vec<_>) =
        opens.iter().partition(|open| open["portreeve"]["connection"]["seen"] == "ebpf");
    let inexact = closes.iter().filter(|close| close["portreeve"]["close"]["exact"] == false).count();
    let unheard = format!(
        "{events}: of {} openings {} without their word, and {inexact} ends; {lost} lost",
        opens.len(),
        others.len()
    );
    println!("{unheard}");
    if opens.len() != pids.len() || !others.is_empty() {
        records.iter().for_each(|record| println!("{}", crate::support::log::summary(record)));
    }
    assert_eq!((opens.len(), closes.len()), (pids.len(), pids.len()), "{events}");
    assert!((others.len() + inexact) as u64 <= lost, "{unheard}");
    let mut owners: BTreeMap<u32, usize> = pids.iter().map(|pid| (*pid, 0)).collect();
    for open in told {
        let pid = open["process"]["pid"].as_u64().unwrap_or_else(|| panic!("{events}: {open:#}"));
        *owners.entry(u32::try_from(pid).unwrap()).or_default() += 1;
        let arguments = open["process"]["args"].as_array().unwrap_or_else(|| panic!("{open:#}"));
        assert_eq!((arguments.len(), &arguments[0], &arguments[1]), (3, &"bash".into(), &"-c".into()));
        assert_eq!(open["portreeve"]["ancestry"][0]["pid"], std::process::id(), "{open:#}");
    }
    assert!(owners.len() == pids.len() && owners.values().all(|count| *count <= 1), "{events}: {owners:?}");
    let of_none = owners.values().filter(|count| **count == 0).count();
    assert_eq!(of_none, others.len(), "{events}: {owners:?}");
}

#[test]
fn every_connection_of_any_length_is_one_story_with_its_owner_whatever_else_tells_it() {
    let test = "every_connection_of_any_length_is_one_story_with_its_owner_whatever_else_tells_it";
    for events in ["ebpf", "auto", "destroy,syn,proc,ebpf", "syn,ebpf"] {
        for source in ["netlink", "procfs"] {
            let lab = lab!("bash");
            let listener = lab.listen("127.0.0.1:22");
            let Some(watch) = watch(&lab, test, events, &["--source", source]) else { return };
            let stop = AtomicBool::new(false);
            let pids = std::thread::scope(|scope| {
                let server = scope.spawn(|| serve(&listener, &stop));
                let mut pids = Vec::new();
                for round in 0..12u64 {
                    for life in LIVES {
                        let mut child = visit(&lab, "127.0.0.1/22", life);
                        pids.push(child.id());
                        child.wait().unwrap();
                        std::thread::sleep(Duration::from_millis((round * 17) % 31));
                    }
                }
                stop.store(true, Ordering::Relaxed);
                assert_eq!(server.join().unwrap(), pids.len());
                pids
            });
            std::thread::sleep(Duration::from_millis(1_200));
            check(&watch.stop().records, &pids, &format!("{events} {source}"));
        }
    }
}

#[test]
fn all_sources_together_tell_each_connection_once_with_its_owner() {
    const EACH: usize = 8;
    let test = "all_sources_together_tell_each_connection_once_with_its_owner";
    let lab = lab!("perl", "nft");
    let listener = lab.listen("127.0.0.1:22");
    let rule = output(std::process::Command::new(env!("CARGO_BIN_EXE_portreeve")).args(["rule", "nflog"]));
    std::fs::write(lab.path("rule"), rule.stdout).unwrap();
    lab.run(&format!("nft -f {}", lab.path("rule").display()));
    let mut log = Log::new(&lab);
    let audit_log = log.path.to_str().unwrap().to_owned();
    let all = "destroy,syn,nflog:22,audit,proc,ebpf";
    let Some(watch) = watch(&lab, test, all, &["--audit-log", &audit_log]) else { return };
    let stop = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        scope.spawn(|| serve(&listener, &stop));
        let mut made = BTreeMap::new();
        for life in LIVES.iter().cycle().take(EACH * LIVES.len()) {
            let seconds = life.parse::<f64>().unwrap() / 1e3;
            let mut visitor = Visitor::start(&lab, &seconds.to_string());
            made.insert(visitor.port, u64::from(visitor.pid()));
            visitor.wait();
            log.visited(&visitor);
        }
        // What waits for a record waits no longer.
        std::thread::sleep(Duration::from_millis(3_600));
        stop.store(true, Ordering::Relaxed);
        made
    });
    let records = watch.stop().records;
    let started = &with_action(&records, "watch-started")[0]["portreeve"]["watch"]["events"];
    // The connector of processes is for the machine's first namespaces.
    for source in ["destroy", "syn", "nflog", "audit", "ebpf"] {
        assert_eq!(started[source], "on", "{source}");
    }
    let told = |action| {
        let owner =
            |one: &Value| (one["source"]["port"].as_u64().unwrap(), one["process"]["pid"].as_u64().unwrap());
        let told = with_action(&records, action);
        assert_eq!(told.len(), made.len(), "{action}: each once");
        told.iter().map(owner).collect::<BTreeMap<_, _>>()
    };
    assert_eq!((&told("connection-opened"), &told("connection-closed")), (&made, &made));
}

#[test]
fn refused_and_unreachable_attempts_have_their_owner_and_are_told_apart() {
    let test = "refused_and_unreachable_attempts_have_their_owner_and_are_told_apart";
    for events in ["ebpf", "auto", "destroy,syn,ebpf"] {
        let lab = lab!("bash");
        let Some(watch) = watch(&lab, test, events, &[]) else { return };
        let mut pids = Vec::new();
        for to in ["127.0.0.1/22", "::1/22", "192.0.2.77/22", "2001:db8::77/2222"] {
            for _ in 0..10 {
                let mut child = visit(&lab, to, "0");
                pids.push(child.id());
                child.wait().unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(600));
        let records = watch.stop().records;
        let reasons = |reason: &str| {
            let closes = with_action(&records, "connection-closed");
            closes.iter().filter(|close| close["event"]["reason"] == reason).count()
        };
        assert_eq!((reasons("refused"), reasons("unreachable")), (20, 20), "{events}");
        let opens = with_action(&records, "connection-opened");
        let owners: Vec<u64> = opens.iter().filter_map(|open| open["process"]["pid"].as_u64()).collect();
        let mut owners: Vec<u32> = owners.into_iter().map(|pid| u32::try_from(pid).unwrap()).collect();
        owners.sort_unstable();
        pids.sort_unstable();
        assert_eq!(owners, pids, "{events}");
    }
}

#[test]
fn an_attempt_that_nobody_answers_is_opened_while_it_waits_and_ends_once() {
    let test = "an_attempt_that_nobody_answers_is_opened_while_it_waits_and_ends_once";
    for events in ["ebpf", "auto", "destroy,syn,ebpf"] {
        let lab = lab!("bash", "nft");
        lab.filter_port(22);
        let Some(mut watch) = watch(&lab, test, events, &[]) else { return };
        let mut child = visit(&lab, "127.0.0.1/22", "0");
        let open = watch.wait_opened();
        assert_eq!(
            (&open["process"]["pid"], &open["portreeve"]["connection"]["state"]),
            (&child.id().into(), &"syn_sent".into())
        );
        assert_ne!(open["source"]["port"], 0);
        child.kill().unwrap();
        child.wait().unwrap();
        let close = watch.wait_closed();
        assert_eq!(
            (&close["event"]["reason"], &close["portreeve"]["close"]["exact"]),
            (&"cancelled".into(), &true.into())
        );
        watch.stop();
    }
}

#[test]
fn an_end_whose_last_word_to_the_other_is_answered_late_is_told_exactly() {
    use std::io::Write as _;
    let test = "an_end_whose_last_word_to_the_other_is_answered_late_is_told_exactly";
    let lab = lab!("nft");
    let (listener, others) = (lab.listen("127.0.0.1:2216"), lab.listen("127.0.0.1:0"));
    for _ in 0..5 {
        let Some(mut watch) = watch_ports(&lab, test, "2216", "ebpf", &[]) else { return };
        let mut client = lab.connect("127.0.0.1:2216");
        let _server = listener.accept().unwrap().0;
        client.write_all(b"word").unwrap();
        let other = lab.connect(&others.local_addr().unwrap().to_string());
        watch.wait_opened();
        // The FIN is sent again after 0.2 and 0.6 s: until then the kernel keeps the socket, which nobody holds any more.
        lab.filter_port(2216);
        let closed = Instant::now();
        drop(client);
        // A reset, of whomever, has what is followed looked at.
        socket2::SockRef::from(&other).set_linger(Some(Duration::ZERO)).unwrap();
        drop(other);
        std::thread::sleep(Duration::from_millis(250));
        lab.open_ports();
        let took = closed.elapsed();
        let close = watch.wait_closed();
        watch.stop();
        // A machine that is so busy that it is sent again only later proves nothing.
        if took < Duration::from_millis(500) {
            assert_eq!(
                (&close["portreeve"]["close"]["exact"], &close["source"]["bytes"]),
                (&true.into(), &4.into())
            );
            return;
        }
    }
    not_run(test, "the machine was too busy, five times");
}

#[test]
fn of_a_flood_each_connection_is_told_or_its_words_are_counted_as_lost() {
    use std::net::TcpStream;
    const MADE: usize = 20_000;
    let test = "of_a_flood_each_connection_is_told_or_its_words_are_counted_as_lost";
    for events in ["ebpf", "auto"] {
        let lab = lab!();
        let log = lab.path("flood.jsonl");
        let mut command = lab.portreeve();
        // A port of its own: other tests' watchers hear of every namespace, too.
        command.args(["--ports", "2299", "--format", "json", "--events", events, "--log-file"]).arg(&log);
        let mut watch = Watch::start_into(&lab, &mut command, log.clone());
        let started = with_action(&watch.records(), "watch-started").remove(0);
        let state = &started["portreeve"]["watch"]["events"]["ebpf"];
        if state != "on" {
            return not_run(test, &state.to_string());
        }
        lab.inside(|| {
            // Each port is used again and again, so that one connection may be taken for another.
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 21000").unwrap();
            let listener = TcpListener::bind("127.0.0.1:2299").unwrap();
            for _ in 0..MADE {
                let client = TcpStream::connect("127.0.0.1:2299").unwrap();
                // A reset, or TIME_WAIT would use up the ports.
                socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
                drop((client, listener.accept().unwrap()));
            }
        });
        std::thread::sleep(Duration::from_secs(1));
        // An end whose word was lost is found by the table.
        watch.wait_for("all ends", |records| {
            let count = |action| with_action(records, action).len();
            (count("connection-opened") == count("connection-closed")).then_some(())
        });
        let records = watch.stop().records;
        let opens = with_action(&records, "connection-opened");
        let ids: std::collections::BTreeSet<_> =
            opens.iter().map(|open| open["portreeve"]["connection"]["id"].to_string()).collect();
        assert_eq!(ids.len(), opens.len());
        assert_eq!(with_action(&records, "connection-closed").len(), opens.len());
        let cookies: Vec<_> =
            opens.iter().filter_map(|open| open["portreeve"]["connection"]["cookie"].as_str()).collect();
        let sockets: std::collections::BTreeSet<_> = cookies.iter().collect();
        assert_eq!(sockets.len(), cookies.len(), "no socket is told twice");
        let inexact = with_action(&records, "connection-closed").into_iter().filter(|close| {
            let portreeve = &close["portreeve"];
            portreeve["connection"]["seen"] == "ebpf" && portreeve["close"]["exact"] == false
        });
        println!("{events}: {} of those told by words ended inexactly", inexact.count());
        let coverages = with_action(&records, "coverage");
        let lost: u64 =
            coverages.iter().map(|one| one["portreeve"]["coverage"]["lost"]["ebpf"].as_u64().unwrap()).sum();
        println!("{events}: {} of {MADE} told, {lost} words lost", opens.len());
        assert!(opens.len() as u64 + lost >= MADE as u64, "{} told, {lost} words lost", opens.len());
        assert!(opens.len() <= MADE);
        // Whom a table shows to hold one may be a child on its way to its program.
        let told = opens.iter().filter(|open| open["portreeve"]["connection"]["seen"] == "ebpf");
        let wrong = told.filter(|open| {
            open["process"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(std::process::id()))
        });
        assert_eq!(wrong.count(), 0, "no owner is wrong");
        let judged = lab.command(crate::support::watch::PORTREEVE).arg("verify").arg(&log).output().unwrap();
        assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
    }
}

#[test]
fn real_ssh_is_told_once_through_all_sources_with_its_way() {
    let test = "real_ssh_is_told_once_through_all_sources_with_its_way";
    for events in ["ebpf", "auto", "destroy,syn,proc,ebpf"] {
        let mut lab = lab!();
        lab.sshd(&["127.0.0.1:22", "[::1]:22", "127.0.0.1:2222"]);
        let Some(watch) = watch(&lab, test, events, &[]) else { return };
        let mut pids = Vec::new();
        for words in
            [&["127.0.0.1", "true"][..], &["-6", "::1", "true"], &["-p", "2222", "127.0.0.1", "exit 3"]]
        {
            for _ in 0..4 {
                let mut ssh =
                    lab.ssh().args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                pids.push(ssh.id());
                ssh.wait().unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(1_500));
        let records = watch.stop().records;
        let opens = with_action(&records, "connection-opened");
        let closes = with_action(&records, "connection-closed");
        let owners: Vec<_> = opens.iter().map(|open| open["process"]["pid"].as_u64().unwrap_or(0)).collect();
        assert_eq!(owners, pids.iter().map(|pid| u64::from(*pid)).collect::<Vec<_>>(), "{events}");
        assert_eq!(closes.len(), opens.len(), "{events}");
        for open in &opens {
            assert_eq!(
                (&open["process"]["name"], &open["portreeve"]["route"]),
                (&"ssh".into(), &"direct".into()),
                "{events}: {open:#}"
            );
        }
        for close in &closes {
            assert_eq!(close["portreeve"]["close"]["exact"], true, "{events}: {close:#}");
            assert!(
                close["source"]["bytes"].as_u64().is_some_and(|bytes| bytes > 1_000),
                "{events}: {close:#}"
            );
        }
    }
}
