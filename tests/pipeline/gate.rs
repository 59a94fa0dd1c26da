//! The gated and the ungated poller tell the same stories, whatever happens when: every pair of every connection's
//! lives, also where other connections hide what the level of established ones would tell.

use std::collections::BTreeMap;

use super::kernel::{Kernel, moment, pipeline, story};
use portreeve::event::Event;
use portreeve::source::Filter;

/// What can happen to a connection in one step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Do {
    Nothing,
    Connect,
    /// Connect and be answered between two ticks.
    ConnectEstablish,
    Establish,
    PeerFin,
    Close,
    Reset,
    Refuse,
    GiveUp,
    /// The descriptor goes to another process, as a ControlPersist master's does.
    PassOn,
    /// After a reset or a refusal: the process closes what is left.
    CloseDescriptor,
}

/// All lives of a connection over so many steps.
fn lives(steps: usize) -> Vec<Vec<Do>> {
    fn next(after: Do) -> &'static [Do] {
        match after {
            Do::Nothing => &[Do::Nothing, Do::Connect, Do::ConnectEstablish],
            Do::Connect => &[Do::Establish, Do::Refuse, Do::GiveUp],
            Do::Establish | Do::ConnectEstablish => &[Do::PeerFin, Do::Close, Do::Reset, Do::PassOn],
            Do::PassOn | Do::PeerFin => &[Do::Close, Do::Reset],
            Do::Reset | Do::Refuse => &[Do::CloseDescriptor],
            Do::Close | Do::GiveUp | Do::CloseDescriptor => &[],
        }
    }
    let mut lives: Vec<(Vec<Do>, Do)> = vec![(vec![], Do::Nothing)];
    for _ in 0..steps {
        let mut longer = Vec::new();
        for (life, last) in lives {
            // Whatever it is, it may also last a step longer.
            let stays = (last != Do::Nothing).then_some((Do::Nothing, last));
            let goes = next(last).iter().map(|step| (*step, *step));
            longer.extend(
                stays.into_iter().chain(goes).map(|(step, last)| ([&life[..], &[step]].concat(), last)),
            );
        }
        lives = longer;
    }
    lives.into_iter().map(|(life, _)| life).collect()
}

fn act(kernel: &mut Kernel, what: Do, inode: u64) {
    let (local, pid) = (format!("10.0.0.1:{}", 50_000 + inode), 200 + u32::try_from(inode).unwrap());
    match what {
        Do::Nothing => {}
        Do::Connect | Do::ConnectEstablish => {
            kernel.connect(pid, &local, "203.0.113.7:22", inode);
            if what == Do::ConnectEstablish {
                kernel.establish(inode);
            }
        }
        Do::Establish => kernel.establish(inode),
        Do::PeerFin => kernel.peer_fin(inode),
        Do::Close => kernel.close(inode),
        Do::Reset => kernel.reset(inode),
        Do::Refuse => kernel.refuse(inode),
        Do::GiveUp => kernel.give_up(inode),
        Do::PassOn => kernel.hold(100, inode),
        Do::CloseDescriptor => kernel.let_go(inode),
    }
}

/// Both pollers over one history; each step lasts longer than a repair interval.
fn run(lives: [&[Do]; 2], frozen_level: bool) -> [Vec<(u64, Event)>; 2] {
    let mut kernel = Kernel::new();
    kernel.frozen_level = frozen_level;
    kernel.spawn(201, 100, "ssh", &["ssh", "a"]);
    kernel.spawn(202, 100, "ssh", &["ssh", "b"]);
    kernel.listen("0.0.0.0:22", 9);
    kernel.write();
    let proc = kernel.proc();
    let mut pollers = [false, true].map(|_| pipeline(&kernel, "22", Filter::default()));
    let mut told = [Vec::new(), Vec::new()];
    let mut millis = 0;
    for step in 0..=lives[0].len() {
        for (n, life) in lives.iter().enumerate() {
            act(&mut kernel, life.get(step).copied().unwrap_or(Do::Nothing), n as u64 + 1);
        }
        kernel.write();
        for _ in 0..8 {
            let at = moment(millis);
            for (gated, (poller, told)) in pollers.iter_mut().zip(&mut told).enumerate() {
                let tick = if gated == 0 { poller.tick(&proc, at) } else { poller.tick_ungated(&proc, at) };
                let events = tick.unwrap().into_iter().filter(|event| event.what.connection().is_some());
                told.extend(events.map(|event| (millis, event)));
            }
            millis += 200;
        }
    }
    let [gated, ungated] = pollers.map(|poller| poller.totals());
    assert!(gated.reads <= ungated.reads && ungated.reads == ungated.polls);
    told
}

