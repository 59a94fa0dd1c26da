//! Readers of the log: what the daemon wrote, told to people.
//! Never opens `/proc`, needs no privilege, shares no code with the writer but the words of `text`.
//! Truth: the log's lines and the field names of portreeve-events(5), nothing else.

mod files;
mod filter;
mod follow;
mod lines;
mod notice;
mod printer;
mod record;
pub mod show;
mod time;
mod unpack;

pub use files::with_rotated;
pub use filter::{AddressMatch, Filter, IdPrefix};
pub use notice::{Flaw, Notice};
pub use time::parse_time;
pub(crate) use unpack::{Packing, unpack};
