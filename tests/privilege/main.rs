//! The unit that ships, in a real system: what somebody could do who took over the service, and what each line of the
//! unit is good for.
#![expect(clippy::disallowed_methods, reason = "a test reads and writes what it drives")]
#![expect(clippy::expect_used, reason = "helpers of a test; a failure is a panic")]

mod fence;
#[path = "../support/shipping.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use fence::{ALLOWED, DEPENDS, FORBIDDEN, LINES, RUN, Shown, VALUES};
use support::container::Container;
use support::{can_run, command, not_run, run};

const UNIT: &str = "/usr/lib/systemd/system/portreeve.service";

/// What the probe said, by the name of what it tried.
type Found = BTreeMap<String, String>;

#[test]
fn the_unit_allows_what_is_needed_and_each_of_its_lines_does_something() {
    let name = "the_unit_allows_what_is_needed_and_each_of_its_lines_does_something";
    if !can_run(name, &["root", "cc", "systemd-nspawn", "unshare", "nsenter", "dpkg-deb", "objdump", "sshd"])
    {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let package = support::package("build-deb", folder.path());
    let system = match Container::boot(folder.path()) {
        Ok(system) => system,
        Err(reason) => return not_run(name, &reason),
    };
    let words = prepare(&system, &package);
    let _group = Group(&system);
    let found = probe_in_place_of_the_daemon(&system, &words);
    is_fenced_in(&found);

    let unit = fs::read_to_string(system.path(UNIT)).expect("the unit is installed");
    assert_eq!(probe_under(&system, &unit, &words), found, "a copy of the unit is as good as the unit");
    let (_, service) = unit.split_once("[Service]\n").expect("a section");
    let (service, _) = service.split_once("\n[Install]").expect("a section");
    let is_setting = |line: &&str| line.contains('=') && !line.starts_with('#');
    for (begins, _) in LINES {
        assert!(service.lines().any(|line| line.starts_with(begins)), "the unit has no {begins}");
    }
    let mut wrong = Vec::new();
    for line in service.lines().filter(is_setting).filter(|line| !RUN.iter().any(|run| line.starts_with(run)))
    {
        let (_, shown) =
            LINES.iter().find(|(begins, _)| line.starts_with(begins)).expect("a line of fence.rs");
        let without: String = unit.lines().filter(|l| *l != line).map(|l| format!("{l}\n")).collect();
        let changed = differ(&found, &probe_under(&system, &without, &words));
        let expected = match shown {
            Shown::By(names) => names.iter().copied().collect(),
            Shown::Nowhere(reason) => {
                println!("{line} is not shown: {reason}");
                BTreeSet::new()
            }
        };
        if changed != expected {
            wrong.push(format!("without {line}: {changed:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The control group that is open to all. Where the machine has version 1, it outlives the container.
struct Group<'c>(&'c Container);

impl Drop for Group<'_> {
    fn drop(&mut self) {
        self.0.succeeds("rmdir /sys/fs/cgroup/open /sys/fs/cgroup/systemd/open");
    }
}

/// Nothing but what `fence.rs` says, and all of that.
fn is_fenced_in(found: &Found) {
    let (mut rest, mut wrong) = (found.clone(), Vec::new());
    let mut is = |what: &str, expected: &[&str]| {
        let outcome = rest.remove(what).unwrap_or_else(|| "not tried".to_owned());
        if !expected.contains(&outcome.as_str()) {
            wrong.push(format!("{what}: {outcome}, not {expected:?}"));
        }
    };
    ALLOWED.iter().for_each(|what| is(what, &["ok"]));
    for (error, names) in FORBIDDEN {
        names.iter().for_each(|what| is(what, &[error]));
    }
    VALUES.iter().for_each(|(what, value)| is(what, &[value]));
    DEPENDS.iter().for_each(|(what, values)| is(what, values));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rest.is_empty(), "fence.rs says nothing of {rest:?}");
}

/// What is refused in one case and not in the other, or has another value; but for what depends on the machine.
fn differ<'f>(found: &'f Found, other: &Found) -> BTreeSet<&'f str> {
    assert!(found.keys().eq(other.keys()), "as much was tried: {other:?}");
    let pairs = found.iter().zip(other.values());
    let differs = |((_, one), other): &((&String, &String), &String)| {
        one != other && !(is_refused(one) && is_refused(other))
    };
    let depends = |what: &&str| DEPENDS.iter().any(|(name, _)| name == what);
    pairs.filter(differs).map(|((what, _), _)| what.as_str()).filter(|what| !depends(what)).collect()
}

/// The name of an error or of a signal.
fn is_refused(outcome: &str) -> bool {
    outcome == "no effect"
        || (outcome.starts_with(['E', 'S'])
            && outcome.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()))
}

