//! Networks in CIDR notation: `192.0.2.0/24`, `2001:db8::/32`, or one address.
//! Knows nothing of connections or of what a match is good for.
//! An IPv4-mapped address is the IPv4 address (RFC 4291 2.5.5.2): the kernel shows one connection either way.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network. Bits of the address beyond the prefix are allowed and mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix_bits: u8,
}

impl Cidr {
    /// Parses `address` or `address/bits`.
    ///
    /// # Errors
    /// Says what is wrong: no address, no number of bits, too many bits, or an IPv4-mapped network that reaches
    /// beyond IPv4 (fewer than 96 bits).
    pub fn parse(text: &str) -> Result<Cidr, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let typed: IpAddr = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
        let address = typed.to_canonical();
        let width = width_bits(typed);
        let typed_bits = match bits {
            None => width,
            Some(bits) => parse_bits(bits).filter(|n| *n <= width).ok_or_else(|| {
                format!("{bits:?} is no prefix length: {address} has between 0 and {width} bits")
            })?,
        };
        let prefix_bits = typed_bits
            .checked_sub(width - width_bits(address))
            .ok_or_else(|| format!("{text:?} reaches beyond IPv4: give 96 bits or more"))?;
        Ok(Cidr { address, prefix_bits })
    }

    /// Whether the network holds the address. An IPv6 network holds no IPv4-mapped address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let ignored = u32::from(width_bits(self.address) - self.prefix_bits);
        match (self.address, address.to_canonical()) {
            // A shift by the whole width gives None on both sides: a prefix of 0 bits holds everything.
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                a.to_bits().checked_shr(ignored) == b.to_bits().checked_shr(ignored)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                a.to_bits().checked_shr(ignored) == b.to_bits().checked_shr(ignored)
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        Cidr::parse(text)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cidr { address, prefix_bits } = self;
        if *prefix_bits == width_bits(*address) {
            address.fmt(f)
        } else {
            write!(f, "{address}/{prefix_bits}")
        }
    }
}

fn width_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Digits alone: `u8::from_str` would take `+8` as well.
fn parse_bits(text: &str) -> Option<u8> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_its_prefix_says() {
        for (network, address, expected) in [
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("192.0.2.99/24", "192.0.2.1", true),
            ("192.0.2.128/25", "192.0.2.127", false),
            ("0.0.0.0/0", "203.0.113.7", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.0/24", "::ffff:192.0.2.9", true),
            ("::ffff:192.0.2.0/120", "192.0.2.9", true),
            ("::ffff:192.0.2.7", "192.0.2.7", true),
            ("::ffff:0:0/96", "203.0.113.7", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
            ("::/0", "2001:db8::1", true),
            ("::/0", "::ffff:192.0.2.7", false),
            ("fe80::/10", "febf::1", true),
        ] {
            let network = Cidr::parse(network).unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in [
            "",
            "/",
            "/8",
            "192.0.2",
            "192.0.2.0/",
            "192.0.2.0/33",
            "192.0.2.0/+8",
            "192.0.2.0/-1",
            "::1/129",
            "192.0.2.0/8/8",
            "::ffff:192.0.2.0/24",
            "host",
            "192.0.2.0/999",
            "[::1]",
            "::1%lo",
            " ::1",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_prints_as_it_is_understood() {
        for (typed, printed) in [
            ("192.0.2.7/32", "192.0.2.7"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            assert_eq!(Cidr::parse(typed).unwrap().to_string(), printed);
        }
    }
}
