//! `report::show` on files as logrotate leaves them, on damaged and hostile ones, and on a log that is being written.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test writes the files it reads, and waits"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::tz::TimeZone;
use portreeve::report::show::{self, Format, Logs, Show, ShowError, Summary};
use portreeve::report::{Filter, Flaw, Notice};
use portreeve::text::Style;
use tempfile::TempDir;

/// The n-th record of a stream, as portreeve-events(5) has it, shortened to what a reader looks at.
fn record(n: u32) -> String {
    let (minute, second) = (n / 60 % 60, n % 60);
    let hour = 10 + n / 3600;
    format!(
        concat!(
            r#"{{"@timestamp":"2026-11-20T{:02}:{:02}:{:02}.000000Z","message":"open   alice@pts/3  record {}","#,
            r#""source":{{"ip":"192.0.2.10","port":51514}},"destination":{{"ip":"203.0.113.7","port":22}},"#,
            r#""user":{{"id":"1000","name":"alice"}},"process":{{"name":"ssh","executable":"/usr/bin/ssh"}},"#,
            r#""portreeve":{{"connection":{{"id":"01a1f932-100b-7e5f-8a6b-{:012x}"}}}},"#,
            r#""event":{{"id":"01a1f932-ffff-7e5f-8a6b-{:012x}","sequence":{}}},"chain":"{:064x}"}}"#,
            "\n"
        ),
        hour, minute, second, n, n, n, n, n
    )
}

fn records(numbers: impl IntoIterator<Item = u32>) -> String {
    numbers.into_iter().map(record).collect()
}

fn gzip(content: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &str) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(content.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
}

fn style() -> Style {
    Style { zone: TimeZone::UTC, utc: true, color: false, width: None }
}

fn text(logs: Logs) -> Show {
    Show { logs, follow: false, filter: Filter::default(), format: Format::Text, style: style() }
}

fn json(logs: Logs) -> Show {
    Show { format: Format::Json, ..text(logs) }
}

fn listed(paths: &[&Path]) -> Logs {
    Logs::Listed(paths.iter().map(|path| path.to_path_buf()).collect())
}

struct Shown {
    out: String,
    notices: Vec<String>,
    flaws: Vec<(u64, Flaw, u64)>,
    summary: Summary,
}

fn run(show: &Show) -> Shown {
    let (mut out, mut notices, mut flaws) = (Vec::new(), Vec::new(), Vec::new());
    let mut say = |notice: &Notice| {
        notices.push(notice.to_string());
        if let Notice::Lines { line, flaw, others, .. } = notice {
            flaws.push((*line, *flaw, *others));
        }
    };
    let summary = show::run(show, &mut out, &mut say, &|| false).unwrap();
    Shown { out: String::from_utf8(out).unwrap(), notices, flaws, summary }
}

/// The record numbers in text output, in its order.
fn numbers(out: &str) -> Vec<u32> {
    out.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_log_is_shown_with_its_rotated_files_oldest_first() {
    let folder = TempDir::new().unwrap();
    let live = folder.path().join("events.jsonl");
    // Names that sort against time: only the content tells.
    fs::write(folder.path().join("events.jsonl.2.gz"), gzip(&records(0..3))).unwrap();
    fs::write(folder.path().join("events.jsonl-20261120.zst"), zstd(&records(3..5))).unwrap();
    fs::write(folder.path().join("events.jsonl.1"), records(5..8)).unwrap();
    fs::write(folder.path().join("events.jsonl-empty"), "").unwrap();
    fs::write(&live, records(8..10)).unwrap();
    // Not of this log.
    fs::write(folder.path().join("events.jsonlx"), "other").unwrap();
    fs::write(folder.path().join("other.jsonl"), "other").unwrap();
    fs::create_dir(folder.path().join("events.jsonl-old")).unwrap();

    let shown = run(&text(Logs::Live(live)));

    assert_eq!(numbers(&shown.out), (0..10).collect::<Vec<_>>());
    assert_eq!(shown.notices, Vec::<String>::new());
    assert_eq!(shown.summary, Summary { shown: 10, failures: 0 });
    assert!(shown.out.starts_with("2026-11-20 10:00:00.000Z  open   alice@pts/3  record 0\n"));
}

#[test]
fn listed_files_are_sorted_by_time_and_shown_once() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a"), records(4..6)).unwrap();
    fs::write(path("b.gz"), gzip(&records(0..2))).unwrap();
    fs::write(path("c"), records(2..4)).unwrap();
    fs::hard_link(path("c"), path("d")).unwrap();

    let logs = listed(&[&path("a"), &path("b.gz"), &path("c"), &path("d"), &path("a")]);

    assert_eq!(numbers(&run(&text(logs)).out), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn json_is_the_logs_own_lines() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, records(0..4)).unwrap();
    assert_eq!(run(&json(listed(&[&path]))).out, records(0..4));
    let mut narrow = json(listed(&[&path]));
    narrow.filter.ids.push("01a1f932-100b-7e5f-8a6b-000000000002".parse().unwrap());
    assert_eq!(run(&narrow).out, record(2));
}

