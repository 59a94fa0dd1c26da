//! The program: words typed in, a watch or a question carried out, an exit code.

use std::ffi::OsStr;
use std::io::{BufWriter, IsTerminal, Write, stderr, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jiff::tz::TimeZone;
use log::LevelFilter;
use portreeve::cli::{
    Cli, Command, ConfigAction, ExplainArgs, OutputFormat, PathsArgs, PathsFormat, RuleAction, SealAction,
    ShowArgs, VerifyArgs, WatchArgs, When, Which,
};
use portreeve::config::{self, DEFAULT_LOG, DEFAULT_PATH, Settings};
use portreeve::daemon::{self, DaemonError, chain};
use portreeve::ledger::Output;
use portreeve::report::explain::{Explain, Outcome};
use portreeve::report::paths::{self, Paths};
use portreeve::report::show::{Logs, Show};
use portreeve::report::{Filter, Notice};
use portreeve::seal::{self, Sealer};
use portreeve::sink::{Destination, Format, LogFile, Stdout};
use portreeve::source::PortSet;
use portreeve::state::{Folder, StateError};
use portreeve::text::{Style, harmless};
use portreeve::verify::Secret;
use portreeve::{ebpf, logger, report, rule, verify};

/// Of `verify`.
const UNREADABLE: u8 = 2;
/// sysexits(3).
const USAGE: u8 = 64;
const CANNOT_CREATE: u8 = 73;
const TAKEN: u8 = 75;
const NO_PERMISSION: u8 = 77;
const CONFIG: u8 = 78;

/// What went wrong, and with which status to end.
struct Failure {
    status: u8,
    text: String,
}

fn fail(status: u8) -> impl Fn(&dyn std::error::Error) -> Failure {
    move |error| Failure { status, text: chain(error) }
}

fn main() -> ExitCode {
    for (argument, with_udp) in [(ebpf::LOADER, false), (ebpf::LOADER_WITH_UDP, true)] {
        if std::env::args_os().skip(1).eq([argument]) {
            return ExitCode::from(ebpf::load_for_parent(with_udp));
        }
    }
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => watch(&cli.watch),
        Some(Command::Watch(args)) => watch(&args),
        Some(Command::Show(args)) => show(&args),
        Some(Command::Paths(args)) => paths(&args),
        Some(Command::Explain(args)) => explain(&args),
        Some(Command::Verify(args)) => check_log(&args),
        Some(Command::Seal(args)) => match args.action {
            SealAction::Init { path } => seal_init(&path),
        },
        Some(Command::Config(config)) => match config.action {
            ConfigAction::Check { path } => check(path),
            ConfigAction::Show(args) => settings(&args).and_then(|settings| print(&settings.as_file())),
        },
        Some(Command::Rule(args)) => print(&rules(args.action)),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "portreeve", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { status, text }) => {
            // A closed standard error is no reason to panic.
            let _ = writeln!(stderr(), "portreeve: {}", harmless(&text));
            ExitCode::from(status)
        }
    }
}

fn settings(args: &WatchArgs) -> Result<Settings, Failure> {
    let sleep = match std::env::var("SLEEP") {
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(Failure { status: USAGE, text: "SLEEP: it is no number of milliseconds".to_owned() });
        }
        value => value.ok(),
    };
    config::load(args, sleep.as_deref()).map_err(|error| {
        let status = if matches!(error, config::ConfigError::Sleep(_)) { USAGE } else { CONFIG };
        fail(status)(&error)
    })
}

fn watch(args: &WatchArgs) -> Result<(), Failure> {
    let settings = settings(args)?;
    let level = match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::Error,
        (_, 0) => LevelFilter::Warn,
        (_, 1) => LevelFilter::Info,
        _ => LevelFilter::Debug,
    };
    let output = output(&settings, args.once)?;
    let file = match &output.destination {
        Destination::File(file) => Some(file.clone()),
        Destination::Stdout(_) => None,
    };
    let logger = logger::start(level, file.as_ref()).map_err(|e| fail(1)(&e))?;
    if file.is_some() && matches!(output.format, Format::Text(_)) {
        log::warn!("text in a file has no numbers and no chain, and `portreeve show` cannot read it");
    }
    let is_shown = file.is_none() && matches!(output.format, Format::Text(_));
    if let Some(path) = file.map(|file| file.path()).filter(|_| stderr().is_terminal()) {
        let path = path.display().to_string();
        let path = harmless(&path);
        let _ = writeln!(stderr(), "portreeve: records go to {path} (portreeve show -f {path})");
    }
    let outcome = match args.once {
        true => daemon::once(settings, output).map(|()| String::new()),
        false => daemon::run(args, settings, output, &logger),
    };
    let summary = outcome.map_err(|error| {
        let status = if matches!(error, DaemonError::Blind(_)) { NO_PERMISSION } else { 1 };
        fail(status)(&error)
    })?;
    if !is_shown && !summary.is_empty() && stderr().is_terminal() {
        let _ = writeln!(stderr(), "portreeve: {summary}");
    }
    Ok(())
}

