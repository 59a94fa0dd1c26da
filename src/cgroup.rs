//! What a cgroup path tells: the systemd unit and the container.
//!
//! Pure: bytes in, meaning out. The path is the kernel's, its names are whoever made the group's. Sources:
//! systemd.unit(5) for unit names; the runtimes' documented cgroup layouts for containers.

/// A container, by the id that its runtime put into the cgroup path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container<'a> {
    /// Runtime, where the path names it.
    pub runtime: Option<&'static str>,
    /// 64 hex digits, or the container's name for lxc and machined.
    pub id: &'a str,
}

/// The innermost systemd unit: `ssh.service`, `session-3.scope`. `None` outside systemd.
#[must_use]
pub fn unit(path: &[u8]) -> Option<&str> {
    components(path).rfind(|name| name.ends_with(".service") || name.ends_with(".scope"))
}

/// The innermost container.
#[must_use]
pub fn container(path: &[u8]) -> Option<Container<'_>> {
    let mut inner = None;
    let mut parent = "";
    for name in components(path) {
        inner = container_of(parent, name).or(inner);
        parent = name;
    }
    inner
}

/// Prefixes of scope names (`docker-ID.scope`) and names of parent groups (`/docker/ID`).
const RUNTIMES: [(&str, &str); 6] = [
    ("docker", "docker"),
    ("cri-containerd", "containerd"),
    ("crio", "cri-o"),
    ("libpod", "podman"),
    ("nerdctl", "containerd"),
    ("buildkit", "buildkit"),
];

fn container_of<'a>(parent: &str, name: &'a str) -> Option<Container<'a>> {
    let scope = name.strip_suffix(".scope").unwrap_or(name);
    if let Some(id) = name.strip_prefix("lxc.payload.") {
        return Some(Container { runtime: Some("lxc"), id });
    }
    if let Some(id) = scope.strip_prefix("machine-").filter(|_| scope != name) {
        return Some(Container { runtime: Some("machined"), id });
    }
    let (prefix, id) = scope.rsplit_once('-').unwrap_or(("", scope));
    let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let known = |word: &str| RUNTIMES.iter().find(|(key, _)| *key == word).map(|(_, runtime)| *runtime);
    is_id.then(|| Container { runtime: known(prefix).or_else(|| known(parent)), id })
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &str> {
    path.split(|b| *b == b'/')
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1c2d4e5a6b7c8d9e0f3f1c2d4e5a6b7c8d9e0f3f1c2d4e5a6b7c8d9e0f1a2b";

    #[test]
    fn the_innermost_unit_is_told() {
        for (path, wanted) in [
            ("/system.slice/ssh.service", Some("ssh.service")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service", Some("a.service")),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope/x", Some("init.scope")),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(unit(path.as_bytes()), wanted, "{path}");
        }
    }

    #[test]
    fn a_container_is_told_by_its_id() {
        for (path, runtime) in [
            (format!("/system.slice/docker-{ID}.scope"), Some("docker")),
            (format!("/docker/{ID}"), Some("docker")),
            (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"), Some("containerd")),
            (format!("/kubepods/burstable/pod1/{ID}"), None),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some("podman")),
        ] {
            assert_eq!(container(path.as_bytes()), Some(Container { runtime, id: ID }), "{path}");
        }
        let named = container(b"/lxc.payload.web/system.slice/ssh.service").unwrap();
        assert_eq!((named.runtime, named.id), (Some("lxc"), "web"));
        assert_eq!(container(b"/system.slice/ssh.service"), None);
        assert_eq!(container(&format!("/x/{}", &ID[1..]).into_bytes()), None);
    }
}
