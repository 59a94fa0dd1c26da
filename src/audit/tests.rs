//! Real records, and what becomes of them on the way.

use super::*;

/// As Linux 6.18 gave them to auditctl's listener, for the rules of `portreeve rule audit`: a program that connects over
/// IPv4, IPv6, mapped, without waiting, refused, unreachable twice, and a datagram socket; one with a space in its name; and
/// the removal of the rules.
const KERNEL: &[u8] = include_bytes!("../../fuzz/seeds/audit/kernel.log");
/// Enriched, with the name of a node, two events interleaved, without the last lines.
const ENRICHED: &[u8] = include_bytes!("../../fuzz/seeds/audit/enriched.log");

fn told(log: &[u8]) -> Vec<Connect> {
    let (mut assembler, mut told) = (Assembler::default(), Vec::new());
    for line in log.split(|byte| *byte == b'\n') {
        assembler.line(line, |connect| told.push(connect));
    }
    assert_eq!(assembler.take_given_up(), 0);
    told
}

#[test]
fn each_connect_of_a_real_log_is_told_once_and_nothing_else() {
    let connects = told(KERNEL);
    let ends: Vec<_> = connects.iter().map(|c| (c.serial, c.remote.to_string(), c.exit)).collect();
    let wanted = [
        (2, "127.0.0.1:22", 0),
        (3, "[::1]:22", 0),
        (4, "127.0.0.1:22", 0),
        (5, "127.0.0.1:22", -115),
        (6, "127.0.0.1:23", -111),
        (7, "192.0.2.1:22", -101),
        (8, "[2001:db8::1]:22", -101),
        (9, "127.0.0.1:22", 0),
        (10, "127.0.0.1:22", 0),
    ];
    assert_eq!(ends, wanted.map(|(serial, remote, exit)| (serial, remote.to_owned(), exit)));
    let first = &connects[0];
    assert!(connects.iter().all(|connect| connect.fd.is_some_and(|fd| fd < 1_024)), "{connects:?}");
    assert_eq!(first.time, Duration::from_millis(1_795_870_488_424));
    assert_eq!((first.pid, first.ppid, first.login, first.tty), (24_927, 24_880, None, None));
    assert_eq!(first.ids, Ids { real_uid: 0, effective_uid: 0, real_gid: 0 });
    assert_eq!(
        (first.comm.as_slice(), first.executable.as_deref()),
        (&b"python3"[..], Some(&b"/usr/bin/python3.11"[..]))
    );
    assert_eq!(first.args[..2], [b"/usr/bin/python3".to_vec(), b"-c".to_vec()]);
    let last = &connects[8];
    assert_eq!(
        (last.comm.as_slice(), last.executable.as_deref()),
        (&b"my ssh"[..], Some(&b"/opt/my ssh"[..]))
    );
}

#[test]
fn events_that_are_interleaved_enriched_or_cut_short_are_told_with_their_login() {
    let connects = told(ENRICHED);
    let of = |c: &Connect| {
        (c.serial, c.comm.clone(), c.login, c.tty.map(Tty::name), c.args.len(), c.remote.port())
    };
    let told: Vec<_> = connects.iter().map(of).collect();
    assert_eq!(
        told,
        [
            (702, b"scp".to_vec(), Some((1001, None)), Some("pts/300".to_owned()), 4, 2222),
            (701, b"ssh".to_vec(), Some((1000, Some(7))), Some("tty1".to_owned()), 2, 22),
            (703, b"ssh".to_vec(), Some((1000, Some(7))), Some("ttyS0".to_owned()), 0, 22),
        ]
    );
    assert_eq!(connects[0].ids, Ids { real_uid: 1001, effective_uid: 0, real_gid: 100 });
    assert!(!connects[0].args_cut);
}

