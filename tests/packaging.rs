//! The packages as the scripts build them: what is in them, and that the same sources give the same bytes.
#![expect(clippy::disallowed_methods, reason = "a test reads what it built")]
#![expect(clippy::expect_used, reason = "helpers of tests; a failure is a panic")]

#[path = "support/shipping.rs"]
mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use support::{can_run, command, outcome, package, run};

/// Compressing takes seconds: one package of each kind serves all tests.
static DEB: LazyLock<PathBuf> =
    LazyLock::new(|| package("build-deb", Path::new(env!("CARGO_TARGET_TMPDIR"))));
static RPM: LazyLock<PathBuf> =
    LazyLock::new(|| package("build-rpm", Path::new(env!("CARGO_TARGET_TMPDIR"))));

const DEB_NEEDS: [&str; 3] = ["dpkg-deb", "objdump", "strip"];
const RPM_NEEDS: [&str; 3] = ["rpmbuild", "rpm", "strip"];

#[test]
fn the_deb_holds_all_that_ships() {
    if !can_run("the_deb_holds_all_that_ships", &DEB_NEEDS) {
        return;
    }
    let contents = run(command("dpkg-deb").arg("--contents").arg(&*DEB));
    let files = listed(&contents);
    let own = ["/usr/share/zsh/vendor-completions/_portreeve", "/usr/share/doc/portreeve/copyright"];
    for file in COMMON.iter().chain(&own) {
        assert!(files.contains(file), "{file} is missing from {files:#?}");
    }
    let conffiles = run(command("dpkg-deb").arg("--info").arg(&*DEB).arg("conffiles"));
    let in_etc = files.iter().copied().filter(|file| file.starts_with("/etc/") && !file.ends_with('/'));
    assert!(conffiles.lines().eq(in_etc), "what an administrator edits outlives an upgrade: {conffiles}");
}

#[test]
fn the_rpm_holds_all_that_ships() {
    if !can_run("the_rpm_holds_all_that_ships", &RPM_NEEDS) {
        return;
    }
    let files = run(command("rpm").args(["--query", "--list", "--package"]).arg(&*RPM));
    let files: BTreeSet<_> = files.lines().collect();
    let own = ["/usr/share/zsh/site-functions/_portreeve", "/usr/share/licenses/portreeve/LICENSE"];
    for file in COMMON.iter().chain(&own) {
        assert!(files.contains(file), "{file} is missing from {files:#?}");
    }
}

#[test]
fn the_deb_is_the_same_bytes_each_time_it_is_built() {
    if can_run("the_deb_is_the_same_bytes_each_time_it_is_built", &DEB_NEEDS) {
        is_what_it_was("build-deb", &DEB);
    }
}

#[test]
fn the_rpm_is_the_same_bytes_each_time_it_is_built() {
    if can_run("the_rpm_is_the_same_bytes_each_time_it_is_built", &RPM_NEEDS) {
        is_what_it_was("build-rpm", &RPM);
    }
}

fn is_what_it_was(script: &str, before: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let again = package(script, folder.path());
    assert!(fs::read(again).expect("it is built") == fs::read(before).expect("it is built"), "{script}");
}

#[test]
fn lintian_finds_no_error_in_the_deb() {
    if can_run("lintian_finds_no_error_in_the_deb", &[&DEB_NEEDS[..], &["lintian"]].concat()) {
        let said = outcome(command("lintian").args(["--fail-on", "error", "--allow-root"]).arg(&*DEB));
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    }
}

/// Where a file stands on every system.
const COMMON: [&str; 20] = [
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
    "/usr/share/doc/portreeve/VERIFY.md",
    "/usr/share/doc/portreeve/crates.txt.gz",
    "/usr/share/doc/portreeve/examples/audit.conf",
    "/usr/share/doc/portreeve/examples/ebpf.conf",
    "/usr/share/doc/portreeve/examples/netns.conf",
    "/usr/share/doc/portreeve/examples/nflog.conf",
    "/usr/share/doc/portreeve/examples/ssh-files.conf",
    "/usr/share/doc/portreeve/examples/syn.conf",
];

/// The names of `dpkg-deb --contents`, which is a listing of tar's.
fn listed(contents: &str) -> BTreeSet<&str> {
    contents.lines().filter_map(|line| line.rsplit_once(" .").map(|(_, name)| name)).collect()
}
