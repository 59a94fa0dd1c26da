//! Trees over time, and the exact words that they must lead to.

use std::fs;
use std::time::Duration;

use super::kernel::{CLOSE_WAIT, FIN_WAIT2, Kernel, LISTEN, Row, TIME_WAIT, moment, pipeline, told};
use portreeve::connection::{Inode, Netns};
use portreeve::pipeline::Pipeline;
use portreeve::proc::{Net, Proc};
use portreeve::process::Attribution;
use portreeve::secrets::Masker;
use portreeve::source::{Filter, Selection, poll};

pub(super) const REMOTE: &str = "203.0.113.7:22";
pub(super) const LOCAL: &str = "10.0.0.1:50001";
pub(super) const ID_1: &str = "00000000-0000-0000-0000-000000000001";
pub(super) const ID_2: &str = "00000000-0000-0000-0000-000000000002";

/// A kernel, a watch over it, and the time.
pub(super) struct Watch {
    pub(super) kernel: Kernel,
    pub(super) proc: Proc,
    pub(super) pipeline: Pipeline,
    pub(super) millis: u64,
}

impl Watch {
    /// Watches from now on: what stands already stood before.
    pub(super) fn over(kernel: Kernel, ports: &str, filter: Filter) -> Self {
        kernel.write();
        let (proc, pipeline) = (kernel.proc(), pipeline(&kernel, ports, filter));
        Self { kernel, proc, pipeline, millis: 0 }
    }

    pub(super) fn new() -> Self {
        let mut kernel = Kernel::new();
        kernel.spawn(200, 100, "ssh", &["ssh", "git.example.net"]);
        let mut watch = Self::over(kernel, "22", Filter::default());
        assert_eq!(watch.tick(), [""; 0]);
        watch
    }

    pub(super) fn tick(&mut self) -> Vec<String> {
        self.kernel.write();
        self.millis += 50;
        told(&self.pipeline.tick(&self.proc, moment(self.millis)).unwrap())
    }

    /// Ticks for so long; all that is told.
    pub(super) fn wait(&mut self, seconds: u64) -> Vec<String> {
        (0..seconds * 20).flat_map(|_| self.tick()).collect()
    }

    pub(super) fn connect(&mut self, pid: u32, inode: u64) {
        self.kernel.connect(pid, &format!("10.0.0.1:{}", 50_000 + inode), REMOTE, inode);
    }
}

#[test]
fn a_connection_is_told_with_its_chain_and_its_end() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    let chain = "ssh[200] ← bash[100] ← systemd[1]  ssh git.example.net";
    assert_eq!(watch.tick(), [format!("open   alice  {LOCAL} → {REMOTE}  {chain}  {ID_1}")]);
    assert_eq!(watch.wait(2), [""; 0]);
    watch.kernel.close(1);
    let closed = format!(
        "close  alice  {LOCAL} → {REMOTE}  closed after 2.0 s  ssh[200]  ssh git.example.net  {ID_1}"
    );
    assert_eq!(watch.tick(), [closed]);
    assert_eq!(watch.wait(70), [""; 0], "its TIME_WAIT is no other connection");
}

#[test]
fn an_attempt_is_told_as_such_and_then_what_became_of_it() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    assert!(watch.tick()[0].contains("  connecting  ssh[200]"));
    watch.kernel.establish(1);
    assert!(watch.wait(1)[0].starts_with(&format!("change alice  {LOCAL} → {REMOTE}  now established")));

    watch.connect(200, 2);
    watch.tick();
    watch.kernel.refuse(2);
    watch.kernel.let_go(2);
    assert!(watch.tick()[0].contains("  refused after 50 ms"));

    watch.connect(200, 3);
    watch.tick();
    watch.kernel.give_up(3);
    assert!(watch.tick()[0].contains("  given up after 50 ms"));
}

#[test]
fn a_reset_closes_though_the_descriptor_stands_and_one_missing_row_does_not() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.tick();
    let row = watch.kernel.rows[0].clone();
    watch.kernel.rows.clear();
    watch.kernel.counters[0] += 1;
    assert_eq!(watch.tick(), [""; 0], "missing once");
    watch.kernel.rows.push(row);
    assert_eq!(watch.wait(3), [""; 0], "it was there all the time");
    watch.kernel.reset(1);
    let told = watch.wait(3);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("  reset after 3."), "{told:?}");
}

