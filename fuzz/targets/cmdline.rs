//! `/proc/PID/cmdline` and the masking of secrets in it: no panic, no argument lost or added, none longer than it was
//! but by masks, and what looks like a password is masked whatever stands around it.

use portreeve::proc::{MAX_ARGS_BYTES, split_args};
use portreeve::secrets::Masker;

const SECRET: &[u8] = b"Tr0ub4dor";

pub fn run(data: &[u8]) {
    let (args, cut) = split_args(data, 0);
    assert!(args.iter().map(Vec::len).sum::<usize>() <= MAX_ARGS_BYTES);
    assert!(args.iter().all(|arg| !arg.contains(&0)));
    assert_eq!(cut, data.len() > MAX_ARGS_BYTES);
    let masker = Masker::new(&["--pin".to_owned(), "-k".to_owned()]);
    let mut masked = args.clone();
    let count = masker.mask(&mut masked);
    assert_eq!(masked.len(), args.len());
    assert_eq!(count == 0, masked == args);
    for (masked, arg) in masked.iter().zip(&args) {
        assert!(is_masked_form(arg, masked), "{:?} from {:?}", masked.escape_ascii(), arg.escape_ascii());
    }
    let mut with_secret = args;
    with_secret.push([b"--password=", SECRET].concat());
    masker.mask(&mut with_secret);
    let last = with_secret.last().unwrap();
    assert!(!last.windows(SECRET.len()).any(|part| part == SECRET), "{:?}", last.escape_ascii());
}

/// The argument with some of its parts replaced by the mask: the rest in its order, nothing else.
fn is_masked_form(arg: &[u8], masked: &[u8]) -> bool {
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let (arg, masked) = (text(arg), text(masked));
    let mut parts = masked.split("****");
    let Some(mut rest) = arg.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    masked.contains("****") || rest.is_empty()
}
