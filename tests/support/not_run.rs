//! Saying what did not run.
#![allow(clippy::expect_used, clippy::disallowed_methods, reason = "a helper that fails must fail the test")]

use std::fs::OpenOptions;
use std::io::Write;

/// Says that a test did not run, past the harness's capture, and counts it in the file that `PORTREEVE_NOT_RUN` names.
///
/// A test that returns early looks like one that passed; this line is the difference.
pub fn not_run(test: &str, reason: &str) {
    let line = format!("NOT RUN: {test}: {reason}\n");
    std::io::stderr().lock().write_all(line.as_bytes()).expect("standard error is open");
    if let Some(path) = std::env::var_os("PORTREEVE_NOT_RUN") {
        let mut list =
            OpenOptions::new().append(true).create(true).open(path).expect("PORTREEVE_NOT_RUN is writable");
        list.write_all(line.as_bytes()).expect("PORTREEVE_NOT_RUN is writable");
    }
}
