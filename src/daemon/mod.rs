//! The only loop, the only clock.

#![expect(clippy::disallowed_methods, reason = "this module is the clock")]

mod schedule;

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flexi_logger::LoggerHandle;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use sd_notify::NotifyState;
use uuid::{ContextV7, Timestamp, Uuid};

use crate::attribution::MOST_HELD;
use crate::cli::{NetnsChoice, SourceChoice, WatchArgs};
use crate::config::{self, Settings};
use crate::connection::Moment;
use crate::enrichment::{Users, host};
use crate::event::message::message;
use crate::event::{Event, Gap, Renderer, Started, What};
use crate::pipeline::{Outside, Pipeline};
use crate::proc::{Proc, ProcError};
use crate::secrets::Masker;
use crate::selftest::{self, Blind, View};
use crate::signals::{self, Signal};
use crate::sink::{Destination, Format, ReaderGone, Sink, Stream};
use crate::source::poll::Source;
use crate::source::{Events, Kind, Observation, Watched};

use schedule::{Schedule, Watchdog};

/// A tick that comes this much too late, and ten intervals, is a gap: the machine slept, or we were stopped.
const STALL: Duration = Duration::from_secs(1);
/// Descriptors that are not spent on held owners.
const SPARE_DESCRIPTORS: u64 = 512;

/// Settings that a reload takes over; of these, those that the pipeline must know.
const RELOADED: [&str; 6] = ["ports", "include", "exclude", "mask", "interval", "count"];
const SELECTION: [&str; 4] = ["ports", "include", "exclude", "mask"];

/// Why a watch could not be begun.
#[derive(Debug)]
pub enum DaemonError {
    /// It would see nothing.
    Blind(Blind),
    /// `/proc` cannot be opened.
    Proc(ProcError),
    /// No thread or handler can be had.
    System(std::io::Error),
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blind(blind) => blind.fmt(f),
            Self::Proc(error) => error.fmt(f),
            Self::System(_) => f.write_str("cannot set up signals or threads"),
        }
    }
}

impl std::error::Error for DaemonError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Blind(blind) => blind.source(),
            Self::Proc(error) => error.source(),
            Self::System(error) => Some(error),
        }
    }
}

/// Both clocks, now.
#[must_use]
pub fn now() -> Moment {
    Moment { wall: jiff::Timestamp::now(), boot: boottime() }
}

fn boottime() -> Duration {
    read_clock(ClockId::Boottime)
}

