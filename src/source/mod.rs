//! Where observations come from, and which of them are wanted.
//!
//! Knows nothing of the connections that are open (`table`) and names nobody (`attribution`).

pub mod direction;
pub mod events;
pub mod gate;
pub mod poll;
pub mod selection;
mod sockets;
pub mod tally;

pub use selection::{Filter, Matcher, PortSet, Selection};
