//! What blinds a watcher that runs is a gap, and systemd's watchdog is not fed meanwhile.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::lab;
use crate::story::{Log, Pair, SSH, gaps, opens_of};
use crate::support::lab::Lab;
use crate::support::log::with_action;
use crate::support::watch::PORTREEVE;

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
    std::thread::sleep(Duration::from_millis(300));
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
    drop((first, second));
    log.wait_actions("connection-closed", 2);
    run.stop();
    log.story();
}

fn by_files(lab: &Lab) -> Command {
    let mut command = lab.portreeve();
    command.args(["--source", "procfs", "--events", "none"]);
    command
}

fn hide_proc(lab: &Lab, _: u32) {
    lab.run("mount -t tmpfs tmpfs /proc");
}

fn show_proc(lab: &Lab, _: u32) {
    lab.run("umount /proc");
}

#[test]
fn without_proc_polls_fail_and_are_counted() {
    blinded(by_files, hide_proc, show_proc);
}

#[test]
fn without_descriptors_polls_fail_and_are_counted() {
    let limit = |to: &str| {
        let to = to.to_owned();
        move |lab: &Lab, pid: u32| drop(lab.run(&format!("prlimit --nofile={to} --pid {pid}")))
    };
    blinded(by_files, limit("3:4096"), limit("1024:4096"));
}

#[test]
fn without_proc_and_netlink_polls_fail_and_are_counted() {
    let command = |lab: &Lab| {
        let mut strace = lab.command("strace");
        // The program stays the child, and strace looks on.
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto"]);
        strace.args(["-e", "inject=sendto:error=EPERM:when=40+", PORTREEVE]);
        let mut command = lab.watcher(strace);
        command.args(["--source", "netlink", "--events", "none"]);
        command
    };
    blinded(command, hide_proc, show_proc);
}

#[test]
fn a_watch_that_named_all_owners_and_names_none_any_more_says_so() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run_as(lab.portreeve().args(["--source", "netlink"]));
    let owned = log.connect(&lab, &server);
    hide_proc(&lab, 0);
    let blind: Vec<_> = (0..3).map(|_| log.connect(&lab, &server)).collect();
    let open = opens_of(&log.now(), blind[0].port).remove(0);
    println!("{}", open["portreeve"]["attribution"]);
    assert_eq!(open["portreeve"]["attribution"]["status"], "unknown");
    show_proc(&lab, 0);
    // What is lost is told beside the minute's coverage; the last of a run is told at its end.
    hide_proc(&lab, 0);
    let errors = run.stop();
    let records = log.story();
    let gap = gaps(&records, "attribution_lost");
    println!("{gap:?}");
    assert_eq!(gap.len(), 1, "{errors}");
    assert!(gap[0]["detail"].as_str().unwrap().contains("may not be read any more"), "{gap:?}");
    show_proc(&lab, 0);
    drop((owned, blind));
}
