//! Connections that lead to no login.

use serde_json::{Value, json};

use crate::check::Outcome;
use crate::host::{Logins, need};
use crate::net::{Net, opened};
use crate::shells::{SCRIPT, log_in};
use crate::support::log::{with, with_action};

/// Runs a client on the bastion whose login fails; `told`: what its one connection must say.
fn fails(client: &str, told: Value) -> Outcome {
    let net = Net::new(Logins::Audited)?;
    net.watch(&[]);
    let (mut check, mut shell, login) = log_in(&net, SCRIPT);
    let said = shell.ask(&format!("$({client} 2> /dev/null; echo \" $?\")"));
    assert!(said.ends_with(" 255") || said.ends_with(" 5"), "{said}");
    let [open] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let always = json!({ "process.name": "ssh", "user.name": "alice", "destination.ip": "198.51.100.2" });
    check.connection(&net.bastion, open, &login.origin("socket"), with(always, told));
    check.fields(&net.bastion, &end_of(&net, open), json!({ "event.outcome": "success" }));
    assert!(shell.end().success());
    check.finish(&net)
}

/// The first SYN is lost, as if the way were long: on a cable of nothing a refusal is there before anybody can look.
pub fn refused() -> Outcome {
    need(&["nft"])?;
    let net = Net::new(Logins::Audited)?;
    net.watch(&["--ports", "22,2299"]);
    let (mut check, mut shell, login) = log_in(&net, SCRIPT);
    net.target.run(
        "nft add table inet lab; nft 'add chain inet lab input { type filter hook input priority 0; }'; \
         nft add rule inet lab input tcp dport 2299 drop",
    );
    shell.say("ssh -p 2299 bob@target true 2> /dev/null; true");
    let [open] = &opened(&net.bastion, 1)[..] else { panic!("not one") };
    let told = json!({
        "process.name": "ssh",
        "user.name": "alice",
        "destination.ip": "198.51.100.2",
        "destination.port": 2299,
        "portreeve.connection.state": "syn_sent",
        "portreeve.route": "direct",
        "portreeve.ssh": { "target": "bob@target", "login": "bob", "port": 2299 },
    });
    check.connection(&net.bastion, open, &login.origin("socket"), told);
    net.target.run("nft delete table inet lab");
    let end = json!({ "event.outcome": "failure", "portreeve.close.reason": "refused" });
    check.fields(&net.bastion, &end_of(&net, open), end);
    assert!(shell.end().success());
    check.finish(&net)
}

fn end_of(net: &Net, open: &Value) -> Value {
    net.bastion.wait_records("the end", |records| {
        let mut ends = with_action(records, "connection-closed").into_iter();
        ends.find(|end| end["portreeve"]["connection"]["id"] == open["portreeve"]["connection"]["id"])
    })
}

pub fn wrong_password() -> Outcome {
    need(&["sshpass"])?;
    let told = json!({
        "portreeve.route": "direct",
        "portreeve.ssh": { "target": "bob@target", "login": "bob" },
        "process.parent.name": "sshpass",
    });
    let client = "sshpass -p wrong ssh -o PubkeyAuthentication=no bob@target true";
    fails(client, told)
}

pub fn wrong_key() -> Outcome {
    let told = json!({
        "portreeve.route": "direct",
        "portreeve.ssh": { "target": "bob@target", "login": "bob" },
    });
    let client = "ssh-keygen -q -t ed25519 -N '' -f other && \
                  ssh -i other -o IdentitiesOnly=yes -o BatchMode=yes bob@target true";
    fails(client, told)
}
