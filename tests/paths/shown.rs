//! What it looks like, and that no name can make it look otherwise.

use super::*;

const LAPTOP: &str = "192.0.2.10:50122";
const BASTION: &str = "198.51.100.1:22";

#[test]
fn a_tree_shows_the_whole_way() {
    let [laptop, bastion, web1, db1] = chain();
    assert_eq!(
        text(&[&laptop, &bastion, &web1, &db1]),
        "\
2026-11-20 20:00:01  laptop  alice@tty2 at a local terminal
└─ 20:00:01  alice@laptop → bastion (198.51.100.1:22)  closed 20:12:04 after 12m03s, 40.0 kB out, 4.2 MB in
   │  ssh[40] ← bash[37] ← sshd[36] ← sshd[20]  ssh bastion  01a1fa90-0001-7008-b72a-2f8bf6330001
   ├─ 20:00:20  alice@bastion → web1 (10.0.0.5:22)  closed 20:12:00 after 11m40s, 36.2 kB out, 4.1 MB in
   │  │  ssh[140] ← bash[137] ← sshd[136] ← sshd[20]  ssh web1  01a1fa90-0003-7008-b72a-da45baf10003
   │  └─ 20:00:40  root(deploy)@web1 → db1 (10.0.0.9:22)  closed 20:11:40 after 11m00s, 1.2 kB out, 3.4 MB in
   │        ssh[77] ← bash[70] ← sudo[69] ← bash[60]  ssh db1  01a1fa90-0001-7008-b72a-005088640001
   └─ 20:00:30  alice@bastion → web2 (10.0.0.6:22)  refused after 2 ms
         ssh[150] ← bash[147] ← sshd[146] ← sshd[20]  ssh web2  01a1fa90-0005-7008-b72a-da45baf10005
"
    );
}

/// Everything that there is to be said of a hop.
fn remarkable() -> [Log; 3] {
    let [mut laptop, mut bastion, mut web1] = ["laptop", "bastion", "web1"].map(Log::new);
    let jump = json!({ "portreeve": { "route": "jump", "ssh": { "target": "web1", "jump": ["bastion"] } } });
    from_laptop(&mut laptop, 1.0, (LAPTOP, BASTION), &[jump]);
    let server = by("alice", &[("sshd", 36), ("sshd", 34), ("sshd", 20)], "sshd: alice");
    let forwarded = json!({ "portreeve": { "route": "forwarded" } });
    let origin = login("alice", LAPTOP, BASTION);
    bastion.connect(1.4, "10.0.0.1:40001", "10.0.0.5:22", &[server, origin.clone(), forwarded]);
    // The web server sees another address: a router is between them.
    web1.accept(1.5, "10.0.0.254:61000", "10.0.0.5:22", &[]);
    let unknown = json!({ "user": { "id": "1001" }, "portreeve": {
        "attribution": { "status": "unknown", "reason": "denied" }, "connection": { "seen": "destroy" } } });
    let id = bastion.connect(2.0, "10.0.0.1:40002", "10.0.0.6:22", &[unknown]);
    bastion.end(3.0, &id, "reset", &json!({ "source": { "bytes": 5 }, "destination": { "bytes": 6 } }));
    let title = json!({ "portreeve": { "route": "mux_master", "origin": {
        "kind": "ssh", "ip": "192.0.2.77", "user": "bob", "evidence": "title" } } });
    let id = bastion.connect(4.0, "10.0.0.1:40003", "10.0.0.6:22", &[ssh("bob", 60, "web2"), title]);
    bastion.change(5.0, &id, &[by("bob", &[("ssh", 61), ("systemd", 1)], "ssh: /run/m [mux]")]);
    bastion.ride(
        6.0,
        &id,
        &[
            ssh("bob", 70, "web2"),
            json!({ "portreeve": { "origin": {
        "kind": "ssh", "ip": "192.0.2.77", "user": "bob", "evidence": "title" } } }),
        ],
    );
    bastion.ride(7.0, &id, &[ssh("carol", 80, "web2"), local("local_tty", "carol", "tty1")]);
    [laptop, bastion, web1]
}

