//! SYNs that a rule of the firewall logs: for who may not open a packet socket, and beside who may.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::lab;
use crate::support::lab::{Lab, NOBODY};
use crate::support::log::with_action;
use crate::support::watch::{PORTREEVE, Watch};

/// What an administrator gives a service that is to have this source.
const NET_ADMIN: [&str; 3] =
    ["--inh-caps=+sys_ptrace,+net_admin", "--ambient-caps=+sys_ptrace,+net_admin", "--no-new-privs"];

/// Connects to a port, waits so many seconds, and is gone; prints its own port, 0 if it was refused.
const SHORT: &str = "use Socket; socket(S, PF_INET, SOCK_STREAM, 0); \
                     connect(S, sockaddr_in($ARGV[1], INADDR_LOOPBACK)) or exit; select(undef, undef, undef, $ARGV[0]); \
                     print +(sockaddr_in(getsockname(S)))[0]";

/// What the program prints.
fn rule(words: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_portreeve")).args(["rule", "nflog"]).args(words).output();
    output.unwrap().stdout
}

fn add_rule(lab: &Lab, ports: &str) {
    std::fs::write(lab.path("rule"), rule(&["--ports", ports])).unwrap();
    lab.run(&format!("nft -f {}", lab.path("rule").display()));
}

fn serve(lab: &Lab, address: &str) {
    let listener = lab.listen(address);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || stream.read(&mut [0]));
        }
    });
}

/// Port and pid of each of so many connections, one after the other.
fn connect(lab: &Lab, count: usize, seconds: &str) -> BTreeMap<u64, u64> {
    let one = |_| {
        let perl =
            lab.command("perl").args(["-e", SHORT, seconds, "22"]).stdout(Stdio::piped()).spawn().unwrap();
        let pid = u64::from(perl.id());
        let said = perl.wait_with_output().unwrap().stdout;
        (String::from_utf8(said).unwrap().parse().unwrap(), pid)
    };
    (0..count).map(one).collect()
}

/// How many opens have their owner; none may have another's.
fn owned(opens: &[Value], pids: &BTreeMap<u64, u64>) -> usize {
    let of = |open: &&Value| {
        let Some(pid) = open["process"]["pid"].as_u64() else { return false };
        assert_eq!(pids.get(&open["source"]["port"].as_u64().unwrap()), Some(&pid), "{open}");
        true
    };
    opens.iter().filter(of).count()
}

fn seen(opens: &[Value], how: &str) -> usize {
    opens.iter().filter(|open| open["portreeve"]["connection"]["seen"] == how).count()
}

fn events(records: &[Value]) -> Value {
    with_action(records, "watch-started")[0]["portreeve"]["watch"]["events"].clone()
}

#[test]
fn without_a_packet_socket_the_owner_of_five_milliseconds_is_read_by_the_logged_syn() {
    const COUNT: usize = 50;
    let lab = lab!("perl", "nft");
    serve(&lab, "127.0.0.1:22");
    add_rule(&lab, "22");
    let words = ["--interval", "1s", "--events", "destroy,syn,nflog:22"];
    let mut watch = Watch::start(&lab, lab.portreeve_as(NOBODY, &NET_ADMIN).args(words));
    let pids = connect(&lab, COUNT, "0.005");
    watch.wait_actions("connection-closed", COUNT);
    let records = watch.stop().records;
    assert_eq!(events(&records)["syn"], "off: needs CAP_NET_RAW");
    assert_eq!(events(&records)["nflog"], "on");
    let opens = with_action(&records, "connection-opened");
    let (by_rule, right) = (seen(&opens, "nflog"), owned(&opens, &pids));
    println!("{COUNT} made, {by_rule} seen by nflog, {right} with their owner");
    assert_eq!(opens.len(), COUNT);
    // The binary under test is not an optimised one, and the machine may be busy.
    assert!(by_rule + 3 >= COUNT && right * 4 >= COUNT, "{by_rule} {right}");
}

#[test]
fn together_with_syn_each_connection_is_one_story_however_short_it_is() {
    const COUNT: usize = 40;
    let lab = lab!("perl", "nft");
    serve(&lab, "127.0.0.1:22");
    add_rule(&lab, "22,23");
    for seconds in ["0", "0.0002", "0.001", "0.005", "0.02", "0.1"] {
        let mut watch =
            lab.watch(&["--interval", "200ms", "--ports", "22,23", "--events", "destroy,syn,nflog:22"]);
        let pids = connect(&lab, COUNT, seconds);
        let refused = lab.command("perl").args(["-e", SHORT, "0", "23"]).status().unwrap();
        assert!(refused.success());
        watch.wait_actions("connection-closed", COUNT + 1);
        // A SYN that nothing was heard of is told after half a second.
        std::thread::sleep(Duration::from_millis(800));
        let records = watch.stop().records;
        assert_eq!((&events(&records)["syn"], &events(&records)["nflog"]), (&"on".into(), &"on".into()));
        let (opens, closes) =
            (with_action(&records, "connection-opened"), with_action(&records, "connection-closed"));
        assert_eq!((opens.len(), closes.len()), (COUNT + 1, COUNT + 1), "{seconds}: {records:#?}");
        let of_rule = closes.iter().filter(|close| close["destination"]["port"] == 23);
        assert!(of_rule.clone().all(|close| close["event"]["outcome"] == "failure") && of_rule.count() == 1);
        let opens: Vec<_> = opens.into_iter().filter(|open| open["destination"]["port"] == 22).collect();
        println!(
            "{seconds} s: of {COUNT} {} seen by nflog, {} by syn, {} with their owner",
            seen(&opens, "nflog"),
            seen(&opens, "syn"),
            owned(&opens, &pids)
        );
        // A look may come between.
        assert!(seen(&opens, "nflog") + seen(&opens, "syn") + 3 >= COUNT);
    }
}

