//! The program itself: what it takes, and how it ends.

use std::process::{Command, Stdio};

use proptest::prelude::{ProptestConfig, proptest};

use super::*;

fn portreeve(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .args(args)
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_exit_status_says_whether_all_was_read_and_found() {
    let [laptop, bastion, ..] = chain();
    let folder = TempDir::new().unwrap();
    let files = [laptop.write(folder.path()), bastion.write(folder.path())];
    let [laptop, bastion] = [files[0].to_str().unwrap(), files[1].to_str().unwrap()];
    let (status, out, said) = portreeve(&["paths", laptop, bastion]);
    assert_eq!((status, said.as_str()), (0, ""));
    assert!(out.starts_with("2026-11-20 20:00:01  laptop  alice@tty2 at a local terminal\n"), "{out}");
    let (status, out, said) = portreeve(&["paths", laptop, "/nowhere"]);
    assert_eq!((status, out.is_empty()), (1, false), "{said}");
    assert!(said.ends_with("portreeve: one thing could not be read\n"), "{said}");
    let (status, _, said) = portreeve(&["paths", "--since", "soon", laptop]);
    assert_eq!(status, 64, "{said}");
    assert_eq!(portreeve(&["paths", "--format", "xml", laptop]).0, 2);
    assert_eq!(portreeve(&["explain", "xyz", laptop]).0, 2);
    assert_eq!(portreeve(&["explain"]).0, 2);
    let (status, out, said) = portreeve(&["explain", "01a1fa90-0001", laptop]);
    assert_eq!((status, said.as_str()), (0, ""));
    assert!(
        out.starts_with("On 2026-11-20 at 20:00:01 alice (logged in as alice at a terminal of laptop itself"),
        "{out}"
    );
    let (status, out, said) = portreeve(&["explain", "02", laptop]);
    assert_eq!((status, out.as_str(), said.as_str()), (1, "", "portreeve: no connection has this id\n"));
    let (status, out, said) = portreeve(&["explain", "01a1fa90-000", laptop, bastion]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(said.starts_with("portreeve: several connections have ids that begin so: 01a1fa90-0"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut host = Log::new("host");
    for n in 0..3_000_u16 {
        host.connect(1.0, &format!("10.0.0.1:{n}"), "10.0.0.2:22", &[]);
    }
    let folder = TempDir::new().unwrap();
    let file = host.write(folder.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_portreeve"))
        .arg("paths")
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is changed in a log, it is read to its end, and each output keeps to its alphabet.
    #[test]
    fn a_damaged_log_is_read_to_its_end(places in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), "[ -~]"), 1..40)) {
        let [laptop, bastion, web1, db1] = chain();
        let mut all = [&laptop, &bastion, &web1, &db1].map(Log::text).concat().into_bytes();
        for (place, with) in places {
            let place = place.index(all.len());
            if all[place] != b'\n' {
                all[place] = with.as_bytes()[0];
            }
        }
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("log");
        std::fs::write(&file, all).unwrap();
        for format in [Format::Text, Format::Json, Format::Dot, Format::Mermaid] {
            let (out, _) = print_files(vec![file.clone()], format, Filter::default(), style());
            assert!(out.chars().all(|c| matches!(c, ' '..='~' | '\n') || "→←…·└─├│".contains(c)), "{out}");
        }
    }
}
