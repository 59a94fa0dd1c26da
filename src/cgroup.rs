//! What a cgroup path tells: the systemd unit and the container.
//!
//! Pure: bytes in, meaning out. The path is the kernel's, its names are whoever made the group's. Sources:
//! systemd.unit(5) for unit names; the runtimes' documented cgroup layouts for containers.

use std::borrow::Cow;

/// A container, by what its runtime put into the cgroup path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container<'a> {
    /// Runtime, where the path names it.
    pub runtime: Option<&'static str>,
    /// 64 hex digits, or the name where the runtime knows its containers by that.
    pub id: Cow<'a, str>,
    /// True if `id` is the name that people gave it. False: the path does not tell it.
    pub is_named: bool,
}

/// The innermost systemd unit: `ssh.service`, `session-3.scope`. `None` outside systemd.
#[must_use]
pub fn unit(path: &[u8]) -> Option<&str> {
    let is_unit = |name: &&str| {
        let bare = name.strip_suffix(".service").or_else(|| name.strip_suffix(".scope"));
        bare.is_some_and(|bare| !bare.is_empty())
    };
    components(path).rfind(is_unit)
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
    if let Some((runtime, id)) = named(parent, name).filter(|(_, id)| !id.is_empty()) {
        return Some(Container { runtime: Some(runtime), id: unescaped(id), is_named: true });
    }
    let scope = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = scope.rsplit_once('-').unwrap_or(("", scope));
    let is_id = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    let known = |word: &str| RUNTIMES.iter().find(|(key, _)| *key == word).map(|(_, runtime)| *runtime);
    // `libpod-conmon-ID.scope` holds the one who watches over the container from outside.
    (is_id && !prefix.ends_with("-conmon")).then(|| Container {
        runtime: known(prefix).or_else(|| known(parent)),
        id: Cow::Borrowed(id),
        is_named: false,
    })
}

/// Containers that go by a name: runtime and name. libvirt's virtual machines have scopes of machined's form too.
fn named<'a>(parent: &str, group: &'a str) -> Option<(&'static str, &'a str)> {
    if let Some(name) = group.strip_prefix("lxc.payload.") {
        return Some(("lxc", name));
    }
    if matches!(parent, "lxc" | "lxc.payload") {
        return Some(("lxc", group));
    }
    let machine = group.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope"));
    let machine = machine.filter(|name| !name.starts_with(r"qemu\x2d"));
    let nspawn = || group.strip_prefix("systemd-nspawn@")?.strip_suffix(".service");
    machine.or_else(nspawn).map(|name| ("machined", name))
}

/// systemd writes the bytes that a unit's name may not hold, `-` among them, as `\x2d` (systemd-escape(1)).
fn unescaped(name: &str) -> Cow<'_, str> {
    if !name.contains(r"\x") {
        return Cow::Borrowed(name);
    }
    let mut parts = name.split(r"\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (digits, part.get(2..)) {
            (Some(byte), Some(rest)) => {
                bytes.push(byte);
                bytes.extend_from_slice(rest.as_bytes());
            }
            _ => return Cow::Borrowed(name),
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(name), Cow::Owned)
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
            ("/.service/.scope", None),
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
            let wanted = Container { runtime, id: ID.into(), is_named: false };
            assert_eq!(container(path.as_bytes()), Some(wanted), "{path}");
        }
        assert_eq!(container(b"/system.slice/ssh.service"), None);
        assert_eq!(container(&format!("/x/{}", &ID[1..]).into_bytes()), None);
        assert_eq!(container(&format!("/machine.slice/libpod-conmon-{ID}.scope").into_bytes()), None);
    }

    #[test]
    fn a_container_is_told_by_its_name_where_that_is_how_it_goes() {
        for (path, runtime, name) in [
            ("/lxc.payload.web/system.slice/ssh.service", "lxc", "web"),
            ("/lxc/web", "lxc", "web"),
            (r"/machine.slice/machine-my\x2dbox.scope/payload/init.scope", "machined", "my-box"),
            ("/machine.slice/systemd-nspawn@web.service/payload", "machined", "web"),
            (r"/machine.slice/machine-a\x2.scope", "machined", r"a\x2"),
            (r"/machine.slice/machine-a\xff.scope", "machined", r"a\xff"),
        ] {
            let wanted = Container { runtime: Some(runtime), id: name.into(), is_named: true };
            assert_eq!(container(path.as_bytes()), Some(wanted), "{path}");
        }
        assert_eq!(
            container(b"/lxc.payload./machine-.scope"),
            None,
            "anybody may make a group of such a name"
        );
        assert_eq!(container(br"/machine.slice/machine-qemu\x2d1\x2ddebian.scope"), None);
    }
}
