//! What a kernel shows seldom: ports and inodes that are used again, both ends that connect at once, tables full of others.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use jiff::SignedDuration;
use portreeve::connection::{Moment, Netns};
use portreeve::event::message::command_line;
use portreeve::event::{Event, Host, Renderer};
use portreeve::pipeline::{Outside, Pipeline};
use portreeve::proc::Net;
use portreeve::secrets::Masker;
use portreeve::source::{Filter, Selection, poll};
use serde_json::{Value, json};
use uuid::Uuid;

use super::kernel::{ESTABLISHED, Kernel, Row, SYN_RECV, TIME_WAIT, moment};
use super::scenarios::{ID_1, ID_2, LOCAL, REMOTE, Watch};

#[test]
fn a_port_that_is_used_again_over_its_time_wait_is_a_new_connection() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.tick();
    watch.kernel.close(1);
    assert_eq!(watch.tick().len(), 1);
    // The kernel takes the TIME_WAIT away and gives its ports to the new socket.
    watch.kernel.rows.clear();
    watch.kernel.connect(200, LOCAL, REMOTE, 7);
    watch.kernel.establish(7);
    let told = watch.tick();
    assert!(told.len() == 1 && told[0].starts_with("open ") && told[0].ends_with(ID_2), "{told:?}");
    watch.kernel.close(7);
    let told = watch.wait(3);
    assert!(told.len() == 1 && told[0].starts_with("close ") && told[0].ends_with(ID_2), "{told:?}");
}

#[test]
fn an_inode_that_is_used_again_for_other_ports_is_a_new_connection() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.tick();
    // The same process holds the same number again, by the same descriptor for all that can be seen.
    watch.kernel.reset(1);
    watch.kernel.let_go(1);
    watch.kernel.connect(200, "10.0.0.1:50099", REMOTE, 1);
    watch.kernel.establish(1);
    let mut told = watch.wait(3);
    told.sort();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("close ") && told[0].contains(LOCAL) && told[0].ends_with(ID_1), "{told:?}");
    assert!(told[1].starts_with("open ") && told[1].contains(":50099 → "), "{told:?}");
    assert!(told[1].contains("  ssh[200] ← ") && told[1].ends_with(ID_2), "{told:?}");
}

#[test]
fn of_two_ends_that_connect_at_once_ours_is_an_attempt_until_it_is_established() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.rows[0].state = SYN_RECV;
    let told = watch.tick();
    assert!(told.len() == 1 && told[0].contains("  connecting  ssh[200]"), "first seen there: {told:?}");
    watch.kernel.establish(1);
    assert!(watch.wait(1)[0].contains("  now established"));

    watch.connect(200, 2);
    assert!(watch.tick()[0].contains("  connecting  ssh[200]"));
    watch.kernel.rows[1].state = SYN_RECV;
    assert_eq!(watch.wait(3), [""; 0], "nothing is established yet");
    watch.kernel.establish(2);
    assert!(watch.wait(1)[0].contains("  now established"));
}

#[test]
fn a_socket_that_is_connected_to_itself_is_told_once() {
    for (ports, end) in [("22", "10.0.0.1:22"), ("all", "10.0.0.1:40000")] {
        let mut kernel = Kernel::new();
        kernel.spawn(200, 100, "nc", &["nc"]);
        let mut watch = Watch::over(kernel, ports, Filter::default());
        watch.tick();
        watch.kernel.connect(200, end, end, 1);
        watch.kernel.establish(1);
        let told = watch.wait(1);
        assert!(told.len() == 1 && told[0].contains(&format!("{end} → {end}  nc[200]")), "{told:?}");
    }
}

