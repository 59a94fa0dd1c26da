//! `verify` of any file: no panic, and what it prints is harmless. Of a good log (`seeds/verify/good`) with one byte
//! changed: it is never clean.
//!
//! Bytes that begin with 0 tell which byte of the good log to change and how; others are the file.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use portreeve::verify::{Options, Outcome, run as verify};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::de::IgnoredAny;

use super::bytes::Bytes;
use super::{is_harmless, is_printable};

const GOOD: &[u8] = include_bytes!("../seeds/verify/good");

pub fn run(data: &[u8]) {
    let Some(change) = data.strip_prefix(&[0]) else { return judge(data) };
    let mut change = Bytes(change);
    // Without its end the last line counts as torn, which no chain can tell from a log that was read while it grew.
    let at = change.u32() as usize % (GOOD.len() - 1);
    let mut log = GOOD.to_vec();
    log[at] ^= change.u8().max(1);
    let (outcome, said) = verified(&log, false);
    assert!(!outcome.is_clean(), "byte {at} is another, and nothing is said: {said}");
}

fn judge(data: &[u8]) {
    let (text, said) = verified(data, false);
    assert!(said.lines().all(is_harmless), "{said:?}");
    let (json, said) = verified(data, true);
    for line in said.lines() {
        assert!(is_printable(line.as_bytes()), "{line:?}");
        let _: IgnoredAny = serde_json::from_str(line).expect("a JSON line");
    }
    assert_eq!((text.is_clean(), text.summary.records), (json.is_clean(), json.summary.records));
}

/// What comes of a file that holds these bytes, and what is said.
fn verified(data: &[u8], json: bool) -> (Outcome, String) {
    let mut file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(data).unwrap();
    let logs = vec![format!("/proc/self/fd/{}", file.as_raw_fd()).into()];
    let mut said = Vec::new();
    let outcome = verify(&Options { logs, json, ..Options::default() }, &mut said).expect("memory takes all");
    (outcome, String::from_utf8(said).expect("UTF-8"))
}
