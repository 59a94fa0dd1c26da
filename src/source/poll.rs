//! Snapshots of a namespace's TCP table: from `net/tcp` and `net/tcp6`, or by sock_diag with the selection made in the
//! kernel. Both say the same; one of them is in use and the other steps in when that fails.
//!
//! Refuses to conclude anything from what is absent; says only whether the read was complete.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::Selection;
use super::direction::{Listeners, is_outbound};
use crate::connection::{Netns, Snapshot, Socket, TcpState};
use crate::netlink::{Clause, Diag, Filter, NetlinkError, states};
use crate::proc::{Net, Proc, ProcError, TableRead};

/// Where a table is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `net/tcp` and `net/tcp6`: milliseconds, whatever is asked.
    Procfs,
    /// sock_diag: a tenth of that.
    Netlink,
}

impl Source {
    /// As it is typed and told.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Procfs => "procfs",
            Self::Netlink => "netlink",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Procfs => Self::Netlink,
            Self::Netlink => Self::Procfs,
        }
    }
}

/// As many rows that nobody holds are kept of one reading: a flood leaves hundreds of thousands in TIME_WAIT.
const MOST_ENDS: usize = 65_536;

/// What a snapshot is reduced to.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which remote ends.
    pub select: &'a Selection,
    /// Ports that an SSH server listens on.
    pub server_ports: &'a HashSet<u16>,
    /// From `Proc::ephemeral_ports`.
    pub ephemeral: (u16, u16),
    /// True if notices tell of every end: rows in TIME_WAIT are not asked for.
    pub noticed: bool,
}

/// A read that took another way than the one before.
#[derive(Debug)]
pub struct Fallback {
    /// From here on.
    pub to: Source,
    /// Why.
    pub error: String,
}

/// What one reading brought.
#[derive(Debug)]
pub struct Reading {
    /// The rows.
    pub snapshot: Snapshot,
    /// How many, and how many could not be parsed.
    pub rows: TableRead,
    /// Set if the source that is in use failed, and the other one told all this.
    pub fallback: Option<Fallback>,
}

/// The table of one namespace, and how it is read.
#[derive(Debug)]
pub struct Tables {
    netns: Netns,
    source: Source,
    diag: Option<Diag>,
}

impl Tables {
    /// By `diag` where there is one, until `choose` or `prefer` says otherwise.
    #[must_use]
    pub fn new(netns: Netns, diag: Option<Diag>) -> Self {
        let source = if diag.is_some() { Source::Netlink } else { Source::Procfs };
        Self { netns, source, diag }
    }

    /// What is in use.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Uses this one from now on, if it can be had.
    pub fn prefer(&mut self, source: Source) {
        if source == Source::Procfs || self.diag.is_some() {
            self.source = source;
        }
    }

    /// True if exact lookups can be made.
    #[must_use]
    pub fn looks_up(&self) -> bool {
        self.diag.is_some()
    }

    /// For exact lookups, whichever source is in use.
    pub fn diag(&mut self) -> Option<&mut Diag> {
        self.diag.as_mut()
    }

    /// Reads both families once.
    ///
    /// # Errors
    /// If no source answers: the error of the one in `/proc`.
    pub fn read(&mut self, proc: &Proc, net: Net<'_>, wanted: &Wanted<'_>) -> Result<Reading, ProcError> {
        let failed = match self.read_from(self.source, proc, net, wanted) {
            Ok((snapshot, rows)) => return Ok(Reading { snapshot, rows, fallback: None }),
            Err(failed) => failed,
        };
        let to = self.source.other();
        match (self.read_from(to, proc, net, wanted), failed) {
            (Ok((snapshot, rows)), failed) => {
                self.source = to;
                let fallback = Some(Fallback { to, error: failed.to_string() });
                Ok(Reading { snapshot, rows, fallback })
            }
            (Err(PollError::Proc(error)), _) | (_, PollError::Proc(error)) => Err(error),
            // One of the two ways leads through `/proc`, so this is not reached.
            (Err(error), _) => Err(ProcError::Read {
                path: proc.root().join("self/net/tcp"),
                source: std::io::Error::other(error.to_string()),
            }),
        }
    }

