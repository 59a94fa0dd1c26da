//! The event sockets of one network namespace: how they are opened there, and what they say.

use std::error::Error as _;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Kind;
use super::audit_log::AuditLog;
use super::events::{BATCH, Observation, STACK};
use super::tally::{Side, Tally, Watched};
use crate::audit::{Assembler, Connect};
use crate::connection::{Netns, Tuple};
use crate::files::{FileNotices, News};
use crate::netlink::{
    AuditRecords, DestroyNotices, Diag, Logged, LoggedPackets, NetlinkError, ProcessNotices,
};
use crate::packet::{Syn, SynTap};

/// One source.
#[derive(Debug)]
pub(super) enum Socket {
    Destroy(DestroyNotices),
    Syn(SynTap),
    Nflog(u16, LoggedPackets),
    Audit(AuditRecords, Assembler),
    AuditLog(AuditLog),
    Proc(ProcessNotices),
    Files(FileNotices),
}

impl Socket {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Destroy(_) => Kind::Destroy,
            Self::Syn(_) => Kind::Syn,
            Self::Nflog(group, _) => Kind::Nflog(*group),
            Self::Audit(..) | Self::AuditLog(_) => Kind::Audit,
            Self::Proc(_) => Kind::Proc,
            Self::Files(_) => Kind::Files,
        }
    }

    /// What it has to say now, without waiting. `Err`: it is of no more use, and why.
    pub(super) fn take(
        &mut self,
        netns: Netns,
        tally: &Tally,
        watched: &Watched,
    ) -> Result<Vec<Observation>, String> {
        let mut batch = Vec::new();
        let kind = self.kind();
        let lost = match self {
            Self::Destroy(notices) => {
                let received = notices.receive(BATCH, |ended| {
                    let tell = is_told(tally.count(&ended), &ended.tuple, watched);
                    batch.extend(tell.then_some(Observation::Destroyed { netns, ended }));
                });
                let received = received.map_err(|error| reason(&error))?;
                if received.overflowed {
                    tally.overflowed();
                }
                received.overflowed.then_some(None)
            }
            Self::Syn(tap) => {
                let received = tap.receive(BATCH, |Syn { tuple, device }| {
                    let tell = watched.contains(tuple.remote.port());
                    batch.extend(tell.then_some(Observation::Syn { kind, netns, tuple, device, uid: None }));
                });
                let received = received.map_err(|error| format!("cannot receive packets: {error}"))?;
                (received.lost > 0).then_some(Some(received.lost))
            }
            Self::Nflog(_, packets) => {
                let received = packets.receive(BATCH, |Logged { tuple, device, uid }| {
                    let tell = watched.contains(tuple.remote.port());
                    batch.extend(tell.then_some(Observation::Syn { kind, netns, tuple, device, uid }));
                });
                let received = received.map_err(|error| reason(&error))?;
                match (received.lost, received.overflowed) {
                    (0, false) => None,
                    (0, true) => Some(None),
                    (lost, _) => Some(Some(lost)),
                }
            }
            Self::Audit(records, assembler) => {
                let received = records.receive(BATCH, |kind, text| {
                    assembler.record(kind, text, |connect| tell_connect(&mut batch, connect, watched));
                });
                let received = received.map_err(|error| reason(&error))?;
                let given_up = assembler.take_given_up();
                if received.overflowed { Some(None) } else { (given_up > 0).then_some(Some(given_up)) }
            }
            Self::AuditLog(log) => {
                let lost = log.take(|connect| tell_connect(&mut batch, connect, watched))?;
                (lost > 0).then_some(Some(lost))
            }
            Self::Proc(notices) => {
                let received = notices.receive(BATCH, |notice| batch.push(Observation::Process(notice)));
                let received = received.map_err(|error| reason(&error))?;
                received.overflowed.then_some(None)
            }
            Self::Files(notices) => {
                let received = notices.receive(BATCH, |news| batch.push(observed(news)));
                received.map_err(|error| format!("cannot receive changes of files: {error}"))?.then_some(None)
            }
        };
        batch.extend(lost.map(|count| Observation::Lost { kind, netns, count }));
        Ok(batch)
    }
}

/// Whether an end is told, by whose it was.
fn is_told(side: Side, tuple: &Tuple, watched: &Watched) -> bool {
    match side {
        Side::Ours => watched.contains(tuple.remote.port()),
        Side::Disconnected => true,
        Side::Theirs => watched.accepts(tuple.local.port()),
        Side::Neither => false,
    }
}

fn observed(news: News) -> Observation {
    match news {
        News::File(notice) => Observation::File(notice),
        News::Unwatched { count, detail } => Observation::Unwatched { count, detail },
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Destroy(notices) => notices.as_fd(),
            Self::Syn(tap) => tap.as_fd(),
            Self::Nflog(_, packets) => packets.as_fd(),
            Self::Audit(records, _) => records.as_fd(),
            Self::AuditLog(log) => log.as_fd(),
            Self::Proc(notices) => notices.as_fd(),
            Self::Files(notices) => notices.as_fd(),
        }
    }
}

