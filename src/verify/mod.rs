//! `verify`: whether a log is whole, unchanged, and says what it must.
//! Shares no code with the writer: its own parser, its own table of fields, its own arithmetic. Never opens `/proc`.
//! Truth: portreeve-events(5); docs/VERIFY.md lists the rules. Memory is that of the connections that live at once.

mod alone;
mod chains;
mod check;
mod clock;
mod connections;
mod counters;
pub mod fields;
mod findings;
mod input;
mod json;
mod lines;
mod moment;
mod order;
mod record;
pub mod rules;
mod runs;
mod schema;
mod seal;
mod set;
mod stream;
mod summary;
mod token;
mod words;

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;

pub use findings::Finding;
pub use seal::Secret;
pub use summary::Summary;

use check::Check;
use findings::Findings;
use input::Input;

use crate::text::escape;

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The set; `-` is standard input.
    pub logs: Vec<PathBuf>,
    /// The first key of the seals.
    pub secret: Option<Secret>,
    /// Records and the chains that they must have.
    pub anchors: Vec<(u64, [u8; 64])>,
    /// Now, in microseconds since 1970, if the log must be that of a watch that runs.
    pub expect_live: Option<i64>,
    /// JSON instead of text.
    pub json: bool,
}

/// How a check ended.
#[derive(Debug)]
pub struct Outcome {
    /// What the set holds.
    pub summary: Summary,
    /// Files that could not be read, or not to their end, and why.
    pub unreadable: Vec<String>,
}

impl Outcome {
    /// True if all could be read and something was there.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.unreadable.is_empty() && self.summary.records > 0
    }

    /// True if no rule is broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.summary.violations.is_empty()
    }
}

/// Checks a set of files and writes what is wrong, and a summary.
///
/// # Errors
/// If `out` cannot be written. What cannot be read is part of the outcome.
pub fn run(options: &Options, out: &mut dyn Write) -> io::Result<Outcome> {
    let mut check = Check::new(options);
    let mut unreadable = Vec::new();
    let mut say =
        |path: &Path, error: &io::Error| unreadable.push(format!("cannot read {}: {error}", shown(path)));
    let mut inputs = Vec::new();
    for path in &options.logs {
        match Input::open(path, check.reader()) {
            Ok(input) => inputs.push(input),
            Err(error) => say(path, &error),
        }
    }
    let inputs = input::in_order(inputs);
    let names: Vec<String> = inputs.iter().map(|input| shown(&input.path)).collect();
    let mut written = Ok(());
    let mut tell = |finding: &Finding| {
        if written.is_ok() {
            written = print(finding, &names, options.json, out);
        }
    };
    let mut found = Findings::new(&mut tell);
    for (index, input) in inputs.iter().enumerate() {
        found.file = index;
        let is_newest = index + 1 == inputs.len();
        let outcome = input.lines().and_then(|mut lines| check.file(&mut lines, is_newest, &mut found));
        if let Err(error) = outcome {
            say(&input.path, &error);
        }
    }
    let summary = check.finish(names.len().saturating_sub(1), options.expect_live, &mut found);
    written?;
    match options.json {
        true => writeln!(out, "{}", json!({ "summary": summary.to_json() }))?,
        false => write!(out, "{summary}")?,
    }
    out.flush()?;
    Ok(Outcome { summary, unreadable })
}

fn print(finding: &Finding, names: &[String], json: bool, out: &mut dyn Write) -> io::Result<()> {
    let Finding { rule, file, line, sequence, text } = finding;
    let file = names.get(*file).map_or("", String::as_str);
    if json {
        let rule = format!("V{rule}");
        let finding = json!({ "rule": rule, "file": file, "line": line, "sequence": sequence, "text": text });
        return writeln!(out, "{finding}");
    }
    match (line, sequence) {
        (0, _) => writeln!(out, "V{rule} {file}: {text}"),
        (_, Some(n)) => writeln!(out, "V{rule} {file}:{line} record {n}: {text}"),
        (_, None) => writeln!(out, "V{rule} {file}:{line}: {text}"),
    }
}

/// A path for a terminal: whoever can create a file chooses its name.
fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// An anchor as it is typed: `SEQUENCE:CHAIN`.
///
/// # Errors
/// If it is none.
pub fn parse_anchor(text: &str) -> Result<(u64, [u8; 64]), String> {
    let wrong = || format!("`{text}` is no anchor: write SEQUENCE:CHAIN, with the chain's 64 digits");
    let (n, chain) = text.split_once(':').ok_or_else(wrong)?;
    let chain = chain.to_ascii_lowercase();
    moment::parse_hex::<32>(chain.as_bytes()).ok_or_else(wrong)?;
    let chain = <[u8; 64]>::try_from(chain.as_bytes()).map_err(|_| wrong())?;
    Ok((n.parse().map_err(|_| wrong())?, chain))
}
