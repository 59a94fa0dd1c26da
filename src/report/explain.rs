//! `portreeve explain`: one connection's story, in a paragraph that a person can read aloud.
//! Knows nothing of the command line. Says apart what is proved, what is hearsay and what was not seen.
//! Truth: the connection's records, those of its login, and of the gaps that lie in its time.

use std::io::{self, Write};
use std::time::Duration;

use super::filter::IdPrefix;
use super::notice::Notice;
use super::paths::join::{Entry, Forest};
use super::paths::model::{Conn, Link, Micros, Name, Party, Rider};
use super::paths::phrase::{self, is_other_login};
use super::paths::read::read;
use super::paths::record::show_id;
use super::show::{Logs, ShowError};
use super::words::{bytes, moment, word};
use crate::text::{Style, lasting};

/// As many connections are named where an id fits several.
const NAMED: usize = 10;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Explain {
    /// Which files, of one host or of many.
    pub logs: Logs,
    /// The connection.
    pub id: IdPrefix,
    /// The zone of its times, and the width to fold at.
    pub style: Style,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The story was told.
    Told,
    /// No connection has an id that begins so.
    Unknown,
    /// Several have: these, or the first of them and how many more.
    Several(Vec<String>),
}

/// Reads the logs and tells the connection's story; says through `say` what cannot be read, and counts that.
///
/// Costs what `paths` costs: the login may be in the log of any host.
///
/// # Errors
/// `NoLog` where the default log does not exist, `Write` where the output fails.
pub fn run(
    explain: &Explain,
    out: &mut dyn Write,
    say: &mut dyn FnMut(&Notice),
) -> Result<(Outcome, u64), ShowError> {
    let read = read(&explain.logs, say).map_err(|path| ShowError::NoLog { path })?;
    let fits = |conn: &&Conn| explain.id.begins(&show_id(conn.id));
    let found: Vec<&Conn> = read.model.conns.iter().filter(fits).collect();
    let outcome = match found.as_slice() {
        [] => Outcome::Unknown,
        [conn] => {
            let forest = Forest::grow(&read.model);
            let story = Story { forest: &forest, style: &explain.style }.tell(conn);
            let story = fold(&story, explain.style.width);
            match out.write_all(story.as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(ShowError::Write(error));
                }
                _ => Outcome::Told,
            }
        }
        several => {
            let mut ids: Vec<_> = several.iter().take(NAMED).map(|conn| show_id(conn.id)).collect();
            if several.len() > NAMED {
                ids.push(format!("and {} more", several.len() - NAMED));
            }
            Outcome::Several(ids)
        }
    };
    Ok((outcome, read.failures))
}

