//! Over a restart, a crash and a reboot a socket keeps its one story.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lab;
use crate::story::{Log, Pair, Run, SSH, closes_of, gaps, opens_of, starts};
use crate::support::lab::Lab;
use crate::support::log::{assert_fields, with_action};
use crate::support::session::{STAY, Session};
use crate::support::watch::PATIENCE;
use crate::support::{output, wait_for};

/// So many connections the state has that the run saved last: a line each, behind the first.
fn saved_connections(log: &Log) -> usize {
    std::fs::read_to_string(state_file(log)).unwrap().lines().count() - 1
}

fn state_file(log: &Log) -> std::path::PathBuf {
    log.beside("events.jsonl.state").join("state.json")
}

/// Waits until the state was saved once: that is soon after the first tick.
fn wait_saved(log: &Log) {
    wait_for("a state", PATIENCE, || state_file(log).exists().then_some(()));
}

/// Three connections over a restart: one ends while nobody watches, one after it, one stays; and one that began
/// meanwhile.
fn restart(test: fn(Run), previous_end: &str) {
    let lab = match Lab::new(&[]) {
        Ok(lab) => lab,
        Err(reason) => return crate::support::not_run("restart", &reason),
    };
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let [stays, ends_meanwhile, ends_later] = [(); 3].map(|()| log.connect(&lab, &server));
    let gone = ends_meanwhile.port;
    test(run);
    let down = log.now().last().unwrap().clone();
    drop(ends_meanwhile);
    let began_meanwhile = Pair::new(&lab, &server);

    let run = log.run(&lab);
    let closed = log.wait("the end meanwhile", |records| closes_of(records, gone).pop());
    let fields = json!({
        "portreeve.close.reason": "while_down", "portreeve.close.exact": false, "event.outcome": "success",
    });
    assert_fields(&closed, &fields);
    let (seen, by) = (&closed["portreeve"]["close"]["last_seen"], &closed["portreeve"]["close"]["gone_by"]);
    let (seen, by) = (seen.as_str().unwrap(), by.as_str().unwrap());
    assert!(seen <= by && seen <= down["@timestamp"].as_str().unwrap(), "{closed:#}");
    let open = log.wait("the open meanwhile", |records| opens_of(records, began_meanwhile.port).pop());
    assert_eq!(open["portreeve"]["connection"]["seen"], "start");
    let port = ends_later.port;
    drop(ends_later);
    let closed = log.wait("the later end", |records| closes_of(records, port).pop());
    assert_fields(&closed, &json!({ "portreeve.close.reason": "closed", "event.outcome": "success" }));
    assert!(closed["event"]["duration"].as_u64().unwrap() > 0, "{closed:#}");
    run.stop();

    let records = log.story();
    let start = &starts(&records)[1];
    assert_eq!((&start["stream"], &start["previous_end"]), (&json!("continued"), &json!(previous_end)));
    assert_eq!(opens_of(&records, stays.port).len(), 1, "no second open");
    assert_eq!(closes_of(&records, stays.port), [] as [Value; 0]);
    assert_eq!((with_action(&records, "connection-opened").len(), closes_of(&records, port).len()), (4, 1));
    let gap = gaps(&records, "not_watching").remove(0);
    assert_eq!(gap["from"], down["@timestamp"]);
    assert!(gap["from"].as_str() <= gap["to"].as_str(), "{gap}");
}

#[test]
fn after_a_kill_the_same_socket_goes_on_under_the_same_id_and_what_ended_meanwhile_is_told() {
    restart(Run::kill, "unclean");
}

#[test]
fn after_a_stop_too() {
    restart(|run| drop(run.stop()), "clean");
}

