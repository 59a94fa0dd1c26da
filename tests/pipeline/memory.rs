//! Chains of ancestors whose links end, and of those that are kept from one tick to the next.

use std::time::Duration;

use portreeve::attribution::{Attributor, Found};
use portreeve::connection::{Inode, Moment};
use portreeve::process::{Attribution, ChainCut, Holder};
use portreeve::secrets::Masker;

use super::kernel::Kernel;

const AT: Duration = Duration::from_secs(3_600);

fn moment_at(boot: Duration) -> Moment {
    Moment { boot, ..Moment::default() }
}

fn attributor() -> Attributor {
    Attributor::new(Masker::new(&[]), Box::new(|_| None))
}

/// A shell script that starts ssh in the background: pids 200 and 300.
fn started(attributor: &mut Attributor, kernel: &mut Kernel) {
    kernel.spawn(200, 100, "bash", &["-bash"]);
    attributor.forked(&kernel.proc(), 100, 200, AT);
    kernel.spawn(200, 100, "sh", &["sh", "backup.sh"]);
    attributor.executed(&kernel.proc(), 200, AT);
    kernel.spawn(300, 200, "sh", &["sh", "backup.sh"]);
    attributor.forked(&kernel.proc(), 200, 300, AT);
    kernel.spawn(300, 200, "ssh", &["ssh", "host"]);
    attributor.executed(&kernel.proc(), 300, AT);
    kernel.hold(300, 1);
}

/// The script ends; pid 1 adopts ssh.
fn script_ends(kernel: &mut Kernel) {
    kernel.exit(200);
    std::fs::write(kernel.path("300/stat"), stat_with_parent(kernel, 1)).unwrap();
}

fn stat_with_parent(kernel: &Kernel, parent: u32) -> String {
    let stat = std::fs::read_to_string(kernel.path("300/stat")).unwrap();
    let (head, tail) = stat.split_once(") S ").unwrap();
    let (_, rest) = tail.split_once(' ').unwrap();
    format!("{head}) S {parent} {rest}")
}

/// Pid, name and whether it is remembered, of the owner's ancestors.
fn chain(attributor: &mut Attributor, kernel: &Kernel) -> (Vec<(u32, String, bool)>, Option<ChainCut>) {
    attributor.begin_tick();
    let found = Found::Holders(vec![Holder { pid: 300, tid: None, fd: 3 }], None);
    let (attribution, _) =
        attributor.attribute(&kernel.proc(), Inode::new(1).unwrap(), &found, Duration::ZERO);
    let Attribution::Owned { lineage, .. } = attribution else { panic!("{attribution:?}") };
    let name = |comm: &Vec<u8>| String::from_utf8(comm.clone()).unwrap();
    let told = lineage.ancestry.iter().map(|process| (process.pid, name(&process.comm), process.remembered));
    (told.collect(), lineage.cut)
}

fn told(ancestors: &[(u32, &str, bool)]) -> (Vec<(u32, String, bool)>, Option<ChainCut>) {
    (ancestors.iter().map(|(pid, name, old)| (*pid, (*name).to_owned(), *old)).collect(), None)
}

#[test]
fn a_script_that_ended_stands_in_its_place_and_is_marked() {
    let (mut attributor, mut kernel) = (attributor(), Kernel::new());
    started(&mut attributor, &mut kernel);
    let alive = told(&[(200, "sh", false), (100, "bash", false), (1, "systemd", false)]);
    assert_eq!(chain(&mut attributor, &kernel), alive);

    script_ends(&mut kernel);
    attributor.exited(200, None, moment_at(AT));
    let ended = told(&[(200, "sh", true), (100, "bash", false), (1, "systemd", false)]);
    assert_eq!(chain(&mut attributor, &kernel), ended);
}

#[test]
fn a_whole_line_that_ended_is_told_up_to_who_lives() {
    let (mut attributor, mut kernel) = (attributor(), Kernel::new());
    started(&mut attributor, &mut kernel);
    script_ends(&mut kernel);
    kernel.exit(100);
    attributor.exited(200, None, moment_at(AT));
    attributor.exited(100, None, moment_at(AT));
    let ended = told(&[(200, "sh", true), (100, "bash", true), (1, "systemd", false)]);
    assert_eq!(chain(&mut attributor, &kernel), ended);
}

#[test]
fn without_notices_the_chain_goes_on_at_the_adopter() {
    let (mut attributor, mut kernel) = (attributor(), Kernel::new());
    kernel.spawn(200, 100, "sh", &["sh", "backup.sh"]);
    kernel.spawn(300, 200, "ssh", &["ssh", "host"]);
    kernel.hold(300, 1);
    script_ends(&mut kernel);
    assert_eq!(chain(&mut attributor, &kernel), told(&[(1, "systemd", false)]));
}

