//! What a remote command is for.
//!
//! It is text for a shell far away; here it is parted at blanks, which is enough to know those that tools write. Knows
//! neither quotes nor variables.

use super::program::base_name;

/// All of it, if there is any: with `-s` it is a name.
pub(super) fn whole(command: &[u8]) -> Option<Vec<u8>> {
    (!command.is_empty()).then(|| command.to_vec())
}

/// Its first word.
pub(super) fn command(command: &[u8]) -> Option<Vec<u8>> {
    words(command).next().map(<[u8]>::to_vec)
}

/// The protocol that it begins, if that is one of the well-known.
pub(super) fn subsystem(command: &[u8]) -> Option<Vec<u8>> {
    let name = match tool(command) {
        Some(name @ ("scp" | "rsync" | "git")) => name,
        _ if begins_with(command, |name| name == b"sftp-server") => "sftp",
        _ => return None,
    };
    Some(name.as_bytes().to_vec())
}

/// The tool at this end that writes such a command, and that nobody types instead of it.
pub(super) fn tool(command: &[u8]) -> Option<&'static str> {
    let mut words = words(command);
    let name = base_name(words.next()?);
    let has = |mut words: Words<'_>, wanted: &[&[u8]]| words.any(|word| wanted.contains(&word));
    match name {
        b"scp" => words.take_while(|word| word.starts_with(b"-")).any(is_scp_end).then_some("scp"),
        b"rsync" => has(Box::new(words), &[b"--server"]).then_some("rsync"),
        b"git-upload-pack" | b"git-receive-pack" | b"git-upload-archive" | b"git-lfs-authenticate" => {
            Some("git")
        }
        b"git" => has(Box::new(words.take(1)), &[b"upload-pack", b"receive-pack", b"upload-archive"])
            .then_some("git"),
        b"mosh-server" => Some("mosh"),
        b"borg" => has(Box::new(words), &[b"serve"]).then_some("borg"),
        b"hg" => has(Box::new(words), &[b"serve"]).then_some("hg"),
        b"svnserve" => has(Box::new(words), &[b"-t"]).then_some("svn"),
        b"docker" => has(Box::new(words), &[b"dial-stdio"]).then_some("docker"),
        _ => None,
    }
}

/// True for a command that carries its input and output on to another host.
pub(super) fn is_relay(command: &[u8]) -> bool {
    const RELAYS: [&[u8]; 7] =
        [b"nc", b"netcat", b"ncat", b"socat", b"nc.openbsd", b"nc.traditional", b"connect"];
    begins_with(command, |name| RELAYS.contains(&name))
}

fn begins_with(command: &[u8], is: impl Fn(&[u8]) -> bool) -> bool {
    let mut words = words(command).skip_while(|word| *word == b"exec");
    words.next().is_some_and(|word| is(base_name(word)))
}

/// True for an option of scp that says which end it is: `-t`, `-f`, alone or among others.
fn is_scp_end(word: &[u8]) -> bool {
    word.iter().skip(1).any(|letter| matches!(letter, b't' | b'f'))
}

type Words<'a> = Box<dyn Iterator<Item = &'a [u8]> + 'a>;

fn words(command: &[u8]) -> Words<'_> {
    Box::new(command.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()))
}