#[test]
fn a_kill_right_after_the_start_a_kill_before_any_save_and_many_kills_break_nothing() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let mut pairs: Vec<Pair> = Vec::new();
    for round in 0..12_u64 {
        let mut run = log.spawn(&mut lab.portreeve());
        std::thread::sleep(std::time::Duration::from_millis(17 * round));
        pairs.push(Pair::new(&lab, &server));
        if round % 3 == 2 {
            pairs.remove(0);
        }
        std::thread::sleep(std::time::Duration::from_millis(31 * (round % 4)));
        run.signal(Signal::KILL);
        run.child.wait().unwrap();
    }
    let run = log.run(&lab);
    // A kill before it was told that the watch began leaves nothing to go on from: a new stream.
    let stream = log.now().last().unwrap()["agent"]["id"].clone();
    let of_stream = |records: &[Value]| -> Vec<Value> {
        records.iter().filter(|record| record["agent"]["id"] == stream).cloned().collect()
    };
    let opens = log.wait("every open that stands", |records| {
        let records = of_stream(records);
        let all = pairs.iter().map(|pair| opens_of(&records, pair.port).len()).collect::<Vec<_>>();
        all.iter().all(|count| *count > 0).then_some(all)
    });
    assert!(opens.iter().all(|count| *count == 1), "{opens:?}");
    let standing = pairs.len();
    let count = |records: &[Value]| {
        let of = |action| with_action(records, action).len();
        (of("connection-opened"), of("connection-closed"))
    };
    log.wait("every end", |records| {
        let (opened, closed) = count(&of_stream(records));
        (opened - closed <= standing).then_some(())
    });
    run.stop();
    let records = log.story();
    let streams: Vec<_> = starts(&records).iter().map(|start| start["stream"].clone()).collect();
    let late_loss = streams.iter().skip(3).any(|stream| stream != "continued");
    assert!(!late_loss, "once saved, a state is never lost: {streams:?}");
    let (opened, closed) = count(&of_stream(&records));
    assert_eq!(opened - closed, standing, "what was told as open stands");
    println!("{opened} opens, {closed} closes, {streams:?}");
}

