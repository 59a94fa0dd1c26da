//! Where observations come from, and which of them are wanted.
//!
//! Knows nothing of the connections that are open (`table`) and names nobody (`attribution`).

mod audit_log;
pub mod direction;
pub mod events;
pub mod flows;
pub mod gate;
pub mod namespaces;
pub mod poll;
pub mod selection;
mod sockets;
pub mod tally;
mod words;

pub use events::{Events, Observation};
pub use flows::TransportChoice;
pub use selection::{EventChoice, ExecutionChoice, Filter, Kind, Matcher, PortSet, Selection, UDP_IDLE};
pub use tally::{Tally, Watched};
