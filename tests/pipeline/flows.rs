//! UDP flows: what opens one, what ends one, and what none is.

use std::sync::Arc;

use portreeve::connection::{Connection, Seen, Transport};
use portreeve::event::{Event, What};
use portreeve::pipeline::Pipeline;
use portreeve::secrets::Masker;
use portreeve::source::{Filter, Selection};

use super::kernel::{Kernel, moment, pipeline, story, told};

const DNS: &str = "127.0.0.53:53";

fn selection(ports: &str) -> Selection {
    Selection { udp: true, ..Selection::new(ports.parse().unwrap(), Filter::default()) }
}

/// A shell's `dig`, pid 200, and a pipeline that has looked once and follows UDP.
fn watched(ports: &str) -> (Kernel, Pipeline) {
    let mut kernel = Kernel::new();
    kernel.spawn(200, 100, "dig", &["dig", "host.example"]);
    let mut pipeline = pipeline(&kernel, ports, Filter::default());
    assert_eq!(pipeline.select(selection(ports), Masker::new(&[]), moment(0)).len(), 0);
    assert_eq!(tick(&mut pipeline, &kernel, 0), [""; 0]);
    (kernel, pipeline)
}

fn events(pipeline: &mut Pipeline, kernel: &Kernel, millis: u64) -> Vec<Event> {
    kernel.write();
    pipeline.tick(&kernel.proc(), moment(millis)).unwrap()
}

fn tick(pipeline: &mut Pipeline, kernel: &Kernel, millis: u64) -> Vec<String> {
    let events = events(pipeline, kernel, millis);
    events.iter().filter(|event| event.what.connection().is_some()).map(story).collect()
}

#[test]
fn a_flow_is_opened_with_its_owner_and_closed_with_its_socket() {
    let (mut kernel, mut pipeline) = watched("22,53");
    kernel.connect_udp(200, "127.0.0.1:40000", DNS, 7);
    let opened = events(&mut pipeline, &kernel, 50);
    let [line] = &told(&opened)[..] else { panic!("{opened:?}") };
    assert!(
        line.starts_with("open   alice  127.0.0.1:40000 → 127.0.0.53:53/udp  dig[200] ← bash[100]"),
        "{line}"
    );
    let connection = opened[0].what.connection().unwrap();
    assert_eq!((connection.transport, connection.seen), (Transport::Udp, Seen::Poll));
    let way = connection.way.as_ref().unwrap();
    assert!(way.route.is_none() && !way.is_ssh, "{way:?}");
    assert_eq!(tick(&mut pipeline, &kernel, 100), [""; 0]);
    kernel.close_udp(7);
    assert_eq!(tick(&mut pipeline, &kernel, 150), ["127.0.0.1:40000 connection-closed by 200 closed None"]);
    assert_eq!((pipeline.totals().opens, pipeline.totals().closes, pipeline.totals().live), (1, 1, 0));
}

#[test]
fn without_being_asked_for_no_flow_is_told() {
    let mut kernel = Kernel::new();
    let mut pipeline = pipeline(&kernel, "all", Filter::default());
    kernel.spawn(200, 100, "dig", &["dig"]);
    kernel.connect_udp(200, "127.0.0.1:40000", DNS, 7);
    assert_eq!(tick(&mut pipeline, &kernel, 0), [""; 0]);
}

#[test]
fn a_flow_that_stood_is_told_as_such_and_one_out_of_scope_ends() {
    let mut kernel = Kernel::new();
    let mut pipeline = pipeline(&kernel, "53", Filter::default());
    kernel.spawn(200, 100, "dig", &["dig"]);
    kernel.connect_udp(200, "[::1]:40000", "[::1]:53", 7);
    assert_eq!(tick(&mut pipeline, &kernel, 0), [""; 0]);
    pipeline.select(selection("53"), Masker::new(&[]), moment(50));
    assert_eq!(tick(&mut pipeline, &kernel, 50), ["[::1]:40000 connection-opened by 200 start established"]);
    let ended = pipeline.select(selection("443"), Masker::new(&[]), moment(60));
    assert_eq!(
        ended.iter().map(story).collect::<Vec<_>>(),
        ["[::1]:40000 connection-closed by 200 out_of_scope None"]
    );
}

#[test]
fn other_ports_and_sockets_without_a_remote_end_are_no_flows() {
    let (mut kernel, mut pipeline) = watched("53");
    kernel.connect_udp(200, "127.0.0.1:40000", "127.0.0.1:443", 7);
    kernel.bind_udp(200, "0.0.0.0:40001", 8);
    assert_eq!(tick(&mut pipeline, &kernel, 50), [""; 0]);
}

#[test]
fn what_a_server_connects_to_its_clients_is_not_ours() {
    let (mut kernel, mut pipeline) = watched("all");
    kernel.bind_udp(200, "0.0.0.0:51820", 8);
    kernel.connect_udp(200, "10.0.0.1:51820", "203.0.113.7:40000", 9);
    assert_eq!(tick(&mut pipeline, &kernel, 50), [""; 0]);
    kernel.close_udp(8);
    assert_eq!(tick(&mut pipeline, &kernel, 100), [""; 0], "decided at first sight");
}

#[test]
fn a_socket_that_is_connected_elsewhere_is_another_flow() {
    let (mut kernel, mut pipeline) = watched("53,443");
    kernel.connect_udp(200, "127.0.0.1:40000", DNS, 7);
    assert_eq!(tick(&mut pipeline, &kernel, 50).len(), 1);
    kernel.flows[0].remote = "127.0.0.1:443".parse().unwrap();
    assert_eq!(tick(&mut pipeline, &kernel, 100), [""; 0], "connect alone moves nothing ...");
    kernel.sent += 1;
    let expected = [
        "127.0.0.1:40000 connection-closed by 200 closed None",
        "127.0.0.1:40000 connection-opened by 200 poll established",
    ];
    assert_eq!(tick(&mut pipeline, &kernel, 150), expected, "... but a datagram does");
}

