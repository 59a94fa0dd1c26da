//! What `show` prints of any file: no panic, JSON lines that are printable JSON, text lines that no terminal obeys,
//! notices of one harmless line.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use jiff::tz::TimeZone;
use portreeve::report::show::{Format, Logs, Show, run as show};
use portreeve::report::{Filter, Notice};
use portreeve::text::Style;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::de::IgnoredAny;

use super::{is_harmless, is_printable};

pub fn run(data: &[u8]) {
    let text = printed(data, Format::Text);
    let text = String::from_utf8(text).expect("text output is UTF-8");
    assert!(text.lines().all(is_harmless), "{text:?}");
    let json = printed(data, Format::Json);
    for line in json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        assert!(is_printable(line), "{}", line.escape_ascii());
        // Deeper than `Value` goes.
        let _: IgnoredAny = serde_json::from_slice(line).expect("a JSON line");
        assert!(line.trim_ascii_start().starts_with(b"{"));
    }
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines(text.as_bytes()), lines(&json), "each record is one line in both");
}

/// What `show` writes of a file that holds these bytes.
pub fn printed(data: &[u8], format: Format) -> Vec<u8> {
    let mut file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(data).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let style = Style { zone: TimeZone::UTC, utc: true, color: false, width: None };
    let logs = Logs::Listed(vec![path.into()]);
    let asked = Show { logs, follow: false, filter: Filter::default(), format, style };
    let mut out = Vec::new();
    let mut say = |notice: &Notice| assert!(is_harmless(&notice.to_string()), "{notice}");
    show(&asked, &mut out, &mut say, &|| false).expect("a file in memory can be read");
    out
}