#[test]
fn without_a_rule_and_without_the_privilege_nothing_is_missed_that_is_told_otherwise() {
    let lab = lab!("perl");
    serve(&lab, "127.0.0.1:22");
    let words = ["--interval", "50ms", "--events", "destroy,nflog:22"];
    for (mut command, state) in
        [(lab.portreeve(), "on"), (lab.portreeve_as(NOBODY, &[]), "off: needs CAP_NET_ADMIN")]
    {
        let mut watch = Watch::start(&lab, command.args(words));
        connect(&lab, 5, "0.2");
        watch.wait_actions("connection-closed", 5);
        let records = watch.stop().records;
        assert_eq!(events(&records)["nflog"], state);
        assert_eq!(seen(&with_action(&records, "connection-opened"), "poll"), 5);
    }
}

#[test]
fn a_second_watch_says_that_the_group_is_taken_and_a_rule_that_nobody_hears_harms_nobody() {
    let lab = lab!("perl", "nft");
    serve(&lab, "127.0.0.1:22");
    add_rule(&lab, "22");
    connect(&lab, 1, "0");
    let words = ["--events", "destroy,nflog:22"];
    let first = lab.watch(&words);
    let mut second = lab.watch(&words);
    connect(&lab, 1, "0.2");
    second.wait_closed();
    assert_eq!(events(&second.stop().records)["nflog"], "off: another program listens to group 22");
    assert_eq!(events(&first.stop().records)["nflog"], "on");
}

#[test]
fn what_found_no_room_is_counted_and_connections_are_told_as_before() {
    let lab = lab!("perl", "nft");
    serve(&lab, "127.0.0.1:22");
    add_rule(&lab, "22");
    let mut watch = lab.watch(&["--interval", "100ms", "--events", "destroy,nflog:22"]);
    // Somebody has other packets logged to the same group.
    lab.run("nft add rule inet portreeve output udp dport 9 log group 22");
    watch.signal(Signal::STOP);
    let flood = "use Socket; socket(S, PF_INET, SOCK_DGRAM, 0); \
                 for (1..20000) { send(S, 'x', 0, sockaddr_in(9, inet_aton('127.0.0.2'))) }";
    assert!(lab.command("perl").args(["-e", flood]).status().unwrap().success());
    watch.signal(Signal::CONT);
    let gap = watch.wait_for("a gap", |records| {
        let gaps = with_action(records, "gap").into_iter();
        gaps.rev().find(|gap| gap["portreeve"]["gap"]["detail"].to_string().contains("nflog notices"))
    });
    assert_eq!(gap["portreeve"]["gap"]["cause"], "events_lost");
    connect(&lab, 3, "0.3");
    watch.wait_actions("connection-closed", 3);
    let records = watch.stop().records;
    let covered = with_action(&records, "coverage");
    let lost: u64 =
        covered.iter().map(|c| c["portreeve"]["coverage"]["lost"]["nflog"].as_u64().unwrap()).sum();
    println!("{lost} of 20000 found no room");
    assert!(lost > 9_000 && lost < 20_000, "{lost}");
}

#[test]
fn a_namespace_that_is_entered_is_heard_too() {
    let lab = lab!("perl", "nft", "unshare");
    let inner = "ip link set lo up; nft -f \"$0\"; exec perl -e \"$1\"";
    let server = "use Socket; socket(L, PF_INET, SOCK_STREAM, 0); bind(L, sockaddr_in(22, INADDR_LOOPBACK)); \
                  listen(L, 5); sleep 3; socket(S, PF_INET, SOCK_STREAM, 0); \
                  connect(S, sockaddr_in(22, INADDR_LOOPBACK)); select(undef, undef, undef, 0.05)";
    // This one enters the namespaces of the other tests as well: they have another group.
    std::fs::write(lab.path("rule"), rule(&["--group", "77"])).unwrap();
    let mut command = lab.command(PORTREEVE);
    command.args(["watch", "--config", "/dev/null", "--events", "destroy,nflog:77", "--interval", "100ms"]);
    let mut watch = Watch::start(&lab, &mut command);
    let mut other = lab.command("unshare");
    other.args(["--net", "sh", "-c", inner]).arg(lab.path("rule")).arg(server);
    let mut other = other.spawn().unwrap();
    let pid = u64::from(other.id());
    let open = watch.wait_for("its open", |records| {
        with_action(records, "connection-opened").into_iter().find(|open| open["process"]["pid"] == pid)
    });
    other.wait().unwrap();
    assert_eq!(open["portreeve"]["connection"]["seen"], "nflog", "{open}");
    watch.stop();
}
