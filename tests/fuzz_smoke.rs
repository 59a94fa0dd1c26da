//! The fuzz targets without a fuzzer: every kept input, and a few thousand mutations of them that are the same each time.
//! `fuzz/README.md` says how to run the fuzzer itself.
#![allow(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test may fail by panic, and reads its inputs"
)]

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use targets::{ALL, Run};

/// Slow targets get fewer, so that all take about two seconds in a debug build.
fn mutations(target: &str) -> u32 {
    match target {
        "unpack" | "show" | "paths" | "record" | "state" | "seal_key" | "verify" => 150,
        "table" | "cmdline" | "config" | "homes" => 600,
        _ => 2_000,
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// The kept inputs of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder("seeds").join(target)).expect("each target has kept inputs");
    let mut seeds: Vec<_> = files
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{target}");
    seeds
}

/// Runs one input; where it fails, keeps it and says where.
fn check(target: &str, run: Run, name: &str, input: &[u8]) {
    if std::panic::catch_unwind(|| run(input)).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
        fs::write(&kept, input).unwrap();
        panic!("{target}: {name}, kept as {}", kept.display());
    }
}

#[test]
fn no_kept_input_breaks_a_promise() {
    for (target, run) in ALL {
        check(target, *run, "nothing", b"");
        for (name, input) in seeds(target) {
            check(target, *run, &name, &input);
        }
    }
}

#[test]
fn no_mutation_of_them_does_either() {
    for (target, run) in ALL {
        let seeds = seeds(target);
        let mut random = Random(0x5eed);
        for number in 0..mutations(target) {
            let (name, input) = &seeds[random.below(seeds.len())];
            let (_, other) = &seeds[random.below(seeds.len())];
            let mutated = mutated(&mut random, input, other);
            check(target, *run, &format!("mutation {number}, of {name}"), &mutated);
        }
    }
}

#[test]
fn every_target_is_there_for_the_fuzzer_too() {
    let manifest: toml::Table = fs::read_to_string(folder("Cargo.toml")).unwrap().parse().unwrap();
    let bins = manifest["bin"].as_array().unwrap();
    let mut named: Vec<_> = bins.iter().map(|bin| bin["name"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for name in named {
        let program = fs::read_to_string(folder("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(program.contains(&format!("portreeve_fuzz::{name}::run(data)")), "{name}");
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 8) as usize % limit.max(1)
    }
}

/// Up to four changes, of the kinds that parsers stumble over.
fn mutated(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(16)).min(bytes.len());
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = b"\0\xff\x7f\x80\n \\\"[]():{}"[random.below(15)],
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 => {
                let number = ["0", "-1", "18446744073709551616", "4294967295", "\u{202e}"][random.below(5)];
                bytes.splice(at..end, number.bytes());
            }
            _ => bytes.insert(at, random.next() as u8),
        }
    }
    bytes
}