#[test]
fn every_gzip_member_is_read_and_a_cut_one_as_far_as_it_goes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.gz");
    let last = gzip(&records(100..5_000));
    let whole = [gzip(&records(0..50)), gzip(""), gzip(&records(50..100)), last.clone()].concat();
    fs::write(&path, &whole).unwrap();
    let shown = run(&text(listed(&[&path])));
    assert_eq!((shown.summary, shown.notices.len()), (Summary { shown: 5_000, failures: 0 }, 0));

    fs::write(&path, whole.split_at(whole.len() - last.len() / 2).0).unwrap();
    let shown = run(&text(listed(&[&path])));

    let count = shown.summary.shown;
    assert!((2_000..3_500).contains(&count), "half of the last member: {count}");
    assert_eq!(numbers(&shown.out), (0..u32::try_from(count).unwrap()).collect::<Vec<_>>());
    assert_eq!(shown.summary.failures, 1);
    assert!(
        shown.notices.concat().starts_with(&format!("{}: cut or damaged", path.display())),
        "{:?}",
        shown.notices
    );
    assert_eq!(shown.flaws, [], "the torn line is the cut's doing");
    if let Ok(zcat) = Command::new("zcat").arg(&path).output() {
        let lines = zcat.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(count, u64::try_from(lines).unwrap(), "zcat reads as many lines");
    }
}

#[test]
fn zstd_frames_are_read_and_a_cut_one_as_far_as_it_goes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.zst");
    let whole = [zstd(&records(0..100)), zstd(&records(100..5_000))].concat();
    fs::write(&path, &whole).unwrap();
    assert_eq!(run(&text(listed(&[&path]))).summary, Summary { shown: 5_000, failures: 0 });

    fs::write(&path, whole.split_at(whole.len() / 2).0).unwrap();
    let shown = run(&text(listed(&[&path])));

    let count = shown.summary.shown;
    assert!((2_000..3_000).contains(&count), "{count}");
    assert_eq!(numbers(&shown.out), (0..u32::try_from(count).unwrap()).collect::<Vec<_>>());
    assert_eq!((shown.summary.failures, shown.notices.len()), (1, 1));
    assert!(shown.notices.concat().ends_with("incomplete zstd frame"), "{:?}", shown.notices);
}

/// Made by zstd 1.5.4: `zstd -19` on records 0 to 2, `zstd -1 --no-check` on records 3 and 4, one behind the other.
#[test]
fn what_the_zstd_program_wrote_is_read() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/show/two-frames.jsonl.zst");
    let shown = run(&json(listed(&[&capture])));
    assert_eq!((shown.out, shown.notices.len()), (records(0..5), 0));
}

#[test]
fn a_file_and_its_compressed_copy_are_shown_once() {
    let folder = TempDir::new().unwrap();
    let live = folder.path().join("events.jsonl");
    fs::write(&live, records(100..102)).unwrap();
    fs::write(folder.path().join("events.jsonl-1"), records(0..100)).unwrap();
    // A compression under way: the copy is not finished.
    let packed = gzip(&records(0..100));
    fs::write(folder.path().join("events.jsonl-1.gz"), packed.split_at(packed.len() / 2).0).unwrap();
    // An older log, packed by hand under the live one's name: no copy.
    fs::write(folder.path().join("events.jsonl.gz"), gzip(&records(102..104))).unwrap();

    let shown = run(&text(Logs::Live(live)));

    assert_eq!(numbers(&shown.out), (0..104).collect::<Vec<_>>());
    assert_eq!(shown.summary.failures, 0, "{:?}", shown.notices);
}

