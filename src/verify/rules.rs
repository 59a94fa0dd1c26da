//! The rules: what holds in every log that portreeve wrote and nobody changed.
//! Knows nothing of how each is checked; docs/VERIFY.md has the same words, and `tests/verify` sees to that.

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What must hold.
    pub says: &'static str,
    /// What is no violation although it looks like one; empty if nothing is.
    pub excuse: &'static str,
}

const fn rule(says: &'static str, excuse: &'static str) -> Rule {
    Rule { says, excuse }
}

/// V1 is the first.
#[rustfmt::skip]
pub const RULES: [Rule; 46] = [
    rule("Every line ends in a line feed.", "The last line of the newest file; that of a file behind which a run begins after one that was cut off; a torn line that the `log-repaired` behind it names by its offset and bytes."),
    rule("A line holds printable ASCII only.", "Such a torn line, here and up to V6."),
    rule("A line has at most 16,384 bytes, its end included.", ""),
    rule("A line is one JSON object, nested at most eight levels deep, with no key twice in one object.", ""),
    rule("A record has the fields of its kind, all that it must have and no other, of their types and from their closed sets of words.", "Records of an `agent.version` later than the verifier's may have more."),
    rule("`chain` is the last member, `event` the last but one, and `event.sequence` the last of that.", ""),
    rule("No sequence number stands twice in a stream.", ""),
    rule("Sequence numbers rise by one.", "The first of the set may be greater than 1: older files are absent."),
    rule("Every file and every run begins with `log-opened`, and its `continues` is the place of the record before it.", "A log that was taken from standard output has none."),
    rule("Files do not overlap: the first number of one comes behind the last of the one before.", "A compressed copy beside its original, told by its name and first line."),
    rule("A stream behind another begins with `watch-started` whose `stream` is `new` or `lost`; within a stream it is `continued`.", ""),
    rule("A run begins with `watch-started`; before it stand only `log-opened`, `log-repaired` and the gap `log_truncated`.", "The run in which the set begins."),
    rule("Runs and streams do not interleave: none goes on after another began.", ""),
    rule("`watch-stopped` is its run's last record but for one `seal`.", ""),
    rule("A run that ended with `watch-stopped` is followed by `previous_end` `clean`, one without by `unclean`.", "The newest run; a run that is in another stream."),
    rule("`watch-started` tells capabilities, user, owners, source, notices, namespaces, ports and interval.", "Settings that were left out for length, which `portreeve.truncated` tells."),
    rule("Boot id, host name and version stay the same in a run.", ""),
    rule("`portreeve.boottime_us` never falls within a boot.", ""),
    rule("Connection ids rise strictly in the order of the opens of a stream.", ""),
    rule("The time in an id is its record's, to 2 seconds.", "What `clock-stepped` told of the boot; a gap in which nothing was read; `log-opened` and its like, which are told late."),
    rule("A time that is more than a second before an earlier one of the run comes with `clock-stepped`.", "A record about the file, which comes before all others in it."),
    rule("Coverage is told every 90 seconds at least, by CLOCK_BOOTTIME.", "The time that gaps `stalled`, `suspended`, `read_failed` and `backlog_full` cover."),
    rule("An interval's end is not before its beginning: `gap`, `coverage`, `event.start` and `event.end`.", "Backward steps that `clock-stepped` told."),
    rule("A connection id is opened once.", "A set that begins within a stream."),
    rule("A connection is closed at most once.", ""),
    rule("Changes, sessions that ride on it and closes come between a connection's open and its close, and tell the same ends as the open.", "An open that was lost in a gap `backlog_full`, by the time in the id; one from before the set."),
    rule("No two open connections are the same socket: same namespace, transport, ends and direction.", "A close that was lost in a gap `backlog_full`."),
    rule("Of two connections with the same namespace and ends, the earlier was last seen before the later began.", "Backward steps that `clock-stepped` told."),
    rule("An open's remote port is one of the run's, as `watch-started` or `watch-reloaded` told last.", "A run whose settings are not known, or that follows SSH anywhere; an inbound session."),
    rule("`while_down` ends only what an earlier run of the same boot opened.", "Boots without an id."),
    rule("`reboot` ends only what an earlier boot opened; after a boot all of that ends so, before anything is opened.", "Boots without an id."),
    rule("A duration is there where `event.start` is, and not longer than from first sight to the record of the close.", "`while_down` and `reboot` may have none."),
    rule("A connection was last seen before it was gone, and gone before that was told.", "Backward steps that `clock-stepped` told."),
    rule("An unknown owner has a reason and no pid, a known one a pid and no reason.", ""),
    rule("An open without an inode was seen by `destroy`, `time_wait`, `syn`, `nflog`, `audit` or `ebpf`.", ""),
    rule("An outcome fits its state or its reason, that of a UDP flow is unknown until its end tells that something was received, that of what has no transport unless it failed, and nothing fails that was established.", ""),
    rule("No ancestor is younger than its child, by more than a second; none stands twice; there are at most 32; the first is the parent.", ""),
    rule("`coverage.live` is how many connections the log has open.", "As many more or less as a gap `backlog_full` lost opens and closes; the first coverage of a set that begins within a stream."),
    rule("`coverage.opens` and `.closes` count the records since the coverage before.", "As many more as a gap `backlog_full` lost."),
    rule("The totals of `watch-stopped` count the records of its run: opens, closes, what is open, what was lost.", "As many more as a gap `backlog_full` lost."),
    rule("The totals of `watch-stopped` are the sums of its run's coverage records: polls, reads, lookups, failures, the kernel's opens, missed, incomparable, lost notices.", "A run whose coverage records are not all there."),
    rule("Between two looks passed no more than eleven intervals or a second and one.", "A gap `stalled` or `suspended` in that span."),
    rule("`chain` is the SHA-256 of the chain before and the record.", "The first record behind a hole."),
    rule("A seal names a record before it by its chain; epochs rise by one; a repeated seal is the same; in a run they are at most two minutes apart; with the secret, key and mac are right, and there is one at least.", "Time that gaps cover."),
    rule("With `--expect-live`: the newest coverage or seal is at most two minutes old; with the secret, the newest seal that it proves.", ""),
    rule("With `--anchor`: the record of that number has that chain.", ""),
];
