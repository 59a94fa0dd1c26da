//! The whole way of a login, from the logs of all hosts.

use std::process::Command;

use serde_json::{Value, json};

use crate::check::Outcome;
use crate::host::Logins;
use crate::net::{Net, opened};
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

fn check_ways(net: &Net, expected: &[Value]) -> Outcome {
    let logs: Vec<_> = net
        .hosts()
        .map(|host| {
            host.stop_watch();
            host.log_file()
        })
        .collect();
    let portreeve = || Command::new(env!("CARGO_BIN_EXE_portreeve"));
    let told = output(portreeve().args(["paths", "--format", "json"]).args(&logs));
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let ways: Vec<Value> = String::from_utf8(told.stdout).unwrap().lines().map(reduced_line).collect();
    let tree = output(portreeve().args(["paths", "--utc"]).args(&logs));
    assert_eq!(ways, expected, "{}", String::from_utf8_lossy(&tree.stdout));
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
