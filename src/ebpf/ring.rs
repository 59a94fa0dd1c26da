//! The ring, as it is read, and the ports that are watched.

#![expect(
    clippy::disallowed_methods,
    reason = "reads what the kernel tells of its own descriptors, and waits for the loader"
)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs::File;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, RingBuf};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, pread};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use rustix::thread::{CapabilitySet, capabilities};

use super::event::{BETWEEN, FLOW, FlowCounts, Word, between, parse, parse_flow};
use super::load::{DONE, MAPS, MESSAGE, RING, hand_over};
use super::{LOADER, LOADER_WITH_UDP, PATIENCE, Received};
use crate::connection::{Cookie, Netns};

/// Of readings in a row that do not ask what was lost, which takes 3 µs, each so many does.
const ASK_EVERY: u32 = 8;
/// Descriptors that it may hand over.
const MOST_FDS: usize = 16;
/// Flows, and namespaces, that the kernel's maps have room for.
const MOST_FLOWS: usize = 16_384;
const MOST_NAMESPACES: usize = 8_192;
/// Words of the bitmap of ports.
const BITMAP: usize = 1_024;
/// Places in `lost`.
const LOST: [u32; 2] = [0, 1];
/// Words of `Process` in the first namespace of its kind (`PROC_PID_INIT_INO`).
const FIRST_PIDS: &str = "pid:[4026531836]";

/// The program in the kernel, attached as long as this lives.
pub struct Ebpf {
    ring: RingBuf<MapData>,
    ports: Array<MapData, u64>,
    full: Array<MapData, u64>,
    flows: HashMap<MapData, [u8; BETWEEN], [u8; FLOW]>,
    attempts: HashMap<MapData, u32, u64>,
    /// What is to be added to them, for the programs before this one.
    attempts_before: BTreeMap<u32, u64>,
    /// The program, and what the kernel tells of it: how often it was not run. `None`: that cannot be read.
    program: Option<(OwnedFd, File)>,
    /// Closing them detaches.
    links: Vec<OwnedFd>,
    /// Why attempts are not told; empty where they are.
    without_attempts: String,
    /// The same of flows.
    without_flows: String,
    bitmap: Vec<u64>,
    lost: u64,
    missed: u64,
    /// Readings, and bytes of words, since it was asked what was lost.
    readings: u32,
    bytes: usize,
    /// Bytes that the ring holds.
    size: usize,
}

impl fmt::Debug for Ebpf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ebpf").field("lost", &self.lost).finish_non_exhaustive()
    }
}

/// The program, while another process loads it.
#[derive(Debug)]
pub struct Loading {
    from: OwnedFd,
    loader: Child,
}

impl Loading {
    /// Starts this executable once more.
    ///
    /// # Errors
    /// As `Ebpf::open`.
    pub fn begin(with_udp: bool) -> Result<Self, String> {
        let sets = capabilities(None).map_err(|error| error.to_string())?;
        let needs = CapabilitySet::BPF | CapabilitySet::PERFMON;
        if !sets.effective.contains(needs) && !sets.effective.contains(CapabilitySet::SYS_ADMIN) {
            // As the loader would find out, at a price.
            return Err("needs CAP_BPF and CAP_PERFMON".to_owned());
        }
        let (ours, theirs) = pair()?;
        let loader = Command::new("/proc/self/exe")
            .arg(if with_udp { LOADER_WITH_UDP } else { LOADER })
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start the loader: {error}"))?;
        Ok(Self { from: ours, loader })
    }

    /// True if `finish` need not wait.
    #[must_use]
    pub fn is_done(&self) -> bool {
        poll(&mut [PollFd::new(&self.from, PollFlags::IN)], Some(&Timespec::default())) != Ok(0)
    }

    /// Takes what was loaded, once that is done.
    ///
    /// # Errors
    /// As `Ebpf::open`.
    pub fn finish(self, ports: &[RangeInclusive<u16>]) -> Result<Ebpf, String> {
        take_over(&self.from, ports)
    }
}

impl AsFd for Loading {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        // What it was to say is said, or not wanted.
        let _ended_already = self.loader.kill();
        let _its_message_said_more = self.loader.wait();
    }
}

impl Ebpf {
    /// Has the program loaded by this executable, started once more: 0.15 s. `with_udp`: and those that tell of flows.
    ///
    /// # Errors
    /// Why not, in plain words.
    pub fn open(ports: &[RangeInclusive<u16>], with_udp: bool) -> Result<Self, String> {
        Loading::begin(with_udp)?.finish(ports)
    }

