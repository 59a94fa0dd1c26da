//! What blinds a watcher that runs is a gap, and systemd's watchdog is not fed meanwhile.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::lab;
use crate::story::{Log, Pair, SSH, gaps, opens_of, starts};
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::with_action;
use crate::support::processes::children;
use crate::support::wait_for;
use crate::support::watch::{PATIENCE, PORTREEVE};

/// systemd's end of the socket that a service tells of itself on.
struct Manager(UnixDatagram);

impl Manager {
    /// `command` as a service whose watchdog wants to be fed every 600 ms.
    fn of(lab: &Lab, command: &mut Command) -> Self {
        let path = lab.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000").env_remove("WATCHDOG_PID");
        Self(socket)
    }

    /// How often the watchdog was fed in the time to come.
    fn fed_within(&self, time: Duration) -> usize {
        let mut message = [0; 1024];
        while self.0.recv(&mut message).is_ok() {}
        std::thread::sleep(time);
        let mut fed = 0;
        while let Ok(length) = self.0.recv(&mut message) {
            fed += String::from_utf8_lossy(&message[..length]).matches("WATCHDOG=1").count();
        }
        fed
    }
}

/// A watch that is blinded for two seconds, by `blind`, and then is not any more, by `heal`.
fn blinded(command: impl Fn(&Lab) -> Command, blind: impl Fn(&Lab, u32), heal: impl Fn(&Lab, u32)) {
    let lab = match Lab::new(&["prlimit", "strace"]) {
        Ok(lab) => lab,
        Err(reason) => return crate::support::not_run("blinded", &reason),
    };
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let mut command = command(&lab);
    let manager = Manager::of(&lab, &mut command);
    let mut run = log.run_as(&mut command);
    let first = log.connect(&lab, &server);
    assert!(manager.fed_within(Duration::from_millis(1_000)) >= 3);
    blind(&lab, run.child.id());
    // Counters tell that there is something to read, and then it cannot be read.
    let mut pairs = vec![first];
    wait_for("polls that fail", PATIENCE, || {
        pairs.push(Pair::new(&lab, &server));
        std::thread::sleep(Duration::from_millis(150));
        run.errors().contains("nothing is concluded").then_some(())
    });
    let second = Pair::new(&lab, &server);
    assert_eq!(
        manager.fed_within(Duration::from_millis(1_500)),
        0,
        "a blind watcher is not alive: {}",
        run.errors()
    );
    assert!(run.is_alive());
    assert_eq!(opens_of(&log.now(), second.port).len(), 0, "it was not blind: this test proved nothing");
    heal(&lab, run.child.id());
    let gap = log.wait("the gap", |records| gaps(records, "read_failed").pop());
    println!("{gap}");
    assert!(gap["count"].as_u64().unwrap() > 10 && gap["from"].as_str() < gap["to"].as_str(), "{gap}");
    log.wait("the open of meanwhile", |records| opens_of(records, second.port).pop());
    assert!(manager.fed_within(Duration::from_millis(1_000)) >= 3, "it sees again");
    assert_eq!(
        with_action(&log.now(), "connection-closed"),
        [] as [Value; 0],
        "nothing is concluded from it"
    );
    pairs.push(second);
    let made = pairs.len();
    drop(pairs);
    log.wait_actions("connection-closed", made);
    blind(&lab, run.child.id());
    let _unseen = Pair::new(&lab, &server);
    wait_for("polls that fail again", PATIENCE, || {
        (run.errors().matches("nothing is concluded").count() == 2).then_some(())
    });
    assert!(run.ended().success());
    assert_eq!(gaps(&log.story(), "read_failed").len(), 2, "also of a watch that ends blind");
}

fn by_files(lab: &Lab) -> Command {
    let mut command = lab.portreeve();
    command.args(["--source", "procfs", "--events", "none"]);
    command
}

/// Lays something empty over a folder of the watcher's own tables, or of processes.
fn hide(lab: &Lab, folder: &str) {
    lab.run(&format!("mount -t tmpfs tmpfs /proc/{folder}"));
}

