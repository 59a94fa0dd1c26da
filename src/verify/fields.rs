//! Every field that a record may hold: portreeve-events(5) as a table.
//! Knows nothing of bytes or of parsing; `tests/verify` holds it against the page, so that they cannot drift apart.

/// Kinds of records, as bits of a set.
pub mod on {
    /// `watch-started`
    pub const START: u32 = 1;
    /// `watch-stopped`
    pub const STOP: u32 = 1 << 1;
    /// `watch-reloaded`
    pub const RELOAD: u32 = 1 << 2;
    /// `connection-opened`
    pub const OPEN: u32 = 1 << 3;
    /// `connection-changed`
    pub const CHANGE: u32 = 1 << 4;
    /// `connection-closed`
    pub const CLOSE: u32 = 1 << 5;
    /// `gap`
    pub const GAP: u32 = 1 << 6;
    /// `coverage`
    pub const COVER: u32 = 1 << 7;
    /// `log-opened`
    pub const FILE: u32 = 1 << 8;
    /// `log-repaired`
    pub const REPAIR: u32 = 1 << 9;
    /// `clock-stepped`
    pub const STEP: u32 = 1 << 10;
    /// `seal`
    pub const SEAL: u32 = 1 << 11;
    /// `session-multiplexed`
    pub const SESSION: u32 = 1 << 12;
    /// `process-started`
    pub const BEGAN: u32 = 1 << 13;
    /// `process-ended`
    pub const ENDED: u32 = 1 << 14;
    /// `file-changed`
    pub const TOUCHED: u32 = 1 << 15;
    /// What tells of a connection.
    pub const CONN: u32 = OPEN | CHANGE | CLOSE | SESSION;
    /// What tells of a process.
    pub const WHO: u32 = CONN | BEGAN | ENDED | TOUCHED;
    /// All of them.
    pub const ALL: u32 = (1 << 16) - 1;
    /// None of them.
    pub const NO: u32 = 0;
}

use on::{
    ALL, BEGAN, CHANGE, CLOSE, CONN, COVER, ENDED, FILE, GAP, NO, RELOAD, REPAIR, SEAL, START, STEP, STOP,
    TOUCHED, WHO,
};

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A string to compare or to read.
    Text,
    /// An address as a string.
    Ip,
    /// RFC 3339, UTC, ending in `Z`.
    Time,
    /// A whole number from 0, of at most 64 bits.
    Integer,
    /// A whole number that may be below 0.
    Signed,
    /// `true` or `false`.
    Boolean,
    /// An array of strings.
    Texts,
    /// An array of whole numbers from 0.
    Integers,
    /// An object whose members count things by names that are not fixed.
    Counts,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Names joined by dots.
    pub path: &'static str,
    /// What it holds.
    pub kind: Type,
    /// The records that may have it.
    pub may: u32,
    /// The records that must have it.
    pub must: u32,
}

const fn field(path: &'static str, kind: Type, may: u32, must: u32) -> Field {
    Field { path, kind, may, must }
}

/// Holds objects, one of them for each process.
pub const ARRAY_OF_OBJECTS: &str = "portreeve.ancestry";

use Type::{Boolean, Counts, Integer, Integers, Ip, Signed, Text, Texts, Time};

