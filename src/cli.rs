//! What was typed.
//!
//! Shapes only: `config` says what it means, together with the environment and the configuration file, whose keys are
//! the flags' names because both are read into the same `Options`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::config::Interval;
use crate::source::{EventChoice, ExecutionChoice, Matcher, PortSet, TransportChoice};

const EXAMPLES: &str = "\
Examples:
  portreeve                                     watch port 22, one line for each open and close
  sudo portreeve --ports 22,2222 --format json  also a second port, as JSON, with everybody's processes
  SLEEP=10 portreeve                            look a hundred times a second
  portreeve --exclude user:git --exclude 10.0.0.0/8
  portreeve --once                              what stands now
  portreeve show --since '2h ago' --user alice  what the service has logged
  portreeve paths *.jsonl                       the whole way of each login, over many hosts
  portreeve verify                              whether that log is whole and unchanged

Environment: SLEEP (interval in milliseconds), NO_COLOR.
Files: /etc/portreeve/portreeve.toml, /var/log/portreeve/events.jsonl.
Exit status: 0 done, 1 failure, 2 and 64 wrong usage, 73 log cannot be opened, 75 another portreeve writes it, 77 would be blind, 78 wrong configuration.
Manual: portreeve(8), portreeve.toml(5), portreeve-events(5).";

/// Watches outbound SSH connections: which login, through which chain of processes, to where, when, how long.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Without a subcommand: watch.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch and log (the default)
    Watch(WatchArgs),
    /// Print logs as text, with filters
    Show(ShowArgs),
    /// Print the whole way of each login, over one host or many, or those ways of which a connection matches
    Paths(PathsArgs),
    /// Tell one connection's story in a paragraph
    Explain(ExplainArgs),
    /// Check whether logs are whole and unchanged
    Verify(VerifyArgs),
    /// Make the key that seals a log
    Seal(SealArgs),
    /// Check or show the configuration
    Config(ConfigArgs),
    /// Print rules of the firewall or of audit that a source needs; adds none
    Rule(RuleArgs),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// `watch`.
