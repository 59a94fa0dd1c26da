//! Programs that start an SSH client, and other clients and servers than OpenSSH's.

use serde_json::{Value, json};

use crate::check::{Check, Outcome};
use crate::host::{Logins, PATIENCE, need};
use crate::net::{Net, opened};
use crate::shells::{SCRIPT, check_bastion, log_in, plain, unknown};
use crate::support::log::with;
use crate::support::wait_for;
use crate::talk::{Login, Talk};

/// alice's shell on the bastion, in which a tool runs a client that stays for a moment.
struct Shell {
    net: Net,
    check: Check,
    shell: Talk,
    login: Login,
}

impl Shell {
    fn new(programs: &[&str]) -> Result<Self, String> {
        need(programs)?;
        let net = Net::new(Logins::Audited)?;
        net.watch(&[]);
        let (check, shell, login) = log_in(&net, SCRIPT);
        Ok(Self { net, check, shell, login })
    }

    /// Runs a script to its good end.
    fn run(&mut self, script: &str) {
        let said = self.shell.ask(&format!("$({script}; echo \" $?\")"));
        assert!(said.ends_with(" 0"), "{script}: {said}");
    }

    /// The connection with this number is that of a client with this meaning.
    fn connection(&mut self, number: usize, ssh: Value, more: Value) {
        let open = opened(&self.net.bastion, number + 1).remove(number);
        let fields = json!({
            "user.name": "alice",
            "destination.ip": "198.51.100.2",
            "network.protocol": "ssh",
            "portreeve.route": "direct",
            "portreeve.ssh": ssh,
            "destination.domain": "target",
        });
        self.check.connection(&self.net.bastion, &open, &self.login.origin("socket"), with(fields, more));
    }

    fn finish(self) -> Outcome {
        assert!(self.shell.end().success());
        self.check.finish(&self.net)
    }
}

pub fn scp() -> Outcome {
    let mut shell = Shell::new(&["scp"])?;
    shell.run("echo text > file; scp -q file bob@target: ; scp -q -O file bob@target:");
    let parent = json!({ "process.name": "ssh", "process.parent.name": "scp" });
    let ssh = json!({ "target": "target", "login": "bob", "subsystem": "sftp", "tool": "scp" });
    shell.connection(0, ssh, parent.clone());
    let ssh = json!({ "target": "target", "login": "bob", "subsystem": "scp", "tool": "scp" });
    shell.connection(1, ssh, parent);
    shell.finish()
}

pub fn sftp() -> Outcome {
    let mut shell = Shell::new(&["sftp"])?;
    shell.run("echo pwd | sftp -q -b - bob@target > /dev/null");
    let ssh = json!({ "target": "target", "login": "bob", "subsystem": "sftp", "tool": "sftp" });
    shell.connection(0, ssh, json!({ "process.name": "ssh", "process.parent.name": "sftp" }));
    shell.finish()
}

pub fn rsync() -> Outcome {
    let mut shell = Shell::new(&["rsync"])?;
    shell.run("echo text > file; rsync file bob@target:");
    let ssh = json!({ "target": "target", "login": "bob", "subsystem": "rsync", "tool": "rsync" });
    shell.connection(0, ssh, json!({ "process.name": "ssh", "process.parent.name": "rsync" }));
    shell.finish()
}

pub fn git() -> Outcome {
    let mut shell = Shell::new(&["git"])?;
    shell.net.target.run("git init -q --bare /home/bob/work.git; chown -R bob:bob /home/bob/work.git");
    shell.run("git clone -q bob@target:work.git 2> /dev/null");
    let ssh = json!({ "target": "bob@target", "login": "bob", "subsystem": "git", "tool": "git" });
    shell.connection(0, ssh, json!({ "process.name": "ssh", "process.parent.name": "git" }));
    shell.finish()
}

pub fn autossh() -> Outcome {
    let mut shell = Shell::new(&["autossh"])?;
    shell.run("AUTOSSH_GATETIME=0 autossh -M 0 bob@target true");
    let ssh = json!({ "target": "bob@target", "login": "bob", "tool": "autossh" });
    shell.connection(0, ssh, json!({ "process.name": "ssh", "process.parent.name": "autossh" }));
    shell.finish()
}

pub fn dbclient() -> Outcome {
    let mut shell = Shell::new(&["dbclient", "dropbearconvert"])?;
    shell.run("dropbearconvert openssh dropbear .ssh/id_ed25519 key 2> /dev/null");
    shell.run("dbclient -y -i key bob@target true 2> /dev/null");
    let ssh = json!({ "target": "bob@target", "login": "bob" });
    shell.connection(0, ssh, json!({ "process.name": "dbclient", "process.parent.name": "sh" }));
    shell.finish()
}

/// A login at dropbear, and ssh from there.
pub fn dropbear() -> Outcome {
    need(&["dropbear", "dropbearkey"])?;
    let net = Net::new(Logins::Audited)?;
    net.bastion.run("dropbearkey -t ed25519 -f /run/lab/dropbear_key > /dev/null 2>&1");
    net.bastion.service("dropbear", "dropbear -F -E -p 2222 -P /run/dropbear.pid -r /run/lab/dropbear_key");
    wait_for("dropbear", PATIENCE, || {
        net.bastion.run("ss -Htln sport = 2222").contains(":2222").then_some(())
    });
    net.watch(&["--ports", "22,2222"]);
    let mut check = Check::new();
    let mut shell = Talk::ssh(&net.laptop, "alice", &["-tt", "-p", "2222", "bastion"]);
    let mut login = shell.login();
    assert_eq!(login.local_port, 2222);
    assert!(login.tty.take().is_some(), "dropbear has no title that tells it");
    let [open] = &opened(&net.laptop, 1)[..] else { panic!("not one") };
    let ssh = json!({ "target": "bastion", "port": 2222 });
    check.connection(&net.laptop, open, &unknown(), plain("alice", &login, "bastion", ssh));
    shell.enter("ssh bob@target");
    let inner = shell.login();
    check_bastion(&mut check, &net.bastion, &inner, &login.origin("socket"));
    shell.leave();
    assert!(shell.end().success());
    check.finish(&net)
}