#[test]
fn a_state_that_is_gone_or_spoilt_is_a_new_stream_that_says_why_and_never_a_refusal() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let pair = log.connect(&lab, &server);
    wait_saved(&log);
    run.kill();
    let (file, spare) = (state_file(&log), lab.path("elsewhere"));
    let good = std::fs::read(&file).unwrap();
    let spoil: [(&str, &dyn Fn()); 8] = [
        ("no state", &|| ()),
        ("EOF", &|| std::fs::write(&file, "").unwrap()),
        ("EOF", &|| std::fs::write(&file, &good[..good.len() / 2]).unwrap()),
        ("version", &|| std::fs::write(&file, r#"{"portreeve_state":2}"#).unwrap()),
        ("expected", &|| std::fs::write(&file, [0; 4096]).unwrap()),
        ("member", &|| std::fs::write(&file, r#"{"portreeve_state":1,"sequence":-1}"#).unwrap()),
        ("symbolic", &|| {
            std::fs::write(&spare, &good).unwrap();
            symlink(&spare, &file).unwrap();
        }),
        ("", &|| rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap()),
    ];
    for (expected, spoil) in spoil {
        std::fs::remove_file(&file).unwrap();
        spoil();
        let run = log.run(&lab);
        let start = starts(&log.now()).pop().unwrap();
        println!("{}: {}", start["stream"], start["stream_reason"]);
        assert_eq!(start["stream"], "lost");
        assert!(start["stream_reason"].as_str().unwrap().contains(expected), "{start}");
        assert_eq!(start["previous_end"], Value::Null);
        run.stop();
    }
    let records = log.story();
    assert_eq!(opens_of(&records, pair.port).len(), 9, "each stream tells it");
    let streams: std::collections::BTreeSet<_> =
        records.iter().map(|record| record["agent"]["id"].as_str().unwrap()).collect();
    assert_eq!(streams.len(), 9);
}

#[test]
fn after_a_reboot_all_are_closed_before_anything_is_opened() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let pair = log.connect(&lab, &server);
    run.kill();
    let boot = lab.path("boot_id");
    std::fs::write(&boot, "01234567-89ab-4cde-8f01-23456789abcd\n").unwrap();
    lab.run(&format!("mount --bind {} /proc/sys/kernel/random/boot_id", boot.display()));
    let run = log.run(&lab);
    log.wait("the open of this boot", |records| (opens_of(records, pair.port).len() == 2).then_some(()));
    run.stop();
    let records = log.story();
    let close = closes_of(&records, pair.port).remove(0);
    assert_fields(&close, &json!({ "portreeve.close.reason": "reboot", "event.outcome": "success" }));
    let close_told = &close["portreeve"]["close"];
    println!("{close_told} {}", close["event"]);
    assert!(close_told["last_seen"].as_str() <= close_told["gone_by"].as_str(), "{close:#}");
    let second = opens_of(&records, pair.port).remove(1);
    assert!(close["event"]["sequence"].as_u64() < second["event"]["sequence"].as_u64());
    assert_eq!(second["host"]["boot"]["id"], "01234567-89ab-4cde-8f01-23456789abcd");
    assert_ne!(close["portreeve"]["connection"]["id"], second["portreeve"]["connection"]["id"]);
}

/// A virtual machine that is set back to a snapshot, its log on a disk that was not.
#[test]
fn a_state_of_a_later_moment_of_this_boot_is_another_past_and_a_new_stream() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let later = ["--time", "--boottime", "1000000", "setpriv", "--pdeathsig", "KILL", "/run/portreeve"];
    let mut unshare = lab.command("unshare");
    unshare.args(later);
    let run = log.run_as(&mut lab.watcher(unshare));
    let pair = log.connect(&lab, &server);
    run.kill();
    let run = log.run(&lab);
    log.wait("its open", |records| (opens_of(records, pair.port).len() == 2).then_some(()));
    drop(pair);
    log.wait_actions("connection-closed", 1);
    run.stop();
    let records = log.story();
    let start = &starts(&records)[1];
    println!("{}", start["stream_reason"]);
    assert_eq!(start["stream"], "lost");
    assert!(start["stream_reason"].as_str().unwrap().contains("later"), "{start}");
}

#[test]
fn a_master_connection_and_its_sessions_go_on_and_its_owner_is_the_same() {
    let mut lab = lab!();
    lab.sshd(&[SSH]);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let control = lab.path("control").display().to_string();
    let mut master = lab.ssh();
    master.args(["-M", "-S", &control, "root@127.0.0.1", STAY]);
    let master = Session::start(&mut master);
    let open = log.wait_actions("connection-opened", 1).remove(0);
    assert_eq!(open["process"]["pid"], master.pid());
    run.kill();
    let more = || Session::start(lab.ssh().args(["-S", &control, "root@127.0.0.1", STAY]));
    let second = more();
    let run = log.run(&lab);
    let third = more();
    third.end();
    second.end();
    assert!(master.end().success());
    let close = log.wait_actions("connection-closed", 1).remove(0);
    assert_eq!(close["portreeve"]["connection"]["id"], open["portreeve"]["connection"]["id"]);
    assert_eq!(close["process"]["pid"], open["process"]["pid"]);
    assert_eq!(close["portreeve"]["close"]["reason"], "closed");
    run.stop();
    assert_eq!(with_action(&log.story(), "connection-opened").len(), 1);
}

#[test]
fn an_owner_that_changed_meanwhile_is_told() {
    let lab = lab!("bash");
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    // The first owner ends, and hands on the socket to a child of its own.
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; read -u 0; sleep 60 >&- & echo $!";
    let mut bash = lab.command("bash");
    let mut bash = bash.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let open = log.wait_actions("connection-opened", 1).remove(0);
    assert_eq!(open["process"]["pid"], bash.id());
    run.kill();
    drop(bash.stdin.take());
    let mut heir = String::new();
    std::io::Read::read_to_string(&mut bash.stdout.take().unwrap(), &mut heir).unwrap();
    bash.wait().unwrap();
    let heir: u32 = heir.trim().parse().unwrap();
    let run = log.run(&lab);
    let change = log.wait("the change of owner", |records| with_action(records, "connection-changed").pop());
    assert_fields(&change, &json!({ "process.pid": heir, "process.name": "sleep" }));
    assert_eq!(change["portreeve"]["connection"]["id"], open["portreeve"]["connection"]["id"]);
    run.stop();
    log.story();
    drop(server);
}

#[test]
fn connections_of_other_namespaces_go_on_too_and_those_of_a_namespace_that_is_gone_are_closed() {
    let lab = lab!("bash");
    let log = Log::new(&lab);
    // A port that no other test uses: a watch of all namespaces sees theirs too.
    let watch = |lab: &Lab| {
        let mut command = lab.command(crate::support::watch::PORTREEVE);
        command.args(["watch", "--config", "/dev/null", "--netns", "all", "--ports", "47122"]);
        command
    };
    let container = |lab: &Lab| {
        let serve = "ip link set lo up; perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(LocalAddr=>q(127.0.0.1:\
                     47122),Listen=>5); $c=IO::Socket::INET->new(q(127.0.0.1:47122)); $a=$s->accept; print qq(up\\n); \
                     $|=1; <STDIN>; close $c; close $a; print qq(closed\\n); <STDIN>'";
        let mut unshare = lab.command("unshare");
        unshare.args(["--net", "sh", "-ec", serve]).stdin(Stdio::piped()).stdout(Stdio::null());
        unshare.spawn().unwrap()
    };
    let run = log.run_as(&mut watch(&lab));
    let (mut stays, mut goes) = (container(&lab), container(&lab));
    let opens = log.wait_actions("connection-opened", 2);
    assert_ne!(opens[0]["portreeve"]["connection"]["netns"], opens[1]["portreeve"]["connection"]["netns"]);
    run.kill();
    drop(goes.stdin.take());
    goes.wait().unwrap();
    let run = log.run_as(&mut watch(&lab));
    let close = log.wait_actions("connection-closed", 1).remove(0);
    println!("{}", close["portreeve"]["close"]);
    assert_fields(&close, &json!({ "portreeve.close.reason": "while_down", "event.outcome": "success" }));
    std::io::Write::write_all(stays.stdin.as_mut().unwrap(), b"\n").unwrap();
    log.wait_actions("connection-closed", 2);
    run.stop();
    let records = log.story();
    assert_eq!(with_action(&records, "connection-opened").len(), 2);
    assert_eq!(with_action(&records, "connection-closed")[1]["portreeve"]["close"]["reason"], "closed");
    drop(stays.stdin.take());
    stays.wait().unwrap();
}

#[test]
fn a_log_that_was_rotated_meanwhile_is_gone_on_from() {
    let lab = lab!("gzip");
    let server = lab.listen(SSH);
    for (end, rotate, stream) in [
        ("kill", "mv events.jsonl events.jsonl-1", "continued"),
        ("stop", "mv events.jsonl events.jsonl-1; gzip events.jsonl-1", "continued"),
        // What was written behind the last state cannot be read again: nobody knows what it was.
        ("kill", "mv events.jsonl events.jsonl-1; gzip events.jsonl-1", "lost"),
        ("stop", "rm events.jsonl", "continued"),
        ("kill", "rm events.jsonl", "lost"),
        // Where the copy is, nothing is missing.
        ("stop", "cp events.jsonl events.jsonl-1; : > events.jsonl", "continued"),
        ("kill", "cp events.jsonl events.jsonl-1; : > events.jsonl", "continued"),
        ("stop", ": > events.jsonl", "continued"),
        ("kill", ": > events.jsonl", "lost"),
    ] {
        std::fs::remove_dir_all(lab.path("log")).unwrap_or_default();
        let log = Log::new(&lab);
        let run = log.run(&lab);
        let pair = log.connect(&lab, &server);
        wait_saved(&log);
        if end == "kill" {
            run.kill()
        } else {
            drop(run.stop())
        }
        let whole = std::fs::read(&log.seen).unwrap();
        lab.run(&format!("cd {}; {rotate}", log.folder().display()));
        let run = log.run(&lab);
        let start = starts(&log.now()).pop().unwrap();
        println!("{end}, {rotate}: {} {}", start["stream"], start["stream_reason"]);
        assert_eq!(start["stream"], stream, "{end}, {rotate}");
        let opened = log.now().iter().any(|r| !opens_of(std::slice::from_ref(r), pair.port).is_empty());
        assert!(opened || stream == "continued");
        run.stop();
        let cut = gaps(&log.now(), "log_truncated").len();
        assert_eq!(cut, usize::from(rotate.starts_with(": >") && end == "stop"), "{end}, {rotate}");
        if (rotate.contains("rm ") || rotate.starts_with(":")) && stream == "continued" {
            std::fs::write(log.beside("events.jsonl-0"), &whole).unwrap();
        }
        log.story();
    }
}

/// What a crash of the machine leaves of a record that was being written.
#[test]
fn a_torn_line_is_ended_and_named_and_the_stream_goes_on_behind_it() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let mut pairs = Vec::new();
    for torn in [r#"{"@timestamp":"2026-"#, "{", "\0\0\0\0\0\0\0\0\0", "no record at all"] {
        let run = log.run(&lab);
        pairs.push(log.connect(&lab, &server));
        run.kill();
        let mut file = std::fs::File::options().append(true).open(&log.seen).unwrap();
        std::io::Write::write_all(&mut file, torn.as_bytes()).unwrap();
    }
    let run = log.run(&lab);
    drop(pairs);
    log.wait_actions("connection-closed", 4);
    run.stop();
    let records = log.story();
    assert_eq!(with_action(&records, "log-repaired").len(), 4);
    assert_eq!(with_action(&records, "connection-opened").len(), 4);
    assert!(starts(&records)[1..].iter().all(|start| start["stream"] == "continued"));
}