    fn read_from(
        &mut self,
        source: Source,
        proc: &Proc,
        net: Net<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<(Snapshot, TableRead), PollError> {
        let mut gather =
            Gather { netns: self.netns, wanted, rows: Vec::new(), listening: Vec::new(), ends: 0 };
        match (source, &mut self.diag) {
            (Source::Procfs, _) => {
                let read = proc.read_tcp(net, |socket| gather.add(socket)).map_err(PollError::Proc)?;
                Ok((gather.finish(read.unparsed == 0), read))
            }
            (Source::Netlink, Some(diag)) => {
                let listening = diag.dump(states::LISTEN, None, |socket| gather.add(socket));
                let listening = listening.map_err(PollError::Netlink)?;
                let mask = if wanted.noticed { states::LIVE } else { states::NOT_LISTEN };
                let dump = diag.dump(mask, wanted.filter().as_ref(), |socket| gather.add(socket));
                let dump = dump.map_err(PollError::Netlink)?;
                let read = TableRead {
                    rows: listening.rows + dump.rows,
                    unparsed: listening.unparsed + dump.unparsed,
                };
                let whole = read.unparsed == 0 && !listening.interrupted && !dump.interrupted;
                Ok((gather.finish(whole), read))
            }
            (Source::Netlink, None) => Err(PollError::NoNetlink),
        }
    }
}

#[derive(Debug)]
enum PollError {
    Proc(ProcError),
    Netlink(NetlinkError),
    NoNetlink,
}

impl fmt::Display for PollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::error::Error as _;
        let cause = match self {
            Self::NoNetlink => return f.write_str("no socket for it could be opened"),
            Self::Proc(error) => {
                error.fmt(f)?;
                error.source()
            }
            Self::Netlink(error) => {
                error.fmt(f)?;
                error.source()
            }
        };
        cause.map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

/// Rows on their way into a snapshot.
struct Gather<'a> {
    netns: Netns,
    wanted: &'a Wanted<'a>,
    rows: Vec<Socket>,
    listening: Vec<Socket>,
    ends: usize,
}

impl Gather<'_> {
    fn add(&mut self, socket: Socket) {
        if socket.state == TcpState::Listen {
            self.listening.push(socket);
        } else if socket.tuple.local.port() == 0 {
            // While the kernel takes a socket down its row may still be there, without the port that it has given back.
        } else if self.wanted.selects(&socket) || self.wanted.is_servers(&socket) {
            self.ends += usize::from(socket.inode.is_none());
            if socket.inode.is_some() || self.ends <= MOST_ENDS {
                self.rows.push(socket);
            }
        }
    }

    /// Which end we are can be told only now: a listener may stand behind the rows that it explains.
    fn finish(self, complete: bool) -> Snapshot {
        let Self { netns, wanted, mut rows, listening, ends } = self;
        let mut listeners = Listeners::default();
        listening.iter().for_each(|socket| listeners.add(socket.tuple.local));
        let theirs = |socket: &mut Socket| !is_outbound(socket, &listeners, wanted.ephemeral);
        let inbound = rows.extract_if(.., theirs);
        let (accepted, inbound) =
            inbound.partition(|socket| wanted.select.inbound && wanted.is_servers(socket));
        rows.retain(|socket| wanted.selects(socket));
        Snapshot {
            netns,
            outbound: rows,
            inbound,
            accepted,
            listeners: listening,
            complete,
            ends_left_out: ends.saturating_sub(MOST_ENDS) as u64,
            standing: false,
            noticed: wanted.noticed,
        }
    }
}

impl Wanted<'_> {
    fn selects(&self, socket: &Socket) -> bool {
        self.select.wants(&socket.tuple)
    }

    fn is_servers(&self, socket: &Socket) -> bool {
        self.server_ports.contains(&socket.tuple.local.port())
    }

    /// The same for the kernel, as far as ports go. `None`: everything passes.
    fn filter(&self) -> Option<Filter> {
        let ports = self.select.looked_at();
        if ports.is_all() {
            return None;
        }
        let remote = ports.ranges().iter().cloned().map(Clause::RemotePorts);
        let local = self.server_ports.iter().map(|port| Clause::LocalPorts(*port..=*port));
        Filter::any_of(remote.chain(local))
    }
}

