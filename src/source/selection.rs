//! What is watched: ports, and filters by address, port, user and executable.
//!
//! Pure. A filter drops only what it can prove: a connection whose user or owner is not known is kept.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::cidr::Cidr;
use crate::connection::{Connection, Direction, Transport, Tuple};
use crate::glob::Glob;

/// Ports and ranges of ports, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// SSH's own port.
    #[must_use]
    pub fn ssh() -> Self {
        Self(vec![22..=22])
    }

    /// Every port.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![1..=u16::MAX])
    }

    /// True if the port is in the set. 0 never is: a socket without a remote end has it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        port != 0 && self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromStr for PortSet {
    type Err = String;

    /// `22`, `22,2222,8000-8100`, `all`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "all" {
            return Ok(Self::all());
        }
        let port = |word: &str| match word.trim().parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("`{}` is no port: ports are 1 to 65535, ranges 8000-8100, or all", word.trim())),
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (port(first)?, port(last)?);
            if first > last {
                return Err(format!("`{}` runs backwards: write {last}-{first}", part.trim()));
            }
            Ok(first..=last)
        };
        text.split(',').map(range).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == [1..=u16::MAX] {
            return f.write_str("all");
        }
        for (place, range) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl PortSet {
    /// The ranges as they were given; they may overlap.
    #[must_use]
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }

    /// True if every port is in one of its ranges.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.iter().any(|range| *range.start() <= 1 && *range.end() == u16::MAX)
    }
}

/// A kind of notice by which the kernel tells what happens between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Ends of sockets, by sock_diag.
    Destroy,
    /// SYNs on their way out, by a packet socket.
    Syn,
    /// SYNs on their way out, by a rule of the firewall that logs them to this group.
    Nflog(u16),
    /// Calls of `connect`, by audit records.
    Audit,
    /// Forks, executions and exits, by the process connector.
    Proc,
    /// Connections with their owners, and their ends, by a program in the kernel.
    Ebpf,
    /// Changes of SSH's files, by fanotify or inotify. Chosen by an option of its own.
    Files,
}

impl Kind {
    /// One of each, as they are named: the group says nothing.
    pub const ALL: [Self; 7] =
        [Self::Destroy, Self::Syn, Self::Nflog(0), Self::Audit, Self::Proc, Self::Ebpf, Self::Files];

    /// As it is told.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Syn => "syn",
            Self::Nflog(_) => "nflog",
            Self::Audit => "audit",
            Self::Proc => "proc",
            Self::Ebpf => "ebpf",
            Self::Files => "files",
        }
    }

    /// True if it tells of beginnings by their SYN.
    #[must_use]
    pub fn tells_syns(self) -> bool {
        matches!(self, Self::Syn | Self::Nflog(_))
    }
}

impl FromStr for Kind {
    type Err = String;

    /// `destroy`, `nflog:22`.
    fn from_str(text: &str) -> Result<Self, String> {
        let group = |group: &str| match group.parse() {
            Ok(group) => Ok(Self::Nflog(group)),
            Err(_) => Err(format!("`{group}` is no group of the firewall: nflog:GROUP, 0 to 65535")),
        };
        match text.split_once(':') {
            Some(("nflog", number)) => group(number),
            None if text == "nflog" => group(""),
            _ => Self::ALL.into_iter().find(|kind| kind.name() == text && *kind != Self::Files).ok_or_else(
                || {
                    format!(
                        "`{text}` is none of: auto, none, or a list of destroy, syn, nflog:GROUP, audit, proc, ebpf"
                    )
                },
            ),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nflog(group) => write!(f, "nflog:{group}"),
            other => f.write_str(other.name()),
        }
    }
}

/// `--events`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EventChoice {
    /// `ebpf` and `destroy`, and `syn` where there is no `ebpf`, as far as they can be had. `proc` costs 11 µs for each
    /// process of the machine.
    #[default]
    Auto,
    /// These; none of them for `none`.
    These(Vec<Kind>),
}

