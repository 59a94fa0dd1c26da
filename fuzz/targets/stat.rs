//! `/proc/PID/stat`: no panic, and no name can pass for a number that follows it.

use portreeve::proc::{parse_parent, parse_stat};

/// What follows the name of a process whose parent is 7, from Linux 6.18.
const BEHIND: &str = "S 7 4242 4242 34816 4260 4194304 1287 4012 0 2 1 0 2 1 20 0 1 0 421337 8409088 1331 \
                      18446744073709551615 94110000000000 94110000800000 140720000000000 0 0 0 65536 3686404 \
                      1266761467 1 0 0 17 1 0 0 0 0 0 94110001000000 94110001048000 94110500000000 140720000001000 \
                      140720000001010 140720000001010 140720000002000 0\n";

pub fn run(data: &[u8]) {
    let parent = parse_parent(data);
    if let Some((stat, _)) = parse_stat(data)
        && let Some(parent) = parent
    {
        assert_eq!(u32::try_from(stat.ppid), Ok(parent));
    }
    let claimed = [b"4242 (", data, b") ", BEHIND.as_bytes()].concat();
    assert_eq!(parse_parent(&claimed), Some(7));
    let (stat, comm) = parse_stat(&claimed).expect("whatever a process calls itself");
    assert_eq!((stat.pid, stat.ppid, stat.starttime, comm.as_slice()), (4242, 7, 421_337, data));
}
