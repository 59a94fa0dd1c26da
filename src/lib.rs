//! portreeve watches outbound SSH connections: which login, through which chain of processes, to where.

pub mod cidr;
pub mod glob;
pub mod report;
pub mod text;
