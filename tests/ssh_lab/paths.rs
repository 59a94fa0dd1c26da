//! The whole way of a login, from the logs of all hosts.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::check::Outcome;
use crate::forwards::{hello, listening};
use crate::host::{Host, Logins, need};
use crate::net::{Net, opened};
use crate::support::log::with_action;
use crate::support::output;
use crate::talk::Talk;

/// laptop, bastion, target, web1: a shell on each, another user on each.
pub fn four_hosts() -> Outcome {
    let net = Net::with_web1(Logins::Audited)?;
    net.watch(&[]);
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-tt", "bastion"]);
    shell.login();
    shell.enter("ssh bob@target");
    shell.login();
    shell.enter("ssh root@web1");
    assert_eq!(shell.login().ip, "203.0.113.1");
    for host in [&net.laptop, &net.bastion, &net.target] {
        opened(host, 1);
    }
    shell.leave();
    shell.leave();
    assert!(shell.end().success());
    let hop = |host: &str, user: &str, route: &str, to: &str, hops: Value| json!({ "host": host, "user": user, "route": route, "to": to, "proof": "inbound_records", "hops": hops });
    let last = hop("target", "bob", "direct", "web1", json!([]));
    let middle = hop("bastion", "alice", "direct", "target", json!([last]));
    let first = hop("laptop", "alice", "direct", "bastion", json!([middle]));
    check_ways(&net, &[json!({ "kind": "unknown", "host": "laptop", "hops": [first] })])
}

/// The same end to end without a shell on the way.
pub fn jumps() -> Outcome {
    let net = Net::with_web1(Logins::Audited)?;
    net.watch(&[]);
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-J", "bastion,bob@target", "root@web1", "exec sh"]);
    assert_eq!(shell.login().ip, "203.0.113.1");
    for host in [&net.laptop, &net.bastion, &net.target] {
        opened(host, 1);
    }
    assert!(shell.end().success());
    let hop = |host: &str, user: &str, route: &str, to: &str, hops: Value| json!({ "host": host, "user": user, "route": route, "to": to, "proof": "inbound_records", "hops": hops });
    let last = hop("target", "bob", "forwarded", "web1", json!([]));
    let middle = hop("bastion", "alice", "forwarded", "target", json!([last]));
    let first = hop("laptop", "alice", "jump", "bastion", json!([middle]));
    check_ways(&net, &[json!({ "kind": "unknown", "host": "laptop", "hops": [first] })])
}

/// Forwards in both directions, each used once, and an ssh of the same login that none of them carries.
pub fn forwards() -> Outcome {
    need(&["nc", "socat", "ss"])?;
    let net = Net::new(Logins::Audited)?;
    hello(&net.laptop);
    hello(&net.target);
    net.watch(&["--ports", "22,80"]);
    let asked = ["-L", "8080:target:80", "-R", "0.0.0.0:8082:192.0.2.2:80", "bastion", "exec sh"];
    let mut shell = Talk::ssh(&net.laptop, "alice", &asked);
    let login = shell.login();
    listening(&net.laptop, &json!(["127.0.0.1:8080", "[::1]:8080"]));
    listening(&net.bastion, &json!(["0.0.0.0:8082"]));
    assert_eq!(net.laptop.run("nc -w 5 127.0.0.1 8080 < /dev/null"), "hello\n");
    assert_eq!(net.target.run("nc -w 5 198.51.100.1 8082 < /dev/null"), "hello\n");
    shell.say("ssh bob@target exec true");
    let [first, for_server] = &opened(&net.laptop, 2)[..] else { panic!("not two") };
    let [carried, _] = &opened(&net.bastion, 2)[..] else { panic!("not two") };
    assert!(shell.end().success());
    check_login(&net.bastion);
    let logs = logs(&net);
    for log in &logs {
        told(&["verify"], std::slice::from_ref(log));
    }
    let story = |of: &Value| {
        let id = of["portreeve"]["connection"]["id"].as_str().unwrap();
        told(&["explain", id], &logs).replace('\n', " ")
    };
    let told_first = story(first);
    for words in [
        "Its client was asked for the forwards -L 8080:target:80 and -R 0.0.0.0:8082:192.0.2.2:80.",
        "The client listened at 127.0.0.1:8080 and [::1]:8080: what came in there went through this connection.",
        "Through it went what the connection carried that the SSH server of bastion opened on behalf of its client, to \
         198.51.100.2 (port 80); that is proved by the socket that the server holds.",
        "from there two connections went on.",
    ] {
        assert!(told_first.contains(words), "{words}\n{told_first}");
    }
    let told_server = story(for_server);
    assert!(
        told_server.contains(" The SSH client opened it on behalf of the server to which it was"),
        "{told_server}"
    );
    let told_carried = story(carried);
    assert!(
        told_carried.contains(" The SSH server of bastion opened it on behalf of its client: "),
        "{told_carried}"
    );
    let mark = "asked for -L 8080:target:80, -R 0.0.0.0:8082:192.0.2.2:80; forwards from 127.0.0.1:8080, [::1]:8080 of \
                laptop; forwards from 0.0.0.0:8082 (all interfaces) of bastion; 1 forwarded connection went through it";
    let tree = told(&["paths", "--utc"], &logs);
    assert!(
        tree.contains(mark) && tree.contains(&format!("{}:{}", login.local_ip, login.local_port)),
        "{tree}"
    );
    Ok(())
}

/// alice's login there is the only one, what came in at her forward is none; its end has the title that its server has in
/// the end, not that of its beginning.
fn check_login(bastion: &Host) {
    let is_inbound = |record: &Value| record["network"]["direction"] == "ingress";
    let title = bastion.wait_records("the end of the login", |records| {
        let closed = with_action(records, "connection-closed").into_iter().find(is_inbound)?;
        Some(closed["process"]["args"].clone())
    });
    assert_eq!(title, json!(["sshd: alice [priv]"]));
    let opened = with_action(&bastion.records(), "connection-opened");
    assert_eq!(opened.iter().filter(|open| is_inbound(open)).count(), 1, "{opened:#?}");
}

/// What the logs of these hosts are when nobody watches any more.
fn logs(net: &Net) -> Vec<PathBuf> {
    let stopped = net.hosts().map(|host| {
        host.stop_watch();
        host.log_file()
    });
    stopped.collect()
}

/// What a reader of these logs prints.
fn told(arguments: &[&str], logs: &[PathBuf]) -> String {
    let told = output(Command::new(env!("CARGO_BIN_EXE_portreeve")).args(arguments).args(logs));
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8(told.stdout).unwrap()
}

fn check_ways(net: &Net, expected: &[Value]) -> Outcome {
    let logs = logs(net);
    let ways: Vec<Value> = told(&["paths", "--format", "json"], &logs).lines().map(reduced_line).collect();
    assert_eq!(ways, expected, "{}", told(&["paths", "--utc"], &logs));
    Ok(())
}

fn reduced_line(line: &str) -> Value {
    let way: Value = serde_json::from_str(line).unwrap();
    json!({ "kind": way["entry"]["kind"], "host": way["entry"]["host"], "hops": reduced(&way["hops"]) })
}

fn reduced(hops: &Value) -> Value {
    let hops = hops.as_array().unwrap().iter().map(|hop| {
        json!({
            "host": hop["host"],
            "user": hop["user"],
            "route": hop["route"],
            "to": hop["arrived"]["host"],
            "proof": hop["arrived"]["proof"],
            "hops": reduced(&hop["hops"]),
        })
    });
    hops.collect()
}