/// Which source was chosen for a namespace, and what was found on the way.
#[derive(Debug)]
pub struct Choice {
    /// In words, with what each costs.
    pub reason: String,
    /// Rows that one source shows and the other does not, each confirmed by a second reading of both.
    pub differences: Vec<String>,
}

/// Takes a snapshot both ways, twice if they differ, and keeps the cheaper way.
pub fn choose(
    tables: &mut Tables,
    proc: &Proc,
    net: Net<'_>,
    wanted: &Wanted<'_>,
    cputime: &dyn Fn() -> Duration,
) -> Choice {
    let hasher = RandomState::new();
    let mut timed = |source| {
        let before = cputime();
        let outcome = tables.read_from(source, proc, net, wanted).map(|(snapshot, _)| snapshot);
        let cost = cputime().saturating_sub(before);
        outcome.map(|snapshot| (lasting(&snapshot, &hasher), cost))
    };
    let (by_proc, by_netlink) = (timed(Source::Procfs), timed(Source::Netlink));
    let (source, reason, differ) = match (&by_proc, &by_netlink) {
        (Ok((one, dear)), Ok((other, cheap))) => {
            let (source, than) = if cheap <= dear { (Source::Netlink, "") } else { (Source::Procfs, "not ") };
            let reason = format!(
                "a reading costs {} by netlink and {} by procfs: {than}cheaper by netlink",
                in_ms(*cheap),
                in_ms(*dear)
            );
            (source, reason, one != other)
        }
        (_, Err(error)) => (Source::Procfs, format!("netlink cannot be had: {error}"), false),
        (Err(error), Ok(_)) => (Source::Netlink, format!("procfs cannot be read: {error}"), false),
    };
    let mut differences = Vec::new();
    if differ && let (Ok((one, _)), Ok((other, _))) = (by_proc, by_netlink) {
        let again = (timed(Source::Procfs), timed(Source::Netlink));
        if let (Ok((one_again, _)), Ok((other_again, _))) = again {
            let here = only([&one, &one_again], [&other, &other_again]);
            let there = only([&other, &other_again], [&one, &one_again]);
            for (source, rows) in [(Source::Procfs, here), (Source::Netlink, there)] {
                let named = tables.read_from(source, proc, net, wanted);
                differences.extend(
                    named.into_iter().flat_map(|(snapshot, _)| name(source, &snapshot, &rows, &hasher)),
                );
            }
        }
    }
    tables.prefer(source);
    Choice { reason, differences }
}

/// Rows by a hash of what makes them themselves; ends come and go too fast to be compared.
fn lasting(snapshot: &Snapshot, hasher: &RandomState) -> HashSet<u64> {
    rows(snapshot).filter(|socket| socket.inode.is_some()).map(|socket| hash(socket, hasher)).collect()
}

fn rows(snapshot: &Snapshot) -> impl Iterator<Item = &Socket> {
    snapshot.outbound.iter().chain(&snapshot.inbound).chain(&snapshot.accepted).chain(&snapshot.listeners)
}

fn hash(socket: &Socket, hasher: &RandomState) -> u64 {
    hasher.hash_one((socket.tuple, socket.inode))
}

/// Rows that were there both times, and not here either time.
fn only(there: [&HashSet<u64>; 2], here: [&HashSet<u64>; 2]) -> HashSet<u64> {
    let [first, again] = there;
    let both = first.iter().filter(|row| again.contains(row));
    both.filter(|row| here.iter().all(|rows| !rows.contains(row))).copied().collect()
}

fn name(source: Source, snapshot: &Snapshot, those: &HashSet<u64>, hasher: &RandomState) -> Vec<String> {
    let tell = |socket: &Socket| {
        format!("only {} shows the socket {} - {}", source.name(), socket.tuple.local, socket.tuple.remote)
    };
    rows(snapshot).filter(|socket| those.contains(&hash(socket, hasher))).map(tell).collect()
}

fn in_ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}
