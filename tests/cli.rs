//! The real binary: help, wrong words, exit codes, closed pipes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a test may fail by panic")]

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn portreeve(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.args(args).env_remove("SLEEP").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    portreeve(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_is_an_answer_and_fits_a_screen() {
    for args in [&["--help"][..], &["-h"], &["show", "-h"], &["config", "show", "-h"], &["completions", "-h"]]
    {
        let output = run(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}");
        assert!(text(&output.stdout).lines().all(|line| line.chars().count() <= 100), "{args:?}");
    }
    assert!(text(&run(&["--help"]).stdout).contains("SLEEP"));
    assert_eq!(text(&run(&["--version"]).stdout), format!("portreeve {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_words_are_named_and_have_their_status() {
    for (args, status, named) in [
        (&["--port", "22"][..], 2, "--port"),
        (&["--ports", "22x"], 2, "22x"),
        (&["--ports", "9-8"], 2, "write 8-9"),
        (&["--interval", "250us"], 2, "1ms"),
        (&["--interval", "50"], 2, "50ms"),
        (&["--exclude", "10.0.0.0/33"], 2, "10.0.0.0/33"),
        (&["--count", "0"], 2, "0"),
        (&["--once", "--count", "1"], 2, "--once"),
        (&["--log-file", "/nowhere/log"], 73, "/nowhere/log"),
        (&["--config", "/nowhere.toml"], 78, "/nowhere.toml"),
        (&["config", "check", "/nowhere.toml"], 78, "/nowhere.toml"),
        (&["seal", "init", "/nowhere/seal.key"], 73, "/nowhere/seal.key"),
        (&["seal", "init", "/dev/null"], 73, "no key is overwritten"),
        (&["seal", "init"], 2, "KEYFILE"),
        (&["show", "--since", "whenever"], 64, "whenever"),
        (&["show", "/nowhere.jsonl"], 1, "/nowhere.jsonl"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let output = run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(named) && !said.contains("panicked"), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn sleep_must_be_a_number() {
    for (sleep, status) in [("abc", 64), ("0.2", 64), ("50ms", 64), ("20", 0), ("2.5", 0), ("", 0)] {
        let output = portreeve(&["config", "show"]).env("SLEEP", sleep).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{sleep}");
        let named = text(&output.stderr).starts_with("portreeve: SLEEP: ");
        assert_eq!(named, status != 0, "{}", text(&output.stderr));
    }
    let shown = text(&portreeve(&["config", "show"]).env("SLEEP", "20").output().unwrap().stdout);
    let line = shown.lines().find(|line| line.starts_with("interval")).unwrap();
    assert!(line.starts_with("interval = \"20ms\"") && line.ends_with("# environment (SLEEP)"), "{line}");
}

#[test]
fn a_wrong_file_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("portreeve.toml");
    std::fs::write(&path, "ports = '22'\ninterval = '1us'\n").unwrap();
    let output = run(&["config", "check", path.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78));
    assert!(said.contains(path.to_str().unwrap()) && said.contains("line 2"), "{said}");
    std::fs::write(&path, "ports = '22'\n").unwrap();
    assert!(run(&["config", "check", path.to_str().unwrap()]).status.success());
}

#[test]
fn a_closed_pipe_ends_an_answer_quietly() {
    for args in [&["completions", "bash"][..], &["config", "show"]] {
        let mut child = portreeve(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success() && said.is_empty(), "{args:?}: {said}");
    }
}

#[test]
fn the_secret_of_seals_is_alone_on_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seal.key");
    let output = run(&["seal", "init", path.to_str().unwrap()]);
    let secret = text(&output.stdout);
    assert!(output.status.success());
    assert!(secret.len() == 65 && secret.trim_end().bytes().all(|b| b.is_ascii_hexdigit()), "{secret}");
    let said = text(&output.stderr);
    assert!(said.contains("another machine") && said.contains(path.to_str().unwrap()), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    let unseen = dir.path().join("unseen.key");
    let full = std::fs::File::create("/dev/full").unwrap();
    let output = portreeve(&["seal", "init", unseen.to_str().unwrap()]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!unseen.exists(), "a key whose secret nobody saw is of no use");
}
