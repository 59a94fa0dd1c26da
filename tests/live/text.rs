//! A process chooses its own name and arguments: they must neither forge a line nor reach a terminal.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::Child;

use serde_json::json;

use crate::lab;
use crate::support::lab::Lab;
use crate::support::log::{assert_fields, with_action};
use crate::support::session::{STAY, Session};
use crate::support::watch::{PATIENCE, PORTREEVE, Watch};
use crate::support::{find_program, output, wait_for};

/// A remote command with a forged line, a terminal escape, a byte that is no UTF-8 and a text that looks like ours for
/// such a byte; a C1 control and a bidirectional mark, both proper UTF-8.
fn odd_argument() -> OsString {
    let mut argument = b": 'a\n2026-01-01 00:00:00.000  open   forged\r\x1b[31m\x07\xff\\xff".to_vec();
    argument.extend("\u{9b}31m\u{202e}é'; ".as_bytes());
    argument.extend(STAY.as_bytes());
    OsString::from_vec(argument)
}

/// How a record has it once its JSON is parsed.
fn odd_argument_in_json() -> String {
    let odd =
        ": 'a\n2026-01-01 00:00:00.000  open   forged\r\u{1b}[31m\u{7}\\xff\\x5cxff\u{9b}31m\u{202e}é'; ";
    format!("{odd}{STAY}")
}

/// An ssh under a file name with an escape and a byte that is no UTF-8.
fn odd_ssh(lab: &Lab) -> OsString {
    let path = lab.path("").into_os_string().into_vec();
    let path = OsString::from_vec([&path[..], b"s\x1b[2J\nh\xfe"].concat());
    std::fs::copy(find_program("ssh").unwrap(), &path).unwrap();
    path
}

fn start_odd_session(lab: &Lab) -> Session {
    let mut ssh = lab.command(odd_ssh(lab));
    Session::start(ssh.arg("-F").arg(lab.path("ssh_config")).arg("127.0.0.1").arg(odd_argument()))
}

#[test]
fn odd_arguments_and_file_names_are_ascii_in_json_and_different_bytes_stay_different() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    let session = start_odd_session(&lab);
    let open = watch.wait_opened();
    assert_eq!(open["process"]["args"].as_array().unwrap().last().unwrap(), &odd_argument_in_json());
    let folder = lab.path("");
    let executable = format!("{}s\u{1b}[2J\nh\\xfe", folder.display());
    assert_fields(&open, &json!({ "process.pid": session.pid(), "process.executable": executable }));
    let message = open["message"].as_str().unwrap();
    assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
    assert!(message.chars().all(|c| c.is_ascii() || "→←…".contains(c)), "{message:?}");
    // `stop` checks that each line is one record of printable ASCII.
    assert!(session.end().success());
    watch.wait_closed();
    watch.stop();
}

#[test]
fn a_name_that_a_process_gives_itself_is_escaped_too() {
    let mut lab = lab!("bash");
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    // The kernel takes the name from the file's. With `) S 1 (` in it a careless reader finds other fields behind it.
    let path = OsString::from_vec([lab.path("").as_os_str().as_bytes(), b"e) S 1 (\n\x1b[7m\xfe"].concat());
    std::os::unix::fs::symlink(find_program("bash").unwrap(), &path).unwrap();
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; read -u 3 -t 9; read -u 3 -t 9";
    let mut shell = lab.command(path).args(["-c", script]).spawn().unwrap();
    let open = watch.wait_opened();
    assert_fields(&open, &json!({ "process.pid": shell.id(), "process.name": "e) S 1 (\n\u{1b}[7m\\xfe" }));
    let message = open["message"].as_str().unwrap();
    assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
    shell.kill().unwrap();
    shell.wait().unwrap();
    watch.wait_closed();
    watch.stop();
}

#[test]
fn text_output_holds_one_line_a_record_and_no_raw_escape_whatever_a_process_is_called() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let out = lab.path("text");
    let mut child =
        lab.portreeve().args(["--format", "text"]).stdout(File::create(&out).unwrap()).spawn().unwrap();
    let lines = || -> Vec<String> {
        let text = std::fs::read_to_string(&out).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    };
    wait_for("the start", PATIENCE, || (!lines().is_empty()).then_some(()));
    let session = start_odd_session(&lab);
    let owner = format!("[{}] ", session.pid());
    let told =
        |word: &str| lines().iter().any(|line| line.contains(word) && line.contains(&owner)).then_some(());
    wait_for("the owner", PATIENCE, || told(""));
    assert!(session.end().success());
    wait_for("a close", PATIENCE, || told("  close  "));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert!(wait_for("its end", PATIENCE, || child.try_wait().unwrap()).success());

    let all = lines();
    for line in &all {
        assert!(line.chars().all(|c| (' '..='~').contains(&c) || "→←…".contains(c)), "{line:?}");
        let (day, rest) = line.split_once(' ').unwrap();
        assert!(day.len() == 10 && rest.len() > 12, "{line:?}");
    }
    assert!(!all.iter().any(|line| line.starts_with("2026-01-01 00:00:00.000")), "a forged line: {all:#?}");
}

