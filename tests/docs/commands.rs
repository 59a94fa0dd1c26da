//! What can be typed: the examples of the manuals, the commands of the README, the pages through mandoc.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use clap::Parser;
use portreeve::cli::Cli;

use crate::not_run::not_run;
use crate::page::{Page, read};

#[test]
fn the_manuals_examples_are_commands_that_the_program_takes() {
    let mut tried = 0;
    for name in ["portreeve.8", "portreeve.toml.5", "portreeve-events.5"] {
        for line in Page::open(name).text.lines() {
            let line = line.strip_prefix(".Dl ").unwrap_or(line);
            if let Some(typed) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")) {
                tried += usize::from(try_command(typed));
            }
        }
    }
    assert!(tried >= 8, "{tried}");
}

/// False if the command is none of portreeve's.
fn try_command(typed: &str) -> bool {
    let words = words_of_shell(typed);
    let words =
        words.iter().skip_while(|word| *word == "sudo" || word.contains('=') && !word.starts_with('-'));
    let words: Vec<_> = words.take_while(|word| !["|", ">"].contains(&word.as_str())).collect();
    // A line of JSON begins with a quote or a brace.
    let is_ours = typed.starts_with(|c: char| c.is_ascii_alphanumeric())
        && words.first().is_some_and(|word| word.rsplit('/').next() == Some("portreeve"));
    if is_ours {
        let parsed = Cli::try_parse_from(words);
        assert!(parsed.is_ok(), "{typed}: {}", parsed.unwrap_err());
    }
    is_ours
}

/// Words as a shell parts them, where quotes stand around whole words only.
fn words_of_shell(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' | '\'' => rest[1..].split_once(first).unwrap_or((&rest[1..], "")),
            _ => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

#[test]
fn what_the_readme_tells_to_type_exists() {
    let readme = read("README.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    for line in readme.lines().filter_map(|line| line.strip_prefix("    ")) {
        let typed = line.split(" #").next().unwrap().trim();
        let words = words_of_shell(typed);
        let script = words.iter().find(|word| word.starts_with("tests/") || word.starts_with("packaging/"));
        if let Some(script) = script {
            let found = std::fs::metadata(root.join(script)).unwrap_or_else(|e| panic!("{script}: {e}"));
            assert!(found.permissions().mode() & 0o111 != 0, "{script}");
            names.insert(script.clone());
        } else if words.first().is_some_and(|word| word == "cargo") {
            names.insert(words[..2].join(" "));
        } else {
            try_command(typed);
        }
    }
    for needed in ["cargo run", "tests/run", "packaging/build-deb", "packaging/build-rpm"] {
        assert!(names.contains(needed), "{needed} is not among {names:?}");
    }
    for link in readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(link.contains("://") || root.join(link).exists(), "{link}");
    }
    let changes = read("CHANGELOG.md");
    let newest = changes.split("\n## ").nth(1).and_then(|entry| entry.split(' ').next());
    assert_eq!(newest, Some(env!("CARGO_PKG_VERSION")), "the newest comes first");
    for (page, lines) in [("README.md", 150), ("ARCHITECTURE.md", 200)] {
        assert!(read(page).lines().count() <= lines, "{page}: pages, not books");
    }
}

#[test]
fn mandoc_finds_no_fault_in_the_manuals() {
    let pages = ["portreeve.8", "portreeve.toml.5", "portreeve-events.5"];
    let output = Command::new("mandoc")
        .args(["-T", "lint"])
        .args(pages)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/man"))
        .output();
    let Ok(output) = output else {
        return not_run("mandoc_finds_no_fault_in_the_manuals", "needs mandoc");
    };
    // Which other manuals are installed is the machine's affair.
    let faults = String::from_utf8(output.stdout).unwrap();
    let faults: Vec<_> =
        faults.lines().filter(|line| !line.contains("referenced manual not found")).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
