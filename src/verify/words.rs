//! Fields whose values are a closed set: part of V5.
//! Knows which words portreeve-events(5) names, not what follows from them.

use super::fields::on;
use super::record::{ACTIONS, Record, f};

/// Words that a field may hold.
type Words = &'static [&'static str];

const STATES: Words = &[
    "syn_sent",
    "established",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close_wait",
    "last_ack",
    "closing",
    "close",
    "syn_recv",
    "listen",
    "new_syn_recv",
    "unknown",
];
const SEEN: Words = &["poll", "start", "syn", "nflog", "audit", "time_wait", "destroy", "ebpf"];
const STATUSES: Words = &["owned", "shared", "unknown"];
const WHY_UNKNOWN: Words =
    &["no_holder", "in_flight", "holder_vanished", "denied", "timeout", "time_wait", "budget"];
const TRANSPORTS: Words = &["tcp", "udp"];
const NO_HASH: Words =
    &["pending", "denied", "too_large", "vanished", "timeout", "changed", "busy", "failed"];
const DIRECTIONS: Words = &["egress", "ingress"];
const ROUTES: Words = &["direct", "jump", "proxy_command", "forwarded", "mux_master", "other"];
const ORIGINS: Words = &["ssh", "local_tty", "cron", "service", "container", "unknown"];
const EVIDENCES: Words = &["socket", "audit_session", "cgroup_session", "remembered", "title", "environment"];
const REASONS: Words = &[
    "closed",
    "reset",
    "refused",
    "timed_out",
    "unreachable",
    "failed",
    "cancelled",
    "idle",
    "out_of_scope",
    "while_down",
    "reboot",
];
const WITNESSES: Words = &["fanotify", "inotify", "listing"];
const UNSEEN: Words = &["not_told", "vanished"];
const FILE_TYPES: Words = &[
    "[\"creation\"]",
    "[\"change\"]",
    "[\"deletion\"]",
    "[\"creation\",\"change\"]",
    "[\"creation\",\"deletion\"]",
    "[\"change\",\"deletion\"]",
    "[\"creation\",\"change\",\"deletion\"]",
];
const FATES: Words = &["exited", "killed", "executed", "unknown"];
/// Causes of gaps.
pub const CAUSES: Words = &[
    "backlog_full",
    "log_truncated",
    "read_failed",
    "events_lost",
    "events_failed",
    "source_failed",
    "opens_missed",
    "executions_missed",
    "files_unwatched",
    "events_off",
    "netns_unreadable",
    "stalled",
    "not_watching",
    "suspended",
    "table_full",
    "attribution_lost",
    "sync_failed",
    "state_failed",
];

/// Fields that need not be there, and what they may hold where they are.
const WHERE_PRESENT: [(usize, Words); 9] = [
    (f::WHY_UNKNOWN, WHY_UNKNOWN),
    (f::TRANSPORT, TRANSPORTS),
    (f::DIRECTION, DIRECTIONS),
    (f::ROUTE, ROUTES),
    (f::ORIGIN, ORIGINS),
    (f::EVIDENCE, EVIDENCES),
    (f::NO_HASH, NO_HASH),
    (f::UNSEEN, UNSEEN),
    (f::OWNER_EVIDENCE, &["audit"]),
];

/// What an action's `event.kind`, `.category`, `.type` and `.dataset` are.
fn labels(action: usize) -> [&'static str; 4] {
    let kinds = match ACTIONS.get(action).copied().unwrap_or_default() {
        "watch-started" => ["state", "[\"start\"]"],
        "watch-stopped" => ["state", "[\"end\"]"],
        "watch-reloaded" => ["state", "[\"change\"]"],
        "connection-opened" => ["event", "[\"connection\",\"start\"]"],
        "connection-changed" => ["event", "[\"connection\",\"change\"]"],
        "connection-closed" => ["event", "[\"connection\",\"end\"]"],
        "process-started" => ["event", "[\"start\"]"],
        "process-ended" => ["event", "[\"end\"]"],
        "session-multiplexed" => ["event", "[\"start\"]"],
        "gap" => ["state", "[\"error\"]"],
        "coverage" => ["metric", "[\"info\"]"],
        _ => ["state", "[\"info\"]"],
    };
    let [kind, types] = kinds;
    if ACTIONS.get(action) == Some(&"file-changed") {
        ["event", "[\"file\"]", "", "portreeve.file"]
    } else if ACTIONS.get(action).is_some_and(|action| action.starts_with("process-")) {
        [kind, "[\"process\"]", types, "portreeve.process"]
    } else if types == "[\"start\"]" && kind == "event" {
        [kind, "[\"session\"]", types, "portreeve.connection"]
    } else if kind == "event" {
        [kind, "[\"network\"]", types, "portreeve.connection"]
    } else {
        [kind, "[\"host\"]", types, "portreeve.watch"]
    }
}

