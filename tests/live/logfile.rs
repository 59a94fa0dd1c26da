//! The log as a file: rotated, removed, in the way, and on a full disk.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{self, actions, gaps_but_stalls, with_action};
use crate::support::watch::{PATIENCE, Watch, read_records};
use crate::support::{output, wait_for};

/// A watch into a file, from its first record on.
fn watch_into(lab: &Lab, path: &Path) -> Watch {
    let mut command = lab.portreeve();
    command.arg("--log-file").arg(path).stdout(Stdio::null());
    Watch::start_into(lab, &mut command, path.to_owned())
}

/// One more connection that stays, once its record is in the file.
fn connect(lab: &Lab, server: &TcpListener, file: &Path) -> (TcpStream, TcpStream) {
    let client = lab.connect("127.0.0.1:22");
    let port = client.local_addr().unwrap().port();
    wait_for(&format!("the open of port {port} in {}", file.display()), PATIENCE, || {
        read_records(file).iter().any(|record| record["source"]["port"] == port).then_some(())
    });
    (client, server.accept().unwrap().0)
}

fn append(text: &mut Vec<u8>, file: &Path) {
    text.extend(std::fs::read(file).unwrap());
}

#[test]
fn the_log_is_created_for_its_owner_and_group_alone() {
    let lab = lab!();
    let server = lab.listen("127.0.0.1:22");
    let path = lab.path("events.jsonl");
    let watch = watch_into(&lab, &path);
    let _pair = connect(&lab, &server, &path);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(actions(&watch.stop().records), ["connection-opened"]);
}

#[test]
fn after_a_rename_and_sighup_the_next_record_is_in_the_new_file_and_nothing_is_lost() {
    let lab = lab!();
    let server = lab.listen("127.0.0.1:22");
    let (path, old) = (lab.path("events.jsonl"), lab.path("events.jsonl.1"));
    let watch = watch_into(&lab, &path);
    let _first = connect(&lab, &server, &path);
    std::fs::rename(&path, &old).unwrap();
    watch.signal(Signal::HUP);
    wait_for("the new file", PATIENCE, || path.exists().then_some(()));
    let _second = connect(&lab, &server, &path);
    watch.signal(Signal::TERM);
    wait_for("watch-stopped", PATIENCE, || {
        (read_records(&path).last()?["event"]["action"] == "watch-stopped").then_some(())
    });
    let mut text = std::fs::read(&old).unwrap();
    append(&mut text, &path);
    let records = log::check(&text);
    assert_eq!(actions(&records), ["connection-opened"; 2]);
    assert_eq!(actions(&read_records(&old)), ["connection-opened"]);
}

#[test]
fn a_renamed_or_removed_log_is_noticed_without_a_signal() {
    let lab = lab!();
    let server = lab.listen("127.0.0.1:22");
    let (path, old) = (lab.path("events.jsonl"), lab.path("events.jsonl.1"));
    let watch = watch_into(&lab, &path);
    let _first = connect(&lab, &server, &path);
    // As logrotate's `create` does it.
    std::fs::rename(&path, &old).unwrap();
    std::fs::File::create(&path).unwrap();
    let _second = connect(&lab, &server, &path);
    let mut text = std::fs::read(&old).unwrap();
    append(&mut text, &path);
    std::fs::remove_file(&path).unwrap();
    let _third = connect(&lab, &server, &path);
    drop(watch);
    append(&mut text, &path);
    let records = log::check(&text);
    assert_eq!(actions(&records), ["connection-opened"; 3]);
}

#[test]
fn a_symbolic_link_at_the_logs_path_is_refused_and_its_target_untouched() {
    let lab = lab!();
    let _server = lab.listen("127.0.0.1:22");
    let (path, target) = (lab.path("events.jsonl"), lab.path("precious"));
    std::fs::write(&target, "precious\n").unwrap();
    symlink(&target, &path).unwrap();
    let output = output(lab.portreeve().args(["--duration", "1s", "--log-file"]).arg(&path));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(73), "{said}");
    assert!(said.contains("events.jsonl"), "{said}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious\n");
}

#[test]
fn a_full_disk_loses_nothing_that_memory_can_hold_and_tears_no_line() {
    let lab = lab!();
    let server = lab.listen("127.0.0.1:22");
    lab.run("mkdir /run/disk && mount -t tmpfs -o size=1m tmpfs /run/disk");
    let path = Path::new("/run/disk/events.jsonl");
    let seen_from_here = lab.outside(path);
    let mut command = lab.portreeve();
    command.arg("--log-file").arg(path).stdout(Stdio::null());
    let mut watch = Watch::start_into(&lab, &mut command, seen_from_here.clone());
    let mut pairs = vec![connect(&lab, &server, &seen_from_here)];

    // Everything that is left of the disk but what the log's last page still has.
    lab.run("cat /dev/zero > /run/disk/filler 2>/dev/null || :");
    const MORE: usize = 8;
    for _ in 0..MORE {
        pairs.push((lab.connect("127.0.0.1:22"), server.accept().unwrap().0));
    }
    wait_for("what it says", PATIENCE, || {
        watch.errors().to_lowercase().contains("no space left").then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    let held = with_action(&read_records(&seen_from_here), "connection-opened").len();
    assert!(held < 1 + MORE, "the disk was not full: this test proved nothing");
    assert!(watch.child.try_wait().unwrap().is_none(), "it lives on: {}", watch.errors());
    drop(pairs);

    std::thread::sleep(Duration::from_millis(300));
    lab.run("rm /run/disk/filler");
    let all = |records: &[Value]| {
        let opens = with_action(records, "connection-opened").len();
        let closes = with_action(records, "connection-closed").len();
        ((opens, closes) == (1 + MORE, 1 + MORE)).then_some(())
    };
    watch.wait_for("every record once there is space", all);
    let stopped = watch.stop();
    assert_eq!(gaps_but_stalls(&stopped.records), [] as [Value; 0], "nothing was lost");
}
