//! Without a disk to write to nothing is lost in silence, no line is torn, polling goes on, and the log heals by itself.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::lab;
use crate::story::{Log, Pair, Run, SSH, closes_of, gaps, opens_of, starts};
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::{gaps_but_stalls, with_action};
use crate::support::watch::{PATIENCE, PORTREEVE, read_records};
use crate::support::{output, wait_for};

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// So many connections, each for as long as a poll needs; their records, with long arguments, do not fit into the backlog.
const FLOOD: usize = 500;

/// Ten at a time, both ends.
const CLIENT: &str = r#"
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.2:22", Listen => 20) or die;
for (1 .. $ARGV[0] / 10) {
    my @ends = map { (IO::Socket::INET->new("127.0.0.2:22") || die, $server->accept) } 1 .. 10;
    select undef, undef, undef, 0.11;
}
"#;

/// Opens and closes connections; answers how many.
fn flood(lab: &Lab) -> usize {
    let mut perl = lab.command("perl");
    let flooded = output(perl.args(["-e", CLIENT, &FLOOD.to_string(), &"x".repeat(6_000)]));
    assert!(flooded.status.success(), "{}", String::from_utf8_lossy(&flooded.stderr));
    sleep_ms(500);
    FLOOD
}

/// What was told and what was counted as lost is what happened.
#[track_caller]
fn assert_told_or_counted(records: &[Value], made: usize) {
    let gaps = gaps(records, "backlog_full");
    let lost = |action: &str| gaps.iter().filter_map(|gap| gap["lost"][action].as_u64()).sum::<u64>();
    for action in ["connection-opened", "connection-closed"] {
        let told = with_action(records, action).len() as u64;
        println!("{action}: {told} told, {} lost of {made}", lost(action));
        assert_eq!(told + lost(action), made as u64, "{gaps:?}");
    }
    for gap in &gaps {
        let sum: u64 = gap["lost"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(gap["count"], sum, "{gap}");
        assert!(gap["from"].as_str() < gap["to"].as_str(), "{gap}");
    }
}

/// The watch itself took no notice: it polled, if not always in time on a busy machine.
#[track_caller]
fn assert_polled(records: &[Value], lasted: Duration) {
    let stopped = with_action(records, "watch-stopped").pop().expect("a watch-stopped");
    let polls = stopped["portreeve"]["watch"]["totals"]["polls"].as_u64().unwrap();
    let due = u64::try_from(lasted.as_millis() / 50).unwrap();
    println!("{polls} polls of {due}");
    assert!(polls * 10 >= due * 2, "{polls} polls in {lasted:?}");
    assert_eq!(gaps(records, "stalled"), [] as [Value; 0]);
}

fn fill(lab: &Lab) {
    lab.run("cat /dev/zero > /run/disk/filler 2> /dev/null || :");
}

/// A log on a disk of its own, of a few hundred KiB.
fn small_disk(lab: &Lab) -> Log {
    lab.run("mkdir /run/disk && mount -t tmpfs -o size=256k tmpfs /run/disk");
    Log::inside(lab, "/run/disk")
}

#[test]
fn more_than_memory_holds_while_the_disk_is_full_is_counted_and_the_log_heals() {
    let lab = lab!("perl");
    let server = lab.listen(SSH);
    let log = small_disk(&lab);
    let began = Instant::now();
    let mut run = log.run(&lab);
    drop(log.connect(&lab, &server));
    log.wait_actions("connection-closed", 1);
    fill(&lab);
    let made = 1 + flood(&lab);
    assert!(run.is_alive(), "{}", run.errors());
    let errors = run.errors();
    assert_eq!(errors.matches("No space left").count(), 1, "said once: {errors}");
    let told = with_action(&log.now(), "connection-opened").len();
    assert!(told < made / 2, "the disk was not full: this test proved nothing");
    // The disk that takes it all is larger than the one that was full.
    lab.run("rm /run/disk/filler; mount -o remount,size=64m /run/disk");
    log.wait("the gap", |records| gaps(records, "backlog_full").pop());
    // It is told before anything newer.
    let newer = log.connect(&lab, &server);
    let told = log.now();
    let number = |record: &Value| record["event"]["sequence"].as_u64().unwrap();
    let gap = with_action(&told, "gap").remove(0);
    assert!(number(&gap) < number(&opens_of(&told, newer.port)[0]));
    drop(newer);
    sleep_ms(300);
    run.stop();
    let records = log.story();
    assert_told_or_counted(&records, made + 1);
    assert!(!gaps(&records, "backlog_full").is_empty(), "all was held: this test proved nothing");
    assert_polled(&records, began.elapsed());
}

#[test]
fn a_disk_that_is_full_again_and_again_loses_nothing_that_memory_can_hold() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = small_disk(&lab);
    let run = log.run(&lab);
    for round in 1..=4 {
        fill(&lab);
        let pairs: Vec<_> = (0..5).map(|_| Pair::new(&lab, &server)).collect();
        sleep_ms(250);
        drop(pairs);
        sleep_ms(200);
        lab.run("rm /run/disk/filler");
        log.wait_actions("connection-closed", 5 * round);
    }
    // Also what a stop leaves in memory is written if there is room within its patience; a kill's state is another's.
    run.stop();
    let records = log.story();
    // On a busy machine it is full for long enough that the state is to be written meanwhile.
    let mut gaps = gaps_but_stalls(&records);
    gaps.retain(|gap| gap["portreeve"]["gap"]["cause"] != "state_failed");
    assert_eq!(gaps, [] as [Value; 0]);
    assert_told_or_counted(&records, 20);
}