#[test]
fn what_moved_nothing_is_seen_by_the_repair_read() {
    let (mut kernel, mut pipeline) = watched("53");
    kernel.bind_udp(200, "127.0.0.1:40000", 7);
    assert_eq!(tick(&mut pipeline, &kernel, 50), [""; 0]);
    kernel.flows[0].remote = DNS.parse().unwrap();
    assert_eq!(tick(&mut pipeline, &kernel, 950), [""; 0]);
    assert_eq!(tick(&mut pipeline, &kernel, 1_100).len(), 1);
}

#[test]
fn a_row_that_is_missed_once_ends_nothing_while_its_descriptor_stands() {
    let (mut kernel, mut pipeline) = watched("53");
    kernel.connect_udp(200, "127.0.0.1:40000", DNS, 7);
    assert_eq!(tick(&mut pipeline, &kernel, 50).len(), 1);
    let rows = std::mem::take(&mut kernel.flows);
    assert_eq!(tick(&mut pipeline, &kernel, 100), [""; 0]);
    kernel.flows = rows;
    assert_eq!(tick(&mut pipeline, &kernel, 150), [""; 0]);
    kernel.flows.clear();
    assert_eq!(tick(&mut pipeline, &kernel, 200), [""; 0]);
    assert_eq!(tick(&mut pipeline, &kernel, 250).len(), 1, "twice");
}

#[test]
fn a_flow_and_a_connection_between_the_same_ends_are_two_stories() {
    let (mut kernel, mut pipeline) = watched("443");
    kernel.connect(200, "127.0.0.1:40000", "127.0.0.1:443", 7);
    kernel.establish(7);
    kernel.connect_udp(200, "127.0.0.1:40000", "127.0.0.1:443", 8);
    let opened = events(&mut pipeline, &kernel, 50);
    let transports: Vec<_> = opened.iter().map(|e| e.what.connection().unwrap().transport).collect();
    assert_eq!(transports, [Transport::Tcp, Transport::Udp]);
    kernel.close_udp(8);
    let closed = events(&mut pipeline, &kernel, 100);
    assert_eq!(
        closed.iter().map(|e| e.what.connection().unwrap().transport).collect::<Vec<_>>(),
        [Transport::Udp]
    );
    kernel.close(7);
    assert_eq!(
        tick(&mut pipeline, &kernel, 150),
        ["127.0.0.1:40000 connection-closed by 200 closed Some(true)"]
    );
}

#[test]
fn a_flow_goes_on_over_a_restart_or_ended_while_nobody_watched() {
    let (mut kernel, mut pipeline) = watched("53");
    kernel.connect_udp(200, "127.0.0.1:40000", DNS, 7);
    kernel.connect_udp(200, "127.0.0.1:40001", DNS, 8);
    assert_eq!(tick(&mut pipeline, &kernel, 50).len(), 2);
    let live: Vec<Arc<Connection>> = pipeline.live();
    kernel.close_udp(8);
    let (_, mut next) = watched("53");
    assert_eq!(next.restore(&live, moment(5_000)).len(), 0);
    let told = events(&mut next, &kernel, 6_000);
    let told = told.into_iter().chain(events(&mut next, &kernel, 8_000)).collect::<Vec<_>>();
    let stories: Vec<_> = told.iter().map(story).collect();
    assert_eq!(stories, ["127.0.0.1:40001 connection-closed by 200 while_down None"]);
    assert_eq!(next.live().len(), 1);
    assert!(live.iter().any(|flow| flow.id == next.live()[0].id));
}

#[test]
fn flows_leave_the_comparison_with_the_kernel_as_it_is() {
    let (mut kernel, mut pipeline) = watched("all");
    kernel.connect(200, "127.0.0.1:40001", "127.0.0.1:22", 6);
    kernel.establish(6);
    kernel.connect_udp(200, "127.0.0.1:40000", DNS, 7);
    assert_eq!(tick(&mut pipeline, &kernel, 50).len(), 2);
    let covered = events(&mut pipeline, &kernel, 60_100);
    let coverage = covered.iter().find_map(|event| match &event.what {
        What::Coverage(coverage) => Some(coverage),
        _ => None,
    });
    let coverage = coverage.unwrap();
    assert_eq!((coverage.opens, coverage.kernel.active_opens), (2, 1));
    assert_eq!((coverage.accounted, coverage.agrees), (Some(1), Some(true)));
}

#[test]
fn flows_that_cannot_be_read_are_told_once_and_tcp_goes_on() {
    let (mut kernel, mut pipeline) = watched("22,53");
    kernel.write();
    std::fs::remove_file(kernel.path("self/net/udp")).unwrap();
    std::fs::write(kernel.path("self/net/udp"), "nonsense\n").unwrap();
    let mut gaps = 0;
    for tick in 0..4 {
        let told = pipeline.tick(&kernel.proc(), moment(2_000 + tick * 50)).unwrap();
        gaps += told.iter().filter(|event| event.what.action() == "gap").count();
    }
    assert_eq!(gaps, 1);
    kernel.connect(200, "127.0.0.1:40001", "127.0.0.1:22", 6);
    assert_eq!(tick(&mut pipeline, &kernel, 3_000).len(), 1);
}
