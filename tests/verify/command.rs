//! What `portreeve verify` says and how it ends.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::builder::{Line, Writer, hex};
use crate::story::{Turns, story};

fn portreeve(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .arg("verify")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn files() -> Vec<Vec<u8>> {
    Writer::new().write(&story(Turns::default()))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[test]
fn packed_and_plain_files_in_any_order_are_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let files = files();
    let zstd =
        ruzstd::encoding::compress_to_vec(files[1].as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    for (name, bytes) in [("a.gz", &gzip(&files[0])), ("b.zst", &zstd), ("c", &files[2])] {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    for order in [["a.gz", "b.zst", "c"], ["c", "a.gz", "b.zst"], ["b.zst", "c", "a.gz"]] {
        let output = portreeve(folder.path(), &order, b"");
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
        assert!(
            said.starts_with("3 files, 44 records, 1 stream, 4 runs, 2 of them ended in order\n"),
            "{said}"
        );
        assert!(said.ends_with("no rule is broken\n"), "{said}");
    }
    let output = portreeve(folder.path(), &["-"], &files.concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let output = portreeve(folder.path(), &["b.zst", "c"], b"");
    assert_eq!(output.status.code(), Some(0), "older files may be absent: {}", text(&output.stdout));
    assert!(text(&output.stdout).contains("begins at record 16"), "{}", text(&output.stdout));
    let output = portreeve(folder.path(), &["a.gz", "c"], b"");
    assert_eq!(output.status.code(), Some(1), "one between may not");
    assert!(text(&output.stdout).contains("V8 c:1 record"), "{}", text(&output.stdout));
}

#[test]
fn what_cannot_be_read_or_holds_no_record_is_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let files = files();
    let packed = gzip(&files[0]);
    std::fs::write(folder.path().join("cut.gz"), &packed[..packed.len() / 2]).unwrap();
    std::fs::write(folder.path().join("good"), &files[0]).unwrap();
    std::fs::write(folder.path().join("empty"), b"").unwrap();
    std::fs::write(folder.path().join("text"), b"no record\nat all\n").unwrap();
    for args in [&["absent"][..], &["cut.gz"], &["empty"], &["text"], &["."], &["good", "absent"]] {
        let output = portreeve(folder.path(), args, b"");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stdout));
        assert!(text(&output.stderr).starts_with("portreeve: "), "{args:?}");
    }
    let output = portreeve(folder.path(), &["--seal-secret", "good", "good"], b"");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    for args in [["--anchor", "7"], ["--anchor", "7:abc"], ["--anchor", "x:0"]] {
        assert_eq!(portreeve(folder.path(), &args, b"").status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn violations_are_named_and_cannot_write_to_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let files = files();
    let changed = text(&files[0]).replace("50003", "50009").replace("\"alice\"", "\"\\u001b[31m\"");
    let name = "\u{1b}[2Jlog";
    std::fs::write(folder.path().join(name), changed).unwrap();
    std::fs::write(folder.path().join("garbage"), b"\x1b]0;x\x07\n{\"\x1b[31m\":1}\n{\"a\x00b\":").unwrap();
    let output = portreeve(folder.path(), &[name, "garbage"], b"");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("V43 \\u{1b}[2Jlog:3 record 3: "), "{said}");
    assert!(said.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{said}");
    let output = portreeve(folder.path(), &["--format", "json", name], b"");
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["rule"], "V43");
    assert!(lines.last().unwrap()["summary"]["violations"]["V43"].as_u64().unwrap() > 1);
}

#[test]
fn the_secret_proves_the_seals() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["log.0", "log.1", "log.2"];
    for (name, bytes) in names.iter().zip(files()) {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let check = |options: &[&str]| portreeve(folder.path(), &[options, &names].concat(), b"");
    std::fs::write(folder.path().join("secret"), format!("{}\n", hex(&[7; 32]))).unwrap();
    std::fs::write(folder.path().join("other"), format!("{}\n", hex(&[8; 32]))).unwrap();
    let output = check(&["--seal-secret", "secret"]);
    assert!(
        text(&output.stdout).contains("seals: 4, of which the secret proves 4; epochs 0 to "),
        "{}",
        text(&output.stdout)
    );
    let output = check(&["--seal-secret", "other"]);
    // Each of the four, and that none is right.
    assert_eq!((output.status.code(), text(&output.stdout).matches("V44 log.").count()), (Some(1), 5));
    let output = check(&["--expect-live"]);
    assert!(
        text(&output.stdout).starts_with("V45 log.2: the newest coverage or seal is "),
        "{}",
        text(&output.stdout)
    );
}

/// Whoever took over the machine can write the whole log anew, but no seal of a key that is gone.
#[test]
fn a_log_that_was_written_anew_without_seals_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let mut forged = story(Turns::default());
    for lines in &mut forged {
        lines.retain(|line| !matches!(line, Line::Record(record) if record["event"]["action"] == "seal"));
    }
    let names = ["log.0", "log.1", "log.2"];
    for (name, bytes) in names.iter().zip(Writer::new().write(&forged)) {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::write(folder.path().join("secret"), hex(&[7; 32])).unwrap();
    let check = |options: &[&str]| {
        text(&portreeve(folder.path(), &[options, &names].concat(), b"").stdout).to_owned()
    };
    let said = check(&["--seal-secret", "secret", "--expect-live"]);
    assert!(said.contains("V44 log.2: there is no seal that the secret proves"), "{said}");
    assert!(said.contains("V45 log.2: no proved seal was told"), "{said}");
}

#[test]
fn no_line_makes_it_panic() {
    let whole = files().concat();
    let mut seed = 1_u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..random(20) + 1 {
            let at = random(bytes.len().max(1));
            match random(if bytes.len() < 9 { 9 } else { 4 }) {
                0 => bytes[at] = random(256) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"{}[]\",:09-\n\\"[random(12)]),
                3 => bytes.truncate(at + 1),
                _ => bytes = whole.clone(),
            }
        }
        crate::verify(&[bytes], portreeve::verify::Options::default());
    }
    let deep =
        [vec![b'['; 60_000], vec![b'\n'], vec![b'x'; 200_000], vec![b'\n'], files().swap_remove(0)].concat();
    let (outcome, said) = crate::verify(&[deep], portreeve::verify::Options::default());
    assert_eq!(outcome.summary.records, 15);
    assert_eq!(outcome.summary.violations.keys().cloned().collect::<Vec<_>>(), ["V03", "V04"], "{said}");
}
