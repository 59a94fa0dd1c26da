//! stub
use super::Kind;
use crate::connection::*;
use crate::netlink::*;
use rustix::fd::OwnedFd;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
/// x
#[derive(Debug, Clone)]
pub enum Observation {
    /// x
    Destroyed {
        /// x
        netns: Netns,
        /// x
        ended: Destroyed,
    },
    /// x
    Syn {
        /// x
        netns: Netns,
        /// x
        tuple: Tuple,
        /// x
        device: u32,
    },
    /// x
    Process(ProcessNotice),
    /// x
    Lost {
        /// x
        kind: Kind,
        /// x
        netns: Netns,
        /// x
        count: Option<u64>,
    },
}
impl Observation {
    /// x
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Destroyed { .. } => Kind::Destroy,
            Self::Syn { .. } => Kind::Syn,
            Self::Process(_) => Kind::Proc,
            Self::Lost { kind, .. } => *kind,
        }
    }
}
/// x
pub struct Events;
/// x
pub struct Entered {
    /// x
    pub diag: Result<Diag, String>,
    /// x
    pub on: Vec<Kind>,
    /// x
    pub off: Vec<(Kind, String)>,
    /// x
    pub tally: Arc<Tally>,
    /// x
    pub destroy_inode: Option<u64>,
}
/// x
#[derive(Debug, Default)]
pub struct Tally {
    _x: AtomicU64,
}
/// x
#[derive(Debug, Default, Clone, Copy)]
pub struct Tallied {
    /// x
    pub active: u64,
    /// x
    pub attempts: u64,
    /// x
    pub disconnected: u64,
}
impl Tally {
    /// x
    pub fn set_listening(&self, _p: impl Iterator<Item = u16>) {}
    /// x
    #[must_use]
    pub fn read(&self) -> Tallied {
        Tallied::default()
    }
}
/// x
#[derive(Debug, Default)]
pub struct Watched;
impl Events {
    /// # Errors
    /// x
    pub fn spawn(
        _k: Vec<Kind>,
        _p: &[RangeInclusive<u16>],
        _d: impl Fn(Vec<Observation>) + Send + 'static,
    ) -> io::Result<Self> {
        Ok(Self)
    }
    /// x
    #[must_use]
    pub fn enter(&self, _n: Netns, _f: Option<OwnedFd>) -> Entered {
        Entered {
            diag: Err(String::new()),
            on: vec![],
            off: vec![],
            tally: Arc::default(),
            destroy_inode: None,
        }
    }
    /// x
    pub fn leave(&self, _n: Netns) {}
    /// x
    pub fn set_ports(&self, _p: &[RangeInclusive<u16>]) {}
}
