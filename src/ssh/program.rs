//! Which programs are SSH clients and servers, and how they read their arguments.
//!
//! By the file name of the executable, which is the kernel's word; by the name that a process gave itself only where
//! that cannot be read. A program that is many (Dropbear) is the one that it was called as: there the arguments have
//! to be believed. A client that runs inside another program (Python's paramiko, Java's JSch, libssh) is none here.

use super::putty;
use crate::process::Process;

/// Clients that read their arguments as OpenSSH does: itself, its name of old, and builds of it with another name.
pub const OPENSSH_CLIENTS: &[&str] = &["ssh", "slogin", "hpnssh", "gsissh", "nxssh"];

/// Clients of Dropbear.
pub const DROPBEAR_CLIENTS: &[&str] = &["dbclient"];

/// Clients of PuTTY, which speak SSH themselves; `fzsftp` is the one that FileZilla brings along.
pub const PUTTY_CLIENTS: &[&str] = &["plink", "putty", "pscp", "psftp", "fzsftp"];

/// Clients of which no more than the name is known. `ssh-keyscan` logs in nowhere, but speaks SSH.
pub const OTHER_CLIENTS: &[&str] = &["lsh", "ssh-keyscan", "hpnssh-keyscan"];

/// Servers. OpenSSH has been three programs since 9.8 and 10.0.
pub const SERVERS: &[&str] = &[
    "sshd",
    "sshd-session",
    "sshd-auth",
    "hpnsshd",
    "hpnsshd-session",
    "hpnsshd-auth",
    "gsisshd",
    "dropbear",
    "tinysshd",
    "lshd",
];

/// Programs that are many, by the name that they are called by. OpenWrt's `ssh` is a link to its `dropbear`.
const MULTI: &[&str] = &["dropbear", "dropbearmulti"];

/// What they are beside clients and servers.
const MULTI_OTHERS: &[&str] = &["dropbearconvert", "dropbearkey", "scp"];

/// How a client reads its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenSsh,
    Dropbear,
    Putty,
    /// Not known.
    Other,
}

/// True if the process is an SSH client.
#[must_use]
pub fn is_client(process: &Process) -> bool {
    dialect(process).is_some()
}

/// True if the process is an SSH server, or the part of one that serves a connection.
#[must_use]
pub fn is_server(process: &Process) -> bool {
    is_among(SERVERS, name(process))
}

/// How the process reads its arguments, if it is a client.
pub(super) fn dialect(process: &Process) -> Option<Dialect> {
    let (name, is_multi) = (name(process), is_multi(process));
    let is = |names| is_among(names, name);
    // Where Dropbear stands in for OpenSSH, its client is called ssh.
    if is(DROPBEAR_CLIENTS) || (is_multi && is(OPENSSH_CLIENTS)) {
        Some(Dialect::Dropbear)
    } else if is(OPENSSH_CLIENTS) {
        Some(Dialect::OpenSsh)
    } else if is(PUTTY_CLIENTS) {
        (!putty::is_other_protocol(operands(process))).then_some(Dialect::Putty)
    } else if is(OTHER_CLIENTS) {
        Some(Dialect::Other)
    } else {
        None
    }
}

/// What stands behind the program's name among the arguments.
pub(super) fn operands(process: &Process) -> &[Vec<u8>] {
    let names = if is_multi(process) && !is_known(called(process)) { 2 } else { 1 };
    process.args.get(names..).unwrap_or_default()
}

/// The name of the program that a process runs.
pub(super) fn name(process: &Process) -> &[u8] {
    let file = file_name(process);
    if !is_multi(process) {
        return file;
    }
    let second = process.args.get(1).map(|arg| base_name(arg));
    [Some(called(process)), second].into_iter().flatten().find(|name| is_known(name)).unwrap_or(file)
}

/// Name of the file that a process runs, or its own where that cannot be read. NixOS hides a program behind a script
/// of its name, as `.NAME-wrapped`.
pub(super) fn file_name(process: &Process) -> &[u8] {
    let name = process.executable.as_deref().map_or(process.comm.as_slice(), base_name);
    let hidden = name.strip_prefix(b".").and_then(|rest| rest.strip_suffix(b"-wrapped"));
    hidden.unwrap_or(name)
}

fn is_multi(process: &Process) -> bool {
    is_among(MULTI, file_name(process))
}

/// The name that a process was called by.
fn called(process: &Process) -> &[u8] {
    process.args.first().map_or(&[], |arg| base_name(arg))
}

fn is_known(name: &[u8]) -> bool {
    let all = [OPENSSH_CLIENTS, DROPBEAR_CLIENTS, SERVERS, MULTI_OTHERS];
    all.iter().any(|names| is_among(names, name))
}

/// Behind the last slash.
pub(super) fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn is_among(names: &[&str], name: &[u8]) -> bool {
    names.iter().any(|known| known.as_bytes() == name)
}
