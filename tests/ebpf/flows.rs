//! UDP flows in the kernel's own words: what is one, whose it is, what it carries, and when it is over.

use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::time::Duration;

use portreeve::connection::TcpState;
use portreeve::ebpf::Ebpf;
use portreeve::ebpf::event::{Opening, Sight, Word};
use serde_json::{Value, json};

use super::words::{netns, taken};
use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{assert_fields, with_action};
use crate::support::udp::SERVER;
use crate::support::watch::Watch;
use crate::support::{not_run, output};

fn flows(words: &[Word]) -> Vec<&Opening> {
    words.iter().filter_map(|word| if let Word::Flow(flow) = word { Some(&**flow) } else { None }).collect()
}

/// The first packets of flows.
fn sent(words: &[Word]) -> Vec<Sight> {
    words.iter().filter_map(|word| if let Word::Sent(sight) = word { Some(*sight) } else { None }).collect()
}

pub fn bind(lab: &Lab, at: &str) -> UdpSocket {
    lab.inside(|| UdpSocket::bind(at).unwrap())
}

fn send(socket: &UdpSocket, bytes: &[u8], to: &UdpSocket) {
    socket.send_to(bytes, to.local_addr().unwrap()).unwrap();
}

/// Takes one datagram and answers it.
fn answer(server: &UdpSocket) {
    let mut buffer = [0; 2_048];
    let (len, client) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..len], client).unwrap();
}

fn programs(ports: &[std::ops::RangeInclusive<u16>], test: &str) -> Option<Ebpf> {
    let ebpf = match Ebpf::open_here(ports, None, true) {
        Ok(ebpf) => ebpf,
        Err(reason) => {
            not_run(test, &reason);
            return None;
        }
    };
    if let Some(reason) = ebpf.without_flows() {
        not_run(test, reason);
        return None;
    }
    Some(ebpf)
}

#[test]
fn each_end_that_a_socket_sends_to_is_one_flow_with_its_counts() {
    let lab = lab!();
    let Some(mut ebpf) =
        programs(&[2301..=2302], "each_end_that_a_socket_sends_to_is_one_flow_with_its_counts")
    else {
        return;
    };
    for (one, two, from) in
        [("127.0.0.1:2301", "127.0.0.1:2302", "0.0.0.0:0"), ("[::1]:2301", "[::1]:2302", "[::]:0")]
    {
        let (one, two, unwatched) = (bind(&lab, one), bind(&lab, two), bind(&lab, from));
        let client = bind(&lab, from);
        for _ in 0..3 {
            send(&client, b"four", &one);
            answer(&one);
            client.recv(&mut [0; 16]).unwrap();
        }
        send(&client, b"a longer one", &two);
        let to_unwatched = unwatched.local_addr().unwrap().port();
        client.send_to(b"-", (one.local_addr().unwrap().ip(), to_unwatched)).unwrap();
        let words = taken(&mut ebpf, &lab);
        let (flows, sent) = (flows(&words), sent(&words));
        assert_eq!((words.len(), flows.len(), sent.len()), (4, 2, 2), "{words:#?}");
        let ends: Vec<_> = flows.iter().map(|flow| flow.sight.tuple.remote).collect();
        assert_eq!(ends, [one.local_addr().unwrap(), two.local_addr().unwrap()]);
        let cookie = flows[0].sight.cookie.unwrap();
        for (flow, sent) in flows.iter().zip(sent) {
            assert_eq!((flow.pid, flow.sight.before), (std::process::id(), TcpState::Close));
            assert_eq!(flow.sight.netns, netns(&lab));
            assert_eq!((sent.cookie, sent.tuple.remote), (Some(cookie), flow.sight.tuple.remote));
            // From where, the kernel decided.
            let from = (one.local_addr().unwrap().ip(), client.local_addr().unwrap().port());
            assert_eq!(sent.tuple.local, from.into());
        }
        let counts = ebpf.count_flow(cookie, ends[0], false).unwrap();
        assert_eq!(
            (counts.sent, counts.received, counts.packets_sent, counts.packets_received),
            (12, 12, 3, 3),
            "{counts:?}"
        );
        assert!(counts.first == flows[0].sight.at && counts.last > counts.first);
        assert_eq!(ebpf.count_flow(cookie, ends[1], true).map(|counts| counts.sent), Some(12));
        assert_eq!(ebpf.count_flow(cookie, ends[1], true), None, "it was over");
        send(&client, b"anew", &two);
        assert!(matches!(taken(&mut ebpf, &lab)[..], [Word::Flow(_), Word::Sent(_)]));
        drop(client);
        let words = taken(&mut ebpf, &lab);
        assert!(
            matches!(words[..], [Word::LetGo(sight)] if sight.cookie == Some(cookie)),
            "the socket, once: {words:#?}"
        );
    }
}

