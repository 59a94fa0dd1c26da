//! `/proc/self/mountinfo`: no panic, and only the two options that hide something.

use std::path::Path;

use portreeve::proc::parse_hiding_options;

pub fn run(data: &[u8]) {
    for option in parse_hiding_options(data, Path::new("/proc")) {
        assert!(option.starts_with("hidepid=") || option.starts_with("subset="), "{option:?}");
    }
}
