//! What stands here where the program was built without it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::Received;
use super::event::{BETWEEN, FlowCounts, Word};
use crate::connection::{Cookie, Netns};

/// Never there.
#[derive(Debug)]
pub enum Ebpf {}

impl Ebpf {
    /// # Errors
    /// Always.
    pub fn open(_ports: &[RangeInclusive<u16>], _with_udp: bool) -> Result<Self, String> {
        Err("this build has no eBPF (cargo feature ebpf)".to_owned())
    }

    /// Nothing.
    #[must_use]
    pub fn without_attempts(&self) -> Option<&str> {
        match *self {}
    }

    /// Nothing.
    #[must_use]
    pub fn without_flows(&self) -> Option<&str> {
        match *self {}
    }

    /// Nothing.
    pub fn count_flow(&mut self, _socket: Cookie, _remote: SocketAddr, _is_over: bool) -> Option<FlowCounts> {
        match *self {}
    }

    /// Nothing.
    #[must_use]
    pub fn count_attempts(&self, _netns: Netns) -> Option<u64> {
        match *self {}
    }

    /// Nothing.
    pub fn forget_flows(&mut self, _until: Duration, _but: &HashSet<[u8; BETWEEN]>) {
        match *self {}
    }

    /// Nothing.
    pub fn receive(&mut self, _most: usize, _visit: impl FnMut(Word)) -> Received {
        match *self {}
    }

    /// Nothing.
    pub fn want_count(&mut self) {
        match *self {}
    }

    /// Nothing.
    pub fn count_on(&mut self, _before: &Self) {
        match *self {}
    }

    /// Nothing.
    pub fn detach(&mut self) {
        match *self {}
    }

    /// Nothing.
    ///
    /// # Errors
    /// Never.
    pub fn set_ports(&mut self, _ports: &[RangeInclusive<u16>]) -> Result<(), String> {
        match *self {}
    }
}

impl AsFd for Ebpf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}

/// Never there.
#[derive(Debug)]
pub enum Loading {}

impl Loading {
    /// # Errors
    /// Always.
    pub fn begin(_with_udp: bool) -> Result<Self, String> {
        Err("this build has no eBPF (cargo feature ebpf)".to_owned())
    }

    /// Nothing.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match *self {}
    }

    /// Nothing.
    ///
    /// # Errors
    /// Never.
    pub fn finish(self, _ports: &[RangeInclusive<u16>]) -> Result<Ebpf, String> {
        match self {}
    }
}

impl AsFd for Loading {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}

/// What the loader does: nothing. Status 1.
#[must_use]
pub fn load_for_parent(_with_udp: bool) -> u8 {
    1
}
