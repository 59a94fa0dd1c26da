//! Where it would see nothing it says so, names what to change, and ends with 77. Under systemd: `tests/service.rs`.
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

use std::process::Command;

use support::lab::{Lab, NOBODY};
use support::watch::PORTREEVE;
use support::{not_run, output};

/// All that the service has.
const SERVICE: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+sys_ptrace \
                       --ambient-caps=+sys_ptrace";
/// Nothing at all.
const USER: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";
const ROOT: &str = "env";

/// Runs a shell's words before the watcher; it must refuse and say `mend`.
fn refuses(lab: &Lab, words: &str, mend: &str) {
    let script = format!("{words} \"$1\" watch --config \"$2\" --duration 300ms");
    let mut shell = lab.command("sh");
    let output = output(shell.args(["-ec", &script, "sh", PORTREEVE]).arg(lab.path("portreeve.toml")));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{words}: {said}");
    assert!(output.stdout.is_empty(), "{words}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(said.contains(mend), "{words}: {said}");
}

/// Runs it in a sandbox, as root and as the service does.
fn refuses_in(lab: &Lab, sandbox: &str, mend: &str) -> Result<(), String> {
    let (source, program) =
        (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/blind/sandbox.c"), lab.path("sandbox"));
    let built = output(Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(source));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let tried = output(lab.command(&program).args([sandbox, "/bin/true"]));
    if tried.status.code() == Some(99) {
        return Err(String::from_utf8_lossy(&tried.stderr).trim_end().to_owned());
    }
    for user in [ROOT, SERVICE] {
        refuses(lab, &format!("{user} {} {sandbox}", program.display()), mend);
    }
    Ok(())
}

#[test]
fn in_a_landlock_domain() {
    let lab = lab!("cc");
    if let Err(lack) = refuses_in(&lab, "landlock", "Landlock") {
        not_run("in_a_landlock_domain", &lack);
    }
}

#[test]
fn where_links_may_not_be_read() {
    let lab = lab!("cc");
    if let Err(lack) = refuses_in(&lab, "links", "SystemCallFilter= must allow readlinkat") {
        not_run("where_links_may_not_be_read", &lack);
    }
}

#[test]
fn in_a_user_namespace_of_its_own() {
    let lab = lab!();
    for user in [ROOT, USER] {
        refuses(&lab, &format!("{user} unshare --user --map-root-user"), "PrivateUsers=no");
    }
}

#[test]
fn where_proc_has_processes_alone() {
    let lab = lab!();
    for user in [ROOT, SERVICE, USER] {
        let words = format!("mount -t proc -o subset=pid proc /proc; {user}");
        refuses(&lab, &words, "ProcSubset=all");
        lab.run("umount /proc");
    }
}

#[test]
fn where_processes_are_hidden() {
    let lab = lab!();
    for option in ["noaccess", "invisible", "ptraceable"] {
        let words = format!("mount -t proc -o hidepid={option} proc /proc; {USER}");
        refuses(&lab, &words, "AmbientCapabilities=CAP_SYS_PTRACE");
        lab.run("umount /proc");
    }
}

#[test]
fn alone_in_a_network_whoever_it_is() {
    let lab = lab!();
    for user in [ROOT, SERVICE, USER] {
        refuses(&lab, &format!("unshare --net {user}"), "PrivateNetwork=no");
    }
}

#[test]
fn a_user_without_privilege_is_not_blind() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = support::watch::Watch::start(&lab, &mut lab.portreeve_as(NOBODY, &[]));
    let _connection = lab.connect("127.0.0.1:22");
    assert_eq!(watch.wait_opened()["portreeve"]["attribution"]["reason"], "denied");
    assert!(watch.errors().contains("CAP_SYS_PTRACE"), "{}", watch.errors());
    let stopped = watch.stop();
    let started = support::log::with_action(&stopped.records, "watch-started").remove(0);
    assert_eq!(started["portreeve"]["watch"]["owners"], "own");
}