#[test]
fn a_connected_socket_says_so_and_a_mapped_address_is_one_of_ipv4() {
    let lab = lab!();
    let Some(mut ebpf) =
        programs(&[2303..=2303], "a_connected_socket_says_so_and_a_mapped_address_is_one_of_ipv4")
    else {
        return;
    };
    let server = bind(&lab, "127.0.0.1:2303");
    for (from, to, is_connected) in [
        ("127.0.0.1:0", "127.0.0.1:2303", true),
        ("[::]:0", "[::ffff:127.0.0.1]:2303", false),
        ("[::]:0", "[::ffff:127.0.0.1]:2303", true),
    ] {
        let client = bind(&lab, from);
        if is_connected {
            lab.inside(|| client.connect(to).unwrap());
            client.send(b"12345").unwrap();
        } else {
            lab.inside(|| client.send_to(b"12345", to).unwrap());
        }
        answer(&server);
        client.recv(&mut [0; 16]).unwrap();
        let words = taken(&mut ebpf, &lab);
        let ([flow], [sent]) = (&flows(&words)[..], &sent(&words)[..]) else { panic!("{words:#?}") };
        let sight = flow.sight;
        assert_eq!(sight.tuple.remote, server.local_addr().unwrap(), "{from} {to}");
        assert_eq!(sight.before == TcpState::Established, is_connected);
        let port = client.local_addr().unwrap().port();
        assert_eq!((sent.cookie, sent.tuple.local), (sight.cookie, ([127, 0, 0, 1], port).into()));
        let counts = ebpf.count_flow(sight.cookie.unwrap(), sight.tuple.remote, false).unwrap();
        assert_eq!((counts.packets_sent, counts.sent), (1, 5));
        assert_eq!((counts.packets_received, counts.received), (1, 5));
        drop(client);
        assert!(matches!(taken(&mut ebpf, &lab)[..], [Word::LetGo(_)]));
    }
}

#[test]
fn what_a_server_answers_is_no_flow_of_its_own() {
    let lab = lab!();
    // Ports of clients are watched too, as `all` does.
    let Some(mut ebpf) = programs(&[1..=65_535], "what_a_server_answers_is_no_flow_of_its_own") else {
        return;
    };
    let (server, client) = (bind(&lab, "127.0.0.1:2304"), bind(&lab, "127.0.0.1:0"));
    send(&client, b"asked", &server);
    answer(&server);
    // As QUIC's servers do: a socket of its own for each client, on the same port.
    let own = lab.inside(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket2::SockRef::from(&server).set_reuse_address(true).unwrap();
        socket.bind(&"127.0.0.1:2304".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        UdpSocket::from(socket)
    });
    own.connect(client.local_addr().unwrap()).unwrap();
    own.send(b"told").unwrap();
    let words = taken(&mut ebpf, &lab);
    let [flow] = flows(&words)[..] else { panic!("{words:#?}") };
    assert_eq!(flow.sight.tuple.remote.port(), 2304, "the client's alone");
    assert_eq!(flow.sight.netns, netns(&lab));
}

pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

pub fn serve(lab: &Lab, ports: &[&str]) -> Server {
    let mut command = lab.command("python3");
    command.args(["-c", SERVER]).args(ports).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Server(child)
}

/// Waits for the watch, or says why there are no words of flows.
fn watch(lab: &Lab, test: &str, more: &[&str]) -> Option<Watch> {
    let arguments = ["--transport", "tcp,udp", "--events", "ebpf", "--ports", "53,443,60001"];
    watching(lab.watch(&[&arguments, more].concat()), test)
}

pub fn watching(watch: Watch, test: &str) -> Option<Watch> {
    let started = with_action(&watch.records(), "watch-started").remove(0);
    let started = &started["portreeve"]["watch"];
    let without = started["warnings"].to_string().contains("ebpf tells of no UDP flow");
    if started["events"]["ebpf"] == "on" && !without {
        return Some(watch);
    }
    not_run(test, &started.to_string());
    None
}

pub fn verify(lab: &Lab, text: &[u8]) {
    let path = lab.path("to-verify.jsonl");
    std::fs::write(&path, text).unwrap();
    let judged = output(lab.command(crate::support::watch::PORTREEVE).arg("verify").arg(&path));
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
}

#[test]
fn questions_for_names_of_no_length_have_their_owner_and_their_bytes() {
    let test = "questions_for_names_of_no_length_have_their_owner_and_their_bytes";
    let lab = lab!("python3", "dig");
    let _server = serve(&lab, &["53"]);
    let Some(mut watch) = watch(&lab, test, &[]) else { return };
    let mut pids = Vec::new();
    for _ in 0..20 {
        let words = ["+tries=1", "+time=2", "@127.0.0.1", "host.example"];
        let mut dig = lab.command("dig").args(words).stdout(Stdio::null()).spawn().unwrap();
        pids.push(dig.id());
        assert!(dig.wait().unwrap().success());
    }
    let closes = watch.wait_actions("connection-closed", pids.len());
    verify(&lab, &watch.text());
    let records = watch.stop().records;
    let opens = with_action(&records, "connection-opened");
    assert_eq!((opens.len(), closes.len()), (20, 20), "each is one flow");
    let owners: Vec<_> = opens.iter().map(|open| open["process"]["pid"].as_u64().unwrap()).collect();
    assert_eq!(owners, pids.iter().map(|pid| u64::from(*pid)).collect::<Vec<_>>());
    for close in closes {
        let expected = json!({
            "network.transport": "udp", "destination.port": 53, "portreeve.connection.seen": "ebpf",
            "portreeve.attribution.status": "owned", "process.name": "dig",
            "portreeve.close.reason": "closed", "portreeve.close.exact": true, "source.packets": 1,
            "destination.packets": 1, "network.packets": 2, "portreeve.close.bytes_exact": true, "event.outcome": "success",
        });
        assert_fields(&close, &expected);
        assert_eq!(close["source"]["bytes"], close["destination"]["bytes"], "the question came back");
    }
}

