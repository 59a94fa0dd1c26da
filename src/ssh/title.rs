//! Titles that OpenSSH's processes write over their arguments (setproctitle).
//!
//! A title is what a process says of itself, and a login name is what somebody typed: nothing here is proof. Sources:
//! calls of setproctitle in OpenSSH's sshd.c, sshd-session.c, sshd-auth.c, auth2.c, auth-pam.c, session.c and
//! ssh.c, up to 10.

use super::destination::split_last;

/// What a server's process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Waits for connections: `sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups`.
    Listener,
    /// Speaks before the login for one that may do little: `sshd: alice [net]`, `sshd: [accepted]`.
    Preauth,
    /// Keeps the privileges of a connection: `sshd: alice [priv]`.
    Monitor,
    /// Serves a login: `sshd: alice@pts/0`.
    Session,
}

/// A server's title.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title<'a> {
    /// What the process is for.
    pub role: Role,
    /// Login name. `None`: none is told, or one that the machine does not have, of which sshd says `unknown`.
    pub user: Option<&'a [u8]>,
    /// Terminals as the title lists them: `pts/0`, `pts/0,pts/1`, or `notty` for a session without one. `None`: there is
    /// no session, so the connection forwards or has just been accepted.
    pub tty: Option<&'a [u8]>,
}

/// Programs that write such titles, as they name themselves in it.
const SERVERS: &[&str] =
    &["sshd", "sshd-session", "sshd-auth", "hpnsshd", "hpnsshd-session", "hpnsshd-auth", "gsisshd"];

/// Programs whose shared connections have titles.
const CLIENTS: &[&str] = &["ssh", "slogin", "hpnssh", "gsissh", "nxssh"];

/// Reads the title of a server's process. `None`: its arguments are no title.
#[must_use]
pub fn parse_title(args: &[Vec<u8>]) -> Option<Title<'_>> {
    let said = title_of(SERVERS, args)?;
    if is_listener(said) {
        return Some(Title { role: Role::Listener, user: None, tty: None });
    }
    if let Some((before, word)) = bracketed(said) {
        let role = if word == b"priv" || word == b"postauth" { Role::Monitor } else { Role::Preauth };
        return Some(Title { role, user: Some(before).filter(|user| is_user(user)), tty: None });
    }
    let (user, tty) = match split_last(said, b'@') {
        Some((user, ttys)) if is_ttys(ttys) => (user, Some(ttys)),
        _ => (said, None),
    };
    Some(Title { role: Role::Session, user: Some(user).filter(|user| !user.is_empty()), tty })
}

/// The control path of an `ssh` that went into the background to share its connection: `ssh: PATH [mux]`.
#[must_use]
pub fn mux_title(args: &[Vec<u8>]) -> Option<&[u8]> {
    let path = title_of(CLIENTS, args)?.strip_suffix(b"[mux]")?.trim_ascii_end();
    (!path.is_empty()).then_some(path)
}

/// What stands behind `NAME: `. The rest of the arguments' place is filled with NUL or blanks.
fn title_of<'a>(names: &[&str], args: &'a [Vec<u8>]) -> Option<&'a [u8]> {
    let (first, rest) = args.split_first()?;
    let at = first.windows(2).position(|two| two == b": ")?;
    let (name, said) = first.split_at(at);
    let said = said.get(2..)?.trim_ascii_end();
    let is_title = rest.iter().all(Vec::is_empty) && names.iter().any(|known| known.as_bytes() == name);
    is_title.then_some(said)
}

/// True for `… [listener] 0 of 10-100 startups`.
fn is_listener(said: &[u8]) -> bool {
    let mut words = said.rsplit(|byte| *byte == b' ');
    let is_number = |word: Option<&[u8]>| {
        word.is_some_and(|word| !word.is_empty() && word.iter().all(|b| b.is_ascii_digit() || *b == b'-'))
    };
    words.next() == Some(b"startups")
        && is_number(words.next())
        && words.next() == Some(b"of")
        && is_number(words.next())
        && words.next() == Some(b"[listener]")
}

/// Splits `alice [priv]` into `alice` and `priv`. Where no user stands before them, the words are many: `[accepted]`,
/// `[session-auth early]`.
fn bracketed(said: &[u8]) -> Option<(&[u8], &[u8])> {
    const WORDS: [&[u8]; 5] = [b"priv", b"postauth", b"net", b"pam", b"preauth"];
    let (before, word) = split_last(said.strip_suffix(b"]")?, b'[')?;
    (before.is_empty() || WORDS.contains(&word)).then(|| (before.trim_ascii_end(), word))
}

/// True for a login name that a machine has.
fn is_user(name: &[u8]) -> bool {
    !name.is_empty() && name != b"unknown"
}

/// True for a list as session.c makes it: what may stand behind an `@` in a login name is none.
fn is_ttys(list: &[u8]) -> bool {
    let is_tty = |name: &[u8]| {
        let number = name.strip_prefix(b"pts/").or_else(|| name.strip_prefix(b"tty"));
        number.is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_alphanumeric))
    };
    list == b"notty" || list.split(|byte| *byte == b',').all(is_tty)
}
