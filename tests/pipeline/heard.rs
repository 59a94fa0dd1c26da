//! UDP flows that the kernel's words tell: one story with what the table shows, and ends that no table tells.

use std::net::SocketAddr;

use portreeve::connection::{Cookie, Inode, Netns, Seen, TcpState, Transport, Tuple};
use portreeve::ebpf::event::{Sight, Word};
use portreeve::event::Event;
use portreeve::pipeline::Pipeline;
use portreeve::secrets::Masker;
use portreeve::source::{Filter, Observation, Selection};

use super::kernel::{self, Kernel, moment, pipeline, story, told};

const DNS: &str = "127.0.0.53:53";
const OURS: &str = "127.0.0.1:40000";

/// A pipeline that has looked once and follows UDP; pid 200 is a resolver.
fn watched() -> (Kernel, Pipeline) {
    let mut kernel = Kernel::new();
    kernel.spawn(200, 100, "resolver", &["resolver"]);
    let mut pipeline = pipeline(&kernel, "53,443", Filter::default());
    let ports = "53,443".parse().unwrap();
    let select = Selection { udp: true, ..Selection::new(ports, Filter::default()) };
    pipeline.select(select, Masker::new(&[]), moment(0));
    assert_eq!(tick(&mut pipeline, &kernel, 0), [""; 0]);
    (kernel, pipeline)
}

fn stories(events: &[Event]) -> Vec<String> {
    events.iter().filter(|event| event.what.connection().is_some()).map(story).collect()
}

fn tick(pipeline: &mut Pipeline, kernel: &Kernel, millis: u64) -> Vec<String> {
    kernel.write();
    stories(&pipeline.tick(&kernel.proc(), moment(millis)).unwrap())
}

fn hear(pipeline: &mut Pipeline, kernel: &Kernel, millis: u64, word: Word) -> Vec<Event> {
    kernel.write();
    pipeline.observe(&kernel.proc(), moment(millis), vec![Observation::Word(word)])
}

fn sight(kernel: &Kernel, millis: u64, local: &str, remote: &str, is_connected: bool) -> Sight {
    Sight {
        at: moment(millis).boot,
        cookie: Cookie::new(77),
        tuple: Tuple { local: local.parse().unwrap(), remote: remote.parse().unwrap() },
        inode: Inode::new(7),
        netns: kernel.proc().own_netns().unwrap(),
        device: 0,
        before: if is_connected { TcpState::Established } else { TcpState::Close },
        is_known: true,
    }
}

/// Pid 200 connects to `remote`, or is about to send there.
fn flow(kernel: &Kernel, millis: u64, remote: &str, is_connected: bool) -> Word {
    Word::Flow(kernel::opening(
        sight(kernel, millis, "0.0.0.0:40000", remote, is_connected),
        200,
        &["resolver"],
    ))
}

/// As the program tells it: of a packet only what is in it.
fn sent(kernel: &Kernel, millis: u64, remote: &str) -> Word {
    Word::Sent(Sight { inode: None, netns: Netns(0), ..sight(kernel, millis, OURS, remote, false) })
}

fn let_go(kernel: &Kernel, millis: u64) -> Word {
    let none: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let tuple = Tuple { local: none, remote: none };
    Word::LetGo(Sight { inode: None, netns: Netns(0), tuple, ..sight(kernel, millis, OURS, DNS, false) })
}

#[test]
fn a_flow_is_told_with_its_first_packet_and_ends_with_its_socket() {
    let (kernel, mut pipeline) = watched();
    assert!(hear(&mut pipeline, &kernel, 10, flow(&kernel, 9, DNS, false)).is_empty(), "from where?");
    let opened = hear(&mut pipeline, &kernel, 10, sent(&kernel, 9, DNS));
    let [line] = &told(&opened)[..] else { panic!("{opened:?}") };
    assert!(
        line.starts_with("open   alice  127.0.0.1:40000 → 127.0.0.53:53/udp  resolver[200] ← bash[100]"),
        "{line}"
    );
    let connection = opened[0].what.connection().unwrap();
    assert_eq!((connection.transport, connection.seen), (Transport::Udp, Seen::Ebpf));
    assert_eq!((connection.opened, connection.state), (moment(9), TcpState::Close));
    assert!(hear(&mut pipeline, &kernel, 11, sent(&kernel, 10, DNS)).is_empty(), "another processor's");
    // A socket may have many ends.
    hear(&mut pipeline, &kernel, 12, flow(&kernel, 12, "127.0.0.1:443", false));
    assert_eq!(hear(&mut pipeline, &kernel, 12, sent(&kernel, 12, "127.0.0.1:443")).len(), 1);
    let closed = hear(&mut pipeline, &kernel, 30, let_go(&kernel, 20));
    assert_eq!(
        stories(&closed),
        ["127.0.0.1:40000 connection-closed by 200 closed None"; 2],
        "whether anybody answered nobody counted"
    );
    assert_eq!((pipeline.totals().opens, pipeline.totals().closes, pipeline.totals().live), (2, 2, 0));
    assert!(hear(&mut pipeline, &kernel, 31, let_go(&kernel, 20)).is_empty());
}

