//! A hop in words that all outputs share: who, to where, how it ended, what is to be minded.
//! Knows nothing of layout. Everything it gives out is harmless.

use std::net::SocketAddr;
use std::time::Duration;

use super::join::{Entry, Forest, Kind};
use super::model::{Conn, Link, Names, Party, Who};
use crate::report::words::{bytes, end, word, words};
use crate::text::lasting;

/// As many links of a chain as fit a line.
const LINKS: usize = 8;
const COMMAND_CHARS: usize = 300;
/// As many forwards are named.
const FORWARDS: usize = 4;

/// `alice`; `root(alice)` where alice logged in and runs it as root.
pub(crate) fn who(names: &Names, who: &Who) -> String {
    let named = |name: Option<_>, id: Option<_>| match (names.get(name), names.get(id)) {
        (Some(name), _) => Some(word(name)),
        (None, Some(id)) => Some(format!("uid {}", word(id))),
        (None, None) => None,
    };
    let user = named(who.name, who.id).unwrap_or_else(|| "user unknown".to_owned());
    let login = if is_other_login(names, who) { named(who.login, who.login_id) } else { None };
    login.map_or_else(|| user.clone(), |login| format!("{user}({login})"))
}

/// Whether somebody else logged in than runs it.
pub(crate) fn is_other_login(names: &Names, who: &Who) -> bool {
    match (names.get(who.id), names.get(who.login_id)) {
        (Some(id), Some(login)) => id != login,
        _ => who.login.is_some() && who.login != who.name,
    }
}

/// `ssh[40] ← bash[37] ← sshd[36]`.
pub(crate) fn chain(names: &Names, party: &Party) -> String {
    if party.chain.is_empty() {
        return match names.get(party.unknown) {
            Some(reason) => format!("owner unknown ({})", word(reason)),
            None => "owner unknown".to_owned(),
        };
    }
    let mut links: Vec<String> = party.chain.iter().map(|own| link(names, *own)).collect();
    if links.len() > LINKS {
        let last = links.pop().unwrap_or_default();
        links.truncate(LINKS - 1);
        links.extend(["\u{2026}".to_owned(), last]);
    } else if party.is_chain_cut {
        links.push("\u{2026}".to_owned());
    }
    links.join(" \u{2190} ")
}

/// `ssh[40]`.
pub(crate) fn link(names: &Names, link: Link) -> String {
    format!("{}[{}]", word(names.text(link.name)), link.pid)
}

/// The command line, harmless.
pub(crate) fn command(names: &Names, party: &Party) -> Option<String> {
    names.get(party.command).filter(|line| !line.is_empty()).map(|line| words(line, COMMAND_CHARS))
}

/// The name of where a hop led, if there is one: of the host that was reached, else as it was typed.
pub(crate) fn destination_name(forest: &Forest<'_>, hop: &Conn) -> Option<String> {
    let reached = forest.arrivals(hop).next().map(|entry| forest.model.host_name(entry.host));
    reached.or_else(|| forest.model.names.get(hop.domain)).map(word)
}

/// `web1 (192.0.2.7:22)`.
pub(crate) fn destination(forest: &Forest<'_>, hop: &Conn) -> String {
    match destination_name(forest, hop) {
        Some(name) => format!("{name} ({})", end(hop.destination)),
        None => end(hop.destination),
    }
}

/// How a hop stands in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Open,
    Ended,
    Failed,
}

pub(crate) fn fate(names: &Names, hop: &Conn) -> Fate {
    match (hop.end, names.get(hop.reason)) {
        (None, _) => Fate::Open,
        (_, Some("refused" | "timed_out" | "unreachable" | "failed" | "cancelled" | "reset")) => Fate::Failed,
        _ => Fate::Ended,
    }
}

/// `closed after 12m03s`, `closed 20:17:41 after 12m03s`, `refused after 2 ms`, `still open`.
pub(crate) fn ending(names: &Names, hop: &Conn, at: Option<&str>) -> String {
    if hop.end.is_none() {
        return if names.is(hop.state, "syn_sent") { "connecting" } else { "still open" }.to_owned();
    }
    let reason = match names.get(hop.reason) {
        Some("cancelled") => "given up".to_owned(),
        Some("while_down") => "ended while nobody watched".to_owned(),
        Some("reboot") => "ended by a reboot".to_owned(),
        Some("out_of_scope") => "watched no longer".to_owned(),
        Some(reason) => words(&reason.replace('_', " "), 40),
        None => "ended".to_owned(),
    };
    let reason = at.map_or_else(|| reason.clone(), |at| format!("{reason} {at}"));
    match lasted(hop) {
        Some(micros) => format!("{reason} after {}", lasting(Duration::from_micros(micros))),
        None => reason,
    }
}

