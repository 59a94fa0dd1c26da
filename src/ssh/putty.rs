//! The command lines of PuTTY's clients: plink, putty, pscp, psftp.
//!
//! Options are words, the last of a kind counts, and the host may be the name of a saved session, which is not seen.
//! Sources: cmdline.c, and PuTTY's manual for the rest.

use super::client::{Client, Proxy};
use super::destination::{is_name, parse_port, split_first, split_last};
use super::{Forwards, Meaning, remote};

/// Options that take the next argument.
const VALUED: &[&str] = &[
    "-D",
    "-L",
    "-P",
    "-R",
    "-b",
    "-cert",
    "-hostkey",
    "-i",
    "-l",
    "-load",
    "-m",
    "-nc",
    "-proxycmd",
    "-pw",
    "-pwfile",
    "-sercfg",
    "-sessionlog",
    "-sshlog",
    "-sshrawlog",
];

/// Options that make plink speak something else than SSH.
const OTHER_PROTOCOLS: [&[u8]; 5] = [b"-raw", b"-rlogin", b"-serial", b"-supdup", b"-telnet"];

#[derive(Default)]
struct Typed {
    user: Option<Vec<u8>>,
    port: Option<u16>,
    session: Option<Vec<u8>>,
    proxy_command: Option<Vec<u8>>,
    forwards: Forwards,
    is_subsystem: bool,
}

/// True if the words before the host ask for a protocol that is not SSH.
pub(super) fn is_other_protocol(args: &[Vec<u8>]) -> bool {
    let mut args = args.iter().map(Vec::as_slice);
    while let Some(arg) = args.next().filter(|arg| arg.starts_with(b"-")) {
        if OTHER_PROTOCOLS.contains(&arg) {
            return true;
        }
        if takes_value(arg) {
            args.next();
        }
    }
    false
}

fn takes_value(arg: &[u8]) -> bool {
    VALUED.iter().any(|option| option.as_bytes() == arg)
}

/// Reads the arguments behind the program's name, which tells what the operands are.
pub(super) fn read(name: &[u8], args: &[Vec<u8>]) -> Client {
    let mut typed = Typed::default();
    let copies = name == b"pscp";
    let (mut operands, mut at) = (Vec::new(), 0);
    while let Some(arg) = args.get(at) {
        at += 1;
        if takes_value(arg) {
            typed.option(arg, args.get(at).map(Vec::as_slice).unwrap_or_default());
            at += 1;
        } else if arg.starts_with(b"-") && arg.len() > 1 {
            typed.is_subsystem |= arg == b"-s";
        } else if operands.is_empty() || copies {
            operands.push(arg.as_slice());
        } else {
            at -= 1;
            break;
        }
    }
    let behind = args.get(at..).unwrap_or_default();
    match name {
        b"plink" => typed.client(operands.first().copied(), &behind.join(&b' ')),
        b"pscp" => {
            let far = operands.into_iter().find_map(far_end);
            typed.transfer(far, b"scp")
        }
        b"psftp" | b"fzsftp" => typed.transfer(operands.first().copied(), b"sftp"),
        _ => {
            typed.port = behind.first().and_then(|port| parse_port(port)).or(typed.port);
            typed.client(operands.first().copied(), &[])
        }
    }
}

/// `[user@]host` of `[user@]host:file`. A path is none, and an IPv6 address stands in brackets.
fn far_end(operand: &[u8]) -> Option<&[u8]> {
    let after_bracket = operand.iter().position(|byte| *byte == b']').unwrap_or_default();
    let colon = operand.get(after_bracket..)?.iter().position(|byte| *byte == b':')?;
    let host = operand.get(..after_bracket + colon)?;
    (!host.is_empty() && !host.contains(&b'/')).then_some(host)
}

impl Typed {
    fn option(&mut self, option: &[u8], value: &[u8]) {
        let text = || value.to_vec();
        match option {
            b"-l" => self.user = Some(text()),
            b"-P" => self.port = parse_port(value),
            b"-load" => self.session = Some(text()),
            b"-proxycmd" => self.proxy_command = Some(text()),
            b"-L" => self.forwards.local.push(text()),
            b"-R" => self.forwards.remote.push(text()),
            b"-D" => self.forwards.dynamic.push(text()),
            b"-nc" => self.forwards.stdio = vec![text()],
            _ => {}
        }
    }

    fn client(self, target: Option<&[u8]>, remote: &[u8]) -> Client {
        let subsystem = if self.is_subsystem { remote::whole(remote) } else { remote::subsystem(remote) };
        let command = if self.is_subsystem { None } else { remote::command(remote) };
        let mut client = self.transfer(target, b"");
        client.meaning.subsystem = subsystem;
        client.meaning.command = command;
        client.remote = remote.to_vec();
        client
    }

    fn transfer(mut self, target: Option<&[u8]>, subsystem: &[u8]) -> Client {
        let host = target.map(|target| self.parse_host(target));
        let meaning = Meaning {
            host,
            login: self.user,
            port: self.port,
            forwards: self.forwards,
            subsystem: remote::whole(subsystem),
            // A saved session is all that was typed, where nothing else was.
            target: target.map(<[u8]>::to_vec).or(self.session),
            ..Meaning::default()
        };
        let proxy = self.proxy_command.map_or(Proxy::Untold, Proxy::Command);
        Client { meaning, proxy, ..Client::default() }
    }

    /// `[ssh,][user@]host`; a port behind a single colon is not looked at, by PuTTY neither.
    fn parse_host(&mut self, text: &[u8]) -> Vec<u8> {
        let text = text.strip_prefix(b"ssh,").unwrap_or(text).trim_ascii();
        let host = match split_last(text, b'@') {
            Some((user, host)) => {
                self.user = Some(user.to_vec());
                host
            }
            None => text,
        };
        if let Some(address) = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")) {
            return address.to_vec();
        }
        match split_first(host, b':') {
            Some((name, port)) if !port.contains(&b':') && is_name(host) => name.to_vec(),
            _ => host.to_vec(),
        }
    }
}
