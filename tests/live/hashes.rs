//! SHA-256 of executables: that of the file that runs, wherever that is by now; and a filter by it that drops only what
//! it can prove.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::lab;
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::{actions, with_action};
use crate::support::session::{STAY, Session};
use crate::support::{find_program, output};

fn sha256sum(path: impl AsRef<Path>) -> String {
    let told = output(std::process::Command::new("sha256sum").arg(path.as_ref()));
    String::from_utf8(told.stdout).unwrap()[..64].to_owned()
}

fn hash_of(record: &Value) -> Option<&str> {
    record["process"]["hash"]["sha256"].as_str()
}

/// A copy of ssh that was left alone for long enough to be known by its times.
fn own_ssh(lab: &Lab) -> std::path::PathBuf {
    let path = lab.path("own-ssh");
    std::fs::copy(find_program("ssh").unwrap(), &path).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(5));
    path
}

#[test]
fn open_and_close_tell_the_hash_of_the_program_and_a_deleted_one_has_it_too() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&["--hash"]);
    let path = lab.path("deleted");
    std::fs::copy(find_program("ssh").unwrap(), &path).unwrap();
    // It differs from any other ssh.
    std::io::Write::write_all(&mut std::fs::File::options().append(true).open(&path).unwrap(), b"x").unwrap();
    let hash = sha256sum(&path);
    let mut ssh = lab.command(&path);
    let session = Session::start(ssh.arg("-F").arg(lab.path("ssh_config")).args(["127.0.0.1", STAY]));
    watch.wait_for("the hash", |records| {
        records.iter().any(|record| hash_of(record) == Some(&hash)).then_some(())
    });
    assert!(session.end().success());
    assert_eq!(hash_of(&watch.wait_closed()), Some(&*hash));
    let stopped = watch.stop();
    let opens = with_action(&stopped.records, "connection-opened");
    assert!(hash_of(&opens[0]).is_some() || opens[0]["portreeve"]["hash"]["reason"] == "pending");

    // It cannot be opened by a name any more.
    let mut watch = lab.watch(&["--hash"]);
    let mut ssh = lab.command(&path);
    let session = Session::start(ssh.arg("-F").arg(lab.path("ssh_config")).args(["127.0.0.1", STAY]));
    std::fs::remove_file(&path).unwrap();
    watch.wait_opened();
    watch.wait_for("the hash", |records| {
        records.iter().any(|record| hash_of(record) == Some(&hash)).then_some(())
    });
    assert!(session.end().success());
    let closed = watch.wait_closed();
    assert_eq!(hash_of(&closed), Some(&*hash));
    watch.stop();
}

#[test]
fn without_the_option_nothing_is_hashed() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    assert!(Session::start(lab.ssh().args(["127.0.0.1", STAY])).end().success());
    let closed = watch.wait_closed();
    assert!(hash_of(&closed).is_none() && closed["portreeve"].get("hash").is_none(), "{closed}");
    watch.stop();
}

#[test]
fn a_program_that_may_not_be_read_is_told_with_the_reason() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let path = lab.path("closed-ssh");
    std::fs::copy(find_program("ssh").unwrap(), &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711)).unwrap();
    // Reads /proc of all, and no file that is not everybody's.
    let ptrace =
        ["--inh-caps=-all,+sys_ptrace", "--ambient-caps=-all,+sys_ptrace", "--bounding-set=-all,+sys_ptrace"];
    let mut command = lab.portreeve_as(NOBODY, &ptrace);
    let mut watch = crate::support::watch::Watch::start(&lab, command.arg("--hash"));
    let mut ssh = lab.command(&path);
    let session = Session::start(ssh.arg("-F").arg(lab.path("ssh_config")).args(["127.0.0.1", STAY]));
    watch.wait_opened();
    assert!(session.end().success());
    let closed = watch.wait_closed();
    assert_eq!(closed["portreeve"]["hash"]["reason"], "denied", "{closed}");
    watch.stop();
}

#[test]
fn connections_of_an_ignored_program_are_left_out_until_it_is_another() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let path = own_ssh(&lab);
    let list = lab.path("ignored");
    std::fs::write(&list, format!("# ours\n{}  own-ssh\n", sha256sum(&path))).unwrap();
    let mut watch = lab.watch(&["--ignore-hash", list.to_str().unwrap()]);
    let session = |lab: &Lab| {
        let mut ssh = lab.command(&path);
        Session::start(ssh.arg("-F").arg(lab.path("ssh_config")).args(["127.0.0.1", STAY]))
    };
    // It may take its time to be hashed, and is told then.
    assert!(session(&lab).end().success());
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = watch.records().len();
    assert!(session(&lab).end().success());
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(watch.records().len(), before, "{:#?}", watch.records());
    // A reload takes another list under the same name.
    std::fs::write(&list, "").unwrap();
    watch.signal(Signal::HUP);
    let reloaded = watch.wait_actions("watch-reloaded", 1);
    assert_eq!(reloaded[0]["portreeve"]["watch"]["changed"], serde_json::json!(["ignore-hash"]));
    assert!(session(&lab).end().success());
    watch.wait_for("its open and close", |records| (records.len() >= before + 3).then_some(()));
    let records = watch.stop().records;
    let last = with_action(&records, "connection-closed").pop().unwrap();
    assert_eq!(hash_of(&last), Some(&*sha256sum(&path)), "{:?}", actions(&records));
}

#[test]
fn a_list_that_is_none_is_refused() {
    let lab = lab!();
    let list = lab.path("ignored");
    std::fs::write(&list, "zz  ssh\n").unwrap();
    let refused = output(lab.portreeve().arg("--ignore-hash").arg(&list));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("line 1") && said.contains("zz"), "{said}");
}
