//! Each example of more privileges, in a real system: put in place as it says itself, by the service as it ships, it turns its
//! source on and nothing off, and what that source alone can tell is told, with who did it.
//!
//! Four of them in a container. There is no eBPF there, since the kernel tells process numbers of its first namespace, and no
//! audit, nor the notices of processes before Linux 6.16, which the kernel gives to its first network namespace alone. So all are
//! tried once more in a machine of its own, which is emulated: another kernel (Debian's), this machine's systemd and files.
//! What that cannot show is how fast it is.
#![expect(clippy::disallowed_methods, reason = "a test waits, and starts what it drives")]
#![expect(clippy::expect_used, reason = "helpers of a test; a failure is a panic")]
#![expect(clippy::indexing_slicing, reason = "a JSON value answers a missing key with null")]

mod machine;
#[path = "../support/shipping.rs"]
mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::container::Container;
use support::{can_run, command, not_run, run, wait_for};

use machine::Machine;

const LOG: &str = "/var/log/portreeve/events.jsonl";

const NOT_BUILT_IN: &str = "off: this build has no eBPF (cargo feature ebpf)";

/// Where scripts are run as root.
trait System {
    /// What it says. Panics if it fails.
    fn sh(&self, script: &str) -> String;
    fn succeeds(&self, script: &str) -> bool;
}

impl System for Container {
    fn sh(&self, script: &str) -> String {
        Self::sh(self, script)
    }

    fn succeeds(&self, script: &str) -> bool {
        Self::succeeds(self, script)
    }
}

