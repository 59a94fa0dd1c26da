//! Which program started a client: scp, git, Ansible, ...
//!
//! By the names of the programs above it, and where those are gone by words that only one of them writes. A name proves
//! no more than that somebody's program bears it.

use std::sync::Arc;

use super::client::Client;
use super::program::{self, is_server};
use super::remote;
use super::shell::{self, Kind};
use crate::process::Process;

/// How far up is looked.
const MOST: usize = 16;

/// By the name of a program, or of the script or module that an interpreter runs; and the name that is told.
const NAMES: &[(&str, &str)] = &[
    ("ansible", "ansible"),
    ("ansible-connection", "ansible"),
    ("ansible-console", "ansible"),
    ("ansible-playbook", "ansible"),
    ("ansible-pull", "ansible"),
    ("asyncssh", "asyncssh"),
    ("autossh", "autossh"),
    ("borg", "borg"),
    ("borgmatic", "borg"),
    ("docker", "docker"),
    ("fab", "fabric"),
    ("fabric", "fabric"),
    ("gcloud.py", "gcloud"),
    ("git", "git"),
    ("git-lfs", "git"),
    ("hg", "hg"),
    ("lftp", "lftp"),
    ("mosh", "mosh"),
    ("netmiko", "netmiko"),
    ("parallel-rsync", "pssh"),
    ("parallel-scp", "pssh"),
    ("parallel-ssh", "pssh"),
    ("paramiko", "paramiko"),
    ("pdsh", "pdsh"),
    ("pssh", "pssh"),
    ("rsync", "rsync"),
    ("salt-ssh", "salt-ssh"),
    ("scp", "scp"),
    ("sftp", "sftp"),
    ("ssh-copy-id", "ssh-copy-id"),
    ("sshfs", "sshfs"),
    ("sshuttle", "sshuttle"),
    ("svn", "svn"),
    ("unison", "unison"),
    ("virsh", "libvirt"),
    ("virt-manager", "libvirt"),
    ("virt-viewer", "libvirt"),
];

/// All names that are told, in order.
pub const TOOLS: &[&str] = &[
    "ansible",
    "asyncssh",
    "autossh",
    "borg",
    "docker",
    "fabric",
    "gcloud",
    "git",
    "hg",
    "lftp",
    "libvirt",
    "mosh",
    "netmiko",
    "paramiko",
    "pdsh",
    "pssh",
    "rsync",
    "salt-ssh",
    "scp",
    "sftp",
    "ssh-copy-id",
    "sshfs",
    "sshuttle",
    "svn",
    "unison",
];

/// Every name that may be told.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(_, tool)| *tool)
}

/// What sshfs writes first. It lets go of its ssh, so that no ancestor tells of it.
const SSHFS: [&[u8]; 3] = [b"-x", b"-a", b"-oClearAllForwardings=yes"];

/// The tool that a client works for. `above` are the client's ancestors, the parent first.
pub(super) fn of(client: &Client, process: &Process, above: &[Arc<Process>]) -> Option<&'static str> {
    among(above).or_else(|| by_words(client, process))
}

/// The nearest tool among ancestors, up to where a person or an SSH server stands between.
fn among(above: &[Arc<Process>]) -> Option<&'static str> {
    let between =
        above.iter().take(MOST).take_while(|p| !is_server(p) && shell::kind(p) != Kind::Interactive);
    between.filter_map(|process| named(process)).next()
}

/// The tool that a process is.
pub(super) fn named(process: &Process) -> Option<&'static str> {
    let by_name =
        |name: &[u8]| NAMES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, tool)| *tool);
    by_name(program::name(process)).or_else(|| shell::script(process).and_then(by_name))
}

/// The library that a process which is no client speaks SSH by, as far as its words show.
pub(super) fn library(process: &Process) -> Option<&'static str> {
    const LIBRARIES: [&str; 5] = ["ansible", "asyncssh", "fabric", "netmiko", "paramiko"];
    let by_name = named(process).filter(|tool| LIBRARIES.contains(tool));
    let script = shell::script(process)?;
    let part =
        |library: &&str| script.split(|b| !b.is_ascii_alphanumeric()).any(|word| word == library.as_bytes());
    by_name.or_else(|| LIBRARIES.into_iter().find(part))
}

fn by_words(client: &Client, process: &Process) -> Option<&'static str> {
    let words = process.args.get(1..).unwrap_or_default();
    if words.iter().take(3).map(Vec::as_slice).eq(SSHFS) {
        return Some("sshfs");
    }
    // Ansible names the sockets of its masters, which outlive it.
    let is_ansible = |path: &Vec<u8>| path.windows(13).any(|part| part == b"/.ansible/cp/");
    if client.meaning.control_path.as_ref().is_some_and(is_ansible) {
        return Some("ansible");
    }
    remote::tool(&client.remote)
}