#[test]
fn no_table_ends_the_flow_of_an_unconnected_socket_but_silence_does() {
    let (mut kernel, mut pipeline) = watched();
    kernel.bind_udp(200, OURS, 7);
    hear(&mut pipeline, &kernel, 10, flow(&kernel, 9, DNS, false));
    assert_eq!(hear(&mut pipeline, &kernel, 10, sent(&kernel, 9, DNS)).len(), 1);
    for second in 1..120 {
        kernel.sent += 1;
        assert_eq!(tick(&mut pipeline, &kernel, second * 1_000), [""; 0], "{second} s");
    }
    assert_eq!(tick(&mut pipeline, &kernel, 121_000), ["127.0.0.1:40000 connection-closed by 200 idle None"]);
    // And what comes next is another.
    hear(&mut pipeline, &kernel, 122_000, flow(&kernel, 122_000, DNS, false));
    assert_eq!(hear(&mut pipeline, &kernel, 122_000, sent(&kernel, 122_000, DNS)).len(), 1);
}

#[test]
fn what_never_leaves_is_no_flow() {
    let (kernel, mut pipeline) = watched();
    hear(&mut pipeline, &kernel, 10, flow(&kernel, 9, DNS, false));
    assert_eq!(tick(&mut pipeline, &kernel, 6_000), [""; 0]);
    assert!(hear(&mut pipeline, &kernel, 6_001, sent(&kernel, 6_000, DNS)).is_empty(), "forgotten by then");
    assert_eq!(pipeline.totals().opens, 0);
}

#[test]
fn a_connected_flow_is_one_whether_the_table_or_its_first_packet_shows_it_first() {
    for table_first in [true, false] {
        let (mut kernel, mut pipeline) = watched();
        kernel.connect_udp(200, OURS, DNS, 7);
        hear(&mut pipeline, &kernel, 10, flow(&kernel, 9, DNS, true));
        if table_first {
            let opened = ["127.0.0.1:40000 connection-opened by 200 ebpf established"];
            assert_eq!(tick(&mut pipeline, &kernel, 50), opened);
            assert!(hear(&mut pipeline, &kernel, 60, sent(&kernel, 55, DNS)).is_empty());
        } else {
            assert_eq!(hear(&mut pipeline, &kernel, 11, sent(&kernel, 10, DNS)).len(), 1);
        }
        kernel.sent += 1;
        assert_eq!(tick(&mut pipeline, &kernel, 1_100), [""; 0]);
        let closed = hear(&mut pipeline, &kernel, 1_200, let_go(&kernel, 1_150));
        assert_eq!(stories(&closed), ["127.0.0.1:40000 connection-closed by 200 closed None"]);
        kernel.close_udp(7);
        assert_eq!(tick(&mut pipeline, &kernel, 1_250), [""; 0], "told already");
    }
}

#[test]
fn a_flow_that_the_table_told_is_not_told_again_and_ends_by_word() {
    let (mut kernel, mut pipeline) = watched();
    kernel.connect_udp(200, OURS, DNS, 7);
    assert_eq!(tick(&mut pipeline, &kernel, 50).len(), 1);
    assert!(hear(&mut pipeline, &kernel, 60, flow(&kernel, 45, DNS, true)).is_empty());
    assert!(hear(&mut pipeline, &kernel, 60, sent(&kernel, 55, DNS)).is_empty());
    let closed = hear(&mut pipeline, &kernel, 90, let_go(&kernel, 80));
    assert_eq!(stories(&closed), ["127.0.0.1:40000 connection-closed by 200 closed None"]);
}

#[test]
fn a_socket_that_is_connected_elsewhere_ends_its_flow_at_once() {
    let (kernel, mut pipeline) = watched();
    hear(&mut pipeline, &kernel, 10, flow(&kernel, 9, DNS, true));
    assert_eq!(hear(&mut pipeline, &kernel, 10, sent(&kernel, 9, DNS)).len(), 1);
    let closed = hear(&mut pipeline, &kernel, 20, flow(&kernel, 20, "127.0.0.1:443", true));
    assert_eq!(stories(&closed), ["127.0.0.1:40000 connection-closed by 200 closed None"]);
    assert_eq!(hear(&mut pipeline, &kernel, 20, sent(&kernel, 20, "127.0.0.1:443")).len(), 1);
}

#[test]
fn a_socket_that_sent_before_it_was_connected_is_one_flow_which_silence_does_not_end_any_more() {
    let (mut kernel, mut pipeline) = watched();
    hear(&mut pipeline, &kernel, 10, flow(&kernel, 9, DNS, false));
    assert_eq!(hear(&mut pipeline, &kernel, 10, sent(&kernel, 9, DNS)).len(), 1);
    kernel.connect_udp(200, OURS, DNS, 7);
    for second in 1..200 {
        assert_eq!(tick(&mut pipeline, &kernel, second * 1_000), [""; 0], "{second} s");
    }
    kernel.close_udp(7);
    let closed = ["127.0.0.1:40000 connection-closed by 200 closed None"];
    assert_eq!(tick(&mut pipeline, &kernel, 200_000), closed);
}
