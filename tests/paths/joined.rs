//! What is joined to one way, what is not, and what may be but is not proved.

use super::*;
use crate::builder::community;

const LAPTOP: &str = "192.0.2.10:50122";
const BASTION: &str = "198.51.100.1:22";

/// A hop from the bastion by whoever came in from the laptop.
fn onwards(bastion: &mut Log, at: f64, port: u16) -> String {
    let from = format!("10.0.0.1:{port}");
    bastion.connect(at, &from, "10.0.0.5:22", &[ssh("alice", 140, "web1"), login("alice", LAPTOP, BASTION)])
}

#[test]
fn a_way_over_four_hosts_is_one_way_in_whatever_order_the_logs_come() {
    let [laptop, bastion, web1, db1] = chain();
    for logs in
        [[&laptop, &bastion, &web1, &db1], [&db1, &web1, &laptop, &bastion], [&web1, &db1, &bastion, &laptop]]
    {
        let ways = ways(&logs);
        assert_eq!(routes(&ways), ["local_tty>laptop>bastion>web1>db1", "local_tty>laptop>bastion>web2"]);
        let first = &ways[0]["hops"][0];
        assert_eq!(first["arrived"]["proof"], "inbound_records");
        assert_eq!(first["hops"][0]["arrived"]["proof"], "origin");
        assert_eq!(first["hops"][0]["hops"][0]["arrived"]["host"], "db1");
    }
}

#[test]
fn what_is_given_twice_is_shown_once() {
    let [laptop, bastion, web1, db1] = chain();
    let folder = TempDir::new().unwrap();
    let mut files: Vec<_> = [&laptop, &bastion, &web1, &db1].map(|log| log.write(folder.path())).into();
    let once = print_files(files.clone(), Format::Json, Filter::default(), style()).0;
    for file in files.clone() {
        let copy = file.with_extension("copy");
        std::fs::copy(&file, &copy).unwrap();
        files.push(copy);
    }
    assert_eq!(print_files(files, Format::Json, Filter::default(), style()).0, once);
}

#[test]
fn without_the_laptops_log_a_way_begins_at_its_address() {
    let [_, bastion, web1, _] = chain();
    let ways = ways(&[&bastion, &web1]);
    assert_eq!(routes(&ways), ["192.0.2.10>bastion>web1>elsewhere", "192.0.2.10>bastion>web2"]);
    let entry = &ways[0]["entry"];
    assert_eq!((entry["port"].as_u64(), entry["user"].as_str()), (Some(50_122), Some("alice")));
}

#[test]
fn hops_of_one_login_are_one_way_without_inbound_records() {
    let mut bastion = Log::new("bastion");
    onwards(&mut bastion, 5.0, 40_001);
    onwards(&mut bastion, 9.0, 40_002);
    let ways = ways(&[&bastion]);
    assert_eq!(ways.len(), 1);
    assert_eq!(ways[0]["hops"].as_array().unwrap().len(), 2);
}

