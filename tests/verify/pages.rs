//! The pages against the program: fields, rules.

use std::collections::{BTreeMap, BTreeSet};

use portreeve::verify::fields::{FIELDS, Type};
use portreeve::verify::rules::RULES;

use crate::mutants::MUTANTS;

fn read(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Types as the manual names them.
fn types(kind: Type) -> &'static [&'static str] {
    match kind {
        Type::Text => &["keyword", "text"],
        Type::Ip => &["ip"],
        Type::Time => &["time"],
        Type::Integer | Type::Signed => &["integer"],
        Type::Boolean => &["boolean"],
        Type::Texts => &["array of keywords"],
        Type::Integers => &["array of integers"],
        Type::Counts => &["object"],
    }
}

#[test]
fn the_table_of_fields_is_that_of_the_manual() {
    let page = read("docs/man/portreeve-events.5").replace("\\-", "-");
    let items = page.lines().filter_map(|line| line.strip_prefix(".It Va "));
    let described: BTreeMap<&str, &str> = items.filter_map(|item| item.split_once(" Pq ")).collect();
    let mut wrong = Vec::new();
    for field in FIELDS.iter() {
        if field.kind == Type::Counts {
            continue;
        }
        if !described.get(field.path).is_some_and(|kind| types(field.kind).contains(kind)) {
            wrong.push(format!("{} is {:?} there", field.path, described.get(field.path)));
        }
    }
    let counts: Vec<_> =
        FIELDS.iter().filter(|field| field.kind == Type::Counts).map(|field| field.path).collect();
    for name in described.keys() {
        let is_count = counts.iter().any(|path| name.starts_with(path));
        if !is_count && FIELDS.iter().all(|field| field.path != *name) {
            wrong.push(format!("{name} is not in the table"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_page_the_program_and_the_mutants_know_the_same_rules() {
    let page = read("docs/VERIFY.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| V"));
    let rows: Vec<Vec<&str>> =
        rows.map(|row| row.split(" | ").map(|cell| cell.trim_matches([' ', '|'])).collect()).collect();
    assert_eq!(rows.len(), RULES.len());
    for (index, (row, rule)) in rows.iter().zip(RULES).enumerate() {
        let excuse = if rule.excuse.is_empty() { "–" } else { rule.excuse };
        assert_eq!(row[..], [&(index + 1).to_string(), rule.says, excuse], "V{}", index + 1);
    }
    let broken: BTreeSet<usize> = MUTANTS.iter().map(|(rule, _)| usize::from(*rule)).collect();
    assert_eq!(broken, (1..=RULES.len()).collect());
}