/// How long it stood, microseconds. By the clock that never steps where the log has it.
pub(crate) fn lasted(hop: &Conn) -> Option<u64> {
    let by_wall = || u64::try_from(hop.end?.checked_sub(hop.start?)?).ok();
    hop.duration_ns.map(|nanos| nanos / 1_000).or_else(by_wall)
}

/// `3.6 kB out, 4.6 kB in`.
pub(crate) fn volume(hop: &Conn) -> Option<String> {
    match (hop.bytes_out(), hop.bytes_in()) {
        (Some(sent), Some(received)) => Some(format!("{} out, {} in", bytes(sent), bytes(received))),
        (None, Some(received)) => Some(format!("{} in", bytes(received))),
        (Some(sent), None) => Some(format!("{} out", bytes(sent))),
        (None, None) => None,
    }
}

/// What is to be minded about a hop: its route, weak evidence, what was not seen.
pub(crate) fn notes(forest: &Forest<'_>, hop: &Conn) -> Vec<String> {
    let names = &forest.model.names;
    let mut notes: Vec<String> = route(names, hop).into_iter().chain(forwards(forest, hop)).collect();
    if let Some(weak) = hop.party.origin.as_ref().and_then(|origin| evidence(names.get(origin.evidence))) {
        notes.push(weak.to_owned());
    }
    match names.get(hop.seen) {
        Some("time_wait" | "destroy") => notes.push("only its end was seen".to_owned()),
        Some("start") => notes.push("it stood before the watch".to_owned()),
        _ => {}
    }
    if hop.is_bytes_exact == Some(false) && hop.bytes_out().is_some() && !is_nearly_exact(hop) {
        notes.push("bytes as of the last look".to_owned());
    }
    if let Some(later) = hop.later_owner {
        notes.push(format!("held by {} in the end", link(names, later)));
    }
    notes
}

/// Bytes that may be off by the one that an orderly end counts for.
fn is_nearly_exact(hop: &Conn) -> bool {
    hop.is_end_exact == Some(true)
}

/// The route, where it is not the plain one.
pub(crate) fn route(names: &Names, hop: &Conn) -> Option<String> {
    let ssh = hop.party.ssh.as_deref();
    let target = ssh.and_then(|ssh| names.get(ssh.target)).map(word);
    match (names.get(hop.route)?, target) {
        ("jump", Some(target)) => Some(format!("first leg of a jump to {target}")),
        ("jump", None) => Some("first leg of a jump".to_owned()),
        ("proxy_command", Some(target)) => Some(format!("a relay opened it, for ssh to {target}")),
        ("proxy_command", None) => Some("a relay opened it, for ssh".to_owned()),
        ("forwarded", _) if is_for_server(hop) => Some("the SSH client opened it for its server".to_owned()),
        ("forwarded", _) => Some("the SSH server opened it for its client".to_owned()),
        ("mux_master", _) => Some("several sessions may share it".to_owned()),
        ("other", _) => Some("not by an SSH client".to_owned()),
        _ => None,
    }
}

/// Of a connection that was forwarded: whether a client opened it for its server. A server was asked for nothing.
pub(crate) fn is_for_server(hop: &Conn) -> bool {
    hop.party.ssh.is_some()
}

/// What marks a connection that carries forwards: those that were asked for, where they are waited for at either end, and
/// how many connections the far end opened.
pub(crate) fn forwards(forest: &Forest<'_>, conn: &Conn) -> Vec<String> {
    let names = &forest.model.names;
    let reached = reached(forest, conn);
    let mut marks = Vec::new();
    let asked = asked_forwards(names, conn);
    if !asked.is_empty() {
        marks.push(format!("asked for {}", few(asked).join(", ")));
    }
    let far = reached.iter().filter_map(|entry| entry.inbound).filter(|far| far.id != conn.id);
    for end in [conn].into_iter().chain(far) {
        let listens = listening(names, end);
        if !listens.is_empty() {
            let host = word(forest.model.host_name(forest.model.host_of(end)));
            let open = if is_open_to_all(names, end) { " (all interfaces)" } else { "" };
            marks.push(format!("forwards from {}{open} of {host}", few(listens).join(", ")));
        }
    }
    match reached.iter().map(|entry| carried(names, entry).count()).sum::<usize>() {
        0 => {}
        1 => marks.push("1 forwarded connection went through it".to_owned()),
        n => marks.push(format!("{n} forwarded connections went through it")),
    }
    marks
}