#[test]
fn rows_of_other_ports_are_read_and_not_kept() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    let other = |n: u64| Row {
        local: ([10, 0, 0, 1], u16::try_from(32_768 + n).unwrap()).into(),
        remote: "203.0.113.7:443".parse().unwrap(),
        state: if n.is_multiple_of(2) { ESTABLISHED } else { TIME_WAIT },
        uid: 1000,
        inode: (1_000 + n) * ((n + 1) % 2),
        timewait: None,
    };
    watch.kernel.rows.extend((0..5_000).map(other));
    assert_eq!(watch.tick().len(), 1);
    let select = Selection::new("22".parse().unwrap(), Filter::default());
    let server_ports = [22].into();
    let wanted = poll::Wanted {
        select: &select,
        server_ports: &server_ports,
        ephemeral: (32_768, 60_999),
        noticed: false,
    };
    let read = poll::Tables::new(Netns(1), None).read(&watch.proc, Net::Own, &wanted).unwrap();
    assert_eq!((read.rows.rows, read.snapshot.outbound.len(), read.snapshot.inbound.len()), (5_001, 1, 0));
}

#[test]
fn a_descriptor_that_is_doubled_or_taken_by_another_process_ends_nothing() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    assert!(watch.tick()[0].contains("  ssh[200] ← "));
    // dup(2) and close(2) of the first; then pidfd_getfd(2) by a process that started later.
    watch.kernel.let_go(1);
    symlink("socket:[1]", watch.kernel.path("200/fd/77")).unwrap();
    assert_eq!(watch.wait(3), [""; 0], "the owner holds it still");
    watch.kernel.spawn(300, 1, "thief", &["thief"]);
    symlink("socket:[1]", watch.kernel.path("300/fd/5")).unwrap();
    assert_eq!(watch.wait(3), [""; 0], "the owner is who held it first");
    watch.kernel.exit(200);
    let told = watch.wait(3);
    assert!(told.len() == 1 && told[0].contains("  owner changed  thief[300]"), "{told:?}");
}

/// A record as JSON has it.
fn record(event: &Event) -> Value {
    let host = Host { name: "h".into(), boot_id: None, os: None, kernel: None, ticks_per_second: 250 };
    let mut renderer = Renderer::new(host, "s".into(), "r".into(), Box::new(|_| Uuid::nil()));
    let mut json = renderer.render(event).json;
    json.extend(b"}}");
    serde_json::from_slice(&json).unwrap()
}

/// The record of the only open or close that a tick tells.
fn tick(watch: &mut Watch, at: Moment) -> Value {
    watch.kernel.write();
    let events = watch.pipeline.tick(&watch.proc, at).unwrap();
    record(events.iter().find(|event| event.what.connection().is_some()).unwrap())
}

#[test]
fn who_logged_in_is_told_beside_who_it_became_and_not_where_nobody_did() {
    for (loginuid, session, login) in [
        ("1000", "3", json!({ "uid": 1000, "name": "alice", "session": 3 })),
        ("4294967295", "4294967295", Value::Null),
    ] {
        let mut watch = Watch::new();
        let file = |name: &str| watch.kernel.path(&format!("200/{name}"));
        fs::write(file("status"), "Uid:\t1001\t0\t0\t0\nGid:\t100\t0\t0\t0\n").unwrap();
        fs::write(file("loginuid"), loginuid).unwrap();
        fs::write(file("sessionid"), session).unwrap();
        watch.connect(200, 1);
        watch.kernel.establish(1);
        let record = tick(&mut watch, moment(100));
        assert_eq!(record["user"], json!({ "id": "1001", "effective": { "id": "0" } }));
        assert_eq!(record["group"]["id"], "100");
        assert_eq!(record["portreeve"]["login"], login);
    }
}

#[test]
fn what_a_kernel_or_a_container_does_not_have_is_absent() {
    let mut watch = Watch::new();
    for name in ["cgroup", "loginuid", "sessionid", "cmdline", "status"] {
        fs::remove_file(watch.kernel.path(&format!("200/{name}"))).unwrap();
    }
    fs::remove_file(watch.kernel.path("200/exe")).unwrap();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    let record = tick(&mut watch, moment(100));
    assert_eq!((&record["process"]["pid"], &record["process"]["name"]), (&200.into(), &"ssh".into()));
    for (outer, inner) in [("process", "executable"), ("process", "cgroup"), ("portreeve", "login")] {
        assert_eq!(record[outer].get(inner), None, "{outer}.{inner}");
    }
    for absent in ["user", "service", "container"] {
        assert_eq!(record.get(absent), None, "{absent}");
    }
}

