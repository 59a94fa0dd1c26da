//! Programs from their start to their end. In the machine's own network: only there the kernel tells of processes; the
//! programs are copies under names that nobody else uses.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::{assert_fields, with_action};
use crate::support::watch::{PATIENCE, PORTREEVE, Watch};
use crate::support::{find_program, not_run, wait_for};

fn copy(lab: &Lab, of: &str, to: &str) -> String {
    let path = lab.path(to);
    // By another process: a file that is open for writing here, if only in a fork of another test, cannot be run.
    assert!(Command::new("cp").arg(find_program(of).unwrap()).arg(&path).status().unwrap().success());
    path.to_str().unwrap().to_owned()
}

fn watch(lab: &Lab, arguments: &[&str]) -> Result<Watch, String> {
    let mut watch =
        Watch::start(lab, lab.watcher(Command::new(env!("CARGO_BIN_EXE_portreeve"))).args(arguments));
    let started = watch.wait_actions("watch-started", 1).remove(0);
    match started["portreeve"]["watch"]["events"]["proc"].as_str() {
        Some("on") => Ok(watch),
        state => Err(format!("{state:?}")),
    }
}

fn client(ssh: &str, config: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(ssh);
    command.arg("-F").arg(config).args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn of<'a>(records: &'a [Value], action: &str, pid: u32) -> Option<&'a Value> {
    records.iter().find(|record| record["event"]["action"] == action && record["process"]["pid"] == pid)
}

#[test]
fn a_client_that_connects_and_one_that_never_does_are_told_from_start_to_end() {
    let lab = lab!();
    let ssh = copy(&lab, "ssh", "test-ssh");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut watch = match watch(&lab, &["--ports", &port, "--hash", &format!("--executions={ssh}")]) {
        Ok(watch) => watch,
        Err(why) => return not_run("executions::a_client_that_connects", &why),
    };
    let config = lab.path("ssh_config");
    let run = |arguments: &[&str]| client(&ssh, &config, arguments);
    let mut connects = run(&["-p", &port, "127.0.0.1"]);
    // No name: it never gets as far as a socket.
    let gate = lab.path("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let mut fails = run(&["-o", &format!("ProxyCommand=cat {}", gate.display()), "127.0.0.1"]);
    // Each lives until its start is told: one that is over sooner may be missed, which is told otherwise.
    for client in [&connects, &fails] {
        watch.wait_for("its start", |records| of(records, "process-started", client.id()).map(drop));
    }
    std::fs::write(&gate, "").unwrap();
    assert_eq!(fails.wait().unwrap().code(), Some(255));
    let (stream, _) = listener.accept().unwrap();
    let open = watch.wait_opened();
    drop(stream);
    assert_eq!(connects.wait().unwrap().code(), Some(255));
    let mut killed = run(&["-o", "ProxyCommand=sleep 9", "127.0.0.1"]);
    watch.wait_for("its start", |records| of(records, "process-started", killed.id()).map(drop));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let all = [(&connects, 1, Some(255)), (&fails, 0, Some(255)), (&killed, 0, None)];
    for (child, connections, code) in all {
        let ended = |records: &[Value]| of(records, "process-ended", child.id()).cloned();
        let ended = watch.wait_for("its end", ended);
        let started = of(&watch.records(), "process-started", child.id()).unwrap().clone();
        assert_fields(
            &ended,
            &json!({
                "process.entity_id": started["process"]["entity_id"],
                "process.executable": ssh,
                "process.parent.pid": std::process::id(),
                "process.exit_code": code,
                "portreeve.process.signal": if code.is_none() { json!(9) } else { Value::Null },
                "portreeve.process.end": if code.is_none() { "killed" } else { "exited" },
                "portreeve.process.connections": connections,
                "event.outcome": "failure",
                "event.category": ["process"],
                "event.type": ["end"],
                "event.start": started["@timestamp"],
                "user.name": "root",
            }),
        );
        assert!(ended["event"]["duration"].as_u64().unwrap() > 0);
        assert!(ended["process"]["hash"]["sha256"].is_string(), "{ended}");
        assert!(!started["portreeve"]["ancestry"].as_array().unwrap().is_empty());
    }
    let started = of(&watch.records(), "process-started", connects.id()).unwrap().clone();
    assert_eq!(open["process"]["entity_id"], started["process"]["entity_id"]);
    let records = watch.stop().records;
    let told = |action: &str| with_action(&records, action).len();
    assert_eq!((told("process-started"), told("process-ended")), (3, 3), "nobody else's");
}

#[test]
fn a_process_that_becomes_another_program_ends_as_the_first_and_what_stood_is_not_told() {
    let lab = lab!();
    let (sh, sleep) = (copy(&lab, "sh", "test-sh"), copy(&lab, "sleep", "test-sleep"));
    let mut before = Command::new(&sleep).arg("9").spawn().unwrap();
    wait_for("what stands", PATIENCE, || {
        let runs = std::fs::read_link(format!("/proc/{}/exe", before.id())).ok()?;
        (runs.as_os_str() == sleep.as_str()).then_some(())
    });
    let both = format!("--executions={sh},{sleep}");
    let mut watch = match watch(&lab, &["--ports", "1", &both]) {
        Ok(watch) => watch,
        Err(why) => {
            before.kill().and_then(|()| before.wait()).unwrap();
            return not_run("executions::a_process_that_becomes_another", &why);
        }
    };
    before.kill().unwrap();
    before.wait().unwrap();
    // It has to be each of them for as long as it takes to be read.
    let script = format!("read line; exec {sleep} 9");
    let mut child = Command::new(&sh).args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    watch.wait_actions("process-started", 1);
    drop(child.stdin.take());
    watch.wait_actions("process-started", 2);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    child.wait().unwrap();
    watch.wait_actions("process-ended", 2);
    let records = watch.stop().records;
    let story: Vec<_> = records
        .iter()
        .filter(|record| record["event"]["category"][0] == "process")
        .map(|record| {
            assert_eq!(record["process"]["pid"], child.id());
            let end = record["portreeve"]["process"]["end"].as_str().unwrap_or("started");
            (record["process"]["name"].as_str().unwrap(), end)
        })
        .collect();
    let wanted = [
        ("test-sh", "started"),
        ("test-sh", "executed"),
        ("test-sleep", "started"),
        ("test-sleep", "killed"),
    ];
    assert_eq!(story, wanted);
}

#[test]
fn who_may_not_hear_of_processes_says_so_and_watches_all_the_same() {
    let lab = lab!();
    let command = lab.command_as(NOBODY, &[], PORTREEVE);
    let mut watch = Watch::start(&lab, lab.watcher(command).arg("--executions"));
    let started = watch.wait_actions("watch-started", 1).remove(0);
    let told = &started["portreeve"]["watch"];
    assert!(told["events"]["proc"].as_str().unwrap().starts_with("off: "), "{told}");
    let warnings = told["warnings"].to_string();
    assert!(warnings.contains("no program's start and end is told"), "{warnings}");
    assert_eq!(told["settings"]["executions"], "ssh");
    watch.stop();
}
