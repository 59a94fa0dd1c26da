//! What a reload changes of the program in the kernel, and of what stands beside it.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::flows::{bind, serve, verify, watching};
use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{assert_fields, gaps_but_stalls, with_action};
use crate::support::session::{STAY, Session};
use crate::support::watch::{PATIENCE, PORTREEVE, Watch};
use crate::support::{not_run, wait_for};

pub fn reload(lab: &Lab, watch: &mut Watch, number: usize, settings: &str) -> Value {
    std::fs::write(lab.path("portreeve.toml"), settings).unwrap();
    watch.signal(Signal::HUP);
    let reloaded = watch.wait_actions("watch-reloaded", number).pop().unwrap();
    assert_eq!(reloaded["event"]["outcome"], "success", "{reloaded:#}");
    reloaded
}

#[test]
fn what_a_reload_takes_in_is_told_with_its_next_datagram_and_what_was_followed_is_not_told_again() {
    let test =
        "what_a_reload_takes_in_is_told_with_its_next_datagram_and_what_was_followed_is_not_told_again";
    let lab = lab!();
    let narrow = "transport = 'tcp,udp'\nports = '2392'\nexclude = ['127.0.0.2/32']\n";
    let wide = "transport = 'tcp,udp'\nports = '2392,2393'\n";
    std::fs::write(lab.path("portreeve.toml"), narrow).unwrap();
    let Some(mut watch) = watching(lab.watch(&["--events", "ebpf"]), test) else { return };
    let client = bind(&lab, "0.0.0.0:0");
    let send = |to: &[&str]| {
        for to in to {
            lab.inside(|| client.send_to(b"word", to).unwrap());
        }
    };
    let all = ["127.0.0.1:2392", "127.0.0.2:2392", "127.0.0.1:2393"];
    send(&all);
    let open = watch.wait_opened();
    assert_fields(&open, &json!({ "destination.ip": "127.0.0.1", "destination.port": 2392 }));
    // What was told of the others has been taken, and was not wanted.
    std::thread::sleep(Duration::from_millis(1_200));
    reload(&lab, &mut watch, 1, wide);
    for _ in 0..3 {
        send(&all);
    }
    let opens = watch.wait_opens(3);
    for (open, (ip, port)) in opens[1..].iter().zip([("127.0.0.2", 2392), ("127.0.0.1", 2393)]) {
        let expected = json!({
            "destination.ip": ip, "destination.port": port, "process.pid": std::process::id(),
            "portreeve.connection.seen": "ebpf", "portreeve.attribution.status": "owned",
        });
        assert_fields(open, &expected);
    }
    // Out of what is watched, and into it again.
    reload(&lab, &mut watch, 2, narrow);
    let out = watch.wait_actions("connection-closed", 2);
    assert!(out.iter().all(|close| close["portreeve"]["close"]["reason"] == "out_of_scope"), "{out:#?}");
    send(&all);
    std::thread::sleep(Duration::from_millis(300));
    reload(&lab, &mut watch, 3, wide);
    send(&all);
    watch.wait_opens(5);
    drop(client);
    let closes = watch.wait_actions("connection-closed", 5);
    let sent =
        |nth: usize| (closes[nth]["destination"]["ip"].clone(), closes[nth]["source"]["packets"].clone());
    let mut last: Vec<_> = (2..5).map(|nth| (sent(nth).0.to_string(), sent(nth).1.to_string())).collect();
    last.sort_unstable();
    let expected = [("\"127.0.0.1\"", "1"), ("\"127.0.0.1\"", "6"), ("\"127.0.0.2\"", "1")];
    assert_eq!(last, expected.map(|(ip, packets)| (ip.to_owned(), packets.to_owned())), "{closes:#?}");
    verify(&lab, &watch.text());
    assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 5);
}

/// Programs that a watcher has attached.
fn attached(watch: &Watch) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{}/fdinfo", watch.child.id())).unwrap();
    let told = folder.filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok());
    told.filter(|told| told.contains("link_type:")).count()
}

/// Short connections, one after the other, for as long as this takes; answers how many.
fn while_visited(lab: &Lab, listener: &TcpListener, act: impl FnOnce()) -> usize {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let visits = scope.spawn(|| {
            let mut visits = 0;
            while !is_over.load(Ordering::Relaxed) {
                drop((lab.connect("127.0.0.1:2391"), listener.accept().unwrap()));
                visits += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            visits
        });
        std::thread::sleep(Duration::from_millis(50));
        act();
        std::thread::sleep(Duration::from_millis(50));
        is_over.store(true, Ordering::Relaxed);
        visits.join().unwrap()
    })
}

