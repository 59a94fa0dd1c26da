//! Every short history, and the cases that the kernel really shows.

use super::*;
use crate::connection::Seen;
use crate::process::{Attribution, Reason};

const NETNS: Netns = Netns(1);

fn at(second: u64) -> Moment {
    let wall = jiff::Timestamp::from_second(1_800_000_000 + second.cast_signed()).unwrap();
    Moment { wall, boot: Duration::from_secs(1_000 + second) }
}

fn tuple(port: u16) -> Tuple {
    Tuple { local: ([10, 0, 0, 1], port).into(), remote: ([203, 0, 113, 7], 22).into() }
}

fn row(port: u16, inode: u64, state: TcpState) -> Socket {
    Socket {
        tuple: tuple(port),
        state,
        uid: 1000,
        inode: Inode::new(inode),
        timewait_left: None,
        cookie: None,
        device: 0,
    }
}

fn alive(port: u16, inode: u64) -> Socket {
    row(port, inode, TcpState::Established)
}

fn time_wait(port: u16, seconds_left: u64) -> Socket {
    let left = Some(Duration::from_secs(seconds_left));
    Socket { timewait_left: left, uid: 0, ..row(port, 0, TcpState::TimeWait) }
}

fn key(port: u16, inode: u64) -> Key {
    Key { netns: NETNS, tuple: tuple(port), inode: Inode::new(inode).unwrap() }
}

/// Takes rows at a second, opens what is new, closes what is over; answers both.
fn step(table: &mut Table, second: u64, rows: &[Socket]) -> (Vec<Key>, Vec<Key>) {
    step_incomplete(table, second, rows, true)
}

fn step_incomplete(table: &mut Table, second: u64, rows: &[Socket], complete: bool) -> (Vec<Key>, Vec<Key>) {
    let standing = table.reads == 0;
    let snapshot =
        Snapshot { netns: NETNS, outbound: rows.to_vec(), complete, standing, ..Snapshot::default() };
    let delta = table.take(&snapshot, at(second));
    let over = |key: &Key| table.get(key).unwrap().absent >= ABSENT_READS;
    let absent: Vec<Key> = delta.absent.iter().copied().filter(over).collect();
    let closed: Vec<Key> = delta.ended.iter().chain(&delta.replaced).copied().chain(absent).collect();
    for key in &closed {
        assert!(table.close(key, at(second)).is_some(), "closed twice: {key:?}");
    }
    let opened: Vec<Key> =
        delta.opened.iter().map(|s| key(s.tuple.local.port(), s.inode.unwrap().get())).collect();
    for (key, socket) in opened.iter().zip(&delta.opened) {
        assert!(table.get(key).is_none(), "opened twice: {key:?}");
        table.open(*key, connection(*key, socket.state, at(second)), 0, true);
    }
    (opened, closed)
}

fn connection(key: Key, state: TcpState, at: Moment) -> Connection {
    Connection {
        id: uuid::Uuid::nil(),
        netns: key.netns,
        inode: Some(key.inode),
        cookie: None,
        tuple: key.tuple,
        state,
        uid: Some(1000),
        user: None,
        seen: Seen::Poll,
        opened: at,
        last_seen: at,
        attribution: Attribution::Unknown(Reason::Budget),
        way: None,
        direction: Direction::Egress,
    }
}

#[test]
fn of_two_sockets_between_the_same_ends_in_one_reading_the_first_is_told_and_stays() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    let both = [alive(50_000, 1), alive(50_000, 2)];
    assert_eq!(step(&mut table, 1, &both), (vec![key(50_000, 1)], vec![]));
    assert_eq!(step(&mut table, 2, &both), (vec![], vec![]));
    assert_eq!(step(&mut table, 3, &both[1..]), (vec![key(50_000, 2)], vec![key(50_000, 1)]));
}

/// Three sockets, two of which share their ports, in all subsets over four snapshots and three empty ones behind them:
/// 4,096 histories against a model of one counter a socket.
#[test]
fn every_history_of_three_sockets_over_four_snapshots_opens_and_closes_each_once() {
    let sockets = [(50_000, 1), (50_001, 2), (50_002, 3)];
    for history in 0..1u32 << 12 {
        let mut table = Table::new();
        step(&mut table, 0, &[]);
        // `None`: not open. Otherwise how many reads it has been absent from.
        let mut model = [None::<u8>; 3];
        for second in 1..=7 {
            let shows = |n: usize| second <= 4 && history >> ((second - 1) * 3 + n as u64) & 1 == 1;
            let rows: Vec<_> =
                (0..3).filter(|n| shows(*n)).map(|n| alive(sockets[n].0, sockets[n].1)).collect();
            let (opened, closed) = step(&mut table, second, &rows);
            let (mut must_open, mut must_close) = (Vec::new(), Vec::new());
            for (n, state) in model.iter_mut().enumerate() {
                let key = key(sockets[n].0, sockets[n].1);
                *state = match (shows(n), *state) {
                    (true, None) => {
                        must_open.push(key);
                        Some(0)
                    }
                    (true, Some(_)) => Some(0),
                    (false, Some(2)) => {
                        must_close.push(key);
                        None
                    }
                    (false, Some(absent)) => Some(absent + 1),
                    (false, None) => None,
                };
            }
            assert_eq!((opened, closed), (must_open, must_close), "history {history:012b}, second {second}");
        }
        assert!(table.is_empty());
    }
}