fn compare(lives: [&[Do]; 2], frozen_level: bool) {
    let [gated, ungated] = run(lives, frozen_level);
    let by_connection = |told: &[(u64, Event)]| {
        let mut stories: BTreeMap<_, Vec<(String, u64)>> = BTreeMap::new();
        for (millis, event) in told {
            let port = event.what.connection().unwrap().tuple.local.port();
            stories.entry(port).or_default().push((story(event), *millis));
        }
        stories
    };
    let (gated, ungated) = (by_connection(&gated), by_connection(&ungated));
    let words = |s: &BTreeMap<u16, Vec<(String, u64)>>| {
        s.values().flatten().map(|(story, _)| story.clone()).collect::<Vec<_>>()
    };
    assert_eq!(words(&gated), words(&ungated), "{lives:?} frozen {frozen_level}");
    for ((story, gated), (_, ungated)) in gated.values().flatten().zip(ungated.values().flatten()) {
        // A repair interval of one second, and two ticks in which a reset's absence is confirmed.
        assert!(gated.abs_diff(*ungated) <= 1_600, "{story}: {gated} and {ungated} ms, {lives:?}");
    }
    let connected = |life: &[Do]| life.iter().any(|step| matches!(step, Do::Connect | Do::ConnectEstablish));
    assert_eq!(gated.len(), lives.iter().filter(|life| connected(life)).count(), "each is told: {lives:?}");
}

#[test]
fn both_tell_the_same_of_every_pair_of_lives() {
    let lives = lives(3);
    assert!(lives.len() > 25, "{}", lives.len());
    for (n, one) in lives.iter().enumerate() {
        for other in &lives[n..] {
            for frozen_level in [false, true] {
                compare([one, other], frozen_level);
            }
        }
    }
}

#[test]
fn both_tell_the_same_of_every_longer_life() {
    let lives = lives(5);
    assert!(lives.len() > 150, "{}", lives.len());
    for life in &lives {
        compare([life, &[Do::Nothing]], life.len() % 2 == 1);
    }
}

#[test]
fn an_attempt_that_is_given_up_is_told_in_the_next_tick_though_no_counter_moves() {
    let mut kernel = Kernel::new();
    kernel.spawn(201, 100, "ssh", &["ssh", "a"]);
    kernel.connect(201, "10.0.0.1:50001", "203.0.113.7:22", 1);
    kernel.write();
    let (proc, mut poller) = (kernel.proc(), pipeline(&kernel, "22", Filter::default()));
    assert_eq!(poller.tick(&proc, moment(0)).unwrap().len(), 1);
    kernel.give_up(1);
    kernel.write();
    let told = poller.tick(&proc, moment(50)).unwrap();
    assert_eq!(
        told.iter().map(story).collect::<Vec<_>>(),
        ["10.0.0.1:50001 connection-closed by 201 cancelled None"]
    );
}

#[test]
fn a_quiet_watch_reads_the_tables_for_repair_alone() {
    let mut kernel = Kernel::new();
    kernel.spawn(201, 100, "ssh", &["ssh", "a"]);
    kernel.connect(201, "10.0.0.1:50001", "203.0.113.7:22", 1);
    kernel.establish(1);
    kernel.write();
    let (proc, mut poller) = (kernel.proc(), pipeline(&kernel, "22", Filter::default()));
    for tick in 0..1_200 {
        poller.tick(&proc, moment(tick * 50)).unwrap();
    }
    assert_eq!(poller.totals().reads, 60, "a minute at 50 ms: one reading a second");
}
