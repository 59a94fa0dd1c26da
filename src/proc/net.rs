//! Sockets as `net/tcp`, `net/udp` and the same of IPv6 list them.
//!
//! Knows nothing of ports or programs: selection happens in `source`. A read is not a snapshot: the kernel lets go of
//! its table after each page, so rows come twice or not at all while it changes; `table` lives with that.
//! Layout: Documentation/networking/proc_net_tcp.rst and `get_tcp4_sock`, `get_tcp6_sock`,
//! `udp4_format_sock`, `ip6_dgram_sock_seq_show`; checked on 6.18.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::{Errno, read};

use super::{Held, Proc, ProcError};
use crate::connection::{Inode, Netns, Socket, TcpState, Tuple, fold};

/// The longest row that the kernel can write is below this: 2 x 37 characters of address and the widest numbers.
const LONGEST_ROW: usize = 320;

/// How a table read went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableRead {
    /// Rows that were given to the visitor.
    pub rows: u64,
    /// Rows that could not be parsed and were left out.
    pub unparsed: u64,
}

/// Whose network namespace is read.
#[derive(Debug, Clone, Copy)]
pub enum Net<'a> {
    /// Our own: its files may be kept open.
    Own,
    /// That of a process. An open file pins its namespace, a held process does not: files are opened for each read.
    Of(&'a Held),
}

impl Proc {
    /// Gives every row of both tables to `visit`.
    ///
    /// The kernel walks its whole hash table for each file, so this costs milliseconds even when both are empty.
    /// The read at end of file would walk it once more for nothing; it is left out: a read returns at most a page, and
    /// one that left room for another row was the last.
    ///
    /// # Errors
    /// `Read` if `net/tcp` cannot be opened or either file cannot be read to its end. A kernel without IPv6 has no
    /// `net/tcp6`: that is no error.
    pub fn read_tcp(&self, net: Net<'_>, mut visit: impl FnMut(Socket)) -> Result<TableRead, ProcError> {
        self.read_both(net, ["net/tcp", "net/tcp6"], &mut visit)
    }

    /// The same of UDP sockets, the unconnected ones too: their remote port is 0.
    ///
    /// # Errors
    /// As `read_tcp`.
    pub fn read_udp(&self, net: Net<'_>, mut visit: impl FnMut(Socket)) -> Result<TableRead, ProcError> {
        self.read_both(net, ["net/udp", "net/udp6"], &mut visit)
    }

    fn read_both(
        &self,
        net: Net<'_>,
        [four, six]: [&str; 2],
        visit: &mut impl FnMut(Socket),
    ) -> Result<TableRead, ProcError> {
        let mut totals = TableRead::default();
        self.read_table(net, four, &mut totals, visit)?;
        match self.read_table(net, six, &mut totals, visit) {
            Err(e) if e.is_gone() => Ok(totals),
            outcome => outcome.map(|()| totals),
        }
    }

    /// Reads the first page of a table, to see whether that can be done.
    ///
    /// # Errors
    /// `Read` if not.
    pub fn try_tcp(&self, net: Net<'_>) -> Result<(), ProcError> {
        let fd = self.open_net(net, "net/tcp")?;
        let mut page = vec![0; rustix::param::page_size()];
        read(&fd, &mut page).map(|_| ()).map_err(|e| self.net_error(net, "net/tcp", e))
    }

    /// Opens a file of a namespace's `net`.
    pub(super) fn open_net(&self, net: Net<'_>, name: &str) -> Result<OwnedFd, ProcError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = match net {
            Net::Own => openat(&self.dir, format!("self/{name}"), flags, Mode::empty()),
            Net::Of(held) => openat(&held.dir, name, flags, Mode::empty()),
        };
        opened.map_err(|e| self.net_error(net, name, e))
    }

    /// The file that stands for a process's network namespace, and which that is: the process may have moved. As long as
    /// it is open, it pins the namespace. Needs CAP_SYS_PTRACE for another user's.
    ///
    /// # Errors
    /// `Read`: gone or denied.
    pub fn open_netns(&self, held: &Held) -> Result<(OwnedFd, Netns), ProcError> {
        let name = "ns/net";
        let file = openat(&held.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| held.error(self, name, e))?;
        let inode = fstat(&file).map_err(|e| held.error(self, name, e))?.st_ino;
        Ok((file, Netns(inode)))
    }

    pub(super) fn net_error(&self, net: Net<'_>, name: &str, error: Errno) -> ProcError {
        ProcError::Read { path: self.net_path(net, name), source: error.into() }
    }

    pub(super) fn net_path(&self, net: Net<'_>, name: &str) -> PathBuf {
        let process = match net {
            Net::Own => "self".to_owned(),
            Net::Of(held) => held.pid.to_string(),
        };
        self.root.join(process).join(name)
    }

    fn read_table(
        &self,
        net: Net<'_>,
        name: &str,
        totals: &mut TableRead,
        visit: &mut impl FnMut(Socket),
    ) -> Result<(), ProcError> {
        let fd = self.open_net(net, name)?;
        let page = rustix::param::page_size();
        let mut buffer = vec![0; page + LONGEST_ROW];
        let mut kept = 0;
        let mut header = true;
        loop {
            let room = buffer.get_mut(kept..kept + page).unwrap_or_default();
            let length = match read(&fd, room) {
                Err(Errno::INTR) => continue,
                outcome => outcome.map_err(|e| self.net_error(net, name, e))?,
            };
            let filled = buffer.get(..kept + length).unwrap_or_default();
            let whole = filled.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
            for line in filled.get(..whole).unwrap_or_default().split(|b| *b == b'\n') {
                if std::mem::take(&mut header) {
                    if !is_header(line) {
                        return Err(ProcError::Parse { path: self.net_path(net, name), field: "header" });
                    }
                    continue;
                }
                if line.is_empty() {
                    continue;
                }
                match parse_row(line) {
                    Ok(socket) => {
                        totals.rows += 1;
                        visit(socket);
                    }
                    Err(_) => totals.unparsed += 1,
                }
            }
            kept = filled.len() - whole;
            if kept > LONGEST_ROW {
                return Err(ProcError::Parse { path: self.net_path(net, name), field: "line length" });
            }
            buffer.copy_within(whole..whole + kept, 0);
            if length == 0 && header {
                return Err(ProcError::Parse { path: self.net_path(net, name), field: "header" });
            }
            if length == 0 || (kept == 0 && length + LONGEST_ROW < page) {
                return Ok(());
            }
        }
    }
}

