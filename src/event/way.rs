//! From where and through what, in the schema's names.

use serde_json::{Map, Value, json};

use super::ascii::readable;
use super::community::community_id;
use super::record::{Cut, Members, set};
use crate::connection::Transport;
use crate::ssh::{Forwards, Meaning, Route};
use crate::way::{Origin, Way};

/// Places all that is known of a way but where it begins.
pub(super) fn tell(record: &mut Members, way: &Way, cut: Cut) {
    let Way { origin: _, route, ssh, is_ssh, listening } = way;
    if let Some(route) = route {
        record.own("route", json!(route.name()));
    }
    // What is forwarded may be anything.
    if *is_ssh && *route != Some(Route::Forwarded) {
        record.add("network", "protocol", json!("ssh"));
    }
    if let Some(meaning) = ssh {
        if let Some(name) = &meaning.destination {
            tell_destination(record, &readable(bounded(name, cut)));
        }
        let fields = ssh_fields(meaning, cut);
        if !fields.is_empty() {
            record.own("ssh", Value::Object(fields));
        }
    }
    if !listening.is_empty() {
        let everywhere = listening.iter().any(|end| end.ip().is_unspecified());
        let addresses: Vec<_> = listening.iter().map(ToString::to_string).collect();
        record.own("listening", json!({ "addresses": addresses, "all_interfaces": everywhere }));
    }
}

/// The session behind a process.
pub(super) fn tell_origin(record: &mut Members, origin: &Origin) {
    record.own("origin", origin_fields(origin));
    if let Some(kind) = origin.kind.entry() {
        let mut meta = json!({ "type": kind });
        set(&mut meta, "source", origin.inbound.map(|tuple| json!({ "ip": tuple.remote.ip().to_string() })));
        record.add("process", "entry_leader", json!({ "entry_meta": meta }));
    }
}

/// The name that the user typed for the other end.
fn tell_destination(record: &mut Members, name: &str) {
    record.add("destination", "domain", json!(name));
    record.own("destination_name", json!({ "source": "ssh_argument" }));
}

fn origin_fields(origin: &Origin) -> Value {
    let Origin { kind, evidence, inbound, user, tty, session, server, connection } = origin;
    let mut fields = json!({ "kind": kind.name() });
    set(&mut fields, "evidence", evidence.map(|evidence| json!(evidence.name())));
    if let Some(tuple) = inbound {
        set(&mut fields, "ip", Some(json!(tuple.remote.ip().to_string())));
        set(&mut fields, "port", Some(json!(tuple.remote.port())));
        set(&mut fields, "local_ip", Some(json!(tuple.local.ip().to_string())));
        set(&mut fields, "local_port", Some(json!(tuple.local.port())));
        set(&mut fields, "community_id", community_id(Transport::Tcp, tuple).map(|id| json!(id)));
    }
    set(&mut fields, "user", user.as_ref().map(|user| json!(readable(user))));
    set(&mut fields, "tty", tty.as_ref().map(|tty| json!(readable(tty))));
    set(&mut fields, "session", session.as_ref().map(|session| json!(session)));
    set(&mut fields, "sshd_pid", server.map(|pid| json!(pid)));
    set(&mut fields, "connection_id", connection.map(|id| json!(id.to_string())));
    fields
}

fn ssh_fields(meaning: &Meaning, cut: Cut) -> Map<String, Value> {
    let mut fields = json!({});
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| json!(readable(bounded(bytes, cut))));
    set(&mut fields, "target", text(&meaning.target));
    set(&mut fields, "login", text(&meaning.login));
    set(&mut fields, "port", meaning.port.map(|port| json!(port)));
    set(&mut fields, "subsystem", text(&meaning.subsystem));
    set(&mut fields, "tool", meaning.tool.map(|tool| json!(tool)));
    set(&mut fields, "control_path", text(&meaning.control_path));
    set(&mut fields, "multiplexed", meaning.multiplexed.then_some(json!(true)));
    if cut < Cut::Arguments {
        set(&mut fields, "jump", texts(&meaning.jump));
        let Forwards { local, remote, dynamic, stdio, tunnel } = &meaning.forwards;
        let mut forwards = json!({});
        let kinds = [
            ("local", local),
            ("remote", remote),
            ("dynamic", dynamic),
            ("stdio", stdio),
            ("tunnel", tunnel),
        ];
        for (name, kind) in kinds {
            set(&mut forwards, name, texts(kind));
        }
        set(&mut fields, "forwards", Some(forwards).filter(|forwards| *forwards != json!({})));
    }
    fields.as_object().cloned().unwrap_or_default()
}

fn texts(all: &[Vec<u8>]) -> Option<Value> {
    let readable = |text: &Vec<u8>| readable(text).into_owned();
    (!all.is_empty()).then(|| json!(all.iter().map(readable).collect::<Vec<_>>()))
}

/// No name that a machine can have is longer than this.
fn bounded(bytes: &[u8], cut: Cut) -> &[u8] {
    let most = if cut < Cut::Arguments { usize::MAX } else { 128 };
    bytes.get(..most.min(bytes.len())).unwrap_or_default()
}

/// The members of what a former run told that stand in fields of the connection.
pub(super) fn recite(record: &mut Members, domain: Option<Value>) {
    if let Some(domain) = domain.filter(Value::is_string) {
        record.add("destination", "domain", domain);
    }
    let route = record.get_own("route").and_then(Value::as_str);
    if route.is_some_and(|route| route != "other" && route != "proxy_command" && route != "forwarded") {
        record.add("network", "protocol", json!("ssh"));
    }
}