/// The table. Objects are not named: they are where their members are.
#[rustfmt::skip]
pub const FIELDS: &[Field] = &[
    field("@timestamp", Time, ALL, ALL),
    field("message", Text, ALL, ALL),
    field("ecs.version", Text, ALL, ALL),
    field("agent.ephemeral_id", Text, ALL, ALL),
    field("agent.id", Text, ALL, ALL),
    field("agent.type", Text, ALL, ALL),
    field("agent.version", Text, ALL, ALL),
    field("host.boot.id", Text, ALL, NO),
    field("host.name", Text, ALL, ALL),
    field("host.os.full", Text, START, NO),
    field("host.os.kernel", Text, START, NO),
    field("host.os.type", Text, START, START),
    field("container.id", Text, WHO, NO),
    field("container.name", Text, WHO, NO),
    field("container.runtime", Text, WHO, NO),
    field("destination.bytes", Integer, CLOSE, NO),
    field("destination.domain", Text, CONN, NO),
    field("destination.ip", Ip, CONN, CONN),
    field("destination.packets", Integer, CLOSE, NO),
    field("destination.port", Integer, CONN, CONN),
    field("file.directory", Text, TOUCHED, TOUCHED),
    field("file.name", Text, TOUCHED, TOUCHED),
    field("file.path", Text, TOUCHED, TOUCHED),
    field("group.id", Text, WHO, NO),
    field("network.bytes", Integer, CLOSE, NO),
    field("network.community_id", Text, CONN, NO),
    field("network.direction", Text, CONN, CONN),
    field("network.packets", Integer, CLOSE, NO),
    field("network.protocol", Text, CONN, NO),
    field("network.transport", Text, CONN, NO),
    field("network.type", Text, CONN, CONN),
    field("process.args", Texts, WHO, NO),
    field("process.args_count", Integer, WHO, NO),
    field("process.cgroup", Text, WHO, NO),
    field("process.command_line", Text, WHO, NO),
    field("process.entity_id", Text, WHO, BEGAN | ENDED),
    field("process.entry_leader.entry_meta.source.ip", Ip, WHO, NO),
    field("process.entry_leader.entry_meta.type", Text, WHO, NO),
    field("process.executable", Text, WHO, NO),
    field("process.exit_code", Integer, ENDED, NO),
    field("process.hash.sha256", Text, WHO, NO),
    field("process.name", Text, WHO, BEGAN | ENDED),
    field("process.parent.args", Texts, WHO, NO),
    field("process.parent.command_line", Text, WHO, NO),
    field("process.parent.executable", Text, WHO, NO),
    field("process.parent.name", Text, WHO, NO),
    field("process.parent.pid", Integer, WHO, NO),
    field("process.parent.start", Time, WHO, NO),
    field("process.pid", Integer, WHO, BEGAN | ENDED),
    field("process.start", Time, WHO, NO),
    field("process.tty.char_device.major", Integer, WHO, NO),
    field("process.tty.char_device.minor", Integer, WHO, NO),
    field("process.tty.name", Text, WHO, NO),
    field("process.working_directory", Text, WHO, NO),
    field("service.name", Text, WHO, NO),
    field("source.bytes", Integer, CLOSE, NO),
    field("source.ip", Ip, CONN, NO),
    field("source.packets", Integer, CLOSE, NO),
    field("source.port", Integer, CONN, NO),
    field("user.effective.id", Text, WHO, NO),
    field("user.effective.name", Text, WHO, NO),
    field("user.id", Text, WHO, NO),
    field("user.name", Text, WHO, NO),
    field("portreeve.ancestry.command_line", Text, WHO, NO),
    field("portreeve.ancestry.executable", Text, WHO, NO),
    field("portreeve.ancestry.name", Text, WHO, NO),
    field("portreeve.ancestry.pid", Integer, WHO, NO),
    field("portreeve.ancestry.remembered", Boolean, WHO, NO),
    field("portreeve.ancestry.start", Time, WHO, NO),
    field("portreeve.ancestry.user", Text, WHO, NO),
    field("portreeve.ancestry_cut", Text, WHO, NO),
    field("portreeve.args_cut.bytes", Integer, WHO, NO),
    field("portreeve.attribution.evidence", Text, CONN, NO),
    field("portreeve.attribution.holders", Integers, CONN, NO),
    field("portreeve.attribution.latency_us", Integer, CONN, NO),
    field("portreeve.attribution.reason", Text, CONN, NO),
    field("portreeve.attribution.status", Text, CONN, CONN),
    field("portreeve.boottime_us", Integer, ALL, ALL),
    field("portreeve.changed", Texts, CHANGE, CHANGE),
    field("portreeve.clock.by_us", Signed, STEP, STEP),
    field("portreeve.close.bytes_exact", Boolean, CLOSE, NO),
    field("portreeve.close.exact", Boolean, CLOSE, CLOSE),
    field("portreeve.close.gone_by", Time, CLOSE, CLOSE),
    field("portreeve.close.last_seen", Time, CLOSE, NO),
    field("portreeve.close.reason", Text, CLOSE, CLOSE),
    field("portreeve.connection.cookie", Text, CONN, NO),
    field("portreeve.connection.id", Text, CONN, CONN),
    field("portreeve.connection.inode", Integer, CONN, NO),
    field("portreeve.connection.netns", Integer, CONN, NO),
    field("portreeve.connection.seen", Text, CONN, CONN),
    field("portreeve.connection.state", Text, CONN, CONN),
    field("portreeve.coverage.accounted", Integer, COVER, NO),
    field("portreeve.coverage.agrees", Boolean, COVER, NO),
    field("portreeve.coverage.attribution_latency_us.count", Integer, COVER, COVER),
    field("portreeve.coverage.attribution_latency_us.max", Integer, COVER, COVER),
    field("portreeve.coverage.attribution_latency_us.p50", Integer, COVER, COVER),
    field("portreeve.coverage.attribution_latency_us.p99", Integer, COVER, COVER),
    field("portreeve.coverage.closes", Integer, COVER, COVER),
    field("portreeve.coverage.comparable", Boolean, COVER, COVER),
    field("portreeve.coverage.failed_reads", Integer, COVER, COVER),
    field("portreeve.coverage.from", Time, COVER, NO),
    field("portreeve.coverage.kernel.active_opens", Integer, COVER, COVER),
    field("portreeve.coverage.kernel.attempt_fails", Integer, COVER, COVER),
    field("portreeve.coverage.late", Integer, COVER, COVER),
    field("portreeve.coverage.live", Integer, COVER, COVER),
    field("portreeve.coverage.lookups", Integer, COVER, COVER),
    field("portreeve.coverage.lost.audit", Integer, COVER, NO),
    field("portreeve.coverage.lost.destroy", Integer, COVER, NO),
    field("portreeve.coverage.lost.files", Integer, COVER, NO),
    field("portreeve.coverage.lost.nflog", Integer, COVER, NO),
    field("portreeve.coverage.lost.ebpf", Integer, COVER, NO),
    field("portreeve.coverage.lost.proc", Integer, COVER, NO),
    field("portreeve.coverage.lost.syn", Integer, COVER, NO),
    field("portreeve.coverage.missed_at_most", Integer, COVER, NO),
    field("portreeve.coverage.namespaces", Integer, COVER, COVER),
    field("portreeve.coverage.namespaces_left_out", Integer, COVER, COVER),
    field("portreeve.coverage.opens", Integer, COVER, COVER),
    field("portreeve.coverage.poll_interval_us.count", Integer, COVER, COVER),
    field("portreeve.coverage.poll_interval_us.max", Integer, COVER, COVER),
    field("portreeve.coverage.poll_interval_us.p50", Integer, COVER, COVER),
    field("portreeve.coverage.poll_interval_us.p99", Integer, COVER, COVER),
    field("portreeve.coverage.polls", Integer, COVER, COVER),
    field("portreeve.coverage.reads", Integer, COVER, COVER),
    field("portreeve.coverage.seen.audit", Integer, COVER, NO),
    field("portreeve.coverage.seen.destroy", Integer, COVER, NO),
    field("portreeve.coverage.seen.nflog", Integer, COVER, NO),
    field("portreeve.coverage.seen.ebpf", Integer, COVER, NO),
    field("portreeve.coverage.seen.poll", Integer, COVER, NO),
    field("portreeve.coverage.seen.start", Integer, COVER, NO),
    field("portreeve.coverage.seen.syn", Integer, COVER, NO),
    field("portreeve.coverage.seen.time_wait", Integer, COVER, NO),
    field("portreeve.coverage.to", Time, COVER, NO),
    field("portreeve.coverage.unattributed.budget", Integer, COVER, NO),
    field("portreeve.coverage.unattributed.denied", Integer, COVER, NO),
    field("portreeve.coverage.unattributed.holder_vanished", Integer, COVER, NO),
    field("portreeve.coverage.unattributed.in_flight", Integer, COVER, NO),
    field("portreeve.coverage.unattributed.no_holder", Integer, COVER, NO),
    field("portreeve.coverage.unattributed.time_wait", Integer, COVER, NO),
    field("portreeve.coverage.unattributed.timeout", Integer, COVER, NO),
    field("portreeve.coverage.unmatched", Integer, COVER, COVER),
    field("portreeve.denied", Texts, WHO, NO),
    field("portreeve.destination_name.source", Text, CONN, NO),
    field("portreeve.executable_deleted", Boolean, WHO, NO),
    field("portreeve.file.change", Texts, TOUCHED, TOUCHED),
    field("portreeve.file.reason", Text, TOUCHED, NO),
    field("portreeve.file.repeated", Integer, TOUCHED, NO),
    field("portreeve.file.source", Text, TOUCHED, TOUCHED),
    field("portreeve.gap.cause", Text, GAP, GAP),
    field("portreeve.gap.count", Integer, GAP, NO),
    field("portreeve.gap.detail", Text, GAP, NO),
    field("portreeve.gap.from", Time, GAP, GAP),
    field("portreeve.gap.lost", Counts, GAP, NO),
    field("portreeve.gap.to", Time, GAP, GAP),
    field("portreeve.hash.reason", Text, WHO, NO),
    field("portreeve.listening.addresses", Texts, CONN, NO),
    field("portreeve.listening.all_interfaces", Boolean, CONN, NO),
    field("portreeve.log.bytes", Integer, REPAIR, REPAIR),
    field("portreeve.log.continues.chain", Text, FILE, NO),
    field("portreeve.log.continues.sequence", Integer, FILE, NO),
    field("portreeve.log.offset", Integer, REPAIR, REPAIR),
    field("portreeve.log.path", Text, FILE | REPAIR, FILE | REPAIR),
    field("portreeve.log.previous", Text, FILE, NO),
    field("portreeve.login.name", Text, WHO, NO),
    field("portreeve.login.session", Integer, WHO, NO),
    field("portreeve.login.uid", Integer, WHO, NO),
    field("portreeve.origin.community_id", Text, WHO, NO),
    field("portreeve.origin.connection_id", Text, WHO, NO),
    field("portreeve.origin.evidence", Text, WHO, NO),
    field("portreeve.origin.ip", Ip, WHO, NO),
    field("portreeve.origin.kind", Text, WHO, NO),
    field("portreeve.origin.local_ip", Ip, WHO, NO),
    field("portreeve.origin.local_port", Integer, WHO, NO),
    field("portreeve.origin.port", Integer, WHO, NO),
    field("portreeve.origin.session", Text, WHO, NO),
    field("portreeve.origin.sshd_pid", Integer, WHO, NO),
    field("portreeve.origin.tty", Text, WHO, NO),
    field("portreeve.origin.user", Text, WHO, NO),
    field("portreeve.process.connections", Integer, ENDED, ENDED),
    field("portreeve.process.end", Text, ENDED, ENDED),
    field("portreeve.process.signal", Integer, ENDED, NO),
    field("portreeve.redacted", Integer, WHO, NO),
    field("portreeve.remembered", Boolean, CONN, NO),
    field("portreeve.route", Text, CONN, NO),
    field("portreeve.schema", Integer, ALL, ALL),
    field("portreeve.seal.chain", Text, SEAL, SEAL),
    field("portreeve.seal.epoch", Integer, SEAL, SEAL),
    field("portreeve.seal.key", Text, SEAL, SEAL),
    field("portreeve.seal.mac", Text, SEAL, SEAL),
    field("portreeve.seal.sequence", Integer, SEAL, SEAL),
    field("portreeve.seal.time", Time, SEAL, SEAL),
    field("portreeve.ssh.control_path", Text, CONN, NO),
    field("portreeve.ssh.forwards.dynamic", Texts, CONN, NO),
    field("portreeve.ssh.forwards.local", Texts, CONN, NO),
    field("portreeve.ssh.forwards.remote", Texts, CONN, NO),
    field("portreeve.ssh.forwards.stdio", Texts, CONN, NO),
    field("portreeve.ssh.forwards.tunnel", Texts, CONN, NO),
    field("portreeve.ssh.jump", Texts, CONN, NO),
    field("portreeve.ssh.login", Text, CONN, NO),
    field("portreeve.ssh.multiplexed", Boolean, CONN, NO),
    field("portreeve.ssh.port", Integer, CONN, NO),
    field("portreeve.ssh.subsystem", Text, CONN, NO),
    field("portreeve.ssh.target", Text, CONN, NO),
    field("portreeve.ssh.tool", Text, CONN, NO),
    field("portreeve.truncated", Texts, ALL, NO),
    field("portreeve.watch.capabilities", Texts, START, NO),
    field("portreeve.watch.changed", Texts, RELOAD, NO),
    field("portreeve.watch.error", Text, RELOAD, NO),
    field("portreeve.watch.events.audit", Text, START | RELOAD, NO),
    field("portreeve.watch.events.destroy", Text, START | RELOAD, NO),
    field("portreeve.watch.events.files", Text, START | RELOAD, NO),
    field("portreeve.watch.events.nflog", Text, START | RELOAD, NO),
    field("portreeve.watch.events.ebpf", Text, START | RELOAD, NO),
    field("portreeve.watch.events.proc", Text, START | RELOAD, NO),
    field("portreeve.watch.events.syn", Text, START | RELOAD, NO),
    field("portreeve.watch.executable_sha256", Text, START, NO),
    field("portreeve.watch.init_netns", Integer, START, NO),
    field("portreeve.watch.namespaces", Integer, START, START),
    field("portreeve.watch.netns", Integer, START, NO),
    field("portreeve.watch.netns_scope", Text, START, NO),
    field("portreeve.watch.owners", Text, START, NO),
    field("portreeve.watch.previous_end", Text, START, NO),
    field("portreeve.watch.reason", Text, STOP, STOP),
    field("portreeve.watch.settings.audit-log", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.color", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.count", Integer, START | RELOAD, NO),
    field("portreeve.watch.settings.duration", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.events", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.executions", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.exclude", Texts, START | RELOAD, NO),
    field("portreeve.watch.settings.format", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.hash", Boolean, START | RELOAD, NO),
    field("portreeve.watch.settings.ignore-hash", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.inbound", Boolean, START | RELOAD, NO),
    field("portreeve.watch.settings.include", Texts, START | RELOAD, NO),
    field("portreeve.watch.settings.interval", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.log-file", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.mask", Texts, START | RELOAD, NO),
    field("portreeve.watch.settings.netns", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.ports", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.seal", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.source", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.ssh-anywhere", Boolean, START | RELOAD, NO),
    field("portreeve.watch.settings.ssh-files", Boolean, START | RELOAD, NO),
    field("portreeve.watch.settings.state-dir", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.sync", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.transport", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.udp-idle", Text, START | RELOAD, NO),
    field("portreeve.watch.settings.utc", Boolean, START | RELOAD, NO),
    field("portreeve.watch.source", Text, START, NO),
    field("portreeve.watch.source_reason", Text, START, START),
    field("portreeve.watch.stream", Text, START, NO),
    field("portreeve.watch.stream_reason", Text, START, NO),
    field("portreeve.watch.totals.active_opens", Integer, STOP, STOP),
    field("portreeve.watch.totals.closes", Integer, STOP, STOP),
    field("portreeve.watch.totals.doubtful_ends", Integer, STOP, STOP),
    field("portreeve.watch.totals.duplicate_rows", Integer, STOP, STOP),
    field("portreeve.watch.totals.ends_left_out", Integer, STOP, STOP),
    field("portreeve.watch.totals.failed_reads", Integer, STOP, STOP),
    field("portreeve.watch.totals.incomparable", Integer, STOP, STOP),
    field("portreeve.watch.totals.late", Integer, STOP, STOP),
    field("portreeve.watch.totals.live", Integer, STOP, STOP),
    field("portreeve.watch.totals.lookups", Integer, STOP, STOP),
    field("portreeve.watch.totals.lost", Integer, STOP, STOP),
    field("portreeve.watch.totals.missed_at_most", Integer, STOP, STOP),
    field("portreeve.watch.totals.notices_lost", Integer, STOP, STOP),
    field("portreeve.watch.totals.opens", Integer, STOP, STOP),
    field("portreeve.watch.totals.passed", Integer, STOP, STOP),
    field("portreeve.watch.totals.polls", Integer, STOP, STOP),
    field("portreeve.watch.totals.reads", Integer, STOP, STOP),
    field("portreeve.watch.totals.standing_ends", Integer, STOP, STOP),
    field("portreeve.watch.totals.unattributed", Integer, STOP, STOP),
    field("portreeve.watch.totals.unparsed_rows", Integer, STOP, STOP),
    field("portreeve.watch.uid", Integer, START, NO),
    field("portreeve.watch.warnings", Texts, START, START),
    field("event.action", Text, ALL, ALL),
    field("event.kind", Text, ALL, ALL),
    field("event.category", Texts, ALL, ALL),
    field("event.type", Texts, ALL, ALL),
    field("event.outcome", Text, ALL, ALL),
    field("event.reason", Text, CLOSE, CLOSE),
    field("event.start", Time, CONN | ENDED, ENDED),
    field("event.end", Time, CLOSE | ENDED, CLOSE | ENDED),
    field("event.duration", Integer, CLOSE | ENDED, ENDED),
    field("event.id", Text, ALL, ALL),
    field("event.provider", Text, ALL, ALL),
    field("event.dataset", Text, ALL, ALL),
    field("event.sequence", Integer, ALL, ALL),
    field("chain", Text, ALL, ALL),
];

/// Where a field stands in the table; for constants: a name that is not there does not compile.
#[must_use]
pub const fn index_of(path: &str) -> usize {
    let mut index = 0;
    let mut rest: &[Field] = FIELDS;
    while let [first, others @ ..] = rest {
        if same(first.path.as_bytes(), path.as_bytes()) {
            return index;
        }
        index += 1;
        rest = others;
    }
    panic!("no such field")
}

const fn same(mut a: &[u8], mut b: &[u8]) -> bool {
    while let ([x, more_a @ ..], [y, more_b @ ..]) = (a, b) {
        if *x != *y {
            return false;
        }
        (a, b) = (more_a, more_b);
    }
    a.is_empty() && b.is_empty()
}