fn of_transport(records: &[Value], action: &str, transport: &str) -> Vec<Value> {
    let mut all = with_action(records, action);
    all.retain(|record| record["network"]["transport"] == transport);
    all
}

/// The port from which a question was asked, and answered.
fn ask_connected(lab: &Lab) -> u16 {
    let socket = bind(lab, "127.0.0.1:0");
    lab.inside(|| socket.connect("127.0.0.1:2392").unwrap());
    socket.send(b"question").unwrap();
    socket.recv(&mut [0; 64]).unwrap();
    socket.local_addr().unwrap().port()
}

/// So many connections are told, each once, by whom it was made and when it ended.
fn check_visits(records: &[Value], visits: usize) {
    let opens = of_transport(records, "connection-opened", "tcp");
    let closes = of_transport(records, "connection-closed", "tcp");
    assert_eq!((opens.len(), closes.len()), (visits, visits), "each once");
    for close in &closes {
        let expected = json!({
            "portreeve.attribution.status": "owned", "portreeve.close.exact": true, "process.pid": std::process::id(),
        });
        assert_fields(close, &expected);
    }
    let mut lost = with_action(records, "gap");
    lost.retain(|gap| gap["portreeve"]["gap"]["cause"] == "events_lost");
    assert!(lost.is_empty(), "{lost:#?}");
}

/// What the program counts goes on where the one before it was.
fn check_coverage(records: &[Value]) {
    let coverage = &with_action(records, "coverage")[0]["portreeve"]["coverage"];
    assert_eq!(
        (&coverage["comparable"], &coverage["missed_at_most"]),
        (&json!(true), &json!(0)),
        "{coverage:#}"
    );
}

#[test]
fn a_reload_that_adds_udp_or_takes_it_away_loses_no_connection_and_tells_none_twice() {
    let test = "a_reload_that_adds_udp_or_takes_it_away_loses_no_connection_and_tells_none_twice";
    let lab = lab!("python3");
    let listener = lab.listen("127.0.0.1:2391");
    let _server = serve(&lab, &["2392"]);
    let settings = |transport: &str| format!("ports = '2391,2392'\ntransport = '{transport}'\n");
    let start = |transport: &str| {
        std::fs::write(lab.path("portreeve.toml"), settings(transport)).unwrap();
        watching(lab.watch(&["--events", "ebpf"]), test)
    };
    let Some(with) = start("tcp,udp") else { return };
    let with = attached(&with);
    let mut watch = start("tcp").unwrap();
    let (without, warned) = (attached(&watch), watch.errors());
    assert!(without < with, "{without} {with}");
    let change = |watch: &mut Watch, number: usize, transport: &str, programs: usize| {
        let reloaded = reload(&lab, watch, number, &settings(transport));
        assert_eq!(reloaded["portreeve"]["watch"]["changed"], json!(["transport"]));
        let is_loaded = || (attached(watch) == programs).then_some(());
        wait_for("the program that is loaded anew", PATIENCE, is_loaded);
    };
    let client = bind(&lab, "127.0.0.1:0");
    let send = || lab.inside(|| client.send_to(b"word", "127.0.0.1:2392").unwrap());
    let long = (lab.connect("127.0.0.1:2391"), listener.accept().unwrap());
    watch.wait_opened();
    send();

    let mut visits = 1 + while_visited(&lab, &listener, || change(&mut watch, 1, "tcp,udp", with));
    send();
    send();
    let ports = [client.local_addr().unwrap().port(), ask_connected(&lab)];
    let flows = watch.wait_for("both flows", |records| {
        Some(of_transport(records, "connection-opened", "udp")).filter(|opens| opens.len() == 2)
    });
    for (open, port) in flows.iter().zip(ports) {
        let expected = json!({
            "source.port": port, "portreeve.connection.seen": "ebpf", "process.pid": std::process::id(),
        });
        assert_fields(open, &expected);
    }

    visits += while_visited(&lab, &listener, || change(&mut watch, 2, "tcp", without));
    println!("{visits} visits");
    assert_eq!(watch.errors(), warned);
    send();
    drop((long, client));
    let closes = watch.wait_for("the ends of all", |records| {
        Some(with_action(records, "connection-closed")).filter(|closes| closes.len() >= visits + 2)
    });
    std::thread::sleep(Duration::from_millis(300));
    check_visits(&watch.records(), visits);
    let flows = of_transport(&closes, "connection-closed", "udp");
    let of = |port: u16| flows.iter().find(|flow| flow["source"]["port"] == port).unwrap();
    let expected =
        json!({ "portreeve.close.reason": "out_of_scope", "source.packets": 2, "destination.packets": 2 });
    assert_fields(of(ports[0]), &expected);
    let expected =
        json!({ "portreeve.close.reason": "closed", "portreeve.close.exact": true, "source.packets": 1 });
    assert_fields(of(ports[1]), &expected);
    assert_eq!(flows.len(), 2);
    verify(&lab, &watch.text());
    check_coverage(&watch.stop().records);
}