#[test]
fn a_kill_while_the_disk_is_full_tears_nothing_and_the_next_run_goes_on() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = small_disk(&lab);
    let run = log.run(&lab);
    let told = log.connect(&lab, &server);
    fill(&lab);
    let held: Vec<_> = (0..40).map(|_| Pair::new(&lab, &server)).collect();
    sleep_ms(300);
    run.kill();
    // It starts on a full disk too, and waits.
    let mut run = log.spawn(&mut lab.portreeve());
    sleep_ms(700);
    assert!(run.is_alive(), "{}", run.errors());
    lab.run("rm /run/disk/filler; mount -o remount,size=64m /run/disk");
    log.wait_actions("connection-opened", 41);
    let port = told.port;
    drop((told, held));
    log.wait_actions("connection-closed", 41);
    run.stop();
    let records = log.story();
    assert_eq!(opens_of(&records, port).len(), 1);
    assert_told_or_counted(&records, 41);
}

#[test]
fn a_stop_while_the_disk_is_full_says_so_and_the_next_run_tells_what_stands() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = small_disk(&lab);
    let mut run = log.run(&lab);
    let told = log.connect(&lab, &server);
    fill(&lab);
    let held: Vec<_> = (0..10).map(|_| Pair::new(&lab, &server)).collect();
    sleep_ms(400);
    run.signal(Signal::TERM);
    assert_eq!(run.ended().code(), Some(1), "a service that lost records is seen to have failed");
    let said = run.errors();
    assert!(said.contains("could not be written before the end"), "{said}");
    lab.run("rm /run/disk/filler");
    let last = log.now().pop().unwrap();
    let run = log.run(&lab);
    log.wait_actions("connection-opened", 11);
    run.stop();
    let records = log.story();
    let start = &starts(&records)[1];
    assert_eq!((&start["stream"], &start["previous_end"]), (&json!("continued"), &json!("unclean")));
    assert_eq!(gaps(&records, "not_watching")[0]["from"], last["@timestamp"]);
    drop((told, held));
}

/// An error of the device makes ext4 read-only; nothing heals that but another disk.
#[test]
fn on_a_disk_that_became_read_only_records_wait_for_another() {
    let lab = lab!("mkfs.ext4", "losetup");
    let server = lab.listen(SSH);
    let image = lab.path("image").display().to_string();
    lab.run(&format!("truncate -s 16M {image}; mkfs.ext4 -q {image}; mkdir /run/disk"));
    let mounted = output(lab.command("mount").args(["-o", "loop", &image, "/run/disk"]));
    if !mounted.status.success() {
        let why = String::from_utf8_lossy(&mounted.stderr).trim().to_owned();
        return crate::support::not_run("on_a_disk_that_became_read_only_records_wait_for_another", &why);
    }
    let log = Log::inside(&lab, "/run/disk");
    let mut run = log.run(&lab);
    let first = log.connect(&lab, &server);
    sleep_ms(300);
    lab.run("mount -o remount,abort /run/disk");
    let second = Pair::new(&lab, &server);
    wait_for("what it says", PATIENCE, || run.errors().contains("Read-only file system").then_some(()));
    assert!(run.is_alive(), "{}", run.errors());
    let before = std::fs::read(&log.seen).unwrap();
    assert_eq!(opens_of(&log.now(), second.port).len(), 0);
    lab.run("mount -t tmpfs tmpfs /run/disk");
    wait_for("the second open", PATIENCE, || opens_of(&log.now(), second.port).pop());
    drop((first, second));
    log.wait_actions("connection-closed", 2);
    run.stop();
    std::fs::write(log.beside("events.jsonl-0"), before).unwrap();
    assert_eq!(with_action(&log.story(), "connection-opened").len(), 2);
    lab.run("umount /run/disk; umount -l /run/disk");
}

