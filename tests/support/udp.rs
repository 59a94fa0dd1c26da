//! A server of datagrams.

/// Answers on these ports, by sockets that are bound and not connected.
pub const SERVER: &str = "
import select, socket, sys
servers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in sys.argv[1:]]
for server, port in zip(servers, sys.argv[1:]):
    server.bind(('127.0.0.1', int(port)))
print('ready', flush=True)
while True:
    for server in select.select(servers, [], [])[0]:
        asked, client = server.recvfrom(2048)
        # To a question of names, that there is no such name.
        server.sendto(asked[:2] + b'\\x81\\x83' + asked[4:], client)
";
