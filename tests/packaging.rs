//! The packages as the scripts build them: what is in them, and that the same sources give the same bytes.
#![expect(clippy::disallowed_methods, reason = "a test reads what it built")]
#![expect(clippy::expect_used, reason = "helpers of tests; a failure is a panic")]

#[path = "support/shipping.rs"]
mod support;

use std::{collections::BTreeSet, fs};

use support::{can_run, command, outcome, package, run};

#[test]
fn the_deb_holds_all_that_ships() {
    if !can_run("the_deb_holds_all_that_ships", &["dpkg-deb", "objdump", "strip"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let deb = package("build-deb", folder.path());
    let contents = run(command("dpkg-deb").arg("--contents").arg(&deb));
    let files = listed(&contents);
    for file in common()
        .iter()
        .chain(&["/usr/share/zsh/vendor-completions/_portreeve", "/usr/share/doc/portreeve/copyright"])
    {
        assert!(files.contains(*file), "{file} is missing from {files:#?}");
    }
    let conffiles = run(command("dpkg-deb").arg("--info").arg(&deb).arg("conffiles"));
    let in_etc: Vec<_> =
        files.iter().copied().filter(|file| file.starts_with("/etc/") && !file.ends_with('/')).collect();
    assert_eq!(
        conffiles.lines().collect::<Vec<_>>(),
        in_etc,
        "what an administrator edits outlives an upgrade"
    );
}

#[test]
fn the_rpm_holds_all_that_ships() {
    if !can_run("the_rpm_holds_all_that_ships", &["rpmbuild", "rpm", "strip"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rpm = package("build-rpm", folder.path());
    let files = run(command("rpm").args(["--query", "--list", "--package"]).arg(rpm));
    let files: BTreeSet<_> = files.lines().collect();
    for file in common()
        .iter()
        .chain(&["/usr/share/zsh/site-functions/_portreeve", "/usr/share/licenses/portreeve/LICENSE"])
    {
        assert!(files.contains(*file), "{file} is missing from {files:#?}");
    }
}

#[test]
fn a_package_is_the_same_bytes_each_time_it_is_built() {
    for (script, tool) in [("build-deb", "dpkg-deb"), ("build-rpm", "rpmbuild")] {
        if can_run(
            &format!("a_package_is_the_same_bytes_each_time_it_is_built ({script})"),
            &[tool, "objdump", "strip"],
        ) {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let [once, again] = ["once", "again"].map(|name| package(script, &folder.path().join(name)));
            assert!(
                fs::read(once).expect("it is built") == fs::read(again).expect("it is built"),
                "{script}"
            );
        }
    }
}

#[test]
fn lintian_finds_no_error_in_the_deb() {
    if !can_run("lintian_finds_no_error_in_the_deb", &["dpkg-deb", "objdump", "strip", "lintian"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let deb = package("build-deb", folder.path());
    let said = outcome(command("lintian").args(["--fail-on", "error", "--allow-root"]).arg(deb));
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

/// Where a file stands on every system.
fn common() -> [&'static str; 13] {
    [
        "/usr/bin/portreeve",
        "/usr/lib/systemd/system/portreeve.service",
        "/usr/lib/sysusers.d/portreeve.conf",
        "/usr/lib/tmpfiles.d/portreeve.conf",
        "/etc/portreeve/portreeve.toml",
        "/etc/default/portreeve",
        "/etc/logrotate.d/portreeve",
        "/usr/share/man/man8/portreeve.8.gz",
        "/usr/share/man/man5/portreeve.toml.5.gz",
        "/usr/share/man/man5/portreeve-events.5.gz",
        "/usr/share/bash-completion/completions/portreeve",
        "/usr/share/fish/vendor_completions.d/portreeve.fish",
        "/usr/share/doc/portreeve/crates.txt.gz",
    ]
}

/// The names of `dpkg-deb --contents`, which is a listing of tar's.
fn listed(contents: &str) -> BTreeSet<&str> {
    contents.lines().filter_map(|line| line.rsplit_once(" .").map(|(_, name)| name)).collect()
}
