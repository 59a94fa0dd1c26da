//! `net/netlink`: no panic, and none that lost nothing.

use portreeve::proc::parse_netlink_drops;

pub fn run(data: &[u8]) {
    for table in [data, &[b"sk Eth Drops Inode\n", data].concat()] {
        if let Ok(drops) = parse_netlink_drops(table) {
            assert!(drops.values().all(|drops| *drops > 0));
            assert!(drops.len() < table.split(|byte| *byte == b'\n').count());
        }
    }
}