#[derive(Debug, Clone, Default, Args)]
pub struct WatchArgs {
    /// What the configuration file may say too.
    #[command(flatten)]
    pub options: Options,
    /// Print the connections that stand now and exit
    #[arg(long, conflicts_with_all = ["log_file", "count", "duration"])]
    pub once: bool,
    /// Configuration file [default: /etc/portreeve/portreeve.toml, if it is there]
    #[arg(short, long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// More diagnostics on standard error (-vv: still more)
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Only errors on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags that are keys of the configuration file too.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    /// Remote ports to watch: 22 or 22,2222,8000-8100 or all [default: 22]
    #[arg(short, long, value_name = "LIST")]
    pub ports: Option<PortSet>,
    /// What is watched on these ports: tcp, or tcp,udp for UDP flows too [default: tcp]
    #[arg(long, value_name = "LIST")]
    pub transport: Option<TransportChoice>,
    /// End a UDP flow of an unconnected socket when nothing passed for so long [default: 120s]
    #[arg(long, value_name = "TIME")]
    pub udp_idle: Option<Interval>,
    /// Time between two looks: 50ms, 1s, ... [env: SLEEP in milliseconds] [default: 50ms]
    #[arg(short, long, value_name = "TIME")]
    pub interval: Option<Interval>,
    /// Where the kernel's TCP table is read from: procfs, netlink or auto [default: auto, the cheaper one]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<SourceChoice>,
    /// Notices that fill the gaps between two looks: destroy,syn,nflog:GROUP,audit,proc,ebpf, none or
    /// auto [default: auto, ebpf where permitted, else destroy and where permitted syn]
    #[arg(long, value_name = "LIST")]
    pub events: Option<EventChoice>,
    /// Read audit records from this file or pipe of auditd, not from the kernel; turns audit on
    #[arg(long, value_name = "PATH")]
    pub audit_log: Option<PathBuf>,
    /// Network namespaces: all that hold a process, or own [default: all]
    #[arg(long, value_name = "WHICH")]
    pub netns: Option<NetnsChoice>,
    /// Watch only what matches: address or CIDR, port:LIST, user:NAME, exe:PATTERN (repeatable)
    #[arg(long, value_name = "WHAT")]
    pub include: Option<Vec<Matcher>>,
    /// Leave out what matches: address or CIDR, port:LIST, user:NAME, exe:PATTERN (repeatable)
    #[arg(long, value_name = "WHAT")]
    pub exclude: Option<Vec<Matcher>>,
    /// Tell the SHA-256 of owners' executables
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub hash: Option<bool>,
    /// Leave out connections by executables whose SHA-256 is in this file, as sha256sum writes it (turns --hash on)
    #[arg(long, value_name = "FILE")]
    pub ignore_hash: Option<PathBuf>,
    /// Tell starts and ends of programs: ssh (the clients of SSH), all, or patterns [default: none; without WHICH: ssh]
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "ssh")]
    pub executions: Option<ExecutionChoice>,
    /// Tell changes of SSH's keys, known hosts and settings, in home folders and /etc/ssh
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub ssh_files: Option<bool>,
    /// Mask the value of this option or variable too: --pin, PIN (repeatable)
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub mask: Option<Vec<String>>,
    /// How records are written [default: text on a terminal, json into a file or pipe]
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<OutputFormat>,
    /// Write records to this file instead of standard output
    #[arg(short, long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// Where the state is kept that outlives a run
    /// [default: $STATE_DIRECTORY, else LOG.state beside the log]
    #[arg(long, value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
    /// Log inbound SSH sessions too, and link what comes from them to their ids
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub inbound: Option<bool>,
    /// Beside the chosen ports, connections to any port that an SSH client or server makes
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub ssh_anywhere: Option<bool>,
    /// When the disk is waited for: never, interval (once a second) or always [default: interval]
    #[arg(long, value_name = "WHEN")]
    pub sync: Option<SyncChoice>,
    /// Seal the log every 60 seconds with the key in this file (portreeve seal init)
    #[arg(long, value_name = "KEYFILE")]
    pub seal: Option<PathBuf>,
    /// Colour in text [default: auto: on a terminal, unless NO_COLOR is set]
    #[arg(long, value_name = "WHEN")]
    pub color: Option<When>,
    /// Times in text in UTC instead of local time
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub utc: Option<bool>,
    /// Stop after this many opens
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<NonZeroU64>,
    /// Stop after this time: 10m, 1h30m, ...
    #[arg(short, long, value_name = "TIME")]
    pub duration: Option<Interval>,
}

/// `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Which records.
    #[command(flatten)]
    pub which: Which,
    /// Executable by pattern; without a slash, by its last name (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub exe: Vec<crate::glob::Glob>,
    /// Text, or the lines as they are
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
    /// How text looks.
    #[command(flatten)]
    pub looks: Looks,
    /// Logs, plain, .gz or .zst, in any order; - is standard input
    /// [default: the configured log, and what was rotated]
    #[arg(value_name = "LOG")]
    pub logs: Vec<PathBuf>,
}

/// `paths`.
#[derive(Debug, Args)]
pub struct PathsArgs {
    /// Which ways: those of which a connection matches.
    #[command(flatten)]
    pub which: Which,
    /// A tree in text, JSON with one way a line, or a graph for Graphviz or Mermaid
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: PathsFormat,
    /// How text looks.
    #[command(flatten)]
    pub looks: Looks,
    /// Logs of one host or of many, plain, .gz or .zst, in any order; - is standard input
    /// [default: the configured log, and what was rotated]
    #[arg(value_name = "LOG")]
    pub logs: Vec<PathBuf>,
}

/// Of which records or ways: what `show` and `paths` have in common.
#[derive(Debug, Args)]
pub struct Which {
    /// Not before: 2026-11-20 13:42, 13:42, yesterday, '2h ago', RFC 3339
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// User by name or number: who runs it, or who logged in (repeatable)
    #[arg(long, value_name = "USER")]
    pub user: Vec<String>,
    /// Either end of the connection.
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Either end: 192.0.2.7, 10.0.0.0/8, 192.0.2.7:22, [::1]:22, :22 (repeatable)"
    )]
    pub address: Vec<crate::report::AddressMatch>,
    /// Connection or record by id or its beginning (repeatable)
    #[arg(long, value_name = "ID")]
    pub id: Vec<crate::report::IdPrefix>,
}

