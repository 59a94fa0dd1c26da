//! What `paths` and `explain` tell of any file: no panic, JSON lines that are printable JSON, no line that a terminal obeys,
//! and the same ways in every form.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use jiff::tz::TimeZone;
use portreeve::report::explain::{Explain, Outcome, run as explain};
use portreeve::report::paths::{Format, Paths, run as paths};
use portreeve::report::show::Logs;
use portreeve::report::{Filter, Notice};
use portreeve::text::Style;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::de::IgnoredAny;

use super::{is_harmless, is_printable};

pub fn run(data: &[u8]) {
    let mut file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(data).unwrap();
    let logs = Logs::Listed(vec![format!("/proc/self/fd/{}", file.as_raw_fd()).into()]);
    let (json, ways) = printed(&logs, Format::Json);
    for line in json.lines() {
        assert!(is_printable(line.as_bytes()), "{line:?}");
        // Deeper than `Value` goes.
        let _: IgnoredAny = serde_json::from_str(line).expect("a JSON line");
    }
    assert_eq!(u64::try_from(json.lines().count()), Ok(ways));
    for format in [Format::Text, Format::Dot, Format::Mermaid] {
        let (text, shown) = printed(&logs, format);
        // The tree's own marks.
        assert!(
            text.replace(['\u{2502}', '\u{251c}', '\u{2514}', '\u{2500}'], "").lines().all(is_harmless),
            "{text:?}"
        );
        assert_eq!(shown, ways, "{format:?}");
    }
    for digit in ["0", "01", "f"] {
        let asked = Explain { logs: logs.clone(), id: digit.parse().unwrap(), style: style() };
        let mut story = Vec::new();
        let (outcome, _) = explain(&asked, &mut story, &mut say).expect("a file in memory can be read");
        let story = String::from_utf8(story).expect("UTF-8");
        assert!(story.lines().all(is_harmless), "{story:?}");
        assert_eq!(outcome == Outcome::Told, !story.is_empty());
    }
}

fn style() -> Style {
    Style { zone: TimeZone::UTC, utc: true, color: false, width: None }
}

fn say(notice: &Notice) {
    assert!(is_harmless(&notice.to_string()), "{notice}");
}

/// What `paths` writes, and of how many ways.
fn printed(logs: &Logs, format: Format) -> (String, u64) {
    let asked = Paths { logs: logs.clone(), filter: Filter::default(), format, style: style() };
    let mut out = Vec::new();
    let summary = paths(&asked, &mut out, &mut say).expect("a file in memory can be read");
    (String::from_utf8(out).expect("UTF-8"), summary.shown)
}