#[test]
fn a_reload_that_asks_for_logins_has_their_ends_told_as_from_the_start() {
    let test = "a_reload_that_asks_for_logins_has_their_ends_told_as_from_the_start";
    let mut lab = lab!("sshd", "ssh");
    lab.sshd(&["127.0.0.1:22"]);
    std::fs::write(lab.path("portreeve.toml"), "").unwrap();
    let mut watch = lab.watch(&["--events", "auto"]);
    let events = with_action(&watch.records(), "watch-started")[0]["portreeve"]["watch"]["events"].clone();
    if events["ebpf"] != "on" {
        return not_run(test, &events["ebpf"].to_string());
    }
    assert_eq!(events["destroy"], "off: ebpf tells more of the same");
    let before = Session::start(lab.ssh().args(["127.0.0.1", STAY]));
    watch.wait_opened();

    let turn = |watch: &mut Watch, number: usize, inbound: bool| {
        let reloaded = reload(&lab, watch, number, &format!("inbound = {inbound}\n"));
        let expected = json!({
            "portreeve.watch.changed": ["inbound"], "portreeve.watch.events.destroy": "on",
            "portreeve.watch.events.ebpf": "on", "portreeve.watch.events.syn": "off: ebpf tells more of the same",
            "portreeve.watch.events.proc": "off: not asked for",
        });
        assert_fields(&reloaded, &expected);
    };
    turn(&mut watch, 1, true);
    let during = Session::start(lab.ssh().args(["127.0.0.1", STAY]));
    end_login(&mut watch, before);
    end_login(&mut watch, during);
    turn(&mut watch, 2, false);
    turn(&mut watch, 3, true);
    end_login(&mut watch, Session::start(lab.ssh().args(["127.0.0.1", STAY])));
    verify(&lab, &watch.text());
    let records = watch.stop().records;
    assert_eq!(gaps_but_stalls(&records), [] as [Value; 0]);
    check_coverage(&records);
}

/// A login ends, and that is told with its moment and its bytes.
fn end_login(watch: &mut Watch, session: Session) {
    let port = session.addresses.1;
    let of = |records: &[Value], action: &str| {
        let mut its = with_action(records, action).into_iter();
        its.find(|record| record["network"]["direction"] == "ingress" && record["source"]["port"] == port)
    };
    watch.wait_for("the login's open", |records| of(records, "connection-opened"));
    assert!(session.end().success());
    let close = watch.wait_for("the login's close", |records| of(records, "connection-closed"));
    assert_fields(&close, &json!({ "portreeve.close.reason": "closed", "portreeve.close.exact": true }));
    assert!(close["source"]["bytes"].as_u64().unwrap() > 1_000, "{close:#}");
}

