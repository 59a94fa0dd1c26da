//! Somebody logs in and runs ssh from there.

use std::process::Command;

use serde_json::{Value, json};

use crate::check::{Check, Outcome};
use crate::host::{Host, Logins, PATIENCE, need};
use crate::net::{Net, opened};
use crate::support::log::with;
use crate::support::wait_for;
use crate::talk::{Login, Talk};

/// What was started by nobody's login and in no unit.
pub fn unknown() -> Value {
    json!({ "kind": "unknown" })
}

/// The four ends of the connection that a login came by, from the side of its client.
pub fn ends(login: &Login) -> Value {
    json!({
        "source.ip": login.ip,
        "source.port": login.port,
        "destination.ip": login.local_ip,
        "destination.port": login.local_port,
    })
}

/// What is the same for every plain `ssh` to a name; `ssh`: the fields of `portreeve.ssh`.
pub fn plain(user: &str, login: &Login, name: &str, ssh: Value) -> Value {
    let fields = json!({
        "process.name": "ssh",
        "user.name": user,
        "network.protocol": "ssh",
        "portreeve.route": "direct",
        "portreeve.ssh": ssh,
        "destination.domain": name,
    });
    with(fields, ends(login))
}

/// The laptop's only connection, by an `ssh` that is in no session there.
pub fn check_laptop(check: &mut Check, laptop: &Host, login: &Login, ssh: Value) {
    let [open] = &opened(laptop, 1)[..] else { panic!("not one") };
    check.connection(laptop, open, &unknown(), plain("alice", login, "bastion", ssh));
}

/// What alice's client is told to do on the bastion: to give her a terminal there, or to read a script.
pub const TERMINAL: &[&str] = &["-tt", "bastion"];
pub const SCRIPT: &[&str] = &["bastion", "exec sh"];

/// alice logs in from the laptop, which is watched.
pub fn log_in(net: &Net, args: &[&str]) -> (Check, Talk, Login) {
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", args);
    let login = shell.login();
    check_laptop(&mut check, &net.laptop, &login, json!({ "target": "bastion" }));
    (check, shell, login)
}

/// The bastion's only connection, by an `ssh bob@target` of alice's that led to `inner`.
pub fn check_bastion(check: &mut Check, bastion: &Host, inner: &Login, origin: &Value) -> Value {
    let [open] = &opened(bastion, 1)[..] else { panic!("not one") };
    let ssh = json!({ "target": "bob@target", "login": "bob" });
    check.connection(bastion, open, origin, plain("alice", inner, "target", ssh));
    open.clone()
}

pub fn then_ssh(logins: Logins) -> Outcome {
    shell_on(&Net::new(logins)?)
}