/// Installs the package, the probe and what it tries itself on; the probe's arguments.
fn prepare(system: &Container, package: &Path) -> String {
    system.sh("dpkg --purge portreeve; userdel portreeve 2>/dev/null || true");
    fs::copy(package, system.path("/portreeve.deb")).expect("the container is writable");
    system.sh("dpkg --install /portreeve.deb; systemctl stop portreeve");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/privilege/probe.c");
    run(command("cc").args(["-O1", "-o"]).arg(system.path("/opt/probe")).arg(source));
    system.sh("cp /opt/probe /opt/probe-setuid; chmod 4755 /opt/probe-setuid
        mkdir -m 777 /usr/open /var/open /home/open
        mkdir -p /usr/lib/modules; chmod 755 /usr/lib/modules
        echo > /tmp/of-the-machine
        useradd -m alice; chmod 700 /home/alice
        mkdir -m 777 /home/alice/in
        echo > /home/alice/in/open; echo > /home/alice/in/closed; chmod 600 /home/alice/in/closed
        chown -R alice: /home/alice
        mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /run/sshd/key
        systemd-run --quiet --unit=sshd-test /usr/sbin/sshd -D -f /dev/null -h /run/sshd/key -o UsePAM=no
        mknod -m 666 /dev/open c 1 5
        systemd-run --quiet --unit=target --uid=alice -p PrivateTmp=yes -p WorkingDirectory=/home/alice/in /opt/probe target");
    let target = system.sh("systemctl show --property MainPID --value target").trim().to_owned();
    system.sh(&format!("echo > /proc/{target}/root/tmp/open"));
    // systemd's own hierarchy is the one that a container may write, in both versions.
    let group = system.sh("for folder in /sys/fs/cgroup /sys/fs/cgroup/systemd; do
            mkdir -p $folder/open 2>/dev/null && chmod 666 $folder/open/cgroup.procs && echo $folder/open/cgroup.procs && break
        done");
    format!("{target} {}", group.trim())
}

/// The unit as it is, but for what it starts.
fn probe_in_place_of_the_daemon(system: &Container, words: &str) -> Found {
    let folder = "/run/systemd/system/portreeve.service.d";
    system.sh(&format!(
        "mkdir -p {folder}
        printf '[Service]\\nType=oneshot\\nRestart=no\\nExecStart=\\nExecStart=/opt/probe {words}\\n' > {folder}/probe.conf
        systemctl daemon-reload; systemctl start portreeve"
    ));
    let found = told(system, "portreeve");
    system.sh(&format!("rm -r {folder}; systemctl daemon-reload"));
    found
}

/// A unit of another text.
fn probe_under(system: &Container, unit: &str, words: &str) -> Found {
    let change = |line: &str| match line.split('=').next() {
        Some("Type") => "Type=oneshot\nRemainAfterExit=yes\n".to_owned(),
        Some("Restart") => "Restart=no\n".to_owned(),
        Some("ExecStart") => format!("ExecStart=/opt/probe {words}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = unit.lines().map(change).collect();
    fs::write(system.path("/run/systemd/system/probe.service"), text).expect("the container is writable");
    system.sh("systemctl daemon-reload; systemctl restart probe");
    told(system, "probe")
}

fn told(system: &Container, unit: &str) -> Found {
    let said = system.sh(&format!(
        "id=$(systemctl show --property InvocationID --value {unit})
        journalctl --sync; journalctl --output cat _SYSTEMD_INVOCATION_ID=$id"
    ));
    said.lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect()
}