#[test]
fn in_a_container_the_examples_give_what_they_say() {
    let name = "in_a_container_the_examples_give_what_they_say";
    if !can_run(name, &["root", "systemd-nspawn", "unshare", "nsenter", "dpkg-deb", "objdump", "perl", "nft"])
    {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let package = package(folder.path());
    // nspawn takes these away from everybody in it. It keeps the rest of what eBPF and fanotify ask for.
    let given = ["--capability=CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf fanotify_init fanotify_mark"];
    let system = match Container::boot_with(folder.path(), &given) {
        Ok(system) => system,
        Err(reason) => return not_run(name, &reason),
    };
    // A machine of those who build portreeve may have it installed. nspawn mounts no home that can tell who changes files.
    system.sh("dpkg --purge portreeve; userdel portreeve 2>/dev/null || true; mount -t tmpfs -o mode=0755 tmpfs /home");
    std::fs::copy(&package, system.path("/portreeve.deb")).expect("the container is writable");
    system.sh("dpkg --install /portreeve.deb");
    prepare(&system);

    bare_it_has_none(&system);
    syn(&system);
    owners_by_syn(&system);
    netns(&system);
    nflog(&system);
    files(&system);
    take(&system, "ebpf", None);
    let state = events(&system)["ebpf"].clone();
    let is_known = |state: &str| {
        state == NOT_BUILT_IN || state.starts_with("off: needs the machine's first namespace of processes")
    };
    assert!(state.as_str().is_some_and(is_known), "the loader itself is let through: {state}");
}

#[test]
fn on_a_machine_of_its_own_each_example_gives_what_it_says() {
    let name = "on_a_machine_of_its_own_each_example_gives_what_it_says";
    let needs = [
        "root",
        "qemu-system-x86_64",
        "setpriv",
        "cpio",
        "depmod",
        "dpkg-deb",
        "objdump",
        "perl",
        "nft",
        "auditctl",
    ];
    if !can_run(name, &needs) {
        return;
    }
    let Some(kernel) = Machine::kernel() else {
        return not_run(name, "needs a kernel, which PORTREEVE_MACHINE=1 tests/run fetches");
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let package = package(folder.path());
    let system = match Machine::boot(folder.path(), &kernel, &package) {
        Ok(system) => system,
        Err(reason) => return not_run(name, &reason),
    };
    system.sh("systemd-sysusers portreeve.conf; systemctl daemon-reload; systemctl start portreeve");
    prepare(&system);

    bare_it_has_none(&system);
    syn(&system);
    netns(&system);
    nflog(&system);
    executions(&system);
    files(&system);
    audit(&system);
    ebpf(&system, name);
}

/// The binary under test without what a debugger needs of it, which would take longer to pack than all else.
fn package(folder: &Path) -> PathBuf {
    let stripped = folder.join("portreeve");
    run(command("strip").arg("-g").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_portreeve")));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build-deb");
    let said =
        run(command(script.to_str().expect("a path in UTF-8")).arg(folder).env("PORTREEVE_BINARY", stripped));
    PathBuf::from(said.lines().last().expect("the script prints the package's name"))
}

/// alice, a server that holds what is connected to it, and one who connects for so many seconds.
fn prepare(system: &impl System) {
    system.sh("useradd -m alice
        cat > /serve <<'END'
use IO::Socket::INET;
$server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 22, Listen => 64, ReuseAddr => 1) or die;
push @all, $_ while $_ = $server->accept;
END
        cat > /visit <<'END'
exec 3<>/dev/tcp/127.0.0.1/22; read -t $1 -N 99 -u 3
END
        chmod 644 /serve /visit
        systemd-run --quiet --unit=serve perl /serve
        until bash /visit 0.01 2>/dev/null || [ $? -gt 128 ]; do sleep 0.2; done");
}

fn bare_it_has_none(system: &impl System) {
    let events = events(system);
    assert_eq!(on(&events), ["destroy"], "{events}");
    for (kind, lacks) in [("syn", "CAP_NET_RAW"), ("ebpf", "CAP_BPF")] {
        let state = events[kind].as_str().expect("it says");
        assert!(state.contains(lacks) || state == NOT_BUILT_IN, "{events}");
    }
}

fn syn(system: &impl System) {
    take(system, "syn", None);
    is_on(system, &["destroy", "syn"], &["CAP_NET_RAW", "CAP_SYS_PTRACE"]);
    let open = visit(system, "syn");
    assert_eq!(open["process"]["name"], "bash", "{open}");
}

/// Behind an interval of two seconds, which alone would meet one in six of these. How short they may be on a machine
/// that is at leisure is what `benches/costs` says.
fn owners_by_syn(system: &impl System) {
    system.sh("echo SLEEP=2000 > /etc/default/portreeve");
    take(system, "syn", None);
    let before = told(system, "connection-opened").len();
    system.sh("for i in $(seq 10); do runuser -u alice -- bash /visit 0.3 || true; done");
    let hers = || {
        let opens = told(system, "connection-opened").into_iter().skip(before);
        opens.filter(|open| open["user"]["name"] == "alice" && open["process"]["name"] == "bash").count()
    };
    wait_for(|| (hers() >= 8).then_some(()))
        .unwrap_or_else(|| panic!("{} of 10 connections have an owner", hers()));
    system.sh("rm /etc/default/portreeve");
}

/// With that of `syn`, as it says: a service with a network of its own connects to a server in it.
fn netns(system: &impl System) {
    take(system, "syn", None);
    add(system, "netns", None);
    is_on(system, &["destroy", "syn"], &["CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
    system.sh("systemd-run --quiet --unit=secluded -p PrivateNetwork=yes bash -c \
        'perl /serve & until exec 3<>/dev/tcp/127.0.0.1/22; do sleep 0.1; done 2>/dev/null; sleep 200'");
    let is_its = |record: &Value| record["service"]["name"] == "secluded.service";
    let open = opened_by(system, 0, is_its).expect("it is told");
    let connection = &open["portreeve"]["connection"];
    let own = told(system, "watch-started").pop().expect("it watches")["portreeve"]["watch"]["netns"].clone();
    assert_ne!(connection["netns"], own, "{open}");
    // Only who has entered the namespace is told that.
    assert!(connection["cookie"].is_string(), "{open}");
    system.sh("systemctl stop secluded");
    let close = wait_for(|| told(system, "connection-closed").into_iter().find(is_its)).expect("and its end");
    assert_eq!(close["portreeve"]["close"]["exact"], true, "{close}");
    assert_eq!(system.sh("systemd-analyze verify --man=no portreeve.service 2>&1"), "", "with both examples");
}

fn nflog(system: &impl System) {
    system.sh("portreeve rule nflog | nft -f -");
    take(system, "nflog", Some("events = \"destroy,nflog:22\""));
    is_on(system, &["destroy", "nflog"], &["CAP_NET_ADMIN", "CAP_SYS_PTRACE"]);
    visit(system, "nflog");
    system.sh("nft delete table inet portreeve");
}

/// Before Linux 6.6 they need what nflog.conf grants, and from then on nothing.
fn executions(system: &impl System) {
    take(system, "nflog", Some("events = \"destroy,proc\"\nexecutions = \"sleep\""));
    is_on(system, &["destroy", "proc"], &["CAP_NET_ADMIN", "CAP_SYS_PTRACE"]);
    system.sh("runuser -u alice -- sleep 0.5");
    let is_hers = |record: &Value| record["user"]["name"] == "alice" && record["process"]["name"] == "sleep";
    wait_for(|| told(system, "process-started").into_iter().find(is_hers)).expect("it is told");
    wait_for(|| told(system, "process-ended").into_iter().find(is_hers)).expect("and its end");
}

fn files(system: &impl System) {
    system.sh("runuser -u alice -- mkdir -p /home/alice/.ssh");
    take(system, "ssh-files", Some(""));
    is_on(system, &["destroy", "files"], &["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
    system.sh("runuser -u alice -- bash -c 'echo key > ~/.ssh/authorized_keys; sleep 0.5; :'");
    let is_it = |record: &Value| record["file"]["path"] == "/home/alice/.ssh/authorized_keys";
    let change = wait_for(|| told(system, "file-changed").into_iter().find(is_it)).expect("it is told");
    assert_eq!(change["portreeve"]["file"]["source"], "fanotify", "{change}");
    assert_eq!(
        (&change["user"]["name"], &change["process"]["name"]),
        (&"alice".into(), &"bash".into()),
        "{change}"
    );
}

/// An attempt to which there is no way: no packet leaves, and no table shows it.
fn audit(system: &impl System) {
    system.sh("portreeve rule audit > /run/portreeve.rules; auditctl -R /run/portreeve.rules; auditctl -e 1");
    take(system, "audit", Some("events = \"destroy,audit\""));
    is_on(system, &["audit", "destroy"], &["CAP_SYS_PTRACE", "CAP_AUDIT_READ"]);
    let open = attempt(system, "192.0.2.1", "audit");
    assert_eq!(open["destination"]["ip"], "192.0.2.1", "{open}");
    system.sh("auditctl -D -k portreeve");
}

/// Refused at once: nobody could have looked.
fn ebpf(system: &impl System, test: &str) {
    take(system, "ebpf", None);
    if events(system)["ebpf"] == NOT_BUILT_IN {
        return not_run(test, "needs the feature ebpf for its last part");
    }
    is_on(system, &["ebpf"], &["CAP_SYS_PTRACE", "CAP_PERFMON", "CAP_BPF"]);
    let open = attempt(system, "127.0.0.2", "ebpf");
    let id = &open["portreeve"]["connection"]["id"];
    let is_its = |record: &Value| record["portreeve"]["connection"]["id"] == *id;
    let close = wait_for(|| told(system, "connection-closed").into_iter().find(is_its)).expect("and its end");
    assert_eq!(close["portreeve"]["close"]["reason"], "refused", "{close}");
    // No other call than the one is let through: what it does not need stays forbidden.
    let filter = system.sh("systemctl show --property SystemCallFilter --value portreeve");
    let calls: Vec<_> = filter.split_whitespace().collect();
    assert!(calls.contains(&"bpf") && !calls.contains(&"perf_event_open"), "{filter}");
    visit(system, "ebpf");
}

/// alice connects to the server and stays for a second.
fn visit(system: &impl System, seen: &str) -> Value {
    let before = told(system, "connection-opened").len();
    system.sh("runuser -u alice -- bash /visit 1 || true");
    hers(system, seen, before)
}

/// alice's attempt to connect to where nobody answers.
fn attempt(system: &impl System, address: &str, seen: &str) -> Value {
    let before = told(system, "connection-opened").len();
    assert!(!system.succeeds(&format!("runuser -u alice -- bash -c 'exec 3<>/dev/tcp/{address}/22'")));
    hers(system, seen, before)
}

fn hers(system: &impl System, seen: &str, before: usize) -> Value {
    let is_hers = |open: &Value| open["user"]["name"] == "alice" && open["process"]["name"] == "bash";
    let open = opened_by(system, before, is_hers);
    let open = open.unwrap_or_else(|| panic!("{seen} tells her connection"));
    assert_eq!(open["portreeve"]["connection"]["seen"], seen, "{open}");
    open
}

/// The open, of those behind so many, whose owner this is: told with it, or found later, as on a slow machine.
fn opened_by(system: &impl System, before: usize, is_its: impl Fn(&Value) -> bool) -> Option<Value> {
    wait_for(|| {
        let mut named = told(system, "connection-opened").split_off(before);
        let opens = named.clone();
        named.extend(told(system, "connection-changed"));
        let id = |record: &Value| record["portreeve"]["connection"]["id"].clone();
        let its: Vec<Value> = named.iter().filter(|record| is_its(record)).map(id).collect();
        opens.into_iter().find(|open| its.contains(&id(open)))
    })
}

/// Puts it in place as it says itself, alone, with these settings before what it sets.
fn take(system: &impl System, name: &str, settings: Option<&str>) {
    system.sh("rm -rf /etc/systemd/system/portreeve.service.d
        [ -e /etc/portreeve/shipped ] || cp /etc/portreeve/portreeve.toml /etc/portreeve/shipped
        cp /etc/portreeve/shipped /etc/portreeve/portreeve.toml");
    add(system, name, settings);
}

fn add(system: &impl System, name: &str, settings: Option<&str>) {
    let before = told(system, "watch-started").len();
    let settings = settings.unwrap_or_default();
    system.sh(&format!(
        "printf '%s\\n' '{settings}' >> /etc/portreeve/portreeve.toml
        sed -n 's/^#   //p' /usr/share/doc/portreeve/examples/{name}.conf | grep -v '^portreeve rule' | sh -eux"
    ));
    wait_for(|| (told(system, "watch-started").len() > before).then_some(())).expect("it watches again");
}

/// These sources and no others, with these capabilities and no others; of a source that was asked for none is off.
fn is_on(system: &impl System, kinds: &[&str], capabilities: &[&str]) {
    let watch = told(system, "watch-started").pop().expect("it watches")["portreeve"]["watch"].clone();
    assert_eq!(on(&watch["events"]), kinds, "{watch}");
    assert_eq!(watch["capabilities"], json!(capabilities), "{watch}");
}

fn on(events: &Value) -> Vec<&str> {
    let kinds = events.as_object().expect("an object").iter();
    kinds.filter(|(_, state)| *state == "on").map(|(kind, _)| kind.as_str()).collect()
}

fn events(system: &impl System) -> Value {
    let started = wait_for(|| told(system, "watch-started").pop()).expect("it watches");
    started["portreeve"]["watch"]["events"].clone()
}

fn told(system: &impl System, action: &str) -> Vec<Value> {
    let log = system.sh(&format!("grep -h '\"action\":\"{action}\"' {LOG} || true"));
    // What stands behind the last line break is still being written.
    let whole = log.rsplit_once('\n').map_or("", |(lines, _)| lines);
    whole.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
}
