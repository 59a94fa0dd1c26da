//! Sockets that their process hides from who reads `/proc/PID/fd`: found, or told for what they are.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail, and tests own their clock and files"
)]

#[path = "../support/mod.rs"]
mod support;

/// What the watchers of these tests are told of their sources.
pub const SOURCES: &[&str] = &[];

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use support::lab::{Lab, NOBODY};
use support::log::{assert_fields, with_action};
use support::output;
use support::watch::{PORTREEVE, Watch};

/// All that the service has.
const SYS_PTRACE: [&str; 3] = ["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace", "--no-new-privs"];

/// Builds the program that hides; where a user of no rights can run it.
fn build(lab: &Lab) -> std::path::PathBuf {
    let (source, program) = (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/evasions/hide.c"), lab.path("hide"));
    let built = output(Command::new("cc").args(["-O1", "-pthread", "-o"]).arg(&program).arg(source));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

/// Starts it and waits until the socket is hidden; `Err` says what the kernel lacks or forbids.
fn hide(command: &mut Command, how: &str) -> Result<Child, String> {
    let command = command.args([how, "127.0.0.1", "22"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    match line.trim_end().strip_prefix("lacks: ") {
        Some(lack) => Err(lack.to_owned()),
        None if line.trim_end() == child.id().to_string() => Ok(child),
        None => panic!("hide {how} said {line:?}"),
    }
}

/// The watcher as root, and as the service is, must name a process of root's and one of a user's.
fn is_found(lab: &Lab, how: &str, test: &str) {
    let (hider, _server) = (build(lab), lab.listen("127.0.0.1:22"));
    for (watcher, owner) in [(0, NOBODY), (NOBODY, 0), (NOBODY, 1)] {
        let options: &[&str] = if watcher == 0 { &[] } else { &SYS_PTRACE };
        let mut watch = Watch::start(lab, &mut lab.portreeve_as(watcher, options));
        let mut child = match hide(&mut lab.command_as(owner, &[], &hider), how) {
            Ok(child) => child,
            Err(lack) => return support::not_run(test, &lack),
        };
        let open = watch.wait_opened();
        let expected = json!({
            "process.pid": child.id(),
            "process.name": "hide",
            "process.executable": hider.to_str().unwrap(),
            "process.args": [hider.to_str().unwrap(), how, "127.0.0.1", "22"],
            "user.id": owner.to_string(),
            "portreeve.attribution.status": "owned",
            "portreeve.attribution.holders": [child.id()],
        });
        assert_fields(&open, &expected);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        watch.wait_closed();
        watch.stop();
    }
}

macro_rules! found {
    ($($test:ident: $how:literal,)*) => {$(
        #[test]
        fn $test() {
            let lab = lab!("cc");
            is_found(&lab, $how, stringify!($test));
        }
    )*};
}

found! {
    a_socket_in_a_table_of_a_threads_own_is_its_processs: "thread",
    a_process_whose_first_thread_ended_is_found: "leader",
    a_socket_in_an_io_uring_is_the_rings_holders: "ring",
    a_socket_behind_as_many_descriptors_as_there_may_be_is_found: "many",
}

/// Without notices: a SYN would tell of it before it is sent on its way. In a pid namespace of its own: this machine's pid 1 may be one that nobody may read, and then it is to blame.
fn told_of_one_in_flight(lab: &Lab, watcher: &str) -> Value {
    let (hider, _server) = (build(lab), lab.listen("127.0.0.1:22"));
    let script = format!(
        "{watcher} \"$1\" watch --config \"$2\" --events none --duration 3s & sleep 1; \
         sleep 2 | \"$3\" flight 127.0.0.1 22 >&2; wait $!; wait"
    );
    let mut unshare = lab.command("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script, "sh", PORTREEVE]);
    let output = output(unshare.arg(lab.path("portreeve.toml")).arg(hider));
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8(output.stdout).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = ["connection-opened", "connection-changed"].map(|action| with_action(&records, action));
    let told =
        told.concat().into_iter().find(|record| record["portreeve"]["attribution"]["reason"] != "budget");
    told.unwrap_or_else(|| panic!("no open: {records:#?}\n{said}"))
}

#[test]
fn a_socket_in_flight_is_nobodys_and_said_to_be_in_flight() {
    let lab = lab!("cc");
    let service =
        format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {}", SYS_PTRACE.join(" "));
    for watcher in ["", service.as_str()] {
        let told = told_of_one_in_flight(&lab, watcher);
        let expected = json!({
            "process": null,
            "user.id": "0",
            "portreeve.attribution.status": "unknown",
            "portreeve.attribution.reason": "in_flight",
        });
        assert_fields(&told, &expected);
    }
}

#[test]
fn who_lets_us_wait_for_his_arguments_for_ever_is_told_without_them_and_holds_up_nobody() {
    let name = "who_lets_us_wait_for_his_arguments_for_ever_is_told_without_them_and_holds_up_nobody";
    let lab = lab!("cc");
    let (hider, _server) = (build(&lab), lab.listen("127.0.0.1:22"));
    let mut silent = match hide(&mut lab.command(&hider), "silent") {
        Ok(child) => child,
        Err(lack) => return support::not_run(name, &lack),
    };
    // As the service: whoever may not trace it is not let wait either.
    let mut watch = Watch::start(&lab, &mut lab.portreeve_as(NOBODY, &SYS_PTRACE));
    let open = watch.wait_opened();
    let expected = json!({
        "process.pid": silent.id(),
        "process.name": "hide",
        "process.executable": hider.to_str().unwrap(),
        "user.id": "1",
        "process.args": [],
        "portreeve.denied": ["cmdline"],
    });
    assert_fields(&open, &expected);
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(lab.connect("127.0.0.1:22"));
        let began = std::time::Instant::now();
        let opens = watch.wait_opens(1 + others.len());
        assert!(began.elapsed() < std::time::Duration::from_secs(1), "told after {:?}", began.elapsed());
        assert_fields(
            opens.last().unwrap(),
            &json!({ "process.pid": std::process::id(), "portreeve.denied": null }),
        );
    }
    let stopped = watch.stop();
    assert!(stopped.took < std::time::Duration::from_secs(1), "ended after {:?}", stopped.took);
    drop(silent.stdin.take());
    assert!(silent.wait().unwrap().success());
    assert_eq!(with_action(&stopped.records, "gap"), [] as [Value; 0]);
}
