//! Words of the program in the kernel: no panic, and what a word says of a process is no longer than its bytes.

use portreeve::ebpf::event::{Word, parse};

/// Bytes of an opening before its arguments and names.
const OPEN: usize = 160;
/// As many ancestors as one has room for.
const ANCESTORS: usize = 8;

pub fn run(data: &[u8]) {
    let word = parse(data);
    assert_eq!(word, parse(data), "the same bytes say the same");
    let Some(Word::Open(opening) | Word::Flow(opening)) = word else { return };
    let told: usize = opening.args.iter().map(|arg| arg.len() + 1).sum();
    let path = opening.executable.as_deref().unwrap_or_default();
    // The last argument may lack its NUL; a path that is cut has a mark of three bytes before it.
    assert!(told <= data.len() - OPEN + 1 && path.len() <= data.len() - OPEN + 3);
    assert!(path.is_empty() || path.starts_with(if opening.executable_cut { "…/".as_bytes() } else { b"/" }));
    assert!(opening.comm.len() <= 16 && opening.ancestors.len() <= ANCESTORS);
}
