//! Which records are shown: by time, user, address, program, id.
//! Knows nothing of files or output; a filter looks at one record alone and keeps nothing.
//! Of one kind any may match, of several kinds each must.

use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;

use super::record::{End, Keyword, Record};
use crate::cidr::Cidr;
use crate::glob::Glob;

/// What to show. The default shows everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Earliest time shown.
    pub since: Option<Timestamp>,
    /// First time not shown any more, so that one window's end can be the next one's beginning.
    pub until: Option<Timestamp>,
    /// Names or numbers: the user or effective user of a connection's owner, of a program, or of who changed a file; or
    /// the login before sudo or su.
    pub users: Vec<String>,
    /// Either end of the connection.
    pub addresses: Vec<AddressMatch>,
    /// The executable of the same process or its name as it chose it.
    pub executables: Vec<Glob>,
    /// Beginnings of the connection's id or of the record's.
    pub ids: Vec<IdPrefix>,
}

/// An address or network, a port, or both: `192.0.2.7`, `2001:db8::/32`, `192.0.2.0/24:22`, `[::1]:22`, `:22`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressMatch {
    network: Option<Cidr>,
    port: Option<u16>,
}

/// The beginning of an id, as `show` prints it; a `…` at its end may stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdPrefix(String);

impl Filter {
    /// Whether a line is worth parsing: an id that is nowhere in it is in none of its fields.
    pub(super) fn may_accept(&self, line: &str) -> bool {
        self.ids.is_empty() || self.ids.iter().any(|IdPrefix(id)| line.contains(id.as_str()))
    }

    pub(super) fn accepts(&self, at: Timestamp, record: &Record<'_>) -> bool {
        let Filter { since, until, users, addresses, executables, ids } = self;
        let asks_who = !(users.is_empty() && executables.is_empty());
        since.is_none_or(|since| since <= at)
            && until.is_none_or(|until| at < until)
            && (!asks_who || record.tells_who())
            && (addresses.is_empty() || record.connection_id().is_some())
            && any_or_none(users, |user| is_user(record, user))
            && any_or_none(addresses, |address| address.accepts_either(record))
            && any_or_none(executables, |glob| is_executable(record, glob))
            && any_or_none(ids, |id| id.accepts(record))
    }
}

fn any_or_none<T>(wanted: &[T], accepts: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(accepts)
}

fn is_user(record: &Record<'_>, wanted: &str) -> bool {
    let user = record.user.as_ref();
    let effective = user.and_then(|user| user.effective.as_ref());
    let login = record.portreeve.as_ref().and_then(|portreeve| portreeve.login.as_ref());
    let fields = [
        user.and_then(|user| user.name.as_ref()),
        user.and_then(|user| user.id.as_ref()),
        effective.and_then(|effective| effective.name.as_ref()),
        effective.and_then(|effective| effective.id.as_ref()),
        login.and_then(|login| login.name.as_ref()),
        login.and_then(|login| login.uid.as_ref()),
    ];
    fields.into_iter().flatten().any(|field| field.as_str() == wanted)
}

fn is_executable(record: &Record<'_>, glob: &Glob) -> bool {
    let Some(process) = &record.process else { return false };
    let matches_path = |path: &Keyword<'_>| glob.matches_path(path.as_str().as_bytes());
    let matches = |name: &Keyword<'_>| glob.matches(name.as_str().as_bytes());
    process.executable.as_ref().is_some_and(matches_path) || process.name.as_ref().is_some_and(matches)
}

impl AddressMatch {
    fn accepts_either(&self, record: &Record<'_>) -> bool {
        [&record.source, &record.destination].into_iter().flatten().any(|end| self.accepts(end))
    }

    fn accepts(&self, end: &End<'_>) -> bool {
        self.accepts_end(end.address(), end.port)
    }

    pub(super) fn accepts_end(&self, address: Option<IpAddr>, own: Option<u16>) -> bool {
        let holds = |network: Cidr| address.is_some_and(|address| network.contains(address));
        self.network.is_none_or(holds) && self.port.is_none_or(|port| own == Some(port))
    }
}

impl FromStr for AddressMatch {
    type Err = String;

    fn from_str(text: &str) -> Result<AddressMatch, String> {
        let (network, port) = split_port(text);
        let port = match port {
            None => None,
            Some(port) => Some(parse_port(port).ok_or_else(|| format!("{port:?} is no port"))?),
        };
        let is_port_alone = network.is_empty() && text.starts_with(':');
        let network = if is_port_alone { None } else { Some(Cidr::parse(network)?) };
        Ok(AddressMatch { network, port })
    }
}

