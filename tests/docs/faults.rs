//! tests/FAULTS.md: no row missing, each with a test that exists or a reason, and what it says of the source.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of each part of the catalogue.
const PARTS: [(char, usize); 7] =
    [('A', 27), ('B', 32), ('C', 14), ('D', 25), ('E', 23), ('F', 10), ('G', 15)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Its rows: id, fault, what happens, tests.
fn rows() -> Vec<[String; 4]> {
    let text = fs::read_to_string(root().join("tests/FAULTS.md")).unwrap();
    let cells = |line: &str| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        let [_, id, fault, what, test, _] = &cells[..] else { panic!("not four columns: {line}") };
        [id, fault, what, test].map(String::clone)
    };
    let is_row =
        |line: &&str| line.starts_with('|') && !line.starts_with("|---") && !line.starts_with("| | ");
    text.lines().filter(is_row).map(cells).collect()
}

/// What stands between backticks and names a test.
fn tests_of(cell: &str) -> impl Iterator<Item = (&str, &str)> {
    cell.split('`').skip(1).step_by(2).filter_map(|word| word.split_once("::"))
}

#[test]
fn every_fault_has_one_row() {
    let ids: Vec<String> = rows().into_iter().map(|[id, ..]| id).collect();
    let all = PARTS.iter().flat_map(|(part, count)| (1..=*count).map(move |n| format!("{part}{n}")));
    assert_eq!(ids, all.collect::<Vec<_>>());
}

#[test]
fn every_row_names_a_test_that_exists_or_says_why_there_is_none() {
    let mut files = BTreeMap::new();
    for [id, fault, what, test] in rows() {
        assert!(!fault.is_empty() && !what.is_empty(), "{id}");
        let reason = test.strip_prefix('–').is_some_and(|reason| reason.trim().len() > 8);
        assert!(reason || tests_of(&test).next().is_some(), "{id}: {test:?}");
        for (file, name) in tests_of(&test) {
            let text = files.entry(file.to_owned()).or_insert_with(|| {
                fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{id}: {file}: {error}"))
            });
            // A function, or one that a macro makes of its name.
            let is_there = text.contains(&format!("fn {name}(")) || text.contains(&format!("    {name}: "));
            assert!(is_there, "{id}: no {name} in {file}");
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn what_the_table_says_is_never_used_is_not() {
    for path in sources(&root().join("src")) {
        // An audit log is followed on demand, and where that cannot be had it says so.
        if path.ends_with("source/audit_log.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        // Watches that the machine counts, but for those that --ssh-files asks for.
        let is_of_files = path.starts_with(root().join("src/files"));
        assert!(is_of_files || !text.contains("inotify::"), "inotify in {}", path.display());
    }
}
