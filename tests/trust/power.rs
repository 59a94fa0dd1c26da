//! A power cut: what is lost is what `--sync` allows, what is left is whole, and the next run goes on or says that it cannot.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::story::{Log, Pair, SSH, starts};
use crate::support::lab::Lab;
use crate::support::log::with_action;
use crate::support::{not_run, output};

/// A disk whose power can be cut.
struct Disk {
    log: Log,
    image: String,
    cut: PathBuf,
}

impl Disk {
    fn new(lab: &Lab) -> Result<Self, String> {
        let (image, cut) = (lab.path("image").display().to_string(), lab.path("shutdown"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/trust/shutdown.c");
        let built = output(Command::new("cc").args(["-O1", "-o"]).arg(&cut).arg(source));
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        lab.run(&format!("truncate -s 32M {image}; mkfs.ext4 -q {image}; mkdir /run/disk"));
        let disk = Self { log: Log::inside(lab, "/run/disk"), image, cut };
        let mounted = disk.mount(lab);
        mounted
            .status
            .success()
            .then_some(disk)
            .ok_or_else(|| String::from_utf8_lossy(&mounted.stderr).into_owned())
    }

    fn mount(&self, lab: &Lab) -> std::process::Output {
        output(lab.command("mount").args(["-t", "ext4", "-o", "loop", &self.image, "/run/disk"]))
    }

    fn cut_power(&self, lab: &Lab) {
        lab.run(&format!("{} /run/disk", self.cut.display()));
    }

    fn restart(&self, lab: &Lab) {
        lab.run("umount /run/disk");
        let mounted = self.mount(lab);
        assert!(mounted.status.success(), "{mounted:?}");
    }
}

/// Makes records for a time; answers how long the log was when.
fn work(lab: &Lab, server: &TcpListener, disk: &Disk, time: Duration) -> Vec<(Instant, u64)> {
    let length = || std::fs::metadata(&disk.log.seen).unwrap().len();
    let (began, mut lengths) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let pair = Pair::new(lab, server);
        std::thread::sleep(Duration::from_millis(60));
        drop(pair);
        lengths.push((Instant::now(), length()));
    }
    lengths
}

struct Outcome {
    /// How long the log was when.
    lengths: Vec<(Instant, u64)>,
    cut: Instant,
    /// Bytes that the disk had.
    left: u64,
    /// What the next run says of its stream.
    start: Value,
}

fn power_cut(test: &str, sync: &str, quiet: Duration) -> Option<Outcome> {
    let lab = match Lab::new(&["cc", "mkfs.ext4", "losetup"]) {
        Ok(lab) => lab,
        Err(reason) => {
            not_run(test, &reason);
            return None;
        }
    };
    let server = lab.listen(SSH);
    let disk = match Disk::new(&lab) {
        Ok(disk) => disk,
        Err(reason) => {
            not_run(test, &format!("no disk of its own: {reason}"));
            return None;
        }
    };
    let run = disk.log.run_as(lab.portreeve().args(["--sync", sync]));
    let stays = disk.log.connect(&lab, &server);
    let mut lengths = work(&lab, &server, &disk, Duration::from_millis(2_500));
    std::thread::sleep(quiet);
    lengths.push((Instant::now(), std::fs::metadata(&disk.log.seen).unwrap().len()));
    let cut = Instant::now();
    disk.cut_power(&lab);
    run.kill();
    disk.restart(&lab);
    let left = std::fs::metadata(&disk.log.seen).map_or(0, |meta| meta.len());
    let written = lengths.last().unwrap().1;
    let run = disk.log.run_as(lab.portreeve().args(["--sync", sync]));
    let start = starts(&disk.log.now()).pop().unwrap();
    let more = disk.log.connect(&lab, &server);
    run.stop();
    let records = disk.log.story();
    println!(
        "--sync {sync}: {written} bytes written, {} lost; {} {}; {} repaired",
        written.saturating_sub(left),
        start["stream"],
        start["stream_reason"],
        with_action(&records, "log-repaired").len()
    );
    drop((stays, more));
    lab.run("umount /run/disk");
    Some(Outcome { lengths, cut, left, start })
}

#[test]
fn with_sync_always_nothing_that_was_written_is_lost() {
    let test = "with_sync_always_nothing_that_was_written_is_lost";
    if let Some(Outcome { lengths, left, start, .. }) = power_cut(test, "always", Duration::from_millis(300))
    {
        assert!(left >= lengths.last().unwrap().1, "{left} of {lengths:?}");
        assert_eq!(start["stream"], "continued");
    }
}

#[test]
fn with_sync_interval_at_most_a_second_is_lost() {
    let test = "with_sync_interval_at_most_a_second_is_lost";
    if let Some(Outcome { lengths, cut, left, start }) = power_cut(test, "interval", Duration::ZERO) {
        // A second, and the time that a sync takes here.
        let safe = cut - Duration::from_millis(1_500);
        let owed = lengths.iter().rev().find(|(at, _)| *at <= safe).unwrap().1;
        assert!(left >= owed, "{left} of {owed}: {lengths:?}");
        assert_eq!(start["stream"], "continued");
    }
}

#[test]
fn with_sync_never_what_is_lost_is_not_lost_in_silence() {
    let test = "with_sync_never_what_is_lost_is_not_lost_in_silence";
    if let Some(Outcome { lengths, left, start, .. }) = power_cut(test, "never", Duration::ZERO) {
        let lost = lengths.last().unwrap().1 > left;
        assert!(lost, "the disk had it all: this test proved nothing");
        assert!(start["stream"] != "continued", "{start}");
        assert!(start["stream"] == "new" || start["stream_reason"].is_string(), "{start}");
    }
}