#[test]
fn ports_that_are_used_again_are_another_login() {
    let mut laptop = Log::new("laptop");
    let mut bastion = Log::new("bastion");
    for (at, pid) in [(0.0, 36), (5_000.0, 99)] {
        let id = from_laptop(&mut laptop, at, (LAPTOP, BASTION), &[]);
        let server = json!({ "portreeve": { "origin": { "sshd_pid": pid } } });
        let from = format!("10.0.0.1:{}", 40_000 + pid);
        bastion.connect(at + 9.0, &from, "10.0.0.5:22", &[login("alice", LAPTOP, BASTION), server]);
        laptop.close(at + 60.0, &id, (1, 1));
    }
    let ways = ways(&[&laptop, &bastion]);
    let hops: Vec<_> = ways.iter().flat_map(|way| way["hops"].as_array().unwrap()).collect();
    assert_eq!(hops.len(), 2);
    for (hop, port) in hops.iter().zip([40_036, 40_099]) {
        assert_eq!(hop["hops"][0]["source"]["port"], port);
        assert_eq!(hop["hops"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn the_same_ports_at_another_time_prove_nothing() {
    let mut laptop = Log::new("laptop");
    let mut bastion = Log::new("bastion");
    let id = laptop.connect(0.0, LAPTOP, BASTION, &[ssh("alice", 40, "bastion")]);
    laptop.close(10.0, &id, (1, 1));
    // An hour later, from a host whose log is not there.
    onwards(&mut bastion, 3_600.0, 40_001);
    assert_eq!(routes(&ways(&[&laptop, &bastion])), ["untold>laptop>bastion", "192.0.2.10>bastion>web1"]);
}

#[test]
fn clocks_may_differ_by_five_minutes_and_no_more() {
    for (behind, is_joined) in [(-299.0, true), (299.0, true), (-301.0, false), (301.0, false)] {
        let mut laptop = Log::new("laptop");
        let mut bastion = Log::new("bastion");
        let id = laptop.connect(1_000.0, LAPTOP, BASTION, &[ssh("alice", 40, "bastion")]);
        bastion.accept(1_000.0 + behind, LAPTOP, BASTION, &[]);
        laptop.close(1_000.1, &id, (1, 1));
        assert_eq!(ways(&[&laptop, &bastion]).len(), if is_joined { 1 } else { 2 }, "{behind}");
    }
}

#[test]
fn a_flow_whose_ends_are_told_otherwise_is_not_joined() {
    let mut laptop = Log::new("laptop");
    let mut bastion = Log::new("bastion");
    laptop.connect(0.0, LAPTOP, BASTION, &[ssh("alice", 40, "bastion")]);
    let mut lie = login("alice", "192.0.2.99:1", BASTION);
    lie["portreeve"]["origin"]["community_id"] = community(LAPTOP, BASTION).into();
    bastion.connect(5.0, "10.0.0.1:40001", "10.0.0.5:22", &[ssh("alice", 140, "web1"), lie]);
    assert_eq!(ways(&[&laptop, &bastion]).len(), 2);
}

#[test]
fn a_translated_address_is_told_as_possible_and_not_as_proved() {
    let mut laptop = Log::new("laptop");
    let mut bastion = Log::new("bastion");
    let out = from_laptop(&mut laptop, 1.0, (LAPTOP, BASTION), &[]);
    // The bastion sees the router.
    let translated = "203.0.113.1:61000";
    let arrival = bastion.accept(1.2, translated, BASTION, &[]);
    bastion.connect(
        9.0,
        "10.0.0.1:40001",
        "10.0.0.5:22",
        &[ssh("alice", 140, "web1"), login("alice", translated, BASTION)],
    );
    let ways = ways(&[&laptop, &bastion]);
    assert_eq!(routes(&ways), ["local_tty>laptop>bastion", "203.0.113.1>bastion>web1"]);
    assert_eq!(
        ways[0]["hops"][0]["may_continue"],
        json!([
            { "host": "bastion", "id": arrival, "remote": { "ip": "203.0.113.1", "port": 61_000 } },
        ])
    );
    assert!(ways[0]["hops"][0].get("arrived").is_none());
    assert_eq!(ways[1]["entry"]["may_come_from"], json!([out]));
}

#[test]
fn a_translated_destination_is_known_by_port_and_time_alone() {
    for (late, count) in [(4.0, 1), (6.0, 0)] {
        let mut laptop = Log::new("laptop");
        let mut bastion = Log::new("bastion");
        laptop.connect(1.0, LAPTOP, "203.0.113.5:22", &[ssh("alice", 40, "bastion")]);
        bastion.accept(1.0 + late, "203.0.113.1:61000", BASTION, &[]);
        let ways = ways(&[&laptop, &bastion]);
        let maybe = ways[0]["hops"][0]["may_continue"].as_array().map_or(0, Vec::len);
        assert_eq!(maybe, count, "{late}");
    }
}

#[test]
fn a_jump_is_one_way_through_the_host_that_forwards_it() {
    let mut laptop = Log::new("laptop");
    let mut bastion = Log::new("bastion");
    let mut web1 = Log::new("web1");
    let jump = json!({ "portreeve": { "route": "jump", "ssh": { "target": "web1", "jump": ["bastion"] } } });
    from_laptop(&mut laptop, 1.0, (LAPTOP, BASTION), &[jump]);
    let server = by("alice", &[("sshd", 36), ("sshd", 34), ("sshd", 20)], "sshd: alice");
    let forwarded = json!({ "portreeve": { "route": "forwarded" } });
    bastion.connect(
        1.4,
        "10.0.0.1:40001",
        "10.0.0.5:22",
        &[server, login("alice", LAPTOP, BASTION), forwarded],
    );
    web1.accept(1.41, "10.0.0.1:40001", "10.0.0.5:22", &[]);
    let ways = ways(&[&laptop, &bastion, &web1]);
    assert_eq!(routes(&ways), ["local_tty>laptop>bastion>web1"]);
    let hop = &ways[0]["hops"][0];
    assert_eq!(
        (&hop["route"], &hop["target"], &hop["jump"]),
        (&json!("jump"), &json!("web1"), &json!(["bastion"]))
    );
    assert_eq!(hop["hops"][0]["route"], "forwarded");
}

#[test]
fn sessions_ride_on_their_connection_whoever_made_it() {
    let mut bastion = Log::new("bastion");
    let id = onwards(&mut bastion, 5.0, 40_001);
    bastion.ride(7.0, &id, &[ssh("alice", 160, "web1"), login("alice", LAPTOP, BASTION)]);
    bastion.ride(8.0, &id, &[ssh("bob", 170, "web1"), login("bob", "192.0.2.20:50999", BASTION)]);
    let ways = ways(&[&bastion]);
    let sessions = &ways[0]["hops"][0]["sessions"];
    assert_eq!(sessions.as_array().unwrap().len(), 2);
    assert_eq!((&sessions[0]["user"], sessions[0].get("other_login")), (&json!("alice"), None));
    assert_eq!((&sessions[1]["user"], &sessions[1]["other_login"]), (&json!("bob"), &json!(true)));
    // The other login has a way of its own, on which it made no connection.
    assert_eq!(ways[1]["entry"]["ip"], "192.0.2.20");
    assert_eq!(ways[1]["entry"]["sessions_over"], json!([id]));
}

#[test]
fn hops_that_go_round_end() {
    // a → b → a: each hop's origin is the other one.
    let (one, two) = (("10.0.0.1:1001", "10.0.0.2:22"), ("10.0.0.2:1002", "10.0.0.1:22"));
    let mut a = Log::new("a");
    let mut b = Log::new("b");
    a.connect(1.0, one.0, one.1, &[ssh("alice", 40, "b"), login("alice", two.0, two.1)]);
    b.connect(2.0, two.0, two.1, &[ssh("alice", 40, "a"), login("alice", one.0, one.1)]);
    let ways = ways(&[&a, &b]);
    assert_eq!(routes(&ways), ["10.0.0.2>a>b>a"]);
    assert_eq!(ways[0]["entry"]["circle"], true);
    // And one that is its own.
    let mut c = Log::new("c");
    c.connect(1.0, one.0, one.1, &[login("alice", one.0, one.1)]);
    let tree = text(&[&c]);
    assert!(tree.contains("circle") && !tree.contains("not in these logs"), "{tree}");
}

#[test]
fn a_way_back_to_where_it_began_is_no_circle() {
    let (one, two) = (("10.0.0.1:1001", "10.0.0.2:22"), ("10.0.0.2:1002", "10.0.0.1:22"));
    let mut a = Log::new("a");
    let mut b = Log::new("b");
    a.connect(1.0, one.0, one.1, &[ssh("alice", 40, "b"), local("local_tty", "alice", "tty1")]);
    b.connect(2.0, two.0, two.1, &[ssh("alice", 40, "a"), login("alice", one.0, one.1)]);
    a.connect(3.0, "10.0.0.1:1003", "10.0.0.9:22", &[ssh("alice", 50, "c"), login("alice", two.0, two.1)]);
    assert_eq!(routes(&ways(&[&a, &b])), ["local_tty>a>b>a>c"]);
}

#[test]
fn a_way_may_be_deeper_than_any_stack() {
    // One host that connects to itself again and again.
    let count: u32 = 10_000;
    let mut host = Log::new("loop");
    let end = |n: u32| format!("127.{}.{}.{}:4000", n >> 16, n >> 8 & 255, n & 255);
    for n in 1..count {
        let (from, to) = (end(n), "127.0.0.1:22");
        let origin =
            if n == 1 { local("local_tty", "alice", "tty1") } else { login("alice", &end(n - 1), to) };
        host.connect(f64::from(n), &from, to, &[origin]);
    }
    for format in [Format::Text, Format::Json, Format::Dot, Format::Mermaid] {
        let (out, _) = print(&[&host], format, Filter::default());
        assert!(out.len() > 10_000 * 40, "{format:?}: {}", out.len());
    }
    assert!(text(&[&host]).contains("(hop 9999)"));
}

#[test]
fn two_hosts_of_one_name_are_two_and_a_new_stream_is_no_new_host() {
    let mut one = Log::new("web");
    let mut other = Log::new("web");
    onwards(&mut one, 1.0, 40_001);
    onwards(&mut other, 2.0, 40_002);
    let rename = |log: &mut Log, path: &str, value: &str| {
        for line in &mut log.lines {
            *line.pointer_mut(path).unwrap() = value.into();
            line["portreeve"]["connection"]["id"] =
                format!("01a1fa90-ffff-7008-b72a-{:012x}", value.len()).into();
        }
    };
    rename(&mut other, "/agent/id", "another stream");
    assert_eq!(ways(&[&one, &other]).len(), 1, "one boot: one host");
    let mut third = Log::new("web");
    onwards(&mut third, 2.0, 40_003);
    rename(&mut third, "/host/boot/id", "another boot!");
    rename(&mut third, "/agent/id", "the other host's stream");
    // They are no files of one name: the builder names them by their streams.
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("third");
    std::fs::write(&path, third.text()).unwrap();
    let files = vec![one.write(folder.path()), path];
    assert_eq!(print_files(files, Format::Json, Filter::default(), style()).0.lines().count(), 2);
}

#[test]
fn records_of_older_versions_and_logs_that_begin_in_the_middle_are_ways_too() {
    let mut old = Log::new("old");
    let id = old.connect(1.0, LAPTOP, BASTION, &[by("alice", &[("ssh", 40), ("bash", 37)], "ssh bastion")]);
    old.close(5.0, &id, (1, 2));
    for line in &mut old.lines {
        line.as_object_mut().unwrap().remove("network");
        line["event"].as_object_mut().unwrap().remove("start");
    }
    old.lines.remove(0);
    let ways = ways(&[&old]);
    assert_eq!(routes(&ways), ["untold>old>elsewhere"]);
    assert_eq!(ways[0]["hops"][0]["id"], json!(id));
    assert!(ways[0]["hops"][0].get("start").is_none());
}

#[test]
fn lines_that_are_none_are_told_and_the_rest_is_read() {
    let [laptop, bastion, web1, db1] = chain();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("all");
    let all = [&laptop, &bastion, &web1, &db1].map(Log::text).concat();
    let torn = &all[..all.len() - 20];
    std::fs::write(&path, format!("{{\"@timest\n\u{0}\n[]\n{{\"unknown\":{{\"a\":[1]}}}}\n{torn}")).unwrap();
    let missing = folder.path().join("missing");
    let (out, notices) = print_files(vec![path, missing], Format::Json, Filter::default(), style());
    assert_eq!(out.lines().count(), 1);
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[1].contains(":1: line is no JSON at column 9 (4 more"), "{notices:?}");
}

#[test]
fn jobs_of_cron_and_services_are_ways_of_their_own() {
    let mut host = Log::new("web1");
    let job = |pid: u32| {
        let chain = [
            ("ssh", pid),
            ("rsync", pid - 1),
            ("sh", pid - 2),
            ("cron", pid - 3),
            ("cron", 300),
            ("systemd", 1),
        ];
        by("backup", &chain, "ssh vault")
    };
    let cron = json!({ "portreeve": { "origin": { "kind": "cron" } } });
    host.connect(1.0, "10.0.0.5:1001", "10.0.0.9:22", &[job(500), cron.clone()]);
    host.connect(2.0, "10.0.0.5:1002", "10.0.0.9:22", &[job(600), cron]);
    let service =
        json!({ "service": { "name": "sync.service" }, "portreeve": { "origin": { "kind": "service" } } });
    for (at, pid) in [(3.0, 700), (4.0, 701)] {
        let chain = [("ssh", pid), ("sync", 690), ("systemd", 1)];
        let from = format!("10.0.0.5:{pid}");
        host.connect(at, &from, "10.0.0.9:22", &[by("sync", &chain, "ssh vault"), service.clone()]);
    }
    let ways = ways(&[&host]);
    let kinds: Vec<_> =
        ways.iter().map(|way| (&way["entry"]["kind"], way["hops"].as_array().unwrap().len())).collect();
    assert_eq!(kinds, [(&json!("cron"), 1), (&json!("cron"), 1), (&json!("service"), 2)]);
}

#[test]
fn a_filter_shows_whole_ways() {
    let [laptop, bastion, web1, db1] = chain();
    let mut other = Log::new("other");
    let id = other.connect(5_000.0, "10.9.0.1:1", "10.9.0.2:22", &[ssh("mallory", 40, "x")]);
    let logs = [&laptop, &bastion, &web1, &db1, &other];
    let all = ways(&logs);
    assert_eq!(all.len(), 2);
    let wanted = |filter: Filter| {
        let out = print(&logs, Format::Json, filter).0;
        let found: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        all.iter().map(|way| found.contains(way)).collect::<Vec<_>>()
    };
    let user = |name: &str| Filter { users: vec![name.to_owned()], ..Filter::default() };
    assert_eq!(wanted(user("deploy")), [true, false]);
    assert_eq!(wanted(user("mallory")), [false, true]);
    assert_eq!(wanted(user("nobody")), [false, false]);
    let address = |text: &str| Filter { addresses: vec![text.parse().unwrap()], ..Filter::default() };
    assert_eq!(wanted(address("10.0.0.9:22")), [true, false]);
    assert_eq!(wanted(address(":22")), [true, true]);
    assert_eq!(wanted(Filter { ids: vec![id.parse().unwrap()], ..Filter::default() }), [false, true]);
    let at = |seconds: f64| Some(crate::builder::time(seconds).parse().unwrap());
    assert_eq!(wanted(Filter { until: at(1.0), ..Filter::default() }), [false, false]);
    assert_eq!(wanted(Filter { until: at(1.1), ..Filter::default() }), [true, false]);
    assert_eq!(wanted(Filter { since: at(724.0), until: at(800.0), ..Filter::default() }), [true, false]);
    // Still open.
    assert_eq!(wanted(Filter { since: at(9_000.0), ..Filter::default() }), [false, true]);
    // Different hops may match different kinds.
    let both = Filter {
        users: vec!["deploy".to_owned()],
        addresses: vec!["192.0.2.10".parse().unwrap()],
        ..Filter::default()
    };
    assert_eq!(wanted(both), [true, false]);
}
