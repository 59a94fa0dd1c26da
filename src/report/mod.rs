//! Readers of the log: what the daemon wrote, told to people.
//! Never opens `/proc`, needs no privilege, shares no code with the writer but the words of `text`.
//! Truth: the log's lines and the field names of portreeve-events(5), nothing else.

pub mod explain;
mod files;
mod filter;
mod follow;
mod lines;
mod notice;
pub mod paths;
mod printer;
mod record;
pub mod show;
mod time;
mod unpack;
mod words;

pub use files::with_rotated;
pub use filter::{AddressMatch, Filter, IdPrefix};
pub use notice::{Flaw, Notice};
pub use time::parse_time;
pub(crate) use unpack::{Packing, unpack};
