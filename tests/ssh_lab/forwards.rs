//! Connections that are made for somebody else.

use serde_json::{Value, json};

use crate::check::{Check, Outcome};
use crate::host::{Host, Logins, PATIENCE, need};
use crate::net::{Net, opened};
use crate::shells::{SCRIPT, TERMINAL, check_laptop, ends, log_in, plain, unknown};
use crate::support::log::with;
use crate::support::wait_for;
use crate::talk::{Login, Talk};

/// A login that has no shell which could be asked: what is known of it from its client's connection, and from its
/// server, which must have the title that sshd gives to such a one.
fn silent_login(server: &Host, client: &Value, owner: &Value) -> Login {
    let text = |of: &Value, end: &str, part: &str| of[end][part].as_str().unwrap().to_owned();
    let port = |of: &Value, end: &str| u16::try_from(of[end]["port"].as_u64().unwrap()).unwrap();
    let pid = u32::try_from(owner["process"]["pid"].as_u64().unwrap()).unwrap();
    let title = server.run(&format!("tr '\\0' ' ' < /proc/{pid}/cmdline"));
    let user = title.split(": ").nth(1).unwrap_or_else(|| panic!("{title:?}")).trim().to_owned();
    let cgroup = server.run(&format!("cat /proc/{pid}/cgroup"));
    let scope = cgroup.split_once("/session-").and_then(|(_, tail)| tail.split_once(".scope"));
    Login {
        ip: text(client, "source", "ip"),
        port: port(client, "source"),
        local_ip: text(client, "destination", "ip"),
        local_port: port(client, "destination"),
        sshd_pid: pid,
        monitor_pid: pid,
        tty: None,
        user,
        audit: None,
        scope: scope.map(|(name, _)| name.to_owned()),
    }
}

/// What holds for a connection that a host's sshd opened for the client of `client`.
fn check_forwarded(check: &mut Check, host: &Host, record: &Value, client: &Value, fields: Value) {
    let login = silent_login(host, client, record);
    let forwarded = json!({ "user.name": login.user, "portreeve.route": "forwarded", "portreeve.ssh": null });
    check.connection(host, record, &login.origin("socket"), with(forwarded, fields));
}

pub fn jump() -> Outcome {
    jump_on(&Net::new(Logins::Audited)?, "sshd")
}

