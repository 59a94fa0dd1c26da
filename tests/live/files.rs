//! Changes of SSH's files, in homes and an `/etc` of the lab's own, which its mount namespace alone has.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::{assert_fields, with_action};
use crate::support::watch::{PORTREEVE, Watch};

/// Homes of alice, who has a `.ssh`, and of bob, who has none; a user database and an `/etc/ssh`.
fn homes(lab: &Lab) {
    let etc = lab.path("etc");
    lab.run(&format!(
        "mkdir -m 755 {etc} && cp -r /etc/ssh {etc}/ && mkdir -p {etc}/ssh/sshd_config.d && \
         mount -t tmpfs -o mode=755 tmpfs /home && mkdir -p /home/alice/.ssh /home/bob && \
         chmod 700 /home/alice/.ssh && touch /home/alice/.ssh/authorized_keys /home/alice/.ssh/notes",
        etc = etc.display()
    ));
    let passwd = "root:x:0:0:root:/nonexistent:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
    std::fs::write(lab.path("etc/passwd"), passwd).unwrap();
    for name in ["nsswitch.conf", "ld.so.cache", "group"] {
        let _not_everywhere = std::fs::copy(Path::new("/etc").join(name), etc.join(name));
    }
    std::fs::write(lab.path("etc/shadow"), "root:*:1::::::\n").unwrap();
    lab.run(&format!("mount --bind {} /etc", etc.display()));
}

/// Of each change: the path, what happened, by which program.
fn story(records: &[Value]) -> Vec<(String, Vec<String>, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let told = with_action(records, "file-changed");
    told.iter()
        .map(|record| {
            let changes = record["portreeve"]["file"]["change"].as_array().unwrap();
            let changes = changes.iter().map(|change| text(change).unwrap()).collect();
            (text(&record["file"]["path"]).unwrap(), changes, text(&record["process"]["name"]))
        })
        .collect()
}

fn has(records: &[Value], path: &str, change: &str) -> bool {
    story(records).iter().any(|(of, changes, _)| of == path && changes.iter().any(|one| one == change))
}

fn wait(watch: &mut Watch, path: &str, change: &str) {
    watch.wait_for(&format!("{change} {path}"), |records| has(records, path, change).then_some(()));
}

/// Until all folders are watched: there is no notice of that.
fn settle() {
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
fn by_fanotify_each_change_is_told_with_its_process() {
    let lab = lab!("bash");
    homes(&lab);
    let mut watch = lab.watch(&["--ssh-files"]);
    let started = watch.wait_actions("watch-started", 1).remove(0);
    assert_eq!(started["portreeve"]["watch"]["events"]["files"], "on");
    settle();
    let keys = "/home/alice/.ssh/authorized_keys";
    // It lives for a moment after each, as a person's editor does.
    let mut bash = lab
        .command("bash")
        .args(["-c", &format!("echo key >> {keys}; echo x > /home/alice/.ssh/notes; sleep 0.3; chmod() {{ :; }}; \
                               exec 9> /home/alice/.ssh/id_test; sleep 0.3; echo >> /etc/ssh/sshd_config; sleep 0.3")])
        .spawn()
        .unwrap();
    let pid = bash.id();
    assert!(bash.wait().unwrap().success());
    for (path, change) in
        [(keys, "modified"), ("/home/alice/.ssh/id_test", "created"), ("/etc/ssh/sshd_config", "modified")]
    {
        wait(&mut watch, path, change);
    }
    lab.run(&format!("mv {keys} {keys}2; rm {keys}2; chmod 750 /home/alice/.ssh"));
    wait(&mut watch, &format!("{keys}2"), "deleted");
    wait(&mut watch, "/home/alice/.ssh", "attributes");
    let records = watch.stop().records;
    let told = with_action(&records, "file-changed");
    assert_fields(
        &told[0],
        &json!({
            "file.path": keys,
            "file.directory": "/home/alice/.ssh",
            "file.name": "authorized_keys",
            "process.pid": pid,
            "process.name": "bash",
            "user.name": "root",
            "portreeve.file.source": "fanotify",
            "portreeve.file.change": ["modified"],
            "event.category": ["file"],
            "event.type": ["change"],
            "event.dataset": "portreeve.file",
        }),
    );
    let first = story(&records).into_iter().take_while(|(path, ..)| path != "/etc/ssh/sshd_config");
    assert_eq!(first.filter(|(path, ..)| path.ends_with("notes")).count(), 0, "is nobody's business");
    assert!(has(&records, keys, "moved_from") && has(&records, &format!("{keys}2"), "moved_to"));
    // Neither its content nor what was only read is told.
    assert!(!told.iter().any(|record| record.to_string().contains("\"key")), "{told:#?}");
}

#[test]
fn who_changed_a_file_is_told_with_the_login_he_came_by() {
    let mut lab = lab!();
    homes(&lab);
    let sshd = "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n";
    let passwd = std::fs::read_to_string(lab.path("etc/passwd")).unwrap() + sshd;
    std::fs::write(lab.path("etc/passwd"), passwd).unwrap();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&["--ssh-files"]);
    settle();
    let keys = "/home/alice/.ssh/authorized_keys";
    let remote = format!("cd /; echo backdoor >> {keys}; sleep 0.5; :");
    let done = lab.ssh().args(["127.0.0.1", &remote]).status().unwrap();
    assert!(done.success(), "{}", std::fs::read_to_string(lab.path("sshd-0.log")).unwrap());
    wait(&mut watch, keys, "modified");
    let told = with_action(&watch.stop().records, "file-changed");
    assert_fields(
        &told[0],
        &json!({
            "file.path": keys,
            "user.name": "root",
            "portreeve.origin.kind": "ssh",
            "portreeve.origin.evidence": "socket",
            "portreeve.origin.ip": "127.0.0.1",
            "process.entry_leader.entry_meta.type": "sshd",
        }),
    );
}

