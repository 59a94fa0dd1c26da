//! The command line of OpenSSH's client.
//!
//! Knows no file: what ssh_config adds is not here, and what both set counts as typed, as ssh itself has it. Source:
//! main() of ssh.c and process_config_line_depth(), parse_jump() of readconf.c, OpenSSH up to 10. `-P` is read as since
//! 9.4, with a value.

use super::client::{Client, Proxy};
use super::destination::{self, Destination};
use super::getopt::Getopt;
use super::{Forwards, Meaning, line, remote};

/// Letters that take a value, of `1246ab:c:e:fgi:kl:m:no:p:qstvxAB:CD:E:F:GI:J:KL:MNO:P:Q:R:S:TVw:W:XYy`.
const VALUED: &[u8] = b"bceilmopBDEFIJLOPQRSwW";

/// What was typed, the first of a kind as ssh takes it.
#[derive(Default)]
struct Typed {
    user: Option<Vec<u8>>,
    port: Option<u16>,
    host_name: Option<Vec<u8>>,
    jump: Option<Vec<Vec<u8>>>,
    proxy_command: Option<Vec<u8>>,
    has_local_command: bool,
    forwards: Forwards,
    clear_forwards: Option<bool>,
    tunnel: Option<bool>,
    tunnel_device: Option<Vec<u8>>,
    control_path: Option<Vec<u8>>,
    control_command: Option<Vec<u8>>,
    is_master: Option<bool>,
    is_subsystem: bool,
    remote_command: Option<Vec<u8>>,
}

/// Reads the arguments behind the program's name.
pub(super) fn read(args: &[Vec<u8>]) -> Client {
    let mut typed = Typed::default();
    let (rest, ended) = typed.options(args);
    let Some((target, behind)) = rest.split_first() else { return typed.client(None, &[]) };
    let to = destination::parse(target).unwrap_or_default();
    first(&mut typed.user, to.user.clone());
    first(&mut typed.port, to.port);
    // Options go on behind the destination.
    let command = if ended || behind.is_empty() { behind } else { typed.options(behind).0 };
    typed.client(Some((target, to)), command)
}

/// Sets what is not set.
fn first<T>(place: &mut Option<T>, value: Option<T>) {
    *place = place.take().or(value);
}

/// Adds a forward that is not there; the list stays short, because arguments are.
fn once(forwards: &mut Vec<Vec<u8>>, forward: Vec<u8>) {
    if !forwards.contains(&forward) {
        forwards.push(forward);
    }
}

