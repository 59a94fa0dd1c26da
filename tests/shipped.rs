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
    for with in [
        &[][..],
        &["syn"],
        &["nflog"],
        &["audit"],
        &["ebpf"],
        &["netns"],
        &["ssh-files"],
        &["syn", "ebpf", "netns"],
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // As installed it names a binary that need not be installed here.
        let text = unit_with(with).replace("/usr/bin/portreeve", env!("CARGO_BIN_EXE_portreeve"));
        let unit = written(folder.path(), &text);
        let said = outcome(command("systemd-analyze").args(["verify", "--man=no"]).arg(unit));
        // It tells of misspelt settings on standard error only and calls that a success.
        assert!(said.status.success() && said.stderr.is_empty(), "{with:?}: {said:?}");
    }
}

/// The unit with some of the examples, as systemd reads them: one text behind the other.
fn unit_with(examples: &[&str]) -> String {
    let examples = examples.iter().map(|name| read(&format!("systemd/examples/{name}.conf")));
    std::iter::once(read("systemd/portreeve.service")).chain(examples).collect::<Vec<_>>().join("\n")
}

fn written(folder: &Path, unit: &str) -> PathBuf {
    let path = folder.join("portreeve.service");
    fs::write(&path, unit).expect("it is writable");
    path
}

#[test]
fn systemd_counts_the_exposure_that_the_manual_says() {
    let name = "systemd_counts_the_exposure_that_the_manual_says";
    if !can_run(name, &["systemd-analyze"]) {
        return;
    }
    let said = figures(&read("docs/man/portreeve.8"));
    for example in fs::read_dir(source("systemd/examples")).expect("it is there") {
        let path = example.expect("it is readable").path();
        let alone = [path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned()];
        assert!(said.iter().any(|(with, _)| *with == alone), "the manual does not tell that of {alone:?}");
    }
    let version = run(command("systemd-analyze").arg("--version"));
    for (with, figure) in said {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let with: Vec<_> = with.iter().map(String::as_str).collect();
        let unit = written(folder.path(), &unit_with(&with));
        let said =
            outcome(command("systemd-analyze").args(["security", "--no-pager", "--offline=yes"]).arg(unit));
        if String::from_utf8_lossy(&said.stderr).contains("unrecognized option") {
            return not_run(name, "needs systemd-analyze of systemd 250");
        }
        let table = String::from_utf8_lossy(&said.stdout);
        let (_, overall) =
            table.rsplit_once("exposure level for portreeve.service: ").expect("the table has a last line");
        let exposure = overall.split(' ').next().expect("a number");
        // Another systemd may weigh a setting otherwise, but not by much.
        let number = |text: &str| text.parse::<f32>().expect("a number");
        let is_near = !version.contains("systemd 252") && (number(exposure) - number(&figure)).abs() < 0.5;
        assert!(exposure == figure || is_near, "{with:?}, {figure} in the manual: {table}");
    }
}

/// What the manual says of the exposure, with which examples.
fn figures(manual: &str) -> Vec<(Vec<String>, String)> {
    let (_, list) = manual.split_once("counts as exposure").expect("the manual tells it");
    let (list, _) = list.split_once(".El").expect("the list ends");
    let mut figures = Vec::new();
    for entry in list.split("\n.It ").skip(1) {
        let (figure, text) = entry.split_once('\n').expect("a text follows");
        for combination in text.replace("\\-", "-").split("with ").skip(usize::from(text.contains("with "))) {
            let names = combination.split([' ', ',', ';', '\n']).filter_map(|word| word.split_once(".conf"));
            figures.push((names.map(|(name, _)| name.to_owned()).collect(), figure.to_owned()));
        }
    }
    figures
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
    let owner = format!("{} {}", run(command("id").arg("-u")).trim(), run(command("id").arg("-g")).trim());
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
