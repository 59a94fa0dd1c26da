use super::kernel::{Kernel, moment, pipeline};
use portreeve::connection::Tuple;
use portreeve::event::{Coverage, Event, What};
use portreeve::source::{Filter, Kind, Observation};

const REMOTE: &str = "203.0.113.7:22";

fn coverage(event: &Event) -> Option<&Coverage> {
    match &event.what {
        What::Coverage(coverage) => Some(coverage),
        _ => None,
    }
}

/// Opens, closes, what lives, what the kernel counted, what is accounted for and what was missed.
fn sums(coverage: &Coverage) -> [Option<u64>; 6] {
    let Coverage { opens, closes, live, kernel, accounted, missed_at_most, .. } = coverage;
    [Some(*opens), Some(*closes), Some(*live), Some(kernel.active_opens), *accounted, *missed_at_most]
}

/// Runs for two minutes and a half; of each minute the record, and then that of the end.
fn run(ports: &str) -> Vec<Coverage> {
    let mut kernel = Kernel::new();
    kernel.spawn(200, 100, "ssh", &["ssh", "git.example.net"]);
    kernel.connect(200, "10.0.0.1:50000", REMOTE, 9);
    kernel.establish(9);
    kernel.write();
    let (proc, mut pipeline) = (kernel.proc(), pipeline(&kernel, ports, Filter::default()));
    let mut told = Vec::new();
    for millis in (0..150_000).step_by(500) {
        let from = |inode: u64| format!("10.0.0.1:{}", 50_000 + inode);
        match millis {
            // Three in the first minute, two of them ended, one that began before it ended too.
            1_000 | 2_000 | 3_000 => {
                let inode = millis / 1_000;
                kernel.connect(200, &from(inode), REMOTE, inode);
                kernel.establish(inode);
            }
            10_000 => [1, 2, 9].into_iter().for_each(|inode| kernel.close(inode)),
            // Two in the second; another leaves nothing: its other end closed first.
            70_000 => {
                kernel.connect(200, &from(5), REMOTE, 5);
                kernel.counters[0] += 1;
            }
            71_000 => kernel.refuse(5),
            80_000 => {
                kernel.connect(200, &from(6), REMOTE, 6);
                kernel.establish(6);
            }
            _ => {}
        }
        kernel.write();
        told.extend(pipeline.tick(&proc, moment(millis)).unwrap());
    }
    told.extend(pipeline.cover(moment(150_000), true).unwrap());
    told.iter().filter_map(coverage).cloned().collect()
}

#[test]
fn every_minute_and_the_end_add_up_to_the_whole() {
    let minutes = run("all");
    let some = |numbers: [u64; 6]| numbers.map(Some);
    // The first opens one more than the kernel counted: it stood before.
    let expected = [some([4, 3, 1, 3, 3, 0]), some([2, 1, 2, 3, 2, 1]), some([0, 0, 2, 0, 0, 0])];
    assert_eq!(minutes.iter().map(sums).collect::<Vec<_>>(), expected);
    for pair in minutes.windows(2) {
        assert_eq!(pair[0].span.map(|(_, to)| to.boot), pair[1].span.map(|(from, _)| from.boot));
    }
    assert_eq!(minutes[0].span.map(|(from, to)| (to.boot - from.boot).as_secs()), Some(60));
    assert_eq!(minutes.iter().map(|minute| minute.polls).sum::<u64>(), 300);
    assert_eq!(minutes.iter().map(|minute| minute.poll_interval_us.count).sum::<u64>(), 299);
    for minute in &minutes {
        assert_eq!(minute.seen.values().sum::<u64>(), minute.opens);
        assert!(minute.comparable && minute.agrees == Some(minute.missed_at_most == Some(0)));
        assert_eq!(
            minute.attribution_latency_us.count + minute.unattributed.values().sum::<u64>(),
            minute.opens
        );
    }
}

#[test]
fn of_one_port_the_kernel_keeps_no_count_to_compare_with() {
    for minute in run("22") {
        assert!(!minute.comparable);
        assert_eq!((minute.accounted, minute.missed_at_most, minute.agrees), (None, None, None));
    }
}

#[test]
fn syns_for_which_there_is_no_room_are_counted() {
    const ROOM: u16 = 16_384;
    for (kind, name) in [(Kind::Syn, "syn"), (Kind::Nflog(22), "nflog")] {
        let kernel = Kernel::new();
        kernel.write();
        let (proc, mut pipeline) = (kernel.proc(), pipeline(&kernel, "22", Filter::default()));
        pipeline.tick(&proc, moment(0)).unwrap();
        // Their sockets are gone: what became of them is waited for.
        let syn = |port: u16| Observation::Syn {
            kind,
            netns: proc.own_netns().unwrap(),
            tuple: Tuple { local: ([10, 0, 0, 1], port).into(), remote: REMOTE.parse().unwrap() },
            device: 0,
            uid: None,
        };
        pipeline.observe(&proc, moment(10), (0..ROOM + 7).map(syn).collect());
        let told = pipeline.cover(moment(20), true).unwrap();
        let coverage = told.iter().find_map(coverage).unwrap();
        assert_eq!(coverage.lost.get(name), Some(&7), "{name}: {:?}", coverage.lost);
        assert_eq!(pipeline.totals().notices_lost, 7);
    }
}
