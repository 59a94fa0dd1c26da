//! What is done to a running watch: stopped, showered with signals, limited.

use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::lab;
use crate::support::log::with_action;
use crate::support::watch::{PATIENCE, Watch};
use crate::support::{output, wait_for};

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
fn a_watch_that_was_stopped_tells_how_long_it_saw_nothing() {
    let lab = lab!();
    let mut watch = lab.watch(&[]);
    watch.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(1_500));
    watch.signal(Signal::CONT);
    let gap = watch.wait_for("the gap", |records| with_action(records, "gap").pop());
    let gap = &gap["portreeve"]["gap"];
    assert_eq!(gap["cause"], "stalled", "{gap}");
    let time = |name: &str| gap[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!((1_400..3_000).contains(&time("from").duration_until(time("to")).as_millis()), "{gap}");
    watch.stop();
}

#[test]
fn a_limit_on_the_size_of_files_is_a_full_disk_until_it_is_raised() {
    const MORE: usize = 8;
    let lab = lab!("prlimit");
    let server = lab.listen("127.0.0.1:22");
    let path = lab.path("events.jsonl");
    let mut command = lab.watcher({
        let mut prlimit = lab.command("prlimit");
        prlimit.args(["--fsize=8192:unlimited", crate::support::watch::PORTREEVE]);
        prlimit
    });
    command.arg("--log-file").arg(&path).stdout(Stdio::null());
    let mut watch = Watch::start_into(&lab, &mut command, path.clone());
    let pairs: Vec<_> = (0..MORE).map(|_| (lab.connect("127.0.0.1:22"), server.accept().unwrap())).collect();
    wait_for("the limit", PATIENCE, || watch.errors().contains("File too large").then_some(()));
    assert!(std::fs::metadata(&path).unwrap().size() <= 8_192);
    assert!(watch.child.try_wait().unwrap().is_none(), "{}", watch.errors());
    let pid = watch.child.id().to_string();
    assert!(output(lab.command("prlimit").args(["--pid", &pid, "--fsize=unlimited"])).status.success());
    watch.wait_for("every open", |records| {
        (with_action(records, "connection-opened").len() == MORE).then_some(())
    });
    drop(pairs);
    assert_eq!(with_action(&watch.stop().records, "gap"), [] as [Value; 0], "nothing was lost");
}
