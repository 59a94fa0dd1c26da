//! One line of the log, as far as ways are made of it: who, from where, to where, when.
//! Knows nothing of other lines. Of a record of another version every field may be absent.
//! Field names: portreeve-events(5).

use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::report::notice::Flaw;
use crate::report::record::{Keyword, parse_object};

/// What a Community ID holds: SHA-1 of seed, both ends and protocol.
pub(crate) type Community = [u8; 20];

#[derive(serde::Deserialize)]
pub(crate) struct Record<'a> {
    #[serde(rename = "@timestamp", borrow)]
    timestamp: Keyword<'a>,
    #[serde(borrow)]
    pub event: Option<Event<'a>>,
    #[serde(borrow)]
    pub host: Option<Host<'a>>,
    #[serde(borrow)]
    pub agent: Option<Id<'a>>,
    #[serde(borrow)]
    pub source: Option<End<'a>>,
    #[serde(borrow)]
    pub destination: Option<End<'a>>,
    #[serde(borrow)]
    pub network: Option<Network<'a>>,
    #[serde(borrow)]
    pub user: Option<User<'a>>,
    #[serde(borrow)]
    pub process: Option<Process<'a>>,
    #[serde(borrow)]
    pub service: Option<Named<'a>>,
    #[serde(borrow)]
    pub portreeve: Option<Portreeve<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(borrow)]
    pub action: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub start: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub end: Option<Keyword<'a>>,
    pub duration: Option<u64>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Id<'a> {
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Named<'a> {
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Host<'a> {
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub boot: Option<Id<'a>>,
}

/// `source` or `destination`.
#[derive(serde::Deserialize)]
pub(crate) struct End<'a> {
    #[serde(borrow)]
    ip: Option<Keyword<'a>>,
    port: Option<u16>,
    pub bytes: Option<u64>,
    #[serde(borrow)]
    pub domain: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Network<'a> {
    #[serde(borrow)]
    pub direction: Option<Keyword<'a>>,
    #[serde(borrow)]
    community_id: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct User<'a> {
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub effective: Option<Account<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Account<'a> {
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Process<'a> {
    pub pid: Option<u32>,
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub command_line: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub tty: Option<Named<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Portreeve<'a> {
    #[serde(borrow)]
    pub connection: Option<Connection<'a>>,
    #[serde(borrow)]
    pub login: Option<Login<'a>>,
    #[serde(borrow)]
    pub attribution: Option<Attribution<'a>>,
    #[serde(borrow)]
    pub ancestry: Option<Vec<Ancestor<'a>>>,
    #[serde(borrow)]
    pub ancestry_cut: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub origin: Option<Origin<'a>>,
    #[serde(borrow)]
    pub route: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub ssh: Option<Ssh<'a>>,
    #[serde(borrow)]
    pub listening: Option<Listening<'a>>,
    #[serde(borrow)]
    pub close: Option<Close<'a>>,
    #[serde(borrow)]
    pub gap: Option<Gap<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Connection<'a> {
    #[serde(borrow)]
    pub id: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub state: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub seen: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Login<'a> {
    #[serde(borrow)]
    pub uid: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub session: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Attribution<'a> {
    #[serde(borrow)]
    pub reason: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Ancestor<'a> {
    pub pid: Option<u32>,
    #[serde(borrow)]
    pub name: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub user: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Origin<'a> {
    #[serde(borrow)]
    pub kind: Option<Keyword<'a>>,
    #[serde(borrow)]
    ip: Option<Keyword<'a>>,
    pub port: Option<u16>,
    #[serde(borrow)]
    local_ip: Option<Keyword<'a>>,
    local_port: Option<u16>,
    #[serde(borrow)]
    community_id: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub user: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub tty: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub session: Option<Keyword<'a>>,
    pub sshd_pid: Option<u32>,
    #[serde(borrow)]
    connection_id: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub evidence: Option<Keyword<'a>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Ssh<'a> {
    #[serde(borrow)]
    pub target: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub jump: Option<Vec<Keyword<'a>>>,
    #[serde(borrow)]
    pub tool: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub subsystem: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub forwards: Option<Forwards<'a>>,
}

