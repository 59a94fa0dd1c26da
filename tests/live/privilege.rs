//! What it sees with fewer rights than root's, and that it never runs blind.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

use serde_json::json;

use crate::lab;
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::{assert_fields, tuple, with};
use crate::support::session::{STAY, Session};
use crate::support::watch::{PORTREEVE, Watch};
use crate::support::{output, processes};

/// All that the service has.
const SYS_PTRACE: [&str; 3] = ["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace", "--no-new-privs"];

fn start_session_as(lab: &Lab, user: u32) -> Session {
    let key = lab.path("user_key");
    std::os::unix::fs::chown(&key, Some(user), None).unwrap();
    let mut ssh = lab.command_as(user, &[], "ssh");
    Session::start(ssh.arg("-F").arg(lab.path("ssh_config")).args(["-l", "root", "127.0.0.1", STAY]))
}

#[test]
fn without_rights_every_connection_is_told_and_of_others_that_their_owner_is_denied() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = Watch::start(&lab, &mut lab.portreeve_as(NOBODY, &[]));

    let roots = start_session_as(&lab, 0);
    let open = watch.wait_opened();
    let expected = json!({
        "user.id": "0",
        "process": null,
        "portreeve.attribution.status": "unknown",
        "portreeve.attribution.reason": "denied",
    });
    assert_fields(&open, &with(expected, tuple(&roots.addresses)));
    assert!(roots.end().success());
    watch.wait_closed();

    let own = start_session_as(&lab, NOBODY);
    let open = watch.wait_opens(2).remove(1);
    let expected = json!({
        "user.id": "65534",
        "process.pid": own.pid(),
        "process.name": "ssh",
        "portreeve.attribution.status": "owned",
    });
    assert_fields(&open, &with(expected, tuple(&own.addresses)));
    let above: Vec<_> =
        open["portreeve"]["ancestry"].as_array().unwrap().iter().map(|p| p["pid"].clone()).collect();
    let expected: Vec<_> =
        processes::chain_from(std::process::id()).iter().map(|p| p["pid"].clone()).collect();
    assert_eq!(above, expected, "pids and names of ancestors need no right");
    let said = watch.errors();
    assert!(said.contains("CAP_SYS_PTRACE"), "it says what to grant: {said}");
    assert!(own.end().success());
    watch.stop();
}

#[test]
fn with_cap_sys_ptrace_alone_everybodys_connections_have_their_owner() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = Watch::start(&lab, &mut lab.portreeve_as(NOBODY, &SYS_PTRACE));
    // A third user: neither root nor the watcher's own.
    for (number, user) in [(1, 0), (2, 1)] {
        let session = start_session_as(&lab, user);
        let open = watch.wait_opens(number).remove(number - 1);
        let expected = json!({
            "user.id": user.to_string(),
            "process.pid": session.pid(),
            "process.name": "ssh",
            "process.executable": processes::executable(session.pid()).unwrap(),
            "process.args": processes::arguments(session.pid()),
            "portreeve.attribution.status": "owned",
        });
        assert_fields(&open, &with(expected, tuple(&session.addresses)));
        assert!(session.end().success());
        watch.wait_actions("connection-closed", number);
    }
    watch.stop();
}

#[test]
fn whoever_lives_among_users_and_pids_of_his_own_is_told_as_they_are_outside() {
    let lab = lab!("bash");
    let _server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&[]);
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; echo $$ $UID; read wait";
    let mut unshare = lab.command_as(NOBODY, &[], "unshare");
    unshare.args(["--user", "--map-root-user", "--pid", "--fork", "bash", "-c", script]);
    let mut child = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said.is_empty() {
        child.wait().unwrap();
        let name = "whoever_lives_among_users_and_pids_of_his_own_is_told_as_they_are_outside";
        return crate::support::not_run(name, "it needs user namespaces that everybody may make");
    }
    assert_eq!(said, "1 0\n", "it takes itself for root, and for the first process");
    let open = watch.wait_opened();
    let [bash] = processes::children(child.id(), "bash")[..] else { panic!("not one bash") };
    assert_fields(
        &open,
        &json!({ "process.pid": bash, "process.name": "bash", "user.id": NOBODY.to_string() }),
    );
    drop(child.stdin.take());
    child.wait().unwrap();
    watch.wait_closed();
    watch.stop();
}

/// Runs a script in a pid namespace whose first process is the script's shell, in the lab's network: there this
/// machine's own pid 1, which may be unreadable, cannot disturb.
fn in_own_pids(lab: &Lab, script: &str) -> Output {
    let mut unshare = lab.command("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]);
    let output = output(unshare.arg("sh").arg(PORTREEVE).arg(lab.path("portreeve.toml")));
    println!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn alone_in_a_network_namespace_it_refuses_and_names_the_namespace() {
    let lab = lab!();
    let output = in_own_pids(&lab, "unshare --net \"$1\" watch --config \"$2\" --duration 1s; exit $?");
    assert_eq!(output.status.code(), Some(77));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stderr).contains("network namespace"));
}

#[test]
fn in_another_network_namespace_with_others_it_works_and_warns() {
    let lab = lab!();
    let script = "unshare --net sh -c 'sleep 3 & \"$1\" watch --config \"$2\" --duration 300ms; code=$?; kill $!; \
                  exit $code' sh \"$1\" \"$2\"; exit $?";
    let output = in_own_pids(&lab, script);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("network namespace"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("watch-started"));
}

#[test]
fn in_the_network_namespace_of_pid_1_it_does_not_warn_of_namespaces() {
    let lab = lab!();
    let output = in_own_pids(&lab, "\"$1\" watch --config \"$2\" --duration 300ms; exit $?");
    assert_eq!(output.status.code(), Some(0));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("namespace"));
}

/// Runs the watcher as nobody where /proc hides others' processes.
fn where_processes_are_hidden(lab: &Lab, options: &str) -> Output {
    let script = format!(
        "mount -t proc -o hidepid=2 proc /proc && setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {options} \
         \"$1\" watch --config \"$2\" --duration 300ms; exit $?"
    );
    in_own_pids(lab, &script)
}

#[test]
fn where_processes_are_hidden_it_refuses_and_says_so() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let output = where_processes_are_hidden(&lab, "");
    assert_eq!(output.status.code(), Some(77));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("hidepid") || said.contains("hidden"), "{said}");
}

#[test]
fn where_processes_are_hidden_cap_sys_ptrace_is_enough() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let output = where_processes_are_hidden(&lab, &SYS_PTRACE.join(" "));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("watch-stopped"));
}
