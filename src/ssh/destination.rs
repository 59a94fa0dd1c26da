//! Where somebody wants to go: `[user@]host` and `ssh://[user@]host[:port]`, and what of it is a name.
//!
//! Sources: main() of ssh.c, parse_uri(), hpdelim2() and a2port() of misc.c.

use std::net::IpAddr;

/// A destination that was typed, in parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) user: Option<Vec<u8>>,
    pub(super) host: Vec<u8>,
    pub(super) port: Option<u16>,
}

/// Reads the destination as ssh does. `None`: ssh refuses it.
pub(super) fn parse(text: &[u8]) -> Option<Destination> {
    if let Some(uri) = text.strip_prefix(b"ssh://") {
        return parse_uri(uri);
    }
    let (user, host) = match split_last(text, b'@') {
        Some(([], _)) => return None,
        Some((user, host)) => (Some(user.to_vec()), host),
        None => (None, text),
    };
    Some(Destination { user, host: host.to_vec(), port: None })
}

/// `[user[;parameters]@]host[:port][/]`.
fn parse_uri(uri: &[u8]) -> Option<Destination> {
    let (user, rest) = match split_first(uri, b'@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, uri),
    };
    let user = match user.map(|user| split_first(user, b';').map_or(user, |(user, _)| user)) {
        Some([]) => return None,
        Some(user) => Some(decode_percent(user)?),
        None => None,
    };
    let (host, port) = split_port(rest.strip_suffix(b"/").unwrap_or(rest))?;
    (!host.contains(&b'/')).then(|| Destination { user, host: host.to_vec(), port })
}

/// Splits `host:port`, `[address]:port`, `host`. An address in brackets loses them.
pub(super) fn split_port(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let (host, port) = match text.strip_prefix(b"[").and_then(|rest| split_first(rest, b']')) {
        Some((host, rest)) => (host, (!rest.is_empty()).then_some(rest.strip_prefix(b":").unwrap_or(b"?"))),
        None => split_first(text, b':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => Some(parse_port(port)?),
        None => None,
    };
    (!host.is_empty()).then_some((host, port))
}

/// A port that a client may connect to. `ssh` is the only service that is known by name here.
pub(super) fn parse_port(text: &[u8]) -> Option<u16> {
    if text.eq_ignore_ascii_case(b"ssh") {
        return Some(22);
    }
    let port: u16 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (port > 0).then_some(port)
}

/// True if the host is a name that somebody has to look up, and no address.
pub(super) fn is_name(host: &[u8]) -> bool {
    let bare = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    let without_zone = split_first(bare, b'%').map_or(bare, |(address, _)| address);
    let is_address = std::str::from_utf8(without_zone).is_ok_and(|text| text.parse::<IpAddr>().is_ok());
    // inet_aton(3) takes `127.1`, `2130706433` and `0x7f.1` too.
    !is_address && !bare.is_empty() && !bare.split(|byte| *byte == b'.').all(is_number)
}

fn is_number(text: &[u8]) -> bool {
    match text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X")) {
        Some(digits) => !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit),
        None => !text.is_empty() && text.iter().all(u8::is_ascii_digit),
    }
}

fn decode_percent(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, others)) = rest.split_first() {
        rest = others;
        decoded.push(match (byte, others) {
            (b'%', [high, low, behind @ ..]) => {
                rest = behind;
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            (b'%', _) => return None,
            (byte, _) => *byte,
        });
    }
    Some(decoded)
}

/// Splits at the first `byte`, which goes.
pub(super) fn split_first(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|b| *b == byte)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Splits at the last `byte`, which goes.
pub(super) fn split_last(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().rposition(|b| *b == byte)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(found: Option<Destination>) -> String {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        found.map_or("refused".to_owned(), |Destination { user, host, port }| {
            let user = user.map_or_else(|| "-".to_owned(), text);
            format!("{user} {} {}", text(host), port.map_or_else(|| "-".to_owned(), |port| port.to_string()))
        })
    }

    /// As `ssh -G` of OpenSSH 9.2 has it; but that refuses an IPv6 address in a URI.
    #[test]
    fn a_destination_is_read_as_ssh_reads_it() {
        let cases = [
            ("web1", "- web1 -"),
            ("alice@web1", "alice web1 -"),
            ("alice@corp.example@web1", "alice@corp.example web1 -"),
            ("@web1", "refused"),
            ("web1:22", "- web1:22 -"),
            ("[::1]", "- [::1] -"),
            ("fe80::1%eth0", "- fe80::1%eth0 -"),
            ("SSH://web1", "- SSH://web1 -"),
            ("ssh://web1/", "- web1 -"),
            ("ssh://alice@web1:2222", "alice web1 2222"),
            ("ssh://a%40b@web1", "a@b web1 -"),
            ("ssh://alice;fingerprint=x@web1", "alice web1 -"),
            ("ssh://alice@[2001:db8::7]:2222", "alice 2001:db8::7 2222"),
            ("ssh://;x@web1", "refused"),
            ("ssh://web1/path", "refused"),
            ("ssh://web1:0", "refused"),
            ("ssh://%zz@web1", "refused"),
        ];
        for (typed, wanted) in cases {
            assert_eq!(told(parse(typed.as_bytes())), wanted, "{typed}");
        }
    }

    #[test]
    fn an_address_is_no_name() {
        for address in ["10.0.0.1", "::1", "[::1]", "fe80::1%eth0", "127.1", "2130706433", "0x7f.1", ""] {
            assert!(!is_name(address.as_bytes()), "{address}");
        }
        for name in ["web1", "web1.example", "10.0.0.1.example", "1a", "cafe", "-"] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
    }
}
