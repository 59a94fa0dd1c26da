//! One connection, many sessions.

use serde_json::{Value, json};

use crate::check::{Check, Outcome};
use crate::host::{Logins, PATIENCE};
use crate::net::{Net, opened};
use crate::shells::{plain, unknown};
use crate::support::log::with_action;
use crate::support::wait_for;
use crate::talk::{Login, Talk};

/// A master that goes on without its login, and two sessions of other logins that ride on it.
pub fn three_sessions() -> Outcome {
    let net = Net::new(Logins::Audited)?;
    net.watch(&[]);
    let mut check = Check::new();
    let mut first = Talk::ssh(&net.laptop, "alice", &["-tt", "bastion"]);
    let first_login = first.login();
    let persist = "-o ControlMaster=auto -o ControlPersist=60 -S /tmp/control";
    first.enter(&format!("ssh {persist} bob@target sh"));
    let inner = first.login();
    let [open] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let ssh = json!({
        "target": "bob@target",
        "login": "bob",
        "control_path": "/tmp/control",
        "multiplexed": true,
    });
    let mut expected = plain("alice", &inner, "target", ssh.clone());
    expected["portreeve.route"] = json!("mux_master");
    check.connection(&net.bastion, open, &first_login.origin("socket"), expected);
    let id = open["portreeve"]["connection"]["id"].clone();

    // It forks away: pid 1 is its parent now.
    let told = net.bastion.run("ssh -S /tmp/control -O check target 2>&1");
    let master: u32 = told.split_once("pid=").unwrap().1.trim_end().trim_end_matches(')').parse().unwrap();
    first.leave();
    assert!(first.end().success());
    wait_for("the end of the first login", PATIENCE, || {
        (net.bastion.run(&format!("[ -d /proc/{} ] || echo over", first_login.sshd_pid)) == "over\n")
            .then_some(())
    });
    let change = net.bastion.wait_records("the master as owner", |records| {
        let mut changes = with_action(records, "connection-changed").into_iter();
        changes.find(|change| change["process"]["pid"] == master)
    });
    check.fields(
        &net.bastion,
        &change,
        json!({ "portreeve.connection.id": id, "portreeve.route": "mux_master" }),
    );
    let origin = first_login.origin("socket");
    assert_eq!(change["portreeve"]["origin"]["ip"], origin["ip"], "a master keeps its origin");
    assert_eq!(change["portreeve"]["origin"]["port"], origin["port"], "a master keeps its origin");

    for number in 1..=2 {
        rides(&net, &mut check, number, &inner, &id);
    }
    for open in opened(&net.laptop, 3) {
        let plain = json!({ "portreeve.route": "direct", "portreeve.ssh": { "target": "bastion" } });
        check.connection(&net.laptop, &open, &unknown(), plain);
    }
    net.bastion.run("ssh -S /tmp/control -O exit target 2> /dev/null");
    check.finish(&net)
}

/// Another login, and its session on the master's connection.
fn rides(net: &Net, check: &mut Check, number: usize, inner: &Login, id: &Value) {
    let mut later = Talk::ssh(&net.laptop, "alice", &["-tt", "bastion"]);
    let login = later.login();
    later.enter("ssh -S /tmp/control bob@target sh");
    assert_eq!(later.login().port, inner.port, "it rides on the master's connection");
    let session = net.bastion.wait_records("a session on the master", |records| {
        with_action(records, "session-multiplexed").get(number - 1).cloned()
    });
    let expected = json!({
        "portreeve.connection.id": id,
        "process.name": "ssh",
        "user.name": "alice",
        "portreeve.ssh": { "target": "bob@target", "login": "bob", "control_path": "/tmp/control" },
    });
    check.connection(&net.bastion, &session, &login.origin("socket"), expected);
    later.leave();
    assert!(later.end().success());
}
