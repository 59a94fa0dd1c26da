//! Notices of fanotify, and the marks of `fdinfo` by which its folders are known: no panic, no more notices than bytes
//! allow, and the handle of a mark is the one that stands there.

use portreeve::files::{parse_marks, parse_notices};

/// Bytes of a notice, and of the information about its folder.
const NOTICE: usize = 24;
const FOLDER: usize = 20;

pub fn run(data: &[u8]) {
    for bytes in [data, &notice(data)] {
        assert!(parse_notices(bytes).count() <= bytes.len() / NOTICE);
    }
    assert!(parse_notices(&notice(data)).count() <= usize::from(data.len() >= FOLDER));
    let lines = data.split(|byte| *byte == b'\n');
    for line in lines.filter(|line| line.starts_with(b"fanotify ino:")) {
        let word = line.split(|byte| *byte == b' ').nth(1).unwrap();
        let digits = std::str::from_utf8(&word["ino:".len()..]).unwrap_or_default();
        let Ok(inode) = u64::from_str_radix(digits, 16) else { continue };
        // On whatever device: then it is the only one of this inode.
        let Some((kind, handle)) = parse_marks(data, inode, (u32::MAX, 0)) else { continue };
        let hex: String = handle.iter().map(|byte| format!("{byte:02x}")).collect();
        let written = format!("fanotify ino:{inode:x} sdev:0 fhandle-type:{kind:x} f_handle:{hex}");
        assert_eq!(parse_marks(written.as_bytes(), inode, (0, 0)), Some((kind, handle)));
    }
}

/// Informations behind a whole header, which a fuzzer would have to guess: something was made, by the process 7.
fn notice(informations: &[u8]) -> Vec<u8> {
    let length = u32::try_from(NOTICE + informations.len()).unwrap().to_ne_bytes();
    let mask = 0x100_u64.to_ne_bytes();
    let header = [&length[..], &[3, 0], &24_u16.to_ne_bytes(), &mask, &[0xff; 4], &7_i32.to_ne_bytes()];
    [header.concat(), informations.to_vec()].concat()
}