#[test]
fn a_tree_says_what_is_to_be_minded() {
    let [laptop, bastion, web1] = remarkable();
    assert_eq!(
        text(&[&laptop, &bastion, &web1]),
        "\
2026-11-20 20:00:01  laptop  alice@tty2 at a local terminal
└─ 20:00:01  alice@laptop → bastion (198.51.100.1:22)  still open
   │  ssh[40] ← bash[37] ← sshd[36] ← sshd[20]  ssh bastion  01a1fa90-0001-7008-b72a-2f8bf6330001
   │  first leg of a jump to web1; 1 forwarded connection went through it
   └─ 20:00:01  alice@bastion → 10.0.0.5:22  still open
         sshd[36] ← sshd[34] ← sshd[20]  sshd: alice  01a1fa90-0001-7008-b72a-da45baf10001
         the SSH server opened it for its client
         may go on from web1, where 10.0.0.254:61000 came in: cannot be proved

2026-11-20 20:00:01  10.0.0.254:61000 (not in these logs) → web1  still open
   may come from bastion, by 01a1fa90-0001-7008-b72a-da45baf10001 at 20:00:01: cannot be proved, the address was \
translated on the way

2026-11-20 20:00:02  bastion
└─ 20:00:02  uid 1001@bastion → 10.0.0.6:22  reset 20:00:03 after 1.0 s, 5 B out, 6 B in
      owner unknown (denied)  01a1fa90-0003-7008-b72a-da45baf10003
      only its end was seen

2026-11-20 20:00:04  192.0.2.77 (not in these logs) → bastion  bob
└─ 20:00:04  bob@bastion → web2 (10.0.0.6:22)  still open
      ssh[60] ← bash[57] ← sshd[56] ← sshd[20]  ssh web2  01a1fa90-0006-7008-b72a-da45baf10006
      several sessions may share it; login known by its server's title alone; held by ssh[61] in the end
      + 20:00:06  session of bob  ssh[70] ← bash[67] ← sshd[66] ← sshd[20]  ssh web2
      + 20:00:07  session of carol, of another login  ssh[80] ← bash[77] ← sshd[76] ← sshd[20]  ssh web2

2026-11-20 20:00:07  bastion  carol@tty1 at a local terminal
└─ 20:00:07  session of carol over 01a1fa90-0006-7008-b72a-da45baf10006  ssh[80] ← bash[77] ← sshd[76] ← sshd[20]  ssh \
web2
"
    );
}

#[test]
fn a_narrow_terminal_gets_shorter_lines() {
    let [laptop, bastion, web1, db1] = chain();
    let folder = TempDir::new().unwrap();
    let files: Vec<_> = [&laptop, &bastion, &web1, &db1].map(|log| log.write(folder.path())).into();
    let narrow = Style { width: Some(80), ..style() };
    let (out, _) = print_files(files.clone(), Format::Text, Filter::default(), narrow);
    assert!(
        out.contains("ssh[77] ← bash[70] ← sudo[69] ← bash[60]  ssh db1  01a1fa90-0001-7008…\n"),
        "{out}"
    );
    let colored = Style { color: true, ..style() };
    let (out, _) = print_files(files, Format::Text, Filter::default(), colored);
    assert!(out.contains("\u{1b}[31mrefused after 2 ms\u{1b}[0m"), "{out}");
    assert!(!text(&[&laptop]).contains('\u{1b}'));
}

/// A log in which everything that can be chosen is hostile.
fn hostile(name: &str, route: &str) -> Log {
    let mut log = Log::new(name);
    let mut fields = by(name, &[(name, 40), (name, 37)], name);
    merge(
        &mut fields,
        &json!({
            "destination": { "domain": name }, "service": { "name": name }, "process": { "tty": { "name": name } },
            "portreeve": {
                "origin": { "kind": name, "user": name, "tty": name, "session": name, "evidence": name },
                "route": route, "connection": { "state": name, "seen": name },
                "ssh": {
                    "target": name, "jump": [name], "tool": name, "subsystem": name,
                    "forwards": { "local": [name], "stdio": [name, "x:1"] },
                },
                "listening": { "addresses": [name, "[::]:1080"] },
            },
        }),
    );
    let id = log.connect(1.0, LAPTOP, BASTION, &[fields.clone()]);
    log.ride(2.0, &id, &[fields]);
    log.end(3.0, &id, name, &json!({}));
    log
}

#[test]
fn no_name_can_break_out_of_its_place() {
    for name in [
        "\"];x[label=\"",
        "\\\"]; evil [label=\"",
        "a\\",
        "\\N\\G\\l",
        "<b>&lt;&amp;</b>",
        "]-->|x|y",
        "\"]\n  click x",
        "#quot;#35;",
        "`x`",
        "a\u{1b}[2J\u{9b}31m\r\n\u{202e}",
        "x → y  ID",
        "└─ 20:00:01  root@laptop",
        "end",
        "%%{init: {}}%%",
        "",
    ] {
        for route in [name, "direct"] {
            check_hostile(name, &hostile(name, route));
        }
    }
}

fn check_hostile(name: &str, log: &Log) {
    let (text, _) = print(&[log], Format::Text, Filter::default());
    let marks = |c: char| "→←…·└─├│".contains(c);
    assert!(text.chars().all(|c| matches!(c, ' '..='~' | '\n') || marks(c)), "{text:?}");
    assert_eq!(text.matches('└').count(), 1, "{text}");
    let (dot, _) = print(&[log], Format::Dot, Filter::default());
    for line in dot.lines() {
        assert_eq!(outside_of_quotes(line).matches(';').count(), usize::from(line.ends_with(';')), "{line}");
        assert!(!outside_of_quotes(line).contains("evil"), "{line}");
    }
    assert_eq!(dot.matches('&').count(), dot.matches("&amp;").count());
    let (mermaid, _) = print(&[log], Format::Mermaid, Filter::default());
    for line in mermaid.lines().filter(|line| line.contains('"')) {
        assert_eq!(line.matches('"').count(), 2, "{line}");
        let label = line.split('"').nth(1).unwrap().replace("<br/>", "");
        let plain = |c: char| c.is_ascii_alphanumeric() || " ,.:/@-_#;".contains(c);
        assert!(label.chars().all(plain), "{label}");
    }
    let (lines, _) = print(&[log], Format::Json, Filter::default());
    let way: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((way["hops"][0]["host"].as_str(), lines.lines().count()), (Some(name), 1));
}