/// The logins that a connection is, or is proved to have led to.
pub(crate) fn reached<'f, 'm>(forest: &'f Forest<'m>, conn: &Conn) -> Vec<&'f Entry<'m>> {
    if conn.is_inbound {
        forest.entry_of(conn).into_iter().collect()
    } else {
        forest.arrivals(conn).collect()
    }
}

/// `-L 8080:db1:80`, as typed. What is told of a relay or of the first leg of a jump was asked of another client.
pub(crate) fn asked_forwards(names: &Names, hop: &Conn) -> Vec<String> {
    let ssh = hop.party.ssh.as_deref().filter(|_| is_clients_own(names, hop));
    let asked = ssh.map(|ssh| &ssh.forwards[..]).unwrap_or_default();
    asked.iter().map(|(option, text)| format!("{option} {}", word(names.text(*text)))).collect()
}

/// Where a client listens for what is to go through this connection or, of an inbound one, its server does.
pub(crate) fn listening(names: &Names, conn: &Conn) -> Vec<String> {
    if !conn.is_inbound && !is_clients_own(names, conn) {
        return Vec::new();
    }
    conn.listening.iter().map(|address| word(names.text(*address))).collect()
}

/// Whether a forward of it can be reached from other machines, on whatever interface.
pub(crate) fn is_open_to_all(names: &Names, conn: &Conn) -> bool {
    let ends = conn.listening.iter().filter_map(|address| names.text(*address).parse::<SocketAddr>().ok());
    ends.into_iter().any(|end| end.ip().is_unspecified())
}

/// The connection of a client to its server, and none that either opened for the other.
fn is_clients_own(names: &Names, hop: &Conn) -> bool {
    !hop.is_inbound && matches!(names.get(hop.route), Some("direct" | "mux_master"))
}

/// What the SSH server of a login opened for its client: proved by the socket of the login, which the same process holds.
pub(crate) fn carried<'e, 'm>(
    names: &'e Names,
    entry: &'e Entry<'m>,
) -> impl Iterator<Item = &'m Conn> + use<'e, 'm> {
    entry.hops.iter().copied().filter(move |hop| {
        let evidence = hop.party.origin.as_ref().and_then(|origin| origin.evidence);
        names.is(hop.route, "forwarded") && !is_for_server(hop) && names.is(evidence, "socket")
    })
}

/// The first of them, and how many more there are.
pub(crate) fn few(mut all: Vec<String>) -> Vec<String> {
    let more = all.len().saturating_sub(FORWARDS);
    if more > 1 {
        all.truncate(FORWARDS);
        all.push(format!("{more} more"));
    }
    all
}

/// Evidence of an origin that is no proof.
pub(crate) fn evidence(evidence: Option<&str>) -> Option<&'static str> {
    match evidence? {
        "audit_session" => Some("login known by its audit session"),
        "cgroup_session" => Some("login known by its control group"),
        "remembered" => Some("login known from memory"),
        "title" => Some("login known by its server's title alone"),
        "environment" => Some("login known by the environment alone"),
        _ => None,
    }
}

/// How somebody came onto a host, where that is not by SSH: `at a local terminal`, `by cron`, `by backup.service`.
pub(crate) fn entrance(forest: &Forest<'_>, entry: &Entry<'_>) -> Option<String> {
    let names = &forest.model.names;
    let unit = entry.party.and_then(|party| names.get(party.unit)).map(word);
    Some(match entry.kind {
        Kind::Ssh | Kind::Untold => return None,
        Kind::Terminal => "at a local terminal".to_owned(),
        Kind::Cron => "by cron".to_owned(),
        Kind::Service => unit.map_or_else(|| "by a service".to_owned(), |unit| format!("by {unit}")),
        Kind::Container => "in a container".to_owned(),
        Kind::Unknown => "(from where is not known)".to_owned(),
    })
}

/// `alice@pts/3` of an entry, if anything is known.
pub(crate) fn entry_who(forest: &Forest<'_>, entry: &Entry<'_>) -> Option<String> {
    let names = &forest.model.names;
    let from_origin = entry.origin.and_then(|origin| names.get(origin.user)).map(word);
    let login = entry.party.and_then(|party| {
        let own = party.who;
        names.get(own.login.or(own.name)).map(word)
    });
    let tty = entry.origin.and_then(|origin| origin.tty).or_else(|| entry.party?.who.tty);
    let tty = names.get(tty).map(|tty| format!("@{}", word(tty))).unwrap_or_default();
    from_origin.or(login).map(|user| format!("{user}{tty}"))
}