#[test]
fn what_is_sent_unconnected_is_a_flow_until_it_is_idle() {
    let test = "what_is_sent_unconnected_is_a_flow_until_it_is_idle";
    let lab = lab!("python3");
    let _server = serve(&lab, &["53", "443"]);
    let Some(mut watch) = watch(&lab, test, &["--udp-idle", "1s"]) else { return };
    let client = bind(&lab, "0.0.0.0:0");
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let ask = |port: u16| {
        lab.inside(|| client.send_to(b"question", ("127.0.0.1", port)).unwrap());
        client.recv(&mut [0; 64]).unwrap();
    };
    ask(53);
    ask(443);
    let opens = watch.wait_opens(2);
    let port = client.local_addr().unwrap().port();
    for (open, to) in opens.iter().zip([53, 443]) {
        let expected = json!({
            "source.ip": "127.0.0.1", "source.port": port, "destination.ip": "127.0.0.1", "destination.port": to,
            "portreeve.connection.state": "close",
            "process.pid": std::process::id(), "event.outcome": "unknown",
        });
        assert_fields(open, &expected);
        assert!(
            open["message"].as_str().unwrap().contains(&format!("127.0.0.1:{port} → 127.0.0.1:{to}/udp"))
        );
    }
    // One goes on, and is not idle.
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(250));
        ask(443);
    }
    let close = watch.wait_closed();
    let expected = json!({
        "destination.port": 53, "portreeve.close.reason": "idle", "portreeve.close.exact": false,
        "source.packets": 1, "source.bytes": 8, "destination.bytes": 8, "event.outcome": "success",
    });
    assert_fields(&close, &expected);
    drop(client);
    let close = watch.wait_actions("connection-closed", 2).pop().unwrap();
    let expected = json!({
        "destination.port": 443, "portreeve.close.reason": "closed", "portreeve.close.exact": true,
        "source.packets": 11, "destination.packets": 11, "source.bytes": 88,
    });
    assert_fields(&close, &expected);
    verify(&lab, &watch.text());
    assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 2);
}

#[test]
fn a_flow_that_the_table_tells_too_is_one() {
    let test = "a_flow_that_the_table_tells_too_is_one";
    for source in ["netlink", "procfs"] {
        let lab = lab!("python3");
        let _server = serve(&lab, &["443"]);
        let Some(mut watch) = watch(&lab, test, &["--source", source]) else { return };
        // The table shows this one first: it sends nothing yet.
        let quiet = bind(&lab, "127.0.0.1:0");
        lab.inside(|| quiet.connect("127.0.0.1:443").unwrap());
        let open = watch.wait_opened();
        assert_eq!(open["process"]["pid"], std::process::id());
        assert_eq!(open["portreeve"]["connection"]["state"], "established");
        quiet.send(b"now").unwrap();
        // And these it finds told.
        let others: Vec<_> = (0..5)
            .map(|_| {
                let other = bind(&lab, "127.0.0.1:0");
                lab.inside(|| other.connect("127.0.0.1:443").unwrap());
                other.send(b"at once").unwrap();
                other
            })
            .collect();
        watch.wait_opens(6);
        // One that was not connected when it sent first.
        let later = bind(&lab, "127.0.0.1:0");
        lab.inside(|| {
            later.send_to(b"first", "127.0.0.1:443").unwrap();
            later.connect("127.0.0.1:443").unwrap();
            later.send(b"second").unwrap();
        });
        std::thread::sleep(Duration::from_millis(1_200));
        drop((quiet, others, later));
        let closes = watch.wait_actions("connection-closed", 7);
        std::thread::sleep(Duration::from_millis(300));
        verify(&lab, &watch.text());
        let records = watch.stop().records;
        assert_eq!(with_action(&records, "connection-opened").len(), 7, "{source}");
        assert_eq!(with_action(&records, "connection-closed").len(), 7, "{source}");
        let sends = |close: &Value| close["source"]["packets"].as_u64();
        let mut sends: Vec<_> = closes.iter().map(sends).collect();
        sends.sort_unstable();
        assert_eq!(sends, [vec![Some(1); 6], vec![Some(2)]].concat(), "{source}");
        assert!(closes.iter().all(|close| close["portreeve"]["close"]["exact"] == true), "{source}");
    }
}

