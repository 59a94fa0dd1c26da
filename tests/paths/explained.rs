//! Stories of connections, word for word.

use portreeve::report::explain::{self, Explain, Outcome};

use super::*;

const LAPTOP: &str = "198.51.100.7:50122";
const BASTION: &str = "192.0.2.10:22";

fn tell_with(logs: &[&Log], id: &str, style: Style) -> (String, Outcome) {
    let folder = TempDir::new().unwrap();
    let files = logs.iter().map(|log| log.write(folder.path())).collect();
    let mut out = Vec::new();
    let asked = Explain { logs: Logs::Listed(files), id: id.parse().unwrap(), style };
    let (outcome, failures) = explain::run(&asked, &mut out, &mut |_| {}).unwrap();
    assert_eq!(failures, 0);
    (String::from_utf8(out).unwrap(), outcome)
}

fn tell(logs: &[&Log], id: &str) -> String {
    let (story, outcome) = tell_with(logs, id, style());
    assert_eq!(outcome, Outcome::Told);
    story
}

/// One hop of alice from the bastion to where she likes.
fn hop(more: &[Value]) -> (Log, String) {
    let mut log = Log::new("bastion");
    let mut all = vec![ssh("alice", 40, "git.example.net"), login("alice", LAPTOP, BASTION)];
    all.extend_from_slice(more);
    let id = log.connect(338.8, "192.0.2.10:33531", "203.0.113.7:22", &all);
    (log, id)
}

#[test]
fn a_plain_story() {
    let (mut log, id) = hop(&[]);
    log.close(339.147, &id, (3_653, 4_689));
    let story = "On 2026-11-20 at 20:05:38 alice (logged in as alice from 198.51.100.7, which is proved by the socket \
                 that the SSH server of this login holds) connected from bastion to git.example.net (203.0.113.7, port \
                 22) with ssh, started by bash. It lasted 347 ms and carried 3.6 kB out and 4.6 kB in. It ended in \
                 order.\n";
    assert_eq!(tell(&[&log], &id), story);
    assert_eq!(tell(&[&log], &id[..13]), story);
}

#[test]
fn a_story_over_several_hosts() {
    let [laptop, bastion, web1, db1] = chain();
    let id = web1.lines[0]["portreeve"]["connection"]["id"].as_str().unwrap();
    let first = laptop.lines[0]["portreeve"]["connection"]["id"].as_str().unwrap();
    let second = bastion.lines[1]["portreeve"]["connection"]["id"].as_str().unwrap();
    assert_eq!(
        tell(&[&laptop, &bastion, &web1, &db1], id),
        format!(
            "On 2026-11-20 at 20:00:40 root (logged in as deploy from 10.0.0.1, which is proved by the socket that the \
             SSH server of this login holds) connected from web1 to db1 (10.0.0.9, port 22) with ssh, started by bash. \
             That login came from bastion, where alice made the connection {second}; before that from laptop, where \
             alice made the connection {first}. It lasted 11 minutes and carried 1.2 kB out and 3.4 MB in. It ended in \
             order. It is proved that it reached db1, whose log tells of the same connection; from there nothing in \
             these logs went on.\n"
        )
    );
}

#[test]
fn what_was_not_seen_is_said() {
    let mut log = Log::new("bastion");
    let unknown = json!({ "user": { "id": "1001" }, "portreeve": {
        "attribution": { "status": "unknown", "reason": "holder_vanished" }, "connection": { "seen": "time_wait" } } });
    let id = log.connect(338.8, "192.0.2.10:33531", "203.0.113.7:22", &[unknown]);
    for line in &mut log.lines {
        line["event"].as_object_mut().unwrap().remove("start");
    }
    let gap = json!({ "portreeve": { "gap": {
        "cause": "events_lost", "from": builder::time(300.0), "to": builder::time(339.0) } } });
    log.record(339.0, "gap", &[gap]);
    assert_eq!(
        tell(&[&log], &id),
        "At an unknown time, at the latest on 2026-11-20 at 20:05:38 the user with the number 1001 connected from \
         bastion to 203.0.113.7 (port 22). It was still open when the log of bastion ends, on 2026-11-20 at 20:05:39. \
         Which process made it is not known: its process was gone before it could be read. Only its end was seen, not \
         its beginning. In its time notices of the kernel were lost for 39.0 seconds, so something about it may be \
         missing.\n"
    );
}