    /// Loads it in this process, which costs 20 MiB for good. For tests. `ring`: bytes of the ring.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_here(
        ports: &[RangeInclusive<u16>],
        ring: Option<u32>,
        with_udp: bool,
    ) -> Result<Self, String> {
        let (ours, theirs) = pair()?;
        hand_over(&theirs, ring, with_udp)?;
        drop(theirs);
        take_over(&ours, ports)
    }

    /// Why attempts to which there is no way are not told. `None`: they are.
    #[must_use]
    pub fn without_attempts(&self) -> Option<&str> {
        Some(self.without_attempts.as_str()).filter(|reason| !reason.is_empty())
    }

    /// Why flows are not told. `None`: they are.
    #[must_use]
    pub fn without_flows(&self) -> Option<&str> {
        Some(self.without_flows.as_str()).filter(|reason| !reason.is_empty())
    }

    /// What a flow has carried so far: a system call. `is_over`: and begins anew, as another one, with its next datagram.
    /// `None`: it was not told, or others took its place.
    pub fn count_flow(&mut self, socket: Cookie, remote: SocketAddr, is_over: bool) -> Option<FlowCounts> {
        let key = between(socket, remote);
        let counts = self.flows.get(&key, 0).ok();
        if is_over && counts.is_some() {
            let _others_took_its_place = self.flows.remove(&key);
        }
        counts.as_ref().and_then(parse_flow)
    }

    /// How many attempts to connect it has seen in this namespace, to any port: a system call. `None`: none yet, or so long ago
    /// that thousands of other namespaces took its place.
    #[must_use]
    pub fn count_attempts(&self, netns: Netns) -> Option<u64> {
        let netns = u32::try_from(netns.0).ok()?;
        let (counted, before) = (self.attempts.get(&netns, 0).ok(), self.attempts_before.get(&netns));
        if counted.is_none() && before.is_none() {
            return None;
        }
        Some(before.copied().unwrap_or(0).wrapping_add(counted.unwrap_or(0)))
    }

    /// Counts attempts on from where the program before this one, which still counts, has got to.
    pub fn count_on(&mut self, before: &Self) {
        // This one first: none that comes meanwhile seems missed.
        let ours: BTreeMap<u32, u64> = self.attempts.iter().flatten().collect();
        let theirs = before.attempts.keys().flatten().take(MOST_NAMESPACES);
        for netns in theirs.chain(before.attempts_before.keys().copied()).collect::<BTreeSet<_>>() {
            let counted = before.count_attempts(Netns(netns.into())).unwrap_or(0);
            let ours = ours.get(&netns).copied().unwrap_or(0);
            self.attempts_before.insert(netns, counted.wrapping_sub(ours));
        }
    }

    /// Forgets the flows that were told until then, but for those under these keys (`event::between`): with its next datagram
    /// each is told anew. 1 µs for each that is known.
    pub fn forget_flows(&mut self, until: Duration, but: &HashSet<[u8; BETWEEN]>) {
        // As many as there is room for: whoever sends meanwhile may make the kernel begin at the front again.
        let keys: Vec<_> = self.flows.keys().flatten().take(MOST_FLOWS).collect();
        for key in keys.into_iter().filter(|key| !but.contains(key)) {
            let counts = self.flows.get(&key, 0).ok().as_ref().and_then(parse_flow);
            if counts.is_some_and(|counts| counts.first <= until) {
                let _others_took_its_place = self.flows.remove(&key);
            }
        }
    }

    /// Gives up to `most` words to `visit`, without waiting. Mostly costs no system call where there are none.
    pub fn receive(&mut self, most: usize, mut visit: impl FnMut(Word)) -> Received {
        let mut taken = 0;
        while taken < most
            && let Some(record) = self.ring.next()
        {
            taken += 1;
            self.bytes += record.len();
            if let Some(word) = parse(&record) {
                visit(word);
            }
        }
        // A ring that was full gives much at once. What was left out, and what was lost last, no word tells: that is asked
        // for now and then.
        self.readings += 1;
        let must_ask = self.bytes >= self.size / 8 || self.readings >= ASK_EVERY;
        let asked = if must_ask { self.ask() } else { Received::default() };
        Received { more: taken == most, ..asked }
    }

    /// The next reading asks what was lost.
    pub fn want_count(&mut self) {
        self.readings = ASK_EVERY;
    }

    /// What was lost since it was asked last.
    fn ask(&mut self) -> Received {
        (self.readings, self.bytes) = (0, 0);
        let (lost, missed) = self.count_lost();
        let received = Received {
            more: false,
            lost: lost.saturating_sub(self.lost),
            missed: missed.saturating_sub(self.missed),
        };
        (self.lost, self.missed) = (lost, missed);
        received
    }

    /// Nothing more is told. What was told can still be received.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// Watches other ports from now on.
    ///
    /// # Errors
    /// If the kernel refuses, which it does not.
    pub fn set_ports(&mut self, ports: &[RangeInclusive<u16>]) -> Result<(), String> {
        let mut bitmap = vec![0; BITMAP];
        for port in ports.iter().cloned().flatten().filter(|port| *port != 0) {
            if let Some(word) = bitmap.get_mut(usize::from(port / 64)) {
                *word |= 1u64 << (port % 64);
            }
        }
        let refused = |error: aya::maps::MapError| format!("cannot tell the program its ports: {error}");
        for (place, (new, old)) in (0..).zip(bitmap.iter().zip(&self.bitmap)) {
            if new != old {
                self.ports.set(place, new, 0).map_err(refused)?;
            }
        }
        self.bitmap = bitmap;
        Ok(())
    }

    fn count_lost(&self) -> (u64, u64) {
        let lost = LOST.iter().filter_map(|place| self.full.get(place, 0).ok()).sum();
        (lost, self.program.as_ref().map_or(0, |(_, told)| missed(told)))
    }
}

