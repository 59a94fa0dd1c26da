//! The words that ship, held against the program: no option, key, field or value without a word about it, and no word
//! about what there is not.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test may fail by panic, and reads what ships"
)]

/// What can be typed, wherever it is printed.
mod commands;
/// The table of faults.
mod faults;
/// What a record can hold.
mod fields;
/// What the program takes.
mod options;

/// Manual pages, readable.
mod page;
/// Records of every kind.
mod samples;

#[path = "../support/not_run.rs"]
mod not_run;
