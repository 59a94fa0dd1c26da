//! `/proc/PID/fdinfo/N` of sockets, rings and unix sockets: no panic, and no more sockets than lines.

use portreeve::proc::{parse_fdinfo, parse_in_flight, parse_ring};

pub fn run(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(parse_ring(data).is_none_or(|sockets| sockets.len() < lines));
    let _no_panic = parse_in_flight(data);
    let info = parse_fdinfo(data);
    let (inode, mount) = (info.inode.unwrap_or(1), info.mount.unwrap_or(1));
    let written = format!("pos:\t0\nflags:\t02\nmnt_id:\t{mount}\nino:\t{inode}\n");
    let again = parse_fdinfo(written.as_bytes());
    assert_eq!((again.inode, again.mount), (Some(inode), Some(mount)));
}