/// Opens everything that is written to.
fn output(settings: &Settings, once: bool) -> Result<Output, Failure> {
    let path = settings.log_file.as_deref().filter(|_| !once);
    let format = format_of(settings, path.is_some());
    let sync = settings.sync;
    let numbered = path.filter(|_| matches!(format, Format::Json));
    for (name, path) in [("state-dir", &settings.state_dir), ("seal", &settings.seal)] {
        if let (false, None, Some(_)) = (once, numbered, path) {
            let text = format!("{name}: it takes a log file in JSON (mend: --log-file PATH --format json)");
            return Err(Failure { status: CONFIG, text });
        }
    }
    let state =
        numbered.map(|log| Folder::open(&state_path(settings, log))).transpose().map_err(|error| {
            let status = if matches!(error, StateError::Taken(..)) { TAKEN } else { CANNOT_CREATE };
            fail(status)(&error)
        })?;
    let Some(path) = path else {
        let destination = Destination::Stdout(Stdout::default());
        return Ok(Output { format, destination, state, sync, sealer: None });
    };
    let file = LogFile::open(path).map_err(|e| Failure {
        status: if e.kind() == std::io::ErrorKind::WouldBlock { TAKEN } else { CANNOT_CREATE },
        text: format!("cannot open the log {}: {e}", path.display()),
    })?;
    let sealer =
        settings.seal.as_deref().map(Sealer::open).transpose().map_err(|e| fail(CANNOT_CREATE)(&e))?;
    Ok(Output { format, destination: Destination::File(file), state, sync, sealer })
}

/// Where the state of this log is: as configured, where systemd says, or beside it.
fn state_path(settings: &Settings, log: &Path) -> PathBuf {
    let systemd = || {
        let folders = std::env::var_os("STATE_DIRECTORY")?;
        let first = folders.as_encoded_bytes().split(|byte| *byte == b':').next()?;
        Some(PathBuf::from(OsStr::from_bytes(first))).filter(|path| path.is_absolute())
    };
    let beside = || {
        let mut name = log.as_os_str().to_owned();
        name.push(".state");
        name.into()
    };
    settings.state_dir.clone().or_else(systemd).unwrap_or_else(beside)
}

fn format_of(settings: &Settings, to_file: bool) -> Format {
    let terminal = !to_file && stdout().is_terminal();
    let by_destination = if terminal { OutputFormat::Text } else { OutputFormat::Json };
    match settings.format.unwrap_or(by_destination) {
        OutputFormat::Json => Format::Json,
        OutputFormat::Text => Format::Text(style(settings.color, settings.utc, terminal)),
    }
}

fn style(color: When, utc: bool, terminal: bool) -> Style {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let color = match color {
        When::Always => true,
        When::Never => false,
        When::Auto => terminal && !no_color && !dumb,
    };
    let width = terminal.then(|| rustix::termios::tcgetwinsize(stdout()).ok()).flatten();
    let width = width.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    Style { zone: TimeZone::system(), utc, color, width }
}

fn rules(action: RuleAction) -> String {
    let RuleAction::Nflog { group, ports, iptables } = action else { return rule::audit() };
    let configured = || config::read(DEFAULT_PATH.as_ref()).ok().and_then(|options| options.ports);
    let ports = ports.or_else(configured).unwrap_or_else(PortSet::ssh);
    if iptables { rule::iptables(&ports, group) } else { rule::nft(&ports, group) }
}

fn check(path: Option<PathBuf>) -> Result<(), Failure> {
    let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
    config::read(&path).map_err(|e| fail(CONFIG)(&e))?;
    print(&format!("{}: good\n", path.display()))
}

/// The secret alone on standard output, so that it can be sent anywhere; what to do with it beside that.
fn seal_init(path: &std::path::Path) -> Result<(), Failure> {
    let secret = seal::init(path).map_err(|e| fail(CANNOT_CREATE)(&e))?;
    let told = writeln!(stdout(), "{}", *secret).and_then(|()| stdout().flush());
    if let Err(e) = told {
        // A key whose secret nobody has seen would make seals that nobody can check.
        let _ = std::fs::remove_file(path);
        let text = format!("cannot print the secret, so no key file was made: {e}");
        return Err(Failure { status: 1, text });
    }
    let _ = writeln!(
        stderr(),
        "portreeve: this secret checks the seals of {} (portreeve verify --seal-secret FILE) and could forge them: \
         keep it on another machine, and not on this one",
        path.display()
    );
    Ok(())
}

/// Standard output for answers; a closed pipe ends quietly.
fn print(text: &str) -> Result<(), Failure> {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { status: 1, text: format!("cannot write to standard output: {e}") })
        }
        _ => Ok(()),
    }
}