impl AsFd for Ebpf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// How often the kernel did not run a program because it was running on that processor.
fn missed(program: &File) -> u64 {
    let mut info = [0; 1_024];
    let len = pread(program, &mut info, 0).unwrap_or(0);
    let text = info.get(..len).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok());
    count.unwrap_or(0)
}

fn pair() -> Result<(OwnedFd, OwnedFd), String> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| format!("cannot make a pair of sockets: {error}"))
}

/// Takes what the loader has loaded.
fn take_over(from: &OwnedFd, ports: &[RangeInclusive<u16>]) -> Result<Ebpf, String> {
    let pids = std::fs::read_link("/proc/self/ns/pid").map_err(|error| error.to_string())?;
    if pids.as_os_str() != FIRST_PIDS {
        return Err(
            "needs the machine's first namespace of processes: their numbers are those of that".to_owned()
        );
    }
    let (text, fds) = receive(from)?;
    let mut fds = fds.into_iter();
    let mut size = 0;
    let mut map = |name: &str| {
        let fd = fds.next().ok_or_else(|| format!("the loader handed over no {name}"))?;
        let map = MapData::from_fd(fd).and_then(|data| {
            if name == RING {
                size = usize::try_from(data.info()?.max_entries()).unwrap_or(usize::MAX);
            }
            Map::from_map_data(data)
        });
        map.map_err(|error| format!("{name}: {error}"))
    };
    let [ring, ports_map, full, flows, attempts_map] = MAPS.map(&mut map);
    let program = fds.next().ok_or("the loader handed over no program")?;
    let told = File::open(format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
    let error = |error: aya::maps::MapError| format!("cannot map the ring: {error}");
    let (attempts, without_flows) = text.split_once('\n').unwrap_or((&text, ""));
    let mut ebpf = Ebpf {
        ring: RingBuf::try_from(ring?).map_err(error)?,
        ports: Array::try_from(ports_map?).map_err(error)?,
        full: Array::try_from(full?).map_err(error)?,
        flows: HashMap::try_from(flows?).map_err(error)?,
        attempts: HashMap::try_from(attempts_map?).map_err(error)?,
        attempts_before: BTreeMap::new(),
        program: told.ok().map(|told| (program, told)),
        links: fds.collect(),
        without_attempts: attempts.to_owned(),
        without_flows: without_flows.to_owned(),
        bitmap: vec![0; BITMAP],
        lost: 0,
        missed: 0,
        readings: 0,
        bytes: 0,
        size,
    };
    (ebpf.lost, ebpf.missed) = ebpf.count_lost();
    ebpf.set_ports(ports)?;
    Ok(ebpf)
}

/// The loader's one message.
fn receive(from: &OwnedFd) -> Result<(String, Vec<OwnedFd>), String> {
    let silent = || "the loader ended without a word".to_owned();
    let patience = Timespec::try_from(PATIENCE).ok();
    if poll(&mut [PollFd::new(from, PollFlags::IN)], patience.as_ref()) == Ok(0) {
        return Err(format!("the loader said nothing for {} s", PATIENCE.as_secs()));
    }
    let mut text = [0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [std::io::IoSliceMut::new(&mut text)];
    let received = recvmsg(from, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let len = received.map_err(|error: Errno| format!("cannot hear the loader: {error}"))?.bytes;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let (outcome, rest) = text.get(..len).and_then(|text| text.split_first()).ok_or_else(silent)?;
    let rest = String::from_utf8_lossy(rest).into_owned();
    if *outcome == DONE { Ok((rest, fds)) } else { Err(rest) }
}
