//! Ways as JSON: one object a line, hops within hops; portreeve(8) lists the members.
//! Written piece by piece: a way may be deeper than any stack. Printable ASCII only, as the log is.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::join::{Entry, Forest, Kind, Proof};
use super::model::{Conn, Link, Name, Names, Origin, Party, Rider};
use super::phrase;
use super::record::show_id;
use crate::report::printer::to_ascii_json;
use crate::report::words::rfc3339;

/// Writes one way.
///
/// # Errors
/// What the output says.
pub(crate) fn write(forest: &Forest<'_>, root: usize, out: &mut dyn Write) -> io::Result<()> {
    let Some(entry) = forest.entries.get(root) else { return Ok(()) };
    let way = json!({ "time": rfc3339(entry.earliest), "entry": entry_fields(forest, entry) });
    open(out, &way)?;
    let mut steps: Vec<Step<'_>> = vec![Step::Text("]}\n")];
    push(&mut steps, &entry.hops);
    while let Some(step) = steps.pop() {
        match step {
            Step::Text(text) => out.write_all(text.as_bytes())?,
            Step::Hop(hop) => {
                open(out, &hop_fields(forest, hop))?;
                steps.push(Step::Text("]}"));
                let next: Vec<_> =
                    forest.arrivals(hop).flat_map(|entry| entry.hops.iter().copied()).collect();
                push(&mut steps, &next);
            }
        }
    }
    Ok(())
}

enum Step<'m> {
    Hop(&'m Conn),
    Text(&'static str),
}

fn push<'m>(steps: &mut Vec<Step<'m>>, hops: &[&'m Conn]) {
    for (number, hop) in hops.iter().enumerate().rev() {
        steps.push(Step::Hop(hop));
        if number > 0 {
            steps.push(Step::Text(","));
        }
    }
}

/// Everything of an object but its last member, the hops, which stays open.
fn open(out: &mut dyn Write, fields: &Value) -> io::Result<()> {
    let text = fields.to_string();
    let text = to_ascii_json(text.strip_suffix('}').unwrap_or_default());
    write!(out, "{text},\"hops\":[")
}

/// Members that have a value.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let known = members.into_iter().filter(|(_, value)| !value.is_null());
    known.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
}

fn text(names: &Names, name: Option<Name>) -> Value {
    names.get(name).map_or(Value::Null, |text| text.into())
}

fn texts(names: &Names, all: &[Name]) -> Value {
    if all.is_empty() { Value::Null } else { all.iter().map(|name| names.text(*name)).collect() }
}

fn end(end: Option<std::net::SocketAddr>) -> Value {
    end.map_or(Value::Null, |end| json!({ "ip": end.ip().to_string(), "port": end.port() }))
}

fn entry_fields(forest: &Forest<'_>, entry: &Entry<'_>) -> Value {
    let names = &forest.model.names;
    let kind = match entry.kind {
        Kind::Ssh => "ssh",
        Kind::Terminal => "local_tty",
        Kind::Cron => "cron",
        Kind::Service => "service",
        Kind::Container => "container",
        Kind::Unknown => "unknown",
        Kind::Untold => "untold",
    };
    let origin = entry.origin;
    let login = entry.party.and_then(|party| party.who.login.or(party.who.name));
    let tty = origin.and_then(|origin| origin.tty).or_else(|| entry.party?.who.tty);
    let over: BTreeSet<_> = forest.riders_elsewhere(entry).map(|rider| show_id(rider.on)).collect();
    let over: Vec<_> = over.into_iter().collect();
    let maybe: Vec<_> = entry.maybe.iter().map(|hop| show_id(hop.id)).collect();
    object([
        ("kind", kind.into()),
        ("host", forest.model.host_name(entry.host).into()),
        ("ip", entry.remote_ip().map_or(Value::Null, |ip| ip.to_string().into())),
        ("port", entry.remote().map_or(Value::Null, |end| end.port().into())),
        ("user", text(names, origin.and_then(|origin| origin.user).or(login))),
        ("tty", text(names, tty)),
        ("session", text(names, origin.and_then(|origin| origin.session))),
        ("unit", text(names, entry.party.and_then(|party| party.unit))),
        ("id", entry.inbound.map_or(Value::Null, |conn| show_id(conn.id).into())),
        ("may_come_from", if maybe.is_empty() { Value::Null } else { maybe.into() }),
        ("sessions_over", if over.is_empty() { Value::Null } else { over.into() }),
        ("circle", if entry.is_cut { true.into() } else { Value::Null }),
    ])
}