fn configured_log() -> PathBuf {
    let configured = config::read(DEFAULT_PATH.as_ref()).ok().and_then(|options| options.log_file);
    configured.unwrap_or_else(|| DEFAULT_LOG.into())
}

fn check_log(args: &VerifyArgs) -> Result<(), Failure> {
    let unreadable = |text: String| Failure { status: UNREADABLE, text };
    let secret = args.seal_secret.as_deref().map(Secret::read).transpose().map_err(unreadable)?;
    let logs = match args.logs.as_slice() {
        [] => report::with_rotated(&configured_log()),
        paths => paths.to_vec(),
    };
    let options = verify::Options {
        logs,
        secret,
        anchors: args.anchor.clone(),
        expect_live: args.expect_live.then(|| daemon::now().wall.as_microsecond()),
        json: args.format == OutputFormat::Json,
    };
    let outcome = match verify::run(&options, &mut BufWriter::new(stdout())) {
        // Whoever reads no further has seen enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        outcome => outcome.map_err(|e| fail(1)(&e))?,
    };
    if !outcome.is_readable() {
        let no_record = || "there is no record of portreeve".to_owned();
        return Err(unreadable(outcome.unreadable.into_iter().next().unwrap_or_else(no_record)));
    }
    match outcome.summary.violations.values().sum::<u64>() {
        0 => Ok(()),
        1 => Err(Failure { status: 1, text: "one rule is broken".to_owned() }),
        n => Err(Failure { status: 1, text: format!("rules are broken {n} times") }),
    }
}

/// A moment that was typed.
fn time(text: Option<&str>) -> Result<Option<jiff::Timestamp>, Failure> {
    let now = daemon::now().wall.to_zoned(TimeZone::system());
    let time = text.map(|text| report::parse_time(text, &now)).transpose();
    time.map_err(|text| Failure { status: USAGE, text })
}

fn filter(which: &Which) -> Result<Filter, Failure> {
    Ok(Filter {
        since: time(which.since.as_deref())?,
        until: time(which.until.as_deref())?,
        users: which.user.clone(),
        addresses: which.address.clone(),
        executables: Vec::new(),
        ids: which.id.clone(),
    })
}

fn logs(paths: &[PathBuf]) -> Logs {
    match paths {
        [] => Logs::Live(configured_log()),
        paths => Logs::Listed(paths.to_vec()),
    }
}

fn say(notice: &Notice) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(stderr(), "portreeve: {notice}");
}

fn unread(failures: u64) -> Result<(), Failure> {
    match failures {
        0 => Ok(()),
        1 => Err(Failure { status: 1, text: "one thing could not be read".to_owned() }),
        n => Err(Failure { status: 1, text: format!("{n} things could not be read") }),
    }
}

fn paths(args: &PathsArgs) -> Result<(), Failure> {
    let filter = filter(&args.which)?;
    let format = match args.format {
        PathsFormat::Text => paths::Format::Text,
        PathsFormat::Json => paths::Format::Json,
        PathsFormat::Dot => paths::Format::Dot,
        PathsFormat::Mermaid => paths::Format::Mermaid,
    };
    let style = style(args.looks.color, args.looks.utc, stdout().is_terminal());
    let paths = Paths { logs: logs(&args.logs), filter, format, style };
    let summary = paths::run(&paths, &mut stdout(), &mut say).map_err(|e| fail(1)(&e))?;
    unread(summary.failures)
}

fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let style = style(When::Never, args.utc, stdout().is_terminal());
    let explain = Explain { logs: logs(&args.logs), id: args.id.clone(), style };
    let (outcome, failures) =
        report::explain::run(&explain, &mut stdout(), &mut say).map_err(|e| fail(1)(&e))?;
    match outcome {
        Outcome::Told => unread(failures),
        Outcome::Unknown => Err(Failure { status: 1, text: "no connection has this id".to_owned() }),
        Outcome::Several(ids) => {
            let text = format!("several connections have ids that begin so: {}", ids.join(", "));
            Err(Failure { status: 1, text })
        }
    }
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let filter = Filter { executables: args.exe.clone(), ..filter(&args.which)? };
    let logs = logs(&args.logs);
    let format = match args.format {
        OutputFormat::Text => report::show::Format::Text,
        OutputFormat::Json => report::show::Format::Json,
    };
    let style = style(args.looks.color, args.looks.utc, stdout().is_terminal());
    let show = Show { logs, follow: args.follow, filter, format, style };
    // Interrupted by a signal, which ends a reader at once.
    let summary = report::show::run(&show, &mut stdout(), &mut say, &|| false).map_err(|e| fail(1)(&e))?;
    match summary.failures {
        0 => Ok(()),
        1 => Err(Failure { status: 1, text: "one thing could not be shown".to_owned() }),
        n => Err(Failure { status: 1, text: format!("{n} things could not be shown") }),
    }
}
