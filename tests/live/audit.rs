//! What audit records add, written as auditd writes them, about connections that are really made; and once the kernel's own.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::lab;
use crate::support::audit::{Log, Visitor};
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::{assert_fields, with_action};
use crate::support::watch::Watch;
use crate::support::{find_program, not_run, output};

fn watch(lab: &Lab, log: &Path, events: &str, interval: &str) -> Watch {
    lab.watch(&["--interval", interval, "--events", events, "--audit-log", log.to_str().unwrap()])
}

fn serve(lab: &Lab) {
    let listener = lab.listen("127.0.0.1:22");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || stream.read(&mut [0]));
        }
    });
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// All that a run told, once whatever waits for a record has been told.
fn told(watch: Watch) -> (Vec<Value>, Vec<Value>) {
    sleep_ms(3_600);
    let records = watch.stop().records;
    assert_eq!(with_action(&records, "watch-started")[0]["portreeve"]["watch"]["events"]["audit"], "on");
    (with_action(&records, "connection-opened"), with_action(&records, "connection-closed"))
}

#[test]
fn a_connection_that_its_process_holds_is_opened_by_its_record() {
    let lab = lab!("perl");
    serve(&lab);
    let mut log = Log::new(&lab);
    // No look comes in time.
    let mut watch = watch(&lab, &log.path, "none", "30s");
    let visitor = Visitor::start(&lab, "30");
    log.visited(&visitor);
    let open = watch.wait_opened();
    assert_fields(
        &open,
        &json!({
            "source.port": visitor.port,
            "process.pid": visitor.pid(),
            "portreeve.connection.seen": "audit",
            "portreeve.attribution.status": "owned",
            "portreeve.attribution.evidence": null,
        }),
    );
    assert!(open["process"]["entity_id"].is_string() && open["portreeve"]["connection"]["inode"].is_u64());
    watch.stop();
}

#[test]
fn what_was_over_at_once_is_told_with_who_asked_for_it_and_his_login() {
    const COUNT: usize = 12;
    let lab = lab!("perl");
    serve(&lab);
    let mut log = Log::new(&lab);
    let mut watch = watch(&lab, &log.path, "destroy", "50ms");
    let mut pids = BTreeMap::new();
    for number in 0..COUNT {
        let mut visitor = Visitor::start(&lab, "0");
        pids.insert(visitor.port, u64::from(visitor.pid()));
        visitor.wait();
        // Behind its end, a bit or a lot.
        sleep_ms(if number % 2 == 0 { 0 } else { 250 });
        log.visited(&visitor);
        watch.wait_for("its end", |records| {
            (with_action(records, "connection-closed").len() > number).then_some(())
        });
    }
    let (opens, closes) = told(watch);
    assert_eq!((opens.len(), closes.len()), (COUNT, COUNT), "{opens:#?}");
    let (mut named, mut by_audit) = (0, 0);
    for open in &opens {
        let Some(pid) = open["process"]["pid"].as_u64() else { continue };
        assert_eq!(pids.get(&open["source"]["port"].as_u64().unwrap()), Some(&pid), "{open}");
        named += 1;
        if open["portreeve"]["attribution"]["evidence"] == "audit" {
            by_audit += 1;
            assert_fields(
                open,
                &json!({
                    "process.name": "perl",
                    "process.args": ["perl", "--password=****"],
                    "process.parent.pid": std::process::id(),
                    "process.tty.name": "pts/3",
                    "portreeve.login.uid": 1000,
                    "portreeve.login.session": 7,
                    "portreeve.connection.seen": "destroy",
                }),
            );
            assert!(open["portreeve"]["ancestry"].as_array().unwrap().len() > 1, "{open}");
        }
    }
    println!("{named} of {COUNT} named, {by_audit} by their record");
    // On a busy machine a look meets some of them, and some records come too late.
    assert!(named * 4 >= COUNT * 3 && by_audit > 0, "{named}, {by_audit}: {opens:#?}");
}

