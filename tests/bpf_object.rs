//! The committed object of the program in the kernel is what its source makes.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test may fail by panic, and starts programs"
)]

#[path = "support/not_run.rs"]
mod not_run;

use std::path::Path;
use std::process::Command;

#[test]
fn the_object_is_byte_for_byte_what_its_source_makes() {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf/build");
    let output = Command::new(build).arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => {}
        Some(75) => {
            not_run::not_run("the_object_is_byte_for_byte_what_its_source_makes", said.trim_end());
        }
        _ => panic!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}
