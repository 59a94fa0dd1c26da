//! What runs apart from the login that started it, and what no login started.

use std::time::Duration;

use serde_json::{Value, json};

use crate::check::{Check, Outcome};
use crate::host::{Host, Logins, PATIENCE, need};
use crate::net::{Net, opened};
use crate::shells::{SCRIPT, TERMINAL, check_bastion, check_laptop, log_in};
use crate::support::wait_for;
use crate::talk::{LOGIN, Login, Talk};

/// A client that stays until its host ends, and the file with what its login at the far end is.
const STAYING: &str = "ssh -n bob@target 'echo \"LOGIN\"; exec sleep 60' > /run/lab/inner";

fn staying(host: &Host) -> String {
    host.run("touch /run/lab/inner; chmod 666 /run/lab/inner");
    STAYING.replace("LOGIN", LOGIN)
}

fn inner(host: &Host) -> Login {
    let told = || Some(host.read("/run/lab/inner")).filter(|told| told.ends_with("|\n"));
    Login::parse(wait_for("the login at the far end", PATIENCE, told).trim_end())
}

fn check_inner(check: &mut Check, net: &Net, origin: &Value) -> Value {
    let inner = inner(&net.bastion);
    check_bastion(check, &net.bastion, &inner, origin)
}

fn scopes(net: &Net, logins: Logins) -> Result<(), String> {
    if logins == Logins::Bare || net.bastion.has_scopes() {
        return Ok(());
    }
    Err("no control groups can be made here".into())
}

/// What of an origin is known where only `SSH_CONNECTION` is left.
fn of_evidence(login: &Login, evidence: &str) -> Value {
    let mut origin = login.origin(evidence);
    if evidence == "environment" {
        for name in ["sshd_pid", "tty", "session", "user"] {
            origin.as_object_mut().unwrap().remove(name);
        }
    }
    origin
}

/// Until the login is known, which takes some looks: people are slower than these tests.
fn settle(host: &Host, login: &Login) {
    host.wait_records("the login", |records| {
        let is_it = |record: &&Value| {
            let origin = &record["portreeve"]["origin"];
            record["network"]["direction"] == "ingress"
                && record["source"]["port"] == login.port
                && origin["user"] == login.user
                && origin["tty"].as_str() == login.tty.as_deref()
        };
        records.iter().find(is_it).map(|_| ())
    });
    std::thread::sleep(Duration::from_millis(300));
}

/// Hosts where such logins have what `scopes` says, and a login on the bastion.
fn begin(logins: Logins, args: &[&str]) -> Result<(Net, Check, Talk, Login), String> {
    let net = Net::new(logins)?;
    scopes(&net, logins)?;
    net.watch(&[]);
    let (check, shell, login) = log_in(&net, args);
    Ok((net, check, shell, login))
}

/// A script that runs a client, once its login is known.
fn prepare_job(bastion: &Host, login: &Login) {
    settle(bastion, login);
    let client = staying(bastion);
    bastion.write("/run/lab/job", &client);
}

/// `setsid` from a login that goes on: pid 1 is the parent.
pub fn set_apart(logins: Logins, evidence: &str) -> Outcome {
    let (net, mut check, mut shell, login) = begin(logins, TERMINAL)?;
    prepare_job(&net.bastion, &login);
    // Waits until it is alone.
    shell.say("setsid sh -c 'while [ $(ps -o ppid= $$) != 1 ]; do sleep 0.1; done; . /run/lab/job' &");
    let open = check_inner(&mut check, &net, &of_evidence(&login, evidence));
    let ancestry = open["portreeve"]["ancestry"].as_array().unwrap();
    assert!(ancestry.iter().all(|process| process["name"] != "sshd"), "{ancestry:#?}");
    drop(shell);
    check.finish(&net)
}

/// A job that begins when its login is over.
pub fn outlives(logins: Logins, evidence: &str) -> Outcome {
    let (net, mut check, mut shell, login) = begin(logins, SCRIPT)?;
    prepare_job(&net.bastion, &login);
    let wait = format!("while [ -d /proc/{} ]; do sleep 0.1; done", login.sshd_pid);
    shell.say(&format!("nohup sh -c '{wait}; . /run/lab/job' < /dev/null > /dev/null 2>&1 &"));
    assert!(shell.end().success());
    check_inner(&mut check, &net, &of_evidence(&login, evidence));
    check.finish(&net)
}

