//! `/proc/self/mountinfo`: no panic, and only the two options that hide something.

use std::path::Path;

use portreeve::proc::parse_hiding_option;

pub fn run(data: &[u8]) {
    if let Some(option) = parse_hiding_option(data, Path::new("/proc")) {
        assert!(option.starts_with("hidepid=") || option.starts_with("subset="), "{option:?}");
    }
}