#[test]
fn names_are_the_process_s_own_and_cannot_be_taken_for_other_words() {
    let forged = br#"type=SYSCALL msg=audit(1.0:1): arch=c000003e syscall=42 exit=0 a0=3 ppid=1 pid=2 auid=5 uid=5 euid=5 gid=5 tty=(none) ses=1 comm="ssh"pid=9" exe="x" key=(null)
type=SYSCALL msg=audit(1.0:1): arch=c000003e syscall=42 exit=0 a0=3 ppid=1 pid=3 auid=5 uid=0 euid=0 gid=5 tty=(none) ses=1 comm="ssh" exe="/x" key=(null)
type=SOCKADDR msg=audit(1.0:1): saddr=020000167F000001
type=EOE msg=audit(1.0:1): "#;
    let told = told(forged);
    assert_eq!((told[0].pid, told[0].ids.real_uid, told.len()), (2, 5, 1), "the first is the kernel's");
    assert_eq!(told[0].executable, None, "no path");
}

#[test]
fn what_was_not_asked_of_the_internet_is_not_told() {
    let event = |syscall: &str, address: &str| {
        format!(
            "type=SYSCALL msg=audit(1.0:1): {syscall} exit=0 ppid=1 pid=2 auid=5 uid=5 euid=5 gid=5 comm=\"a\" exe=\"/a\" \
             key=\"k\"\ntype=SOCKADDR msg=audit(1.0:1): saddr={address}\ntype=PROCTITLE msg=audit(1.0:1): \
             proctitle=\"a\"\ntype=EOE msg=audit(1.0:1): \n"
        )
    };
    let tells = |syscall: &str, address: &str| told(event(syscall, address).as_bytes()).len();
    let v4 = "020000167F0000010000000000000000";
    for syscall in [
        "arch=c000003e syscall=42 a0=3",
        "arch=40000003 syscall=102 a0=3",
        "arch=40000003 syscall=362 a0=7",
        "arch=c00000b7 syscall=203 a0=7",
        "arch=abcd syscall=1 a0=7 key=\"portreeve\"",
    ] {
        assert_eq!(tells(syscall, v4), 1, "{syscall}");
    }
    for syscall in
        ["arch=c000003e syscall=44 a0=3", "arch=40000003 syscall=102 a0=2", "arch=c00000b7 syscall=42 a0=3"]
    {
        assert_eq!(tells(syscall, v4), 0, "{syscall}");
    }
    for address in [
        "",
        "02",
        "0200",
        "02000016",
        "020000167F0000",
        "0100002F746D70",
        "0A0000160000",
        "020000007F000001",
        "xx",
    ] {
        assert_eq!(tells("arch=c000003e syscall=42 a0=3", address), 0, "{address}");
    }
}

#[test]
fn lines_that_never_come_are_not_waited_for_without_end() {
    let mut assembler = Assembler::default();
    let call = |serial: u64| {
        format!(
            "audit(1.0:{serial}): arch=c000003e syscall=42 exit=0 a0=3 ppid=1 pid=2 auid=5 uid=5 euid=5 gid=5 comm=\"a\" \
             exe=\"/a\""
        )
    };
    let mut told = Vec::new();
    assembler.record(1300, call(1).as_bytes(), |c| told.push(c.serial));
    assembler.record(1306, b"audit(1.0:1): saddr=020000167F000001", |c| told.push(c.serial));
    for serial in 2..40 {
        assembler.record(1300, call(serial).as_bytes(), |c| told.push(c.serial));
    }
    assert_eq!(told, [1], "without its arguments");
    for serial in 40..100_000 {
        assembler.record(1300, call(serial).as_bytes(), |c| told.push(c.serial));
    }
    assert!(assembler.begun.len() <= MOST && told == [1]);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8.., 0..200), kind in 1300u16..1330) {
        let mut assembler = Assembler::default();
        assembler.line(&bytes, |_| {});
        assembler.record(kind, &bytes, |_| {});
        assembler.record(SYSCALL, &[b"audit(1.0:1): ", bytes.as_slice()].concat(), |_| {});
        assembler.line(&[b"type=SYSCALL msg=", bytes.as_slice()].concat(), |_| {});
    }
}
