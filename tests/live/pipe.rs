//! Records into a pipe whose reader is slow.

use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::with_action;
use crate::support::wait_for;
use crate::support::watch::PATIENCE;

/// What a pipe with room takes at once; a longer line goes in two pieces.
const PIECE: usize = 4096;

fn has_room(pipe: &PipeWriter) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pipe, PollFlags::OUT)], Some(&now)).unwrap() > 0
}

/// Fills a pipe with empty lines but for one piece: a line longer than that is stuck in its midst.
fn leave_one_piece(reader: &mut PipeReader, writer: &mut PipeWriter) {
    while has_room(writer) {
        writer.write_all(&[b'\n'; PIECE]).unwrap();
    }
    reader.read_exact(&mut [0; PIECE]).unwrap();
    assert!(has_room(writer));
}

/// A connection whose record is longer than a piece, held until the child is killed.
fn connect_with_long_arguments(lab: &Lab) -> Child {
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/22; echo; read -t 20 -u 3 # {}", "x".repeat(2 * PIECE));
    let mut bash = lab.command("bash").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    bash.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    bash
}

fn records(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).unwrap();
    let lines = text.split_inclusive('\n').filter(|line| *line != "\n");
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}")))
        .collect()
}

#[test]
fn once_waits_for_a_slow_reader_and_tears_no_line() {
    let lab = lab!("bash");
    let _server = lab.listen("127.0.0.1:22");
    let mut bash = connect_with_long_arguments(&lab);
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    leave_one_piece(&mut reader, &mut writer);
    let mut once = lab.portreeve().args(["--once", "--format", "json"]).stdout(writer).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert!(once.wait().unwrap().success());
    let records = records(&text);
    assert_eq!(with_action(&records, "connection-opened").len(), 1);
    assert!(records[0].to_string().len() > PIECE);
    bash.kill().unwrap();
    bash.wait().unwrap();
}

#[test]
fn a_line_that_a_full_pipe_cut_is_ended_as_soon_as_there_is_room_and_not_with_the_next_record() {
    let lab = lab!("bash");
    let _server = lab.listen("127.0.0.1:22");
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let mut watch = lab.portreeve().stdout(writer.try_clone().unwrap()).spawn().unwrap();
    let mut started = Vec::new();
    while !started.ends_with(b"\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        started.push(byte[0]);
    }
    assert_eq!(records(&started)[0]["event"]["action"], "watch-started");

    leave_one_piece(&mut reader, &mut writer);
    let mut bash = connect_with_long_arguments(&lab);
    std::thread::sleep(Duration::from_millis(500));
    let (pieces, read) = mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; PIECE];
        while let Ok(length @ 1..) = reader.read(&mut piece) {
            let _nobody_waits_any_more = pieces.send(piece[..length].to_vec());
        }
    });
    let mut text = Vec::new();
    wait_for("the whole line of the open", PATIENCE, || {
        text.extend(read.try_iter().flatten());
        let last = text.iter().rposition(|byte| *byte == b'\n')?;
        let open = records(&text[..=last])
            .into_iter()
            .find(|record| record["event"]["action"] == "connection-opened");
        open.map(|open| assert_eq!(open["process"]["pid"], bash.id()))
    });
    for child in [&mut bash, &mut watch] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