impl EventChoice {
    /// What is to be tried.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        match self {
            Self::Auto => vec![Kind::Destroy, Kind::Syn, Kind::Ebpf],
            Self::These(kinds) => kinds.clone(),
        }
    }

    /// What is only for want of `ebpf`, which tells of what we connect: not how what was accepted ends.
    #[must_use]
    pub fn spared(&self, inbound: bool) -> Vec<Kind> {
        match (self, inbound) {
            (Self::Auto, false) => vec![Kind::Destroy, Kind::Syn],
            (Self::Auto, true) => vec![Kind::Syn],
            (Self::These(_), _) => Vec::new(),
        }
    }
}

impl FromStr for EventChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kind = |word: &str| word.trim().parse::<Kind>();
        match text.trim() {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::These(Vec::new())),
            list => {
                let mut kinds = list.split(',').map(kind).collect::<Result<Vec<_>, _>>()?;
                kinds.sort_unstable();
                kinds.dedup();
                if kinds.iter().filter(|kind| matches!(kind, Kind::Nflog(_))).count() > 1 {
                    return Err("nflog listens to one group".to_owned());
                }
                Ok(Self::These(kinds))
            }
        }
    }
}

impl fmt::Display for EventChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::These(kinds) if kinds.is_empty() => f.write_str("none"),
            Self::These(kinds) => {
                f.write_str(&kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// `--executions`: which programs' starts and ends are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecutionChoice {
    /// Clients of SSH.
    Ssh,
    /// All.
    All,
    /// Those that match one of these: as typed, and parsed.
    These(Vec<(String, Glob)>),
}

impl ExecutionChoice {
    /// True if a program's file is chosen by its path. Clients of SSH are known by more than that.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Ssh => false,
            Self::All => true,
            Self::These(patterns) => patterns.iter().any(|(_, glob)| glob.matches_path(path)),
        }
    }
}

impl FromStr for ExecutionChoice {
    type Err = String;

    /// `ssh`, `all`, or patterns: `ssh*,/opt/*/bin/git`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "ssh" => Ok(Self::Ssh),
            "all" => Ok(Self::All),
            list => {
                let parse = |pattern: &str| {
                    let pattern = pattern.trim();
                    pattern.parse().map(|glob| (pattern.to_owned(), glob))
                };
                list.split(',').map(parse).collect::<Result<_, _>>().map(Self::These)
            }
        }
    }
}

impl fmt::Display for ExecutionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssh => f.write_str("ssh"),
            Self::All => f.write_str("all"),
            Self::These(patterns) => {
                f.write_str(&patterns.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// One `--include` or `--exclude`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// Remote address.
    Address(Cidr),
    /// Remote port.
    Ports(PortSet),
    /// User, by number or by name.
    Uid(u32),
    /// User, by name.
    User(String),
    /// Executable: the pattern as typed, and parsed.
    Executable(String, Glob),
}

impl FromStr for Matcher {
    type Err = String;

    /// `10.0.0.0/8`, `2001:db8::1`, `port:22`, `user:alice`, `exe:/usr/bin/git*`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("port", ports)) => ports.parse().map(Self::Ports),
            Some(("user", "")) => Err("`user:` lacks a name or number".to_owned()),
            Some(("user", user)) => Ok(user.parse().map_or_else(|_| Self::User(user.to_owned()), Self::Uid)),
            Some(("exe", "")) => Err("`exe:` lacks a pattern".to_owned()),
            Some(("exe", pattern)) => pattern.parse().map(|glob| Self::Executable(pattern.to_owned(), glob)),
            _ => text.parse().map(Self::Address).map_err(|_| {
                format!(
                    "`{text}` is none of: an address or CIDR, port:PORTS, user:NAME-or-NUMBER, exe:PATTERN"
                )
            }),
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(cidr) => write!(f, "{cidr}"),
            Self::Ports(ports) => write!(f, "port:{ports}"),
            Self::Uid(uid) => write!(f, "user:{uid}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Executable(pattern, _) => write!(f, "exe:{pattern}"),
        }
    }
}

/// What is known of a connection when a filter judges it.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Remote end.
    pub remote: SocketAddr,
    /// The owner's real user, or else the socket's creator. `None`: unknown.
    pub uid: Option<u32>,
    /// Its name. `None`: unknown.
    pub user: Option<&'a str>,
    /// Owner's executable. `None`: unknown.
    pub executable: Option<&'a [u8]>,
    /// SHA-256 of it, if that is sure.
    pub sha256: Option<&'a [u8; 32]>,
}

