//! From where: trees with the process shapes of SSH servers, as they were read from the real ones, and what they mean.

use std::fs;

use super::kernel::{ESTABLISHED, Kernel, Row, moment, pipeline};
use portreeve::connection::{Connection, Direction};
use portreeve::event::{Event, What};
use portreeve::pipeline::Pipeline;
use portreeve::proc::Proc;
use portreeve::secrets::Masker;
use portreeve::source::{Filter, Selection};

const REMOTE: &str = "203.0.113.7:22";
const CLIENT: &str = "198.51.100.7:50122";

/// A kernel with an SSH server that listens, and a watch over it.
struct Watch {
    kernel: Kernel,
    proc: Proc,
    pipeline: Pipeline,
    millis: u64,
    inode: u64,
}

impl Watch {
    /// The server is one that listens under this name and these arguments, with pid 10 and socket 9.
    fn new(name: &str, args: &[&str]) -> Self {
        Self::select(name, args, |_| {})
    }

    fn select(name: &str, args: &[&str], change: impl Fn(&mut Selection)) -> Self {
        let mut kernel = Kernel::new();
        kernel.spawn(10, 1, name, args);
        kernel.listen("0.0.0.0:22", 9);
        kernel.hold(10, 9);
        kernel.write();
        let proc = kernel.proc();
        let mut pipeline = pipeline(&kernel, "22", Filter::default());
        let mut select = Selection::new("22".parse().unwrap(), Filter::default());
        change(&mut select);
        pipeline.select(select, Masker::new(&[]), moment(0));
        let mut watch = Self { kernel, proc, pipeline, millis: 0, inode: 100 };
        for pid in [1, 10] {
            watch.make_root(pid);
            watch.mark(pid, u32::MAX, "/system.slice/ssh.service");
        }
        watch.tick();
        watch
    }

    fn openssh() -> Self {
        Self::new("sshd", &["sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"])
    }

    fn make_root(&self, pid: u32) {
        let status = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n";
        fs::write(self.kernel.path(&format!("{pid}/status")), status).unwrap();
    }

    /// Audit session and cgroup of a process.
    fn mark(&self, pid: u32, audit: u32, cgroup: &str) {
        let write = |name: &str, text: String| {
            fs::write(self.kernel.path(&format!("{pid}/{name}")), text).unwrap();
        };
        write("sessionid", audit.to_string());
        write("loginuid", if audit == u32::MAX { audit.to_string() } else { "1000".to_owned() });
        write("cgroup", format!("0::{cgroup}\n"));
    }

    /// A process of a login, with its audit session and scope.
    fn spawn(&mut self, pid: u32, ppid: u32, name: &str, args: &[&str]) {
        self.kernel.spawn(pid, ppid, name, args);
        self.mark(pid, 3, "/user.slice/user-1000.slice/session-3.scope");
    }

