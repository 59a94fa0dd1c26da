//! portreeve watches outbound SSH connections: which login, through which chain of processes, to where.

pub mod secrets;
