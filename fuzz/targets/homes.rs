//! The user database and the table of mounts, as the watch of SSH's files reads them: no panic, homes are whole paths that
//! stand in the text, each once, and a folder is on a served file system where that is mounted on it.

use portreeve::files::{is_served, parse_homes};

pub fn run(data: &[u8]) {
    let (homes, parents) = parse_homes(data);
    for list in [&homes, &parents] {
        assert!(list.is_sorted_by(|one, next| one < next), "sorted, each once");
        for path in list {
            assert!(path.starts_with(b"/") && !path.ends_with(b"/"));
            assert!(data.windows(path.len()).any(|window| window == path));
        }
    }
    assert!(parents.iter().all(|parent| {
        homes.iter().any(|home| home.strip_prefix(&parent[..]).is_some_and(|rest| rest.starts_with(b"/")))
    }));
    let _no_panic = is_served(data, data);
    for path in homes.iter().take(16) {
        let mount = |kind: &str| {
            [data, b"\n9 1 0:9 / ", &escaped(path), b" rw - ", kind.as_bytes(), b" x rw\n"].concat()
        };
        assert!(is_served(path, &mount("fuse.sshfs")) && is_served(path, &mount("autofs")));
        assert!(!is_served(path, &mount("ext4")), "the last mount is on top");
    }
}

/// As the kernel writes a path.
fn escaped(path: &[u8]) -> Vec<u8> {
    let write = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        other => vec![*other],
    };
    path.iter().flat_map(write).collect()
}
