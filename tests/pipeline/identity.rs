//! Who a process is: read while it becomes another, ends, or hides which program it runs. Real processes where the kernel's
//! own behaviour is in question.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use portreeve::attribution::{Attributor, Found};
use portreeve::connection::Inode;
use portreeve::proc::{Depth, Proc};
use portreeve::process::{Attribution, Holder, Process, Reason};
use portreeve::secrets::Masker;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, mkdirat, open, openat};
use tempfile::TempDir;

use super::kernel::Kernel;

#[test]
fn a_number_that_was_given_out_again_since_the_socket_was_seen_is_blamed_for_nothing() {
    let mut kernel = Kernel::new();
    kernel.spawn(200, 100, "ssh", &["ssh", "host"]);
    kernel.hold(200, 1);
    let proc = kernel.proc();
    let held = Rc::new(proc.hold(200).unwrap());
    let found = |met| Found::Holders(vec![Holder { pid: 200, tid: None, fd: 3 }], met);
    kernel.exit(200);
    kernel.spawn(200, 1, "innocent", &["innocent"]);
    for met in [Some(held), None] {
        let mut attributor = Attributor::new(Masker::new(&[]), Box::new(|_| None));
        let told = attributor.attribute(&proc, Inode::new(1).unwrap(), &found(met), Duration::ZERO).0;
        assert_eq!(told, Attribution::Unknown(Reason::HolderVanished));
    }
}

/// A copy of a program under another name.
fn copy(of: &str, to: PathBuf) -> PathBuf {
    // By another process: a file that is open for writing here, if only in a fork of another test, cannot be run.
    assert!(Command::new("cp").arg(format!("/bin/{of}")).arg(&to).status().unwrap().success());
    to
}

fn read(child: &Child) -> Process {
    let proc = Proc::new("/proc").unwrap();
    proc.read_process(&proc.hold(child.id()).unwrap(), Depth::Owner).unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Runs `sleep` from a file, once it runs.
fn sleeping(program: &Path) -> Child {
    sleeping_as(program, program)
}

fn sleeping_as(program: &Path, name: &Path) -> Child {
    let child = Command::new(program).arg0(name).arg("60").stdin(Stdio::null()).spawn().unwrap();
    // Its arguments are the last that the kernel sets up.
    while fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().last_chunk() != Some(b"\x0060\0") {}
    child
}

/// A shell that becomes the next of many as fast as it can: each is called by its file.
#[test]
fn no_name_is_put_to_another_programs_arguments() {
    const LAST: usize = 400;
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let first = copy("sh", at("0"));
    (1..=LAST).for_each(|n| fs::hard_link(&first, at(&n.to_string())).unwrap());
    fs::write(
        at("script"),
        "[ -e \"$1/$(($2 + 1))\" ] || read wait; exec \"$1/$(($2 + 1))\" \"$0\" \"$1\" $(($2 + 1))",
    )
    .unwrap();
    let mut command = Command::new(&first);
    let child = command.arg(at("script")).arg(dir.path()).arg("0").stdin(Stdio::piped()).spawn().unwrap();
    let (mut seen, mut without) = (BTreeSet::new(), 0);
    loop {
        let Process { executable, args, comm, .. } = read(&child);
        // Caught each time in the midst of it.
        if args.is_empty() {
            without += 1;
            continue;
        }
        let executable = executable.unwrap();
        assert_eq!(args.first(), Some(&executable));
        assert!(executable.ends_with(&[b"/", &comm[..]].concat()), "{comm:?}");
        let is_last = comm == LAST.to_string().into_bytes();
        seen.insert(comm);
        if is_last {
            break;
        }
    }
    end(child);
    println!("{} of {LAST} seen, {without} times without arguments", seen.len());
    assert!(seen.len() > 10);
}

#[test]
fn a_file_is_told_as_deleted_only_if_it_is_whatever_it_is_called() {
    let dir = TempDir::new().unwrap();
    let told = |name: &str, change: &dyn Fn(&Path)| {
        let path = copy("sleep", dir.path().join(name));
        let child = sleeping(&path);
        change(&path);
        let Process { executable, executable_deleted, .. } = read(&child);
        end(child);
        let executable = PathBuf::from(String::from_utf8(executable.unwrap()).unwrap());
        (executable.file_name().unwrap().to_str().unwrap().to_owned(), executable_deleted)
    };
    let stands = |_: &Path| {};
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    let replace = |path: &Path| fs::rename(copy("sleep", dir.path().join("new")), path).unwrap();
    assert_eq!(told("a", &stands), ("a".into(), false));
    assert_eq!(told("b", &remove), ("b".into(), true));
    assert_eq!(told("c", &replace), ("c".into(), true));
    assert_eq!(told("d (deleted)", &stands), ("d (deleted)".into(), false));
    assert_eq!(told("e (deleted)", &remove), ("e (deleted)".into(), true));
}

#[test]
fn a_program_that_has_no_file_is_told_as_such_whatever_it_calls_itself() {
    let file = memfd_create("x\n\x1b]0;y", MemfdFlags::empty()).unwrap();
    let mut memory = fs::File::from(file);
    memory.write_all(&fs::read("/bin/sleep").unwrap()).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
    let child = sleeping_as(Path::new(&path), Path::new("/usr/bin/ssh"));
    let told = read(&child);
    end(child);
    assert_eq!(told.executable.as_deref(), Some(&b"/memfd:x\n\x1b]0;y"[..]));
    assert!(told.executable_deleted);
    assert_eq!(told.args[0], b"/usr/bin/ssh", "what it says stands beside what it is");
}

#[test]
fn a_path_that_the_kernel_cannot_tell_is_said_to_be_missing() {
    let dir = TempDir::new().unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut at = open(dir.path(), flags, Mode::empty()).unwrap();
    let name = "d".repeat(250);
    for _ in 0..17 {
        mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    let deep = format!("/proc/{}/fd/{}/sleep", std::process::id(), at.as_raw_fd());
    let child = sleeping(&copy("sleep", deep.into()));
    let told = read(&child);
    end(child);
    assert_eq!((told.executable, told.executable_deleted, told.denied), (None, false, vec!["exe"]));
    assert_eq!(told.comm, b"sleep");
}
