//! A record in one line for people.
//!
//! Pure. The separators are arrows and not ASCII, and everything untrusted is escaped to ASCII before it gets here, so
//! no name or argument can forge a column. `text::line` adds time and colour.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::ascii::unreadable;
use super::{Bytes, Coverage, Ending, Event, Gap, Started, Totals, What};
use super::{file, program};
use crate::connection::{CloseReason, Connection, Direction, Seen, Transport};
use crate::process::{Asker, Attribution, Departed, Lineage, Login, Process, Told, Tty};
use crate::text::{escape, lasting};
use crate::way::{Evidence, Origin};

/// As many links of a chain as fit a line; the record holds all.
const LINKS: usize = 8;
/// As much of a command line as a line shows; the record holds more.
const COMMAND: usize = 300;

/// `open   alice@pts/3  192.0.2.10:51514 → 203.0.113.7:22  ssh[4242] ← bash[4100]  ssh git.example.net  ID`
#[must_use]
pub fn message(event: &Event) -> String {
    match &event.what {
        What::Started(started) => start(started),
        What::Stopped { reason, totals } => stop(reason, totals),
        What::Reloaded { outcome: Ok(changed), .. } if changed.is_empty() => {
            "reload nothing changed".to_owned()
        }
        What::Reloaded { outcome: Ok(changed), .. } => format!("reload changed {}", changed.join(", ")),
        What::Reloaded { outcome: Err(error), .. } => {
            format!("reload refused, the old settings stay: {}", escape(error.as_bytes()))
        }
        What::Opened(connection) => open(connection),
        What::Changed { connection, changed } => change(connection, changed),
        What::Closed { connection, ending } => close(connection, ending),
        What::ProcessStarted(who) => program::started(who),
        What::ProcessEnded(end) => program::ended(end),
        What::FileChanged(changed) => file::changed(changed),
        What::Multiplexed(connection) => columns("session", connection, Some("rides on it")),
        What::Gap(gap) => lost(gap),
        What::Coverage(coverage) => covered(coverage),
        What::LogOpened { path, previous, .. } => match previous {
            Some(previous) => {
                format!("file   {} goes on from {}", escape(path.as_bytes()), escape(previous.as_bytes()))
            }
            None => format!("file   {}", escape(path.as_bytes())),
        },
        What::LogRepaired { path, offset, bytes } => {
            format!("repair {}: a torn line of {bytes} bytes at {offset} was ended", escape(path.as_bytes()))
        }
        What::ClockStepped { by_us } => clock(*by_us),
        What::Sealed(seal) => format!("seal   epoch {}, up to record {}", seal.epoch, seal.sequence),
    }
}

fn clock(by_us: i64) -> String {
    let way = if by_us < 0 { "back" } else { "forward" };
    format!("clock  the wall clock was set {way} by {}", lasting(Duration::from_micros(by_us.unsigned_abs())))
}

fn start(started: &Started) -> String {
    let text =
        |name: &str| started.settings.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let mut line = format!(
        "start  portreeve {} watches port {} every {}, {} owners",
        env!("CARGO_PKG_VERSION"),
        text("ports"),
        text("interval"),
        started.owners
    );
    match (started.stream, started.previous_end) {
        ("continued", Some("unclean")) => line.push_str("; goes on after an unclean end"),
        ("continued", _) => line.push_str("; goes on"),
        ("lost", _) => {
            let reason = started.stream_reason.as_deref().unwrap_or_default();
            let _ = write!(line, "; a new stream: {}", escape(reason.as_bytes()));
        }
        _ => {}
    }
    for warning in &started.warnings {
        let _ = write!(line, "; {}", escape(warning.as_bytes()));
    }
    line
}

