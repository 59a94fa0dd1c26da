use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use portreeve::connection::{Netns, Tuple};
use portreeve::netlink::{Destroyed, ProcessNotice};
use portreeve::proc::Proc;
use portreeve::source::Kind;
use portreeve::source::events::{BATCH, Entered, Events, Observation};
use portreeve::source::tally::{Ended, Watched};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::lab;
use crate::support::lab::Lab;
use crate::support::wait_for;

const BOTH: [Kind; 2] = [Kind::Destroy, Kind::Syn];

/// The lab's namespace, and a file by which to enter it.
fn namespace(lab: &Lab) -> (Netns, OwnedFd) {
    let file = std::fs::File::open(format!("/proc/{}/ns/net", lab.holder())).unwrap();
    (Netns(file.metadata().unwrap().ino()), file.into())
}

/// Waits on a thread until the test is over.
fn spawn(kinds: &[Kind]) -> (Arc<Events>, Receiver<Vec<Observation>>) {
    let (deliver, delivered) = channel();
    let watched = Arc::new(Watched::new(&[22..=22]));
    let events = Arc::new(Events::new(kinds.to_vec(), watched).unwrap());
    let theirs = Arc::downgrade(&events);
    std::thread::spawn(move || {
        while let Some(events) = theirs.upgrade() {
            for batch in events.wait(Duration::from_millis(20)) {
                assert!(!batch.is_empty() && batch.len() <= BATCH + 1);
                let _test_is_over = deliver.send(batch);
            }
        }
    });
    (events, delivered)
}

fn enter(events: &Events, lab: &Lab) -> (Netns, Entered) {
    let (netns, file) = namespace(lab);
    let entered = events.enter(netns, Some(file));
    assert_eq!((entered.on.as_slice(), entered.off.as_slice()), (BOTH.as_slice(), [].as_slice()));
    entered.tally.set_listening([22, 23]);
    (netns, entered)
}

fn tuple(stream: &TcpStream) -> Tuple {
    Tuple { local: stream.local_addr().unwrap(), remote: stream.peer_addr().unwrap() }
}

/// What comes until `enough` of it is there; then nothing more may come.
fn collect(delivered: &Receiver<Vec<Observation>>, enough: usize) -> Vec<Observation> {
    let mut all = Vec::new();
    while all.len() < enough {
        all.extend(delivered.recv_timeout(Duration::from_secs(5)).unwrap_or_else(|_| panic!("only {all:?}")));
    }
    std::thread::sleep(Duration::from_millis(20));
    all.extend(delivered.try_iter().flatten());
    assert_eq!(all.len(), enough, "{all:?}");
    all
}

#[test]
fn a_connection_is_told_by_its_syn_and_its_end_and_the_other_side_is_counted() {
    let lab = lab!();
    let (events, delivered) = spawn(&BOTH);
    let (netns, mut entered) = enter(&events, &lab);
    let mut wanted_ends = Ended::default();
    for host in ["127.0.0.1", "[::1]"] {
        let connection = |port: u16| {
            let listener = lab.listen(&format!("{host}:{port}"));
            let client = lab.connect(&format!("{host}:{port}"));
            (client, listener.accept().unwrap())
        };
        let watched = connection(22);
        let ends = tuple(&watched.0);
        let sight = entered.diag.as_mut().unwrap().find(&ends, 1, None).unwrap().unwrap();
        drop(connection(23));
        drop(watched);
        let told = collect(&delivered, 2);
        assert_eq!(told[0], Observation::Syn { kind: Kind::Syn, netns, tuple: ends, device: 1, uid: None });
        let Observation::Destroyed { netns: there, ended } = told[1] else { panic!("{told:?}") };
        assert_eq!((there, ended.tuple, ended.cookie), (netns, ends, sight.socket.cookie));
        assert!(ended.counts.unwrap().established);
        wanted_ends.active += 2;
        wanted_ends.passive += 2;
        wait_for("the tally", Duration::from_secs(5), || (entered.tally.read() == wanted_ends).then_some(()));
    }
}

#[test]
fn an_attempt_that_fails_and_a_reset_are_told_with_what_is_left_of_them() {
    let lab = lab!();
    let (events, delivered) = spawn(&[Kind::Destroy]);
    let (netns, file) = namespace(&lab);
    let entered = events.enter(netns, Some(file));
    lab.inside(|| {
        let refused: SocketAddr = "127.0.0.1:22".parse().unwrap();
        TcpStream::connect(refused).unwrap_err();
    });
    let listener = lab.listen("127.0.0.1:23");
    entered.tally.set_listening([23]);
    let client = lab.connect("127.0.0.1:23");
    let (local, server) = (client.local_addr().unwrap().port(), listener.accept().unwrap());
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    drop((server, listener));
    let told = collect(&delivered, 2);
    let ended: Vec<Destroyed> = told
        .iter()
        .map(|told| if let Observation::Destroyed { ended, .. } = told { *ended } else { panic!("{told:?}") })
        .collect();
    assert!(ended.iter().all(|ended| ended.tuple.remote.port() == 0 && ended.cookie.is_some()));
    assert_eq!(ended[1].tuple.local.port(), local);
    let wanted = Ended { disconnected: 2, passive: 1, ..Ended::default() };
    wait_for("the tally", Duration::from_secs(5), || (entered.tally.read() == wanted).then_some(()));
}