#[test]
fn a_shell_reads_the_arguments_that_a_command_line_was_made_of() {
    let mut all: Vec<Vec<Vec<u8>>> =
        (b' '..=b'~').map(|byte| vec![vec![byte], vec![b'a', byte, byte]]).collect();
    for odd in
        ["", "a b", "it's", "''", "$(id)", "`id`", "x\"y", "a;b", "~", "*", "#c", "a=b", "!x", "-n", "{a,b}"]
    {
        all.push(vec![b"ssh".to_vec(), odd.as_bytes().to_vec(), Vec::new(), odd.repeat(3).into_bytes()]);
    }
    let script: String =
        all.iter().map(|args| format!("printf '%s\\0' {}; printf '\\1'\n", command_line(args))).collect();
    let said = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let whole = said.stdout.strip_suffix(b"\x01").unwrap();
    let words = |line: &[u8]| -> Vec<Vec<u8>> {
        line.strip_suffix(b"\0").unwrap().split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    };
    assert_eq!(whole.split(|byte| *byte == 1).map(words).collect::<Vec<_>>(), all);
}

#[test]
fn a_clock_that_is_set_moves_neither_durations_nor_starts() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    let open = tick(&mut watch, moment(100));
    watch.kernel.close(1);
    let after = moment(2_600);
    let close = tick(&mut watch, Moment { wall: after.wall - SignedDuration::from_hours(1), ..after });
    assert_eq!(close["event"]["duration"], 2_500_000_000u64);
    assert!(close["@timestamp"].as_str() < open["@timestamp"].as_str(), "the clock was set");
    for field in ["start", "entity_id"] {
        assert_eq!(close["process"][field], open["process"][field]);
    }
}

#[test]
fn a_process_that_started_so_many_ticks_after_boot_started_then() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    // `Kernel::spawn` says 1,200 ticks for pid 200, of which this host has 250 in a second.
    let at = moment(100);
    let boot = at.wall - SignedDuration::try_from(at.boot).unwrap();
    let start = boot + SignedDuration::from_millis(4_800);
    assert_eq!(tick(&mut watch, at)["process"]["start"], format!("{start:.2}"));
}

#[test]
fn a_user_s_name_that_comes_late_is_told_with_the_close() {
    let mut kernel = Kernel::new();
    kernel.spawn(300, 100, "ssh", &["ssh", "web1"]);
    kernel.write();
    let has_come = Rc::<Cell<bool>>::default();
    let comes = Rc::clone(&has_come);
    let outside = Outside {
        new_id: Box::new({
            let mut ids = 0;
            move |_| {
                ids += 1;
                Uuid::from_u128(ids)
            }
        }),
        user_name: Box::new(move |_| comes.get().then(|| "alice".into())),
        boottime: Box::new(|| Duration::ZERO),
        cputime: Box::new(|| Duration::ZERO),
    };
    let select = Selection::new("22".parse().unwrap(), Filter::default());
    let (proc, masker) = (kernel.proc(), Masker::new(&[]));
    let mut pipeline = Pipeline::new(&proc, select, masker, outside, Duration::from_secs(1), 100);
    let mut names = |kernel: &Kernel, millis| -> Vec<Value> {
        kernel.write();
        let told = pipeline.tick(&proc, moment(millis)).unwrap();
        told.iter().map(|event| record(event)["user"]["name"].clone()).collect()
    };
    assert_eq!(names(&kernel, 0), [Value::Null; 0]);
    // One whose owner is known, and one of which only the table tells who made the socket.
    kernel.connect(300, "192.0.2.10:40000", "203.0.113.7:22", 7_001);
    kernel.connect(300, "192.0.2.10:40001", "203.0.113.7:22", 7_002);
    kernel.let_go(7_002);
    kernel.establish(7_001);
    kernel.establish(7_002);
    assert_eq!(names(&kernel, 1_000), [Value::Null, Value::Null]);
    has_come.set(true);
    kernel.close(7_001);
    kernel.close(7_002);
    assert_eq!(names(&kernel, 2_000), ["alice", "alice"]);
}
