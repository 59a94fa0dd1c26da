//! The command line of Dropbear's client.
//!
//! Differs from OpenSSH's: the last of two options counts, `user@host` beats `-l`, a port may stand behind the host, and
//! hops are parted by commas. Source: cli-runopts.c.

use super::client::{Client, Proxy};
use super::destination::{parse_port, split_first, split_last};
use super::{Forwards, Meaning, line, remote};

/// Letters that take a value.
const VALUED: &[u8] = b"pilLRBJWKIcmbo";

#[derive(Default)]
struct Typed {
    user: Option<Vec<u8>>,
    port: Option<u16>,
    proxy_command: Option<Vec<u8>>,
    forwards: Forwards,
    is_subsystem: bool,
}

/// Reads the arguments behind the program's name.
pub(super) fn read(args: &[Vec<u8>]) -> Client {
    let mut typed = Typed::default();
    let (mut host, mut at) = (None, 0);
    while let Some(arg) = args.get(at) {
        at += 1;
        match arg.strip_prefix(b"-") {
            Some(letters) => typed.letters(letters, args, &mut at),
            None if host.is_none() => host = Some(arg.as_slice()),
            None => {
                at -= 1;
                break;
            }
        }
    }
    typed.client(host, &args.get(at..).unwrap_or_default().join(&b' '))
}

impl Typed {
    /// Reads one argument's letters up to one that takes a value, which is the rest or the next argument.
    fn letters(&mut self, letters: &[u8], args: &[Vec<u8>], at: &mut usize) {
        let Some(end) = letters.iter().position(|letter| VALUED.contains(letter)) else {
            self.is_subsystem |= letters.contains(&b's');
            return;
        };
        let (flags, valued) = letters.split_at(end);
        self.is_subsystem |= flags.contains(&b's');
        match valued {
            [letter] => {
                let value = args.get(*at).map(Vec::as_slice);
                *at += 1;
                self.option(*letter, value.unwrap_or_default());
            }
            [letter, value @ ..] => self.option(*letter, value),
            [] => {}
        }
    }

    fn option(&mut self, letter: u8, value: &[u8]) {
        let text = || value.to_vec();
        match letter {
            b'l' => self.user = Some(text()),
            b'p' => self.port = parse_port(value),
            b'J' => self.proxy_command = Some(text()),
            b'L' => self.forwards.local.push(text()),
            b'R' => self.forwards.remote.push(text()),
            b'B' => self.forwards.stdio = vec![text()],
            b'o' => {
                let port = line::split(value).filter(|(key, _)| key == b"port");
                self.port = port.map_or(self.port, |(_, value)| parse_port(value));
            }
            _ => {}
        }
    }

    fn client(mut self, target: Option<&[u8]>, remote: &[u8]) -> Client {
        let target = target.map(|target| self.sutured(target));
        let (hops, last) = match target.as_deref().map(|target| (target, split_last(target, b','))) {
            Some((_, Some((hops, last)))) => (hops, Some(last)),
            Some((target, None)) => (&[][..], Some(target)),
            None => (&[][..], None),
        };
        let host = last.map(|last| self.parse_host(last));
        let jump = if hops.is_empty() {
            Vec::new()
        } else {
            hops.split(|b| *b == b',').map(<[u8]>::to_vec).collect()
        };
        let meaning = Meaning {
            host,
            login: self.user,
            port: self.port,
            jump,
            subsystem: if self.is_subsystem { remote::whole(remote) } else { remote::subsystem(remote) },
            command: if self.is_subsystem { None } else { remote::command(remote) },
            forwards: self.forwards,
            target,
            ..Meaning::default()
        };
        let proxy = self.proxy_command.map_or(Proxy::Untold, Proxy::Command);
        Client { meaning, proxy, remote: remote.to_vec(), ..Client::default() }
    }

    /// scp and rsync part `a@b,c@d` at its last `@` and give the front to `-l`; Dropbear puts it together again.
    fn sutured(&mut self, target: &[u8]) -> Vec<u8> {
        match self.user.take_if(|user| user.contains(&b',') && user.contains(&b'@')) {
            Some(user) => [&user, &b"@"[..], target].concat(),
            None => target.to_vec(),
        }
    }

    /// `[user@]host[^port]`, or with `/`.
    fn parse_host(&mut self, text: &[u8]) -> Vec<u8> {
        let host = match split_first(text, b'@') {
            Some((user, host)) => {
                self.user = Some(user.to_vec());
                host
            }
            None => text,
        };
        let Some((host, port)) = split_first(host, b'^').or_else(|| split_first(host, b'/')) else {
            return host.to_vec();
        };
        self.port = parse_port(port);
        host.to_vec()
    }
}