#[test]
fn what_is_over_soon_after_it_was_told_without_an_owner_gets_the_one_who_asked() {
    let lab = lab!("perl");
    serve(&lab);
    let mut log = Log::new(&lab);
    lab.run(&format!("chmod 755 {}", log.path.parent().unwrap().display()));
    // Who may not read others' descriptors tells the open at once, without an owner.
    let words = ["--events", "destroy", "--audit-log", log.path.to_str().unwrap()];
    let mut watch = Watch::start(&lab, lab.portreeve_as(NOBODY, &["--no-new-privs"]).args(words));
    for (told, seconds) in [(1, "0.3"), (2, "1.5")] {
        let mut visitor = Visitor::start(&lab, seconds);
        watch.wait_actions("connection-opened", told);
        log.visited(&visitor);
        visitor.wait();
        sleep_ms(700);
    }
    sleep_ms(3_600);
    let records = watch.stop().records;
    let of = |action| with_action(&records, action);
    let (opens, mut changes, closes) =
        (of("connection-opened"), of("connection-changed"), of("connection-closed"));
    // On a busy machine that nobody is seen to own it is told later.
    changes.retain(|change| change["process"]["pid"].is_u64());
    assert_eq!((opens.len(), changes.len(), closes.len()), (2, 2, 2), "{records:#?}");
    for ((open, change), close) in opens.iter().zip(&changes).zip(&closes) {
        assert_fields(open, &json!({ "process.pid": null, "portreeve.attribution.status": "unknown" }));
        for record in [change, close] {
            assert_eq!(record["portreeve"]["connection"]["id"], open["portreeve"]["connection"]["id"]);
            assert_fields(
                record,
                &json!({ "process.name": "perl", "portreeve.attribution.evidence": "audit" }),
            );
        }
        assert_eq!(change["portreeve"]["changed"], json!(["process", "portreeve.attribution"]));
    }
    let short = closes[0]["event"]["duration"].as_u64().unwrap();
    assert!(short < 500_000_000, "its end is told late and was not late: {short}");
}

#[test]
fn between_two_who_asked_in_one_moment_no_guess_is_made() {
    let lab = lab!("perl");
    serve(&lab);
    let mut log = Log::new(&lab);
    let watch = watch(&lab, &log.path, "destroy", "50ms");
    let mut visitors = [Visitor::start(&lab, "0"), Visitor::start(&lab, "0")];
    visitors.iter_mut().for_each(Visitor::wait);
    let asked = visitors[1].asked;
    for visitor in visitors {
        log.connect(visitor.pid(), [127, 0, 0, 1], asked, 0);
    }
    let (opens, closes) = told(watch);
    assert_eq!((opens.len(), closes.len()), (2, 2), "{opens:#?}");
    assert!(opens.iter().all(|open| open["portreeve"]["attribution"]["evidence"] != "audit"), "{opens:#?}");
}

