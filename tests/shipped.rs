//! The files that ship, each judged by the program that will read it.
#![expect(clippy::disallowed_methods, reason = "a test reads what ships")]
#![expect(clippy::expect_used, reason = "helpers of tests; a failure is a panic")]

#[path = "support/shipping.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use support::{can_run, command, not_run, outcome, run};

#[test]
fn systemd_finds_no_fault_in_the_unit() {
    if !can_run("systemd_finds_no_fault_in_the_unit", &["systemd-analyze"]) {
        return;
    }
    // As installed it names a binary that need not be installed here.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unit = folder.path().join("portreeve.service");
    let shipped = read("systemd/portreeve.service");
    fs::write(&unit, shipped.replace("/usr/bin/portreeve", env!("CARGO_BIN_EXE_portreeve")))
        .expect("it is writable");
    let said = outcome(command("systemd-analyze").args(["verify", "--man=no"]).arg(unit));
    // It tells of misspelt settings on standard error only and calls that a success.
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
}

#[test]
fn systemd_counts_an_exposure_of_at_most_1_5() {
    if !can_run("systemd_counts_an_exposure_of_at_most_1_5", &["systemd-analyze"]) {
        return;
    }
    let unit = source("systemd/portreeve.service");
    let said =
        outcome(command("systemd-analyze").args(["security", "--no-pager", "--offline=yes"]).arg(unit));
    if String::from_utf8_lossy(&said.stderr).contains("unrecognized option") {
        return not_run("systemd_counts_an_exposure_of_at_most_1_5", "needs systemd-analyze of systemd 250");
    }
    let table = String::from_utf8_lossy(&said.stdout);
    let (_, overall) =
        table.rsplit_once("exposure level for portreeve.service: ").expect("the table has a last line");
    let exposure = overall.split(' ').next().expect("a number");
    assert!(exposure.parse::<f32>().expect("a number") <= 1.5, "{table}");
}

#[test]
fn the_unit_never_takes_the_capability_s_use_away() {
    let unit = read("systemd/portreeve.service");
    let settings: Vec<_> = unit.lines().filter(|line| !line.starts_with('#')).collect();
    for fatal in ["PrivateUsers=", "PrivateNetwork=", "PrivatePIDs=", "ProcSubset=pid", "DynamicUser="] {
        assert!(
            !settings.iter().any(|line| line.starts_with(fatal)),
            "{fatal} leaves a watcher that sees nothing"
        );
    }
    for needed in ["AmbientCapabilities=CAP_SYS_PTRACE", "CapabilityBoundingSet=CAP_SYS_PTRACE"] {
        assert!(settings.contains(&needed), "{needed}");
    }
}

#[test]
fn logrotate_reads_its_rules_without_a_word() {
    if !can_run("logrotate_reads_its_rules_without_a_word", &["logrotate"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = folder.path().join("rules");
    let owner = format!("{} {}", run(command("id").arg("-un")).trim(), run(command("id").arg("-gn")).trim());
    fs::write(&rules, read("logrotate/portreeve").replace("portreeve portreeve", &owner))
        .expect("it is writable");
    let said = outcome(
        command("logrotate").args(["--debug", "--state"]).arg(folder.path().join("state")).arg(rules),
    );
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && !words.contains("error:"), "{words}");
    assert!(words.contains("(30 rotations)"), "the rules are those of this file: {words}");
}

#[test]
fn portreeve_accepts_the_settings_that_ship() {
    let settings = source("packaging/portreeve.toml");
    run(Command::new(env!("CARGO_BIN_EXE_portreeve")).args(["config", "check"]).arg(settings));
}

#[test]
fn portreeve_accepts_every_setting_that_ships_as_a_comment() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = folder.path().join("portreeve.toml");
    // A default is a comment without a space after its sign; words are a comment with one.
    let all: Vec<_> = read("packaging/portreeve.toml").lines().map(uncommented).collect();
    assert!(all.iter().filter(|line| line.contains(" = ")).count() > 5, "the defaults are found");
    fs::write(&settings, all.join("\n")).expect("the folder is writable");
    run(Command::new(env!("CARGO_BIN_EXE_portreeve")).args(["config", "check"]).arg(settings));
}

fn uncommented(line: &str) -> String {
    match line.strip_prefix('#') {
        Some(default) if !default.starts_with(' ') => default.to_owned(),
        _ => line.to_owned(),
    }
}

#[test]
fn every_file_that_the_packaging_names_exists() {
    let scripts = ["stage", "build-deb", "build-rpm"].map(|script| read(&format!("packaging/{script}")));
    let mut named = 0;
    for word in
        scripts.iter().flat_map(|script| script.split(|c: char| c.is_whitespace() || "\"')".contains(c)))
    {
        let ours = ["packaging/", "systemd/", "logrotate/", "LICENSE", "CHANGELOG"]
            .iter()
            .any(|of| word.starts_with(of));
        if ours {
            assert!(source(word).exists(), "{word}");
            named += 1;
        }
    }
    assert!(named > 10, "the names are found");
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(source(name)).expect("it ships")
}
