//! What /proc says of a process: the expected side of every comparison, read apart from the watcher.

use serde_json::{Value, json};

/// The executable as its link says it, without the mark of a file that is gone; `None` where this machine lets nobody
/// read it.
pub fn executable(pid: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let link = link.to_str().expect("a name in UTF-8");
    Some(link.strip_suffix(" (deleted)").unwrap_or(link).to_owned())
}

pub fn arguments(pid: u32) -> Vec<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let line = String::from_utf8(line).expect("arguments in UTF-8");
    line.strip_suffix('\0').unwrap_or(&line).split('\0').map(str::to_owned).collect()
}

/// The name (`comm`) and the parent's pid.
pub fn name_and_parent(pid: u32) -> (String, u32) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (head, tail) = stat.rsplit_once(") ").unwrap();
    let (_, name) = head.split_once(" (").unwrap();
    (name.to_owned(), tail.split(' ').nth(1).unwrap().parse().unwrap())
}

pub fn parent(pid: u32) -> u32 {
    name_and_parent(pid).1
}

/// The direct children of a process with this name.
pub fn children(of: u32, name: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let Some((head, tail)) = stat.rsplit_once(") ") else { return false };
        head.ends_with(&format!(" ({name}")) && tail.split(' ').nth(1) == Some(&of.to_string())
    };
    pids.filter(is_child).collect()
}

/// Pid, name and executable of a process and all above it, up to pid 1.
pub fn chain_from(pid: u32) -> Vec<Value> {
    let mut chain = Vec::new();
    let mut next = pid;
    while next != 0 {
        let (name, parent) = name_and_parent(next);
        chain.push(json!({ "pid": next, "name": name, "executable": executable(next) }));
        next = parent;
    }
    chain
}