#[test]
fn an_attempt_is_no_connection() {
    let (mut log, id) = hop(&[]);
    log.end(338.802, &id, "refused", &json!({}));
    assert!(tell(&[&log], &id).ends_with(
        " tried to connect from bastion to git.example.net (203.0.113.7, port 22) with ssh, started by bash. The attempt \
         took 2 ms. It was refused.\n"
    ));
}

#[test]
fn hearsay_is_told_as_hearsay() {
    for (evidence, words) in [
        (
            "audit_session",
            "from 198.51.100.7, as its audit session tells, which is that of a login whose connection was seen)",
        ),
        (
            "cgroup_session",
            "from 198.51.100.7, as its control group tells, which is that of a login whose connection was seen)",
        ),
        ("remembered", "from 198.51.100.7, as is remembered of the process that led its session)"),
        ("title", "from 198.51.100.7, which only the title of the SSH server says)"),
        (
            "environment",
            "from 198.51.100.7, which only the environment of the process says, and that can be set at will)",
        ),
        ("something new", "from 198.51.100.7, and how that is known is not told)"),
    ] {
        let (log, id) = hop(&[json!({ "portreeve": { "origin": { "evidence": evidence } } })]);
        let story = tell(&[&log], &id);
        assert!(story.contains(&format!("alice (logged in as alice {words} connected")), "{story}");
    }
}

#[test]
fn where_nobody_logged_in_by_ssh_that_is_told() {
    for (kind, words) in [
        ("local_tty", "alice (logged in as alice at a terminal of bastion itself, tty2) connected"),
        ("cron", "alice (in a job of cron) connected"),
        ("service", "alice (in the service sync.service) connected"),
        ("container", "alice (in a container) connected"),
        ("unknown", "alice (where the login came from is not known) connected"),
    ] {
        let mut log = Log::new("bastion");
        let unit = json!({ "service": { "name": "sync.service" } });
        let fields = [ssh("alice", 40, "git.example.net"), local(kind, "alice", "tty2"), unit];
        let id = log.connect(1.0, "192.0.2.10:33531", "203.0.113.7:22", &fields);
        let story = tell(&[&log], &id);
        assert!(story.contains(words), "{story}");
    }
}

#[test]
fn routes_and_riders_are_told() {
    let route =
        |route: &str| json!({ "portreeve": { "route": route, "ssh": { "target": "web1", "tool": "git" } } });
    for (name, words) in [
        ("jump", "It was the first leg of a jump to web1."),
        ("proxy_command", "A relay held the connection, on behalf of ssh to web1."),
        (
            "forwarded",
            "The SSH client opened it on behalf of the server to which it was connected already: what it carried went through \
             that connection.",
        ),
        ("other", "No SSH program made it."),
    ] {
        let (log, id) = hop(&[route(name)]);
        let story = tell(&[&log], &id);
        assert!(
            story.contains(&format!("with ssh, started by bash, for git. {words} It was still")),
            "{story}"
        );
    }
    let (mut log, id) = hop(&[route("mux_master")]);
    log.ride(340.0, &id, &[ssh("alice", 60, "x"), login("alice", LAPTOP, BASTION)]);
    log.ride(341.0, &id, &[ssh("bob", 70, "x"), local("local_tty", "bob", "tty1")]);
    assert!(tell(&[&log], &id).ends_with(
        "Two more sessions rode on it: one of alice on 2026-11-20 at 20:05:40 and one of bob on 2026-11-20 at 20:05:41, \
         from another login.\n"
    ));
}

#[test]
fn an_inbound_connection_has_a_story_too() {
    let [laptop, bastion, _, _] = chain();
    let id = bastion.lines[0]["portreeve"]["connection"]["id"].as_str().unwrap();
    let first = laptop.lines[0]["portreeve"]["connection"]["id"].as_str().unwrap();
    assert_eq!(
        tell(&[&laptop, &bastion], id),
        format!(
            "On 2026-11-20 at 20:00:01 an SSH connection came in from 192.0.2.10 (port 50122) to bastion, port 22. It is a \
             login of alice. That login came from laptop, where alice made the connection {first}. Two connections \
             went on from there, to web1 (10.0.0.5, port 22) and web2 (10.0.0.6, port 22). It lasted 12 minutes and 3 \
             seconds and carried 4.2 MB out and 40.0 kB in. It ended in order.\n"
        )
    );
}

