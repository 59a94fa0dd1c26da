//! What a record can hold: portreeve-events(5) against records that the library makes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::not_run::not_run;
use crate::page::{Page, items_of, words_of};
use crate::samples;

type Names = BTreeSet<String>;

/// Every field that a record can hold, with the type that its values have.
fn fields(records: &[Value]) -> BTreeMap<String, &'static str> {
    fn walk(path: &str, value: &Value, fields: &mut BTreeMap<String, &'static str>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                walk(&format!("{path}.{name}"), value, fields);
            }),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                items.iter().for_each(|item| walk(path, item, fields));
            }
            _ => {
                let kind = kind(value);
                let known = fields.entry(path.trim_start_matches('.').to_owned()).or_insert(kind);
                if *known == "array" {
                    *known = kind;
                }
                assert!(*known == kind || kind == "array", "{path} is {known} and {kind}");
            }
        }
    }
    let mut fields = BTreeMap::new();
    records.iter().for_each(|record| walk("", record, &mut fields));
    fields
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Bool(_) => "boolean",
        Value::Array(items) => match items.first().map(kind) {
            None => "array",
            Some("string") => "array of strings",
            Some("integer") => "array of integers",
            other => panic!("{other:?}"),
        },
        other => panic!("{other}"),
    }
}

/// What JSON has for a type that the page names.
fn in_json(described: &str) -> String {
    let words = ["keyword", "text", "time", "ip"];
    words.iter().fold(described.to_owned(), |text, word| match text.strip_prefix("array of ") {
        Some(rest) => format!("array of {}", rest.replace("keyword", "string")),
        None if text == *word => "string".to_owned(),
        None => text,
    })
}

#[test]
fn every_field_is_described_with_its_type_and_none_is_invented() {
    let real = fields(&samples::records());
    let items = Page::open("portreeve-events.5").items("Va");
    let described: BTreeMap<_, _> = items.iter().map(|(name, kind)| (name.clone(), in_json(kind))).collect();
    let real: BTreeMap<_, _> = real.into_iter().map(|(name, kind)| (name, kind.to_owned())).collect();
    assert!(real.len() > 100, "{}", real.len());
    let missing: Vec<_> = real.iter().filter(|(name, kind)| described.get(*name) != Some(kind)).collect();
    let invented: Vec<_> = described.iter().filter(|(name, kind)| real.get(*name) != Some(kind)).collect();
    assert!(missing.is_empty() && invented.is_empty(), "written: {missing:?}; described: {invented:?}");
}

#[test]
fn fields_that_are_named_in_passing_exist_too() {
    let real = fields(&samples::records());
    let is_there = |name: &str| {
        let is_part = |field: &String| field.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        real.contains_key(name) || real.keys().any(is_part)
    };
    let roots: BTreeSet<&str> = real.keys().filter_map(|field| field.split('.').next()).collect();
    let mut checked = 0;
    for (page, mac) in [("portreeve-events.5", "Va"), ("portreeve-events.5", "Li"), ("portreeve.8", "Va")] {
        for word in Page::open(page).words(mac) {
            if word.split_once('.').is_some_and(|(root, _)| roots.contains(root)) {
                assert!(is_there(&word), "{page}: {word}");
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn fields_of_every_record_are_in_every_record() {
    let page = Page::open("portreeve-events.5");
    let promised = items_of(page.part("FIELDS OF EVERY RECORD"), "Va");
    for record in samples::records() {
        let have = fields(std::slice::from_ref(&record));
        let missing: Vec<_> = promised.keys().filter(|name| !have.contains_key(*name)).collect();
        assert!(missing.is_empty(), "{missing:?} in {record}");
    }
}

#[test]
fn every_value_of_a_closed_set_is_described() {
    let page = Page::open("portreeve-events.5");
    let actions: Names = samples::events().iter().map(|event| event.what.action().to_owned()).collect();
    assert_eq!(items_of(page.part("KINDS OF RECORDS"), "Li").into_keys().collect::<Names>(), actions);
    for (field, values) in samples::closed_sets() {
        let body = page.item(field);
        let words: Names = words_of(body, "Li").into_iter().collect();
        let values: Names = values.into_iter().map(str::to_owned).collect();
        assert!(values.is_subset(&words), "{field}: {:?} is not described", &values - &words);
        if body.contains(".It Li ") {
            assert_eq!(items_of(body, "Li").into_keys().collect::<Names>(), values, "{field}");
        }
    }
    let verbs = items_of(page.part("TEXT"), "Li");
    for message in samples::messages() {
        let verb = message.split(' ').next().unwrap();
        assert!(verbs.keys().any(|named| named.split(", ").any(|named| named == verb)), "{message}");
    }
}

#[test]
fn the_program_that_checks_a_chain_by_hand_does() {
    let page = Page::open("portreeve-events.5");
    let program = page.part("CHAIN").split(".Bd -literal\n").nth(1).unwrap().split(".Ed").next().unwrap();
    let log = samples::log();
    let Some((said, good)) = python(program, &log) else {
        return not_run("the_program_that_checks_a_chain_by_hand_does", "needs python3");
    };
    assert!(good && said.is_empty(), "{said}");
    let lines: Vec<&str> = log.lines().collect();
    let changed = log.replacen("alice", "mallory", 1);
    let removed = [&lines[..3], &lines[4..]].concat().join("\n");
    let moved = [&[lines[1], lines[0]], &lines[2..]].concat().join("\n");
    for (what, log) in [("changed", changed), ("removed", removed), ("moved", moved)] {
        let (said, _) = python(program, &log).unwrap();
        assert!(said.contains("does not go on"), "{what} is not noticed: {said}");
    }
    let cut = lines[..3].join("\n");
    assert_eq!(
        python(program, &cut).unwrap().0,
        "",
        "as the page says: an end that is cut off leaves no trace"
    );
}

/// What a program says of a log, and whether it ended well. `None`: there is no python here.
fn python(program: &str, log: &str) -> Option<(String, bool)> {
    let child =
        Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.ok()?;
    child.stdin.take().unwrap().write_all(log.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some((String::from_utf8(output.stdout).unwrap(), output.status.success()))
}

/// Any value in which no object has two members of one name: of such, most readers take the last without a word.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut names = Names::new();
        while let Some((name, Self)) = members.next_entry::<String, Self>()? {
            if let Some(name) = names.replace(name) {
                return Err(A::Error::custom(format!("{name} stands twice")));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while let Some(Self) = items.next_element()? {}
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }
}

#[test]
fn no_member_stands_twice_in_an_object() {
    let twice = |text: &str| serde_json::from_str::<Unique>(text).is_err();
    assert!(twice(r#"{"a":{"b":1,"b":2}}"#) && !twice(r#"{"a":[{"b":1},{"b":2}],"b":true}"#));
    for line in samples::log().lines() {
        assert!(!twice(line), "{line}");
    }
}
