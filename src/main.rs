//! The program: words typed in, a watch or a question carried out, an exit code.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use jiff::tz::TimeZone;
use log::LevelFilter;
use portreeve::cli::{Cli, Command, ConfigAction, OutputFormat, SealAction, ShowArgs, WatchArgs, When};
use portreeve::config::{self, DEFAULT_LOG, DEFAULT_PATH, Settings};
use portreeve::daemon::{self, DaemonError, chain};
use portreeve::report::show::{Logs, Show};
use portreeve::report::{Filter, Notice};
use portreeve::sink::{Destination, Format, LogFile, Stdout};
use portreeve::text::Style;
use portreeve::{logger, report, seal};

/// sysexits(3).
const USAGE: u8 = 64;
const CANNOT_CREATE: u8 = 73;
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
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => watch(&cli.watch),
        Some(Command::Watch(args)) => watch(&args),
        Some(Command::Show(args)) => show(&args),
        Some(Command::Seal(args)) => match args.action {
            SealAction::Init { path } => seal_init(&path),
        },
        Some(Command::Config(config)) => match config.action {
            ConfigAction::Check { path } => check(path),
            ConfigAction::Show(args) => settings(&args).and_then(|settings| print(&settings.as_file())),
        },
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
            let _ = writeln!(stderr(), "portreeve: {text}");
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
    let file = settings.log_file.as_deref().filter(|_| !args.once).map(|path| {
        LogFile::open(path).map_err(|e| Failure {
            status: CANNOT_CREATE,
            text: format!("cannot open the log {}: {e}", path.display()),
        })
    });
    let file = file.transpose()?;
    let logger = logger::start(level, file.as_ref()).map_err(|e| fail(1)(&e))?;
    let format = format_of(&settings, file.is_some());
    if file.is_some() && matches!(format, Format::Text(_)) {
        log::warn!("text in a file has no numbers and no chain, and `portreeve show` cannot read it");
    }
    let is_shown = file.is_none() && matches!(format, Format::Text(_));
    let begin = match file {
        _ if args.once => {
            daemon::once(settings, format, Destination::Stdout(Stdout::default())).map(|()| String::new())
        }
        None => daemon::run(args, settings, format, Destination::Stdout(Stdout::default()), &logger),
        Some(file) => {
            if stderr().is_terminal() {
                let path = file.path();
                let _ = writeln!(
                    stderr(),
                    "portreeve: records go to {0} (portreeve show -f {0})",
                    path.display()
                );
            }
            daemon::run(args, settings, format, Destination::File(file), &logger)
        }
    };
    let summary = begin.map_err(|error| {
        let status = if matches!(error, DaemonError::Blind(_)) { NO_PERMISSION } else { 1 };
        fail(status)(&error)
    })?;
    if !is_shown && !summary.is_empty() && stderr().is_terminal() {
        let _ = writeln!(stderr(), "portreeve: {summary}");
    }
    Ok(())
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

fn check(path: Option<std::path::PathBuf>) -> Result<(), Failure> {
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

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let now = daemon::now().wall.to_zoned(TimeZone::system());
    let time = |text: &Option<String>| {
        let time = text.as_deref().map(|text| report::parse_time(text, &now)).transpose();
        time.map_err(|text| Failure { status: USAGE, text })
    };
    let filter = Filter {
        since: time(&args.since)?,
        until: time(&args.until)?,
        users: args.user.clone(),
        addresses: args.address.clone(),
        executables: args.exe.clone(),
        ids: args.id.clone(),
    };
    let configured = || config::read(DEFAULT_PATH.as_ref()).ok().and_then(|options| options.log_file);
    let logs = match args.logs.as_slice() {
        [] => Logs::Live(configured().unwrap_or_else(|| DEFAULT_LOG.into())),
        paths => Logs::Listed(paths.to_vec()),
    };
    let format = match args.format {
        OutputFormat::Text => report::show::Format::Text,
        OutputFormat::Json => report::show::Format::Json,
    };
    let style = style(args.color, args.utc, stdout().is_terminal());
    let show = Show { logs, follow: args.follow, filter, format, style };
    let mut say = |notice: &Notice| drop(writeln!(stderr(), "portreeve: {notice}"));
    // Interrupted by a signal, which ends a reader at once.
    let summary = report::show::run(&show, &mut stdout(), &mut say, &|| false).map_err(|e| fail(1)(&e))?;
    match summary.failures {
        0 => Ok(()),
        1 => Err(Failure { status: 1, text: "one thing could not be shown".to_owned() }),
        n => Err(Failure { status: 1, text: format!("{n} things could not be shown") }),
    }
}