#[test]
fn what_may_be_but_is_not_proved_is_told_so() {
    let mut laptop = Log::new("laptop");
    let mut bastion = Log::new("bastion");
    let out = from_laptop(&mut laptop, 1.0, (LAPTOP, BASTION), &[]);
    let arrival = bastion.accept(1.2, "203.0.113.1:61000", BASTION, &[]);
    assert!(tell(&[&laptop, &bastion], &out).ends_with(
        "It may have gone on from bastion, but that cannot be proved, because an address was translated on the way.\n"
    ));
    assert!(tell(&[&laptop, &bastion], &arrival).contains(&format!(
        "That login may have come from laptop, by the connection {out}, but that cannot be proved, because an address was \
         translated on the way."
    )));
}

#[test]
fn an_id_that_fits_several_or_none_tells_which() {
    let (mut log, id) = hop(&[]);
    let other = log.connect(400.0, "192.0.2.10:33532", "203.0.113.7:22", &[]);
    assert_eq!(tell_with(&[&log], "01a1", style()), (String::new(), Outcome::Several(vec![id, other])));
    assert_eq!(tell_with(&[&log], "02", style()), (String::new(), Outcome::Unknown));
}

#[test]
fn a_story_is_folded_to_the_terminal() {
    let (mut log, id) = hop(&[]);
    log.close(339.147, &id, (3_653, 4_689));
    let (story, _) = tell_with(&[&log], &id, Style { width: Some(60), ..style() });
    assert!(story.lines().count() > 4 && story.lines().all(|line| line.len() <= 60), "{story}");
    assert_eq!(story.replace('\n', " ").trim_end(), tell(&[&log], &id).trim_end());
}

#[test]
fn names_in_a_story_stay_words() {
    let name = "x). It was proved\u{1b}[2J";
    let mut log = Log::new(name);
    let fields = [ssh(name, 40, name), login(name, LAPTOP, BASTION)];
    let id = log.connect(1.0, "192.0.2.10:33531", "203.0.113.7:22", &fields);
    let story = tell(&[&log], &id);
    assert!(story.contains("'x). It was proved\\u{1b}[2J'"), "{story}");
    assert!(story.chars().all(|c| matches!(c, ' '..='~' | '\n')), "{story}");
}

#[test]
fn what_a_connection_carried_for_others_is_told() {
    let [laptop, bastion] = forwards();
    let logs = [&laptop.log, &bastion.log];
    let story = tell(&logs, &laptop.ids[0]);
    let asked = "Its client was asked for the forwards -L 8080:db1:80 and -R '*:8082:[::1]:80'. The client listened at \
                 127.0.0.1:8080 and [::1]:8080: what came in there went through this connection. ";
    let carried = "Through it went what the two connections carried that the SSH server of bastion opened on behalf of its \
                   client, to 10.0.0.9 (port 80); that is proved by the socket that the server \
                   holds. ";
    assert!(story.contains(&format!(". {asked}{carried}It was still open")), "{story}");
    let story = tell(&logs, &bastion.ids[0]);
    let listens = "Its SSH server listened at 0.0.0.0:8082 (on every interface, for other machines too): what came in there \
                   went through this connection. ";
    assert!(story.contains(&format!(". {listens}{carried}It was still open")), "{story}");
    let story = tell(&logs, &bastion.ids[1]);
    let opened = "The SSH server of bastion opened it on behalf of its client: what it carried went through the client's own \
                  connection. That login came from laptop, where alice made the connection ";
    assert!(story.contains(opened), "{story}");
    // Neither what a client opened for its server nor a hop of the same login has forwards of its own.
    for (id, logs) in [(&laptop.ids[1], &logs), (&bastion.ids[3], &logs)] {
        let story = tell(logs, id);
        assert!(!story.contains("asked for") && !story.contains("listened"), "{story}");
        assert!(!story.contains("Through it went"), "{story}");
    }
}

#[test]
fn what_is_not_proved_to_have_gone_through_a_connection_is_not_told_so() {
    let [laptop, mut bastion] = forwards();
    for line in &mut bastion.log.lines {
        if let Some(origin) = line["portreeve"].get_mut("origin") {
            origin["evidence"] = json!("environment");
        }
    }
    let story = tell(&[&laptop.log, &bastion.log], &laptop.ids[0]);
    assert!(
        !story.contains("Through it went") && story.contains("from there three connections went on"),
        "{story}"
    );
}
