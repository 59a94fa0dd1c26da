//! What really happened, and whether the log says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// A connection as it really was.
#[derive(Debug, Default)]
struct Life {
    local: String,
    established: bool,
    ended: bool,
    /// It stood when a table was read and all was written: the log must tell it.
    seen: bool,
}

#[derive(Debug, Default)]
pub struct Truth {
    lives: BTreeMap<u64, Life>,
}

impl Truth {
    pub fn connect(&mut self, inode: u64, local: &str) {
        self.lives.insert(inode, Life { local: local.to_owned(), ..Life::default() });
    }

    pub fn establish(&mut self, inode: u64) {
        self.lives.get_mut(&inode).unwrap().established = true;
    }

    pub fn end(&mut self, inode: u64) {
        self.lives.get_mut(&inode).unwrap().ended = true;
    }

    pub fn reboot(&mut self) {
        self.lives.values_mut().for_each(|life| life.ended = true);
    }

    pub fn open(&self) -> Vec<u64> {
        self.lives.iter().filter(|(_, life)| !life.ended).map(|(inode, _)| *inode).collect()
    }

    pub fn is_established(&self, inode: u64) -> bool {
        self.lives[&inode].established
    }

    /// A reading that was written whole: what stands and was not left out of it is told.
    pub fn seen(&mut self, left_out: &[u64]) {
        for (inode, life) in &mut self.lives {
            life.seen |= !life.ended && !left_out.contains(inode);
        }
    }

    /// Every connection that was seen has one story, no other has more than one, and nothing else is told.
    pub fn compare(&self, logs: &[PathBuf], seed: u64) {
        let verify = Command::new(env!("CARGO_BIN_EXE_portreeve")).arg("verify").args(logs).output().unwrap();
        assert!(verify.status.success(), "history {seed}: {}", String::from_utf8_lossy(&verify.stdout));
        let mut stories: BTreeMap<(String, Option<u64>, String), Vec<String>> = BTreeMap::new();
        for record in records(logs) {
            let action = record["event"]["action"].as_str().unwrap();
            if !action.starts_with("connection-") {
                continue;
            }
            let connection = &record["portreeve"]["connection"];
            let local = format!("{}:{}", record["source"]["ip"].as_str().unwrap(), record["source"]["port"]);
            let key = (local, connection["inode"].as_u64(), connection["id"].as_str().unwrap().to_owned());
            let reason = record["portreeve"]["close"]["reason"].as_str().unwrap_or_default();
            stories.entry(key).or_default().push(format!("{action} {reason}"));
        }
        let mut told: BTreeMap<u64, u64> = BTreeMap::new();
        for ((local, inode, id), story) in &stories {
            let closes = story.iter().filter(|action| action.starts_with("connection-closed")).count();
            let opens = story.iter().filter(|action| action.starts_with("connection-opened")).count();
            assert!(opens == 1 && closes <= 1, "history {seed}: {local} {inode:?} {id}: {story:?}");
            let Some(inode) = inode else { continue };
            let life = &self.lives[inode];
            *told.entry(*inode).or_default() += 1;
            assert_eq!(&life.local, local, "history {seed}: {inode}");
            assert_eq!(closes == 1, life.ended, "history {seed}: {local} {inode} {life:?}: {story:?}");
        }
        for (inode, life) in &self.lives {
            let stories = told.get(inode).copied().unwrap_or(0);
            assert!(stories <= 1, "history {seed}: {inode} {life:?} is told {stories} times");
            assert!(stories == 1 || !life.seen, "history {seed}: {inode} {life:?} is not told");
        }
        // What has no inode was seen by its TIME_WAIT alone: as many as could be at most.
        let passed = stories.keys().filter(|(_, inode, _)| inode.is_none()).count();
        let unseen = self.lives.iter().filter(|(inode, _)| !told.contains_key(inode)).count();
        assert!(passed <= unseen, "history {seed}: {passed} passed of {unseen}");
    }
}

fn records(logs: &[PathBuf]) -> Vec<Value> {
    let mut records = Vec::new();
    for log in logs {
        let text = std::fs::read(log).unwrap();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        // A torn line is nobody's; verify has judged it.
        records.extend(lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()));
    }
    records.sort_by_key(|record| record["event"]["sequence"].as_u64());
    records
}

/// All that was told, a line each, to be read by whoever mends what a history shows.
pub fn told(logs: &[PathBuf]) -> String {
    let line = |record: &Value| {
        format!(
            "{} {} {} {}\n",
            record["event"]["sequence"],
            record["@timestamp"],
            record["portreeve"]["boottime_us"],
            record["message"]
        )
    };
    records(logs).iter().map(line).collect()
}