/// Columns are found by their place: those of another kernel may stand elsewhere and parse all the same.
fn is_header(line: &[u8]) -> bool {
    let names = "sl local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode";
    let words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
    // The tables of IPv4 and IPv6 differ in one, and those of UDP go on behind.
    let mut words = words.map(|word| if word == b"remote_address" { b"rem_address" } else { word });
    let begins = names.split(' ').all(|name| words.next() == Some(name.as_bytes()));
    begins && words.next().is_none_or(|word| word == b"ref")
}

/// Parses one line behind the header.
///
/// # Errors
/// The name of the column that is missing or malformed.
pub fn parse_row(line: &[u8]) -> Result<Socket, &'static str> {
    let mut columns = line.split(|b| *b == b' ').filter(|c| !c.is_empty());
    let local = columns.nth(1).and_then(parse_end).ok_or("local_address")?;
    let remote = columns.next().and_then(parse_end).ok_or("rem_address")?;
    let state = columns.next().and_then(parse_hex_u8).ok_or("st")?;
    let timer = columns.nth(1).ok_or("tm->when")?;
    let uid = columns.nth(1).and_then(super::parse_u64).and_then(|n| u32::try_from(n).ok()).ok_or("uid")?;
    let inode = columns.nth(1).and_then(super::parse_u64).ok_or("inode")?;
    Ok(Socket {
        tuple: Tuple { local, remote },
        state: TcpState::from_number(state),
        uid,
        inode: Inode::new(inode),
        timewait_left: parse_timewait(timer),
        cookie: None,
        device: 0,
    })
}