fn is_type(record: &Record<'_>, types: &str) -> bool {
    match types {
        "" => record.text(f::TYPE).is_some_and(|types| FILE_TYPES.iter().any(|one| one.as_bytes() == types)),
        types => record.is(f::TYPE, types),
    }
}

/// What is said of the first field that holds a word which it may not.
pub fn check(record: &Record<'_>, action: usize) -> Option<String> {
    let wrong = |field: usize| {
        let name = super::fields::FIELDS.get(field).map_or("", |field| field.path);
        Some(format!("{name} is {}", record.quote(field)))
    };
    let [kind, category, types, dataset] = labels(action);
    let fixed = [
        (f::AGENT, "portreeve"),
        (f::PROVIDER, "portreeve"),
        (f::SCHEMA, "1"),
        (f::KIND, kind),
        (f::CATEGORY, category),
        (f::DATASET, dataset),
    ];
    if let Some((field, _)) = fixed.into_iter().find(|(field, word)| !record.is(*field, word)) {
        return wrong(field);
    }
    if !is_type(record, types) {
        return wrong(f::TYPE);
    }
    let mut open: [(usize, Words); 5] = [(f::OUTCOME, &["success", "failure", "unknown"]); 5];
    let rest: &[(usize, Words)] = match record.action {
        on::OPEN | on::CHANGE | on::SESSION => &[(f::STATE, STATES), (f::SEEN, SEEN), (f::STATUS, STATUSES)],
        on::CLOSE => {
            &[(f::STATE, STATES), (f::SEEN, SEEN), (f::STATUS, STATUSES), (f::CLOSE_REASON, REASONS)]
        }
        on::TOUCHED => &[(f::WITNESS, WITNESSES)],
        on::ENDED => &[(f::FATE, FATES)],
        on::GAP => &[(f::CAUSE, CAUSES)],
        _ => &[],
    };
    open.iter_mut().skip(1).zip(rest).for_each(|(place, words)| *place = *words);
    let is_known = |(field, words): &&(usize, Words)| {
        let text = record.text(*field).unwrap_or_default();
        words.iter().any(|word| word.as_bytes() == text)
    };
    if let Some((field, _)) = open.iter().find(|pair| !is_known(pair)) {
        return wrong(*field);
    }
    let is_strange = |(field, words): &&(usize, Words)| {
        record.text(*field).is_some_and(|text| !words.iter().any(|word| word.as_bytes() == text))
    };
    if let Some((field, _)) = WHERE_PRESENT.iter().find(is_strange) {
        return wrong(*field);
    }
    // An audit record does not tell our own end, and a socket that was never sent anywhere has none.
    let ours = [f::SOURCE_IP, f::SOURCE_PORT, f::COMMUNITY_ID];
    let is_connection = record.action & on::CONN != 0;
    if let Some(field) = ours.into_iter().find(|field| !record.found.present.has(*field))
        && is_connection
        && !record.is(f::SEEN, "audit")
        && !record.is(f::SEEN, "ebpf")
    {
        return super::fields::FIELDS.get(field).map(|field| format!("{} is missing", field.path));
    }
    if record.action == on::CLOSE && record.text(f::EVENT_REASON) != record.text(f::CLOSE_REASON) {
        return wrong(f::EVENT_REASON);
    }
    None
}