#[test]
fn a_hostile_log_cannot_reach_the_terminal() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log\x1b[31m");
    let forged =
        |message: &str| format!("{{\"@timestamp\":\"2026-11-20T10:00:00Z\",\"message\":{message}}}\n");
    let mut log = records(0..1).into_bytes();
    log.extend(forged(r#""a\u001b]0;title\u0007\nforged\u009b2J\u202e → \u2190""#).bytes());
    log.extend(forged("\"raw\u{9b}31m\u{202e}\"").bytes());
    log.extend(b"\x1b[2Jno json\n");
    log.extend(b"{\"@timestamp\":\"2026-11-20T10:00:00Z\",\"message\":\"\xff\xfe\"}\n");
    log.extend([b"{\"".as_slice(), &b"a".repeat(10 << 20), b"\n"].concat());
    log.extend(b"[[[[".repeat(10_000));
    log.extend(b"\n\n");
    log.extend(record(1).bytes());
    log.extend(b"{\"@timestamp\":\"2026-11-20T10:00:01Z\",\"mes");
    fs::write(&path, &log).unwrap();

    let shown = run(&text(listed(&[&path])));
    let raw = run(&json(listed(&[&path])));

    let lines: Vec<&str> = shown.out.lines().collect();
    assert_eq!(
        lines,
        [
            "2026-11-20 10:00:00.000Z  open   alice@pts/3  record 0",
            "2026-11-20 10:00:00.000Z  a\\u{1b}]0;title\\u{7}\\u{a}forged\\u{9b}2J\\u{202e} → ←",
            "2026-11-20 10:00:00.000Z  raw\\u{9b}31m\\u{202e}",
            "2026-11-20 10:00:01.000Z  open   alice@pts/3  record 1",
        ]
    );
    assert_eq!(shown.flaws, [(4, Flaw::NoJson { column: 1 }, 5)]);
    let notices = shown.notices.concat();
    assert!(notices.contains("log\\u{1b}[31m:4: line is no JSON at column 1 (5 more"), "{notices}");
    assert_eq!(shown.summary.failures, 1);
    assert!(raw.out.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "{}", raw.out);
    assert_eq!(raw.summary.shown, 4);
}

#[test]
fn a_last_line_without_an_end_is_shown_if_it_is_whole_and_told_of_if_not() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, records(0..2).trim_end()).unwrap();
    let shown = run(&text(listed(&[&path])));
    assert_eq!((numbers(&shown.out), shown.notices.len()), (vec![0, 1], 0));
    fs::write(&path, records(0..2).split_at(records(0..2).len() - 20).0).unwrap();
    let shown = run(&text(listed(&[&path])));
    assert_eq!((numbers(&shown.out), shown.flaws), (vec![0], vec![(2, Flaw::Torn, 0)]));
}

#[test]
fn what_is_missing_is_named_and_the_rest_shown() {
    let folder = TempDir::new().unwrap();
    let (there, missing, empty) =
        (folder.path().join("there"), folder.path().join("missing"), folder.path().join("empty"));
    fs::write(&there, records(0..2)).unwrap();
    fs::write(&empty, "").unwrap();

    let shown = run(&text(listed(&[&missing, &there, &empty, folder.path()])));

    assert_eq!(numbers(&shown.out), [0, 1]);
    assert_eq!(shown.summary.failures, 2);
    assert!(shown.notices.concat().contains(&format!("cannot open {}: No such file", missing.display())));
    assert!(shown.notices.concat().contains(&format!("cannot open {}: is a dir", folder.path().display())));

    let nothing = show::run(&text(Logs::Live(missing)), &mut Vec::new(), &mut |_| (), &|| false);
    assert!(matches!(nothing, Err(ShowError::NoLog { .. })));
}

/// Takes so many bytes, then says what a pipe or a disk says.
struct Full(usize, io::ErrorKind);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(self.1.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_ends_quietly_and_a_full_disk_does_not() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    fs::write(&path, records(0..2_000)).unwrap();
    let end = |kind| {
        let mut notices = 0;
        let show = json(listed(&[&path]));
        let outcome = show::run(&show, &mut Full(100_000, kind), &mut |_| notices += 1, &|| false);
        assert_eq!(notices, 0);
        outcome
    };
    assert!(end(io::ErrorKind::BrokenPipe).is_ok());
    assert!(matches!(end(io::ErrorKind::StorageFull), Err(ShowError::Write(_))));
}

/// Reads this process's standard input; started by the next test, which gives it one.
#[test]
#[ignore = "has no input of its own"]
fn child_that_shows_standard_input() {
    let mut out = io::stderr();
    show::run(&json(listed(&[Path::new("-")])), &mut out, &mut |notice| panic!("{notice}"), &|| false)
        .unwrap();
}

