//! The configuration file: no panic, and an error is one line.

use portreeve::config::parse;
use portreeve::text::harmless;

use super::is_harmless;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = parse(text) {
        assert!(error.starts_with("line ") && !error.contains('\n'), "{error:?}");
        assert!(is_harmless(&harmless(&error)));
    }
}
