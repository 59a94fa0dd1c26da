//! The package in a real system: installed, watching, reloaded, rotated, hung, stopped, purged.
#![expect(clippy::disallowed_methods, reason = "a test waits, and reads what the service wrote")]
#![expect(clippy::expect_used, reason = "helpers of a test; a failure is a panic")]
#![expect(clippy::indexing_slicing, reason = "a JSON value answers a missing key with null")]

#[path = "support/shipping.rs"]
mod support;

use std::{fs, process::Stdio, thread::sleep, time::Duration};

use serde_json::Value;
use support::{can_run, container::Container, not_run, wait_for};

const LOG: &str = "/var/log/portreeve/events.jsonl";

#[test]
fn the_package_serves_a_real_system_and_leaves_nothing_behind() {
    let name = "the_package_serves_a_real_system_and_leaves_nothing_behind";
    if !can_run(
        name,
        &["root", "systemd-nspawn", "unshare", "nsenter", "dpkg-deb", "objdump", "logrotate", "ssh", "sshd"],
    ) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let package = support::package("build-deb", folder.path());
    let system = match Container::boot(folder.path()) {
        Ok(system) => system,
        Err(reason) => return not_run(name, &reason),
    };
    // A machine of those who build portreeve may have it installed.
    system.sh("dpkg --purge portreeve; userdel portreeve 2>/dev/null || true");
    let before = ours(&system);

    fs::copy(&package, system.path("/portreeve.deb")).expect("the container is writable");
    system.sh("dpkg --install /portreeve.deb");
    runs_with_one_capability(&system);
    names_the_owner_of_a_connection(&system);
    reloads_and_rotates(&system);
    feeds_the_watchdog_and_is_restarted_when_hung(&system);
    takes_its_interval_from_the_environment(&system);
    leaves_a_wrong_setting_to_a_person(&system);
    leaves_blindness_to_a_person(&system);
    says_that_it_stopped(&system);

    system.sh("systemctl start portreeve; dpkg --remove portreeve");
    assert!(!system.succeeds("systemctl is-active portreeve"), "removing the package stops the service");
    assert!(system.path(LOG).exists(), "removing the package keeps the log");
    system.sh("dpkg --purge portreeve");
    assert_eq!(ours(&system), before, "purging the package leaves no file behind");
}

/// Files that bear our name, outside the sources this test was built from.
fn ours(system: &Container) -> String {
    let sources = env!("CARGO_MANIFEST_DIR");
    system.sh(&format!(
        "find /etc /usr /var /run -xdev -path '{sources}' -prune -o -name '*portreeve*' -print | sort"
    ))
}

fn runs_with_one_capability(system: &Container) {
    assert_eq!(
        system.sh("systemctl is-enabled portreeve; systemctl is-active portreeve"),
        "enabled\nactive\n"
    );
    assert_eq!(
        system.sh("systemd-analyze verify --man=no portreeve.service 2>&1"),
        "",
        "the unit as installed"
    );
    assert_eq!(system.sh(&format!("stat -c '%a %U %G' {LOG}")), "640 portreeve portreeve\n");

    let status =
        fs::read_to_string(system.path(&format!("/proc/{}/status", main_pid(system)))).expect("it runs");
    let field =
        |name| status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of status").trim();
    // 1 << 19: CAP_SYS_PTRACE.
    assert_eq!(field("CapEff:"), "0000000000080000");
    assert_eq!(field("CapBnd:"), "0000000000080000");
    assert_ne!(field("Uid:").split_whitespace().next(), Some("0"));
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1", "2"));
}

