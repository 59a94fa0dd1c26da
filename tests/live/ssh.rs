//! What OpenSSH's programs do, and who the log says did it.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{actions, assert_fields, pick, tuple, with, with_action};
use crate::support::session::{STAY, Session};
use crate::support::watch::PATIENCE;
use crate::support::{output, processes, wait_for};

/// The parent of the owner and all above it, as the record has them.
fn ancestry(record: &Value) -> Vec<Value> {
    let ancestry = record["portreeve"]["ancestry"].as_array().unwrap();
    ancestry.iter().map(|process| pick(process, &["pid", "name", "executable"])).collect()
}

/// The pids that sshd logged in from port to port, in the order of the logins.
fn logins(lab: &Lab, server: usize) -> Vec<u16> {
    let said = std::fs::read_to_string(lab.path(&format!("sshd-{server}.log"))).unwrap();
    let ports = said.lines().filter(|line| line.starts_with("Accepted publickey")).map(|line| {
        let (_, tail) = line.split_once(" port ").unwrap();
        tail.split(' ').next().unwrap().parse().unwrap()
    });
    ports.collect()
}

#[test]
fn a_shell_that_runs_ssh_is_told_whole_once_when_it_connects_and_once_when_it_ends() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    let config = lab.path("ssh_config").display().to_string();

    // The `exit` keeps the shell from becoming ssh itself.
    let script = format!("ssh -F {config} -o ServerAliveInterval=30 127.0.0.1 '{STAY}'; exit $?");
    let session = Session::start(lab.command("sh").args(["-c", &script]));
    let open = watch.wait_opened();

    let [ssh] = processes::children(session.pid(), "ssh")[..] else { panic!("not one ssh") };
    let args = ["ssh", "-F", &config, "-o", "ServerAliveInterval=30", "127.0.0.1", STAY];
    assert_eq!(processes::arguments(ssh), args);
    let who = json!({
        "process.pid": ssh,
        "process.name": "ssh",
        "process.executable": processes::executable(ssh).unwrap(),
        "process.args": args,
        "process.args_count": args.len(),
        "process.working_directory": "/",
        "process.parent.pid": session.pid(),
        "process.parent.name": "sh",
        "process.parent.executable": processes::executable(session.pid()).unwrap(),
        "process.parent.args": ["sh", "-c", script],
        "user.id": "0",
        "user.name": "root",
        "portreeve.attribution.status": "owned",
        "network.transport": "tcp",
        "network.type": "ipv4",
        "network.direction": "egress",
        "portreeve.connection.seen": crate::FIRST_SIGHT,
    });
    let who = with(who, tuple(&session.addresses));
    assert_fields(&open, &who);
    assert_eq!(
        ancestry(&open),
        processes::chain_from(session.pid()),
        "every process up to pid 1, by its own name"
    );
    assert_eq!(ancestry(&open).last().unwrap()["pid"], 1);

    assert!(session.end().success());
    let close = watch.wait_closed();
    assert_fields(&close, &who);
    assert_eq!(ancestry(&close), ancestry(&open));
    let id = open["portreeve"]["connection"]["id"].clone();
    let end = json!({
        "portreeve.connection.id": id,
        "event.outcome": "success",
        "event.type": ["connection", "end"],
        "portreeve.close.reason": "closed",
    });
    assert_fields(&close, &end);
    let stopped = watch.stop();
    // Between them at most the news that a connection first seen in its handshake was established.
    let told = actions(&stopped.records);
    assert!(
        [
            &["connection-opened", "connection-closed"][..],
            &["connection-opened", "connection-changed", "connection-closed"]
        ]
        .contains(&&told[..]),
        "{told:?}"
    );
}