#[test]
fn standard_input_is_read_plain_or_packed_and_each_line_is_shown_at_once() {
    for packed in [records(0..3).into_bytes(), gzip(&records(0..3)), zstd(&records(0..3))] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_shows_standard_input", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&packed).unwrap();
        let mut output = io::BufReader::new(child.stderr.take().unwrap());
        if packed.starts_with(b"{") {
            // The pipe is still open: nothing may wait for its end.
            let mut first = String::new();
            io::BufRead::read_line(&mut output, &mut first).unwrap();
            assert_eq!(first, record(0));
            drop(input);
            assert_eq!(io::read_to_string(output).unwrap(), records(1..3));
        } else {
            drop(input);
            assert_eq!(io::read_to_string(output).unwrap(), records(0..3));
        }
        assert!(child.wait().unwrap().success());
    }
}

/// A `show --follow` in a thread, and what it has written so far.
struct Following {
    out: Arc<Mutex<Vec<u8>>>,
    notices: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Summary, ShowError>>,
}

/// Output that the test can hold up, as a pager does.
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Following {
    fn start(mut show: Show) -> Following {
        show.follow = true;
        let (out, notices, stop) =
            (Arc::default(), Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (mut sink, say, stopped) = (Shared(Arc::clone(&out)), Arc::clone(&notices), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut say = |notice: &Notice| say.lock().unwrap().push(notice.to_string());
            show::run(&show, &mut sink, &mut say, &|| stopped.load(Ordering::Relaxed))
        });
        Following { out, notices, stop, thread }
    }

    fn out(&self) -> String {
        String::from_utf8(self.out.lock().unwrap().clone()).unwrap()
    }

    /// Waits until so many lines are there.
    fn wait_for(&self, lines: usize) {
        self.wait_until(|following| following.out().lines().count() >= lines);
    }

    fn wait_until(&self, is_true: impl Fn(&Following) -> bool) {
        let start = Instant::now();
        while !is_true(self) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{} {:?}",
                self.out(),
                self.notices.lock().unwrap()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it look a few times more, so that a line too many would show, and ends it.
    fn end(self) -> (String, Vec<String>) {
        thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "stopping took {:?}", start.elapsed());
        let out = String::from_utf8(self.out.lock().unwrap().clone()).unwrap();
        let notices = self.notices.lock().unwrap().clone();
        (out, notices)
    }
}