/// A full disk, or a kill, may leave no more of a run than that it began.
#[test]
fn a_run_of_which_no_more_than_its_beginning_is_there_has_not_watched() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let pair = log.connect(&lab, &server);
    run.kill();
    let watched = log.now().pop().unwrap();
    for kept in ["log-opened", "watch-started"] {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let before = std::fs::read(&log.seen).unwrap();
        let spare = std::fs::read(state_file(&log)).unwrap();
        log.run(&lab).kill();
        // Back to that record, and to the state of before.
        let mut text = before.clone();
        let after = std::fs::read(&log.seen).unwrap();
        for line in after[before.len()..].split_inclusive(|byte| *byte == b'\n') {
            text.extend(line);
            if String::from_utf8_lossy(line).contains(&format!("\"action\":\"{kept}\"")) {
                break;
            }
        }
        std::fs::write(&log.seen, text).unwrap();
        std::fs::write(state_file(&log), &spare).unwrap();
        let run = log.run(&lab);
        log.wait("the gap", |records| gaps(records, "not_watching").pop());
        run.kill();
        let gap = gaps(&log.now(), "not_watching").pop().unwrap();
        assert_eq!(gap["from"], watched["@timestamp"], "{kept}");
        std::fs::write(&log.seen, before).unwrap();
        std::fs::write(state_file(&log), &spare).unwrap();
    }
    drop(pair);
}

