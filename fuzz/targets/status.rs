//! `/proc/PID/status`: no panic, and no name can pass for another line.

use portreeve::proc::{Status, parse_status};
use portreeve::process::Ids;

pub fn run(data: &[u8]) {
    let _no_panic = parse_status(data);
    // The kernel writes a line's end in a name as `\n`.
    let name: Vec<u8> = data.iter().copied().filter(|byte| *byte != b'\n').collect();
    let behind = b"\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t42\nPPid:\t7\nUid:\t1000\t0\t0\t0\nGid:\t100\t100\t100\t100\n";
    let wanted = Status {
        name: name.clone(),
        state: Some(b'S'),
        parent: Some(7),
        ids: Some(Ids { real_uid: 1000, effective_uid: 0, real_gid: 100 }),
    };
    assert_eq!(parse_status(&[b"Name:\t", name.as_slice(), behind].concat()), wanted);
}
