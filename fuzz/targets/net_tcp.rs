//! Rows of `net/tcp` and `net/tcp6`: no panic, and what a row says can be written as a row that says the same.

use std::net::IpAddr;

use portreeve::connection::{Socket, TcpState};
use portreeve::proc::parse_row;

pub fn run(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(socket) = parse_row(line) {
            assert_eq!(parse_row(written(&socket).as_bytes()), Ok(socket));
        }
    }
}

/// As the kernel writes it.
fn written(socket: &Socket) -> String {
    let end = |end: std::net::SocketAddr| {
        let words: Vec<u8> = match end.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let word = |word: &[u8]| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap()));
        let address: String = words.chunks_exact(4).map(word).collect();
        format!("{address}:{:04X}", end.port())
    };
    let state = (0..=u8::MAX).find(|number| TcpState::from_number(*number) == socket.state).unwrap();
    let timer = socket
        .timewait_left
        .map_or("00:00000000".to_owned(), |left| format!("03:{:08X}", left.as_millis() / 10));
    format!(
        "   0: {} {} {state:02X} 00000000:00000000 {timer} 00000000 {:5}        0 {} 1 0000000000000000 20 0 0 10 -1",
        end(socket.tuple.local),
        end(socket.tuple.remote),
        socket.uid,
        socket.inode.map_or(0, |inode| inode.get()),
    )
}