#[test]
fn who_ended_long_ago_is_forgotten() {
    let (mut attributor, mut kernel) = (attributor(), Kernel::new());
    started(&mut attributor, &mut kernel);
    script_ends(&mut kernel);
    attributor.exited(200, None, moment_at(AT));
    attributor.exited(9_999, None, moment_at(AT + Duration::from_secs(11)));
    assert_eq!(chain(&mut attributor, &kernel), told(&[(1, "systemd", false)]));
}

#[test]
fn another_process_with_the_same_number_is_nobodys_parent() {
    let (mut attributor, mut kernel) = (attributor(), Kernel::new());
    started(&mut attributor, &mut kernel);
    script_ends(&mut kernel);
    attributor.exited(200, None, moment_at(AT));
    kernel.spawn(200, 1, "cron", &["cron"]);
    attributor.forked(&kernel.proc(), 1, 200, AT);
    assert_eq!(chain(&mut attributor, &kernel), told(&[(1, "systemd", false)]));
}

/// A process that sleeps: `schedstat` stands still as long as it does nothing.
fn sleeps(kernel: &mut Kernel, pid: u32, parent: u32, name: &str, ran: u32) {
    kernel.spawn(pid, parent, name, &[name]);
    std::fs::create_dir_all(kernel.path(&format!("{pid}/task/{pid}"))).unwrap();
    std::fs::write(kernel.path(&format!("{pid}/schedstat")), format!("{ran} 7 {ran}\n")).unwrap();
    adopt(kernel, pid, parent, name);
}

/// `status` tells another parent, and nothing else happens to the process.
fn adopt(kernel: &Kernel, pid: u32, parent: u32, name: &str) {
    let users = "Uid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\n";
    let status = format!("Name:\t{name}\nState:\tS (sleeping)\nPPid:\t{parent}\n{users}");
    std::fs::write(kernel.path(&format!("{pid}/status")), status).unwrap();
}

/// pid 1 above a login shell, a script and ssh, all asleep, and looked at in several ticks.
fn asleep() -> (Attributor, Kernel) {
    let (mut attributor, mut kernel) = (attributor(), Kernel::new());
    for (pid, parent, name) in [(1, 0, "systemd"), (100, 1, "bash"), (200, 100, "sh"), (300, 200, "ssh")] {
        sleeps(&mut kernel, pid, parent, name, 1);
    }
    kernel.hold(300, 1);
    for _ in 0..4 {
        let chain = chain(&mut attributor, &kernel);
        assert_eq!(chain, told(&[(200, "sh", false), (100, "bash", false), (1, "systemd", false)]));
    }
    (attributor, kernel)
}

/// The shell above the script ends while the script sleeps.
fn shell_ends(kernel: &mut Kernel) {
    kernel.exit(100);
    sleeps(kernel, 200, 1, "sh", 1);
}

#[test]
fn an_ancestor_that_was_adopted_in_its_sleep_has_its_new_parent() {
    let (mut attributor, mut kernel) = asleep();
    shell_ends(&mut kernel);
    for _ in 0..3 {
        assert_eq!(chain(&mut attributor, &kernel), told(&[(200, "sh", false), (1, "systemd", false)]));
    }
}

#[test]
fn a_number_that_was_given_out_again_is_no_parent_of_who_slept_meanwhile() {
    let (mut attributor, mut kernel) = asleep();
    shell_ends(&mut kernel);
    sleeps(&mut kernel, 100, 1, "cron", 1);
    for _ in 0..3 {
        assert_eq!(chain(&mut attributor, &kernel), told(&[(200, "sh", false), (1, "systemd", false)]));
    }
}

#[test]
fn who_was_kept_under_a_number_later_is_no_parent_of_who_slept_since_before() {
    let (mut attributor, mut kernel) = asleep();
    shell_ends(&mut kernel);
    // Another process gets the number, and is kept as an ancestor of another connection.
    sleeps(&mut kernel, 100, 1, "cron", 1);
    sleeps(&mut kernel, 400, 100, "ssh", 1);
    kernel.hold(400, 2);
    for _ in 0..3 {
        attributor.begin_tick();
        let found = Found::Holders(vec![Holder { pid: 400, tid: None, fd: 4 }], None);
        attributor.attribute(&kernel.proc(), Inode::new(2).unwrap(), &found, Duration::ZERO);
    }
    assert_eq!(chain(&mut attributor, &kernel), told(&[(200, "sh", false), (1, "systemd", false)]));
}

#[test]
fn an_ancestor_that_runs_another_program_is_read_again() {
    let (mut attributor, mut kernel) = asleep();
    sleeps(&mut kernel, 200, 100, "python3", 2);
    let told = told(&[(200, "python3", false), (100, "bash", false), (1, "systemd", false)]);
    assert_eq!(chain(&mut attributor, &kernel), told);
}