/// The same port with another inode in each snapshot, or none: all 3^4 histories.
#[test]
fn every_history_of_one_port_tells_each_socket_apart() {
    for history in 0..81u32 {
        let mut table = Table::new();
        step(&mut table, 0, &[]);
        let mut live: Option<(u64, u8)> = None;
        for second in 1..=4u32 {
            let inode = u64::from(history / 3u32.pow(second - 1) % 3);
            let rows: Vec<_> = (inode > 0).then(|| alive(50_000, inode)).into_iter().collect();
            let told = step(&mut table, second.into(), &rows);
            let (mut opens, mut closes) = (vec![], vec![]);
            match live {
                Some((old, _)) if old == inode => live = Some((old, 0)),
                Some((old, absent)) if inode > 0 || absent == 2 => {
                    closes.push(key(50_000, old));
                    live = None;
                }
                Some((old, absent)) => live = Some((old, absent + 1)),
                None => {}
            }
            if inode > 0 && live.is_none() {
                opens.push(key(50_000, inode));
                live = Some((inode, 0));
            }
            assert_eq!(told, (opens, closes), "history {history}, second {second}");
        }
    }
}

#[test]
fn a_row_that_comes_back_was_never_gone() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    step(&mut table, 1, &[alive(1, 7)]);
    for second in 2..40 {
        let rows = if second % 3 == 1 { vec![alive(1, 7)] } else { vec![] };
        assert_eq!(step(&mut table, second, &rows), (vec![], vec![]));
    }
}

#[test]
fn an_incomplete_read_says_nothing_of_what_is_absent() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    step(&mut table, 1, &[alive(1, 7)]);
    for second in 2..9 {
        assert_eq!(step_incomplete(&mut table, second, &[], false), (vec![], vec![]));
    }
    assert_eq!(table.get(&key(1, 7)).unwrap().absent, 0);
}

#[test]
fn time_wait_proves_an_end_at_once_and_is_no_other_connection() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    step(&mut table, 1, &[alive(1, 7)]);
    assert_eq!(step(&mut table, 2, &[time_wait(1, 59)]), (vec![], vec![key(1, 7)]));
    for second in 3..62 {
        let snapshot = Snapshot {
            netns: NETNS,
            outbound: vec![time_wait(1, 61 - second)],
            complete: true,
            ..Snapshot::default()
        };
        assert_eq!(table.take(&snapshot, at(second)), Delta::default(), "second {second}");
    }
}

#[test]
fn an_end_whose_life_was_not_seen_is_told_once_and_again_only_for_another_connection() {
    let mut table = Table::new();
    let mut passed = |second, rows: &[Socket]| {
        let standing = second == 0;
        let snapshot = Snapshot {
            netns: NETNS,
            outbound: rows.to_vec(),
            complete: true,
            standing,
            ..Snapshot::default()
        };
        table.take(&snapshot, at(second)).passed.len()
    };
    assert_eq!(passed(0, &[time_wait(9, 30)]), 0, "it stood before the watch");
    assert_eq!(passed(1, &[time_wait(9, 29), time_wait(1, 60)]), 1);
    assert_eq!(passed(2, &[time_wait(1, 59)]), 0);
    assert_eq!(passed(3, &[]), 0, "missed once");
    assert_eq!(passed(4, &[time_wait(1, 59)]), 0, "a repeated FIN started the timer anew");
    assert_eq!(passed(20, &[time_wait(1, 60)]), 1, "the same ports, another connection");
}

/// Linux gives out ports again whose last connection to the same end is in TIME_WAIT (`tcp_tw_reuse`).
#[test]
fn the_time_wait_of_a_connection_that_used_the_ports_again_is_no_third_one() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    assert_eq!(step(&mut table, 1, &[alive(50_000, 1)]).0.len(), 1);
    // Its end is learned from its TIME_WAIT.
    assert_eq!(step(&mut table, 2, &[time_wait(50_000, 60)]).1.len(), 1);
    assert_eq!(step(&mut table, 20, &[alive(50_000, 2)]).0.len(), 1);
    // Its end is learned otherwise, and only then its TIME_WAIT is read.
    table.close(&key(50_000, 2), at(22)).unwrap();
    let snapshot = |second, left| {
        (
            Snapshot {
                netns: NETNS,
                outbound: vec![time_wait(50_000, left)],
                complete: true,
                ..Snapshot::default()
            },
            at(second),
        )
    };
    for (snapshot, at) in [snapshot(23, 59), snapshot(24, 58)] {
        assert_eq!(table.take(&snapshot, at).passed, []);
    }
    // A further one that was never seen alive is.
    let (snapshot, at) = snapshot(40, 59);
    assert_eq!(table.take(&snapshot, at).passed.len(), 1);
}