/// The service's user, and a folder of its own.
fn as_service(lab: &Lab, log: &Log) -> Command {
    chown(log.folder(), Some(NOBODY), Some(NOBODY)).unwrap();
    lab.portreeve_as(NOBODY, &["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"])
}

#[test]
fn a_rotation_that_leaves_a_file_it_may_not_write_costs_nothing_and_is_said_once() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let mut run = log.run_as(&mut as_service(&lab, &log));
    let first = log.connect(&lab, &server);
    let old = log.beside("events.jsonl-1");
    // As logrotate does it with `create 0600 root root`.
    std::fs::rename(&log.seen, &old).unwrap();
    std::fs::write(&log.seen, "").unwrap();
    std::fs::set_permissions(&log.seen, Permissions::from_mode(0o600)).unwrap();
    run.signal(Signal::HUP);
    let more: Vec<_> = (0..5).map(|_| log.connect(&lab, &server)).collect();
    assert!(run.is_alive(), "{}", run.errors());
    assert_eq!(std::fs::metadata(&log.seen).unwrap().len(), 0);
    let errors = run.errors();
    assert!(errors.contains("events.jsonl") && errors.contains("Permission denied"), "{errors}");
    // Once by the signal's reopening and once by a record's.
    assert!(errors.matches("Permission denied").count() <= 2, "{errors}");
    // Somebody packs the old file, as the next rotation would: what comes now must wait.
    let kept = std::fs::read(&old).unwrap();
    std::fs::remove_file(&old).unwrap();
    let waits = Pair::new(&lab, &server);
    sleep_ms(300);
    std::fs::write(&old, kept).unwrap();
    chown(&log.seen, Some(NOBODY), None).unwrap();
    wait_for("the open that waited", PATIENCE, || opens_of(&log.now(), waits.port).pop());
    drop((first, more, waits));
    log.wait_actions("connection-closed", 7);
    run.stop();
    let records = log.story();
    assert_eq!(gaps(&records, "backlog_full"), [] as [Value; 0]);
    assert_eq!(with_action(&records, "connection-opened").len(), 7);
}

#[test]
fn a_link_in_the_logs_place_is_not_followed_and_the_old_file_is_gone_on_with() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let first = log.connect(&lab, &server);
    let precious = lab.path("precious");
    std::fs::write(&precious, "precious\n").unwrap();
    std::fs::rename(&log.seen, log.beside("events.jsonl-1")).unwrap();
    symlink(&precious, &log.seen).unwrap();
    let second = Pair::new(&lab, &server);
    wait_for("the second open in the old file", PATIENCE, || {
        opens_of(&read_records(&log.beside("events.jsonl-1")), second.port).pop()
    });
    assert!(run.errors().contains("symbolic link"), "{}", run.errors());
    std::fs::remove_file(&log.seen).unwrap();
    drop((first, second));
    log.wait_actions("connection-closed", 2);
    run.stop();
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious\n");
    assert!(!read_records(&log.seen).is_empty(), "the log has its name again");
    log.story();
}

#[test]
fn a_folder_that_is_moved_away_takes_its_log_along_and_the_new_one_gets_a_new_log() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    let first = log.connect(&lab, &server);
    let away = lab.path("away");
    std::fs::rename(log.folder(), &away).unwrap();
    let second = Pair::new(&lab, &server);
    wait_for("the second open", PATIENCE, || {
        opens_of(&read_records(&away.join("events.jsonl")), second.port).pop()
    });
    std::fs::create_dir(log.folder()).unwrap();
    let third = log.connect(&lab, &server);
    drop((first, second, third));
    log.wait_actions("connection-closed", 3);
    run.stop();
    std::fs::rename(away.join("events.jsonl"), log.beside("events.jsonl-1")).unwrap();
    assert_eq!(with_action(&log.story(), "connection-opened").len(), 3);
}

#[test]
fn a_log_that_is_copied_and_cut_says_so_and_has_no_hole() {
    let lab = lab!();
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let run = log.run(&lab);
    for round in 1..=3 {
        let pair = log.connect(&lab, &server);
        let copy = log.beside(&format!("events.jsonl-{round}"));
        let length = std::fs::copy(&log.seen, &copy).unwrap();
        std::fs::OpenOptions::new().write(true).open(&log.seen).unwrap().set_len(0).unwrap();
        let port = pair.port;
        drop(pair);
        log.wait("the end", |records| closes_of(records, port).pop());
        let here = read_records(&log.seen);
        assert_eq!(here[0]["event"]["action"], "log-opened");
        assert_eq!(here[1]["portreeve"]["gap"]["cause"], "log_truncated");
        let detail = here[1]["portreeve"]["gap"]["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{length} bytes")), "{detail}");
    }
    run.stop();
    log.story();
}

