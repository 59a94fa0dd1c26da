//! A watcher over a simulated kernel and a disk that fails, through random histories: what the log tells at the end is
//! what happened, or the difference is counted, and `portreeve verify` finds nothing.
//!
//! 40 histories in a test run; PORTREEVE_HISTORIES tries more, PORTREEVE_HISTORY one of them.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test may fail by panic, and makes files"
)]

/// A `/proc` that behaves.
#[expect(dead_code, reason = "shared with the pipeline's tests")]
#[path = "../pipeline/kernel.rs"]
mod kernel;

/// What happens, step by step.
mod history;
/// What really happened, and whether the log says so.
mod truth;
/// The watcher: started, killed, stopped.
mod watcher;

use history::History;

#[test]
fn what_the_log_tells_is_what_happened() {
    // A file size limit is a full disk; its signal must not end the test.
    let caught = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, caught).unwrap();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("PORTREEVE_HISTORY") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PORTREEVE_HISTORIES").unwrap_or(40),
    };
    let mut sums = std::collections::BTreeMap::<&str, u64>::new();
    for seed in seeds {
        let counts = History::new(seed).run();
        counts.into_iter().for_each(|(what, count)| *sums.entry(what).or_default() += count);
    }
    println!("{sums:?}");
    for what in ["connections", "killed", "rotated", "disk full", "rebooted", "clock set", "reading failed"] {
        assert!(sums.get(what).is_some_and(|count| *count > 0), "{what}: never tried");
    }
}
