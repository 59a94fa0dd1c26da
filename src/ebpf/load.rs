//! Loads and attaches the program, in a process of its own, and hands what came of it to the one that reads.

#![expect(
    clippy::disallowed_methods,
    reason = "reads its own descriptors, and opens the root of the unified hierarchy"
)]

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::{IoSlice, stdin};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use aya::maps::Map;
use aya::programs::cgroup_skb::CgroupSkbAttachType;
use aya::programs::{BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSock, CgroupSockAddr, Program};
use aya::{Btf, Ebpf, EbpfLoader, include_bytes_aligned};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::io::Errno;

const OBJECT: &[u8] = include_bytes_aligned!("../../bpf/portreeve.bpf.o");
const TRACEPOINT: &str = "inet_sock_set_state";

/// What is told stands there.
pub(super) const RING: &str = "ring";
/// Descriptors that are handed over first, in this order; behind them come the links, as many as there are.
pub(super) const MAPS: [&str; 5] = [RING, "ports", "lost", "flows", "attempts"];
pub(super) const PROGRAM: &str = "changed";
const ATTEMPTS: [&str; 2] = ["attempt4", "attempt6"];
/// Those of UDP: who sends, what leaves and comes, which socket is closed.
const SENDING: [&str; 2] = ["sending4", "sending6"];
const PACKETS: [(&str, CgroupSkbAttachType); 2] =
    [("leaving", CgroupSkbAttachType::Egress), ("coming", CgroupSkbAttachType::Ingress)];
const RELEASE: &str = "let_go";
/// Maps that only they fill, and what tells the others that they are there.
const OF_UDP: [&str; 2] = ["flows", "callers"];
const WITH_UDP: &str = "with_udp";

/// What programs need that trace, and beside it those of control groups.
const TO_TRACE: &str = "CAP_BPF and CAP_PERFMON and, in a systemd unit, SystemCallFilter=bpf";
const TO_JOIN: &str = "CAP_NET_ADMIN";

/// First byte of the message: whether it worked. The rest is text: why not; or, in two lines, why attempts and why flows
/// are not told.
pub(super) const DONE: u8 = b'+';
pub(super) const FAILED: u8 = b'-';
/// Bytes of that message at most.
pub(super) const MESSAGE: usize = 1_024;

/// Does so for the process at the other end of standard input; answers with which status to end.
#[must_use]
pub fn load_for_parent(with_udp: bool) -> u8 {
    match hand_over(&stdin(), None, with_udp) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Loads the program and sends its descriptors, or why there are none. `ring`: bytes of the ring, if not as usual.
pub(super) fn hand_over(to: &impl AsFd, ring: Option<u32>, with_udp: bool) -> Result<(), String> {
    let to = to.as_fd().as_raw_fd();
    let loaded = load(ring, with_udp).and_then(|loaded| {
        let descriptors = descriptors(&loaded.programs)?;
        let reasons = [loaded.attempts, loaded.flows].map(|outcome| outcome.err().unwrap_or_default());
        send(to, DONE, &reasons.map(|reason| reason.replace('\n', " ")).join("\n"), &descriptors)
    });
    loaded.or_else(|reason| send(to, FAILED, &reason, &[]))
}

fn send(to: RawFd, outcome: u8, text: &str, descriptors: &[RawFd]) -> Result<(), String> {
    let text: Vec<u8> = [&[outcome], text.as_bytes()].concat().into_iter().take(MESSAGE).collect();
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights };
    sendmsg::<()>(to, &[IoSlice::new(&text)], rights, MsgFlags::empty(), None)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// What was loaded, and why not all of it.
struct Loaded {
    programs: Ebpf,
    attempts: Result<(), String>,
    flows: Result<(), String>,
}

fn load(ring: Option<u32>, with_udp: bool) -> Result<Loaded, String> {
    let btf =
        Btf::from_sys_fs().map_err(|error| reason("cannot read the kernel's types", TO_TRACE, &error))?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf));
    if let Some(bytes) = ring {
        loader.map_max_entries(RING, bytes);
    }
    let marked = u8::from(with_udp);
    loader.override_global(WITH_UDP, &marked, true);
    for map in OF_UDP.iter().filter(|_| !with_udp) {
        loader.map_max_entries(map, 1);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| reason("cannot load", TO_TRACE, &error))?;
    let program: &mut BtfTracePoint = program(&mut ebpf, PROGRAM)?;
    program.load(TRACEPOINT, &btf).map_err(|error| reason("cannot load", TO_TRACE, &error))?;
    program.attach().map_err(|error| reason("cannot attach", TO_TRACE, &error))?;
    let attempts = watch_attempts(&mut ebpf);
    let flows = if with_udp {
        attempts.clone().and_then(|()| watch_flows(&mut ebpf))
    } else {
        Err("they were not asked for".to_owned())
    };
    Ok(Loaded { programs: ebpf, attempts, flows })
}