#[test]
fn where_notices_tell_of_ends_only_those_of_open_connections_are_news() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    step(&mut table, 1, &[alive(1, 7)]);
    let rows = vec![time_wait(1, 59), time_wait(2, 59)];
    let snapshot =
        Snapshot { netns: NETNS, outbound: rows, complete: true, noticed: true, ..Snapshot::default() };
    let delta = table.take(&snapshot, at(2));
    assert_eq!((delta.ended, delta.passed), (vec![key(1, 7)], vec![]));
}

#[test]
fn more_ends_than_are_remembered_are_counted_and_not_told() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    for port in 0..MOST_TAILS {
        let remote = std::net::Ipv4Addr::from(u32::try_from(port / 60_000).unwrap());
        let local = ([10, 0, 0, 1], u16::try_from(port % 60_000).unwrap()).into();
        table.remember_end(NETNS, Tuple { local, remote: (remote, 22).into() }, at(1));
    }
    let take = |table: &mut Table, second| {
        let rows = vec![time_wait(61_000, 60)];
        let snapshot = Snapshot { netns: NETNS, outbound: rows, complete: true, ..Snapshot::default() };
        let delta = table.take(&snapshot, at(second));
        (delta.passed.len(), delta.doubtful_ends)
    };
    assert_eq!(take(&mut table, 2), (0, 1));
    assert_eq!(take(&mut table, 200), (1, 0), "all is forgotten, nothing is doubtful");
}

#[test]
fn an_exact_lookup_tells_state_cookie_and_counts() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    step(&mut table, 1, &[row(1, 7, TcpState::SynSent)]);
    let cookie = Cookie::new(9);
    let seen = Socket { cookie, device: 3, ..alive(1, 7) };
    let counts = Some(Counts { established: true, sent: Some(5), ..Counts::default() });
    assert!(table.look(&key(1, 7), &seen, counts, at(2)), "it is established now");
    assert!(!table.look(&key(1, 7), &seen, None, at(3)));
    assert_eq!(table.by_cookie(cookie.unwrap()), Some(key(1, 7)));
    let entry = table.close(&key(1, 7), at(4)).unwrap();
    assert_eq!((entry.counts, entry.device, entry.connection.cookie), (counts, 3, cookie));
    assert_eq!(table.by_cookie(cookie.unwrap()), None);
}

#[test]
fn a_dying_connection_that_has_no_holder_is_told_once_through_all_its_states() {
    let mut table = Table::new();
    let mut passed = |second, state, left: Option<u64>| {
        let tail = Socket { timewait_left: left.map(Duration::from_secs), ..row(1, 0, state) };
        let snapshot = Snapshot { netns: NETNS, outbound: vec![tail], complete: true, ..Snapshot::default() };
        table.take(&snapshot, at(second)).passed.len()
    };
    passed(0, TcpState::Established, None);
    assert_eq!(passed(1, TcpState::FinWait1, None), 1);
    assert_eq!(passed(60, TcpState::FinWait1, None), 0);
    assert_eq!(passed(61, TcpState::FinWait2, Some(59)), 0);
    assert_eq!(passed(100, TcpState::TimeWait, Some(60)), 0);
}

#[test]
fn a_row_that_nobody_holds_yet_is_no_connection() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    assert_eq!(step(&mut table, 1, &[alive(1, 0)]), (vec![], vec![]));
}

#[test]
fn a_listener_that_goes_away_does_not_turn_its_sessions_round() {
    let mut table = Table::new();
    let session = alive(22, 7);
    let (netns, complete) = (NETNS, true);
    let inbound = Snapshot { netns, inbound: vec![session], complete, standing: true, ..Snapshot::default() };
    assert_eq!(table.take(&inbound, at(0)), Delta::default());
    assert_eq!(step(&mut table, 1, &[session]), (vec![], vec![]));
    let outbound_first = alive(50_000, 8);
    step(&mut table, 2, &[outbound_first]);
    let turned =
        Snapshot { netns: NETNS, inbound: vec![outbound_first], complete: true, ..Snapshot::default() };
    assert_eq!(
        table.take(&turned, at(3)),
        Delta::default(),
        "nor does a listener that comes turn a client round"
    );
}

#[test]
fn an_attempt_that_is_answered_is_told() {
    let mut table = Table::new();
    step(&mut table, 0, &[]);
    step(&mut table, 1, &[row(1, 7, TcpState::SynSent)]);
    let rows = vec![alive(1, 7), alive(1, 7)];
    let snapshot = Snapshot { netns: NETNS, outbound: rows, complete: true, ..Snapshot::default() };
    let delta = table.take(&snapshot, at(2));
    assert_eq!(
        (delta.established, delta.opened),
        (vec![key(1, 7)], vec![]),
        "once, though the row came twice"
    );
}