#[test]
fn a_reused_port_with_a_new_inode_is_a_new_connection() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.tick();
    watch.kernel.reset(1);
    watch.kernel.let_go(1);
    watch.kernel.connect(200, LOCAL, REMOTE, 7);
    watch.kernel.establish(7);
    let told = watch.tick();
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("close ") && told[0].ends_with(ID_1), "{told:?}");
    assert!(told[1].starts_with("open ") && told[1].ends_with(ID_2), "{told:?}");
}

#[test]
fn what_stands_at_the_start_is_told_and_what_is_already_over_is_counted() {
    let mut kernel = Kernel::new();
    kernel.spawn(200, 100, "ssh", &["ssh", "h"]);
    kernel.connect(200, LOCAL, REMOTE, 1);
    kernel.establish(1);
    let over = Row { state: TIME_WAIT, inode: 0, uid: 0, timewait: Some(4_000), ..kernel.rows[0].clone() };
    kernel.rows.push(Row { local: "10.0.0.1:50009".parse().unwrap(), ..over });
    let mut watch = Watch::over(kernel, "22", Filter::default());
    let told = watch.tick();
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("  stood before the watch  ssh[200]"), "{told:?}");
    assert_eq!(watch.pipeline.totals().standing_ends, 1);
    watch.kernel.close(1);
    assert!(
        watch.tick()[0].contains(&format!("{REMOTE}  closed  ssh[200]")),
        "no duration: its beginning is unknown"
    );
}

#[test]
fn a_connection_between_two_looks_is_told_by_its_end_and_never_as_roots() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.kernel.close(1);
    let told = watch.tick();
    let unknown = format!("user unknown  {LOCAL} → {REMOTE}");
    assert_eq!(told.len(), 2);
    assert_eq!(
        told[0],
        format!("open   {unknown}  only its end was seen  owner unknown (time_wait)  {ID_1}")
    );
    assert_eq!(told[1], format!("close  {unknown}  closed  owner unknown (time_wait)  {ID_1}"));
    watch.kernel.age(Duration::from_secs(2));
    assert_eq!(watch.wait(2), [""; 0]);
}

#[test]
fn an_inbound_session_is_never_told_whatever_port_its_client_uses() {
    let mut watch = Watch::new();
    watch.kernel.listen("0.0.0.0:22", 9);
    watch.kernel.listen("[::]:22", 10);
    watch.kernel.accept("10.0.0.1:22", "198.51.100.4:50000", 11);
    watch.kernel.accept("10.0.0.1:22", "198.51.100.4:22", 12);
    watch.kernel.accept("[2001:db8::1]:22", "[2001:db8::2]:22", 13);
    assert_eq!(watch.wait(2), [""; 0]);
    watch.kernel.rows.retain(|row| row.state != LISTEN);
    assert_eq!(watch.wait(2), [""; 0], "nor when sshd is restarted");
}

#[test]
fn a_connection_to_ourselves_is_told_once_from_the_clients_side() {
    for ports in ["22", "all"] {
        let mut kernel = Kernel::new();
        kernel.spawn(200, 100, "ssh", &["ssh", "localhost"]);
        kernel.listen("0.0.0.0:22", 9);
        let mut watch = Watch::over(kernel, ports, Filter::default());
        watch.tick();
        watch.kernel.connect(200, "127.0.0.1:50001", "127.0.0.1:22", 1);
        watch.kernel.establish(1);
        watch.kernel.accept("127.0.0.1:22", "127.0.0.1:50001", 2);
        let told = watch.tick();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("open   alice  127.0.0.1:50001 → 127.0.0.1:22"));
    }
}

#[test]
fn a_mapped_address_is_ipv4() {
    let mut watch = Watch::new();
    watch.kernel.connect(200, "[::ffff:10.0.0.1]:50001", "[::ffff:203.0.113.7]:22", 1);
    watch.kernel.establish(1);
    assert!(watch.tick()[0].contains(&format!("{LOCAL} → {REMOTE}")));
}

#[test]
fn of_several_holders_the_one_that_started_first_is_the_owner() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.kernel.spawn(201, 200, "ssh", &["ssh", "child"]);
    fs::create_dir_all(watch.kernel.path("200/task/200")).unwrap();
    fs::write(watch.kernel.path("200/task/200/children"), "201 ").unwrap();
    let fd = fs::read_dir(watch.kernel.path("200/fd")).unwrap().next().unwrap().unwrap().file_name();
    std::os::unix::fs::symlink("socket:[1]", watch.kernel.path("201/fd").join(fd)).unwrap();
    watch.kernel.write();
    let told = watch.pipeline.tick(&watch.proc, moment(100)).unwrap();
    let Attribution::Owned { holders, .. } = &told[0].what.connection().unwrap().attribution else {
        panic!()
    };
    assert_eq!(holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [200, 201]);
}

