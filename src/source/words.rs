//! The kernel's own words among what is waited for: the program that tells them, what it was asked to tell, and the one that
//! takes over from it when another is wanted.
//!
//! Knows no socket of a namespace (`events`) and not what a word means (`pipeline`). One program tells of all namespaces.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::epoll;

use super::Kind;
use super::events::{BATCH, Events, Observation};
use crate::connection::{Cookie, Netns};
use crate::ebpf::event::{FlowCounts, between};
use crate::ebpf::{Ebpf, Loading, PATIENCE};

/// Under which epoll knows them.
pub(super) const WORDS: u64 = u64::MAX;
/// As many words are taken at once: 20 ms, if each is that of another process.
pub(super) const SOME_WORDS: usize = 512;

/// The kernel's own words, once our own namespace was entered.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub source: Option<Ebpf>,
    own: Netns,
    /// True if they are to tell of UDP flows too.
    with_udp: bool,
    /// Kinds that are only for want of them.
    spared: Vec<Kind>,
    /// What the program told that was there before this one, until then.
    left: Vec<Observation>,
    until: Duration,
    loading: Option<Anew>,
}

/// The program, while it is loaded anew, or why it is not.
#[derive(Debug)]
struct Anew {
    loading: Result<Loading, String>,
    with_udp: bool,
    begun: Duration,
}

impl Events {
    /// Has UDP flows told too, where the kernel's own words can be had.
    #[must_use]
    pub fn with_udp(self, with_udp: bool) -> Self {
        self.words().with_udp = with_udp;
        self
    }

    /// Opens these only where the kernel's own words cannot be had.
    #[must_use]
    pub fn sparing(self, spared: Vec<Kind>) -> Self {
        self.words().spared = spared;
        self
    }

    /// Spares no others than these from now on. Answers which of those that were spared are to be opened now.
    pub fn spare_only(&self, spared: &[Kind]) -> Vec<Kind> {
        let mut words = self.words();
        let has_words = words.source.is_some();
        let wanted = words.spared.extract_if(.., |kind| !spared.contains(kind));
        wanted.filter(|kind| has_words && self.wanted.contains(kind)).collect()
    }

    pub(super) fn is_spared(&self, kind: Kind) -> bool {
        let words = self.words();
        words.source.is_some() && words.spared.contains(&kind)
    }

    pub(super) fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In our own namespace alone: it tells of all. `None`: not wanted here. Answers what it does not tell, and why.
    pub(super) fn open_words(
        &self,
        own: Netns,
        is_own: bool,
        ports: &[RangeInclusive<u16>],
    ) -> Option<Result<Vec<String>, String>> {
        if !is_own || !self.wanted.contains(&Kind::Ebpf) {
            return None;
        }
        let mut words = self.words();
        let opened = Ebpf::open(ports, words.with_udp).and_then(|source| {
            self.listen(&source)?;
            Ok(source)
        });
        Some(opened.map(|source| {
            let without = not_told(&source, words.with_udp);
            (words.source, words.own) = (Some(source), own);
            without
        }))
    }

    fn listen(&self, to: &impl AsFd) -> Result<(), String> {
        let data = epoll::EventData::new_u64(WORDS);
        epoll::add(&self.epoll, to, data, epoll::EventFlags::IN).map_err(|error| error.to_string())
    }

    /// Begins to have UDP flows told, or not any more, where that is not as it is: the program is loaded anew, which takes
    /// another process 0.15 s, and the one before goes on until `take_loaded`.
    pub fn set_udp(&self, with_udp: bool, at: Duration) {
        let mut words = self.words();
        let is_loaded = words.with_udp == with_udp;
        if words.source.is_none() || words.loading.as_ref().map_or(is_loaded, |new| new.with_udp == with_udp)
        {
            return;
        }
        let begun = (!is_loaded).then(|| {
            let loading = Loading::begin(with_udp)?;
            self.listen(&loading)?;
            Ok(loading)
        });
        words.loading = begun.map(|loading| Anew { loading, with_udp, begun: at });
    }