/// Texts that were made to break what prints them: as a program's name, an argument and a folder.
fn hostile_texts() -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = [
        "\n2026-01-01 00:00:00.000  open   forged\n",
        "\r\nportreeve: error: forged\r\n",
        "\n{\"@timestamp\":\"2026-01-01T00:00:00Z\",\"message\":\"forged\"}\n",
        "\",\"chain\":\"0\"}\n{\"event\":{\"action\":\"forged\",\"sequence\":1}",
        "\u{1b}[2J\u{1b}[1;1Hforged\u{1b}[8m",
        "\u{1b}]0;title\u{7}\u{1b}]52;c;Zm9yZ2Vk\u{7}\u{1b}]8;;x:y\u{1b}\\",
        "\u{1b}P+q544e\u{1b}\\\u{9b}31m\u{9d}0;t\u{9c}\u{90}",
        "\u{202e}degrof\u{2066}a\u{2069}\u{200b}\u{feff}\u{2028}\u{2029}\u{85}",
        "x  192.0.2.1:1 \u{2192} 192.0.2.2:22  root[1] \u{2190} init[1]  01a1f932-100b-7e5f-8a6b-7c8d9e0f1a2b",
        "'; $(id) `id` \"%s%n\\\\x41\\u{41}\\u0041",
        "<4>forged\t\u{8}\u{8}\u{8}\u{7f}\u{e}\u{c}\u{b}",
        ") S 1 1 1 (x) R 2 (\nUid:\t0\t0\t0\t0\n",
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    texts.extend([
        b"\xff\xfe\xc3(\xed\xa0\x80\xf4\x90\x80\x80\\xff".to_vec(),
        (1..=0x1f).collect(),
        (0x80..=0xff).collect(),
    ]);
    texts
}

/// One line of printable ASCII and our own marks.
fn is_harmless(line: &str) -> bool {
    line.chars().all(|c| (' '..='~').contains(&c) || "→←…".contains(c))
}

/// Bytes as a record writes them.
fn as_recorded(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace("\\x", "\\x5cx"));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[test]
fn no_hostile_text_forges_a_line_or_reaches_a_terminal_in_any_output() {
    let mut lab = lab!("bash");
    lab.sshd(&["127.0.0.1:22"]);
    let (log, text) = (lab.path("log"), lab.path("text"));
    let mut watch = Watch::start_into(&lab, lab.portreeve().arg("--log-file").arg(&log), log.clone());
    let words = ["--format", "text", "--duration", "20s"];
    let mut printer = lab.portreeve().args(words).stdout(File::create(&text).unwrap()).spawn().unwrap();
    wait_for("the start", PATIENCE, || {
        std::fs::read_to_string(&text).unwrap().contains("start").then_some(())
    });

    let texts = hostile_texts();
    let script = "exec 3<>/dev/tcp/127.0.0.1/22; read -u 3 -t 9; read -u 3 -t 9";
    let mut shells: Vec<_> =
        texts.iter().enumerate().map(|(number, text)| hostile_shell(&lab, number, text, script)).collect();
    let opens = watch.wait_opens(texts.len());
    for (shell, text) in shells.iter().zip(&texts) {
        let recorded = as_recorded(text);
        let open = opens.iter().find(|open| open["process"]["pid"] == shell.id()).expect("its open");
        let told = &open["process"];
        assert_eq!(told["args"].as_array().unwrap().last().unwrap(), &recorded);
        let name: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'/').collect();
        assert!(told["working_directory"].as_str().unwrap().ends_with(&as_recorded(&name)), "{told:#}");
        // The kernel cuts a name after fifteen bytes, maybe within a character.
        assert_eq!(told["name"], as_recorded(&name[..name.len().min(15)]));
    }
    for shell in &mut shells {
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
    watch.wait_actions("connection-closed", texts.len());
    // `stop` checks that each line is one record of printable ASCII, and its place in the chain.
    let records = watch.stop().records;
    rustix::process::kill_process(rustix::process::Pid::from_child(&printer), rustix::process::Signal::TERM)
        .unwrap();
    assert!(wait_for("its end", PATIENCE, || printer.try_wait().unwrap()).success());
    let printed = std::fs::read_to_string(&text).expect("UTF-8");
    assert!(printed.lines().all(|line| is_harmless(line) && !line.starts_with("2026-01-01")), "{printed}");
    for word in ["text", "json"] {
        let shown = output(lab.command(PORTREEVE).args(["show", "--format", word]).arg(&log)).stdout;
        let shown = String::from_utf8(shown).expect("UTF-8");
        assert_eq!(shown.lines().count(), records.len());
        assert!(shown.lines().all(is_harmless), "{shown}");
    }
    let judged = output(lab.command(PORTREEVE).arg("verify").arg(&log));
    let said = String::from_utf8(judged.stdout).expect("UTF-8");
    assert!(judged.status.success() && said.lines().all(is_harmless), "{said}");
}