/// What could be opened in the calling thread's namespace.
pub(super) struct Opened {
    pub(super) diag: Result<Diag, String>,
    pub(super) sockets: Vec<(Kind, Result<Socket, String>)>,
}

/// Those of watched ports are told.
fn tell_connect(batch: &mut Vec<Observation>, connect: Connect, watched: &Watched) {
    if watched.contains(connect.remote.port()) {
        batch.push(Observation::Connect(Box::new(connect)));
    }
}

/// `audit_log`: read instead of the kernel's records.
pub(super) fn open(wanted: &[Kind], ports: &[RangeInclusive<u16>], audit_log: Option<&Path>) -> Opened {
    let diag = Diag::open().map_err(|error| reason(&error));
    let socket = |kind| match kind {
        // Without the modules that the table is asked by, the kernel takes the subscription and never tells anything.
        Kind::Destroy => match &diag {
            Err(reason) => Err(reason.clone()),
            Ok(_) => DestroyNotices::subscribe().map(Socket::Destroy).map_err(|error| reason(&error)),
        },
        Kind::Syn => SynTap::open(ports).map(Socket::Syn).map_err(|error| {
            // A filter of system calls answers that there are no packet sockets, before anybody asks for the capability.
            let is_filtered = error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error());
            match error.kind() {
                io::ErrorKind::PermissionDenied => "needs CAP_NET_RAW".to_owned(),
                _ if is_filtered => {
                    "needs CAP_NET_RAW and, in a systemd unit, RestrictAddressFamilies=AF_PACKET".to_owned()
                }
                _ => format!("cannot open a packet socket: {error}"),
            }
        }),
        Kind::Nflog(group) => match LoggedPackets::bind(group) {
            Ok(packets) => Ok(Socket::Nflog(group, packets)),
            Err(error) if error.is_denied() => Err("needs CAP_NET_ADMIN".to_owned()),
            Err(error) if error.is_taken() => Err(format!("another program listens to group {group}")),
            Err(error) if error.is_unsupported() => {
                Err(format!("{error}: this kernel has no module for it (nfnetlink_log)"))
            }
            Err(error) => Err(reason(&error)),
        },
        Kind::Audit => match audit_log {
            Some(path) => AuditLog::open(path).map(Socket::AuditLog),
            None => open_audit(),
        },
        Kind::Proc => {
            ProcessNotices::subscribe().map(Socket::Proc).map_err(|error| match error.is_denied() {
                true => "needs CAP_NET_ADMIN and the machine's first namespaces".to_owned(),
                false => reason(&error),
            })
        }
        Kind::Ebpf => Err(String::new()),
        Kind::Files => FileNotices::open().map(Socket::Files).map_err(|error| error.to_string()),
    };
    // Those that `Socket` knows; the kernel's own words come of all namespaces at once.
    let here = wanted.iter().filter(|kind| **kind != Kind::Ebpf);
    let sockets = here.map(|kind| (*kind, socket(*kind))).collect();
    Opened { diag, sockets }
}

fn open_audit() -> Result<Socket, String> {
    match AuditRecords::subscribe() {
        Ok(records) => Ok(Socket::Audit(records, Assembler::default())),
        Err(error) if error.is_denied() => Err("needs CAP_AUDIT_READ".to_owned()),
        Err(error) if error.is_unsupported() => Err(format!("{error}: this kernel has no audit")),
        Err(error) => Err(reason(&error)),
    }
}

fn reason(error: &NetlinkError) -> String {
    match (error.is_denied(), error.is_unsupported(), error.source()) {
        (false, true, _) => format!("{error}: this kernel has no module for it (tcp_diag)"),
        (_, _, Some(source)) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// On a thread that goes into the namespace and ends: its sockets stay there.
pub(super) fn open_inside(
    file: BorrowedFd<'_>,
    wanted: &[Kind],
    ports: &[RangeInclusive<u16>],
) -> Result<Opened, String> {
    let inside = || {
        move_into_link_name_space(file, Some(LinkNameSpaceType::Network)).map_err(|error| match error {
            Errno::PERM => "entering another namespace needs CAP_SYS_ADMIN".to_owned(),
            other => format!("cannot enter the namespace: {other}"),
        })?;
        Ok(open(wanted, ports, None))
    };
    thread::scope(|scope| {
        let name = thread::Builder::new().name("enter".to_owned()).stack_size(STACK);
        let entering =
            name.spawn_scoped(scope, inside).map_err(|error| format!("cannot start a thread: {error}"))?;
        entering.join().unwrap_or_else(|_| Err("entering the namespace failed".to_owned()))
    })
}