    /// The program that was loaded anew takes over: answers what it does not tell, and why; or why there is none, and the
    /// one before goes on. Empty where all is as was asked for. `None`: nothing is loaded, or it is not done.
    ///
    /// Both tell for a moment: until `boottime` then, what the one before told holds, and behind it what the new one tells.
    /// That knows nothing of sockets which were opened before; their ends are told by their cookies all the same.
    pub fn take_loaded(&self, boottime: impl Fn() -> Duration) -> Option<Vec<String>> {
        let mut words = self.words();
        let is_over = |anew: &Anew| match &anew.loading {
            Ok(loading) => loading.is_done() || anew.begun + PATIENCE <= boottime(),
            Err(_) => true,
        };
        let Anew { loading, with_udp, .. } = words.loading.take_if(|anew| is_over(anew))?;
        let loaded = loading.and_then(|loading| {
            if !loading.is_done() {
                return Err(format!("the loader said nothing for {} s", PATIENCE.as_secs()));
            }
            let source = loading.finish(&self.watched.ranges())?;
            self.listen(&source)?;
            Ok(source)
        });
        let mut source = match loaded {
            Ok(source) => source,
            Err(why) => return Some(vec![not_loaded(&why, with_udp)]),
        };
        let until = boottime();
        if let Some(before) = &mut words.source {
            source.count_on(before);
            before.detach();
            before.want_count();
        }
        let (mut left, _) = read(&mut words, usize::MAX);
        left.retain(|told| !matches!(told, Observation::Word(word) if word.sight().at > until));
        let without = not_told(&source, with_udp);
        (words.source, words.with_udp) = (Some(source), with_udp);
        (words.left, words.until) = (left, until);
        Some(without)
    }

    /// In batches; true if there is more.
    pub(super) fn take_words(&self, most: usize) -> (Vec<Vec<Observation>>, bool) {
        let (mut all, is_full) = self.read_words(most);
        let mut batches = Vec::with_capacity(all.len().div_ceil(BATCH));
        while !all.is_empty() {
            let rest = all.split_off(all.len().min(BATCH));
            batches.push(std::mem::replace(&mut all, rest));
        }
        (batches, is_full)
    }

    fn read_words(&self, most: usize) -> (Vec<Observation>, bool) {
        read(&mut self.words(), most)
    }

    /// The kernel's own words up to now: of each socket that a table shows, its opening is among them, unless there is a
    /// flood: then there are more, which is told too. What was lost by now is among them.
    pub fn words_now(&self) -> (Vec<Observation>, bool) {
        if let Some(source) = &mut self.words().source {
            source.want_count();
        }
        self.read_words(SOME_WORDS)
    }

    /// What a flow has carried that a word told of. `is_over`: as `Ebpf::count_flow` means it.
    pub fn count_flow(&self, socket: Cookie, remote: SocketAddr, is_over: bool) -> Option<FlowCounts> {
        self.words().source.as_mut()?.count_flow(socket, remote, is_over)
    }

    /// As `Ebpf::count_attempts`.
    #[must_use]
    pub fn count_attempts(&self, netns: Netns) -> Option<u64> {
        self.words().source.as_ref()?.count_attempts(netns)
    }

    /// Flows that were told until then are told anew with their next datagram, but for these.
    pub fn forget_flows(&self, until: Duration, but: impl Iterator<Item = (Cookie, SocketAddr)>) {
        if let Some(source) = &mut self.words().source {
            source.forget_flows(until, &but.map(|(socket, remote)| between(socket, remote)).collect());
        }
    }
}

/// What a program does not tell, and why.
fn not_told(source: &Ebpf, with_udp: bool) -> Vec<String> {
    let attempts =
        source.without_attempts().map(|why| format!("ebpf tells of no attempt without a way: {why}"));
    let flows = source.without_flows().filter(|_| with_udp);
    attempts.into_iter().chain(flows.map(no_flow)).collect()
}

/// The program before goes on.
fn not_loaded(why: &str, with_udp: bool) -> String {
    match with_udp {
        true => format!("{}; what was loaded before goes on", no_flow(why)),
        false => format!("ebpf still looks at UDP, for nothing: {why}"),
    }
}

fn no_flow(why: &str) -> String {
    format!("ebpf tells of no UDP flow, the table does: {why}")
}

/// What is told by now, or so many words of it; true if there is more.
fn read(words: &mut Words, most: usize) -> (Vec<Observation>, bool) {
    let Words { source, own, left, until, .. } = words;
    let Some(source) = source else { return (Vec::new(), false) };
    let mut all = std::mem::take(left);
    let received = source.receive(most, |word| {
        // Of UDP the program before told nothing.
        if word.sight().at > *until || word.is_of_udp() {
            all.push(Observation::Word(word));
        }
    });
    let lost = Observation::Lost { kind: Kind::Ebpf, netns: *own, count: Some(received.lost) };
    all.extend((received.lost > 0).then_some(lost));
    all.extend((received.missed > 0).then_some(Observation::Missed { count: received.missed }));
    (all, received.more)
}