/// `0100007F:0016`: the address as the machine's own 32-bit words print in hex, the port as a number.
fn parse_end(column: &[u8]) -> Option<SocketAddr> {
    let colon = column.iter().position(|b| *b == b':')?;
    let (address, port) = (column.get(..colon)?, column.get(colon + 1..)?);
    let port = (port.len() == 4).then(|| parse_hex(port)).flatten().and_then(|n| u16::try_from(n).ok())?;
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(parse_hex(address)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (word, digits) in bytes.chunks_exact_mut(4).zip(address.chunks_exact(8)) {
                word.copy_from_slice(&parse_hex(digits)?.to_ne_bytes());
            }
            fold(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn parse_hex(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    digits.iter().try_fold(0, |number: u32, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}

fn parse_hex_u8(digits: &[u8]) -> Option<u8> {
    parse_hex(digits).and_then(|n| u8::try_from(n).ok())
}

/// `03:00001768`: timer 3 is TIME_WAIT's, in hundredths of a second (USER_HZ, the same on every Linux).
fn parse_timewait(column: &[u8]) -> Option<Duration> {
    let left = column.strip_prefix(b"03:")?;
    parse_hex(left).map(|hundredths| Duration::from_millis(u64::from(hundredths) * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(line: &[u8]) -> (String, String) {
        let Tuple { local, remote } = parse_row(line).unwrap().tuple;
        (local.to_string(), remote.to_string())
    }

    /// Rows from Linux 6.18, x86_64.
    const V4: &[u8] = b"   2: 0100007F:B8DC 0100007F:0016 01 00000000:00000000 00:00000000 00000000  1000        0 31337 1 0000000000000000 20 0 0 10 -1                     ";
    const MAPPED: &[u8] = b"   0: 0000000000000000FFFF00000100007F:D6BA 0000000000000000FFFF00000100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000000000000000 20 4 30 10 -1";
    const TIME_WAIT: &[u8] = b"   5: 0100007F:B8DC 0100007F:0016 06 00000000:00000000 03:00001768 00000000     0        0 0 3 0000000000000000                                      ";

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n";

    #[test]
    fn a_table_with_other_columns_is_not_read() {
        assert!(Proc::new("/proc").unwrap().read_tcp(Net::Own, |_| {}).is_ok(), "this kernel's are known");
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("self/net")).unwrap();
        let proc = Proc::new(dir.path()).unwrap();
        for table in ["", "\n", &HEADER.replace(" uid", " gid"), &HEADER.replace(" st ", " st mark ")] {
            std::fs::write(dir.path().join("self/net/tcp"), table).unwrap();
            let error = proc.read_tcp(Net::Own, |_| panic!("a row")).unwrap_err().to_string();
            assert!(error.ends_with("bad header"), "{table:?}: {error}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_row_parses() {
        let socket = parse_row(V4).unwrap();
        assert_eq!(tuple(V4), ("127.0.0.1:47324".into(), "127.0.0.1:22".into()));
        assert_eq!(
            (socket.state, socket.uid, socket.inode),
            (TcpState::Established, 1000, Inode::new(31337))
        );
        assert_eq!(socket.timewait_left, None);
    }

    /// From the same machine: one that is connected, and one that is only bound.
    const UDP: &[u8] = b"16143: 0100007F:D0C3 3500007F:0035 01 00000000:00000000 00:00000000 00000000  1000        0 271828 2 0000000000000000 0         ";
    const UDP_BOUND: &[u8] = b" 7204: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000   111        0 1618 2 0000000000000000 3         ";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_row_of_udp_is_one_of_the_same_form() {
        assert_eq!(tuple(UDP), ("127.0.0.1:53443".into(), "127.0.0.53:53".into()));
        let (socket, bound) = (parse_row(UDP).unwrap(), parse_row(UDP_BOUND).unwrap());
        assert_eq!((socket.state, socket.inode), (TcpState::Established, Inode::new(271_828)));
        assert_eq!((bound.tuple.remote.port(), bound.state), (0, TcpState::Close));
    }

    #[test]
    fn this_kernels_table_of_udp_is_known() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect("127.0.0.1:9").unwrap();
        let (local, mut found) = (socket.local_addr().unwrap(), 0);
        let read = Proc::new("/proc").unwrap().read_udp(Net::Own, |row| {
            found += usize::from(row.tuple.local == local && row.tuple.remote.port() == 9);
        });
        assert_eq!((found, read.unwrap().unparsed), (1, 0));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_mapped_address_is_ipv4_and_a_real_one_is_ipv6() {
        assert_eq!(tuple(MAPPED).1, "127.0.0.1:22");
        let native = b"0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 7";
        assert_eq!(tuple(native).0, "[::1]:22");
    }

    #[test]
    fn what_is_left_of_time_wait_is_told_and_nobody_holds_it() {
        let socket = parse_row(TIME_WAIT).unwrap();
        assert_eq!(socket.timewait_left, Some(Duration::from_millis(59_920)));
        assert_eq!(socket.inode, None);
    }

    #[test]
    fn a_bad_row_names_its_column() {
        let column = |from: &str, to: &str| {
            parse_row(String::from_utf8_lossy(V4).replacen(from, to, 1).as_bytes()).unwrap_err()
        };
        assert_eq!(column("0100007F:B8DC", "0100007F:B8DCC"), "local_address");
        assert_eq!(column("0100007F:0016", "100007F:0016"), "rem_address");
        assert_eq!(column(" 01 ", " 0X "), "st");
        assert_eq!(column(" 1000 ", " -1 "), "uid");
        assert_eq!(column(" 31337 ", " 31337x "), "inode");
        assert_eq!(parse_row(b""), Err("local_address"));
    }

    #[test]
    fn rows_that_straddle_a_page_are_read_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("self/net");
        std::fs::create_dir_all(&net).unwrap();
        for count in [0usize, 1, 24, 25, 26, 27, 28, 200] {
            let row = String::from_utf8_lossy(V4).into_owned();
            let rows: String =
                (0..count).map(|n| row.replacen("31337", &(10_000 + n).to_string(), 1) + "\n").collect();
            std::fs::write(net.join("tcp"), format!("{HEADER}{rows}")).unwrap();
            let mut inodes = Vec::new();
            let read = Proc::new(dir.path()).unwrap().read_tcp(Net::Own, |s| inodes.extend(s.inode)).unwrap();
            let wanted: Vec<_> = (0..count).filter_map(|n| Inode::new(10_000 + n as u64)).collect();
            assert_eq!((inodes, read), (wanted, TableRead { rows: count as u64, unparsed: 0 }));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_row_makes_it_panic(line in proptest::collection::vec(0u8.., 0..400)) {
            let _ = parse_row(&line);
        }

        #[test]
        fn no_column_makes_it_panic(at in 0usize..150, with in proptest::collection::vec(0u8.., 0..9)) {
            let mut line = V4.to_vec();
            let at = at.min(line.len());
            let end = (at + with.len()).min(line.len());
            line.splice(at..end, with);
            let _ = parse_row(&line);
        }
    }
}
