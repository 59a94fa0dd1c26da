//! The kernel's own words of TCP connections and UDP flows to watched ports: who makes them, and how they end, in all
//! namespaces at once.
//!
//! Owns the program inside the kernel (`bpf/portreeve.bpf.c`) and the ring through which it tells. Knows no connection that
//! is open and names nobody: what its words mean is decided in `pipeline::observe`.
//!
//! Loading takes 46 MiB, because all of the kernel's types are read for it, and an allocator gives little of them back. So
//! another process does it, this executable once more (`load`), which hands over descriptors and ends: 2 MiB for the ring
//! are all that is spent here.

use std::time::Duration;

pub mod event;

#[cfg(not(feature = "ebpf"))]
mod absent;
#[cfg(feature = "ebpf")]
mod load;
#[cfg(feature = "ebpf")]
mod ring;

#[cfg(not(feature = "ebpf"))]
pub use absent::{Ebpf, Loading, load_for_parent};
#[cfg(feature = "ebpf")]
pub use load::load_for_parent;
#[cfg(feature = "ebpf")]
pub use ring::{Ebpf, Loading};

/// The one argument by which this executable is told to load the program and to hand it over. No subcommand: nobody types it.
pub const LOADER: &str = "--load-ebpf-for-parent";
/// The same, with the programs of UDP.
pub const LOADER_WITH_UDP: &str = "--load-ebpf-for-parent=udp";

/// The loader takes a tenth of a second; so long it is waited for, on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a reading brought beside what was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// True if there may be more.
    pub more: bool,
    /// What there was no room for.
    pub lost: u64,
    /// Changes of state, of any socket, for which the kernel did not run the program: ends may be among them.
    pub missed: u64,
}