fn show(lab: &Lab, folder: &str) {
    lab.run(&format!("umount /proc/{folder}"));
}

fn hide_tables(lab: &Lab, pid: u32) {
    hide(lab, &format!("{pid}/net"));
}

fn show_tables(lab: &Lab, pid: u32) {
    show(lab, &format!("{pid}/net"));
}

#[test]
fn without_tables_netlink_is_asked() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run_as(&mut by_files(&lab));
    hide_tables(&lab, run.child.id());
    let pair = log.connect(&lab, &server);
    let gap = gaps(&log.now(), "source_failed").remove(0);
    assert!(gap["detail"].as_str().unwrap().contains("read by netlink now"), "{gap}");
    drop(pair);
    log.wait_actions("connection-closed", 1);
    run.stop();
    log.story();
}

#[test]
fn without_tables_and_netlink_polls_fail_and_are_counted() {
    let command = |lab: &Lab| {
        let mut strace = lab.command("strace");
        // The program stays the child, and strace looks on.
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto"]);
        strace.args(["-e", "inject=sendto:error=EPERM:when=12+", PORTREEVE]);
        let mut command = lab.watcher(strace);
        // A signal would be handed on by the system call that fails.
        command.args(["--source", "netlink", "--events", "none", "--duration", "9s"]);
        command
    };
    blinded(command, hide_tables, show_tables);
}

#[test]
fn without_descriptors_nothing_is_concluded_and_what_stands_is_told() {
    let lab = lab!("prlimit");
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let mut run = log.run_as(&mut by_files(&lab));
    let first = log.connect(&lab, &server);
    let limit = |to: &str| drop(lab.run(&format!("prlimit --nofile={to} --pid {}", run.child.id())));
    limit("3:4096");
    let second = Pair::new(&lab, &server);
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(with_action(&log.now(), "connection-closed"), [] as [Value; 0]);
    limit("1024:4096");
    log.wait("the open of meanwhile", |records| opens_of(records, second.port).pop());
    assert!(run.is_alive(), "{}", run.errors());
    drop((first, second));
    log.wait_actions("connection-closed", 2);
    run.stop();
    log.story();
}

/// In a pid namespace of its own, where there is nobody but its shell.
#[test]
fn a_watch_that_named_all_owners_and_may_not_any_more_says_so() {
    let lab = lab!();
    let log = Log::new(&lab);
    let mut unshare = lab.command("unshare");
    unshare.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        "\"$@\"; exit $?",
        "sh",
        PORTREEVE,
    ]);
    let mut run = log.run_as(lab.watcher(unshare).args(["--duration", "2s"]));
    assert_eq!(starts(&log.now())[0]["owners"], "all");
    let shell = children(run.child.id(), "sh").remove(0);
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--mount", "--target", &shell.to_string(), "mount", "-t", "tmpfs", "tmpfs", "/proc/1"]);
    assert!(nsenter.status().unwrap().success());
    // What is lost is told beside the minute's coverage; the last minute's is told at the end.
    assert!(run.ended().success(), "{}", run.errors());
    let gap = gaps(&log.story(), "attribution_lost");
    println!("{gap:?}");
    assert_eq!(gap.len(), 1);
    assert!(gap[0]["detail"].as_str().unwrap().contains("may not be read any more"), "{gap:?}");
}

#[test]
fn a_minute_whose_connections_all_have_no_owner_is_told() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    std::os::unix::fs::chown(log.folder(), Some(NOBODY), None).unwrap();
    let run = log.run_as(&mut lab.portreeve_as(NOBODY, &[]));
    let pairs: Vec<_> = (0..12).map(|_| log.connect(&lab, &server)).collect();
    run.stop();
    let gap = gaps(&log.story(), "attribution_lost");
    println!("{gap:?}");
    assert_eq!((gap.len(), &gap[0]["count"]), (1, &Value::from(pairs.len())));
}