fn stop(reason: &str, totals: &Totals) -> String {
    let Totals { opens, closes, live, unattributed, lost, polls, reads, late, .. } = totals;
    let Totals { active_opens, missed_at_most, incomparable, .. } = totals;
    let mut line = format!(
        "stop   {}: {opens} opened, {closes} closed, {live} open; {}, {}",
        escape(reason.as_bytes()),
        counted(*polls, "poll"),
        counted(*reads, "table read")
    );
    if *unattributed > 0 {
        let _ = write!(line, ", {unattributed} without an owner");
    }
    let _ = write!(line, "; the kernel counted {}", counted(*active_opens, "outbound open"));
    let _ = match (incomparable, missed_at_most) {
        (0, 0) => write!(line, ", all accounted for"),
        (0, missed) => write!(line, ", at most {missed} not accounted for"),
        _ => write!(line, " on all ports, which cannot be compared"),
    };
    for (count, what) in [(*late, "late poll"), (*lost, "lost record")] {
        if count > 0 {
            let _ = write!(line, ", {}", counted(count, what));
        }
    }
    line
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn open(connection: &Connection) -> String {
    let note = match (connection.seen, connection.state.name()) {
        (Seen::Start, _) => Some("stood before the watch"),
        (Seen::TimeWait | Seen::Destroy, _) => Some("only its end was seen"),
        _ if connection.direction == Direction::Ingress => Some("inbound"),
        (Seen::Poll | Seen::Syn | Seen::Nflog | Seen::Audit | Seen::Ebpf, "syn_sent") => Some("connecting"),
        (Seen::Poll | Seen::Syn | Seen::Nflog | Seen::Audit | Seen::Ebpf, _) => None,
    };
    columns("open  ", connection, note)
}

fn change(connection: &Connection, changed: &[&'static str]) -> String {
    let note =
        if changed.contains(&"portreeve.connection.state") { "now established" } else { "owner found" };
    let note = match changed {
        ["process.hash.sha256"] => "executable hashed",
        ["portreeve.hash.reason"] => "executable not hashed",
        _ => note,
    };
    let note = match (changed, connection.attribution.owner()) {
        (["process.args"], _) => "title changed",
        (["process"], _) => "owner changed",
        ([.., "portreeve.listening"], _) => "forwards changed",
        (["portreeve.route" | "portreeve.ssh", ..], _) => "shared by sessions",
        (["portreeve.origin"] | ["process.args", "portreeve.origin"], _) => "logged in",
        (["portreeve.attribution"], None) => "owner not found",
        _ => note,
    };
    columns("change", connection, Some(note))
}

fn close(connection: &Connection, ending: &Ending) -> String {
    let reason = match (ending.reason, ending.success) {
        (CloseReason::Cancelled, _) => "given up".to_owned(),
        (CloseReason::WhileDown, _) => "ended while nobody watched".to_owned(),
        (CloseReason::Reboot, _) => "ended by a reboot".to_owned(),
        (reason, _) => reason.name().replace('_', " "),
    };
    let note = match ending.duration(connection) {
        Some(duration) => format!("{reason} after {}", lasting(duration)),
        None => reason,
    };
    let note = match ending.bytes {
        Some(Bytes { sent: Some(sent), received, exact: true, .. }) => {
            format!("{note}, {}", volume(sent, received))
        }
        Some(Bytes { sent: Some(sent), received, .. }) => format!("{note}, about {}", volume(sent, received)),
        _ => note,
    };
    columns("close ", connection, Some(&note))
}

/// `12.3 kB out, 4.0 MB in`.
fn volume(sent: u64, received: u64) -> String {
    format!("{} out, {} in", bytes(sent), bytes(received))
}

fn bytes(count: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", count / unit, count % unit * 10 / unit),
        None => format!("{count} B"),
    }
}

/// `cover  60.0 s: 12 opened, 11 closed, 3 open; the kernel counted 40 outbound opens on all ports, all accounted for`
fn covered(coverage: &Coverage) -> String {
    let Coverage { span, opens, closes, live, unattributed, kernel, lost, .. } = coverage;
    let time = span.map(|(from, to)| lasting(to.boot.saturating_sub(from.boot))).unwrap_or_default();
    let mut line = format!("cover  {time}: {opens} opened, {closes} closed, {live} open; ");
    let _ = write!(line, "the kernel counted {}", counted(kernel.active_opens, "outbound open"));
    let _ = match (coverage.agrees, coverage.missed_at_most) {
        (Some(true), _) => write!(line, ", all accounted for"),
        (_, Some(missed)) => write!(line, ", at most {missed} not accounted for"),
        _ => write!(line, " on all ports, which cannot be compared"),
    };
    let ownerless: u64 = unattributed.values().sum();
    if ownerless > 0 {
        let _ = write!(line, "; {ownerless} without an owner");
    }
    for (kind, count) in lost.iter().filter(|(_, count)| **count > 0) {
        let _ = write!(line, "; {} lost", counted(*count, &format!("{kind} notice")));
    }
    line
}

fn columns(verb: &str, connection: &Connection, note: Option<&str>) -> String {
    let mut line = format!("{verb} {}{}  {}", who_made(connection), from(connection), ends(connection));
    if let Some(note) = note {
        let _ = write!(line, "  {note}");
    }
    // An end names the owner alone: its open told the chain, and the record holds it again.
    let links = if verb == "close " { 1 } else { LINKS };
    let _ = write!(line, "  {}", chain(&connection.attribution, links));
    if let Some(command) = command_of(&connection.attribution) {
        let command = shorten(command);
        if !command.is_empty() {
            let _ = write!(line, "  {command}");
        }
    }
    let _ = write!(line, "  {}", connection.id);
    line
}

/// A command line or a path for a line: what is ASCII, so that every place is a character's.
pub(super) fn shorten(mut text: String) -> String {
    if text.len() > COMMAND {
        text.truncate(COMMAND);
        text.push('…');
    }
    text
}

fn command_of(attribution: &Attribution) -> Option<String> {
    match attribution {
        Attribution::Owned { lineage, .. } => Some(command_line(&lineage.process.args)),
        // Quoted and escaped when it was written.
        Attribution::Recorded(recorded) => {
            let told = recorded.told();
            let told = told.process("command_line").and_then(Value::as_str)?;
            let harmless = told.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            Some(if harmless { told.to_owned() } else { escape(told.as_bytes()) })
        }
        Attribution::Audited { asker, .. } => Some(match asker.as_ref() {
            Asker::Living(lineage) => command_line(&lineage.process.args),
            Asker::Departed(departed) => command_line(&departed.args),
        }),
        Attribution::Unknown(_) => None,
    }
}

/// `alice@pts/3`; `root(alice)@pts/3` where alice logged in and runs it as root.
fn who_made(connection: &Connection) -> String {
    if connection.direction == Direction::Ingress {
        return who_came(connection);
    }
    if let Attribution::Recorded(recorded) = &connection.attribution {
        return recorded_who(&recorded.told());
    }
    let (owner, departed) = (connection.attribution.owner(), connection.attribution.departed());
    let ids = owner.and_then(|o| o.ids).or(departed.map(|departed| departed.ids));
    let user = match (ids, owner, departed, connection.uid) {
        (Some(ids), Some(owner), ..) => Some((ids.real_uid, &owner.user)),
        (Some(ids), None, Some(departed), _) => Some((ids.real_uid, &departed.user)),
        (.., uid) => uid.map(|uid| (uid, &connection.user)),
    };
    let login = owner.and_then(|o| o.login.as_ref()).or(departed.and_then(|d| d.login.as_ref()));
    let login = login.filter(|login| ids.map(|ids| ids.real_uid) != Some(login.uid));
    person(user, login, owner.and_then(|o| o.tty).or(departed.and_then(|d| d.tty)))
}

/// Who logs in, of an inbound session: its owner is the SSH server, root's until then.
fn who_came(connection: &Connection) -> String {
    let origin = connection.way.as_ref().map(|way| &way.origin);
    let user = origin.and_then(|origin| origin.user.as_ref());
    let tty = origin.and_then(|origin| origin.tty.as_ref());
    let tty = tty.map(|tty| format!("@{}", word(tty))).unwrap_or_default();
    user.map_or_else(|| "nobody yet".to_owned(), |user| format!("{}{tty}", word(user)))
}

/// The same of a process.
pub(super) fn who_of(process: &Process) -> String {
    let uid = process.ids.map(|ids| ids.real_uid);
    let login = process.login.as_ref().filter(|login| uid != Some(login.uid));
    person(uid.map(|uid| (uid, &process.user)), login, process.tty)
}

fn person(user: Option<(u32, &Option<Arc<str>>)>, login: Option<&Login>, tty: Option<Tty>) -> String {
    let named = |name: &Option<Arc<str>>, uid: u32| match name {
        Some(name) => word(name.as_bytes()),
        None => format!("uid {uid}"),
    };
    let user = user.map_or_else(|| "user unknown".to_owned(), |(uid, name)| named(name, uid));
    let login = login.map(|l| format!("({})", named(&l.user, l.uid))).unwrap_or_default();
    let tty = tty.map(|tty| format!("@{}", tty.name())).unwrap_or_default();
    format!("{user}{login}{tty}")
}

/// ` from 198.51.100.7`; by which evidence, where that is not the best.
fn from(connection: &Connection) -> String {
    let Some(way) = connection.way.as_ref().filter(|_| connection.direction == Direction::Egress) else {
        return String::new();
    };
    from_of(&way.origin)
}

/// The same of a session.
pub(super) fn from_of(origin: &Origin) -> String {
    let by = match origin.evidence {
        None | Some(Evidence::Socket) => String::new(),
        Some(evidence) => format!(" by {}", evidence.name().replace('_', " ")),
    };
    origin.inbound.map(|tuple| format!(" from {}{by}", tuple.remote.ip())).unwrap_or_default()
}

/// Our end is unknown where an audit record alone told of it.
fn ends(connection: &Connection) -> String {
    let ours = connection.tuple.local;
    let ours = if ours.port() == 0 { "?".to_owned() } else { ours.to_string() };
    let transport = match connection.transport {
        Transport::Tcp | Transport::Untold => "",
        Transport::Udp => "/udp",
    };
    match connection.direction {
        Direction::Egress => format!("{ours} → {}{transport}", connection.tuple.remote),
        Direction::Ingress => format!("{} → {ours}{transport}", connection.tuple.remote),
    }
}

/// `ssh[4242] ← bash[4100] ← systemd[1]`.
fn chain(attribution: &Attribution, most: usize) -> String {
    let lineage = match attribution {
        Attribution::Unknown(reason) => return format!("owner unknown ({})", reason.name()),
        Attribution::Owned { lineage, .. } => lineage,
        Attribution::Recorded(recorded) => return recorded_chain(&recorded.told(), most),
        Attribution::Audited { asker, .. } => match asker.as_ref() {
            Asker::Living(lineage) => lineage,
            Asker::Departed(departed) => return departed_chain(departed, most),
        },
    };
    chain_of(lineage, most)
}

/// The same of a process.
pub(super) fn chain_of(lineage: &Lineage, most: usize) -> String {
    let link = |process: &Process| format!("{}[{}]", word(&process.comm), process.pid);
    let ancestry = lineage.ancestry.iter().map(|process| link(process));
    let links = [link(&lineage.process)].into_iter().chain(ancestry).collect();
    join(links, most.min(LINKS), lineage.cut.is_some())
}

fn link(process: &Process) -> String {
    format!("{}[{}]", word(&process.comm), process.pid)
}

fn departed_chain(departed: &Departed, most: usize) -> String {
    let mut links = vec![format!("{}[{}]", word(&departed.comm), departed.pid)];
    let parent = departed.parent.iter();
    links.extend(parent.flat_map(|p| [&p.process].into_iter().chain(&p.ancestry)).map(|p| link(p)));
    join(links, most, departed.parent.as_ref().is_none_or(|parent| parent.cut.is_some()))
}

/// Links from the owner upwards, the middle left out where there are too many.
fn join(mut links: Vec<String>, most: usize, is_cut: bool) -> String {
    if most == 1 {
        return links.drain(..1).collect();
    }
    if links.len() > most {
        let last = links.pop().unwrap_or_default();
        links.truncate(most - 1);
        links.extend(["…".to_owned(), last]);
    } else if is_cut {
        links.push("…".to_owned());
    }
    links.join(" ← ")
}

/// The same from what the log has.
fn recorded_who(recorded: &Told) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(|text| word(&unreadable(text)));
    let user = recorded.fields.get("user");
    let id = user.and_then(|user| user.get("id")).and_then(Value::as_str);
    let name = text(user.and_then(|user| user.get("name")));
    let name = name.or_else(|| id.map(|id| format!("uid {}", word(id.as_bytes()))));
    let login = recorded.own.get("login").filter(|login| {
        login.get("uid").and_then(Value::as_u64).is_some_and(|uid| Some(uid.to_string().as_str()) != id)
    });
    let login = login.map(|login| {
        let uid = || login.get("uid").map(|uid| format!("uid {uid}")).unwrap_or_default();
        format!("({})", text(login.get("name")).unwrap_or_else(uid))
    });
    let tty = text(recorded.process("tty").and_then(|tty| tty.get("name")));
    let tty = tty.map(|tty| format!("@{tty}")).unwrap_or_default();
    format!("{}{}{tty}", name.unwrap_or_else(|| "user unknown".to_owned()), login.unwrap_or_default())
}