impl Known<'_> {
    /// Only the other end.
    #[must_use]
    pub fn of(remote: SocketAddr) -> Self {
        Self { remote, uid: None, user: None, executable: None, sha256: None }
    }
}

/// All `--include` and `--exclude` together, and `--ignore-hash`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Where there are any, one of them must match.
    pub include: Vec<Matcher>,
    /// None of these may match.
    pub exclude: Vec<Matcher>,
    /// SHA-256 of executables whose connections are left out.
    pub ignored: Arc<BTreeSet<[u8; 32]>>,
}

impl Filter {
    /// True unless a filter proves that the connection is not wanted.
    #[must_use]
    pub fn admits(&self, known: &Known<'_>) -> bool {
        let excluded = self.exclude.iter().any(|m| m.judge(known) == Some(true));
        let included = self.include.is_empty() || self.include.iter().any(|m| m.judge(known) != Some(false));
        let ignored = known.sha256.is_some_and(|sha256| self.ignored.contains(sha256));
        included && !excluded && !ignored
    }
}

impl Matcher {
    /// `None` if what it asks about is not known.
    fn judge(&self, known: &Known<'_>) -> Option<bool> {
        match self {
            Self::Address(cidr) => Some(cidr.contains(known.remote.ip())),
            Self::Ports(ports) => Some(ports.contains(known.remote.port())),
            Self::Uid(uid) => known.uid.map(|known| known == *uid),
            Self::User(name) => known.user.map(|known| known == name),
            Self::Executable(_, glob) => known.executable.map(|path| glob.matches_path(path)),
        }
    }
}

/// As the kernel's connection tracking remembers a flow that was answered.
pub const UDP_IDLE: Duration = Duration::from_secs(120);

/// Which connections are watched. Loopback and private ranges are: movement inside a network is what is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Remote ports.
    pub ports: PortSet,
    /// Filters.
    pub filter: Filter,
    /// Beside these ports, connections to any port whose owner is an SSH client or server.
    pub ssh_anywhere: bool,
    /// Inbound SSH sessions too.
    pub inbound: bool,
    /// UDP flows too.
    pub udp: bool,
    /// So long nothing passes through one of an unconnected socket that is over.
    pub udp_idle: Duration,
}

impl Selection {
    /// Connections to these ports.
    #[must_use]
    pub fn new(ports: PortSet, filter: Filter) -> Self {
        Self { ports, filter, ssh_anywhere: false, inbound: false, udp: false, udp_idle: UDP_IDLE }
    }

    /// Remote ports that are looked at: all, where only the owner tells whether a connection is SSH's.
    #[must_use]
    pub fn looked_at(&self) -> PortSet {
        if self.ssh_anywhere { PortSet::all() } else { self.ports.clone() }
    }

    /// True if a connection that stands is wanted.
    #[must_use]
    pub fn keeps(&self, connection: &Connection) -> bool {
        match (connection.transport, connection.direction) {
            (Transport::Udp, _) => self.wants_flow(&connection.tuple),
            (_, Direction::Egress) => self.wants(&connection.tuple),
            (_, Direction::Ingress) => self.inbound,
        }
    }

    /// Judges a UDP flow as `wants` judges a connection. By its port alone, also where SSH is followed anywhere: no SSH
    /// client or server speaks UDP but to ask for names.
    #[must_use]
    pub fn wants_flow(&self, tuple: &Tuple) -> bool {
        self.udp && self.ports.contains(tuple.remote.port()) && self.filter.admits(&Known::of(tuple.remote))
    }

    /// Judges by the remote end alone: what a row tells in all of its states. Users and executables are judged when
    /// the owner is known; until then, and without being told, such a connection is followed, or its TIME_WAIT,
    /// which bears no user, would be taken for another's.
    #[must_use]
    pub fn wants(&self, tuple: &Tuple) -> bool {
        self.wants_remote(tuple.remote)
    }

