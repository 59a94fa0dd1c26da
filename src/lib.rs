//! portreeve watches outbound SSH connections: which login, through which chain of processes, to where.
//!
//! The modules in reading order; ARCHITECTURE.md says why each is where it is. Start with [`pipeline`].

// Words: no I/O, no clock, no randomness.
pub mod audit;
pub mod cgroup;
pub mod cidr;
pub mod connection;
pub mod glob;
pub mod process;
pub mod secrets;
pub mod ssh;
pub mod text;
pub mod way;

// The only readers of the kernel.
pub mod ebpf;
pub mod files;
pub mod netlink;
pub mod packet;
pub mod proc;

// Stages, in the order in which data flows; blank lines keep it from being sorted.
pub mod source;

pub mod table;

pub mod hash;

pub mod attribution;

pub mod origin;

pub mod enrichment;

pub mod event;

pub mod pipeline;

pub mod sink;

pub mod seal;

pub mod state;

pub mod ledger;

// The shell.
pub mod cli;
pub mod config;
pub mod daemon;
pub mod logger;
pub mod rule;
pub mod selftest;
pub mod signals;

// Readers of the log.
pub mod report;
pub mod verify;