#[test]
fn other_ports_are_watched_in_namespaces_that_were_entered_before_and_after() {
    let (before, after) = (lab!(), lab!());
    let (events, delivered) = spawn(&BOTH);
    let (first, _pinned) = enter(&events, &before);
    events.set_ports(&[23..=23]);
    let (second, _pinned) = enter(&events, &after);
    for (lab, netns) in [(&before, first), (&after, second)] {
        lab.inside(|| {
            for port in [22, 23] {
                let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
                let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
                drop((client, listener.accept().unwrap()));
            }
        });
        let told = collect(&delivered, 2);
        assert!(
            matches!(told[0], Observation::Syn { netns: n, tuple, .. } if n == netns && tuple.remote.port() == 23)
        );
        assert!(matches!(told[1], Observation::Destroyed { netns: n, ended }
            if n == netns && ended.tuple.remote.port() == 23));
    }
}

#[test]
fn a_namespace_that_was_left_goes_away() {
    let (ours, theirs) = (lab!(), lab!());
    // A namespace takes its end of a cable with it.
    ours.join(&theirs);
    let cable = || theirs.run("ls /sys/class/net").contains("wire") || theirs.run("ip link").contains("wire");
    let (events, _delivered) = spawn(&BOTH);
    let (netns, entered) = enter(&events, &ours);
    drop(ours);
    std::thread::sleep(Duration::from_millis(200));
    assert!(cable(), "the sockets keep the namespace");
    events.leave(netns);
    drop(entered);
    wait_for("the namespace to go away", Duration::from_secs(10), || (!cable()).then_some(()));
}

#[test]
fn what_a_stalled_reader_loses_is_told() {
    let lab = lab!();
    let events = Events::new(vec![Kind::Destroy], Arc::new(Watched::new(&[22..=22]))).unwrap();
    let (netns, file) = namespace(&lab);
    let entered = events.enter(netns, Some(file));
    lab.inside(|| {
        let refuse = || TcpStream::connect("127.0.0.1:22").unwrap_err();
        for _ in 0..20_000 {
            refuse();
        }
    });
    let proc = Proc::new("/proc").unwrap();
    let holder = proc.hold(lab.holder()).unwrap();
    let lost = || {
        let drops = proc.read_netlink_drops(portreeve::proc::Net::Of(&holder)).unwrap();
        drops.get(&entered.destroy_inode.unwrap()).copied()
    };
    wait_for("an overflow", Duration::from_secs(5), lost);
    let loss = Observation::Lost { kind: Kind::Destroy, netns, count: None };
    let mut told = false;
    wait_for("the loss, and the rest", Duration::from_secs(5), || {
        told |= events.wait(Duration::ZERO).iter().flatten().any(|one| *one == loss);
        let all = entered.tally.read().disconnected + lost().unwrap() == 20_000;
        (told && all).then_some(())
    });
    assert!(entered.tally.read().overflows >= 1);
}

#[test]
fn nothing_that_is_nobodys_business_wakes_who_waits_and_the_bell_does() {
    let lab = lab!();
    let events = Events::new(BOTH.to_vec(), Arc::new(Watched::new(&[22..=22]))).unwrap();
    let (_, _entered) = enter(&events, &lab);
    lab.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:23").unwrap();
        let client = TcpStream::connect("127.0.0.1:23").unwrap();
        let began = std::time::Instant::now();
        // No SYN to a watched port, no end of a socket.
        assert_eq!(events.wait(Duration::from_millis(300)), Vec::<Vec<_>>::new());
        assert!(began.elapsed() >= Duration::from_millis(300));
        drop((listener, client));
    });
    let bell = events.bell();
    std::thread::spawn(move || bell.ring()).join().unwrap();
    let began = std::time::Instant::now();
    while events.wait(Duration::from_secs(5)).iter().any(|batch| !batch.is_empty()) {}
    assert!(began.elapsed() < Duration::from_secs(4), "the bell wakes");
}

#[test]
fn what_may_not_be_had_is_off_for_a_reason() {
    let lab = lab!();
    let (events, _delivered) = spawn(&BOTH);
    let (netns, file) = namespace(&lab);
    let without = |gone| {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(gone);
        set_capabilities(None, sets).unwrap();
    };
    // Capabilities are a thread's own.
    let (raw, admin) = lab.inside(|| {
        without(CapabilitySet::NET_RAW);
        let raw = events.enter(netns, None);
        without(CapabilitySet::SYS_ADMIN);
        (raw, events.enter(netns, Some(file)))
    });
    assert!(raw.diag.is_ok() && raw.destroy_inode.is_some());
    assert_eq!(raw.on, [Kind::Destroy]);
    assert_eq!(raw.off, [(Kind::Syn, "needs CAP_NET_RAW".to_owned())]);
    let reason = "entering another namespace needs CAP_SYS_ADMIN".to_owned();
    assert_eq!(admin.diag.unwrap_err(), reason);
    assert_eq!((admin.on, admin.off), (vec![], BOTH.map(|kind| (kind, reason.clone())).to_vec()));
}

#[test]
fn processes_are_told_of_our_own_namespace_alone() {
    let lab = lab!();
    let (events, delivered) = spawn(&[Kind::Proc]);
    let (netns, file) = namespace(&lab);
    let inside = events.enter(netns, Some(file));
    assert_eq!((inside.on, inside.off), (vec![], vec![]));
    let own = events.enter(Netns(1), None);
    if own.on.is_empty() {
        return crate::support::not_run("processes_are_told", &own.off[0].1);
    }
    let child = std::process::Command::new("true").spawn().unwrap().wait_with_output();
    assert!(child.unwrap().status.success());
    let ours = |told: &Observation| matches!(told, Observation::Process(ProcessNotice::Fork { parent, .. }) if *parent == std::process::id());
    wait_for("the fork", Duration::from_secs(5), || {
        delivered.try_iter().flatten().any(|told| ours(&told)).then_some(())
    });
}
