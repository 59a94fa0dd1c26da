//! Shells and interpreters: what they were started to run.
//!
//! Knows no language. Sources: the manuals of the shells, Python, Perl and Ruby.

use super::program::{base_name, file_name};
use crate::process::Process;

/// What an interpreter was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It runs text of its arguments, a script or a module.
    Script,
    /// A shell that was given nothing to run: somebody types into it.
    Interactive,
    /// No interpreter.
    None,
}

/// Shells, which stand between a person and a client as well as between a program and one.
const SHELLS: &[&str] =
    &["ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "ksh93", "mksh", "rbash", "sh", "tcsh", "zsh"];

/// Languages whose programs are scripts.
const LANGUAGES: &[&str] = &["perl", "pypy", "python", "ruby"];

/// What the process was started for.
pub(super) fn kind(process: &Process) -> Kind {
    let shell = is_shell(file_name(process));
    if !shell && !is_language(file_name(process)) {
        return Kind::None;
    }
    match first(process) {
        First::Nothing if shell => Kind::Interactive,
        _ => Kind::Script,
    }
}

/// File name of the script, or first part of the module's name, that an interpreter runs.
pub(super) fn script(process: &Process) -> Option<&[u8]> {
    let name = file_name(process);
    if !is_shell(name) && !is_language(name) {
        return None;
    }
    match first(process) {
        First::Script(path) => Some(base_name(path)),
        First::Module(name) => name.split(|byte| *byte == b'.').next(),
        First::Text | First::Nothing => None,
    }
}

/// What an interpreter was given to run.
enum First<'a> {
    Script(&'a [u8]),
    Module(&'a [u8]),
    /// The text itself.
    Text,
    Nothing,
}

fn first(process: &Process) -> First<'_> {
    let is_shell = is_shell(file_name(process));
    let mut args = process.args.iter().skip(1).map(Vec::as_slice);
    while let Some(arg) = args.next() {
        match arg {
            b"--" => return args.next().map_or(First::Nothing, First::Script),
            b"-m" if !is_shell => return args.next().map_or(First::Nothing, First::Module),
            // Options that take the next argument, of the shells and of Python.
            b"-o" | b"+o" | b"-O" | b"+O" | b"--rcfile" | b"--init-file" if is_shell => drop(args.next()),
            b"-W" | b"-X" if !is_shell => drop(args.next()),
            [b'-', b'-', ..] => {}
            [b'-', letters @ ..] if runs_text(letters, is_shell) => return First::Text,
            [b'-' | b'+', _, ..] => {}
            script => return First::Script(script),
        }
    }
    First::Nothing
}

/// True for a shell's `-c`, alone or among letters, and Python's `-c`, Perl's and Ruby's `-e`.
fn runs_text(letters: &[u8], is_shell: bool) -> bool {
    let is_last = |letter| letters.len() <= 3 && letters.last() == Some(&letter);
    if is_shell {
        letters.contains(&b'c')
    } else {
        letters.starts_with(b"c") || is_last(b'c') || is_last(b'e')
    }
}

fn is_shell(name: &[u8]) -> bool {
    SHELLS.iter().any(|shell| shell.as_bytes() == name)
}

/// True for `python3.11` and its like.
fn is_language(name: &[u8]) -> bool {
    LANGUAGES.iter().any(|language| {
        let version = name.strip_prefix(language.as_bytes());
        version.is_some_and(|version| version.iter().all(|b| b.is_ascii_digit() || *b == b'.'))
    })
}
