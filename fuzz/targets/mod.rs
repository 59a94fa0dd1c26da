//! What each fuzz target does with its bytes: calls a parser, and panics where a promise of it does not hold.
//! `fuzz_targets/` gives these to libFuzzer, `tests/fuzz_smoke.rs` to an ordinary test.

pub mod audit;
pub mod cgroup;
pub mod cmdline;
pub mod config;
pub mod counters;
pub mod ebpf;
pub mod escape;
pub mod fanotify;
pub mod fdinfo;
pub mod hashes;
pub mod homes;
pub mod links;
pub mod mounts;
pub mod net_tcp;
pub mod netlink_table;
pub mod notices;
pub mod paths;
pub mod record;
pub mod seal_key;
pub mod show;
pub mod sock_diag;
pub mod ssh;
pub mod stat;
pub mod state;
pub mod status;
pub mod syn;
pub mod table;
pub mod unpack;
pub mod verify;

mod bytes;
mod folder;

/// A target: one call with some bytes.
pub type Run = fn(&[u8]);

/// By name, which is that of the files in `targets/` and `fuzz_targets/` and of the folder in `seeds/`.
pub const ALL: &[(&str, Run)] = &[
    ("audit", audit::run),
    ("cgroup", cgroup::run),
    ("cmdline", cmdline::run),
    ("config", config::run),
    ("counters", counters::run),
    ("ebpf", ebpf::run),
    ("escape", escape::run),
    ("fanotify", fanotify::run),
    ("fdinfo", fdinfo::run),
    ("hashes", hashes::run),
    ("homes", homes::run),
    ("links", links::run),
    ("mounts", mounts::run),
    ("net_tcp", net_tcp::run),
    ("netlink_table", netlink_table::run),
    ("notices", notices::run),
    ("paths", paths::run),
    ("record", record::run),
    ("seal_key", seal_key::run),
    ("show", show::run),
    ("sock_diag", sock_diag::run),
    ("ssh", ssh::run),
    ("stat", stat::run),
    ("state", state::run),
    ("status", status::run),
    ("syn", syn::run),
    ("table", table::run),
    ("unpack", unpack::run),
    ("verify", verify::run),
];

/// True if a terminal obeys none of it and it is one line.
pub fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// The same of text output, which has four marks of its own beside ASCII.
pub fn is_harmless(text: &str) -> bool {
    text.chars().all(|c| (' '..='~').contains(&c) || "→←…·".contains(c))
}
