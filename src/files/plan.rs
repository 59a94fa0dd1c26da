//! Which folders are watched, and which names in them matter. Pure.

use super::Role;

/// Files in a `.ssh` whose changes are told, beside keys.
const FILES: [&[u8]; 7] = [
    b"authorized_keys",
    b"authorized_keys2",
    b"known_hosts",
    b"known_hosts2",
    b"config",
    b"environment",
    b"rc",
];

/// True if a change of this name in a folder of this role is told.
pub(super) fn is_told(role: Role, name: &[u8]) -> bool {
    match role {
        Role::Home => name == b".ssh",
        Role::Ssh => name.is_empty() || FILES.contains(&name) || name.starts_with(b"id_"),
        Role::System => true,
        Role::Etc => name == b"ssh",
        Role::Parent => false,
    }
}

/// What a folder is for that appears in a folder of this role. `None`: nothing.
pub(super) fn role_below(role: Role, name: &[u8]) -> Option<Role> {
    match role {
        Role::Parent => Some(Role::Home),
        Role::Home => (name == b".ssh").then_some(Role::Ssh),
        Role::Etc => (name == b"ssh").then_some(Role::System),
        // `sshd_config.d` and the like.
        Role::System => Some(Role::System),
        Role::Ssh => None,
    }
}

/// Home folders of the user database, and the folders in which homes are made. Bytes and not text: a path need not be
/// UTF-8.
pub fn parse_homes(passwd: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut homes, mut parents) = (Vec::new(), Vec::new());
    for line in passwd.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (uid, home) = (fields.nth(2), fields.nth(2));
        let Some(home) = home.map(without_slashes).filter(|home| home.starts_with(b"/")) else {
            continue;
        };
        homes.push(home.to_vec());
        // Homes of persons lie beside each other, those of services where the service is.
        let uid = uid.and_then(|uid| std::str::from_utf8(uid).ok()?.parse::<u32>().ok());
        let slash = home.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let parent = home.get(..slash).map(without_slashes).filter(|parent| !parent.is_empty());
        if uid.is_some_and(|uid| (1_000..65_534).contains(&uid)) {
            parents.extend(parent.map(<[u8]>::to_vec));
        }
    }
    for list in [&mut homes, &mut parents] {
        list.sort_unstable();
        list.dedup();
    }
    (homes, parents)
}

/// Without those at its end, of which one path may have any number; nothing is left of `/`.
fn without_slashes(mut path: &[u8]) -> &[u8] {
    while let Some(shorter) = path.strip_suffix(b"/") {
        path = shorter;
    }
    path
}

/// Path of a name in a folder; of the folder where there is none.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if name.is_empty() { folder.to_vec() } else { [folder, b"/", name].concat() }
}

/// True if a path lies on a file system that another process serves: it may let whoever looks at it wait for ever.
/// `mounts`: `/proc/self/mountinfo`.
pub fn is_served(path: &[u8], mounts: &[u8]) -> bool {
    let mut nearest: Option<(usize, bool)> = None;
    for line in mounts.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ');
        let Some(point) = words.nth(4).map(unescape) else { continue };
        let kind = words.skip_while(|word| *word != b"-").nth(1).unwrap_or_default();
        let point = without_slashes(&point);
        let covers = path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        // Of several mounts on one point the last is on top.
        if covers && nearest.is_none_or(|(length, _)| point.len() >= length) {
            nearest = Some((point.len(), kind.starts_with(b"fuse") || kind == b"autofs"));
        }
    }
    nearest.is_some_and(|(_, is_served)| is_served)
}

/// `\040` is a blank.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_those_of_the_user_database_and_persons_homes_lie_beside_each_other() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\nbin:x:2:2:bin:/bin:/usr/sbin/nologin\n\
            alice:x:1000:1000:A,,,:/home/alice:/bin/bash\nbob:x:1001:1001::/home/bob/:/bin/sh\n\
            git:x:998:998::/srv/git:/bin/sh\nx:x:1002:1:::\ny:x:1003:1::/:\nz:x:1004:1::relative:\n\
            nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\nbroken\n\
            u:x:1005:1:://:\nv:x:1006:1:://v//:\n";
        let (homes, parents) = parse_homes(passwd);
        let text =
            |list: Vec<Vec<u8>>| list.into_iter().map(|p| String::from_utf8(p).unwrap()).collect::<Vec<_>>();
        assert_eq!(
            text(homes),
            ["//v", "/bin", "/home/alice", "/home/bob", "/nonexistent", "/root", "/srv/git"]
        );
        assert_eq!(text(parents), ["/home"]);
    }

    #[test]
    fn what_is_told_in_which_folder() {
        for (role, name, told) in [
            (Role::Home, "authorized_keys", false),
            (Role::Home, ".ssh", true),
            (Role::Ssh, "authorized_keys", true),
            (Role::Ssh, "id_ed25519", true),
            (Role::Ssh, "known_hosts.Ab3", false),
            (Role::Ssh, "cm-alice@host:22", false),
            (Role::Ssh, "", true),
            (Role::System, "sshd_config", true),
            (Role::Etc, "passwd", false),
            (Role::Parent, "alice", false),
        ] {
            assert_eq!(is_told(role, name.as_bytes()), told, "{role:?} {name}");
        }
        assert_eq!(role_below(Role::Parent, b"alice"), Some(Role::Home));
        assert_eq!(role_below(Role::Home, b"src"), None);
    }

    #[test]
    fn a_path_that_another_process_serves_is_known_by_its_mount() {
        let mounts = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 21 0:40 / /home/al\\040ice/.ssh rw,nosuid - fuse.sshfs host: rw\n\
            31 21 0:41 / /net rw - autofs systemd-1 rw\n32 31 0:42 / /net/x rw - nfs4 host:/x rw\n";
        for (path, served) in [
            ("/home/al ice/.ssh", true),
            ("/home/al ice/.ssh/d", true),
            ("/home/al ice/.sshd", false),
            ("/home/al ice", false),
            ("/net/y", true),
            ("/net/x/home", false),
            ("/", false),
        ] {
            assert_eq!(is_served(path.as_bytes(), mounts), served, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(0u8.., 0..200)) {
            let _ = (parse_homes(&text), is_served(&text, &text), unescape(&text));
        }
    }
}