/// Ends and packets before those who send: a flow that is told is counted and ended.
fn watch_flows(ebpf: &mut Ebpf) -> Result<(), String> {
    let root = cgroup_root()?;
    let release: &mut CgroupSock = program(ebpf, RELEASE)?;
    release.load().map_err(|error| reason("cannot load", TO_JOIN, &error))?;
    release
        .attach(&root, CgroupAttachMode::Single)
        .map_err(|error| reason("cannot attach", TO_JOIN, &error))?;
    for (name, way) in PACKETS {
        let packets: &mut CgroupSkb = program(ebpf, name)?;
        packets.load().map_err(|error| reason("cannot load", TO_JOIN, &error))?;
        packets
            .attach(&root, way, CgroupAttachMode::Single)
            .map_err(|error| reason("cannot attach", TO_JOIN, &error))?;
    }
    for name in SENDING {
        let sending: &mut CgroupSockAddr = program(ebpf, name)?;
        sending.load().map_err(|error| reason("cannot load", TO_JOIN, &error))?;
        sending
            .attach(&root, CgroupAttachMode::Single)
            .map_err(|error| reason("cannot attach", TO_JOIN, &error))?;
    }
    Ok(())
}

/// What is told of an attempt before there is a way to the other end.
fn watch_attempts(ebpf: &mut Ebpf) -> Result<(), String> {
    let root = cgroup_root()?;
    for name in ATTEMPTS {
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        program.load().map_err(|error| reason("cannot load", TO_JOIN, &error))?;
    }
    for name in ATTEMPTS {
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        // What others have attached there stays. `AllowMultiple` is refused for a link, which never replaces anybody.
        program
            .attach(&root, CgroupAttachMode::Single)
            .map_err(|error| reason("cannot attach", TO_JOIN, &error))?;
    }
    Ok(())
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, String>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or_else(|| format!("the object has no program {name}"))
}

/// Where the unified hierarchy is mounted.
fn cgroup_root() -> Result<File, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let of_it = |line: &&str| line.split(' ').nth(2) == Some("cgroup2");
    let path = mounts.lines().find(of_it).and_then(|line| line.split(' ').nth(1));
    let path = path.ok_or("the unified hierarchy of control groups is not mounted")?;
    File::open(path).map_err(|error| format!("cannot open {path}: {error}"))
}

/// Of maps, programs and links. The numbers of the links are asked of `/proc`: the library keeps them to itself.
fn descriptors(ebpf: &Ebpf) -> Result<Vec<RawFd>, String> {
    let mut descriptors = Vec::new();
    for name in MAPS {
        let (Some(Map::RingBuf(map)) | Some(Map::Array(map)) | Some(Map::LruHashMap(map))) = ebpf.map(name)
        else {
            return Err(format!("the object has no map {name}"));
        };
        descriptors.push(map.fd().as_fd().as_raw_fd());
    }
    let mut ids = HashSet::new();
    for (name, program) in ebpf.programs() {
        if let (Ok(fd), Ok(info)) = (program.fd(), program.info()) {
            ids.insert(info.id());
            if name == PROGRAM {
                descriptors.push(fd.as_fd().as_raw_fd());
            }
        }
    }
    let listed = fs::read_dir("/proc/self/fdinfo").map_err(|error| error.to_string())?;
    let numbers = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    let is_link = |number: &RawFd| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
        info.contains("link_type:") && id.is_some_and(|id| ids.contains(&id))
    };
    descriptors.extend(numbers.filter(is_link));
    Ok(descriptors)
}

/// With all its causes, and in the user's words where it is a privilege that lacks. (The verifier refuses with EACCES.)
fn reason(act: &str, needs: &str, error: &dyn Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let is_denied = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.raw_os_error() == Some(Errno::PERM.raw_os_error()));
        if is_denied {
            return format!("needs {needs}");
        }
        texts.push(error.to_string());
        cause = error.source();
    }
    format!("{act}: {}", texts.join(": "))
}
