//! What the words mean: command line over environment over configuration file over default, validated and typed.

#![expect(clippy::disallowed_methods, reason = "this module reads the configuration file")]

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Map, Value, json};

use clap::ValueEnum;

use crate::cli::{NetnsChoice, Options, OutputFormat, SourceChoice, SyncChoice, WatchArgs, When};
use crate::hash;
use crate::source::{
    EventChoice, ExecutionChoice, Filter, Kind, Matcher, PortSet, Selection, TransportChoice, UDP_IDLE,
};

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/portreeve/portreeve.toml";

/// Where the service logs.
pub const DEFAULT_LOG: &str = "/var/log/portreeve/events.jsonl";

/// No configuration file or list is as long.
const LONGEST_FILE: u64 = 16 << 20;

const LEAST_INTERVAL: Duration = Duration::from_millis(1);

/// What is wrong with the settings.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not say anything that can be meant. The text names the line.
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and reason.
        text: String,
    },
    /// `SLEEP` is no interval.
    Sleep(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read {}", path.display()),
            Self::Parse { path, text } => write!(f, "{}: {text}", path.display()),
            Self::Sleep(text) => write!(f, "SLEEP: {text}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Parse { .. } | Self::Sleep(_) => None,
        }
    }
}

/// A span of time as it is typed: `50ms`, `1s`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl Interval {
    fn new(duration: Duration) -> Result<Self, String> {
        if duration < LEAST_INTERVAL {
            let reason = "below 1ms one look would run into the next: the counters alone take 10 µs to wake up for and \
                          read, the tables several ms";
            return Err(format!("too short: {reason}"));
        }
        Ok(Self(duration))
    }

    /// `SLEEP`: milliseconds.
    fn from_sleep(text: &str) -> Result<Self, String> {
        let number = text.trim().parse::<f64>().ok().filter(|ms| ms.is_finite() && *ms >= 0.0);
        let millis = number.ok_or_else(|| format!("`{text}` is no number of milliseconds"))?;
        let duration =
            Duration::try_from_secs_f64(millis / 1_000.0).map_err(|_| format!("`{text}` is too long"))?;
        Self::new(duration)
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no time: write 50ms, 1s, 10m, 1h30m");
        let signed: SignedDuration = text.trim().parse().map_err(|_| bad())?;
        Duration::try_from(signed).map_err(|_| bad()).and_then(Self::new)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_micros(), self.0.as_millis()) {
            (micros, _) if micros % 1_000 != 0 => write!(f, "{micros}us"),
            (_, millis) if millis % 1_000 != 0 => write!(f, "{millis}ms"),
            (_, millis) => write!(f, "{}s", millis / 1_000),
        }
    }
}