    /// The same of a remote end alone.
    #[must_use]
    pub fn wants_remote(&self, remote: SocketAddr) -> bool {
        let port = remote.port();
        (self.ports.contains(port) || self.ssh_anywhere && port != 0)
            && self.filter.admits(&Known::of(remote))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_lists_print_as_they_parse() {
        for text in ["22", "22,2222,8000-8100", "all"] {
            assert_eq!(text.parse::<PortSet>().unwrap().to_string(), text);
        }
        let ports: PortSet = "22, 8000-8100".parse().unwrap();
        for (port, inside) in [(22, true), (23, false), (8000, true), (8100, true), (8101, false), (0, false)]
        {
            assert_eq!(ports.contains(port), inside, "{port}");
        }
        for bad in ["", "0", "65536", "22,", "x", "9-8", "-1", "22;23"] {
            assert!(bad.parse::<PortSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_notices_print_as_they_parse() {
        for text in ["auto", "none", "destroy", "destroy,syn,proc", "destroy,nflog:22,proc", "destroy,ebpf"] {
            assert_eq!(text.parse::<EventChoice>().unwrap().to_string(), text);
        }
        assert_eq!("proc, destroy,proc".parse::<EventChoice>().unwrap().to_string(), "destroy,proc");
        assert!(!EventChoice::Auto.kinds().contains(&Kind::Proc));
        for bad in ["", "all", "none,syn", "syn;destroy", "syn:1"] {
            assert!(bad.parse::<EventChoice>().unwrap_err().contains("none of"), "{bad}");
        }
        for bad in ["nflog", "nflog:", "nflog:65536", "nflog:-1", "nflog:1,nflog:2"] {
            assert!(bad.parse::<EventChoice>().unwrap_err().contains("group"), "{bad}");
        }
    }

    #[test]
    fn programs_are_chosen_by_patterns_and_lists_print_as_they_parse() {
        for text in ["ssh", "all", "scp,/opt/*/git"] {
            assert_eq!(text.parse::<ExecutionChoice>().unwrap().to_string(), text);
        }
        let matches =
            |choice: &str, path: &str| choice.parse::<ExecutionChoice>().unwrap().matches(path.as_bytes());
        assert!(matches("all", "") && matches("scp,/opt/*/git", "/opt/x/git"));
        assert!(!matches("/opt/*", "/usr/bin/git"));
        assert!("ssh,[".parse::<ExecutionChoice>().is_err() && "".parse::<ExecutionChoice>().is_err());
    }

    #[test]
    fn a_filter_drops_only_what_it_can_prove() {
        let filter = |include: &[&str], exclude: &[&str]| Filter {
            include: include.iter().map(|m| m.parse().unwrap()).collect(),
            exclude: exclude.iter().map(|m| m.parse().unwrap()).collect(),
            ignored: Arc::new(BTreeSet::from([[7; 32]])),
        };
        let remote = "10.1.2.3:22".parse().unwrap();
        let unknown = Known::of(remote);
        let alice =
            Known { uid: Some(1000), user: Some("alice"), executable: Some(b"/usr/bin/git"), ..unknown };
        for (include, exclude, of_alice, of_unknown) in [
            (&[][..], &[][..], true, true),
            (&[], &["10.0.0.0/8"], false, false),
            (&["192.0.2.0/24"], &[], false, false),
            (&["user:alice"], &[], true, true),
            (&["user:bob", "port:22"], &[], true, true),
            (&["user:bob"], &[], false, true),
            (&[], &["user:1000"], false, true),
            (&[], &["exe:git"], false, true),
            (&["exe:/usr/bin/*"], &["port:2222"], true, true),
        ] {
            let filter = filter(include, exclude);
            assert_eq!(
                (filter.admits(&alice), filter.admits(&unknown)),
                (of_alice, of_unknown),
                "{filter:?}"
            );
        }
        assert!(filter(&[], &[]).admits(&Known { sha256: Some(&[8; 32]), ..alice }));
        assert!(!filter(&["user:alice"], &[]).admits(&Known { sha256: Some(&[7; 32]), ..alice }));
        for bad in ["user:", "exe:", "port:x", "10.0.0.0/33", "x"] {
            assert!(bad.parse::<Matcher>().is_err(), "{bad}");
        }
    }
}
