//! What outlives a run: where the stream of records is, and which connections are open.
//!
//! The log is the write-ahead log. The state file says where in the log it was true; what was written behind that place
//! is read again (`replay`). It is written whole, synced and renamed, and only one portreeve may use its folder.

#![expect(clippy::disallowed_methods, reason = "this module opens the state and reads the log's tail")]

mod folder;
mod replay;
mod saved;

use std::sync::Arc;

use uuid::Uuid;

use crate::connection::{Connection, Moment};

pub use folder::{Folder, StateError};

/// A place in a file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Device of the file.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// Bytes before the place.
    pub offset: u64,
}

/// An open connection, and the boot that it belongs to.
#[derive(Debug, Clone)]
pub struct Live {
    /// As it was told last.
    pub connection: Arc<Connection>,
    /// `None` where the boot id is hidden.
    pub boot: Option<String>,
}

/// The state of a stream after one of its records.
#[derive(Debug, Clone)]
pub struct State {
    /// `agent.id`.
    pub stream: String,
    /// Number of the last record.
    pub sequence: u64,
    /// Its chain.
    pub chain: [u8; 64],
    /// The end of its line.
    pub place: Place,
    /// Until when was watched.
    pub at: Moment,
    /// In which boot. `None` where the boot id is hidden.
    pub boot: Option<String>,
    /// True if its run ended with it.
    pub is_clean: bool,
    /// No id that was given so far is later.
    pub last_id: Uuid,
    /// Epoch of the last seal.
    pub seal: Option<u64>,
    /// What is open, in order of open.
    pub live: Vec<Live>,
}

/// What a run finds of those before it.
#[derive(Debug)]
pub enum Past {
    /// Nothing: this is the first.
    None,
    /// Something that cannot be gone on from, and why.
    Lost(String),
    /// A stream to go on with.
    Known {
        /// Where it is.
        state: Box<State>,
        /// Bytes that were cut off the log since.
        cut: u64,
    },
}

#[cfg(test)]
mod tests;
