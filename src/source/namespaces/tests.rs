//! Over a `/proc` whose processes are moved by hand.

use std::cell::Cell;
use std::os::unix::fs::symlink;

use super::*;

const OWN: Netns = Netns(1);
const OTHER: Netns = Netns(2);
const TICK: Duration = Duration::from_millis(50);

/// A `/proc` whose processes are moved by hand, and a clock.
struct Tree {
    folder: tempfile::TempDir,
    proc: Proc,
    at: Cell<Duration>,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let proc = Proc::new(folder.path()).unwrap();
        let tree = Self { folder, proc, at: Cell::new(Duration::from_secs(100)) };
        std::fs::create_dir_all(tree.folder.path().join("sys/kernel")).unwrap();
        tree.write("sys/kernel/pid_max", "1000\n");
        tree.process(1, OWN);
        tree.last(1);
        tree
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn last(&self, pid: u32) {
        self.write("loadavg", &format!("0.00 0.01 0.05 1/97 {pid}\n"));
    }

    fn process(&self, pid: u32, netns: Netns) {
        let ns = self.folder.path().join(format!("{pid}/ns"));
        std::fs::create_dir_all(&ns).unwrap();
        self.write(&format!("{pid}/status"), &format!("Name:\tx\nTgid:\t{pid}\n"));
        symlink(format!("net:[{}]", netns.0), ns.join("net")).unwrap();
    }

    /// The next that the kernel makes.
    fn fork(&self, pid: u32, netns: Netns) {
        self.process(pid, netns);
        self.last(pid);
    }

    fn moves(&self, pid: u32, netns: Netns) {
        std::fs::remove_file(self.folder.path().join(format!("{pid}/ns/net"))).unwrap();
        self.process(pid, netns);
    }

    fn ends(&self, pid: u32) {
        std::fs::remove_dir_all(self.folder.path().join(pid.to_string())).unwrap();
    }

    fn look(&self, namespaces: &mut Namespaces) -> Changes {
        self.at.set(self.at.get() + TICK);
        namespaces.look(&self.proc, self.at.get(), &|| Duration::ZERO)
    }

    /// What all looks of so long a time tell together.
    fn looks(&self, namespaces: &mut Namespaces, time: Duration) -> Changes {
        let mut all = Changes::default();
        for _ in 0..time.as_millis() / TICK.as_millis() {
            let Changes { appeared, gone } = self.look(namespaces);
            all.appeared.extend(appeared);
            all.gone.extend(gone);
        }
        all
    }

    fn watched(&self) -> Namespaces {
        let mut namespaces = Namespaces::new(OWN);
        self.look(&mut namespaces);
        namespaces
    }
}

fn appeared(netns: Netns) -> Changes {
    Changes { appeared: vec![netns], gone: Vec::new() }
}

fn gone(netns: Netns) -> Changes {
    Changes { appeared: Vec::new(), gone: vec![netns] }
}

fn member(namespaces: &Namespaces) -> Option<u32> {
    namespaces.member(OTHER).map(|held| held.pid)
}

#[test]
fn the_first_look_finds_all_and_ours_is_none_of_them() {
    let tree = Tree::new();
    tree.process(20, OTHER);
    let mut namespaces = Namespaces::new(OWN);
    assert_eq!(tree.look(&mut namespaces), appeared(OTHER));
    assert_eq!(namespaces.iter().collect::<Vec<_>>(), [OTHER]);
    assert_eq!((namespaces.len(), namespaces.is_empty(), member(&namespaces)), (1, false, Some(20)));
    assert!(namespaces.member(OWN).is_none());
    assert_eq!(tree.look(&mut namespaces), Changes::default());
}

#[test]
fn a_new_process_is_asked_at_the_next_look() {
    let tree = Tree::new();
    let mut namespaces = tree.watched();
    tree.fork(30, OTHER);
    tree.fork(31, OWN);
    assert_eq!(tree.look(&mut namespaces), appeared(OTHER));
}

#[test]
fn a_process_that_moves_while_it_is_young_is_found_there() {
    let tree = Tree::new();
    for (stays, wait) in [(1, 1), (3, 3), (29, 30)] {
        let mut namespaces = tree.watched();
        tree.fork(40, OWN);
        assert_eq!(tree.looks(&mut namespaces, TICK * stays), Changes::default());
        tree.moves(40, OTHER);
        namespaces.listing.begun = Duration::MAX / 2;
        assert_eq!(tree.looks(&mut namespaces, TICK * wait), appeared(OTHER), "{stays}");
        tree.ends(40);
        tree.last(39);
    }
}

#[test]
fn one_that_moves_later_is_found_by_the_listing() {
    let tree = Tree::new();
    let mut namespaces = tree.watched();
    tree.moves(1, OTHER);
    assert_eq!(tree.looks(&mut namespaces, TICK * 19), Changes::default());
    assert_eq!(tree.look(&mut namespaces), appeared(OTHER));
}

#[test]
fn a_member_that_ends_is_replaced_and_the_last_takes_the_namespace_with_it() {
    let tree = Tree::new();
    for pid in 50..53 {
        tree.process(pid, OTHER);
    }
    let mut namespaces = tree.watched();
    for left in (0..3).rev() {
        let pid = member(&namespaces).unwrap();
        assert!(namespaces.stands(&tree.proc, OTHER));
        tree.ends(pid);
        assert!(!namespaces.stands(&tree.proc, OTHER));
        assert_eq!(namespaces.lost_member(&tree.proc, OTHER), left > 0);
    }
    assert_eq!((member(&namespaces), namespaces.len()), (None, 1), "until all were asked");
    let mut told = Changes::default();
    for _ in 0..20 {
        // However often it is asked for.
        namespaces.lost_member(&tree.proc, OTHER);
        told.gone.extend(tree.look(&mut namespaces).gone);
    }
    assert_eq!(told, gone(OTHER));
    assert!(namespaces.is_empty());
}