#[test]
fn a_master_that_hands_its_socket_to_its_child_stays_one_connection() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    assert!(watch.tick()[0].contains("ssh[200] ← bash[100]"));
    watch.kernel.spawn(201, 1, "ssh", &["ssh: /run/cm [mux]"]);
    watch.kernel.hold(201, 1);
    watch.kernel.exit(200);
    let told = watch.wait(3);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("  owner changed  ssh[201] ← systemd[1]") && told[0].ends_with(ID_1),
        "{told:?}"
    );
}

#[test]
fn an_owner_that_is_gone_is_unknown_with_its_reason_and_found_when_it_appears() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.kernel.let_go(1);
    let told = watch.tick();
    assert!(
        told[0].starts_with("open   alice  ") && told[0].contains("  owner unknown (no_holder)  "),
        "{told:?}"
    );
    watch.kernel.hold(100, 1);
    let told = watch.wait(4);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("  owner found  bash[100] ← systemd[1]"), "{told:?}");
}

#[test]
fn filters_by_user_and_executable_hide_a_connection_with_its_end() {
    let hidden = |filter: &str, is_exclude: bool| {
        let mut kernel = Kernel::new();
        kernel.spawn(200, 100, "git", &["git", "fetch"]);
        let list = vec![filter.parse().unwrap()];
        let (include, exclude) = if is_exclude { (vec![], list) } else { (list, vec![]) };
        let mut watch = Watch::over(kernel, "22", Filter { include, exclude, ..Filter::default() });
        watch.tick();
        watch.connect(200, 1);
        watch.kernel.establish(1);
        let mut told = watch.tick();
        watch.kernel.close(1);
        told.extend(watch.wait(3));
        told.len()
    };
    assert_eq!(hidden("exe:/usr/bin/git", true), 0);
    assert_eq!(hidden("exe:/usr/bin/ssh", true), 2);
    assert_eq!(hidden("exe:git", false), 2);
    assert_eq!(hidden("exe:ssh", false), 0);
    assert_eq!(hidden("user:alice", true), 0);
    assert_eq!(hidden("user:1000", true), 0);
    assert_eq!(hidden("user:bob", true), 2);
    assert_eq!(hidden("203.0.113.0/24", true), 0);
}

#[test]
fn names_that_would_forge_a_line_are_escaped() {
    let mut watch = Watch::new();
    watch.kernel.spawn_bytes(
        201,
        100,
        b"x) S 1 (y\n",
        &[b"a\x1b]0;t\x07", b"\xff\xfe", "← z[1]".as_bytes(), b"it's"],
    );
    watch.connect(201, 1);
    watch.kernel.establish(1);
    let told = watch.tick();
    let shown = r"'x) S 1 (y\u{a}'[201] ← bash[100] ← systemd[1]  'a\u{1b}]0;t\u{7}' '\xff\xfe' '\u{2190} z[1]' 'it'\''s'";
    assert!(told[0].contains(shown), "{told:?}");
}

#[test]
fn a_read_that_fails_concludes_nothing_and_is_made_again() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.tick();
    let tcp = watch.kernel.path("self/net/tcp");
    watch.connect(200, 2);
    watch.kernel.establish(2);
    watch.kernel.write();
    let hidden = watch.kernel.path("self/net/hidden");
    fs::rename(&tcp, &hidden).unwrap();
    for tick in 0..100 {
        let error = watch.pipeline.tick(&watch.proc, moment(10_000 + tick * 50)).unwrap_err();
        assert!(error.to_string().ends_with("self/net/tcp"), "{error}");
    }
    fs::rename(&hidden, &tcp).unwrap();
    watch.millis = 20_000;
    let told = watch.tick();
    assert_eq!(told.len(), 1, "the second is opened, the first was never closed: {told:?}");
    assert!(told[0].ends_with(ID_2));
}