fn append(path: &Path, content: &str) -> File {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn sibling(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

#[test]
fn following_waits_for_the_file_and_never_shows_half_a_line() {
    let folder = TempDir::new().unwrap();
    let live = folder.path().join("events.jsonl");
    let following = Following::start(text(Logs::Live(live.clone())));
    following.wait_until(|following| !following.notices.lock().unwrap().is_empty());
    let (head, tail) = (records(0..1), records(1..2));
    let (start, end) = tail.split_at(40);
    append(&live, &head);
    append(&live, start);
    following.wait_for(1);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(numbers(&following.out()), [0]);
    append(&live, end);
    following.wait_for(2);
    append(&live, start);

    let (out, notices) = following.end();

    assert_eq!(numbers(&out), [0, 1]);
    assert_eq!(notices, [format!("{} does not exist yet: waiting for it", live.display())]);
}

#[test]
fn following_finishes_the_renamed_file_before_it_reads_the_new_one() {
    let folder = TempDir::new().unwrap();
    let live = folder.path().join("events.jsonl");
    fs::write(sibling(&live, ".1"), records(0..2)).unwrap();
    let mut old = append(&live, &records(2..4));
    let following = Following::start(text(Logs::Live(live.clone())));
    following.wait_for(4);
    // logrotate: rename, create; the daemon goes on in the old file until it is told.
    fs::rename(sibling(&live, ".1"), sibling(&live, ".2")).unwrap();
    fs::rename(&live, sibling(&live, ".1")).unwrap();
    old.write_all(records(4..5).as_bytes()).unwrap();
    following.wait_for(5);
    let mut new = append(&live, "");
    thread::sleep(Duration::from_millis(500));
    old.write_all(records(5..7).as_bytes()).unwrap();
    new.write_all(records(7..9).as_bytes()).unwrap();
    following.wait_for(9);
    new.write_all(records(9..10).as_bytes()).unwrap();
    following.wait_for(10);

    let (out, notices) = following.end();

    assert_eq!(numbers(&out), (0..10).collect::<Vec<_>>());
    assert_eq!(notices, Vec::<String>::new());
}

#[test]
fn following_finds_files_that_came_and_went_while_the_output_was_blocked() {
    let folder = TempDir::new().unwrap();
    let live = folder.path().join("events.jsonl");
    append(&live, &records(0..2));
    let following = Following::start(text(listed(&[&live])));
    following.wait_for(2);
    let blocked = following.out.lock().unwrap();
    append(&live, &records(2..3));
    thread::sleep(Duration::from_millis(400));
    fs::rename(&live, sibling(&live, "-1")).unwrap();
    fs::write(sibling(&live, "-2.gz"), gzip(&records(3..6))).unwrap();
    fs::write(sibling(&live, "-3"), records(6..8)).unwrap();
    // The first one is packed as well by now, and an older one lies about.
    fs::write(sibling(&live, "-1.gz"), gzip(&records(0..3))).unwrap();
    append(&live, &records(8..10));
    drop(blocked);
    following.wait_for(10);

    let (out, notices) = following.end();

    assert_eq!(numbers(&out), (0..10).collect::<Vec<_>>());
    assert_eq!(notices, Vec::<String>::new());
}

#[test]
fn following_survives_copytruncate_and_reads_the_copy_for_what_it_had_not_seen() {
    let folder = TempDir::new().unwrap();
    let live = folder.path().join("events.jsonl");
    append(&live, &records(0..3));
    let following = Following::start(text(listed(&[&live])));
    following.wait_for(3);
    for (copy, first) in [(".1", 3), (".2.gz", 10)] {
        // All between two looks, so that the file is longer afterwards than it was.
        append(&live, &records(first..first + 1));
        let content = fs::read_to_string(&live).unwrap();
        let content = if copy.ends_with("gz") { gzip(&content) } else { content.into_bytes() };
        fs::write(sibling(&live, copy), content).unwrap();
        OpenOptions::new().write(true).truncate(true).open(&live).unwrap();
        append(&live, &records(first + 1..first + 7));
        following.wait_for(usize::try_from(first).unwrap() + 7);
    }
    assert_eq!(numbers(&following.out()), (0..17).collect::<Vec<_>>());
    assert_eq!(*following.notices.lock().unwrap(), Vec::<String>::new());
    // Cut without a copy: said, because lines may be lost.
    OpenOptions::new().write(true).truncate(true).open(&live).unwrap();
    append(&live, &records(17..18));
    following.wait_for(18);

    let (out, notices) = following.end();

    assert_eq!(numbers(&out), (0..18).collect::<Vec<_>>());
    assert_eq!(notices, [format!("{} was truncated: going on from its start", live.display())]);
}

#[test]
fn following_loses_and_repeats_nothing_while_a_writer_rotates_under_it() {
    let folder = TempDir::new().unwrap();
    let live = folder.path().join("events.jsonl");
    let mut file = append(&live, &record(0));
    let following = Following::start(text(Logs::Live(live.clone())));
    for n in 1..3_000 {
        if n % 100 == 0 {
            fs::rename(&live, sibling(&live, &format!("-{n}"))).unwrap();
            file = append(&live, "");
        }
        file.write_all(record(n).as_bytes()).unwrap();
        if n % 10 == 0 {
            thread::sleep(Duration::from_millis(3));
        }
    }
    following.wait_for(3_000);

    let (out, notices) = following.end();

    assert_eq!(numbers(&out), (0..3_000).collect::<Vec<_>>());
    assert_eq!(notices, Vec::<String>::new());
}

#[test]
fn flaws_in_a_followed_log_are_told_when_they_come_and_summed_up_at_the_end() {
    let folder = TempDir::new().unwrap();
    let live = folder.path().join("events.jsonl");
    append(&live, &format!("{}bad\n", record(0)));
    let following = Following::start(text(listed(&[&live])));
    following.wait_until(|following| !following.notices.lock().unwrap().is_empty());
    append(&live, &format!("worse\nworst\n{}", record(1)));
    following.wait_for(2);

    let (out, notices) = following.end();

    assert_eq!(numbers(&out), [0, 1]);
    let expected = [
        format!("{}:2: line is no JSON at column 1", live.display()),
        format!("{}:2: line is no JSON at column 1 (2 more in this file are no records)", live.display()),
    ];
    assert_eq!(notices, expected);
}

#[test]
fn compressed_files_alone_cannot_be_followed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.gz");
    fs::write(&path, gzip(&records(0..2))).unwrap();
    let mut show = text(listed(&[&path]));
    show.follow = true;
    let shown = run(&show);
    assert_eq!((numbers(&shown.out), shown.summary.failures), (vec![0, 1], 1));
    assert_eq!(shown.notices, ["nothing to follow: every given log is compressed"]);
}