/// How text looks that a reader prints.
#[derive(Debug, Args)]
pub struct Looks {
    /// Times in UTC instead of local time
    #[arg(long)]
    pub utc: bool,
    /// Colour
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: When,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Times in UTC instead of local time
    #[arg(long)]
    pub utc: bool,
    /// The connection's id, or its beginning
    #[arg(value_name = "ID")]
    pub id: crate::report::IdPrefix,
    /// Logs of one host or of many, plain, .gz or .zst, in any order; - is standard input
    /// [default: the configured log, and what was rotated]
    #[arg(value_name = "LOG")]
    pub logs: Vec<PathBuf>,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The log is that of a watch that runs now: its newest coverage or seal is at most two minutes old
    #[arg(long)]
    pub expect_live: bool,
    /// File with the secret of the seals, 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub seal_secret: Option<PathBuf>,
    /// A record and the chain that it had when it was noted elsewhere: SEQUENCE:CHAIN (repeatable)
    #[arg(long, value_name = "PLACE", value_parser = crate::verify::parse_anchor)]
    pub anchor: Vec<(u64, [u8; 64])>,
    /// Text, or a line of JSON for each violation and one for the summary
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: OutputFormat,
    /// Logs, plain, .gz or .zst, in any order; - is standard input
    /// [default: the configured log, and what was rotated]
    #[arg(value_name = "LOG")]
    pub logs: Vec<PathBuf>,
}

/// `seal`.
#[derive(Debug, Args)]
pub struct SealArgs {
    /// What about it.
    #[command(subcommand)]
    pub action: SealAction,
}

/// What can be done about seals.
#[derive(Debug, Subcommand)]
pub enum SealAction {
    /// Make a key file; print the secret that checks its seals, to be kept on another machine
    Init {
        /// The key file, which must not exist
        #[arg(value_name = "KEYFILE")]
        path: PathBuf,
    },
}

/// `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What about it.
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Check a configuration file: exit status 78 if it is wrong
    Check {
        /// The file [default: /etc/portreeve/portreeve.toml]
        path: Option<PathBuf>,
    },
    /// Print the effective settings and where each comes from
    Show(Box<WatchArgs>),
}

/// `rule`.
#[derive(Debug, Args)]
pub struct RuleArgs {
    /// For which source.
    #[command(subcommand)]
    pub action: RuleAction,
}

/// Sources that see what a rule shows them.
#[derive(Debug, Subcommand)]
pub enum RuleAction {
    /// For nft: log SYNs to the watched ports to a group
    Nflog {
        /// Group to log to
        #[arg(long, value_name = "GROUP", default_value = "22")]
        group: u16,
        /// Remote ports: 22 or 22,2222,8000-8100 or all [default: the configured ones, else 22]
        #[arg(short, long, value_name = "LIST")]
        ports: Option<PortSet>,
        /// Commands of iptables instead
        #[arg(long)]
        iptables: bool,
    },
    /// For auditctl or rules.d: record each connect to an address of the internet
    Audit,
}

/// Where the TCP table is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceChoice {
    /// The cheaper of the two, and the other when it fails
    Auto,
    /// /proc/net/tcp and tcp6
    Procfs,
    /// sock_diag, filtered in the kernel; /proc where it cannot be had
    Netlink,
}

/// When the disk is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncChoice {
    /// Never: a power cut takes what the kernel had not written yet
    Never,
    /// Once a second, beside the watch
    Interval,
    /// After each record, before the watch goes on
    Always,
}

/// Which network namespaces are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetnsChoice {
    /// Every one that holds a process whose namespace may be read
    All,
    /// The watcher's own
    Own,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    /// One line for people
    Text,
    /// One JSON object a line
    Json,
}

/// How ways are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum PathsFormat {
    /// A tree
    Text,
    /// One JSON object a line for each way
    Json,
    /// A graph for Graphviz
    Dot,
    /// A flowchart for Mermaid
    Mermaid,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}
