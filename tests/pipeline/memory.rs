//! Chains of ancestors with links that ended before they could be read.

use std::time::Duration;

use portreeve::attribution::{Attributor, Found};
use portreeve::connection::Inode;
use portreeve::process::{Attribution, ChainCut, Holder};
use portreeve::secrets::Masker;

use super::kernel::Kernel;

const AT: Duration = Duration::from_secs(3_600);

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
    let found = Found::Holders(vec![Holder { pid: 300, tid: None, fd: 3 }]);
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
    attributor.exited(200, AT);
    let ended = told(&[(200, "sh", true), (100, "bash", false), (1, "systemd", false)]);
    assert_eq!(chain(&mut attributor, &kernel), ended);
}

#[test]
fn a_whole_line_that_ended_is_told_up_to_who_lives() {
    let (mut attributor, mut kernel) = (attributor(), Kernel::new());
    started(&mut attributor, &mut kernel);
    script_ends(&mut kernel);
    kernel.exit(100);
    attributor.exited(200, AT);
    attributor.exited(100, AT);
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
    attributor.exited(200, AT);
    attributor.exited(9_999, AT + Duration::from_secs(11));
    assert_eq!(chain(&mut attributor, &kernel), told(&[(1, "systemd", false)]));
}

#[test]
fn another_process_with_the_same_number_is_nobodys_parent() {
    let (mut attributor, mut kernel) = (attributor(), Kernel::new());
    started(&mut attributor, &mut kernel);
    script_ends(&mut kernel);
    attributor.exited(200, AT);
    kernel.spawn(200, 1, "cron", &["cron"]);
    attributor.forked(&kernel.proc(), 1, 200, AT);
    assert_eq!(chain(&mut attributor, &kernel), told(&[(1, "systemd", false)]));
}
