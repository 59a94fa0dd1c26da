//! A running watch that is showered with signals, and which program it is.

use rustix::process::Signal;

use crate::lab;
use crate::support::log::with_action;
use crate::support::watch::PORTREEVE;

#[test]
fn a_storm_of_signals_ends_nothing() {
    let lab = lab!();
    let server = lab.listen("127.0.0.1:22");
    let mut watch = lab.watch(&[]);
    let mut pairs = Vec::new();
    for _ in 0..5 {
        (0..2_000).for_each(|_| watch.signal(Signal::HUP));
        pairs.push((lab.connect("127.0.0.1:22"), server.accept().unwrap()));
    }
    watch.wait_actions("connection-opened", 5);
    let records = watch.stop().records;
    let reloads = with_action(&records, "watch-reloaded").len();
    println!("10,000 signals, {reloads} reloads");
    assert!((1..=10_000).contains(&reloads));
}

#[test]
fn the_first_record_names_the_program_by_its_hash() {
    let lab = lab!("sha256sum");
    let watch = lab.watch(&[]);
    let said = lab.run(&format!("sha256sum {PORTREEVE}"));
    let started = with_action(&watch.stop().records, "watch-started").remove(0);
    assert_eq!(started["portreeve"]["watch"]["executable_sha256"].as_str(), said.split(' ').next());
}
