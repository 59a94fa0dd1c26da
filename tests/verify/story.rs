//! One log in which everything happens that a log can tell, and none of the rules is broken.

use serde_json::json;

use crate::builder::{File, Line, Maker};

/// What differs from the story as it is.
#[derive(Clone, Copy, Default)]
pub struct Turns {
    /// Seconds in which the second run tells nothing.
    pub silence: f64,
}

/// Three files: a run that is rotated in its middle and ends in order; one that is killed while it writes; one in which
/// the clock is set back; one after a reboot, with a full disk.
pub fn story(turns: Turns) -> Vec<File> {
    let mut maker = Maker::new();
    let m = &mut maker;
    let (a, opened_a) = (m.log_opened(), m.started("new", None));
    let mut first = vec![a, opened_a];
    let (a, open_a) = m.open(1.0, 50_001);
    let (b, open_b) = m.attempt(1.0, 50_002);
    let changed = m.changed(0.1, &b);
    let (c, open_c) = m.open(1.0, 50_003);
    let closed_c = m.closed(1.0, &c, "closed");
    first.extend([open_a, open_b, changed, open_c, closed_c]);
    first.push(m.coverage(56.0, json!({ "opens": 3, "closes": 1, "live": 2 })));
    first.push(m.seal(1.0, 0));
    first.push(m.record(
        1.0,
        "watch-reloaded",
        json!({ "portreeve": { "watch": {
        "changed": ["ports"], "settings": { "ports": "22", "interval": "50ms" },
    } } }),
    ));
    first.push(m.gap(3.0, "stalled", 2.0));
    // The same ends as one before.
    let (d, open_d) = m.open(1.0, 50_003);
    first.extend([open_d, m.closed(1.0, &d, "reset")]);
    first.push(m.coverage(54.0, json!({ "opens": 1, "closes": 1, "live": 2 })));
    first.push(m.seal(1.0, 1));

    let mut second = vec![m.log_opened()];
    let (e, open_e) = m.open(1.0, 50_004);
    second.push(open_e);
    second.push(m.coverage(58.0, json!({ "opens": 1, "live": 3 })));
    second.push(m.seal(1.0, 2));
    second.push(m.stopped(json!({
        "polls": 300, "late": 3, "reads": 6, "lookups": 9, "opens": 5, "closes": 2, "live": 3, "unattributed": 1,
        "active_opens": 12, "missed_at_most": 3, "notices_lost": 3,
    })));
    second.push(m.seal(0.1, 3));

    m.now += 5.0;
    m.restart(0);
    second.extend([m.log_opened(), m.started("continued", Some("clean")), m.gap(0.1, "not_watching", 5.0)]);
    second.push(m.closed(0.1, &a, "while_down"));
    let (f, open_f) = m.open(1.0 + turns.silence, 50_005);
    second.push(open_f);
    second.push(Line::Raw(b"{\"@timestamp\":\"2026-11-20T12:0\n".to_vec()));

    m.now += 5.0;
    m.restart(0);
    second.push(m.log_opened());
    let log = json!({ "path": "/var/log/portreeve/events.jsonl", "offset": null, "bytes": null });
    second.push(m.record(0.001, "log-repaired", json!({ "portreeve": { "log": log } })));
    second.extend([m.started("continued", Some("unclean")), m.gap(0.1, "not_watching", 5.0)]);
    second.push(m.coverage(30.0, json!({ "live": 3 })));
    (m.now, m.boot_offset) = (m.now - 30.0, m.boot_offset + 30.0);
    second.push(m.record(
        0.1,
        "clock-stepped",
        json!({ "portreeve": { "clock": { "by_us": -30_000_000 } } }),
    ));
    second.push(m.closed(0.1, &e, "closed"));
    second.push(m.coverage(1.0, json!({ "closes": 1, "live": 2 })));
    second.push(m.stopped(json!({
        "polls": 200, "late": 2, "reads": 4, "lookups": 6, "closes": 1, "live": 2, "active_opens": 8,
        "missed_at_most": 2, "notices_lost": 2,
    })));

    m.now += 50.0;
    m.restart(1);
    let mut third =
        vec![m.log_opened(), m.started("continued", Some("clean")), m.gap(0.1, "not_watching", 50.0)];
    third.extend([m.closed(0.1, &b, "reboot"), m.closed(0.1, &f, "reboot")]);
    third.push(m.open(1.0, 50_006).1);
    let (lost, _) = m.open(1.0, 50_007);
    let mut gap = m.gap(0.5, "backlog_full", 0.7);
    if let Line::Record(gap) = &mut gap {
        gap["portreeve"]["gap"]["count"] = json!(1);
        gap["portreeve"]["gap"]["lost"] = json!({ "connection-opened": 1 });
    }
    third.extend([gap, m.closed(0.5, &lost, "closed")]);
    third.push(m.coverage(57.0, json!({ "opens": 2, "closes": 3, "live": 1 })));
    vec![first, second, third]
}