#[test]
fn a_session_of_mosh_is_one_flow_of_its_client() {
    let test = "a_session_of_mosh_is_one_flow_of_its_client";
    let lab = lab!("mosh-server", "mosh-client", "script");
    let Some(mut watch) = watch(&lab, test, &[]) else { return };
    let mut server = lab.command("mosh-server");
    server.args(["new", "-i", "127.0.0.1", "-p", "60001", "--", "sleep", "2"]).env("LC_ALL", "C.UTF-8");
    let said = output(&mut server);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let key = said.lines().find_map(|line| line.strip_prefix("MOSH CONNECT 60001 ")).unwrap();
    let mut client = lab.command("script");
    client.args(["-qec", "stty rows 24 cols 80; exec mosh-client 127.0.0.1 60001", "/dev/null"]);
    client.env("MOSH_KEY", key).env("LC_ALL", "C.UTF-8").env("TERM", "xterm").stdin(Stdio::piped());
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let open = watch.wait_opened();
    let expected = json!({
        "process.name": "mosh-client", "destination.port": 60_001, "network.transport": "udp",
        "portreeve.attribution.status": "owned",
    });
    assert_fields(&open, &expected);
    let _its_terminal_hung_up = client.wait().unwrap();
    let close = watch.wait_closed();
    assert!(close["source"]["packets"].as_u64().unwrap() > 1, "{close:#}");
    assert_eq!(close["event"]["outcome"], "success");
    verify(&lab, &watch.text());
    let opens = with_action(&watch.stop().records, "connection-opened");
    // Mosh takes another port of its own after ten seconds: not here.
    assert_eq!(opens.len(), 1);
}

/// Sends as many datagrams from a socket that has the kernel put these headers into its packets, and gets each back from a
/// socket that has them too.
const WITH_HEADERS: &str = "
import socket, sys
socket.setdefaulttimeout(5)
count, to, headers = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
client, server = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2)]
server.bind(('::1', 2305))
for header in headers:
    name, value = header.split('=')
    for one in (client, server) if name != 'IPV6_RTHDR' else (client,):
        one.setsockopt(socket.IPPROTO_IPV6, getattr(socket, name), bytes.fromhex(value))
for _ in range(count):
    client.sendto(b'12345', (to, 2305))
    if to == '::1':
        asked, asker = server.recvfrom(64)
        server.sendto(asked, asker)
        client.recv(64)
print('sent', flush=True)
sys.stdin.read()
";

#[test]
fn packets_of_ipv6_with_other_headers_before_that_of_udp_are_counted() {
    let test = "packets_of_ipv6_with_other_headers_before_that_of_udp_are_counted";
    let lab = lab!("python3");
    lab.run("ip address add fd00::1/128 dev lo nodad; ip address add fd00::2/128 dev lo nodad");
    let Some(mut ebpf) = programs(&[2305..=2305], test) else { return };
    // Padding, eight bytes; and of an option that nobody knows and that is passed over, 264.
    let short = "0000010400000000";
    let long = format!("00201efc{}1e06000000000000", "00".repeat(252));
    // By way of fd00::2; the kernel writes where to in the end.
    let way =
        format!("00040401 01000000 {} fd000000000000000000000000000002", "00".repeat(16)).replace(' ', "");
    for (to, headers, back) in [
        ("::1", vec![format!("IPV6_HOPOPTS={short}")], 3),
        ("::1", vec![format!("IPV6_DSTOPTS={long}")], 3),
        ("::1", vec![format!("IPV6_HOPOPTS={long}"), format!("IPV6_DSTOPTS={short}")], 3),
        ("fd00::1", vec![format!("IPV6_RTHDR={way}"), format!("IPV6_DSTOPTS={short}")], 0),
    ] {
        let mut client = lab.command("python3");
        client.args(["-c", WITH_HEADERS, "3", to]).args(&headers);
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(client.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "sent\n", "{headers:?}");
        let words = taken(&mut ebpf, &lab);
        let ([flow], [sent]) = (&flows(&words)[..], &sent(&words)[..]) else {
            panic!("{headers:?}: {words:#?}")
        };
        let remote: std::net::SocketAddr = format!("[{to}]:2305").parse().unwrap();
        assert_eq!((flow.sight.tuple.remote, sent.tuple.remote, flow.pid), (remote, remote, client.id()));
        let counts = ebpf.count_flow(flow.sight.cookie.unwrap(), remote, false).unwrap();
        assert_eq!((counts.packets_sent, counts.sent), (3, 15), "{headers:?}");
        assert_eq!((counts.packets_received, counts.received), (back, 5 * back), "{headers:?}");
        drop(client.stdin.take());
        assert!(client.wait().unwrap().success());
        taken(&mut ebpf, &lab);
    }
}

