//! SIGHUP reads the configuration again: a good one is taken over, a wrong one changes nothing.

use rustix::process::Signal;
use serde_json::json;

use crate::lab;
use crate::support::log::{assert_fields, with_action};

#[test]
fn a_new_selection_ends_what_it_leaves_out_and_opens_what_stands_and_a_wrong_one_changes_nothing() {
    let lab = lab!();
    let (ssh, other) = (lab.listen("127.0.0.1:22"), lab.listen("127.0.0.1:2222"));
    let config = lab.path("portreeve.toml");
    let mut watch = lab.watch(&[]);
    let _first = (lab.connect("127.0.0.1:22"), ssh.accept().unwrap());
    let _second = (lab.connect("127.0.0.1:2222"), other.accept().unwrap());
    assert_fields(&watch.wait_opened(), &json!({ "destination.port": 22 }));

    std::fs::write(&config, "ports = '2222'\ninterval = '20ms'\n").unwrap();
    watch.signal(Signal::HUP);
    let reloaded = watch.wait_actions("watch-reloaded", 1).remove(0);
    assert_fields(
        &reloaded,
        &json!({ "event.outcome": "success", "portreeve.watch.changed": ["ports", "interval"] }),
    );
    let closed = json!({
        "destination.port": 22, "portreeve.close.reason": "out_of_scope", "event.outcome": "unknown",
    });
    assert_fields(&watch.wait_closed(), &closed);
    let opened = watch.wait_actions("connection-opened", 2).remove(1);
    assert_fields(&opened, &json!({ "destination.port": 2222, "portreeve.connection.seen": "start" }));

    std::fs::write(&config, "prots = '22'\n").unwrap();
    watch.signal(Signal::HUP);
    let refused = watch.wait_actions("watch-reloaded", 2).remove(1);
    assert_fields(&refused, &json!({ "event.outcome": "failure" }));
    let why = refused["portreeve"]["watch"]["error"].as_str().unwrap();
    assert!(why.contains("line 1") && why.contains("prots"), "{why}");
    assert_eq!(with_action(&watch.stop().records, "connection-closed").len(), 1, "the old selection holds");
}
