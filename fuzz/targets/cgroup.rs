//! `/proc/PID/cgroup` and what a path of it means: no panic, no empty name, and a path may hold all but a line's end.

use portreeve::cgroup::{container, unit};
use portreeve::proc::parse_cgroup;

pub fn run(data: &[u8]) {
    for path in [Some(data.to_vec()), parse_cgroup(data)].into_iter().flatten() {
        if let Some(unit) = unit(&path) {
            assert!(unit.ends_with(".service") || unit.ends_with(".scope"));
            assert!(!unit.contains('/') && unit != ".service" && unit != ".scope");
        }
        if let Some(container) = container(&path) {
            assert!(!container.id.is_empty());
            assert!(container.is_named || container.id.len() == 64);
        }
    }
    let path: Vec<u8> = data.iter().copied().filter(|byte| *byte != b'\n').collect();
    assert_eq!(parse_cgroup(&[b"2:cpu:/x\n0::", path.as_slice(), b"\n"].concat()), Some(path));
}