/// Splits at the colon before a port. The colons of an IPv6 address are its own unless it stands in brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some((network, after)) = text.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        return match after.strip_prefix(':') {
            Some(port) => (network, Some(port)),
            None if after.is_empty() => (network, None),
            None => (text, None),
        };
    }
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    match text.rsplit_once(':') {
        Some((network, port)) if address.parse::<IpAddr>().is_err() || network.contains('/') => {
            (network, Some(port))
        }
        _ => (text, None),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl IdPrefix {
    fn accepts(&self, record: &Record<'_>) -> bool {
        let event_id = record.event.as_ref().and_then(|event| event.id.as_ref()).map(Keyword::as_str);
        [record.connection_id(), event_id].into_iter().flatten().any(|id| self.begins(id))
    }

    pub(super) fn begins(&self, id: &str) -> bool {
        id.starts_with(&self.0)
    }
}

impl FromStr for IdPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<IdPrefix, String> {
        let id = text.trim_end_matches('…').to_ascii_lowercase();
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            return Err(format!("{text:?} is no beginning of an id: those have the digits 0-9, a-f and -"));
        }
        Ok(IdPrefix(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of portreeve-events(5), with a login that differs from the user.
    const OPEN: &str = r#"{"@timestamp":"2026-11-20T13:42:50.123456Z","message":"open",
        "source":{"ip":"192.0.2.10","port":51514},"destination":{"ip":"203.0.113.7","port":22},
        "user":{"id":"1000","name":"alice","effective":{"id":"1001","name":"backup"}},
        "process":{"pid":4242,"name":"ssh","executable":"/usr/bin/ssh"},
        "portreeve":{"connection":{"id":"01a1f932-100b-7e5f-8a6b-7c8d9e0f1a2b"},"login":{"uid":1002,"name":"carol"}},
        "event":{"id":"01a1f932-ffff-7e60-9b1c-2d3e4f506172"}}"#;

    const START: &str = r#"{"@timestamp":"2026-11-20T13:42:00Z","message":"start","user":{"name":"alice"},
        "process":{"name":"ssh"},"event":{"id":"01a1f932-0000-7e60-9b1c-2d3e4f506172"}}"#;

    /// What `--executions` and `--ssh-files` tell, of the same login.
    const OTHERS: [&str; 3] = ["process-started", "process-ended", "file-changed"];

    fn other(action: &str) -> String {
        let portreeve = r#""portreeve":{"login":{"uid":1002,"name":"carol"}}"#;
        START
            .replace(r#""event":{"#, &format!(r#"{portreeve},"event":{{"action":"{action}","#))
            .replace(r#""name":"ssh"}"#, r#""name":"ssh","executable":"/usr/bin/ssh"}"#)
    }

    fn accepts(filter: &Filter, line: &str) -> bool {
        let (at, record) = Record::parse(line).unwrap();
        let accepted = filter.accepts(at, &record);
        assert!(
            filter.may_accept(line) || !accepted,
            "the quick look must never reject what the filter accepts"
        );
        accepted
    }

    fn users(wanted: &[&str]) -> Filter {
        Filter { users: wanted.iter().map(|user| (*user).to_owned()).collect(), ..Filter::default() }
    }

    fn addresses(wanted: &[&str]) -> Filter {
        Filter {
            addresses: wanted.iter().map(|address| address.parse().unwrap()).collect(),
            ..Filter::default()
        }
    }

    fn executables(wanted: &[&str]) -> Filter {
        Filter { executables: wanted.iter().map(|glob| glob.parse().unwrap()).collect(), ..Filter::default() }
    }

    fn ids(wanted: &[&str]) -> Filter {
        Filter { ids: wanted.iter().map(|id| id.parse().unwrap()).collect(), ..Filter::default() }
    }

    #[test]
    fn time_is_from_and_including_since_up_to_until() {
        let window = |since: &str, until: &str| Filter {
            since: Some(since.parse().unwrap()),
            until: Some(until.parse().unwrap()),
            ..Filter::default()
        };
        assert!(accepts(&window("2026-11-20T13:42:50.123456Z", "2026-11-20T13:42:50.123457Z"), OPEN));
        assert!(!accepts(&window("2026-11-20T13:42:50.123457Z", "2026-11-20T14:00:00Z"), OPEN));
        assert!(!accepts(&window("2026-11-20T13:00:00Z", "2026-11-20T13:42:50.123456Z"), OPEN));
        assert!(accepts(&window("2026-11-20T13:00:00Z", "2026-11-20T14:00:00Z"), START));
    }

    #[test]
    fn a_user_is_the_owner_the_effective_one_or_the_login() {
        for user in ["alice", "1000", "backup", "1001", "carol", "1002"] {
            assert!(accepts(&users(&[user]), OPEN), "{user}");
        }
        assert!(!accepts(&users(&["root"]), OPEN));
        assert!(accepts(&users(&["root", "alice"]), OPEN));
    }

    #[test]
    fn an_address_is_either_end_with_or_without_its_port() {
        for address in [
            "192.0.2.10",
            "203.0.113.0/24",
            "203.0.113.7:22",
            "203.0.113.0/24:22",
            ":22",
            ":51514",
            "::ffff:192.0.2.10",
        ] {
            assert!(accepts(&addresses(&[address]), OPEN), "{address}");
        }
        // Address and port have to be those of one end.
        for address in ["203.0.113.8", "192.0.2.10:22", ":23", "::/0", "[::ffff:203.0.113.7]:23"] {
            assert!(!accepts(&addresses(&[address]), OPEN), "{address}");
        }
        assert!(accepts(&addresses(&[":23", "[::ffff:203.0.113.7]:22"]), OPEN));
    }

    #[test]
    fn addresses_are_parsed_with_their_ports() {
        let parsed = |text: &str| text.parse::<AddressMatch>();
        let expected = |network: &str, port| AddressMatch {
            network: (!network.is_empty()).then(|| network.parse().unwrap()),
            port,
        };
        for (text, network, port) in [
            ("192.0.2.7", "192.0.2.7", None),
            ("192.0.2.7:22", "192.0.2.7", Some(22)),
            ("192.0.2.0/24:22", "192.0.2.0/24", Some(22)),
            ("::1", "::1", None),
            ("::22", "::22", None),
            ("[::1]", "::1", None),
            ("[::1]:22", "::1", Some(22)),
            ("[2001:db8::/32]:22", "2001:db8::/32", Some(22)),
            ("2001:db8::/32", "2001:db8::/32", None),
            ("2001:db8::/32:22", "2001:db8::/32", Some(22)),
            ("::1/128:22", "::1", Some(22)),
            (":22", "", Some(22)),
        ] {
            assert_eq!(parsed(text), Ok(expected(network, port)), "{text}");
        }
        for bad in
            ["", ":", "[::1", "[::1]22", "[]:22", "192.0.2.7:", "192.0.2.7:65536", ":+22", "host", "host:22"]
        {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_is_known_by_path_or_by_name() {
        for glob in ["ssh", "/usr/bin/*", "s?h", "*ssh"] {
            assert!(accepts(&executables(&[glob]), OPEN), "{glob}");
        }
        for glob in ["scp", "/usr/bin", "bin/*"] {
            assert!(!accepts(&executables(&[glob]), OPEN), "{glob}");
        }
    }

    #[test]
    fn an_id_is_the_connections_or_the_records_as_printed() {
        for id in ["01a1f932-100b", "01A1F932-100B-7E5F…", "01a1f932-ffff-7e60-9b1c-2d3e4f506172", "0"] {
            assert!(accepts(&ids(&[id]), OPEN), "{id}");
        }
        assert!(!accepts(&ids(&["100b"]), OPEN));
        assert!(accepts(&ids(&["01a1f932-0000"]), START));
        for bad in ["", "…", "xyz", "01a1 "] {
            assert!(bad.parse::<IdPrefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn programs_and_changed_files_are_selected_by_who_but_have_no_ends() {
        for action in OTHERS {
            let line = other(action);
            for filter in
                [users(&["alice"]), users(&["1002"]), executables(&["ssh"]), executables(&["/usr/bin/*"])]
            {
                assert!(accepts(&filter, &line), "{action} {filter:?}");
            }
            let both = Filter { addresses: addresses(&[":22"]).addresses, ..users(&["alice"]) };
            for filter in [users(&["root"]), executables(&["scp"]), addresses(&[":22"]), both] {
                assert!(!accepts(&filter, &line), "{action} {filter:?}");
            }
        }
        for action in ["watch-started", "coverage"] {
            assert!(!accepts(&users(&["alice"]), &other(action)), "{action}");
            assert!(!accepts(&executables(&["ssh"]), &other(action)), "{action}");
        }
    }

    #[test]
    fn kinds_must_all_match_and_what_the_watch_tells_of_itself_has_none_of_them() {
        let mut filter = users(&["alice"]);
        filter.executables = executables(&["scp"]).executables;
        assert!(!accepts(&filter, OPEN));
        filter.executables = executables(&["ssh"]).executables;
        assert!(accepts(&filter, OPEN));
        assert!(accepts(&Filter::default(), START));
        for filter in [users(&["alice"]), executables(&["ssh"]), addresses(&[":22"])] {
            assert!(!accepts(&filter, START));
        }
    }
}
