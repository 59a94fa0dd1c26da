//! UDP flows: what a real socket that is connected leaves in the log, and what stays out of it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{actions, assert_fields, with_action};
use crate::support::output;
use crate::support::udp::SERVER;
use crate::support::watch::Watch;

const UDP: [&str; 4] = ["--ports", "53,443,60001", "--transport", "tcp,udp"];

/// Connects a socket, asks, and keeps it until its standard input ends.
const CLIENT: &str = "
import socket, sys
flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flow.connect(('127.0.0.1', int(sys.argv[1])))
flow.send(bytes.fromhex('123401000001000000000000076578616d706c6500000100 01'))
assert flow.recv(2048)[:2] == b'\\x12\\x34'
print(flow.getsockname()[1], flush=True)
sys.stdin.read()
";

/// Sends as mosh does: by a socket that is bound to no remote end.
const UNCONNECTED: &str = "
import socket, sys
flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flow.sendto(b'hello', ('127.0.0.1', int(sys.argv[1])))
flow.recv(2048)
print(flow.getsockname()[1], flush=True)
sys.stdin.read()
";

struct Python {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    said: String,
}

impl Python {
    fn start(lab: &Lab, script: &str, ports: &[&str]) -> Self {
        let mut command: Command = lab.command("python3");
        command.args(["-c", script]).args(ports).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        Self { child, _stdout: stdout, said: line.trim().to_owned() }
    }

    /// What the record of it must say.
    fn flow(&self, port: u16) -> Value {
        json!({
            "network.transport": "udp",
            "network.direction": "egress",
            "source.ip": "127.0.0.1",
            "source.port": self.said.parse::<u16>().unwrap(),
            "destination.ip": "127.0.0.1",
            "destination.port": port,
            "portreeve.connection.state": "established",
            "portreeve.attribution.status": "owned",
            "process.pid": self.child.id(),
            "process.name": "python3",
            "user.id": "0",
            "event.outcome": "unknown",
        })
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

fn server(lab: &Lab) -> Python {
    Python::start(lab, SERVER, &["53", "443", "60001"])
}

/// What is told so far breaks no rule.
pub fn verify(lab: &Lab, watch: &Watch) {
    let path = lab.path("to-verify.jsonl");
    std::fs::File::create(&path).unwrap().write_all(&watch.text()).unwrap();
    let text = output(lab.command(crate::support::watch::PORTREEVE).arg("verify").arg(&path));
    assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stdout));
}

#[test]
fn names_quic_and_whatever_holds_a_connected_socket_are_told_with_owner_and_end() {
    let lab = lab!("python3");
    let server = server(&lab);
    let mut watch = lab.watch(&UDP);
    for (port, count) in [(53, 1), (443, 2), (60_001, 3)] {
        let client = Python::start(&lab, CLIENT, &[&port.to_string()]);
        let open = watch.wait_opens(count).pop().unwrap();
        let flow = client.flow(port);
        assert_fields(&open, &flow);
        client.end();
        let close = watch.wait_actions("connection-closed", count).pop().unwrap();
        assert_fields(&close, &flow);
        let id = &open["portreeve"]["connection"]["id"];
        let ending = json!({
            "portreeve.connection.id": id, "portreeve.close.reason": "closed", "source.bytes": null,
            "network.protocol": null, "portreeve.route": null,
        });
        assert_fields(&close, &ending);
    }
    drop(server);
    verify(&lab, &watch);
    let records = watch.stop().records;
    assert_eq!(with_action(&records, "connection-opened").len(), 3);
    let start = &with_action(&records, "watch-started")[0]["portreeve"]["watch"]["settings"];
    assert_eq!(start["transport"], "tcp,udp");
}

#[test]
fn neither_an_unconnected_socket_nor_one_of_a_watch_of_tcp_is_told() {
    let lab = lab!("python3");
    let _server = server(&lab);
    for (script, arguments) in [(UNCONNECTED, &UDP[..]), (CLIENT, &["--ports", "all"])] {
        let watch = lab.watch(arguments);
        let client = Python::start(&lab, script, &["60001"]);
        // Longer than the first repair read.
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        client.end();
        assert_eq!(actions(&watch.stop().records), [""; 0], "{arguments:?}");
    }
}

#[test]
fn a_flow_and_a_connection_between_the_same_ends_are_two() {
    let lab = lab!("python3");
    let _server = server(&lab);
    let tcp = lab.listen("127.0.0.1:443");
    let mut watch = lab.watch(&UDP);
    let client = Python::start(&lab, CLIENT, &["443"]);
    assert_eq!(watch.wait_opened()["network"]["transport"], "udp");
    let script = "
import socket, sys
held = socket.create_connection(('127.0.0.1', 443), source_address=('127.0.0.1', int(sys.argv[1])))
print(sys.argv[1], flush=True)
sys.stdin.read()
";
    let twin = Python::start(&lab, script, &[&client.said]);
    let _accepted = tcp.accept().unwrap();
    let opens = watch.wait_opens(2);
    let ends = |open: &Value| (open["source"]["port"].clone(), open["destination"]["port"].clone());
    assert_eq!((ends(&opens[0]), &opens[1]["network"]["transport"]), (ends(&opens[1]), &json!("tcp")));
    assert_ne!(opens[0]["network"]["community_id"], opens[1]["network"]["community_id"]);
    client.end();
    assert_eq!(watch.wait_closed()["network"]["transport"], "udp");
    twin.end();
    watch.wait_actions("connection-closed", 2);
    verify(&lab, &watch);
    watch.stop();
}

#[test]
fn over_a_restart_a_flow_that_stands_keeps_its_id_and_one_that_ended_is_told() {
    let lab = lab!("python3");
    let _server = server(&lab);
    let path = lab.path("events.jsonl");
    let run = || {
        let mut command = lab.portreeve();
        command.args(UDP).arg("--log-file").arg(&path).stdout(Stdio::null());
        Watch::start_into(&lab, &mut command, path.clone())
    };
    let mut watch = run();
    let stays = Python::start(&lab, CLIENT, &["443"]);
    let goes = Python::start(&lab, CLIENT, &["53"]);
    let opens = watch.wait_opens(2);
    watch.stop();
    let gone = goes.flow(53);
    goes.end();
    let mut watch = run();
    let close = watch.wait_closed();
    assert_eq!(
        (&close["source"]["port"], &close["event"]["reason"]),
        (&gone["source.port"], &json!("while_down"))
    );
    let kept = stays.flow(443);
    stays.end();
    let close = watch.wait_actions("connection-closed", 2).pop().unwrap();
    assert_fields(&close, &kept);
    let open = opens.iter().find(|open| open["source"]["port"] == kept["source.port"]).unwrap();
    assert_eq!(open["portreeve"]["connection"]["id"], close["portreeve"]["connection"]["id"]);
    verify(&lab, &watch);
    assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 2);
}