#[test]
fn a_home_and_a_folder_that_are_made_later_are_watched_and_what_is_in_them_is_told() {
    let lab = lab!();
    homes(&lab);
    let mut watch = lab.watch(&["--ssh-files"]);
    settle();
    // As useradd does it: with what is in /etc/skel.
    lab.run("mkdir -p /tmp/skel-$$/carol/.ssh && touch /tmp/skel-$$/carol/.ssh/authorized_keys && cp -r /tmp/skel-$$/carol /home/ && rm -r /tmp/skel-$$");
    // Where the copying takes long, the folder is watched before what is in it is there.
    let keys = "/home/carol/.ssh/authorized_keys";
    watch.wait_for("a home with its files", |records| {
        (has(records, keys, "found") || has(records, keys, "created")).then_some(())
    });
    lab.run("echo x >> /home/carol/.ssh/authorized_keys");
    wait(&mut watch, keys, "modified");
    // Bob had none.
    lab.run("mkdir -m 700 /home/bob/.ssh");
    wait(&mut watch, "/home/bob/.ssh", "created");
    settle();
    lab.run("echo x > /home/bob/.ssh/config; mkdir /etc/ssh/more.d");
    wait(&mut watch, "/home/bob/.ssh/config", "created");
    wait(&mut watch, "/etc/ssh/more.d", "created");
    settle();
    lab.run("echo x > /etc/ssh/more.d/a.conf");
    wait(&mut watch, "/etc/ssh/more.d/a.conf", "created");
    // A user whose home is elsewhere.
    lab.run(
        "mkdir -p /run/homes/dave/.ssh && cp /etc/passwd /etc/passwd+ && \
         echo 'dave:x:1001:1001::/run/homes/dave:/bin/sh' >> /etc/passwd+ && mv /etc/passwd+ /etc/passwd",
    );
    wait(&mut watch, "/run/homes/dave/.ssh", "found");
    lab.run("echo x > /run/homes/dave/.ssh/rc");
    wait(&mut watch, "/run/homes/dave/.ssh/rc", "created");
    // A folder that is another's now is not told under its old name.
    lab.run("mv /home/bob/.ssh /home/bob/old; echo x >> /home/bob/old/config; mkdir /home/bob/.ssh");
    settle();
    lab.run("echo x > /home/bob/.ssh/config");
    settle();
    let records = watch.stop().records;
    let of_config = story(&records).into_iter().filter(|(path, ..)| path == "/home/bob/.ssh/config");
    let created = of_config.filter(|(_, changes, _)| changes.iter().any(|change| change == "created"));
    assert_eq!(created.count(), 2);
    assert!(!story(&records).iter().any(|(path, ..)| path.contains("/old/")));
}