/// laptop, shell on the bastion, ssh with a terminal to the target.
pub fn shell_on(net: &Net) -> Outcome {
    net.watch(&[]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-tt", "bastion"]);
    let login = shell.login();
    assert!(login.tty.is_some(), "{login:?}");
    check_laptop(&mut check, &net.laptop, &login, json!({ "target": "bastion" }));

    shell.enter("ssh bob@target");
    let inner = shell.login();
    assert_eq!((inner.user.as_str(), inner.ip.as_str()), ("bob", "198.51.100.1"));
    let open = check_bastion(&mut check, &net.bastion, &inner, &login.origin("socket"));
    let entry = json!({
        "process.entry_leader.entry_meta.type": "sshd",
        "process.entry_leader.entry_meta.source.ip": "192.0.2.2",
    });
    check.fields(&net.bastion, &open, entry);
    shell.leave();
    assert!(shell.end().success());
    check.finish(net)
}

/// No terminal anywhere, and the far shell replaces itself by ssh: its parent is sshd.
pub fn command(logins: Logins) -> Outcome {
    let net = Net::new(logins)?;
    net.watch(&[]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-4", "bastion", "exec sh"]);
    let login = shell.login();
    assert_eq!(login.tty, None);
    check_laptop(&mut check, &net.laptop, &login, json!({ "target": "bastion" }));
    // Without a terminal a shell may read ahead: nothing is typed until the next one reads.
    shell.say("exec ssh -p22 -lbob target 'echo ready; exec sh'");
    wait_for("the inner shell", PATIENCE, || shell.said().ends_with("ready\n").then_some(()));
    let inner = shell.login();
    let [open] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let ssh = json!({ "target": "target", "login": "bob", "port": 22 });
    check.connection(&net.bastion, open, &login.origin("socket"), plain("alice", &inner, "target", ssh));
    check.fields(
        &net.bastion,
        open,
        json!({ "process.parent.pid": login.sshd_pid, "process.parent.name": "sshd" }),
    );
    assert!(shell.end().success());
    check.finish(&net)
}

pub fn sudo() -> Outcome {
    need(&["sudo"])?;
    let net = Net::new(Logins::Audited)?;
    net.bastion.write("/etc/sudoers", "Defaults use_pty\nalice ALL = (ALL) NOPASSWD: ALL\n");
    net.bastion.run("chmod 440 /etc/sudoers; rm -rf /etc/sudoers.d");
    changed_user(&net, "sudo -i -u bob", "bob")
}

pub fn su() -> Outcome {
    need(&["su"])?;
    let net = Net::new(Logins::Audited)?;
    changed_user(&net, "su - root", "root")
}

fn changed_user(net: &Net, by: &str, user: &str) -> Outcome {
    net.watch(&[]);
    let (mut check, mut shell, login) = log_in(net, TERMINAL);
    shell.enter(by);
    assert_eq!(shell.ask("$(id -un)"), user);
    shell.enter("ssh alice@target");
    let inner = shell.login();
    let [open] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let ssh = json!({ "target": "alice@target", "login": "alice" });
    check.connection(&net.bastion, open, &login.origin("socket"), plain(user, &inner, "target", ssh));
    check.fields(
        &net.bastion,
        open,
        json!({ "portreeve.login.name": "alice", "portreeve.login.session": login.audit }),
    );
    shell.leave();
    shell.leave();
    shell.end();
    check.finish(net)
}

pub fn ipv6() -> Outcome {
    let net = Net::new(Logins::Audited)?;
    net.watch(&[]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-tt", "2001:db8::1"]);
    let login = shell.login();
    assert_eq!((login.ip.as_str(), login.local_ip.as_str()), ("2001:db8::2", "2001:db8::1"));
    let [open] = &opened(&net.laptop, 1)[..] else { panic!("not one") };
    let ssh = json!({ "target": "2001:db8::1" });
    let expected = with(plain("alice", &login, "", ssh), json!({ "destination.domain": null }));
    check.connection(&net.laptop, open, &unknown(), expected);
    shell.enter("ssh bob@target");
    let inner = shell.login();
    check_bastion(&mut check, &net.bastion, &inner, &login.origin("socket"));
    shell.leave();
    assert!(shell.end().success());
    check.finish(&net)
}

/// A login from the bastion to itself, and ssh from there: the nearest login is the origin.
pub fn nearest() -> Outcome {
    let net = Net::new(Logins::Audited)?;
    net.watch(&[]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-tt", "bastion"]);
    let outer = shell.login();
    check_laptop(&mut check, &net.laptop, &outer, json!({ "target": "bastion" }));
    shell.enter("ssh bob@localhost");
    let login = shell.login();
    assert_eq!(login.ip, "127.0.0.1");
    let first = opened(&net.bastion, 1).remove(0);
    let ssh = json!({ "target": "bob@localhost", "login": "bob" });
    check.connection(&net.bastion, &first, &outer.origin("socket"), plain("alice", &login, "localhost", ssh));
    shell.enter("ssh root@target");
    let inner = shell.login();
    let second = opened(&net.bastion, 2).remove(1);
    let ssh = json!({ "target": "root@target", "login": "root" });
    check.connection(&net.bastion, &second, &login.origin("socket"), plain("bob", &inner, "target", ssh));
    shell.leave();
    shell.leave();
    assert!(shell.end().success());
    check.finish(&net)
}

/// sshd keeps no process apart for root.
pub fn root() -> Outcome {
    let net = Net::new(Logins::Audited)?;
    net.watch(&[]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-tt", "root@bastion"]);
    let login = shell.login();
    check_laptop(&mut check, &net.laptop, &login, json!({ "target": "root@bastion", "login": "root" }));
    shell.enter("ssh target");
    let inner = shell.login();
    let [open] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let ssh = json!({ "target": "target" });
    check.connection(&net.bastion, open, &login.origin("socket"), plain("root", &inner, "target", ssh));
    shell.leave();
    assert!(shell.end().success());
    check.finish(&net)
}

/// A terminal that no SSH server made, and login(1) on it.
pub fn local_tty() -> Outcome {
    need(&["login", "script"])?;
    let net = Net::new(Logins::Audited)?;
    let mut login = net.laptop.command("script");
    login.args(["-qc", "login -f alice", "/dev/null"]);
    at_terminal(&net, &mut login, &json!({ "kind": "local_tty" }), &json!("terminal"))
}

/// Whoever runs script(1) or a terminal's window is not known by that.
pub fn terminal() -> Outcome {
    need(&["script"])?;
    let net = Net::new(Logins::Audited)?;
    let mut shell = net.laptop.command_as("alice", "script");
    shell.args(["-qc", "sh", "/dev/null"]);
    at_terminal(&net, &mut shell, &unknown(), &Value::Null)
}

fn at_terminal(net: &Net, command: &mut Command, origin: &Value, entry: &Value) -> Outcome {
    net.watch(&[]);
    let mut check = Check::new();
    let mut shell = Talk::start(command);
    assert!(shell.ask("$(tty)").starts_with("/dev/pts/"));
    shell.enter("ssh bastion");
    let login = shell.login();
    let [open] = &opened(&net.laptop, 1)[..] else { panic!("not one") };
    let expected = plain("alice", &login, "bastion", json!({ "target": "bastion" }));
    check.connection(&net.laptop, open, origin, expected);
    let entry =
        json!({ "process.tty.char_device.major": 136, "process.entry_leader.entry_meta.type": entry });
    check.fields(&net.laptop, open, entry);
    shell.leave();
    shell.end();
    check.finish(net)
}