#[test]
fn a_datagram_to_a_group_that_this_machine_has_joined_is_one() {
    let test = "a_datagram_to_a_group_that_this_machine_has_joined_is_one";
    let (lab, other) = (lab!(), lab!());
    let Some(mut ebpf) = programs(&[2306..=2306], test) else { return };
    lab.join(&other);
    lab.run("ip route add 224.0.0.0/4 dev wire; ip address add fd00::1/64 dev wire nodad");
    let index: u32 = lab.run("ip -o link show wire").split(':').next().unwrap().parse().unwrap();
    let (group, own) = ("239.1.2.3".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let group6 = "ff02::1234".parse().unwrap();
    // A copy comes back to those who joined, whoever sends.
    for is_member in [false, true] {
        for (at, to) in [
            ("0.0.0.0:2306", "239.1.2.3:2306".to_owned()),
            ("[::]:2306", format!("[ff02::1234%{index}]:2306")),
        ] {
            let (member, stranger) = (bind(&lab, at), bind(&lab, &at.replace("2306", "0")));
            lab.inside(|| match at {
                "[::]:2306" => member.join_multicast_v6(&group6, index).unwrap(),
                _ => member.join_multicast_v4(&group, &own).unwrap(),
            });
            member.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let client = if is_member { &member } else { &stranger };
            for _ in 0..3 {
                lab.inside(|| client.send_to(b"12345", &to).unwrap());
                assert_eq!(member.recv(&mut [0; 64]).unwrap(), 5);
            }
            let words = taken(&mut ebpf, &lab);
            let [flow] = flows(&words)[..] else { panic!("{at}: {words:#?}") };
            let counts = ebpf.count_flow(flow.sight.cookie.unwrap(), flow.sight.tuple.remote, false).unwrap();
            assert_eq!((counts.packets_sent, counts.sent), (3, 15), "{at}");
            assert_eq!(
                (counts.packets_received, counts.received),
                (0, 0),
                "{at}: what came back answers nobody"
            );
            drop((member, stranger));
            taken(&mut ebpf, &lab);
        }
    }
}

#[test]
fn what_the_firewall_dropped_for_a_while_is_a_flow_once_it_leaves() {
    let test = "what_the_firewall_dropped_for_a_while_is_a_flow_once_it_leaves";
    let lab = lab!("nft");
    let arguments = ["--transport", "tcp,udp", "--events", "ebpf", "--ports", "2394"];
    let Some(mut watch) = watching(lab.watch(&arguments), test) else { return };
    let client = bind(&lab, "0.0.0.0:0");
    let send = || lab.inside(|| client.send_to(b"12345", "127.0.0.1:2394"));
    lab.run(
        "nft 'add table inet lab; add chain inet lab out { type filter hook output priority 0; }; \
         add rule inet lab out udp dport 2394 drop'",
    );
    let _dropped = send();
    std::thread::sleep(Duration::from_secs(7));
    assert!(with_action(&watch.records(), "connection-opened").is_empty());
    lab.open_ports();
    send().unwrap();
    let expected = json!({ "destination.port": 2394, "process.pid": std::process::id(), "portreeve.connection.seen": "ebpf" });
    assert_fields(&watch.wait_opened(), &expected);
    drop(client);
    assert_fields(&watch.wait_closed(), &json!({ "source.packets": 1, "source.bytes": 5 }));
    verify(&lab, &watch.text());
    watch.stop();
}