#[test]
fn without_privilege_ones_own_files_are_told_without_process_and_those_of_others_are_counted() {
    let lab = lab!();
    homes(&lab);
    let nobodys = format!("nobody:x:{NOBODY}:{NOBODY}::/home/nobody:/bin/sh\n");
    let passwd = std::fs::read_to_string(lab.path("etc/passwd")).unwrap() + &nobodys;
    std::fs::write(lab.path("etc/passwd"), passwd).unwrap();
    lab.run(&format!("mkdir -p /home/nobody/.ssh; chmod 700 /home/alice /home/nobody; chown -R {NOBODY}:{NOBODY} /home/nobody"));
    let command = lab.command_as(NOBODY, &[], PORTREEVE);
    let mut watch = Watch::start(&lab, lab.watcher(command).arg("--ssh-files"));
    let started = watch.wait_actions("watch-started", 1).remove(0);
    let warnings = started["portreeve"]["watch"]["warnings"].to_string();
    assert!(warnings.contains("fanotify needs CAP_SYS_ADMIN"), "{warnings}");
    let gaps = |records: &[Value]| {
        with_action(records, "gap")
            .into_iter()
            .find(|gap| gap["portreeve"]["gap"]["cause"] == "files_unwatched")
    };
    let gap = watch.wait_for("the gap", gaps);
    let detail = gap["portreeve"]["gap"]["detail"].as_str().unwrap();
    assert!(detail.contains("/home/alice") && detail.to_lowercase().contains("denied"), "{gap}");
    lab.run("echo x >> /home/nobody/.ssh/known_hosts");
    wait(&mut watch, "/home/nobody/.ssh/known_hosts", "modified");
    let records = watch.stop().records;
    let told = with_action(&records, "file-changed");
    assert_fields(
        told.last().unwrap(),
        &json!({ "portreeve.file.source": "inotify", "portreeve.file.reason": "not_told", "process": null }),
    );
}

#[test]
fn with_the_capabilities_of_the_drop_in_every_home_is_told_with_its_process() {
    let lab = lab!("bash");
    homes(&lab);
    lab.run("chmod 700 /home/alice; chown -R 1000:1000 /home/alice");
    let dropin = include_str!("../../systemd/examples/ssh-files.conf");
    let granted = dropin.lines().find_map(|line| line.strip_prefix("AmbientCapabilities=")).unwrap();
    // That of the unit too.
    let names = format!("{granted} CAP_SYS_PTRACE").to_lowercase().replace("cap_", "+");
    let list = format!("-all,{}", names.split(' ').collect::<Vec<_>>().join(","));
    let options = ["inh", "ambient", "bounding"].map(|set| match set {
        "bounding" => format!("--bounding-set={list}"),
        set => format!("--{set}-caps={list}"),
    });
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut command = lab.portreeve_as(NOBODY, &options);
    let mut watch = Watch::start(&lab, command.arg("--ssh-files"));
    settle();
    let script = "echo x >> /home/alice/.ssh/config; sleep 0.3; :";
    assert!(lab.command("bash").args(["-c", script]).status().unwrap().success());
    wait(&mut watch, "/home/alice/.ssh/config", "created");
    let told = with_action(&watch.stop().records, "file-changed");
    assert_fields(
        &told[0],
        &json!({ "process.name": "bash", "portreeve.file.source": "fanotify", "user.name": "root" }),
    );
}

#[test]
fn many_writes_are_told_once_a_second_with_their_number() {
    let lab = lab!("bash");
    homes(&lab);
    std::fs::set_permissions(lab.path("etc"), Permissions::from_mode(0o755)).unwrap();
    let mut watch = lab.watch(&["--ssh-files"]);
    settle();
    let script = "exec 9>> /home/alice/.ssh/known_hosts; for i in $(seq 30); do echo $i >&9; sleep 0.02; done; sleep 1.5; :";
    assert!(lab.command("bash").args(["-c", script]).status().unwrap().success());
    watch.wait_for("the rest", |records| {
        with_action(records, "file-changed")
            .iter()
            .any(|r| r["portreeve"]["file"]["repeated"].is_u64())
            .then_some(())
    });
    settle();
    let told = with_action(&watch.stop().records, "file-changed");
    assert!(told.len() <= 4, "{:#?}", story(&told));
    let last = told.iter().find(|record| record["portreeve"]["file"]["repeated"].is_u64()).unwrap();
    // The kernel merges equal notices that were not read yet.
    assert!(last["process"]["name"] == "bash" && last["portreeve"]["file"]["repeated"].as_u64() > Some(0));
}