/// Types of the configuration file that are written as one string, as on the command line.
macro_rules! from_string {
    ($($name:ty),*) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

from_string!(Interval, PortSet, Matcher, EventChoice, TransportChoice, ExecutionChoice);

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    CommandLine,
    Environment,
    File,
    Default,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::CommandLine => "command line",
            Self::Environment => "environment (SLEEP)",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// Settings that a reload does not change.
const FIXED: [&str; 15] = [
    "ssh-files",
    "executions",
    "hash",
    "source",
    "events",
    "audit-log",
    "netns",
    "format",
    "log-file",
    "state-dir",
    "sync",
    "seal",
    "color",
    "utc",
    "duration",
];

/// Effective settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which connections.
    pub select: Selection,
    /// Pace.
    pub interval: Interval,
    /// Where the table is read from.
    pub source: SourceChoice,
    /// Notices.
    pub events: EventChoice,
    /// File or pipe that audit records are read from.
    pub audit_log: Option<PathBuf>,
    /// Namespaces.
    pub netns: NetnsChoice,
    /// True if executables are hashed.
    pub hash: bool,
    /// The list of those whose connections are left out.
    pub ignore_hash: Option<PathBuf>,
    /// Programs whose start and end is told.
    pub executions: Option<ExecutionChoice>,
    /// True if changes of SSH's files are told.
    pub ssh_files: bool,
    /// More names of secrets.
    pub mask: Vec<String>,
    /// `None`: by destination.
    pub format: Option<OutputFormat>,
    /// `None`: standard output.
    pub log_file: Option<PathBuf>,
    /// `None`: beside the log.
    pub state_dir: Option<PathBuf>,
    /// When the disk is waited for.
    pub sync: SyncChoice,
    /// Key to seal with.
    pub seal: Option<PathBuf>,
    /// Colour.
    pub color: When,
    /// UTC in text.
    pub utc: bool,
    /// Stop after this many opens.
    pub count: Option<NonZeroU64>,
    /// Stop after this time.
    pub duration: Option<Interval>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    origins: Vec<(&'static str, Value, Origin)>,
}

/// Reads the file and puts all layers together. `sleep`: the environment's `SLEEP`.
///
/// # Errors
/// If the file cannot be read (one that was not named may be missing) or says something wrong, or `SLEEP` does.
pub fn load(args: &WatchArgs, sleep: Option<&str>) -> Result<Settings, ConfigError> {
    let (file, path) = match &args.config {
        Some(path) => (read(path)?, Some(path.clone())),
        None if Path::new(DEFAULT_PATH).exists() => {
            (read(Path::new(DEFAULT_PATH))?, Some(DEFAULT_PATH.into()))
        }
        None => (Options::default(), None),
    };
    let sleep = sleep.filter(|text| !text.trim().is_empty());
    let env = sleep.map(Interval::from_sleep).transpose().map_err(ConfigError::Sleep)?;
    let mut settings = merge(args.options.clone(), env, file, path);
    if let Some(path) = &settings.ignore_hash {
        settings.select.filter.ignored = Arc::new(read_hashes(path)?);
    }
    Ok(settings)
}

/// Reads a list of hashes.
fn read_hashes(path: &Path) -> Result<BTreeSet<[u8; 32]>, ConfigError> {
    let text = read_guarded(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    hash::parse_list(&text).map_err(|(line, word)| ConfigError::Parse {
        path: path.to_owned(),
        text: format!("line {line}: `{word:.80}` is no SHA-256"),
    })
}

/// What is left out of the watch is for its owner to say.
fn read_guarded(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    // /dev/null is everybody's, and says nothing.
    let meta = file.metadata()?;
    if meta.is_file() && meta.mode() & 0o002 != 0 {
        return Err(io::Error::other("everybody may write to it (mend: chmod o-w)"));
    }
    let mut text = Vec::new();
    file.by_ref().take(LONGEST_FILE).read_to_end(&mut text)?;
    match text.len() as u64 {
        LONGEST_FILE => Err(io::Error::other("it is longer than 16 MiB")),
        _ => Ok(text),
    }
}

/// Reads one configuration file.
///
/// # Errors
/// As `load`.
pub fn read(path: &Path) -> Result<Options, ConfigError> {
    let read = || {
        let text = read_guarded(path)?;
        String::from_utf8(text).map_err(|_| io::Error::other("it is no UTF-8"))
    };
    let text = read().map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|text| ConfigError::Parse { path: path.to_owned(), text })
}

/// What a configuration file says. Public for `fuzz/`.
///
/// # Errors
/// Line, key and reason, as one line.
pub fn parse(text: &str) -> Result<Options, String> {
    toml::from_str(text).map_err(|e| {
        let before = text.get(..e.span().map_or(0, |span| span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let message = e.message().replace('\n', ", ");
        format!("line {line}: {message}")
    })
}

/// The first layer that says something, and which that was.
fn pick<T>(cli: Option<T>, env: Option<T>, file: Option<T>) -> (Option<T>, Origin) {
    match (cli, env, file) {
        (Some(value), ..) => (Some(value), Origin::CommandLine),
        (_, Some(value), _) => (Some(value), Origin::Environment),
        (_, _, Some(value)) => (Some(value), Origin::File),
        _ => (None, Origin::Default),
    }
}

#[expect(clippy::too_many_lines, reason = "three lines for each setting, and nothing else")]
fn merge(cli: Options, env: Option<Interval>, file: Options, file_path: Option<PathBuf>) -> Settings {
    let Options { ports, interval, source, events, netns, include, exclude, mask, .. } = cli;
    let Options { hash, ignore_hash, executions, ssh_files, .. } = cli;
    let Options { inbound, ssh_anywhere, audit_log, transport, udp_idle, .. } = cli;
    let Options { format, log_file, state_dir, sync, seal, color, utc, count, duration, .. } = cli;
    let (ports, ports_from) = pick(ports, None, file.ports);
    let (transport, transport_from) = pick(transport, None, file.transport);
    let (udp_idle, udp_idle_from) = pick(udp_idle, None, file.udp_idle);
    let (interval, interval_from) = pick(interval, env, file.interval);
    let (source, source_from) = pick(source, None, file.source);
    let (events, events_from) = pick(events, None, file.events);
    let (audit_log, audit_log_from) = pick(audit_log, None, file.audit_log);
    let (netns, netns_from) = pick(netns, None, file.netns);
    let (include, include_from) = pick(include, None, file.include);
    let (exclude, exclude_from) = pick(exclude, None, file.exclude);
    let (hash, hash_from) = pick(hash, None, file.hash);
    let (ignore_hash, ignore_hash_from) = pick(ignore_hash, None, file.ignore_hash);
    let (executions, executions_from) = pick(executions, None, file.executions);
    let (ssh_files, ssh_files_from) = pick(ssh_files, None, file.ssh_files);
    let ssh_files = ssh_files.unwrap_or(false);
    let (mask, mask_from) = pick(mask, None, file.mask);
    let (inbound, inbound_from) = pick(inbound, None, file.inbound);
    let (anywhere, anywhere_from) = pick(ssh_anywhere, None, file.ssh_anywhere);
    let (format, format_from) = pick(format, None, file.format);
    let (log_file, log_file_from) = pick(log_file, None, file.log_file);
    let (state_dir, state_dir_from) = pick(state_dir, None, file.state_dir);
    let (sync, sync_from) = pick(sync, None, file.sync);
    let (seal, seal_from) = pick(seal, None, file.seal);
    let (color, color_from) = pick(color, None, file.color);
    let (utc, utc_from) = pick(utc, None, file.utc);
    let (count, count_from) = pick(count, None, file.count);
    let (duration, duration_from) = pick(duration, None, file.duration);

    let ports = ports.unwrap_or_else(PortSet::ssh);
    let transport = transport.unwrap_or_default();
    let udp_idle = udp_idle.unwrap_or(Interval(UDP_IDLE));
    let interval = interval.unwrap_or(Interval(Duration::from_millis(50)));
    let source = source.unwrap_or(SourceChoice::Auto);
    let events = events.unwrap_or_default();
    let netns = netns.unwrap_or(NetnsChoice::All);
    let ignored = Arc::default();
    let filter =
        Filter { include: include.unwrap_or_default(), exclude: exclude.unwrap_or_default(), ignored };
    let hash = hash.unwrap_or(false) || ignore_hash.is_some();
    let (mask, color, utc) = (mask.unwrap_or_default(), color.unwrap_or(When::Auto), utc.unwrap_or(false));
    let sync = sync.unwrap_or(SyncChoice::Interval);
    let (inbound, ssh_anywhere) = (inbound.unwrap_or(false), anywhere.unwrap_or(false));
    let path = |path: Option<&PathBuf>| json!(path.map(|path| path.display().to_string()));
    let texts = |matchers: &[Matcher]| json!(matchers.iter().map(ToString::to_string).collect::<Vec<_>>());
    let origins = vec![
        ("ports", json!(ports.to_string()), ports_from),
        ("transport", json!(transport.to_string()), transport_from),
        ("udp-idle", json!(udp_idle.to_string()), udp_idle_from),
        ("interval", json!(interval.to_string()), interval_from),
        ("source", json!(word_of(&source)), source_from),
        ("events", json!(events.to_string()), events_from),
        ("audit-log", path(audit_log.as_ref()), audit_log_from),
        ("netns", json!(word_of(&netns)), netns_from),
        ("include", texts(&filter.include), include_from),
        ("exclude", texts(&filter.exclude), exclude_from),
        ("hash", json!(hash), hash_from),
        ("ignore-hash", path(ignore_hash.as_ref()), ignore_hash_from),
        ("executions", json!(executions.as_ref().map(ToString::to_string)), executions_from),
        ("ssh-files", json!(ssh_files), ssh_files_from),
        ("mask", json!(mask), mask_from),
        ("inbound", json!(inbound), inbound_from),
        ("ssh-anywhere", json!(ssh_anywhere), anywhere_from),
        ("format", json!(format.as_ref().map_or("auto".to_owned(), word_of)), format_from),
        ("log-file", path(log_file.as_ref()), log_file_from),
        ("state-dir", path(state_dir.as_ref()), state_dir_from),
        ("sync", json!(word_of(&sync)), sync_from),
        ("seal", path(seal.as_ref()), seal_from),
        ("color", json!(word_of(&color)), color_from),
        ("utc", json!(utc), utc_from),
        ("count", json!(count), count_from),
        ("duration", json!(duration.map(|d| d.to_string())), duration_from),
    ];
    let (udp, udp_idle) = (transport.has_udp(), udp_idle.0);
    let select = Selection { ports, filter, ssh_anywhere, inbound, udp, udp_idle };
    Settings {
        select,
        interval,
        source,
        events,
        audit_log,
        netns,
        hash,
        ignore_hash,
        executions,
        ssh_files,
        mask,
        format,
        log_file,
        state_dir,
        sync,
        seal,
        color,
        utc,
        count,
        duration,
        file: file_path,
        origins,
    }
}

/// A value as it is typed.
fn word_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

impl Settings {
    /// Kinds of notices that are to be tried. Whoever names an audit log wants it read, and other options need theirs.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = self.events.kinds();
        if self.audit_log.is_some() && !kinds.contains(&Kind::Audit) {
            kinds.push(Kind::Audit);
        }
        kinds.extend(self.executions.as_ref().map(|_| Kind::Proc));
        kinds.extend(self.ssh_files.then_some(Kind::Files));
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// For `watch-started`: by name; what is not set is left out.
    #[must_use]
    pub fn by_name(&self) -> Map<String, Value> {
        let set = self.origins.iter().filter(|(_, value, _)| !value.is_null());
        set.map(|(name, value, _)| ((*name).to_owned(), value.clone())).collect()
    }

    /// Takes over what may change while running; the rest stays, and stays told as it is.
    pub fn take_reloaded(&mut self, new: Self) {
        let Self { select, interval, mask, count, file, origins, .. } = new;
        (self.select, self.interval, self.mask) = (select, interval, mask);
        (self.count, self.file) = (count, file);
        for (ours, theirs) in self.origins.iter_mut().zip(origins) {
            if !FIXED.contains(&ours.0) {
                *ours = theirs;
            }
        }
    }

    /// Names of the settings that are not the same.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        // A list of hashes is in a file of its own, which may be another under the same name.
        let ignores_others = self.select.filter.ignored != other.select.filter.ignored;
        let pairs = self.origins.iter().zip(&other.origins);
        let differ = pairs
            .filter(|(ours, theirs)| ours.1 != theirs.1 || ignores_others && ours.0 == "ignore-hash")
            .map(|((name, ..), _)| (*name).to_owned());
        differ.collect()
    }

    /// As a configuration file, each line with where it comes from.
    #[must_use]
    pub fn as_file(&self) -> String {
        let mut text = String::new();
        for (name, value, origin) in &self.origins {
            // An unset key cannot be written in TOML, and `auto` is a format's absence.
            let unset = value.is_null() || (*name == "format" && value == "auto");
            // JSON's strings, numbers and arrays are TOML's.
            let line = if unset { format!("# {name} is not set") } else { format!("{name} = {value}") };
            let from = match (origin, &self.file) {
                (Origin::File, Some(path)) => path.display().to_string(),
                _ => origin.name().to_owned(),
            };
            let _ = writeln!(text, "{line:<50} # {from}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(typed: &[&str]) -> WatchArgs {
        use clap::Parser;
        crate::cli::Cli::try_parse_from([&["portreeve"], typed].concat()).unwrap().watch
    }

    fn with_file(text: &str, typed: &[&str], sleep: Option<&str>) -> Result<Settings, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut args = args(typed);
        args.config = Some(file.path().to_owned());
        load(&args, sleep)
    }

    #[test]
    fn command_line_over_environment_over_file_over_default() {
        let interval =
            |text: &str, typed: &[&str], sleep| with_file(text, typed, sleep).unwrap().interval.to_string();
        assert_eq!(interval("", &[], None), "50ms");
        assert_eq!(interval("interval = '1s'", &[], None), "1s");
        assert_eq!(interval("interval = '1s'", &[], Some("20")), "20ms");
        assert_eq!(interval("interval = '1s'", &["-i", "5ms"], Some("20")), "5ms");
        assert_eq!(interval("", &[], Some("")), "50ms", "empty is unset");
    }

    #[test]
    fn what_is_no_number_or_too_short_is_an_error_that_names_sleep() {
        for bad in ["abc", "5ms", "-1", "nan", "0.5", "0"] {
            let error = with_file("", &[], Some(bad)).unwrap_err().to_string();
            assert!(error.starts_with("SLEEP: "), "{bad}: {error}");
        }
        assert!("250us".parse::<Interval>().unwrap_err().contains("1ms"));
        assert!("50".parse::<Interval>().is_err());
    }

    #[test]
    fn a_file_that_everybody_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, refused) in [(0o640, false), (0o664, false), (0o646, true)] {
            std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(read(file.path()).is_err(), refused, "{mode:o}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_its_line() {
        let error = with_file("ports = '22'\nprots = '23'\n", &[], None).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("prots"), "{error}");
        let error = with_file("ports = '22x'\n", &[], None).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("22x"), "{error}");
    }

    #[test]
    fn the_shown_settings_are_a_configuration_that_means_the_same() {
        let text = "ports = '22,8000-8100'\ninclude = ['10.0.0.0/8', 'user:alice']\nutc = true\ncount = 3\nformat = 'json'\n";
        let settings = with_file(text, &["-d", "10m"], None).unwrap();
        let shown = settings.as_file();
        assert!(shown.contains("# default") && shown.contains("# command line"), "{shown}");
        let again = with_file(&shown, &[], None).unwrap();
        assert_eq!(again.differences(&settings), Vec::<String>::new());
        assert_eq!(with_file("", &[], None).unwrap().differences(&settings).len(), 6);
    }
}