#[test]
fn a_limit_of_file_sizes_is_a_full_disk_and_no_end() {
    let lab = lab!("prlimit");
    let server = lab.listen(SSH);
    let log = Log::new(&lab);
    let mut prlimit = lab.command("prlimit");
    prlimit.args(["--fsize=16000:unlimited", PORTREEVE]);
    let mut run = log.run_as(&mut lab.watcher(prlimit));
    let pairs: Vec<_> = (0..12).map(|_| Pair::new(&lab, &server)).collect();
    wait_for("what it says", PATIENCE, || run.errors().contains("File too large").then_some(()));
    assert!(run.is_alive(), "{}", run.errors());
    assert!(std::fs::metadata(&log.seen).unwrap().size() <= 16_000);
    let pid = run.child.id().to_string();
    lab.run(&format!("prlimit --fsize=unlimited --pid {pid}"));
    log.wait_actions("connection-opened", 12);
    drop(pairs);
    log.wait_actions("connection-closed", 12);
    run.stop();
    assert_eq!(gaps_but_stalls(&log.story()), [] as [Value; 0]);
}

#[test]
fn a_reader_of_the_pipe_that_stops_for_a_while_holds_nothing_up_and_what_overflows_is_counted() {
    let lab = lab!("perl");
    let path = lab.path("piped.jsonl");
    let mut cat = Command::new("cat");
    cat.stdin(Stdio::piped()).stdout(std::fs::File::create(&path).unwrap());
    let mut cat = cat.spawn().unwrap();
    let reader = Pid::from_child(&cat);
    let stdin = std::os::fd::OwnedFd::from(cat.stdin.take().unwrap());
    let began = Instant::now();
    let mut watch = lab.portreeve().stdout(stdin).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the start", PATIENCE, || read_records(&path).pop());
    kill_process(reader, Signal::STOP).unwrap();
    let made = flood(&lab);
    assert!(watch.try_wait().unwrap().is_none());
    kill_process(reader, Signal::CONT).unwrap();
    wait_for("the gap", PATIENCE, || gaps(&read_records(&path), "backlog_full").pop());
    kill_process(Pid::from_child(&watch), Signal::TERM).unwrap();
    assert!(watch.wait().unwrap().success());
    assert!(cat.wait().unwrap().success());
    let records = crate::story::check_file(&path);
    assert_told_or_counted(&records, made);
    assert_polled(&records, began.elapsed());
}

/// A watcher some of whose system calls fail or take their time, as strace is told.
fn strained(lab: &Lab, log: &Log, options: &[&str], duration: &str) -> Run {
    let mut strace = lab.command("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null"]).args(options).arg(PORTREEVE);
    log.run_as(lab.watcher(strace).args(["--duration", duration, "--events", "none"]))
}

#[test]
fn a_disk_that_takes_its_time_holds_up_no_poll_and_one_that_fails_is_said_once() {
    let lab = lab!("strace");
    let server = lab.listen(SSH);
    for (options, cause) in [
        ("inject=fdatasync,fsync:delay_exit=1500000", None),
        ("inject=fdatasync:error=EIO", Some("sync_failed")),
        ("inject=rename,renameat,renameat2:error=EIO", Some("state_failed")),
    ] {
        std::fs::remove_dir_all(lab.path("log")).unwrap_or_default();
        let log = Log::new(&lab);
        let trace = options.split(':').next().unwrap().replace("inject", "trace");
        let mut run = strained(&lab, &log, &["-e", &trace, "-e", options], "3s");
        for _ in 0..9 {
            let pair = Pair::new(&lab, &server);
            sleep_ms(160);
            drop(pair);
            sleep_ms(60);
        }
        log.wait_actions("connection-closed", 9);
        run.ended();
        let records = log.story();
        let told: Vec<_> =
            with_action(&records, "gap").into_iter().map(|gap| gap["portreeve"]["gap"].clone()).collect();
        println!("{options}: {told:?}");
        let causes: Vec<_> = told.iter().map(|gap| gap["cause"].clone()).collect();
        assert_eq!(causes, cause.into_iter().map(|cause| json!(cause)).collect::<Vec<_>>(), "{options}");
        if cause.is_none() {
            assert_polled(&records, Duration::from_secs(3));
        }
    }
}
