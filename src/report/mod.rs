//! Readers of the log.
/// Stands until the reader lands.
pub const PLACEHOLDER: u8 = 0;
/// Stands until the reader lands.
pub type AddressMatch = String;