#[test]
fn scp_is_the_parent_of_the_ssh_that_owns_its_connection() {
    let mut lab = lab!("scp");
    lab.sshd(&["127.0.0.1:2222"]);
    let mut watch = lab.watch(&["--ports", "2222"]);
    // Big enough to stay for some polls: a local copy runs at hundreds of megabytes a second.
    std::fs::File::create(lab.path("big")).unwrap().set_len(64 << 20).unwrap();

    let mut scp = lab.command("scp");
    scp.arg("-q").arg("-F").arg(lab.path("ssh_config")).args(["-P", "2222"]);
    scp.arg(lab.path("big")).arg(format!("127.0.0.1:{}", lab.path("copy").display()));
    let mut scp = scp.spawn().unwrap();
    let open = watch.wait_opened();
    let expected = json!({
        "process.name": "ssh",
        "process.parent.pid": scp.id(),
        "process.parent.name": "scp",
        "process.parent.args": processes::arguments(scp.id()),
        "source.port": logins(&lab, 0).first(),
    });
    assert!(wait_for("scp's end", PATIENCE, || scp.try_wait().unwrap()).success());
    let expected = with(expected, json!({ "source.port": logins(&lab, 0)[0], "destination.port": 2222 }));
    assert_fields(&open, &expected);
    assert_fields(&watch.wait_closed(), &expected);
    watch.stop();
}

#[test]
fn sftp_is_the_parent_of_the_ssh_that_owns_its_connection() {
    let mut lab = lab!("sftp");
    lab.sshd(&["127.0.0.1:2222"]);
    let mut watch = lab.watch(&["--ports", "2222"]);

    let mut sftp = lab.command("sftp");
    sftp.args(["-q", "-b", "-", "-P", "2222", "-F"]).arg(lab.path("ssh_config")).arg("127.0.0.1");
    let mut sftp = sftp.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let open = watch.wait_opened();
    let [ssh] = processes::children(sftp.id(), "ssh")[..] else { panic!("not one ssh below sftp") };
    let expected = json!({
        "process.pid": ssh,
        "process.name": "ssh",
        "process.args": processes::arguments(ssh),
        "process.parent.pid": sftp.id(),
        "process.parent.name": "sftp",
    });
    assert_fields(&open, &expected);
    drop(sftp.stdin.take());
    assert!(wait_for("sftp's end", PATIENCE, || sftp.try_wait().unwrap()).success());
    assert_fields(&watch.wait_closed(), &expected);
    assert_eq!(
        actions(&watch.stop().records).iter().filter(|action| **action != "connection-changed").count(),
        2
    );
}

#[test]
fn a_jump_is_two_sockets_the_clients_helper_owns_one_and_the_jump_hosts_sshd_the_other() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:2201"]).sshd(&["127.0.0.1:2202"]);
    let mut watch = lab.watch(&["--ports", "2201,2202"]);

    let session = Session::start(lab.ssh().args(["-J", "127.0.0.1:2201", "-p", "2202", "127.0.0.1", STAY]));
    let opens = watch.wait_opens(2);
    let (first, second) = (&opens[0], &opens[1]);
    let [helper] = processes::children(session.pid(), "ssh")[..] else { panic!("not one ssh -W") };
    assert!(processes::arguments(helper).contains(&"-W".to_owned()), "{:?}", processes::arguments(helper));
    let first_leg = json!({
        "destination.port": 2201,
        "source.port": logins(&lab, 0)[0],
        "process.pid": helper,
        "process.args": processes::arguments(helper),
        "process.parent.pid": session.pid(),
        "process.parent.name": "ssh",
    });
    assert_fields(first, &first_leg);
    assert_fields(second, &tuple(&session.addresses));
    assert_fields(second, &json!({ "process.name": "sshd", "user.id": "0" }));
    let above: Vec<_> = ancestry(second).iter().map(|process| process["pid"].clone()).collect();
    assert!(above.contains(&lab.sshd_pid().into()), "the jump host's sshd is above: {above:?}");

    assert!(session.end().success());
    watch.wait_actions("connection-closed", 2);
    watch.stop();
}

