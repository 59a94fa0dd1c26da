//! What netlink sockets lost: `net/netlink`, which lists those of one network namespace.

use std::collections::HashMap;

use super::net::Net;
use super::{Proc, ProcError, parse_u64};

/// One page lists some 50 sockets, a busy machine has a few hundred.
const MOST: usize = 1 << 20;

/// Messages dropped, by the socket's inode, of those that lost any. Columns are found by their names.
///
/// # Errors
/// The name of the column that is missing.
pub fn parse_netlink_drops(table: &[u8]) -> Result<HashMap<u64, u64>, &'static str> {
    let mut lines = table.split(|b| *b == b'\n');
    let names = lines.next().map(words).unwrap_or_default();
    let column = |name: &'static str| names.iter().position(|n| *n == name.as_bytes()).ok_or(name);
    let (drops, inode) = (column("Drops")?, column("Inode")?);
    let row = |line| {
        let row = words(line);
        Some((parse_u64(row.get(inode)?)?, parse_u64(row.get(drops)?)?))
    };
    Ok(lines.filter_map(row).filter(|(_, drops)| *drops > 0).collect())
}

fn words(line: &[u8]) -> Vec<&[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect()
}

impl Proc {
    /// How many messages each netlink socket of a namespace has lost for want of room, by inode; sockets that lost none
    /// are left out. About 50 µs; only worth asking after an overflow.
    ///
    /// # Errors
    /// `Read`, or `Parse` with the column that is missing.
    pub fn read_netlink_drops(&self, net: Net<'_>) -> Result<HashMap<u64, u64>, ProcError> {
        let name = "net/netlink";
        let fd = self.open_net(net, name)?;
        let table = super::read_all(fd, MOST).map_err(|e| self.net_error(net, name, e))?;
        parse_netlink_drops(&table)
            .map_err(|field| ProcError::Parse { path: self.net_path(net, name), field })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Linux 6.18.
    const TABLE: &[u8] =
        b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n\
        00000000ebc91a5d 0   0          00000000 0        0        0     2        0        4       \n\
        0000000047bddc89 4   4242       00000005 0        0        0     2        17       1591    \n";

    #[test]
    fn sockets_that_lost_messages_are_listed_by_inode() {
        assert_eq!(parse_netlink_drops(TABLE), Ok(HashMap::from([(1591, 17)])));
    }

    #[test]
    fn a_column_that_is_missing_is_named() {
        assert_eq!(parse_netlink_drops(b""), Err("Drops"));
        assert_eq!(parse_netlink_drops(b"sk Drops\n1 2\n"), Err("Inode"));
        assert_eq!(parse_netlink_drops(b"Inode Drops\n1\n2 x\n3 4"), Ok(HashMap::from([(3, 4)])));
    }

    #[test]
    fn the_kernels_own_table_parses() {
        assert!(Proc::new("/proc").unwrap().read_netlink_drops(Net::Own).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(0u8.., 0..400)) {
            let _ = parse_netlink_drops(&text);
            let _ = parse_netlink_drops(&[b"Drops Inode\n".as_slice(), &text].concat());
        }
    }
}