/// Lines no longer than the terminal is wide, folded at blanks.
fn fold(story: &str, width: Option<usize>) -> String {
    let mut text = String::with_capacity(story.len() + 16);
    let mut column = 0;
    for word in story.split(' ') {
        let length = word.chars().count();
        let fits = width.is_none_or(|width| column + 1 + length <= width);
        if column > 0 {
            text.push(if fits { ' ' } else { '\n' });
            column = if fits { column + 1 } else { 0 };
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
    text
}

struct Story<'a, 'm> {
    forest: &'a Forest<'m>,
    style: &'a Style,
}

impl Story<'_, '_> {
    fn tell(&self, conn: &Conn) -> String {
        let mut sentences = if conn.is_inbound { self.inbound(conn) } else { self.outbound(conn) };
        sentences.extend(self.forwards(conn));
        sentences.extend(self.course(conn));
        sentences.extend(self.riders(conn));
        sentences.extend(self.onwards(conn));
        sentences.extend(self.doubts(conn));
        sentences.join(" ")
    }

    fn text(&self, name: Option<Name>) -> Option<String> {
        self.forest.model.names.get(name).map(word)
    }

    fn is(&self, name: Option<Name>, text: &str) -> bool {
        self.forest.model.names.is(name, text)
    }

    fn host(&self, conn: &Conn) -> String {
        word(self.forest.model.host_name(self.forest.model.host_of(conn)))
    }

    /// `on 2026-11-20 at 20:05:38`
    fn when(&self, at: Micros) -> String {
        let (date, clock) = moment(at, self.style);
        let zone = if self.style.utc { " UTC" } else { "" };
        format!("on {date} at {}{zone}", clock.trim_end_matches('Z'))
    }

    fn outbound(&self, conn: &Conn) -> Vec<String> {
        let party = &conn.party;
        let who = self.user(party);
        let login = self.login(conn, party).map(|login| format!(" ({login})")).unwrap_or_default();
        let to = self.destination(conn);
        let host = self.host(conn);
        let means = self.means(conn);
        let when = capital(&match conn.start {
            Some(at) => self.when(at),
            None => format!("at an unknown time, at the latest {}", self.when(conn.first)),
        });
        let verb = match phrase::fate(&self.forest.model.names, conn) {
            phrase::Fate::Failed if !self.is(conn.reason, "reset") => "tried to connect",
            phrase::Fate::Open if self.is(conn.state, "syn_sent") => "was connecting",
            _ => "connected",
        };
        let mut sentences = vec![format!("{when} {who}{login} {verb} from {host} to {to}{means}.")];
        sentences.extend(self.route(conn));
        sentences.extend(self.before(conn));
        sentences
    }

    fn inbound(&self, conn: &Conn) -> Vec<String> {
        let host = self.host(conn);
        let from = conn.source.map_or_else(
            || "from an unknown address".to_owned(),
            |end| format!("from {} (port {})", end.ip(), end.port()),
        );
        let port = conn.destination.map(|end| format!(", port {}", end.port())).unwrap_or_default();
        let when = capital(&match conn.start {
            Some(at) => self.when(at),
            None => format!("at an unknown time, at the latest {}", self.when(conn.first)),
        });
        let mut sentences = vec![format!("{when} an SSH connection came in {from} to {host}{port}.")];
        if let Some(entry) = self.forest.entry_of(conn) {
            if let Some(user) = entry.origin.and_then(|origin| self.text(origin.user)) {
                sentences.push(format!("It is a login of {user}."));
            }
            sentences.extend(self.cause(entry));
            let led: Vec<_> = entry.hops.iter().map(|hop| self.destination(hop)).collect();
            match led.len() {
                0 => sentences.push("Nothing in these logs went on from there.".to_owned()),
                1 => sentences.push(format!("One connection went on from there, to {}.", led.join(""))),
                n => {
                    let more =
                        if n > NAMED { format!(" and {} more", number(n - NAMED)) } else { String::new() };
                    let named = led.get(..n.min(NAMED)).unwrap_or_default();
                    let named = if more.is_empty() { list(named) } else { named.join(", ") };
                    sentences.push(format!(
                        "{} connections went on from there, to {named}{more}.",
                        capital(&number(n))
                    ));
                }
            }
        }
        sentences
    }

    /// `alice`, `root`, `a user with the number 1000`.
    fn user(&self, party: &Party) -> String {
        let who = &party.who;
        let user = match (self.text(who.name), self.text(who.id)) {
            (Some(name), _) => name,
            (None, Some(id)) => format!("the user with the number {id}"),
            (None, None) => "an unknown user".to_owned(),
        };
        match self.text(who.effective).or_else(|| self.text(who.effective_id)) {
            Some(effective) => format!("{user}, with the rights of {effective},"),
            None => user,
        }
    }

    /// `logged in as alice from 198.51.100.7, which is proved by the socket that the SSH server holds`
    fn login(&self, conn: &Conn, party: &Party) -> Option<String> {
        let names = &self.forest.model.names;
        let origin = party.origin.as_deref();
        let own = &party.who;
        let login = origin.and_then(|origin| self.text(origin.user)).or_else(|| {
            let login = if is_other_login(names, own) { own.login.or(own.login_id) } else { own.login };
            self.text(login.or(own.name))
        });
        let login = login.map(|login| format!(" as {login}")).unwrap_or_default();
        let tty = origin.and_then(|origin| origin.tty).or(own.tty);
        let kind = origin.and_then(|origin| names.get(origin.kind));
        Some(match kind {
            Some("ssh") => {
                let from = origin.and_then(|origin| origin.ip);
                let from = from.map_or_else(|| " by SSH".to_owned(), |ip| format!(" from {ip}"));
                let evidence = origin.and_then(|origin| names.get(origin.evidence));
                format!("logged in{login}{from}{}", proof(evidence))
            }
            Some("local_tty") => {
                let tty = self.text(tty).map(|tty| format!(", {tty}")).unwrap_or_default();
                format!("logged in{login} at a terminal of {} itself{tty}", self.host(conn))
            }
            Some("cron") => "in a job of cron".to_owned(),
            Some("service") => match self.text(party.unit) {
                Some(unit) => format!("in the service {unit}"),
                None => "in a service".to_owned(),
            },
            Some("container") => "in a container".to_owned(),
            Some(_) if is_other_login(names, own) => format!("logged in{login}, and from where is not known"),
            Some(_) => "where the login came from is not known".to_owned(),
            None if is_other_login(names, own) => format!("logged in{login}"),
            None => return None,
        })
    }

    /// `git.example.net (203.0.113.7, port 22)`
    fn destination(&self, conn: &Conn) -> String {
        let end = conn.destination.map(|end| (end.ip(), end.port()));
        match (phrase::destination_name(self.forest, conn), end) {
            (Some(name), Some((ip, port))) => format!("{name} ({ip}, port {port})"),
            (Some(name), None) => name,
            (None, Some((ip, port))) => format!("{ip} (port {port})"),
            (None, None) => "an unknown address".to_owned(),
        }
    }

    /// ` with ssh, started by bash, which git started`
    fn means(&self, conn: &Conn) -> String {
        let party = &conn.party;
        let name = |link: &Link| self.text(Some(link.name)).unwrap_or_default();
        let mut chain = party.chain.iter().filter(|link| link.pid != 1 || party.chain.len() == 1);
        let Some(owner) = chain.next() else { return String::new() };
        let mut text = format!(" with {}", name(owner));
        // ssh starts itself for the first leg of a jump, sshd for each session.
        if let Some(parent) = chain.find(|link| link.name != owner.name) {
            text.push_str(&format!(", started by {}", name(parent)));
        }
        let tool = party.ssh.as_ref().and_then(|ssh| self.text(ssh.tool));
        let is_new = |tool: &String| party.chain.iter().take(2).all(|link| name(link) != *tool);
        if let Some(tool) = tool.filter(is_new) {
            text.push_str(&format!(", for {tool}"));
        }
        text
    }

    fn route(&self, conn: &Conn) -> Option<String> {
        let names = &self.forest.model.names;
        let target = conn.party.ssh.as_ref().and_then(|ssh| self.text(ssh.target));
        let target = target.unwrap_or_else(|| "another machine".to_owned());
        Some(match names.get(conn.route)? {
            "jump" => format!("It was the first leg of a jump to {target}."),
            "proxy_command" => format!("A relay held the connection, on behalf of ssh to {target}."),
            "forwarded" if phrase::is_for_server(conn) => {
                "The SSH client opened it on behalf of the server to which it \
                 was connected already: what it carried went through that connection."
                    .to_owned()
            }
            "forwarded" => format!(
                "The SSH server of {} opened it on behalf of its client: what it carried went through the client's own \
                 connection.",
                self.host(conn)
            ),
            "other" => "No SSH program made it.".to_owned(),
            _ => return None,
        })
    }

    /// What it carried for others: what was asked for, where that was waited for, and what the far end opened.
    fn forwards(&self, conn: &Conn) -> Vec<String> {
        let names = &self.forest.model.names;
        let mut sentences = Vec::new();
        let asked = phrase::few(phrase::asked_forwards(names, conn));
        if !asked.is_empty() {
            let forwards = if asked.len() == 1 { "forward" } else { "forwards" };
            sentences.push(format!("Its client was asked for the {forwards} {}.", list(&asked)));
        }
        let listens = phrase::few(phrase::listening(names, conn));
        if !listens.is_empty() {
            let who = if conn.is_inbound { "Its SSH server" } else { "The client" };
            let open = match phrase::is_open_to_all(names, conn) {
                true => " (on every interface, for other machines too)",
                false => "",
            };
            let listens = list(&listens);
            sentences.push(format!(
                "{who} listened at {listens}{open}: what came in there went through this connection."
            ));
        }
        let reached = phrase::reached(self.forest, conn);
        sentences.extend(reached.into_iter().filter_map(|entry| self.carried(entry)));
        sentences
    }

    /// What the server at its end opened for its client.
    fn carried(&self, entry: &Entry<'_>) -> Option<String> {
        let hops: Vec<_> = phrase::carried(&self.forest.model.names, entry).collect();
        let mut to: Vec<_> = hops.iter().map(|hop| self.destination(hop)).collect();
        to.sort_unstable();
        to.dedup();
        let host = word(self.forest.model.host_name(entry.host));
        let what = match hops.len() {
            0 => return None,
            1 => "the connection".to_owned(),
            n => format!("the {} connections", number(n)),
        };
        let to = list(&phrase::few(to));
        Some(format!(
            "Through it went what {what} carried that the SSH server of {host} opened on behalf of its client, to {to}; \
             that is proved by the socket that the server holds."
        ))
    }

    /// Where the login came from, over all hosts.
    fn before(&self, conn: &Conn) -> Option<String> {
        self.forest.entry_of(conn).and_then(|entry| self.cause(entry))
    }

    /// The hops that led to an entry, the nearest first.
    fn cause(&self, entry: &Entry<'_>) -> Option<String> {
        let mut parts = Vec::new();
        let mut next = entry.parent;
        while let Some(hop) = next.filter(|_| parts.len() < NAMED) {
            let above = self.forest.entry_of(hop);
            parts.push(format!(
                "{}, where {} made the connection {}",
                self.host(hop),
                self.user(&hop.party),
                show_id(hop.id)
            ));
            next = above.and_then(|entry| entry.parent);
        }
        if let Some(first) = entry.maybe.first() {
            return Some(format!(
                "That login may have come from {}, by the connection {}, but that cannot be proved, because an \
                 address was translated on the way.",
                self.host(first),
                show_id(first.id)
            ));
        }
        let (nearest, others) = parts.split_first()?;
        let others: String = others.iter().map(|part| format!("; before that from {part}")).collect();
        let more = if next.is_some() { "; and so on" } else { "" };
        Some(format!("That login came from {nearest}{others}{more}."))
    }

    /// How long, how much, how it ended.
    fn course(&self, conn: &Conn) -> Vec<String> {
        let names = &self.forest.model.names;
        let lasted = phrase::lasted(conn).map(long);
        let about = if is_bytes_sure(conn) { "" } else { "about " };
        let carried = match (conn.bytes_out(), conn.bytes_in()) {
            (Some(sent), Some(received)) => {
                Some(format!("carried {about}{} out and {} in", bytes(sent), bytes(received)))
            }
            _ => None,
        };
        if conn.end.is_none() {
            let host = self.forest.model.host_of(conn);
            let until = self.forest.model.ends_at(host).map(|at| self.when(at));
            let until = until.map(|until| format!(", {until}")).unwrap_or_default();
            return vec![format!("It was still open when the log of {} ends{until}.", self.host(conn))];
        }
        let is_attempt = phrase::fate(names, conn) == phrase::Fate::Failed && !self.is(conn.reason, "reset");
        let mut sentences = Vec::new();
        match (lasted, carried, is_attempt) {
            (Some(lasted), _, true) => sentences.push(format!("The attempt took {lasted}.")),
            (Some(lasted), Some(carried), _) => sentences.push(format!("It lasted {lasted} and {carried}.")),
            (Some(lasted), None, _) => {
                sentences.push(format!("It lasted {lasted}; how much it carried is not known."));
            }
            (None, Some(carried), _) => {
                sentences.push(format!("It {carried}; how long it lasted is not known."));
            }
            (None, None, false) => {
                sentences.push("How long it lasted and how much it carried is not known.".to_owned());
            }
            (None, None, true) => {}
        }
        sentences.push(
            match names.get(conn.reason) {
                Some("closed") => "It ended in order.",
                Some("reset") => "It was cut off, without an orderly end.",
                Some("refused") => "It was refused.",
                Some("timed_out") => "Nobody answered.",
                Some("unreachable") => "The other end could not be reached.",
                Some("failed") => "It failed, and why is not known.",
                Some("cancelled") => "It was given up before it was answered.",
                Some("out_of_scope") => "It stood on when it was no longer to be watched.",
                Some("while_down") => "It ended while nobody watched.",
                Some("reboot") => "It ended when the machine was started anew.",
                _ => "It ended, and how is not known.",
            }
            .to_owned(),
        );
        sentences
    }

    fn riders(&self, conn: &Conn) -> Vec<String> {
        let riders: Vec<(&Rider, bool)> = self.forest.riders(conn).collect();
        let one = |(rider, is_other): &(&Rider, bool)| {
            let other = if *is_other { ", from another login" } else { "" };
            format!("one of {} {}{other}", self.user(&rider.party), self.when(rider.at))
        };
        let told: Vec<_> = riders.iter().take(NAMED).map(one).collect();
        let more = riders.len().saturating_sub(NAMED);
        match riders.len() {
            0 => Vec::new(),
            1 => vec![format!("One more session rode on it: {}.", list(&told))],
            n if more > 0 => vec![format!("{} more sessions rode on it.", capital(&number(n)))],
            n => vec![format!("{} more sessions rode on it: {}.", capital(&number(n)), list(&told))],
        }
    }

    /// What it led to.
    fn onwards(&self, conn: &Conn) -> Vec<String> {
        let mut sentences = Vec::new();
        for entry in self.forest.arrivals(conn) {
            let host = word(self.forest.model.host_name(entry.host));
            let hops = match entry.hops.len() {
                0 => "nothing in these logs went on".to_owned(),
                1 => "one connection went on".to_owned(),
                n => format!("{} connections went on", number(n)),
            };
            sentences.push(format!(
                "It is proved that it reached {host}, whose log tells of the same connection; from there {hops}."
            ));
        }
        for entry in self.forest.may_continue(conn).take(3) {
            let host = word(self.forest.model.host_name(entry.host));
            sentences.push(format!(
                "It may have gone on from {host}, but that cannot be proved, because an address was translated on \
                 the way."
            ));
        }
        sentences
    }

    /// What was not seen, and what is not exact.
    fn doubts(&self, conn: &Conn) -> Vec<String> {
        let names = &self.forest.model.names;
        let mut doubts = Vec::new();
        if conn.party.chain.is_empty() && !conn.is_inbound {
            doubts.push(unknown_owner(names.get(conn.party.unknown)));
        } else if conn.party.is_chain_cut {
            doubts.push("Not all of the processes above it could be read.".to_owned());
        }
        match names.get(conn.seen) {
            Some("time_wait" | "destroy") => {
                doubts.push("Only its end was seen, not its beginning.".to_owned());
            }
            Some("start") => doubts.push("It stood already when the watch began.".to_owned()),
            _ => {}
        }
        if conn.seen.is_none() && conn.start.is_none() {
            doubts.push("These logs do not hold its beginning.".to_owned());
        }
        if let Some(later) = conn.later_owner {
            let later = self.text(Some(later.name)).unwrap_or_default();
            doubts.push(format!("In the end another process held it, {later}."));
        }
        if conn.bytes_out().is_some() && !is_bytes_sure(conn) {
            doubts.push("The amounts are those of the last look before its end.".to_owned());
        }
        if conn.end.is_some() && conn.is_end_exact == Some(false) {
            doubts.push("When it ended is known only to the next look.".to_owned());
        }
        doubts.extend(self.gaps(conn));
        doubts
    }

    fn gaps(&self, conn: &Conn) -> Option<String> {
        let model = self.forest.model;
        let host = model.host_of(conn);
        let end = conn.end.unwrap_or(Micros::MAX);
        let overlaps = |from: Micros, to: Micros| from <= end && conn.began() <= to;
        let gaps: Vec<_> = model
            .gaps
            .iter()
            .filter(|gap| model.host_of_gap(gap) == host && overlaps(gap.from, gap.to))
            .collect();
        let first = gaps.first()?;
        let what = match model.names.get(first.cause) {
            Some("not_watching") => "nobody watched",
            Some("backlog_full") => "records were lost",
            Some("read_failed") => "the kernel's tables could not be read",
            Some("events_lost") => "notices of the kernel were lost",
            Some("opens_missed") => "beginnings of connections were missed",
            _ => "something may have been lost",
        };
        let lasting = u64::try_from(first.to - first.from).unwrap_or_default();
        let more = match gaps.len() - 1 {
            0 => String::new(),
            n => format!(", and {} more such times", number(n)),
        };
        Some(format!("In its time {what} for {}{more}, so something about it may be missing.", long(lasting)))
    }
}

fn unknown_owner(reason: Option<&str>) -> String {
    let why = match reason {
        Some("no_holder") => "no process held it",
        Some("in_flight") => "it was being handed from one process to another",
        Some("holder_vanished") => "its process was gone before it could be read",
        Some("denied") => "the watch may not read some processes",
        Some("timeout") => "some process let the watch wait",
        Some("time_wait") => "it was over when it was seen",
        Some("budget") => "the search was not over",
        _ => "the log does not say why",
    };
    format!("Which process made it is not known: {why}.")
}

/// `, which is proved by the socket …`
fn proof(evidence: Option<&str>) -> &'static str {
    match evidence {
        Some("socket") => ", which is proved by the socket that the SSH server of this login holds",
        Some("audit_session") => {
            ", as its audit session tells, which is that of a login whose connection was seen"
        }
        Some("cgroup_session") => {
            ", as its control group tells, which is that of a login whose connection was seen"
        }
        Some("remembered") => ", as is remembered of the process that led its session",
        Some("title") => ", which only the title of the SSH server says",
        Some("environment") => {
            ", which only the environment of the process says, and that can be set at will"
        }
        _ => ", and how that is known is not told",
    }
}

/// The kernel counts an orderly end as a byte: nobody would call that inexact.
fn is_bytes_sure(conn: &Conn) -> bool {
    conn.is_bytes_exact != Some(false) || conn.is_end_exact == Some(true)
}

/// `347 ms`, `4.5 seconds`, `12 minutes and 3 seconds`.
fn long(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    let units = |count: u64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    let two = |large: u64, name: &str, small: u64, small_name: &str| match small {
        0 => units(large, name),
        _ => format!("{} and {}", units(large, name), units(small, small_name)),
    };
    match seconds {
        0 => lasting(Duration::from_micros(micros)),
        1..60 => format!("{seconds}.{} seconds", micros / 100_000 % 10),
        60..3_600 => two(seconds / 60, "minute", seconds % 60, "second"),
        3_600..86_400 => two(seconds / 3_600, "hour", seconds % 3_600 / 60, "minute"),
        _ => two(seconds / 86_400, "day", seconds % 86_400 / 3_600, "hour"),
    }
}

/// Small numbers as words.
fn number(count: usize) -> String {
    let words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    words.get(count).map_or_else(|| count.to_string(), |word| (*word).to_owned())
}

/// `a, b and c`.
fn list(parts: &[String]) -> String {
    match parts.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}
