//! Community ID version 1: one name for a flow on both ends and in Zeek, Suricata and the like.
//!
//! Pure. Source: the Community ID specification, seed 0.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::connection::{Transport, Tuple};

/// `1:` and the base64 of the SHA-1 over seed, lower end, higher end, protocol and ports. `None`: that is not known.
#[must_use]
pub fn community_id(transport: Transport, tuple: &Tuple) -> Option<String> {
    let number = transport.number()?;
    let octets = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (one, two) = (tuple.local, tuple.remote);
    let mut ends = [(octets(one.ip()), one.port()), (octets(two.ip()), two.port())];
    ends.sort();
    let [(low, low_port), (high, high_port)] = ends;
    let mut hash = Sha1::new();
    hash.update([0, 0]);
    hash.update(low);
    hash.update(high);
    hash.update([number, 0]);
    hash.update(low_port.to_be_bytes());
    hash.update(high_port.to_be_bytes());
    Some(format!("1:{}", STANDARD.encode(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(one: &str, two: &str) -> String {
        id_of(Transport::Tcp, one, two)
    }

    fn id_of(transport: Transport, one: &str, two: &str) -> String {
        community_id(transport, &Tuple { local: one.parse().unwrap(), remote: two.parse().unwrap() }).unwrap()
    }

    #[test]
    fn it_agrees_with_the_specifications_vectors() {
        // baseline_deflt.json of the specification's repository: TCP over IPv4 and IPv6.
        assert_eq!(id("128.232.110.120:34855", "66.35.250.204:80"), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        let udp = id_of(Transport::Udp, "192.168.1.52:54585", "8.8.8.8:53");
        assert_eq!(udp, "1:d/FP5EW3wiY1vCndhwleRRKHowQ=", "baseline_deflt.json");
        assert_eq!(
            id("[fe80::200:86ff:fe05:80da]:34855", "[fe80::260:97ff:fe07:69ea]:80"),
            id("[fe80::260:97ff:fe07:69ea]:80", "[fe80::200:86ff:fe05:80da]:34855")
        );
    }
}