#[test]
fn an_attempt_without_a_packet_is_told_by_its_record_alone_and_one_that_another_source_told_is_not() {
    let lab = lab!("perl");
    serve(&lab);
    let mut log = Log::new(&lab);
    let mut watch = watch(&lab, &log.path, "destroy", "50ms");
    // They are gone, and nobody is given such a number meanwhile: the kernel has none above 4194304.
    let pid = 4_200_000;
    let now = SystemTime::now();
    // No route, twice; one that the firewall forbids; one that is asked again how it goes; a datagram socket.
    log.connect(pid, [192, 0, 2, 9], now, -101);
    log.connect(pid, [192, 0, 2, 9], now, -101);
    log.connect(pid + 1, [192, 0, 2, 8], now, -13);
    log.connect(pid + 1, [192, 0, 2, 8], now, -114);
    log.connect(pid + 2, [192, 0, 2, 7], now, 0);
    // getaddrinfo's: no way to the first address, so the second is tried alone.
    log.connect(pid + 3, [192, 0, 2, 6], now, -101);
    log.connect(pid + 3, [127, 0, 0, 2], now, 0);
    // The same, and no way to any: each is tried.
    for _ in 0..2 {
        log.connect(pid + 4, [192, 0, 2, 4], now, -101);
        log.connect(pid + 4, [192, 0, 2, 5], now, -101);
    }
    let held = Visitor::start(&lab, "30");
    watch.wait_for("what a look sees", |records| {
        with_action(records, "connection-opened").into_iter().find(|open| open["source"]["port"] == held.port)
    });
    log.visited(&held);
    log.connect(pid + 3, [127, 0, 0, 2], now, 0);
    drop(held);
    let (opens, closes) = told(watch);
    let by_record: Vec<_> =
        closes.iter().filter(|c| c["portreeve"]["connection"]["seen"] == "audit").collect();
    let ends: Vec<_> = by_record
        .iter()
        .map(|c| {
            (c["destination"]["ip"].as_str().unwrap(), c["portreeve"]["close"]["reason"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        ends,
        [
            ("192.0.2.9", "unreachable"),
            ("192.0.2.9", "unreachable"),
            ("192.0.2.8", "failed"),
            ("192.0.2.4", "unreachable"),
            ("192.0.2.5", "unreachable"),
        ]
    );
    for close in by_record {
        assert_fields(
            close,
            &json!({
                "source": null,
                "network.community_id": null,
                // As it might be of a datagram socket's.
                "network.transport": null,
                "portreeve.connection.state": "unknown",
                "event.outcome": "failure",
                "user.id": "0",
            }),
        );
    }
    assert_eq!((opens.len(), closes.len()), (6, 6), "{opens:#?}");
}

/// Connects a datagram socket to 127.0.0.1:22, waits so many seconds, and is gone.
const DATAGRAM: &str = "use Socket; socket(S, PF_INET, SOCK_DGRAM, 0); \
                        connect(S, sockaddr_in(22, INADDR_LOOPBACK)) or die; close STDOUT; \
                        select(undef, undef, undef, $ARGV[0])";

#[test]
fn a_datagram_socket_is_told_as_no_connection() {
    let lab = lab!("perl");
    let mut log = Log::new(&lab);
    // Where ends are not heard, what nothing else tells is told by its record.
    let watch = watch(&lab, &log.path, "none", "50ms");
    let mut perl = lab.command("perl");
    let mut datagram = perl.args(["-e", DATAGRAM, "1"]).stdout(Stdio::piped()).spawn().unwrap();
    datagram.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap();
    // The first descriptor of its own is 3.
    let pid = datagram.id();
    let mut asks = |to, exit| log.connect(pid, to, SystemTime::now(), exit);
    asks([127, 0, 0, 1], 0);
    sleep_ms(300);
    datagram.wait().unwrap();
    // Nobody can be asked about these: an answer that no datagram socket gets, and one that any does.
    asks([127, 0, 0, 2], -111);
    asks([127, 0, 0, 3], 0);
    let (opens, closes) = told(watch);
    assert_eq!((opens.len(), closes.len()), (2, 2), "{opens:#?}");
    let told = |close: &Value, expected: Value| assert_fields(close, &expected);
    told(
        &closes[0],
        json!({
            "destination.ip": "127.0.0.2",
            "network.transport": "tcp",
            "portreeve.close.reason": "refused",
            "event.outcome": "failure",
        }),
    );
    told(
        &closes[1],
        json!({
            "destination.ip": "127.0.0.3",
            "network.transport": null,
            "portreeve.connection.state": "unknown",
            "portreeve.close.reason": "closed",
            "event.outcome": "unknown",
        }),
    );
}

#[test]
fn all_sources_together_tell_each_connection_once() {
    const COUNT: usize = 15;
    let lab = lab!("perl", "nft");
    serve(&lab);
    let rule = Command::new(env!("CARGO_BIN_EXE_portreeve")).args(["rule", "nflog"]).output().unwrap();
    std::fs::write(lab.path("rule"), rule.stdout).unwrap();
    lab.run(&format!("nft -f {}", lab.path("rule").display()));
    let mut log = Log::new(&lab);
    for seconds in ["0", "0.0002", "0.005", "0.1"] {
        let watch = watch(&lab, &log.path, "destroy,syn,nflog:22,proc", "50ms");
        let mut pids = BTreeMap::new();
        for _ in 0..COUNT {
            let mut visitor = Visitor::start(&lab, seconds);
            pids.insert(visitor.port, u64::from(visitor.pid()));
            visitor.wait();
            log.visited(&visitor);
            sleep_ms(20);
        }
        let (opens, closes) = told(watch);
        assert_eq!((opens.len(), closes.len()), (COUNT, COUNT), "{seconds}: {opens:#?}");
        let mut named = 0;
        for open in opens {
            if let Some(pid) = open["process"]["pid"].as_u64() {
                assert_eq!(pids.get(&open["source"]["port"].as_u64().unwrap()), Some(&pid), "{open}");
                named += 1;
            }
        }
        println!("{seconds} s: {named} of {COUNT} named");
    }
}

#[test]
fn a_log_that_cannot_be_followed_and_a_namespace_without_records_are_told() {
    let lab = lab!();
    for (words, why) in [
        (
            &["--audit-log", "/nonexistent/audit.log"][..],
            "off: cannot follow /nonexistent/audit.log: No such file",
        ),
        (
            &["--events", "audit"],
            "off: the kernel gives audit records in the machine's first network namespace alone",
        ),
    ] {
        let records = lab.watch(words).stop().records;
        let told =
            with_action(&records, "watch-started")[0]["portreeve"]["watch"]["events"]["audit"].to_string();
        assert!(told.trim_matches('"').starts_with(why), "{told}");
    }
}

/// Takes the rules away and turns audit off, whatever happens.
struct Rules;

impl Drop for Rules {
    fn drop(&mut self) {
        for words in [&["-D", "-k", "portreeve"][..], &["-e", "0"]] {
            drop(output(Command::new("auditctl").args(words)));
        }
    }
}

/// Audit is one for the whole machine: this adds its rules for less than two seconds, and only where there are none.
#[test]
fn the_kernel_s_own_records_name_who_connected() {
    let name = "the_kernel_s_own_records_name_who_connected";
    let lab = lab!("perl");
    if find_program("auditctl").is_none() {
        return not_run(name, "needs auditctl");
    }
    let said = |words: &[&str]| {
        String::from_utf8_lossy(&output(Command::new("auditctl").args(words)).stdout).into_owned()
    };
    let status = said(&["-s"]);
    let is_quiet =
        status.contains("enabled 0\n") && status.contains("pid 0\n") && said(&["-l"]) == "No rules\n";
    if !is_quiet {
        return not_run(name, "the machine's audit is in use, or may not be");
    }
    // In the machine's own network, and of nobody's port.
    let program = env!("CARGO_BIN_EXE_portreeve");
    let words = ["watch", "--config", "/dev/null", "--netns", "own", "--ports", "4", "--events", "audit"];
    let watch = Watch::start(&lab, Command::new(program).args(words).args(["--interval", "30s"]));
    let printed = Command::new(program).args(["rule", "audit"]).output().unwrap().stdout;
    std::fs::write(lab.path("rules"), printed).unwrap();
    let rules = Rules;
    let added = output(Command::new("auditctl").arg("-R").arg(lab.path("rules")));
    assert!(added.status.success() && added.stderr.is_empty(), "{added:?}");
    let six = said(&["-l"]);
    assert_eq!(six.lines().filter(|line| line.ends_with("key=portreeve")).count(), 6, "{six}");
    drop(output(Command::new("auditctl").args(["-e", "1"])));
    // Nobody listens on port 4.
    let connect = "use Socket qw(:all); socket(S, PF_INET, SOCK_STREAM, 0); connect(S, sockaddr_in(4, INADDR_LOOPBACK)); \
                   socket(T, PF_INET6, SOCK_STREAM, 0); connect(T, pack_sockaddr_in6(4, inet_pton(AF_INET6, '::1'))); \
                   print $$";
    let perl = output(lab.command("perl").args(["-e", connect]));
    drop(rules);
    assert!(
        !said(&["-l"]).contains("portreeve") && said(&["-s"]).contains("enabled 0\n"),
        "all is as it was"
    );
    let pid: u64 = String::from_utf8(perl.stdout).unwrap().parse().unwrap();
    sleep_ms(200);
    let records = watch.stop().records;
    let closes = with_action(&records, "connection-closed");
    let ends: Vec<_> = closes.iter().map(|c| c["destination"]["ip"].as_str().unwrap()).collect();
    assert_eq!(ends, ["127.0.0.1", "::1"], "{records:#?}");
    for close in closes {
        assert_fields(
            &close,
            &json!({
                "process.pid": pid,
                "process.name": "perl",
                "portreeve.close.reason": "refused",
                "portreeve.attribution.evidence": "audit",
            }),
        );
    }
}