#[test]
fn a_storm_of_signals_breaks_nothing() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let before = log.connect(&lab, &server);
    for _ in 0..20_000 {
        run.signal(Signal::HUP);
    }
    let after = log.connect(&lab, &server);
    drop((before, after));
    log.wait_actions("connection-closed", 2);
    run.stop();
    let records = log.story();
    let reloads = with_action(&records, "watch-reloaded").len();
    println!("{reloads} reloads");
    assert!(reloads > 0 && with_action(&records, "connection-opened").len() == 2);
}

#[test]
fn what_another_choice_of_ports_leaves_out_is_closed_as_that() {
    let lab = lab!();
    let (server, other) = (lab.listen(SSH), lab.listen("127.0.0.1:2222"));
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let pair = log.connect(&lab, &server);
    let unwatched = Pair::new(&lab, &other);
    run.stop();
    let run = log.run_as(lab.portreeve().args(["--ports", "2222"]));
    let close = log.wait_actions("connection-closed", 1).remove(0);
    assert_eq!(close["source"]["port"], pair.port);
    assert_fields(&close, &json!({ "portreeve.close.reason": "out_of_scope", "event.outcome": "unknown" }));
    let open = log.wait("the other open", |records| opens_of(records, unwatched.port).pop());
    assert_eq!(open["portreeve"]["connection"]["seen"], "start");
    run.stop();
    log.story();
}

