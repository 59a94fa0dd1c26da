//! Texts of links, `socket:[N]` and `net:[N]`: no panic, and nothing but a number in brackets passes.

use portreeve::proc::{parse_netns_link, parse_socket_link};

pub fn run(data: &[u8]) {
    // A leading zero is the only other way to write a number.
    let is_written = |kind: &str, number: u64| {
        let text = std::str::from_utf8(data).unwrap();
        let digits = text.strip_prefix(kind).and_then(|rest| rest.strip_suffix(']')).unwrap();
        assert_eq!(digits.trim_start_matches('0'), number.to_string().trim_start_matches('0'));
    };
    if let Some(inode) = parse_socket_link(data) {
        is_written("socket:[", inode.get());
    }
    if let Some(netns) = parse_netns_link(data) {
        is_written("net:[", netns.0);
    }
    let number = data.iter().fold(1, |number: u64, byte| number.rotate_left(8) ^ u64::from(*byte)).max(1);
    assert_eq!(parse_socket_link(format!("socket:[{number}]").as_bytes()).map(|i| i.get()), Some(number));
    assert_eq!(parse_netns_link(format!("net:[{number}]").as_bytes()).map(|netns| netns.0), Some(number));
}