/// As typed.
#[derive(serde::Deserialize)]
pub(crate) struct Forwards<'a> {
    #[serde(borrow)]
    local: Option<Vec<Keyword<'a>>>,
    #[serde(borrow)]
    remote: Option<Vec<Keyword<'a>>>,
    #[serde(borrow)]
    dynamic: Option<Vec<Keyword<'a>>>,
    #[serde(borrow)]
    stdio: Option<Vec<Keyword<'a>>>,
    #[serde(borrow)]
    tunnel: Option<Vec<Keyword<'a>>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Listening<'a> {
    #[serde(borrow)]
    pub addresses: Option<Vec<Keyword<'a>>>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Close<'a> {
    #[serde(borrow)]
    pub reason: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub gone_by: Option<Keyword<'a>>,
    pub exact: Option<bool>,
    pub bytes_exact: Option<bool>,
}

#[derive(serde::Deserialize)]
pub(crate) struct Gap<'a> {
    #[serde(borrow)]
    pub cause: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub from: Option<Keyword<'a>>,
    #[serde(borrow)]
    pub to: Option<Keyword<'a>>,
}

impl<'a> Record<'a> {
    /// Parses a line that is one record and nothing else. The moment is in microseconds.
    pub fn parse(line: &'a str) -> Result<(i64, Record<'a>), Flaw> {
        let record: Record<'a> = parse_object(line)?;
        let at = parse_time(record.timestamp.as_str()).ok_or(Flaw::NoRecord)?;
        Ok((at, record))
    }
}

impl End<'_> {
    /// `None` where a part is absent or none.
    pub fn socket(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(parse_ip(self.ip.as_ref())?, self.port?))
    }
}

impl Network<'_> {
    pub fn community(&self) -> Option<Community> {
        parse_community(self.community_id.as_ref()?.as_str())
    }
}

impl Origin<'_> {
    pub fn ip(&self) -> Option<IpAddr> {
        parse_ip(self.ip.as_ref())
    }

    /// Our end of the inbound connection.
    pub fn local(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(parse_ip(self.local_ip.as_ref())?, self.local_port?))
    }

    pub fn community(&self) -> Option<Community> {
        parse_community(self.community_id.as_ref()?.as_str())
    }

    pub fn connection(&self) -> Option<u128> {
        parse_id(self.connection_id.as_ref()?.as_str())
    }
}

impl<'a> Forwards<'a> {
    /// Each with the option that it was typed behind.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Keyword<'a>)> {
        let Forwards { local, remote, dynamic, stdio, tunnel } = self;
        let kinds = [("-L", local), ("-R", remote), ("-D", dynamic), ("-W", stdio), ("-w", tunnel)];
        kinds.into_iter().flat_map(|(option, texts)| texts.iter().flatten().map(move |text| (option, text)))
    }
}

fn parse_ip(text: Option<&Keyword<'_>>) -> Option<IpAddr> {
    text?.as_str().parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Microseconds after 1970.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

/// A UUID as it is written: 36 characters. What has another shape is no id of portreeve.
pub(crate) fn parse_id(text: &str) -> Option<u128> {
    let is_dash = |place: usize| matches!(place, 8 | 13 | 18 | 23);
    let has_shape = text.len() == 36
        && text
            .bytes()
            .enumerate()
            .all(|(place, byte)| if is_dash(place) { byte == b'-' } else { byte.is_ascii_hexdigit() });
    if has_shape { u128::from_str_radix(&text.replace('-', ""), 16).ok() } else { None }
}

/// The id as portreeve writes it.
pub(crate) fn show_id(id: u128) -> String {
    let mut text = format!("{id:032x}");
    for place in [8, 13, 18, 23] {
        text.insert(place, '-');
    }
    text
}

fn parse_community(text: &str) -> Option<Community> {
    STANDARD.decode(text.strip_prefix("1:")?).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is_one() {
        let id = "01a1fa90-8970-7008-b72a-bc6ef761c499";
        assert_eq!(show_id(parse_id(id).unwrap()), id);
        assert_eq!(show_id(7), "00000000-0000-0000-0000-000000000007");
        for bad in
            ["", "01a1fa90", "01a1fa9008970070080b72a0bc6ef761c499", "+1a1fa90-8970-7008-b72a-bc6ef761c499"]
        {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_community_id_is_version_one_and_a_sha1() {
        assert!(parse_community("1:HYqrS5H52pMcZ2VAiJvikFzG9dY=").is_some());
        for bad in ["", "2:HYqrS5H52pMcZ2VAiJvikFzG9dY=", "1:HYqr", "1:!!!"] {
            assert_eq!(parse_community(bad), None, "{bad}");
        }
    }
}