/// alice's own ssh in her home, neither root's nor portreeve's to read, against a real sshd.
fn names_the_owner_of_a_connection(system: &Container) {
    system.sh("useradd -m alice; useradd -m -p '*' bob
        mkdir -p /run/sshd ~bob/.ssh
        cp /usr/bin/ssh ~alice/
        runuser -u alice -- ssh-keygen -q -t ed25519 -N '' -f ~alice/key
        cp ~alice/key.pub ~bob/.ssh/authorized_keys
        chown -R bob: ~bob
        ssh-keygen -q -t ed25519 -N '' -f /run/sshd/key
        systemd-run --quiet --unit=sshd-test /usr/sbin/sshd -D -f /dev/null -h /run/sshd/key -o UsePAM=no
        until ssh-keyscan 127.0.0.1 >/dev/null 2>&1; do sleep 0.1; done");
    let mut ssh = system
        .command(
            "echo 'echo $$ > pid; exec ./ssh -qi key -o StrictHostKeyChecking=no bob@127.0.0.1 \"read wait\"' > ~alice/go
            cd ~alice; exec systemd-run --quiet --pipe --same-dir --uid=alice sh go",
        )
        .stdin(Stdio::piped())
        .spawn()
        .expect("nsenter starts");
    // Its end only: where the tests run in a chroot, all of the container lies below it.
    let is_hers = |record: &Value| {
        record["process"]["executable"].as_str().is_some_and(|path| path.ends_with("/home/alice/ssh"))
    };
    let open = wait_for(|| with_action(system, "connection-opened").into_iter().find(is_hers))
        .expect("it is logged");
    let pid = fs::read_to_string(system.path("/home/alice/pid")).expect("alice's shell wrote it");
    assert_eq!(open["process"]["pid"].to_string(), pid.trim());
    assert_eq!(open["user"]["name"], "alice");
    assert_eq!(open["destination"]["port"], 22);
    let first = open["portreeve"]["ancestry"].as_array().and_then(|line| line.last()).expect("an ancestry");
    assert_eq!((&first["pid"], &first["name"]), (&1.into(), &"systemd".into()));

    drop(ssh.stdin.take());
    ssh.wait().expect("it is our child");
    let id = &open["portreeve"]["connection"]["id"];
    let is_its_close = |record: &Value| record["portreeve"]["connection"]["id"] == *id;
    wait_for(|| with_action(system, "connection-closed").into_iter().find(is_its_close))
        .expect("and so is its end");
}

fn reloads_and_rotates(system: &Container) {
    let pid = main_pid(system);
    system.sh("systemctl reload portreeve");
    wait_for(|| with_action(system, "watch-reloaded").pop()).expect("a reload is logged");

    let rotated = records(system).len();
    system.sh("logrotate --force /etc/logrotate.d/portreeve");
    assert_eq!(system.sh(&format!("stat -c '%a %U %G' {LOG}")), "640 portreeve portreeve\n");
    wait_for(|| (!records(system).is_empty()).then_some(())).expect("the new file is written to");
    let old = system.sh(&format!("cat {LOG}-*"));
    assert!(old.lines().count() >= rotated, "the renamed file keeps all it had");
    assert_eq!(main_pid(system), pid, "neither ends the daemon");
}

fn feeds_the_watchdog_and_is_restarted_when_hung(system: &Container) {
    system.sh(
        "echo 'interval = \"60s\"' >> /etc/portreeve/portreeve.toml
        mkdir -p /run/systemd/system/portreeve.service.d
        printf '[Service]\\nWatchdogSec=2s\\nTimeoutAbortSec=1s\\n' > /run/systemd/system/portreeve.service.d/short.conf
        systemctl daemon-reload
        systemctl restart portreeve",
    );
    let pid = main_pid(system);
    sleep(Duration::from_secs(6));
    assert_eq!(main_pid(system), pid, "three watchdog periods pass within one interval");

    system.sh(&format!("kill -STOP {pid}"));
    let next = wait_for(|| {
        let now = main_pid(system);
        (now != pid && now != "0" && system.succeeds("systemctl is-active portreeve")).then_some(now)
    });
    assert!(next.is_some(), "systemd kills the hung daemon and starts it again");
    assert_eq!(system.sh("systemctl show --property NRestarts --value portreeve"), "1\n");
    system.sh("rm -r /run/systemd/system/portreeve.service.d; systemctl daemon-reload");
}

fn takes_its_interval_from_the_environment(system: &Container) {
    system.sh("echo SLEEP=200 > /etc/default/portreeve; systemctl restart portreeve");
    let in_effect = |record: &Value| record["portreeve"]["watch"]["settings"]["interval"] == "200ms";
    wait_for(|| with_action(system, "watch-started").into_iter().find(in_effect))
        .expect("SLEEP is the interval");
}

fn leaves_a_wrong_setting_to_a_person(system: &Container) {
    system.sh("cp /etc/portreeve/portreeve.toml /run; echo 'colour = 1' >> /etc/portreeve/portreeve.toml");
    assert!(!system.succeeds("systemctl restart portreeve"));
    // Longer than RestartSec.
    sleep(Duration::from_secs(3));
    let state = "systemctl show --property ActiveState --property ExecMainStatus --property NRestarts portreeve | sort";
    assert_eq!(system.sh(state), "ActiveState=failed\nExecMainStatus=78\nNRestarts=0\n");
    system.sh("mv /run/portreeve.toml /etc/portreeve/; systemctl restart portreeve");
}

/// Each of these would leave a watch that runs and sees nothing; the journal names the line to change.
fn leaves_blindness_to_a_person(system: &Container) {
    let blinding = [
        ("PrivateNetwork=yes", "PrivateNetwork=no"),
        // With /proc read-only systemd itself fails: it cannot write the map of users.
        ("ReadOnlyPaths=\\nPrivateUsers=yes", "PrivateUsers=no"),
        ("AmbientCapabilities=", "AmbientCapabilities=CAP_SYS_PTRACE"),
        ("ProcSubset=pid", "ProcSubset=all"),
        ("SystemCallFilter=~readlinkat", "SystemCallFilter="),
    ];
    for (line, mend) in blinding {
        let folder = "/run/systemd/system/portreeve.service.d";
        system.sh(&format!(
            "mkdir -p {folder}; printf '[Service]\\n{line}\\n' > {folder}/blind.conf; systemctl daemon-reload"
        ));
        assert!(!system.succeeds("systemctl restart portreeve"), "{line}");
        let state = "systemctl show --property ExecMainStatus --property NRestarts portreeve | sort";
        assert_eq!(system.sh(state), "ExecMainStatus=77\nNRestarts=0\n", "{line}");
        let said = system.sh("journalctl --sync; journalctl --unit portreeve --lines 8 --output cat");
        assert!(said.contains(mend), "{line}: {said}");
        system.sh(&format!("rm -r {folder}; systemctl daemon-reload; systemctl restart portreeve"));
    }
}

fn says_that_it_stopped(system: &Container) {
    system.sh("systemctl stop portreeve");
    let last = records(system).pop().expect("a record");
    assert_eq!(last["event"]["action"], "watch-stopped");
    assert_eq!(system.sh("systemctl show --property Result --value portreeve"), "success\n");
}

fn main_pid(system: &Container) -> String {
    system.sh("systemctl show --property MainPID --value portreeve").trim().to_owned()
}

fn with_action(system: &Container, action: &str) -> Vec<Value> {
    records(system).into_iter().filter(|record| record["event"]["action"] == action).collect()
}

fn records(system: &Container) -> Vec<Value> {
    let log = fs::read_to_string(system.path(LOG)).unwrap_or_default();
    // What stands behind the last line break is still being written.
    let whole = log.rsplit_once('\n').map_or("", |(lines, _)| lines);
    whole.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
}