/// `server`: the name of the process that opens it.
pub fn jump_on(net: &Net, server: &str) -> Outcome {
    net.watch(&[]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-J", "bastion", "bob@target", "exec sh"]);
    let login = shell.login();
    let [first] = &opened(&net.laptop, 1)[..] else { panic!("not one") };
    let [second] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let expected = json!({
        "process.name": "ssh",
        "user.name": "alice",
        "destination.ip": "192.0.2.1",
        "network.protocol": "ssh",
        "portreeve.route": "jump",
        "portreeve.ssh": { "target": "bob@target", "login": "bob", "jump": ["bastion"] },
        "destination.domain": "bastion",
    });
    check.connection(&net.laptop, first, &unknown(), expected);
    let expected = with(json!({ "process.name": server, "user.name": "alice" }), ends(&login));
    check_forwarded(&mut check, &net.bastion, second, first, expected);
    assert!(shell.end().success());
    check.finish(net)
}

pub fn two_jumps() -> Outcome {
    let net = Net::with_web1(Logins::Audited)?;
    net.watch(&[]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-J", "bastion,bob@target", "root@web1", "exec sh"]);
    let login = shell.login();
    assert_eq!((login.ip.as_str(), login.user.as_str()), ("203.0.113.1", "root"));
    let [first] = &opened(&net.laptop, 1)[..] else { panic!("not one") };
    let [second] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let [third] = &opened(&net.target, 1)[..] else { panic!("not one") };
    let expected = json!({
        "portreeve.route": "jump",
        "portreeve.ssh": { "target": "root@web1", "login": "root", "jump": ["bastion", "bob@target"] },
        "destination.domain": "bastion",
    });
    check.connection(&net.laptop, first, &unknown(), expected);
    check_forwarded(&mut check, &net.bastion, second, first, json!({ "destination.ip": "198.51.100.2" }));
    check_forwarded(
        &mut check,
        &net.target,
        third,
        second,
        with(json!({ "user.name": "bob" }), ends(&login)),
    );
    assert!(shell.end().success());
    check.finish(&net)
}

/// Something behind the target's port 80 that says `hello` to everybody.
pub fn hello(host: &Host) {
    host.service("web", "socat TCP-LISTEN:80,fork,reuseaddr 'SYSTEM:echo hello; sleep 0.5'");
    wait_for("port 80", PATIENCE, || host.run("ss -Htln sport = 80").contains(":80").then_some(()));
}

/// The client's last record once it tells of these listening sockets.
pub fn listening(host: &Host, addresses: &Value) -> Value {
    host.wait_records("listening sockets", |records| {
        records.iter().rfind(|record| &record["portreeve"]["listening"]["addresses"] == addresses).cloned()
    })
}

pub fn local() -> Outcome {
    need(&["nc", "socat", "ss"])?;
    let net = Net::new(Logins::Audited)?;
    hello(&net.target);
    net.watch(&["--ports", "22,80"]);
    let mut check = Check::new();
    let forwards = ["-L", "8080:target:80", "-L", "*:8081:target:80", "bastion", "exec sh"];
    let mut shell = Talk::ssh(&net.laptop, "alice", &forwards);
    let login = shell.login();
    let ssh = json!({ "target": "bastion", "forwards": { "local": ["8080:target:80", "*:8081:target:80"] } });
    check_laptop(&mut check, &net.laptop, &login, ssh);
    let addresses = json!(["0.0.0.0:8081", "127.0.0.1:8080", "[::]:8081", "[::1]:8080"]);
    let record = listening(&net.laptop, &addresses);
    check.fields(&net.laptop, &record, json!({ "portreeve.listening.all_interfaces": true }));
    let said = net.laptop.run("nc -w 5 127.0.0.1 8080 < /dev/null; nc -w 5 192.0.2.2 8081 < /dev/null");
    assert_eq!(said, "hello\nhello\n");
    for open in opened(&net.bastion, 2) {
        let expected = json!({ "user.name": "alice", "destination.port": 80, "network.protocol": null });
        let origin = login.origin("socket");
        let expected =
            with(expected, json!({ "process.pid": login.sshd_pid, "portreeve.route": "forwarded" }));
        check.connection(&net.bastion, &open, &origin, expected);
    }
    assert!(shell.end().success());
    check.finish(&net)
}

pub fn dynamic() -> Outcome {
    need(&["nc", "socat", "ss"])?;
    let net = Net::new(Logins::Audited)?;
    hello(&net.target);
    net.watch(&["--ports", "22,80"]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-D", "1080", "bastion", "exec sh"]);
    let login = shell.login();
    let ssh = json!({ "target": "bastion", "forwards": { "dynamic": ["1080"] } });
    check_laptop(&mut check, &net.laptop, &login, ssh);
    let record = listening(&net.laptop, &json!(["127.0.0.1:1080", "[::1]:1080"]));
    check.fields(&net.laptop, &record, json!({ "portreeve.listening.all_interfaces": false }));
    let said = net.laptop.run("nc -w 5 -X 5 -x 127.0.0.1:1080 198.51.100.2 80 < /dev/null");
    assert_eq!(said, "hello\n");
    // An ssh of the laptop's through SOCKS: it owns no connection there, its relay one to the machine itself.
    let socks = "ProxyCommand=nc -X 5 -x 127.0.0.1:1080 %h %p";
    let mut through = Talk::ssh(&net.laptop, "bob", &["-o", socks, "target", "exec sh"]);
    let inner = through.login();
    let opens = opened(&net.bastion, 2);
    let origin = login.origin("socket");
    let forwarded =
        json!({ "process.pid": login.sshd_pid, "user.name": "alice", "portreeve.route": "forwarded" });
    check.connection(
        &net.bastion,
        &opens[0],
        &origin,
        with(forwarded.clone(), json!({ "destination.port": 80 })),
    );
    check.connection(&net.bastion, &opens[1], &origin, with(forwarded, ends(&inner)));
    assert!(through.end().success() && shell.end().success());
    check.finish(&net)
}

/// The client connects to what the far end was given; a listener on all interfaces of the server is marked there.
pub fn remote() -> Outcome {
    need(&["nc", "socat", "ss"])?;
    let net = Net::new(Logins::Audited)?;
    hello(&net.laptop);
    net.watch(&["--ports", "22,80"]);
    let mut check = Check::new();
    let mut shell =
        Talk::ssh(&net.laptop, "alice", &["-R", "0.0.0.0:8082:192.0.2.2:80", "bastion", "exec sh"]);
    let login = shell.login();
    let ssh = json!({ "target": "bastion", "forwards": { "remote": ["0.0.0.0:8082:192.0.2.2:80"] } });
    check_laptop(&mut check, &net.laptop, &login, ssh.clone());
    let record = listening(&net.bastion, &json!(["0.0.0.0:8082"]));
    let expected = json!({ "network.direction": "ingress", "portreeve.listening.all_interfaces": true, "source.port": login.port });
    check.fields(&net.bastion, &record, expected);
    assert_eq!(net.target.run("nc -w 5 198.51.100.1 8082 < /dev/null"), "hello\n");
    let second = opened(&net.laptop, 2).remove(1);
    // It speaks no SSH there, and the bastion is not where it goes.
    let expected = json!({
        "process.name": "ssh",
        "user.name": "alice",
        "destination.ip": "192.0.2.2",
        "destination.port": 80,
        "destination.domain": null,
        "network.protocol": null,
        "portreeve.route": "forwarded",
        "portreeve.ssh": ssh,
    });
    check.connection(&net.laptop, &second, &unknown(), expected);
    assert!(shell.end().success());
    check.finish(&net)
}

pub fn proxy_command() -> Outcome {
    need(&["nc"])?;
    let net = Net::new(Logins::Audited)?;
    net.watch(&[]);
    let (mut check, mut shell, login) = log_in(&net, TERMINAL);
    shell.enter("ssh -o 'ProxyCommand=nc %h %p' bob@target");
    let inner = shell.login();
    let [open] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let expected = json!({
        "process.executable": "/usr/bin/nc.openbsd",
        "process.parent.name": "ssh",
        "user.name": "alice",
        "portreeve.route": "proxy_command",
        "portreeve.ssh": { "target": "bob@target", "login": "bob" },
    });
    check.connection(&net.bastion, open, &login.origin("socket"), with(expected, ends(&inner)));
    shell.leave();
    assert!(shell.end().success());
    check.finish(&net)
}

pub fn no_ssh() -> Outcome {
    need(&["nc"])?;
    let net = Net::new(Logins::Audited)?;
    net.watch(&[]);
    let (mut check, mut shell, login) = log_in(&net, SCRIPT);
    assert!(shell.ask("$(sleep 0.2 | nc -N target 22)").starts_with("SSH-2.0-"));
    let [open] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let expected = json!({
        "process.executable": "/usr/bin/nc.openbsd",
        "destination.port": 22,
        "network.protocol": null,
        "portreeve.route": "other",
        "portreeve.ssh": null,
        "destination.domain": null,
    });
    check.connection(&net.bastion, open, &login.origin("socket"), expected);
    assert!(shell.end().success());
    check.finish(&net)
}

pub fn anywhere() -> Outcome {
    need(&["nc"])?;
    let net = Net::new(Logins::Audited)?;
    net.bastion.service("ssh-odd", "/usr/sbin/sshd -D -e -p 2200 -o PidFile=none");
    wait_for("port 2200", PATIENCE, || {
        net.bastion.run("ss -Htln sport = 2200").contains(":2200").then_some(())
    });
    net.watch(&["--ssh-anywhere"]);
    let mut check = Check::new();
    // No client: not followed.
    assert!(net.laptop.run("sleep 0.2 | nc -N bastion 2200").starts_with("SSH-2.0-"));
    let mut shell = Talk::ssh(&net.laptop, "alice", &["ssh://alice@bastion:2200", "exec sh"]);
    let login = shell.login();
    assert_eq!(login.local_port, 2200);
    let [open] = &opened(&net.laptop, 1)[..] else { panic!("not one") };
    let ssh = json!({ "target": "ssh://alice@bastion:2200", "login": "alice", "port": 2200 });
    check.connection(&net.laptop, open, &unknown(), plain("alice", &login, "bastion", ssh));
    assert!(shell.end().success());
    check.finish(&net)
}