/// A shell in a folder, under a file name and with an argument of this text.
fn hostile_shell(lab: &Lab, number: usize, text: &[u8], script: &str) -> Child {
    let name: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'/').collect();
    let path = |parts: &[&[u8]]| OsString::from_vec(parts.concat());
    let base = lab.path(&format!("hostile-{number}"));
    let base = base.as_os_str().as_bytes();
    std::fs::create_dir(path(&[base])).unwrap();
    let (folder, program) = (path(&[base, b"/", &name]), path(&[base, b"/", &name, b" "]));
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(find_program("bash").unwrap(), &program).unwrap();
    let mut shell = lab.command("env");
    shell.arg("-C").arg(folder).arg(program).args(["-c", script]).arg(OsString::from_vec(text.to_vec()));
    shell.spawn().unwrap()
}

#[test]
fn what_diagnostics_quote_reaches_no_terminal() {
    let lab = lab!();
    let odd = "\u{1b}[2J\u{202e}\nportreeve: forged\u{9b}";
    let missing = lab.path(odd).join("log");
    let config = lab.path("odd.toml");
    std::fs::write(&config, format!("{} = 1\n", serde_json::to_string(&format!("{odd}\u{7f}")).unwrap()))
        .unwrap();
    let folder = lab.path(&format!("{odd}.toml"));
    std::fs::create_dir(&folder).unwrap();
    let said =
        |command: &mut std::process::Command| String::from_utf8(output(command).stderr).expect("UTF-8");
    for told in [
        said(lab.portreeve().arg("--log-file").arg(&missing)),
        said(lab.command(PORTREEVE).args(["config", "check"]).arg(&config)),
        said(lab.command(PORTREEVE).args(["config", "check"]).arg(&folder)),
        said(lab.command(PORTREEVE).args(["watch", "--config"]).arg(&config)),
        said(lab.command(PORTREEVE).arg("show").arg(&missing)),
    ] {
        assert!(told.starts_with("portreeve: ") && told.lines().all(is_harmless), "{told:?}");
        assert!(!told.contains("\nportreeve: forged"), "{told:?}");
    }
}

#[test]
fn a_password_in_an_ancestors_arguments_is_masked() {
    let mut lab = lab!("bash");
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    // The shell calls itself sshpass and reads its script from the file `hunter2`: unlike sshpass it leaves its
    // arguments as they were typed.
    let script = format!("ssh -F {}/ssh_config \"$@\"; exit $?", lab.path("").display());
    std::fs::write(lab.path("hunter2"), script).unwrap();
    let mut shell = lab.command("bash");
    shell
        .args(["-c", "cd \"$0\" && exec -a sshpass sh -p hunter2 127.0.0.1 \"$1\""])
        .arg(lab.path(""))
        .arg(STAY);
    let session = Session::start(&mut shell);
    let open = watch.wait_opened();
    let parent = &open["process"]["parent"];
    assert_eq!(parent["pid"], session.pid());
    let args: Vec<_> = parent["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!((&args[..2], args.len()), (&["sshpass", "-p"][..], 5), "{args:?}");
    assert!(session.end().success());
    watch.wait_closed();
    let text = watch.text();
    watch.stop();
    assert!(!String::from_utf8(text).unwrap().contains("hunter2"));
}

#[test]
fn what_sshpass_was_given_never_reaches_the_log() {
    let mut lab = lab!("sshpass");
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    let mut sshpass = lab.command("sshpass");
    sshpass.args(["-p", "hunter2", "ssh", "-F"]).arg(lab.path("ssh_config")).arg("127.0.0.1").arg(STAY);
    let session = Session::start(&mut sshpass);
    let open = watch.wait_opened();
    assert_fields(&open, &json!({ "process.name": "ssh", "process.parent.name": "sshpass" }));
    assert!(session.end().success());
    watch.wait_closed();
    let text = String::from_utf8(watch.text()).unwrap();
    assert!(!text.contains("hunter2"));
    assert_eq!(with_action(&watch.stop().records, "connection-opened").len(), 1);
}

#[test]
fn a_program_whose_file_was_removed_is_told_by_its_path_and_that_it_is_gone() {
    let mut lab = lab!();
    lab.sshd(&["127.0.0.1:22"]);
    let mut watch = lab.watch(&[]);
    let copy = lab.path("ssh-copy");
    std::fs::copy(find_program("ssh").unwrap(), &copy).unwrap();
    let script = "exec 9<\"$0\" && rm \"$0\" && exec /proc/self/fd/9 -F \"$1\" 127.0.0.1 \"$2\"";
    let mut shell = lab.command("sh");
    let session = Session::start(shell.args(["-c", script]).arg(&copy).arg(lab.path("ssh_config")).arg(STAY));
    let expected = json!({
        "process.pid": session.pid(),
        "process.executable": copy.to_str().unwrap(),
        "portreeve.executable_deleted": true,
    });
    assert_fields(&watch.wait_opened(), &expected);
    assert!(session.end().success());
    assert_fields(&watch.wait_closed(), &expected);
    watch.stop();
}