#[test]
fn a_jump_through_another_host_is_one_socket_here() {
    let (lab, mut far) = (lab!(), lab!());
    lab.join(&far);
    far.sshd(&["192.0.2.2:22", "127.0.0.1:22"]);
    std::fs::copy(far.path("user_key"), lab.path("user_key")).unwrap();
    let mut watch = lab.watch(&[]);

    let session = Session::start(lab.ssh().args(["-J", "192.0.2.2", "127.0.0.1", STAY]));
    let open = watch.wait_opened();
    let first_leg = ("192.0.2.1".into(), logins(&far, 0)[0], "192.0.2.2".into(), 22);
    assert_fields(&open, &tuple(&first_leg));
    assert!(session.end().success());
    watch.wait_closed();
    watch.stop();
}

#[test]
fn three_sessions_over_one_control_master_are_one_open_and_one_close() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    let control = lab.path("control").display().to_string();

    let master = Session::start(lab.ssh().args(["-M", "-S", &control, "127.0.0.1", STAY]));
    let open = watch.wait_opened();
    for _ in 0..2 {
        let sharing = Session::start(lab.ssh().args(["-S", &control, "127.0.0.1", STAY]));
        assert_eq!(sharing.addresses, master.addresses, "it rides on the master's connection");
        assert!(sharing.end().success());
    }
    let pid = master.pid();
    assert!(master.end().success());
    let close = watch.wait_closed();
    assert_fields(&open, &json!({ "process.pid": pid }));
    assert_fields(&close, &json!({ "process.pid": pid }));
    let records = watch.stop().records;
    assert_eq!(with_action(&records, "connection-opened").len(), 1);
    assert_eq!(with_action(&records, "connection-closed").len(), 1);
}

#[test]
fn a_control_persist_master_that_forks_away_keeps_its_connections_id_and_the_new_owner_is_named() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    let control = lab.path("control").display().to_string();

    let persist = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-S", &control];
    let session = Session::start(lab.ssh().args(persist).stderr(Stdio::null()).args(["127.0.0.1", STAY]));
    let open = watch.wait_opened();
    assert_fields(&open, &with(json!({ "process.pid": session.pid() }), tuple(&session.addresses)));
    let first_owner = session.pid();
    let told = output(lab.ssh().args(["-S", &control, "-O", "check", "127.0.0.1"]));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let master =
        told.split_once("pid=").unwrap().1.trim_end_matches([')', '\r', '\n']).parse::<u32>().unwrap();
    assert_ne!(master, first_owner);
    assert!(session.end().success());
    // No counter tells that one of two holders ended: the next reading of the tables does, which any connection brings
    // about, also one that is not watched.
    let elsewhere = lab.listen("127.0.0.1:0");
    let _other = lab.connect(&elsewhere.local_addr().unwrap().to_string());

    let id = &open["portreeve"]["connection"]["id"];
    let change = watch.wait_for("the new owner", |records| {
        let changes = with_action(records, "connection-changed");
        changes.into_iter().find(|change| change["process"]["pid"] == master)
    });
    assert_eq!(&change["portreeve"]["connection"]["id"], id);
    let what = change["portreeve"]["changed"].to_string();
    assert!(what.contains("process") || what.contains("owner"), "{what}");

    let exit = output(lab.ssh().args(["-S", &control, "-O", "exit", "127.0.0.1"]));
    assert!(exit.status.success());
    let close = watch.wait_closed();
    assert_fields(
        &close,
        &json!({ "portreeve.connection.id": id, "process.pid": master, "event.outcome": "success" }),
    );
    assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 1);
}

#[test]
fn another_users_ssh_is_that_users() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    let key = lab.path("user_key");
    std::os::unix::fs::chown(&key, Some(crate::support::lab::NOBODY), None).unwrap();

    let mut ssh = lab.command_as(crate::support::lab::NOBODY, &[], "ssh");
    ssh.arg("-F").arg(lab.path("ssh_config")).args(["-l", "root", "127.0.0.1", STAY]);
    let session = Session::start(&mut ssh);
    let open = watch.wait_opened();
    let expected = json!({ "user.id": "65534", "user.name": "nobody", "process.pid": session.pid() });
    assert_fields(&open, &with(expected, tuple(&session.addresses)));
    assert!(session.end().success());
    watch.wait_closed();
    watch.stop();
}