#[test]
fn a_member_is_replaced_by_one_that_nobody_had_asked() {
    let tree = Tree::new();
    tree.process(60, OTHER);
    let mut namespaces = tree.watched();
    tree.ends(60);
    tree.process(61, OTHER);
    assert!(!namespaces.lost_member(&tree.proc, OTHER));
    assert_eq!(tree.looks(&mut namespaces, Duration::from_secs(1)), Changes::default());
    assert_eq!(member(&namespaces), Some(61));
}

#[test]
fn a_member_that_moves_away_or_ends_is_missed_within_a_second() {
    let tree = Tree::new();
    for leave in [Tree::ends as fn(&Tree, u32), |tree, pid| tree.moves(pid, OWN)] {
        tree.process(70, OTHER);
        tree.process(71, OTHER);
        let mut namespaces = tree.watched();
        let first = member(&namespaces).unwrap();
        leave(&tree, first);
        assert_eq!(tree.looks(&mut namespaces, VERIFY_EVERY), Changes::default());
        let second = member(&namespaces).unwrap();
        assert_ne!(first, second);
        leave(&tree, second);
        assert_eq!(tree.looks(&mut namespaces, Duration::from_secs(2)), gone(OTHER));
    }
}

#[test]
fn a_thread_stands_for_its_process_where_both_live_there() {
    let tree = Tree::new();
    let mut namespaces = tree.watched();
    tree.process(80, OTHER);
    tree.fork(81, OTHER);
    tree.write("81/status", "Name:\tx\nTgid:\t80\n");
    assert_eq!(tree.look(&mut namespaces), appeared(OTHER));
    assert_eq!(member(&namespaces), Some(80));
    tree.fork(82, Netns(3));
    tree.write("82/status", "Name:\tx\nTgid:\t1\n");
    assert_eq!(tree.look(&mut namespaces), appeared(Netns(3)));
    assert_eq!(namespaces.member(Netns(3)).map(|held| held.pid), Some(82));
}

#[test]
fn pids_that_begin_anew_are_followed() {
    let all = |before, last| given_out(before, last, || 10).collect::<Vec<_>>();
    assert_eq!(all(4, 4), [0u32; 0]);
    assert_eq!(all(4, 6), [6, 5]);
    assert_eq!(all(7, 2), [2, 1, 9, 8]);
    let tree = Tree::new();
    tree.last(990);
    let mut namespaces = tree.watched();
    tree.process(995, OTHER);
    tree.fork(301, Netns(3));
    assert_eq!(tree.look(&mut namespaces).appeared, [Netns(3), OTHER]);
}

#[test]
fn a_pid_that_was_given_out_and_is_not_there_yet_is_asked_again() {
    let tree = Tree::new();
    let mut namespaces = tree.watched();
    tree.last(90);
    assert_eq!(tree.look(&mut namespaces), Changes::default());
    tree.process(90, OTHER);
    assert_eq!(tree.look(&mut namespaces), appeared(OTHER));
}

#[test]
fn what_may_not_be_asked_is_counted() {
    let tree = Tree::new();
    for pid in [100, 101] {
        // Not a link: a test that is root is denied nothing.
        std::fs::create_dir_all(tree.folder.path().join(format!("{pid}/ns/net"))).unwrap();
    }
    let mut namespaces = Namespaces::new(OWN);
    assert_eq!(tree.look(&mut namespaces), Changes::default());
    assert_eq!(namespaces.denied(), 2);
}

#[test]
fn more_than_the_purse_pays_for_is_asked_in_the_looks_to_come() {
    let tree = Tree::new();
    let mut namespaces = tree.watched();
    for pid in 200..400 {
        tree.process(pid, if pid == 201 { Netns(3) } else { OTHER });
    }
    tree.last(400);
    let (cpu, ask) = (Cell::new(Duration::ZERO), Duration::from_micros(3));
    let spends = || {
        cpu.set(cpu.get() + ask * ASKED_AT_ONCE);
        cpu.get()
    };
    let mut looks = 0;
    while namespaces.len() < 2 {
        tree.at.set(tree.at.get() + TICK / 10);
        let before = cpu.get();
        namespaces.look(&tree.proc, tree.at.get(), &spends);
        assert!(cpu.get() - before < TICK / 10 / 20, "each look is bounded");
        looks += 1;
    }
    assert!(looks > 3, "{looks}");
}

#[test]
fn the_listing_comes_by_its_cost() {
    let mut listing = Listing { number: 1, ..Listing::default() };
    let seconds = Duration::from_secs;
    assert!(!listing.is_due(Duration::from_millis(999)) && listing.is_due(seconds(1)));
    listing.cost = Duration::from_millis(12);
    assert!(!listing.is_due(seconds(59)) && listing.is_due(seconds(60)));
    listing.wanted_soon = true;
    assert!(!listing.is_due(seconds(2)) && listing.is_due(Duration::from_millis(2_400)));
    listing.cost = seconds(9);
    assert!(!listing.is_due(seconds(119)) && listing.is_due(seconds(120)));
}
