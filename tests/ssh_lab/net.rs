//! The network of these tests: a chain of hosts, each of which reaches only its neighbours.
//!
//! laptop 192.0.2.2 - 192.0.2.1 bastion 198.51.100.1 - 198.51.100.2 target 203.0.113.1 - 203.0.113.2 web1

use std::path::Path;

use serde_json::Value;

use crate::host::{Host, Logins};
use crate::support::log::with_action;

pub const HOSTS: &str = "127.0.0.1 localhost\n192.0.2.2 laptop\n192.0.2.1 bastion\n198.51.100.2 target\n\
                         203.0.113.2 web1\n2001:db8::1 bastion6\n";

pub struct Net {
    pub laptop: Host,
    pub bastion: Host,
    pub target: Host,
    web1: Option<Host>,
}

impl Net {
    /// Three hosts; sshd on bastion and target.
    pub fn new(logins: Logins) -> Result<Self, String> {
        Self::with_usr(logins, None)
    }

    /// The same with another system's `/usr` on the bastion.
    pub fn with_usr(logins: Logins, usr: Option<&Path>) -> Result<Self, String> {
        let laptop = Host::new("laptop", logins, None)?;
        let bastion = Host::new("bastion", logins, usr)?;
        let target = Host::new("target", logins, None)?;
        laptop.join("192.0.2.2/24", &bastion, "192.0.2.1/24");
        laptop.ip("address add 2001:db8::2/64 dev to-bastion nodad");
        bastion.ip("address add 2001:db8::1/64 dev to-laptop nodad");
        bastion.join("198.51.100.1/24", &target, "198.51.100.2/24");
        let net = Self { laptop, bastion, target, web1: None };
        net.share();
        net.bastion.sshd(&[]);
        net.target.sshd(&[]);
        Ok(net)
    }

    /// Four hosts.
    pub fn with_web1(logins: Logins) -> Result<Self, String> {
        let mut net = Self::new(logins)?;
        let web1 = Host::new("web1", logins, None)?;
        net.target.join("203.0.113.1/24", &web1, "203.0.113.2/24");
        net.web1 = Some(web1);
        net.share();
        net.web1().sshd(&[]);
        Ok(net)
    }

    fn share(&self) {
        let hosts: Vec<_> = self.hosts().collect();
        Host::share_keys(&hosts);
        for host in hosts {
            host.write("/etc/hosts", HOSTS);
        }
    }

    pub fn web1(&self) -> &Host {
        self.web1.as_ref().unwrap()
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        [&self.laptop, &self.bastion, &self.target].into_iter().chain(&self.web1)
    }

    /// Watches on every host, the inbound sessions too.
    pub fn watch(&self, arguments: &[&str]) {
        for host in self.hosts() {
            host.watch(&[&["--inbound"], arguments].concat());
        }
    }
}

/// The first `count` outbound connections of a host, in the order of their opens, as their last record before the
/// close tells them once their owner is known.
pub fn opened(host: &Host, count: usize) -> Vec<Value> {
    host.wait_records(&format!("{count} connections with what is known of their owners"), |records| {
        let opens = with_action(records, "connection-opened");
        let mut opens: Vec<_> =
            opens.into_iter().filter(|open| open["network"]["direction"] == "egress").take(count).collect();
        for open in &mut opens {
            if open["portreeve"]["attribution"]["reason"] == "budget" {
                let changes = with_action(records, "connection-changed").into_iter();
                let id = open["portreeve"]["connection"]["id"].clone();
                *open = changes
                    .filter(|change| change["portreeve"]["connection"]["id"] == id)
                    .find(|change| change["portreeve"]["attribution"]["reason"] != "budget")?;
            }
        }
        (opens.len() == count).then_some(opens)
    })
}