fn hop_fields(forest: &Forest<'_>, hop: &Conn) -> Value {
    let names = &forest.model.names;
    let mut fields = object([
        ("id", show_id(hop.id).into()),
        ("host", forest.model.host_name(forest.model.host_of(hop)).into()),
        ("start", hop.start.map_or(Value::Null, |at| rfc3339(at).into())),
        ("first_record", rfc3339(hop.first).into()),
        ("end", hop.end.map_or(Value::Null, |at| rfc3339(at).into())),
        ("duration_us", phrase::lasted(hop).map_or(Value::Null, Value::from)),
        ("reason", text(names, hop.reason)),
        ("state", text(names, hop.state)),
        ("source", end(hop.source)),
        ("destination", end(hop.destination)),
        ("domain", text(names, hop.domain)),
        ("route", text(names, hop.route)),
        ("listening", texts(names, &hop.listening)),
        ("bytes_out", hop.bytes_out().map_or(Value::Null, Value::from)),
        ("bytes_in", hop.bytes_in().map_or(Value::Null, Value::from)),
        ("bytes_exact", hop.is_bytes_exact.map_or(Value::Null, Value::from)),
        ("arrived", arrived(forest, hop)),
        ("may_continue", may_continue(forest, hop)),
        ("sessions", sessions(forest, hop)),
    ]);
    if let (Some(fields), Value::Object(party)) = (fields.as_object_mut(), party(names, &hop.party)) {
        fields.extend(party);
    }
    fields
}

/// Which host it reached, and what proves it.
fn arrived(forest: &Forest<'_>, hop: &Conn) -> Value {
    let Some(entry) = forest.arrivals(hop).next() else { return Value::Null };
    let proof = match entry.proof {
        Some(Proof::Records) => "inbound_records",
        _ => "origin",
    };
    object([
        ("host", forest.model.host_name(entry.host).into()),
        ("proof", proof.into()),
        ("id", entry.inbound.map_or(Value::Null, |conn| show_id(conn.id).into())),
    ])
}

fn may_continue(forest: &Forest<'_>, hop: &Conn) -> Value {
    let entries = forest.may_continue(hop).map(|entry| {
        object([
            ("host", forest.model.host_name(entry.host).into()),
            ("remote", end(entry.remote())),
            ("id", entry.inbound.map_or(Value::Null, |conn| show_id(conn.id).into())),
        ])
    });
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() { Value::Null } else { entries.into() }
}

fn sessions(forest: &Forest<'_>, hop: &Conn) -> Value {
    let names = &forest.model.names;
    let one = |(rider, is_other): (&Rider, bool)| {
        let mut fields = object([
            ("time", rfc3339(rider.at).into()),
            ("other_login", if is_other { true.into() } else { Value::Null }),
        ]);
        if let (Some(fields), Value::Object(party)) = (fields.as_object_mut(), party(names, &rider.party)) {
            fields.extend(party);
        }
        fields
    };
    let sessions: Vec<_> = forest.riders(hop).map(one).collect();
    if sessions.is_empty() { Value::Null } else { sessions.into() }
}

/// Who, by which processes, from where.
fn party(names: &Names, party: &Party) -> Value {
    let link = |link: &Link| {
        object([
            ("pid", link.pid.into()),
            ("name", text(names, Some(link.name))),
            ("user", text(names, link.user)),
        ])
    };
    let processes: Vec<_> = party.chain.iter().map(link).collect();
    let ssh = party.ssh.as_deref();
    let forward = |(option, typed): &(&str, Name)| format!("{option} {}", names.text(*typed));
    let forwards: Vec<_> = ssh.iter().flat_map(|ssh| ssh.forwards.iter()).map(forward).collect();
    object([
        ("user", text(names, party.who.name.or(party.who.id))),
        ("login", text(names, party.who.login.or(party.who.login_id))),
        ("tty", text(names, party.who.tty)),
        ("processes", if processes.is_empty() { Value::Null } else { processes.into() }),
        ("owner_unknown", if party.chain.is_empty() { text(names, party.unknown) } else { Value::Null }),
        ("command_line", text(names, party.command)),
        ("target", text(names, ssh.and_then(|ssh| ssh.target))),
        ("jump", ssh.map_or(Value::Null, |ssh| texts(names, &ssh.jump))),
        ("forwards", if forwards.is_empty() { Value::Null } else { forwards.into() }),
        ("tool", text(names, ssh.and_then(|ssh| ssh.tool))),
        ("subsystem", text(names, ssh.and_then(|ssh| ssh.subsystem))),
        ("origin", party.origin.as_deref().map_or(Value::Null, |own| origin(names, own))),
    ])
}

fn origin(names: &Names, origin: &Origin) -> Value {
    object([
        ("kind", text(names, origin.kind)),
        ("ip", origin.ip.map_or(Value::Null, |ip| ip.to_string().into())),
        ("port", origin.port.map_or(Value::Null, Value::from)),
        ("evidence", text(names, origin.evidence)),
    ])
}