fn read_clock(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// UUIDv7s, each later than all before, also where the wall clock steps back.
fn new_ids() -> impl FnMut(Moment) -> Uuid + Clone {
    let context = Arc::new(Mutex::new(ContextV7::new().with_additional_precision()));
    move |at| {
        let context = context.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = u64::try_from(at.wall.as_second()).unwrap_or(0);
        let nanos = u32::try_from(at.wall.subsec_nanosecond()).unwrap_or(0);
        Uuid::new_v7(Timestamp::from_unix(&*context, seconds, nanos))
    }
}

/// A watch that is set up.
struct Daemon {
    proc: Proc,
    pipeline: Pipeline,
    sink: Sink,
    settings: Settings,
    schedule: Schedule,
    watchdog: Option<Watchdog>,
    /// First of the polls that failed, and how many did.
    failing: Option<(Moment, u64, String)>,
    last_tick: Option<Moment>,
    late: u64,
    /// As many of them have been told in a coverage record.
    late_told: u64,
    /// Where the loop waits.
    events: Rc<Events>,
    /// Moment of the last record.
    told: Moment,
}

/// Watches until a signal or a limit ends it; answers the summary that its last record is.
///
/// # Errors
/// If it cannot be begun. Once begun, errors are told and it goes on.
pub fn run(
    args: &WatchArgs,
    settings: Settings,
    format: Format,
    destination: Destination,
    logger: &LoggerHandle,
) -> Result<String, DaemonError> {
    let watched = Watched::new(settings.select.ports.ranges());
    let events = Events::new(settings.events.kinds(), Arc::new(watched)).map_err(DaemonError::System)?;
    let ((sender, signals), bell) = (channel(), events.bell());
    let deliver = move |signal| {
        let _ = sender.send(signal);
        bell.ring();
    };
    signals::install(deliver).map_err(DaemonError::System)?;
    let mut daemon = set_up(settings, format, destination, Rc::new(events))?;
    let began = Instant::now();
    let reason = daemon.watch(args, &signals, logger, began);
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    Ok(reason.map(|reason| daemon.stop(reason)).unwrap_or_default())
}

/// Prints what stands now.
///
/// # Errors
/// As `run`.
pub fn once(settings: Settings, format: Format, destination: Destination) -> Result<(), DaemonError> {
    let events = Events::new(Vec::new(), Arc::new(Watched::new(&[]))).map_err(DaemonError::System)?;
    let events = Rc::new(events);
    let (mut daemon, view) = set_up_parts(settings, format, destination, events, Duration::from_secs(60))?;
    daemon.attach(view);
    let at = now();
    for event in daemon.pipeline.tick_ungated(&daemon.proc, at).map_err(DaemonError::Proc)? {
        if matches!(event.what, What::Opened(_)) {
            daemon.sink.push(&event);
        }
    }
    daemon.flush_patiently(Duration::from_secs(10));
    Ok(())
}

fn set_up(
    settings: Settings,
    format: Format,
    destination: Destination,
    events: Rc<Events>,
) -> Result<Daemon, DaemonError> {
    // A search may take half of a tick's time, so that the pace is kept.
    let search_time = (settings.interval.0 / 2).clamp(Duration::from_millis(5), Duration::from_millis(100));
    let (mut daemon, view) = set_up_parts(settings, format, destination, events, search_time)?;
    let started = daemon.attach(view);
    daemon.push(vec![Event { at: now(), what: What::Started(Box::new(started)) }]);
    Ok(daemon)
}

fn set_up_parts(
    settings: Settings,
    format: Format,
    destination: Destination,
    events: Rc<Events>,
    search_time: Duration,
) -> Result<(Daemon, View), DaemonError> {
    let proc = Proc::new("/proc").map_err(DaemonError::Proc)?.with_own_socket_mount();
    let view = selftest::look(&proc).map_err(DaemonError::Blind)?;
    let mut users = Users::new().map_err(DaemonError::System)?;
    let mut new_id = new_ids();
    let host = host(proc.boot_id());
    let (stream, run) = (new_id(now()).to_string(), new_id(now()).to_string());
    let outside = Outside {
        new_id: Box::new(new_id.clone()),
        user_name: Box::new(move |uid| users.name(uid, boottime())),
        boottime: Box::new(boottime),
        cputime: Box::new(|| read_clock(ClockId::ThreadCPUTime)),
    };
    let masker = Masker::new(&settings.mask);
    let pipeline = Pipeline::new(&proc, settings.select.clone(), masker, outside, search_time, descriptors());
    let renderer = Renderer::new(host, stream, run, Box::new(new_id));
    let sink = Sink::new(renderer, Stream::default(), format, destination);
    let schedule = Schedule { interval: settings.interval.0, due: Instant::now() };
    let watchdog = sd_notify::watchdog_enabled().map(|patience| Watchdog { every: patience / 3, fed: None });
    Ok((
        Daemon {
            proc,
            pipeline,
            sink,
            settings,
            schedule,
            watchdog,
            failing: None,
            last_tick: None,
            late: 0,
            late_told: 0,
            events,
            told: now(),
        },
        view,
    ))
}

/// How many owners can be held: the limit of descriptors is raised to what is allowed, and some are spared.
fn descriptors() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum.map(|most| most.min(4_096)).or(Some(4_096)) {
        limit.current = limit.maximum.map(|most| most.min(4_096)).or(Some(4_096));
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(have.saturating_sub(SPARE_DESCRIPTORS)).unwrap_or(MOST_HELD).min(MOST_HELD)
}

impl Daemon {
    /// Gives the pipeline its sources; answers what the first record tells.
    fn attach(&mut self, view: View) -> Started {
        let prefer = match self.settings.source {
            SourceChoice::Auto => None,
            SourceChoice::Procfs => Some(Source::Procfs),
            SourceChoice::Netlink => Some(Source::Netlink),
        };
        let all = self.settings.netns == NetnsChoice::All;
        let (choice, off) =
            self.pipeline.attach(&self.proc, Some(Rc::clone(&self.events)), prefer, all, now());
        let wanted = self.settings.events.kinds();
        let state = |kind: Kind| match off.iter().find(|(of, _)| *of == kind) {
            Some((_, why)) => format!("off: {why}"),
            None if wanted.contains(&kind) => "on".to_owned(),
            None => "off: not asked for".to_owned(),
        };
        let mut warnings = view.warnings;
        warnings.extend(choice.differences);
        let unplaced = self.pipeline.unplaced();
        if unplaced > 0 && !view.all_owners {
            warnings.push(format!(
                "which network namespace {unplaced} processes live in may not be read, so connections of containers \
                 may be missing: run as root or grant CAP_SYS_PTRACE"
            ));
        }
        for warning in &warnings {
            log::warn!("{warning}");
        }
        Started {
            settings: self.settings.by_name(),
            owners: if view.all_owners { "all" } else { "own" },
            capabilities: selftest::capabilities(),
            uid: rustix::process::geteuid().as_raw(),
            netns: view.netns.map(|netns| netns.0),
            init_netns: view.init_netns.map(|netns| netns.0),
            source: self.pipeline.source().name(),
            source_reason: choice.reason,
            events: Kind::ALL.into_iter().map(|kind| (kind.name(), state(kind))).collect::<BTreeMap<_, _>>(),
            netns_scope: if all { "all" } else { "own" },
            namespaces: self.pipeline.namespaces() as u64,
            warnings,
        }
    }

    /// Ticks until something ends it; answers what.
    fn watch(
        &mut self,
        args: &WatchArgs,
        signals: &Receiver<Signal>,
        logger: &LoggerHandle,
        began: Instant,
    ) -> Result<String, ReaderGone> {
        let end = self.settings.duration.map(|duration| began + duration.0);
        self.schedule.due = Instant::now();
        self.tick()?;
        // Ready is who has seen what stands and told that the watch began.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        loop {
            if let Some(count) =
                self.settings.count.filter(|count| self.pipeline.totals().opens >= count.get())
            {
                return Ok(format!("--count {count}"));
            }
            self.late += self.schedule.next(Instant::now());
            while let Some(signal) = self.wait(signals, end)? {
                match signal {
                    Signal::Stop(name) => return Ok(name.to_owned()),
                    Signal::Reload => self.reload(args, logger)?,
                }
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok("--duration".to_owned());
            }
            self.tick()?;
        }
    }

    fn tick(&mut self) -> Result<(), ReaderGone> {
        let at = now();
        self.tell_a_stall(at);
        match self.pipeline.tick(&self.proc, at) {
            Ok(events) => {
                self.tell_failed_polls(at);
                self.push(events);
            }
            Err(error) => self.note_failed_poll(&error, at),
        }
        self.sink.flush(at)
    }

    fn push(&mut self, events: Vec<Event>) {
        for mut event in events {
            // What waited while a tick was made tells of a moment before it: the log's own time never runs backwards.
            if event.at.boot < self.told.boot {
                event.at = self.told;
            }
            self.told = event.at;
            if let What::Coverage(coverage) = &mut event.what {
                coverage.late = self.late - std::mem::replace(&mut self.late_told, self.late);
            }
            self.sink.push(&event);
        }
    }

    /// Waits for the next tick, taking observations as they come. `None`: it is due. The watchdog is fed meanwhile, as
    /// often as it wants.
    fn wait(
        &mut self,
        signals: &Receiver<Signal>,
        end: Option<Instant>,
    ) -> Result<Option<Signal>, ReaderGone> {
        let due = end.map_or(self.schedule.due, |end| end.min(self.schedule.due));
        loop {
            let now = Instant::now();
            let left = due.saturating_duration_since(now);
            let nap = self.watchdog.as_mut().map_or(left, |watchdog| watchdog.feed(now).min(left));
            let batches = self.events.wait(nap);
            self.observe(batches)?;
            if let Ok(signal) = signals.try_recv() {
                return Ok(Some(signal));
            }
            // Of what came before the tick one round is taken before it: a flood does not hold it up.
            if Instant::now() >= due {
                return Ok(None);
            }
        }
    }

    /// Takes what the kernel has told already, as far as a moment allows.
    fn drain(&mut self) -> Result<(), ReaderGone> {
        let until = Instant::now() + Duration::from_millis(40);
        loop {
            let batches = self.events.wait(Duration::ZERO);
            if batches.is_empty() {
                break;
            }
            self.observe(batches)?;
            if Instant::now() >= until {
                self.pipeline.leave_undrained();
                break;
            }
        }
        Ok(())
    }

    fn observe(&mut self, batches: Vec<Vec<Observation>>) -> Result<(), ReaderGone> {
        for batch in batches {
            let at = now();
            let events = self.pipeline.observe(&self.proc, at, batch);
            if !events.is_empty() {
                self.push(events);
                self.sink.flush(at)?;
            }
        }
        Ok(())
    }

    /// By the clock that counts suspended time: a stopped process and a sleeping machine alike saw nothing.
    fn tell_a_stall(&mut self, at: Moment) {
        let Some(from) = self.last_tick.replace(at) else { return };
        let behind = at.boot.saturating_sub(from.boot + self.schedule.interval);
        if behind > STALL.max(self.schedule.interval * 10) {
            let gap = Gap { cause: "stalled", from, to: at, count: None, detail: None };
            self.push(vec![Event { at, what: What::Gap(Box::new(gap)) }]);
        }
    }

    fn note_failed_poll(&mut self, error: &ProcError, at: Moment) {
        let text = chain(error);
        match &mut self.failing {
            Some((_, count, _)) => *count += 1,
            None => {
                log::error!("{text}; nothing is concluded from this, the next poll tries again");
                self.failing = Some((at, 1, text));
            }
        }
    }

    fn tell_failed_polls(&mut self, at: Moment) {
        if let Some((from, count, text)) = self.failing.take() {
            log::warn!("polls work again");
            let gap = Gap { cause: "read_failed", from, to: at, count: Some(count), detail: Some(text) };
            self.push(vec![Event { at, what: What::Gap(Box::new(gap)) }]);
        }
    }

    /// SIGHUP: the log is opened again, the configuration read again; a wrong one changes nothing.
    fn reload(&mut self, args: &WatchArgs, logger: &LoggerHandle) -> Result<(), ReaderGone> {
        let _ = sd_notify::notify(&[NotifyState::Reloading]);
        if let Err(error) = logger.reopen_output() {
            log::error!("cannot open the log again, the old one is kept: {error}");
        }
        let at = now();
        let sleep = std::env::var("SLEEP").ok();
        let outcome = match config::load(args, sleep.as_deref()) {
            Ok(new) => Ok(self.apply(new, at)),
            Err(error) => {
                log::error!("{}; the old settings stay", chain(&error));
                Err(chain(&error))
            }
        };
        self.push(vec![Event { at, what: What::Reloaded { outcome } }]);
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        self.sink.flush(at)
    }

    /// Takes what may change while running; answers which did. Where records go and how they look stays as it is.
    fn apply(&mut self, new: Settings, at: Moment) -> Vec<String> {
        let (changed, fixed): (Vec<_>, Vec<_>) =
            self.settings.differences(&new).into_iter().partition(|name| RELOADED.contains(&name.as_str()));
        for name in fixed {
            log::warn!("{name} is another now: that takes a restart");
        }
        if changed.iter().any(|name| SELECTION.contains(&name.as_str())) {
            let masker = Masker::new(&new.mask);
            let ended = self.pipeline.select(new.select.clone(), masker, at);
            self.push(ended);
        }
        self.schedule.interval = new.interval.0;
        self.settings.take_reloaded(new);
        changed
    }

    fn stop(&mut self, reason: String) -> String {
        let _ = self.drain();
        let at = now();
        if let Ok(events) = self.pipeline.tick(&self.proc, at) {
            self.push(events);
        }
        let covered = self.pipeline.cover(at);
        self.push(covered);
        let mut totals = self.pipeline.totals();
        (totals.late, totals.lost) = (self.late, self.sink.lost());
        let stopped = Event { at, what: What::Stopped { reason, totals: Box::new(totals) } };
        self.sink.push(&stopped);
        self.flush_patiently(Duration::from_millis(50));
        self.sink.sync();
        message(&stopped)
    }

    fn flush_patiently(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.sink.flush(now()).is_ok() && !self.sink.is_idle() {
            if Instant::now() >= until {
                log::error!("some records could not be written before the end");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// An error with its causes, in one line; long paths in it are cut.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.chars().take(1_000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_also_when_the_clock_steps_back() {
        let mut new_id = new_ids();
        let mut last = new_id(now());
        for step in 0..10_000i64 {
            let wall = jiff::Timestamp::from_second(1_900_000_000 - step % 7 * 1_000).unwrap();
            let id = new_id(Moment { wall, boot: Duration::ZERO });
            assert!(id > last && id.get_version_num() == 7, "{last} {id}");
            last = id;
        }
    }
}