/// The server of tmux is started in a login; what is typed into it comes when the login is over.
pub fn tmux(logins: Logins, evidence: &str) -> Outcome {
    need(&["tmux"])?;
    let (net, mut check, mut shell, login) = begin(logins, TERMINAL)?;
    shell.say("tmux new-session -d -s work sh");
    assert_eq!(shell.ask("$(tmux list-sessions -F '#{session_name}')"), "work");
    prepare_job(&net.bastion, &login);
    assert!(shell.end().success());
    let over = || net.bastion.run(&format!("[ -d /proc/{} ] || echo over", login.sshd_pid)) == "over\n";
    wait_for("the end of the login", PATIENCE, || over().then_some(()));
    let typed = ["send-keys", "-t", "work", ". /run/lab/job", "Enter"];
    assert!(net.bastion.command_as("alice", "tmux").args(typed).status().unwrap().success());
    // The terminal is tmux's, not the login's.
    check_inner(&mut check, &net, &of_evidence(&login, evidence));
    check.finish(&net)
}

pub fn cron() -> Outcome {
    need(&["cron"])?;
    let net = Net::new(Logins::Audited)?;
    net.watch(&[]);
    let mut check = Check::new();
    net.bastion.write("/run/lab/job", &staying(&net.bastion));
    net.bastion.run(
        "mkdir -p /var/spool/cron/crontabs; chgrp crontab /var/spool/cron/crontabs; \
                     chmod 1730 /var/spool/cron/crontabs; rm -rf /etc/cron.d /etc/crontab",
    );
    net.bastion.write("/var/spool/cron/crontabs/alice", "@reboot . /run/lab/job\n");
    net.bastion
        .run("chown alice:crontab /var/spool/cron/crontabs/alice; chmod 600 /var/spool/cron/crontabs/alice");
    net.bastion.service("cron", "cron -f");
    check_inner(&mut check, &net, &json!({ "kind": "cron" }));
    check.finish(&net)
}

const AS_ALICE: &str =
    "setpriv --reuid=alice --regid=alice --init-groups env HOME=/home/alice sh /run/lab/job";

/// What a unit and what a container runs, as its control group tells.
pub fn grouped(group: &str, kind: &str) -> Outcome {
    let net = Net::new(Logins::Audited)?;
    if !net.bastion.has_scopes() {
        return Err("no control groups can be made here".into());
    }
    net.watch(&[]);
    let mut check = Check::new();
    net.bastion.write("/run/lab/job", &staying(&net.bastion));
    net.bastion.start_in(group, "job", AS_ALICE);
    let open = check_inner(&mut check, &net, &json!({ "kind": kind }));
    let (service, container) = match kind {
        "service" => (group.rsplit('/').next(), None),
        _ => (None, group.rsplit('/').next()),
    };
    check.fields(&net.bastion, &open, json!({ "service.name": service, "container.id": container }));
    check.finish(&net)
}

/// Two logins after another in one tmux: who types is not told by anything, who started the server is.
pub fn tmux_attached() -> Outcome {
    need(&["tmux"])?;
    let net = Net::new(Logins::Audited)?;
    scopes(&net, Logins::Audited)?;
    net.watch(&[]);
    let mut check = Check::new();
    let mut first = Talk::ssh(&net.laptop, "alice", &["-tt", "bastion"]);
    let login = first.login();
    check_laptop(&mut check, &net.laptop, &login, json!({ "target": "bastion" }));
    first.say("tmux new-session -d -s work sh");
    assert_eq!(first.ask("$(tmux list-sessions -F '#{session_name}')"), "work");
    let mut second = Talk::ssh(&net.laptop, "alice", &["-tt", "bastion"]);
    assert_ne!(second.login().port, login.port);
    let laptop = &opened(&net.laptop, 2)[1];
    let plain = json!({ "portreeve.route": "direct", "portreeve.ssh": { "target": "bastion" } });
    check.connection(&net.laptop, laptop, &crate::shells::unknown(), plain);
    net.bastion.write("/run/lab/job", &staying(&net.bastion));
    second.say("TERM=xterm tmux attach-session -t work");
    let mut is_attached = || first.ask("$(tmux list-clients)").contains("work");
    wait_for("the second terminal", PATIENCE, || is_attached().then_some(()));
    second.say(". /run/lab/job");
    check_inner(&mut check, &net, &of_evidence(&login, "audit_session"));
    check.finish(&net)
}