#[test]
fn a_row_that_is_no_row_is_counted_and_ends_nothing() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.tick();
    watch.kernel.let_go(1);
    for tick in 0..60 {
        watch.kernel.write();
        let header = fs::read_to_string(watch.kernel.path("self/net/tcp6")).unwrap();
        fs::write(watch.kernel.path("self/net/tcp"), header + "   0: garbage\n").unwrap();
        assert!(watch.pipeline.tick(&watch.proc, moment(5_000 + tick * 50)).unwrap().is_empty());
    }
    assert!(watch.pipeline.totals().unparsed_rows > 0);
}

#[test]
fn a_new_selection_ends_what_it_leaves_out_and_opens_what_it_adds_as_standing() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    watch.kernel.connect(200, "10.0.0.1:50002", "203.0.113.7:2222", 2);
    watch.kernel.establish(2);
    assert_eq!(watch.tick().len(), 1);
    let select = Selection::new("2222".parse().unwrap(), Filter::default());
    let out = told(&watch.pipeline.select(select, Masker::new(&[]), moment(watch.millis)));
    assert!(out.len() == 1 && out[0].contains("  out of scope after "), "{out:?}");
    let told = watch.tick();
    assert!(told.len() == 1 && told[0].contains(":2222  stood before the watch"), "{told:?}");
}

#[test]
fn secrets_never_reach_a_record() {
    let mut watch = Watch::new();
    watch.kernel.spawn(201, 100, "sshpass", &["sudo", "sshpass", "-p", "hunter2", "ssh", "-p", "22", "h"]);
    watch.kernel.spawn(202, 201, "ssh", &["ssh", "https://u:hunter2@h/"]);
    watch.connect(202, 1);
    watch.kernel.establish(1);
    let told = watch.tick();
    assert!(!told[0].contains("hunter2") && told[0].contains("****"), "{told:?}");
}

#[test]
fn ends_in_other_states_than_time_wait_are_ends_too() {
    for state in [FIN_WAIT2, CLOSE_WAIT] {
        let mut watch = Watch::new();
        watch.connect(200, 1);
        watch.kernel.establish(1);
        watch.tick();
        if state == CLOSE_WAIT {
            watch.kernel.peer_fin(1);
            assert_eq!(watch.tick(), [""; 0], "half closed is not over");
            watch.kernel.close(1);
        } else {
            watch.kernel.close(1);
            watch.kernel.rows[0].state = FIN_WAIT2;
        }
        assert_eq!(watch.tick().len(), 1, "{state}");
    }
}

#[test]
fn the_ports_of_ssh_servers_are_learned_and_their_sessions_are_in_the_snapshot() {
    let mut watch = Watch::new();
    watch.kernel.spawn(300, 1, "sshd", &["sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"]);
    watch.kernel.spawn(301, 1, "nginx", &["nginx"]);
    for (port, pid, inode) in [(2222, 300, 30), (8080, 301, 31)] {
        watch.kernel.listen(&format!("0.0.0.0:{port}"), inode);
        watch.kernel.hold(pid, inode);
    }
    watch.wait(2);
    let mut ports: Vec<_> = watch.pipeline.server_ports().iter().copied().collect();
    ports.sort_unstable();
    assert_eq!(ports, [22, 2222]);

    watch.kernel.accept("10.0.0.1:2222", "198.51.100.4:50000", 32);
    watch.kernel.accept("10.0.0.1:8080", "198.51.100.4:50001", 33);
    watch.kernel.write();
    let select = Selection::new("22".parse().unwrap(), Filter::default());
    let wanted = poll::Wanted {
        select: &select,
        server_ports: watch.pipeline.server_ports(),
        ephemeral: (32768, 60999),
        noticed: false,
    };
    let mut tables = poll::Tables::new(Netns(1), None);
    let snapshot = tables.read(&watch.proc, Net::Own, &wanted).unwrap().snapshot;
    let inodes: Vec<_> = snapshot.inbound.iter().filter_map(|s| s.inode).map(Inode::get).collect();
    assert_eq!((inodes, snapshot.listeners.len(), snapshot.outbound.len()), (vec![32], 2, 0));
}

#[test]
fn a_row_that_is_read_twice_is_one_connection_and_is_counted() {
    let mut watch = Watch::new();
    watch.connect(200, 1);
    watch.kernel.establish(1);
    let row = watch.kernel.rows[0].clone();
    watch.kernel.rows.push(row);
    assert_eq!(watch.tick().len(), 1);
    assert_eq!(watch.pipeline.totals().duplicate_rows, 1);
}
