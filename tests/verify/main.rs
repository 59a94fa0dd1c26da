//! `portreeve verify`: each rule by a log that breaks it, the table of fields by the manual, the command by its words.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test may fail by panic, and writes files"
)]

/// Logs from a few words.
mod builder;
/// The command.
mod command;
/// Rules and what breaks them.
mod mutants;
/// Pages against the program.
mod pages;
/// The log that is changed.
mod story;

use std::collections::BTreeSet;
use std::path::PathBuf;

use portreeve::verify::{Options, Outcome, run};

/// Writes files and checks them; answers the rules that are broken.
pub fn check(files: &[Vec<u8>], options: Options) -> BTreeSet<String> {
    let (outcome, said) = verify(files, options);
    assert!(outcome.unreadable.is_empty(), "{:?}", outcome.unreadable);
    let rules: BTreeSet<String> = said
        .lines()
        .filter(|line| line.starts_with('V'))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(rules.is_empty(), outcome.is_clean(), "{said}");
    if std::env::var_os("SHOW").is_some() {
        eprintln!("{said}");
    }
    rules
}

/// Writes files and checks them.
pub fn verify(files: &[Vec<u8>], options: Options) -> (Outcome, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut logs: Vec<PathBuf> = Vec::new();
    for (index, bytes) in files.iter().enumerate() {
        let path = folder.path().join(format!("events.jsonl.{index}"));
        std::fs::write(&path, bytes).unwrap();
        // Their order means nothing.
        logs.insert(0, path);
    }
    let mut said = Vec::new();
    let outcome = run(&Options { logs, ..options }, &mut said).unwrap();
    (outcome, String::from_utf8(said).unwrap())
}