impl Typed {
    /// Takes the options that `args` begins with.
    fn options<'a>(&mut self, args: &'a [Vec<u8>]) -> (&'a [Vec<u8>], bool) {
        let mut options = Getopt::new(args, VALUED);
        for (letter, value) in options.by_ref() {
            self.option(letter, value.unwrap_or_default());
        }
        options.rest()
    }

    fn option(&mut self, letter: u8, value: &[u8]) {
        let text = || value.to_vec();
        match letter {
            b'l' => first(&mut self.user, Some(text())),
            b'p' => first(&mut self.port, destination::parse_port(value)),
            b'J' => first(&mut self.jump, Some(parse_jump(value))),
            b'L' => once(&mut self.forwards.local, text()),
            b'R' => once(&mut self.forwards.remote, text()),
            b'D' => once(&mut self.forwards.dynamic, text()),
            b'W' => self.forwards.stdio.push(text()),
            b'w' => {
                first(&mut self.tunnel, Some(true));
                self.tunnel_device = Some(text());
            }
            b'M' => self.is_master = Some(true),
            b'S' => self.control_path = Some(text()),
            b'O' => self.control_command = Some(text()),
            b's' => self.is_subsystem = true,
            b'o' => self.keyword(value),
            _ => {}
        }
    }

    fn keyword(&mut self, typed: &[u8]) {
        let Some((key, value)) = line::split(typed) else { return };
        let words = line::words(value);
        let Some(word) = words.first() else { return };
        let text = || Some(word.clone());
        match key.as_slice() {
            b"user" => first(&mut self.user, text()),
            b"port" => first(&mut self.port, destination::parse_port(word)),
            b"hostname" => first(&mut self.host_name, text()),
            b"proxyjump" if self.proxy_command.is_none() => first(&mut self.jump, Some(parse_jump(value))),
            b"proxycommand" if self.jump.is_none() => first(&mut self.proxy_command, Some(value.to_vec())),
            b"localcommand" => self.has_local_command = true,
            b"localforward" => once(&mut self.forwards.local, joined(&words)),
            b"remoteforward" => once(&mut self.forwards.remote, joined(&words)),
            b"dynamicforward" => once(&mut self.forwards.dynamic, word.clone()),
            b"clearallforwardings" => first(&mut self.clear_forwards, Some(is_yes(word))),
            b"tunnel" => first(&mut self.tunnel, Some(!is_no(word))),
            b"tunneldevice" => first(&mut self.tunnel_device, text()),
            b"controlpath" => first(&mut self.control_path, text()),
            b"controlmaster" => first(&mut self.is_master, Some(!is_no(word))),
            b"sessiontype" => self.is_subsystem |= word.eq_ignore_ascii_case(b"subsystem"),
            b"remotecommand" => first(&mut self.remote_command, Some(value.to_vec())),
            _ => {}
        }
    }

    fn client(self, to: Option<(&Vec<u8>, Destination)>, command: &[Vec<u8>]) -> Client {
        let forwards = self.forwards();
        let has_path = |path: &Vec<u8>| !path.eq_ignore_ascii_case(b"none");
        let may_share = self.control_path.as_ref().is_none_or(has_path);
        let told = self.remote_command.filter(|command| !command.eq_ignore_ascii_case(b"none"));
        let remote = if command.is_empty() { told.unwrap_or_default() } else { command.join(&b' ') };
        let (target, host) = to.map(|(target, to)| (target.clone(), to.host)).unzip();
        let meaning = Meaning {
            target,
            host: host.map(|host| self.host_name.map_or(host.clone(), |name| expand(&name, &host))),
            login: self.user,
            port: self.port,
            jump: self.jump.unwrap_or_default(),
            forwards,
            subsystem: if self.is_subsystem { remote::whole(&remote) } else { remote::subsystem(&remote) },
            command: if self.is_subsystem { None } else { remote::command(&remote) },
            control_path: self.control_path.filter(has_path),
            control_command: self.control_command,
            multiplexed: self.is_master == Some(true) && may_share,
            ..Meaning::default()
        };
        let proxy = match self.proxy_command {
            Some(command) if command.eq_ignore_ascii_case(b"none") => Proxy::None,
            Some(command) => Proxy::Command(command),
            None => Proxy::Untold,
        };
        Client {
            meaning,
            proxy,
            has_local_command: self.has_local_command,
            remote,
            is_background_master: false,
        }
    }

    /// What is asked for in the end: `-W` alone, and nothing where all is cleared.
    fn forwards(&self) -> Forwards {
        let stdio = self.forwards.stdio.clone();
        if self.clear_forwards.unwrap_or(!stdio.is_empty()) {
            return Forwards { stdio, ..Forwards::default() };
        }
        let device = || self.tunnel_device.clone().unwrap_or_else(|| b"any".to_vec());
        let tunnel = (self.tunnel == Some(true)).then(device);
        Forwards { tunnel: tunnel.into_iter().collect(), ..self.forwards.clone() }
    }
}

/// `LocalForward` takes both ends as two words; they are told as `-L` has them.
fn joined(words: &[Vec<u8>]) -> Vec<u8> {
    words.get(..2).unwrap_or(words).join(&b':')
}

fn parse_jump(text: &[u8]) -> Vec<Vec<u8>> {
    if text.eq_ignore_ascii_case(b"none") {
        return Vec::new();
    }
    text.split(|byte| *byte == b',').map(|hop| hop.trim_ascii().to_vec()).collect()
}

fn is_yes(word: &[u8]) -> bool {
    [&b"yes"[..], b"true"].iter().any(|yes| word.eq_ignore_ascii_case(yes))
}

fn is_no(word: &[u8]) -> bool {
    [&b"no"[..], b"false"].iter().any(|no| word.eq_ignore_ascii_case(no))
}

/// `HostName` may hold `%h`, the host that was typed.
fn expand(name: &[u8], host: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(name.len() + host.len());
    let mut rest = name;
    while let Some((byte, others)) = rest.split_first() {
        rest = others;
        match (byte, others.first()) {
            // A name that asks for its like over and over would grow with the square of what can be typed.
            (b'%', Some(b'h')) if whole.len() < 1024 => whole.extend_from_slice(host),
            (b'%', Some(b'%' | b'h')) => whole.push(b'%'),
            _ => {
                whole.push(*byte);
                continue;
            }
        }
        rest = others.get(1..).unwrap_or_default();
    }
    whole
}