/// What stands outside of quoted strings as Graphviz reads them.
fn outside_of_quotes(line: &str) -> String {
    let mut outside = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        match c {
            '"' if !escaped => quoted = !quoted,
            c if !quoted => outside.push(c),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    assert!(!quoted, "{line}");
    outside
}

#[test]
fn graphs_show_hosts_and_hops() {
    let [laptop, bastion, web1, db1] = chain();
    let logs = [&laptop, &bastion, &web1, &db1];
    let (dot, _) = print(&logs, Format::Dot, Filter::default());
    assert_eq!(
        dot,
        r#"digraph portreeve {
  rankdir=LR;
  node [shape=box, fontname="sans-serif"];
  edge [fontname="sans-serif", fontsize=10];
  subgraph cluster_1 {
    label="2026-11-20 20:00:01";
    w1_0 [label="laptop\nalice@tty2\nat a local terminal"];
    w1_1 [label="bastion\nalice@pts/3"];
    w1_2 [label="web1\ndeploy@pts/3"];
    w1_3 [label="web2\n10.0.0.6:22", style=dashed];
    w1_4 [label="db1"];
    w1_0 -> w1_1 [label="alice\n2026-11-20 20:00:01\nclosed after 12m03s\n40.0 kB out, 4.2 MB in"];
    w1_1 -> w1_2 [label="alice\n2026-11-20 20:00:20\nclosed after 11m40s\n36.2 kB out, 4.1 MB in"];
    w1_1 -> w1_3 [label="alice\n2026-11-20 20:00:30\nrefused after 2 ms", color=red];
    w1_2 -> w1_4 [label="root(deploy)\n2026-11-20 20:00:40\nclosed after 11m00s\n1.2 kB out, 3.4 MB in"];
  }
}
"#
    );
    let (mermaid, _) = print(&logs, Format::Mermaid, Filter::default());
    assert_eq!(
        mermaid,
        r#"flowchart LR
  subgraph w1["2026-11-20 20:00:01"]
    w1n0["laptop<br/>alice@tty2<br/>at a local terminal"]
    w1n1["bastion<br/>alice@pts/3"]
    w1n2["web1<br/>deploy@pts/3"]
    w1n3("web2<br/>10.0.0.6:22")
    w1n4["db1"]
    w1n0 -->|"alice<br/>2026-11-20 20:00:01<br/>closed after 12m03s<br/>40.0 kB out, 4.2 MB in"| w1n1
    w1n1 -->|"alice<br/>2026-11-20 20:00:20<br/>closed after 11m40s<br/>36.2 kB out, 4.1 MB in"| w1n2
    w1n1 --x|"alice<br/>2026-11-20 20:00:30<br/>refused after 2 ms"| w1n3
    w1n2 -->|"root#40;deploy#41;<br/>2026-11-20 20:00:40<br/>closed after 11m00s<br/>1.2 kB out, 3.4 MB in"| w1n4
  end
"#
    );
}

#[test]
fn a_hop_that_carries_forwards_is_marked() {
    let [laptop, bastion] = forwards();
    let logs = [&laptop.log, &bastion.log];
    let mark = "asked for -L 8080:db1:80, -R '*:8082:[::1]:80'";
    let ends = "forwards from 127.0.0.1:8080, [::1]:8080 of laptop; forwards from 0.0.0.0:8082 (all interfaces) of bastion";
    let carried = "2 forwarded connections went through it";
    let tree = text(&logs);
    assert!(tree.contains(&format!("\n│  │  {mark}; {ends}; {carried}\n")), "{tree}");
    assert!(tree.contains("the SSH client opened it for its server\n"), "{tree}");
    let (dot, _) = print(&logs, Format::Dot, Filter::default());
    assert!(dot.contains(&format!("\\n{mark}\\n{}\\n{carried}\"];", ends.replace("; ", "\\n"))), "{dot}");
    let ways = ways(&logs);
    let hop = &ways[0]["hops"][0];
    assert_eq!(hop["forwards"], json!(["-L 8080:db1:80", "-R *:8082:[::1]:80"]));
    assert_eq!(hop["listening"], json!(["127.0.0.1:8080", "[::1]:8080"]));
    assert_eq!(hop["hops"][0]["forwards"], Value::Null);
    // A bastion alone, where only its own end is known.
    let tree = text(&[&bastion.log]);
    assert!(
        tree.contains(&format!(
            "\n   forwards from 0.0.0.0:8082 (all interfaces) of bastion\n   {carried}\n"
        )),
        "{tree}"
    );
}
