use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use portreeve::netlink::{Logged, LoggedPackets, Taken};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::lab;
use crate::support::lab::Lab;

/// What `portreeve rule nflog` prints for these words.
fn rule(words: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_portreeve")).args(["rule", "nflog"]).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Adds it as it says itself.
fn add(lab: &Lab, words: &[&str]) {
    let file = lab.path("rule");
    std::fs::write(&file, rule(words)).unwrap();
    let with = if words.contains(&"--iptables") { "sh -e" } else { "nft -f" };
    lab.run(&format!("{with} {}", file.display()));
}

/// Takes it away as it says itself.
fn remove(lab: &Lab, words: &[&str]) {
    let rule = rule(words);
    let commands: Vec<_> = rule.lines().filter_map(|line| line.strip_prefix("#   ")).collect();
    let removal: Vec<_> = commands.iter().filter(|command| !command.starts_with("portreeve")).collect();
    assert!(removal.len() + 1 == commands.len() && !removal.is_empty(), "{commands:?}");
    removal.iter().for_each(|command| drop(lab.run(command)));
}

fn taken(packets: &mut LoggedPackets) -> (Vec<Logged>, Taken) {
    let mut syns = Vec::new();
    let taken = packets.receive(1000, |syn| syns.push(syn)).unwrap();
    assert!(taken.drained, "{taken:?}");
    (syns, taken)
}

/// A connection as soon as it stands: our end, and the other.
fn connect(listener: &TcpListener) -> [SocketAddr; 2] {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    [client.local_addr().unwrap(), client.peer_addr().unwrap()]
}

fn ends(syn: &Logged) -> [SocketAddr; 2] {
    [syn.tuple.local, syn.tuple.remote]
}

#[test]
fn each_syn_that_the_rule_names_is_told_once_with_its_user_and_no_other_packet() {
    let lab = lab!("nft");
    add(&lab, &["--group", "7", "--ports", "22,8000-8100"]);
    for host in ["127.0.0.1", "[::1]"] {
        lab.inside(|| {
            let at = |port: u16| TcpListener::bind(format!("{host}:{port}")).unwrap();
            let (selected, range, other) = (at(22), at(8050), at(23));
            let mut packets = LoggedPackets::bind(7).unwrap();
            let wanted = [connect(&selected), connect(&range)];
            connect(&other);
            let refused: SocketAddr = format!("{host}:8001").parse().unwrap();
            TcpStream::connect(refused).unwrap_err();
            let (syns, taken) = taken(&mut packets);
            assert_eq!(syns[..2].iter().map(ends).collect::<Vec<_>>(), wanted);
            assert_eq!((syns.len(), syns[2].tuple.remote), (3, refused), "the refused attempt too");
            assert!(syns.iter().all(|syn| syn.device == 1 && syn.uid == Some(0)), "{syns:?}");
            assert_eq!((taken.messages, taken.lost, taken.overflowed), (3, 0, false));
        });
    }
}

#[test]
fn what_another_rule_drops_or_translates_is_told_as_its_program_asked_for_it() {
    let lab = lab!("nft");
    add(&lab, &[]);
    lab.run(
        "nft -f - <<'E'
         table inet lab {
           chain out { type filter hook output priority filter; ip daddr 127.0.0.2 drop; }
           chain nat { type nat hook output priority -100; ip daddr 127.0.0.3 tcp dport 22 dnat ip to 127.0.0.1:2222; }
         }
E",
    );
    lab.inside(|| {
        let _behind = TcpListener::bind("127.0.0.1:2222").unwrap();
        let mut packets = LoggedPackets::bind(22).unwrap();
        let dropped = std::time::Duration::from_millis(20);
        TcpStream::connect_timeout(&"127.0.0.2:22".parse().unwrap(), dropped).unwrap_err();
        let translated = TcpStream::connect("127.0.0.3:22").unwrap();
        let (syns, _) = taken(&mut packets);
        assert_eq!(syns[0].tuple.remote.to_string(), "127.0.0.2:22");
        assert_eq!(ends(&syns[1]), [translated.local_addr().unwrap(), translated.peer_addr().unwrap()]);
        assert_eq!(syns.len(), 2);
    });
}

#[test]
fn packets_that_find_no_room_are_counted_one_by_one() {
    let lab = lab!("nft");
    add(&lab, &[]);
    lab.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:22").unwrap();
        let mut packets = LoggedPackets::with_buffer(22, 0).unwrap();
        for _ in 0..100 {
            connect(&listener);
        }
        let (held, first) = taken(&mut packets);
        assert!(held.len() < 50 && first.overflowed && first.lost == 0, "{} {first:?}", held.len());
        let last = connect(&listener);
        let (told, then) = taken(&mut packets);
        assert_eq!(told.iter().map(ends).collect::<Vec<_>>(), [last]);
        // One of them was told already by the overflow.
        assert_eq!((then.lost + 1 + held.len() as u64, then.overflowed), (100, false), "{then:?}");
    });
}

#[test]
fn a_group_has_one_listener_and_only_with_the_privilege() {
    let lab = lab!();
    lab.inside(|| {
        let _first = LoggedPackets::bind(22).unwrap();
        let taken = LoggedPackets::bind(22).unwrap_err();
        assert!(taken.is_taken() && !taken.is_denied(), "{taken:?}");
        drop(LoggedPackets::bind(23).unwrap());
        // Capabilities are a thread's own.
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();
        assert!(LoggedPackets::bind(24).unwrap_err().is_denied());
    });
}

#[test]
fn the_printed_rule_can_be_added_twice_and_leaves_nothing_when_it_is_removed() {
    let lab = lab!("nft");
    let ruleset = |what: &str| lab.run(&format!("nft list {what}"));
    lab.run("nft add table inet somebody; nft add chain inet somebody x");
    let before = ruleset("ruleset");
    for words in [&[][..], &["--ports", "all"], &["--ports", "1-99,22,100,65535", "--group", "65535"]] {
        add(&lab, words);
        let once = ruleset("ruleset");
        assert!(once.contains("table inet portreeve") && once.starts_with(&before), "{once}");
        add(&lab, words);
        assert_eq!(ruleset("ruleset"), once);
    }
    remove(&lab, &[]);
    assert_eq!(ruleset("ruleset"), before);
}

#[test]
fn so_does_that_of_iptables() {
    let lab = lab!("iptables", "ip6tables", "iptables-save", "ip6tables-save");
    let saved =
        || lab.run("iptables-save -t raw; ip6tables-save -t raw").replace(|c: char| c.is_ascii_digit(), "");
    let rules = |text: &str| text.lines().filter(|line| line.starts_with("-A")).count();
    let many: Vec<_> = (1..=20).map(|n| (n * 10).to_string()).collect();
    let many = many.join(",");
    for (ports, count) in [("22", 2), (many.as_str(), 3), ("all", 2)] {
        let words = ["--iptables", "--ports", ports];
        add(&lab, &words);
        let once = saved();
        assert_eq!(rules(&once), count * 2, "{once}");
        add(&lab, &words);
        assert_eq!(rules(&saved()), count * 2);
    }
    lab.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:22").unwrap();
        let mut packets = LoggedPackets::bind(22).unwrap();
        let wanted = connect(&listener);
        assert_eq!(taken(&mut packets).0.iter().map(ends).collect::<Vec<_>>(), [wanted]);
    });
    remove(&lab, &["--iptables"]);
    let after = saved();
    assert!(rules(&after) == 0 && !after.contains("PORTREEVE"), "{after}");
}
