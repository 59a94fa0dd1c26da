//! The tables of ARCHITECTURE.md against the source: which module uses which, which crate is used where, and words
//! that must not be in it.
#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test may fail by panic, and reads the source"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// A file of the program, without comments and without its tests.
struct Source {
    path: PathBuf,
    module: String,
    /// True if the module is all of the file or the file its root: there `super` is the crate.
    is_root: bool,
    whole: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("tests.rs") {
                sources.push(source(&root, path));
            }
        }
    }
    sources
}

fn source(root: &Path, path: PathBuf) -> Source {
    let whole = fs::read_to_string(&path).unwrap();
    let inside = path.strip_prefix(root).unwrap();
    let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
    let is_root = inside.iter().count() == 1 || inside.ends_with("mod.rs");
    // Tests come last in a file.
    let program = whole.split("#[cfg(test)]").next().unwrap();
    let lines = program.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.map(|line| line.split(" // ").next().unwrap()).collect::<Vec<_>>().join("\n");
    Source { path, module, is_root, whole, code }
}

/// The names behind a path's beginning: `crate::proc::Proc` has `proc` behind `crate::`.
fn names_behind<'a>(code: &'a str, beginning: &str) -> Vec<&'a str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let places = code.match_indices(beginning).filter(|(at, _)| {
        let before = code[..*at].chars().next_back();
        !before.is_some_and(|c| is_name(c) || c == ':')
    });
    let names = places.map(|(at, found)| &code[at + found.len()..]);
    names.map(|rest| &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]).collect()
}

/// Rows of the page's tables whose heads begin with `head`, as cells.
fn rows(head: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let lines = page.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// What stands in backticks in a cell.
fn names(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn modules_use_what_the_table_says_and_no_other() {
    let rows = rows("| module |");
    let allowed: Arrows =
        rows.iter().map(|cells| (names(&cells[1]).pop_first().unwrap(), names(&cells[3]))).collect();
    let mut real = Arrows::new();
    for source in sources().into_iter().filter(|source| source.module != "lib") {
        let Source { path, module, is_root, code, .. } = source;
        let path = path.display();
        assert!(!code.contains("super::super"), "{path}: write crate:: where another module is meant");
        assert!(!is_root || !code.contains("super::"), "{path}: write crate:: where another module is meant");
        assert!(!code.contains("crate::{") && !code.contains("crate::*"), "{path}: one module a line");
        let beginning = if module == "main" { "portreeve::" } else { "crate::" };
        let mut used = names_behind(&code, beginning);
        if module == "main" {
            used.extend(grouped(&code));
        }
        let used = used.into_iter().filter(|name| !name.is_empty() && *name != module).map(str::to_owned);
        real.entry(module.clone()).or_default().extend(used);
    }
    assert!(real.len() > 20, "the modules are found");
    assert_eq!(real, allowed, "left: the source; right: ARCHITECTURE.md");
}

/// `use portreeve::{a, b};`
fn grouped(code: &str) -> Vec<&str> {
    let groups = code.split("use portreeve::{").skip(1).filter_map(|rest| rest.split('}').next());
    groups.flat_map(|group| group.split(',').map(|name| name.split("::").next().unwrap().trim())).collect()
}

#[test]
fn each_crate_is_used_where_the_table_says() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&manifest).unwrap();
    let mut allowed = Arrows::new();
    for cells in rows("| crate |") {
        for (crates, modules) in [(&cells[1], &cells[2]), (&cells[4], &cells[5])] {
            allowed.extend(names(crates).into_iter().map(|name| (name, names(modules))));
        }
    }
    let sources = sources();
    let uses = |name: &str| {
        let path = format!("{}::", name.replace('-', "_"));
        let users = sources.iter().filter(|source| !names_behind(&source.code, &path).is_empty());
        users.map(|source| source.module.clone()).collect()
    };
    let crates = manifest["dependencies"].as_table().unwrap().keys();
    let real: Arrows = crates.map(|name| (name.clone(), uses(name))).collect();
    assert_eq!(real, allowed, "left: the source; right: ARCHITECTURE.md");
}

#[test]
fn nothing_is_unsafe_waved_through_or_left_for_later() {
    let sources = sources();
    assert!(sources.len() > 50, "the source is found");
    // Put together here, or this file would have to be left out should it ever be looked at.
    let words = [["#[", "allow("], ["#![", "allow("], ["un", "safe "], ["TO", "DO"], ["FIX", "ME"]];
    for Source { path, whole, .. } in &sources {
        for word in words.map(|parts| parts.concat()) {
            assert!(!whole.contains(&word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn a_path_is_found_wherever_it_stands() {
    let code = "use crate::proc::Proc;\nfn f(a: Vec<crate::glob::Glob>) { mycrate::x(); a::crate::y() }";
    assert_eq!(names_behind(code, "crate::"), ["proc", "glob"]);
}