#[test]
fn a_second_watcher_of_one_log_or_one_state_is_refused() {
    let lab = lab!();
    let log = Log::new(&lab);
    let states = lab.path("states").display().to_string();
    let run = log.run_as(lab.portreeve().args(["--state-dir", &states]));
    let path = |name: &str| lab.path("log").join(name).display().to_string();
    for (log_file, state_dir) in
        [("events.jsonl", "others"), ("other.jsonl", "states"), ("events.jsonl", "states")]
    {
        let state_dir = lab.path(state_dir).display().to_string();
        let mut second = lab.portreeve();
        second.args(["--duration", "1s", "--log-file", &path(log_file), "--state-dir", &state_dir]);
        let second = output(&mut second);
        let said = String::from_utf8_lossy(&second.stderr);
        println!("{said}");
        assert_eq!(second.status.code(), Some(75), "{said}");
        if state_dir == states {
            assert!(said.contains(&format!("pid {}", run.child.id())), "{said}");
        }
    }
    run.stop();
    assert_eq!(starts(&log.story()).len(), 1);
    assert!(!Path::new(&path("other.jsonl")).exists(), "and leaves nothing behind");
}

#[test]
fn a_folder_that_was_removed_and_made_again_has_its_state_and_its_lock_again() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let mut run = log.run_as(lab.portreeve().args(["--interval", "20ms"]));
    let first = log.connect(&lab, &server);
    wait_saved(&log);
    let before = std::fs::read(&log.seen).unwrap();
    std::fs::remove_dir_all(log.folder()).unwrap();
    let second = Pair::new(&lab, &server);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(run.is_alive(), "{}", run.errors());
    std::fs::create_dir(log.folder()).unwrap();
    wait_for("the second open", PATIENCE, || opens_of(&log.now(), second.port).pop());
    wait_saved(&log);
    let live = wait_for("a state that knows both", PATIENCE, || {
        Some(saved_connections(&log)).filter(|live| *live == 2)
    });
    println!("{live} live; {}", run.errors());
    // The lock was in the folder too.
    let mut other = lab.portreeve();
    other.args(["--duration", "1s", "--log-file", &log.beside("other.jsonl").display().to_string()]);
    other.args(["--state-dir", &log.beside("events.jsonl.state").display().to_string()]);
    assert_eq!(output(&mut other).status.code(), Some(75));
    run.kill();
    let run = log.run(&lab);
    drop(first);
    log.wait("the end of the first", |records| closes_of(records, second.port).is_empty().then_some(()));
    run.stop();
    std::fs::write(log.beside("events.jsonl-0"), before).unwrap();
    let records = log.story();
    assert_eq!(starts(&records)[1]["stream"], "continued");
}