    /// A child that somebody's `children` lists.
    fn adopt(&self, parent: u32, children: &str) {
        let path = self.kernel.path(&format!("{parent}/task/{parent}"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("children"), children).unwrap();
    }

    fn tick(&mut self) -> Vec<Event> {
        self.kernel.write();
        self.millis += 50;
        self.pipeline.tick(&self.proc, moment(self.millis)).unwrap()
    }

    /// Lets a process connect; the connection as it is opened.
    fn connect(&mut self, pid: u32, remote: &str) -> Option<Connection> {
        self.inode += 1;
        let inode = self.inode;
        self.kernel.connect(pid, &format!("192.0.2.10:{}", 40_000 + inode), remote, inode);
        self.kernel.establish(inode);
        let told = self.tick();
        let opened = told.into_iter().find_map(|event| match event.what {
            What::Opened(one) if one.direction == Direction::Egress => Some(one),
            _ => None,
        });
        opened.map(|one| Connection::clone(&one))
    }

    /// Kind, evidence, address, user and terminal of where a process's connection comes from.
    fn origin(&mut self, pid: u32) -> String {
        origin(&self.connect(pid, REMOTE).expect("an open"))
    }

    /// The login of alice in the shape of OpenSSH 9.2: monitor, session, shell, and the client with pid 40.
    fn log_in(&mut self) {
        self.kernel.accept("192.0.2.10:22", CLIENT, 50);
        self.spawn(20, 10, "sshd", &["sshd: alice [priv]"]);
        self.make_root(20);
        self.spawn(21, 20, "sshd", &["sshd: alice@pts/0"]);
        self.kernel.hold(21, 50);
        self.spawn(30, 21, "bash", &["-bash"]);
        self.spawn(40, 30, "ssh", &["ssh", "web1"]);
    }
}

fn origin(connection: &Connection) -> String {
    let origin = &connection.way.as_ref().expect("a way").origin;
    let text = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map_or("-".to_owned(), |bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let evidence = origin.evidence.map_or("-", |evidence| evidence.name());
    let from = origin.inbound.map_or("-".to_owned(), |tuple| tuple.remote.to_string());
    let session = origin.session.as_deref().unwrap_or("-");
    format!("{} {evidence} {from} {} {} {session}", origin.kind.name(), text(&origin.user), text(&origin.tty))
}

fn route(connection: &Connection) -> &'static str {
    connection.way.as_ref().and_then(|way| way.route).map_or("-", |route| route.name())
}

const PROVED: &str = "ssh socket 198.51.100.7:50122 alice pts/0 3";

#[test]
fn the_socket_of_the_nearest_server_above_proves_the_login() {
    let mut watch = Watch::openssh();
    watch.log_in();
    assert_eq!(watch.origin(40), PROVED);
    watch.spawn(41, 30, "sudo", &["sudo", "-i"]);
    watch.make_root(41);
    watch.spawn(42, 41, "bash", &["-bash"]);
    watch.spawn(43, 42, "ssh", &["ssh", "web2"]);
    assert_eq!(watch.origin(43), PROVED, "whoever it became");
}

#[test]
fn openssh_of_three_programs_is_a_server_all_the_same() {
    let mut watch = Watch::new("sshd", &["sshd: /usr/sbin/sshd -D [listener] 1 of 10-100 startups"]);
    watch.kernel.accept("192.0.2.10:22", CLIENT, 50);
    watch.spawn(20, 10, "sshd-session", &["sshd-session: alice [priv]"]);
    watch.make_root(20);
    watch.spawn(21, 20, "sshd-session", &["sshd-session: alice@pts/0"]);
    watch.kernel.hold(21, 50);
    watch.spawn(30, 21, "bash", &["-bash"]);
    watch.spawn(40, 30, "ssh", &["ssh", "web1"]);
    assert_eq!(watch.origin(40), PROVED);
    let forwarded = watch.connect(21, "203.0.113.8:22").unwrap();
    assert_eq!((route(&forwarded), origin(&forwarded).as_str()), ("forwarded", PROVED));
}

#[test]
fn a_server_that_tells_nothing_of_the_login_is_asked_for_its_socket_and_its_user() {
    let mut watch = Watch::new("dropbear", &["dropbear", "-F", "-p", "22"]);
    watch.kernel.accept("192.0.2.10:22", CLIENT, 50);
    watch.spawn(20, 10, "dropbear", &["dropbear", "-F", "-p", "22"]);
    watch.make_root(20);
    watch.kernel.hold(20, 50);
    watch.spawn(30, 20, "bash", &["-bash"]);
    watch.spawn(40, 30, "dbclient", &["dbclient", "web1"]);
    assert_eq!(watch.origin(40), "ssh socket 198.51.100.7:50122 alice - 3");
}

#[test]
fn a_server_on_a_port_that_nobody_told_of_is_found_too() {
    let mut watch = Watch::openssh();
    watch.kernel.listen("0.0.0.0:2200", 8);
    watch.kernel.accept("192.0.2.10:2200", CLIENT, 50);
    watch.spawn(21, 1, "sshd", &["sshd: alice@pts/0"]);
    watch.kernel.hold(21, 50);
    watch.spawn(40, 21, "ssh", &["ssh", "web1"]);
    assert_eq!(watch.origin(40), PROVED);
}

#[test]
fn what_is_cut_off_its_login_is_found_by_its_marks_strongest_first() {
    let mut watch = Watch::openssh();
    watch.log_in();
    watch.adopt(10, "20");
    watch.adopt(20, "21");
    watch.adopt(21, "30");
    // tmux: its server belongs to nobody, but to the audit session and the scope. The login made no connection so far.
    watch.spawn(60, 1, "tmux: server", &["tmux"]);
    watch.spawn(61, 60, "ssh", &["ssh", "web1"]);
    assert_eq!(watch.origin(61), "ssh audit_session 198.51.100.7:50122 alice pts/0 3");
    watch.mark(61, u32::MAX, "/user.slice/user-1000.slice/session-3.scope");
    assert_eq!(watch.origin(61), "ssh cgroup_session 198.51.100.7:50122 alice pts/0 3");
    // Without PAM and systemd: `nohup` in the shell, whose session it stays in.
    assert_eq!(watch.origin(40), PROVED, "now the shell is known as its leader");
    watch.spawn(62, 1, "ssh", &["ssh", "web1"]);
    watch.mark(62, u32::MAX, "/system.slice/ssh.service");
    let stat = fs::read_to_string(watch.kernel.path("62/stat")).unwrap();
    fs::write(watch.kernel.path("62/stat"), stat.replace("S 1 62 62", "S 1 62 30")).unwrap();
    assert_eq!(watch.origin(62), "ssh remembered 198.51.100.7:50122 alice pts/0 -");
    // The login is over, and what it left goes on.
    for pid in [40, 30, 21, 20] {
        watch.kernel.exit(pid);
    }
    assert_eq!(watch.origin(62), "ssh remembered 198.51.100.7:50122 alice pts/0 -");
    watch.mark(61, 3, "/system.slice/ssh.service");
    assert_eq!(watch.origin(61), "ssh audit_session 198.51.100.7:50122 alice pts/0 -");
}

#[test]
fn two_logins_with_the_same_marks_are_none() {
    let mut watch = Watch::openssh();
    watch.log_in();
    assert_eq!(watch.origin(40), PROVED);
    watch.kernel.accept("192.0.2.10:22", "198.51.100.8:50123", 51);
    watch.spawn(25, 10, "sshd", &["sshd: alice@pts/1"]);
    watch.kernel.hold(25, 51);
    watch.spawn(45, 25, "ssh", &["ssh", "web1"]);
    assert_eq!(watch.origin(45), "ssh socket 198.51.100.8:50123 alice pts/1 3");
    watch.spawn(61, 1, "ssh", &["ssh", "web1"]);
    assert_eq!(watch.origin(61), "unknown - - - - 3");
}

#[test]
fn weak_evidence_is_told_as_weak() {
    let mut watch = Watch::openssh();
    // Its descriptors show no inbound socket: as to a watch without privileges.
    watch.spawn(21, 10, "sshd", &["sshd: alice@pts/0"]);
    watch.spawn(40, 21, "ssh", &["ssh", "web1"]);
    assert_eq!(watch.origin(40), "ssh title - alice pts/0 3");
    watch.spawn(60, 1, "ssh", &["ssh", "web1"]);
    watch.mark(60, 4, "/system.slice/ssh.service");
    fs::write(watch.kernel.path("60/environ"), "A=b\0SSH_CONNECTION=198.51.100.7 50122 192.0.2.10 22\0")
        .unwrap();
    assert_eq!(watch.origin(60), "ssh environment 198.51.100.7:50122 - - -");
    watch.mark(60, 4, "/system.slice/backup.service");
    assert_eq!(watch.origin(60), "service - - - - -", "a unit may have been started from a login");
}

#[test]
fn what_comes_from_no_login_is_told_as_what_it_is() {
    let mut watch = Watch::openssh();
    for (pid, name, root) in [(11, "cron", true), (12, "login", true), (13, "cron", false), (14, "sh", true)]
    {
        watch.kernel.spawn(pid, 1, name, &[name]);
        watch.mark(pid, 5, "/system.slice/ssh.service");
        if root {
            watch.make_root(pid);
        }
    }
    let id = "3f1c2d4e5a6b7c8d9e0f3f1c2d4e5a6b7c8d9e0f3f1c2d4e5a6b7c8d9e0f1a2b";
    for (parent, cgroup, wanted) in [
        (11, "/system.slice/cron.service".to_owned(), "cron"),
        (12, "/user.slice/user-1000.slice/session-9.scope".to_owned(), "local_tty"),
        (13, "/".to_owned(), "unknown"),
        (14, "/system.slice/backup.service".to_owned(), "service"),
        (14, format!("/system.slice/docker-{id}.scope"), "container"),
        (14, "/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service".to_owned(), "service"),
        (14, "/system.slice/ssh.service".to_owned(), "unknown"),
    ] {
        watch.kernel.spawn(70, parent, "ssh", &["ssh", "web1"]);
        watch.mark(70, 5, &cgroup);
        let told = watch.origin(70);
        assert_eq!(told.split(' ').next(), Some(wanted), "{cgroup}: {told}");
    }
}

#[test]
fn a_process_that_calls_itself_a_server_is_none() {
    let mut watch = Watch::openssh();
    watch.log_in();
    watch.kernel.accept("192.0.2.10:8080", "198.51.100.66:1", 51);
    watch.spawn(35, 30, "evil", &["sshd: root@pts/9"]);
    fs::write(
        watch.kernel.path("35/stat"),
        fs::read_to_string(watch.kernel.path("35/stat")).unwrap().replace("evil", "sshd"),
    )
    .unwrap();
    watch.kernel.hold(35, 51);
    watch.spawn(45, 35, "ssh", &["ssh", "web1"]);
    assert_eq!(watch.origin(45), PROVED, "by the file of its program it is none");
}

#[test]
fn a_client_in_the_background_keeps_where_it_came_from_and_what_was_asked_of_it() {
    let mut watch = Watch::openssh();
    watch.log_in();
    let opened = watch.connect(40, REMOTE).unwrap();
    assert_eq!(origin(&opened), PROVED);
    let inode = watch.inode;
    watch.spawn(80, 1, "ssh", &["ssh: /run/cm [mux]"]);
    watch.mark(80, u32::MAX, "/system.slice/ssh.service");
    watch.kernel.hold(80, inode);
    watch.kernel.exit(40);
    let changed = (0..60).flat_map(|_| watch.tick()).find_map(|event| match event.what {
        What::Changed { connection, changed } if changed == ["process"] => Some(connection),
        _ => None,
    });
    let changed = changed.expect("a new owner");
    assert_eq!((origin(&changed).as_str(), route(&changed)), (PROVED, "mux_master"));
    let meaning = changed.way.as_ref().unwrap().ssh.clone().unwrap();
    assert_eq!(
        (meaning.target.as_deref(), meaning.control_path.as_deref()),
        (Some(&b"web1"[..]), Some(&b"/run/cm"[..]))
    );
}

#[test]
fn inbound_sessions_are_told_with_their_user_and_end_and_what_comes_from_them_names_them() {
    let mut watch =
        Watch::select("sshd", &["sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"], |s| {
            s.inbound = true
        });
    watch.kernel.accept("192.0.2.10:22", CLIENT, 50);
    watch.spawn(20, 10, "sshd", &["sshd: [accepted]"]);
    watch.make_root(20);
    watch.kernel.hold(20, 50);
    let told = watch.tick();
    let [Event { what: What::Opened(session), .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (session.direction, origin(session).as_str()),
        (Direction::Ingress, "ssh socket 198.51.100.7:50122 - - 3")
    );
    let id = session.id;
    fs::write(watch.kernel.path("20/cmdline"), "sshd: alice [priv]\0").unwrap();
    let learned = (0..40).flat_map(|_| watch.tick()).find_map(|event| match event.what {
        What::Changed { connection, changed } if changed == ["process.args", "portreeve.origin"] => {
            Some(connection)
        }
        _ => None,
    });
    let learned = learned.expect("who it is");
    assert_eq!(origin(&learned), "ssh socket 198.51.100.7:50122 alice - 3");
    assert_eq!(learned.attribution.owner().unwrap().args, [b"sshd: alice [priv]"]);
    watch.spawn(30, 20, "bash", &["-bash"]);
    watch.spawn(40, 30, "ssh", &["ssh", "web1"]);
    let opened = watch.connect(40, REMOTE).unwrap();
    assert_eq!(opened.way.unwrap().origin.connection, Some(id));
    watch.kernel.close(50);
    let closed = (0..5).flat_map(|_| watch.tick()).find_map(|event| match event.what {
        What::Closed { connection, .. } if connection.direction == Direction::Ingress => Some(connection),
        _ => None,
    });
    let closed = closed.expect("its end");
    assert_eq!(
        (closed.id, &closed.attribution),
        (id, &learned.attribution),
        "with the title that it has now"
    );
}

#[test]
fn a_session_that_one_look_shows_with_what_comes_of_it_is_told_first_and_named() {
    let mut watch =
        Watch::select("sshd", &["sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"], |s| {
            s.inbound = true
        });
    watch.log_in();
    watch.kernel.connect(40, "192.0.2.10:40101", REMOTE, 101);
    watch.kernel.establish(101);
    let told = watch.tick();
    let opened: Vec<_> = told.iter().filter_map(|event| event.what.connection()).collect();
    let [session, connection] = &opened[..] else { panic!("{told:?}") };
    assert_eq!((session.direction, connection.direction), (Direction::Ingress, Direction::Egress));
    assert_eq!(connection.way.as_ref().unwrap().origin.connection, Some(session.id));
    assert!(session.id < connection.id, "ids rise in the order in which they are told");
}

#[test]
fn sessions_of_another_service_are_not_told_and_none_without_being_asked_for() {
    let mut watch =
        Watch::select("sshd", &["sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"], |s| {
            s.inbound = true
        });
    watch.kernel.listen("0.0.0.0:80", 7);
    watch.kernel.accept("192.0.2.10:80", CLIENT, 50);
    assert!(watch.tick().is_empty());
    let mut watch = Watch::openssh();
    watch.kernel.accept("192.0.2.10:22", CLIENT, 50);
    assert!(watch.tick().is_empty());
}

#[test]
fn what_comes_in_at_a_forward_of_a_login_is_no_login() {
    // OpenSSH's session says what it is for; Dropbear's is a child of what waits for logins.
    for (server, session) in [
        ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", "sshd: alice@notty"),
        ("/usr/sbin/sshd", "sshd: alice"),
        ("/usr/sbin/dropbear", "/usr/sbin/dropbear"),
    ] {
        let name = if server.contains("dropbear") { "dropbear" } else { "sshd" };
        let mut watch = Watch::select(name, &[server], |s| s.inbound = true);
        watch.kernel.accept("192.0.2.10:22", CLIENT, 50);
        watch.spawn(20, 10, name, &[session]);
        watch.kernel.hold(20, 50);
        watch.kernel.listen("0.0.0.0:8082", 51);
        watch.kernel.hold(20, 51);
        // And another server waits at a port of its own.
        watch.kernel.spawn(11, 1, name, &[server]);
        watch.kernel.listen("0.0.0.0:2222", 52);
        watch.kernel.hold(11, 52);
        let told: Vec<_> = (0..10).flat_map(|_| watch.tick()).collect();
        assert!(told.iter().any(|event| matches!(event.what, What::Opened(_))), "{server}: {told:?}");
        watch.kernel.accept("192.0.2.10:8082", "198.51.100.8:40000", 60);
        watch.kernel.hold(20, 60);
        watch.kernel.accept("192.0.2.10:2222", "198.51.100.9:40000", 61);
        let opened: Vec<_> = (0..40)
            .flat_map(|_| watch.tick())
            .filter_map(|event| match event.what {
                What::Opened(one) => Some(one.tuple.local.port()),
                _ => None,
            })
            .collect();
        assert_eq!(opened, [2222], "{server}");
    }
}

#[test]
fn ssh_to_any_port_is_told_and_nothing_else_to_it() {
    let mut watch = Watch::select("sshd", &["sshd"], |select| select.ssh_anywhere = true);
    watch.kernel.spawn(40, 100, "ssh", &["ssh", "-p", "2222", "web1"]);
    watch.kernel.spawn(41, 100, "curl", &["curl", "https://web1"]);
    watch.kernel.spawn(42, 100, "nc", &["nc", "web1", "22"]);
    assert!(watch.connect(40, "203.0.113.7:2222").is_some());
    assert!(watch.connect(41, "203.0.113.7:443").is_none());
    let other = watch.connect(42, REMOTE).expect("the chosen port");
    assert_eq!((route(&other), other.way.unwrap().is_ssh), ("other", false));
    // An end of which nothing else was seen: of a chosen port alone.
    watch.kernel.counters[0] += 2;
    for (port, inode) in [("203.0.113.7:443", 0), (REMOTE, 0)] {
        let row = Row {
            local: "192.0.2.10:45000".parse().unwrap(),
            remote: port.parse().unwrap(),
            state: super::kernel::TIME_WAIT,
            uid: 0,
            inode,
            timewait: Some(6_000),
        };
        watch.kernel.rows.push(row);
    }
    let told: Vec<_> =
        watch.tick().iter().filter_map(|e| e.what.connection().map(|c| c.tuple.remote)).collect();
    assert_eq!(told, [REMOTE.parse().unwrap(); 2], "its open and its close");
}

#[test]
fn forwards_that_stand_are_told_and_one_for_everybody_is_marked() {
    let mut watch = Watch::openssh();
    watch.log_in();
    let opened = watch.connect(40, REMOTE).unwrap();
    assert!(opened.way.unwrap().listening.is_empty());
    watch.kernel.listen("127.0.0.1:8080", 70);
    watch.kernel.listen("0.0.0.0:1080", 71);
    watch.kernel.hold(40, 70);
    watch.kernel.hold(40, 71);
    let changed = (0..40).flat_map(|_| watch.tick()).find_map(|event| match event.what {
        What::Changed { connection, changed } if changed == ["portreeve.listening"] => Some(connection),
        _ => None,
    });
    let listening = changed.expect("forwards").way.clone().unwrap().listening.clone();
    assert_eq!(listening, ["0.0.0.0:1080".parse().unwrap(), "127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(ESTABLISHED, 1);
}