#[test]
fn a_program_that_cannot_be_loaded_anew_is_told_and_the_one_before_goes_on() {
    let test = "a_program_that_cannot_be_loaded_anew_is_told_and_the_one_before_goes_on";
    let lab = lab!();
    let listener = lab.listen("127.0.0.1:2391");
    let program = lab.path("portreeve");
    lab.run(&format!("cp {PORTREEVE} {}", program.display()));
    let settings = |transport: &str| format!("ports = '2391,2392'\ntransport = '{transport}'\n");
    std::fs::write(lab.path("portreeve.toml"), settings("tcp")).unwrap();
    let mut command = lab.watcher(lab.command(&program));
    let Some(mut watch) = watching(Watch::start(&lab, command.args(["--events", "ebpf"])), test) else {
        return;
    };
    // Nobody may start it once more, not even root.
    lab.run(&format!("chmod a-x {}", program.display()));
    let reloaded = reload(&lab, &mut watch, 1, &settings("tcp,udp"));
    assert_eq!(reloaded["portreeve"]["watch"]["events"]["ebpf"], "on");
    let gap = watch.wait_for("a gap", |records| gaps_but_stalls(records).pop());
    let why = "ebpf tells of no UDP flow, the table does: cannot start the loader: Permission denied (os error 13); \
               what was loaded before goes on";
    let expected = json!({ "portreeve.gap.cause": "events_off", "portreeve.gap.detail": why });
    assert_fields(&gap, &expected);
    assert!(watch.errors().contains(why), "{}", watch.errors());
    drop((lab.connect("127.0.0.1:2391"), listener.accept().unwrap()));
    let close = watch.wait_closed();
    assert_fields(&close, &json!({ "portreeve.connection.seen": "ebpf", "portreeve.close.exact": true }));
    let client = bind(&lab, "127.0.0.1:0");
    lab.inside(|| client.connect("127.0.0.1:2392").unwrap());
    let open = watch.wait_opens(2).remove(1);
    assert_fields(&open, &json!({ "network.transport": "udp", "portreeve.connection.seen": "poll" }));

    lab.run(&format!("chmod a+x {}", program.display()));
    reload(&lab, &mut watch, 2, &settings("tcp"));
    reload(&lab, &mut watch, 3, &settings("tcp,udp"));
    watch.wait_for("a flow in the new program's words", |records| {
        ask_unanswered(&lab);
        let opens = of_transport(records, "connection-opened", "udp");
        opens.iter().any(|open| open["portreeve"]["connection"]["seen"] == "ebpf").then_some(())
    });
    verify(&lab, &watch.text());
    assert_eq!(gaps_but_stalls(&watch.stop().records).len(), 1);
}

/// Says one thing to nobody.
fn ask_unanswered(lab: &Lab) {
    let socket = bind(lab, "127.0.0.1:0");
    lab.inside(|| socket.send_to(b"word", "127.0.0.1:2392").unwrap());
}

#[test]
fn a_connected_socket_that_a_reload_takes_in_is_told_with_what_it_has_carried() {
    let test = "a_connected_socket_that_a_reload_takes_in_is_told_with_what_it_has_carried";
    let lab = lab!("python3");
    let _server = serve(&lab, &["2392"]);
    let narrow = "transport = 'tcp,udp'\nports = '2392'\nexclude = ['127.0.0.1']\n";
    let wide = "transport = 'tcp,udp'\nports = '2392'\n";
    std::fs::write(lab.path("portreeve.toml"), narrow).unwrap();
    let Some(mut watch) = watching(lab.watch(&["--events", "ebpf"]), test) else { return };
    let client = bind(&lab, "127.0.0.1:0");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    lab.inside(|| client.connect("127.0.0.1:2392").unwrap());
    let ask = || {
        client.send(b"question").unwrap();
        client.recv(&mut [0; 64]).unwrap();
    };
    ask();
    // What was told of it has been taken, and was not wanted.
    std::thread::sleep(Duration::from_millis(1_200));
    assert!(with_action(&watch.records(), "connection-opened").is_empty());
    reload(&lab, &mut watch, 1, wide);
    let open = watch.wait_opened();
    let expected = json!({
        "network.transport": "udp", "portreeve.connection.seen": "start", "process.pid": std::process::id(),
    });
    assert_fields(&open, &expected);
    ask();
    // Out of what is watched, and into it again.
    reload(&lab, &mut watch, 2, narrow);
    let out = watch.wait_closed();
    assert_fields(&out, &json!({ "portreeve.close.reason": "out_of_scope", "source.packets": 2 }));
    ask();
    reload(&lab, &mut watch, 3, wide);
    watch.wait_opens(2);
    ask();
    drop(client);
    let close = watch.wait_actions("connection-closed", 2).remove(1);
    let expected = json!({
        "portreeve.close.reason": "closed", "portreeve.close.exact": true, "portreeve.close.bytes_exact": true,
        "source.packets": 4, "source.bytes": 32, "destination.packets": 4, "event.outcome": "success",
    });
    assert_fields(&close, &expected);
    verify(&lab, &watch.text());
    watch.stop();
}