fn recorded_chain(recorded: &Told, most: usize) -> String {
    let link = |process: &Value| {
        let name = process.get("name").and_then(Value::as_str).unwrap_or_default();
        let pid = process.get("pid").and_then(Value::as_u64).unwrap_or_default();
        format!("{}[{pid}]", word(&unreadable(name)))
    };
    let Some(process) = recorded.fields.get("process").filter(|process| process.get("pid").is_some()) else {
        let attribution = recorded.own.get("attribution").and_then(|attribution| attribution.get("reason"));
        let reason = attribution.and_then(Value::as_str).unwrap_or("not recorded");
        return format!("owner unknown ({})", escape(reason.as_bytes()));
    };
    let ancestry =
        recorded.own.get("ancestry").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let links = [process].into_iter().chain(ancestry).map(link).collect();
    join(links, most, recorded.own.contains_key("ancestry_cut"))
}

fn lost(gap: &Gap) -> String {
    let mut line = format!("gap    {}", gap.cause.replace('_', " "));
    if let Some(count) = gap.count {
        let what = match gap.cause {
            "read_failed" => "failed poll",
            "events_lost" => "lost notice",
            "opens_missed" => "missed open",
            "executions_missed" => "missed program",
            "files_unwatched" => "folder",
            _ => "lost record",
        };
        let _ = write!(line, ": {}", counted(count, what));
    }
    if gap.to > gap.from {
        let _ = write!(line, ", for {}", lasting(gap.to.boot.saturating_sub(gap.from.boot)));
    }
    if let Some(detail) = &gap.detail {
        let _ = write!(line, ": {}", escape(detail.as_bytes()));
    }
    line
}

/// A name as one word: quoted as a shell would where it is none.
#[must_use]
pub fn word(name: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-+./:=@%,^".contains(&b);
    if !name.is_empty() && name.iter().all(|byte| plain(*byte)) {
        return String::from_utf8_lossy(name).into_owned();
    }
    let text = escape(name);
    match text.bytes().all(plain) && !text.is_empty() {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Arguments as a shell would take them.
#[must_use]
pub fn command_line(args: &[Vec<u8>]) -> String {
    let mut line = String::with_capacity(args.iter().map(|arg| arg.len() + 1).sum());
    for (place, arg) in args.iter().enumerate() {
        if place > 0 {
            line.push(' ');
        }
        line.push_str(&word(arg));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pass_for_several_words() {
        assert_eq!(word(b"ssh"), "ssh");
        assert_eq!(word(b""), "''");
        assert_eq!(word(b"x[1] y"), "'x[1] y'");
        assert_eq!(word(b"it's"), r"'it'\''s'");
        assert_eq!(word("a ← b\n".as_bytes()), r"'a \u{2190} b\u{a}'");
    }
}
