//! The only loop, the only clock.

#![expect(clippy::disallowed_methods, reason = "this module is the clock")]

mod clock;
mod reload;
mod schedule;

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use flexi_logger::LoggerHandle;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::ClockId;
use sd_notify::NotifyState;

use crate::attribution::MOST_HELD;
use crate::cli::{NetnsChoice, SourceChoice, WatchArgs};
use crate::config::Settings;
use crate::connection::Moment;
use crate::enrichment::{Users, host};
use crate::event::message::message;
use crate::event::{Coverage, Event, Started, What};
use crate::hash;
use crate::ledger::{self, Beginning, Ledger, Output};
use crate::pipeline::{Outside, Pipeline};
use crate::proc::{Proc, ProcError};
use crate::process::Reason;
use crate::secrets::Masker;
use crate::selftest::{self, Blind, View};
use crate::signals::{self, Signal};
use crate::sink::ReaderGone;
use crate::source::poll::Source;
use crate::source::{Events, Kind, Observation, Watched};
use crate::state::Live;

pub use clock::{Steps, new_ids, now};
use clock::{boottime, read_clock};
use schedule::{Schedule, Watchdog};

/// Descriptors that are not spent on held owners.
const SPARE_DESCRIPTORS: u64 = 512;

/// Before the end so many times what is missing is waited for, and so long.
const LAST_LOOKS: usize = 5;
const LAST_LOOK: Duration = Duration::from_millis(10);

/// So few connections of a minute without an owner may be chance.
const FEW: u64 = 10;

/// Why a watch could not be begun.
#[derive(Debug)]
pub enum DaemonError {
    /// It would see nothing.
    Blind(Blind),
    /// `/proc` cannot be opened.
    Proc(ProcError),
    /// No thread or handler can be had.
    System(std::io::Error),
    /// It ended, and some records could not be written before.
    Unwritten,
}

impl fmt::Display for DaemonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blind(blind) => blind.fmt(f),
            Self::Proc(error) => error.fmt(f),
            Self::System(_) => f.write_str("cannot set up signals or threads"),
            Self::Unwritten => f.write_str("some records could not be written before the end"),
        }
    }
}

impl std::error::Error for DaemonError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Blind(blind) => blind.source(),
            Self::Proc(error) => error.source(),
            Self::System(error) => Some(error),
            Self::Unwritten => None,
        }
    }
}

/// A watch that is set up.
struct Daemon {
    proc: Proc,
    pipeline: Pipeline,
    ledger: Ledger,
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
    steps: Steps,
    /// CLOCK_MONOTONIC at the last tick: it stands while the machine sleeps.
    last_awake: Duration,
    /// True once all owners could be read: that this is lost must be noticed.
    sees_all: bool,
}

/// Watches until a signal or a limit ends it; answers the summary that its last record is.
///
/// # Errors
/// If it cannot be begun. Once begun, errors are told and it goes on.
pub fn run(
    args: &WatchArgs,
    settings: Settings,
    output: Output,
    logger: &LoggerHandle,
) -> Result<String, DaemonError> {
    let watched = Watched::new(settings.select.looked_at().ranges());
    let events = Events::new(settings.kinds(), Arc::new(watched)).map_err(DaemonError::System)?;
    let events =
        events.reading(settings.audit_log.clone()).sparing(settings.events.spared(settings.select.inbound));
    let events = events.with_udp(settings.select.udp);
    let ((sender, signals), bell) = (channel(), events.bell());
    let deliver = move |signal| {
        let _ = sender.send(signal);
        bell.ring();
    };
    signals::install(deliver).map_err(DaemonError::System)?;
    let mut daemon = set_up(settings, output, Rc::new(events))?;
    let began = Instant::now();
    let reason = daemon.watch(args, &signals, logger, began);
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    match reason {
        Ok(reason) => daemon.stop(reason),
        Err(ReaderGone) => Ok(String::new()),
    }
}

/// Prints what stands now.
///
/// # Errors
/// As `run`.
pub fn once(settings: Settings, output: Output) -> Result<(), DaemonError> {
    let events = Events::new(Vec::new(), Arc::new(Watched::new(&[]))).map_err(DaemonError::System)?;
    let events = Rc::new(events);
    let (mut daemon, view, _) = set_up_parts(settings, output, events, Duration::from_secs(60))?;
    daemon.attach(view);
    let at = now();
    for event in daemon.pipeline.tick_ungated(&daemon.proc, at).map_err(DaemonError::Proc)? {
        if matches!(event.what, What::Opened(_)) {
            daemon.ledger.push(event);
        }
    }
    match daemon.ledger.close(Vec::new(), Duration::from_secs(10), &now, &nap) {
        true => Ok(()),
        false => Err(DaemonError::Unwritten),
    }
}

fn set_up(settings: Settings, output: Output, events: Rc<Events>) -> Result<Daemon, DaemonError> {
    // A search may take half of a tick's time, so that the pace is kept.
    let search_time = (settings.interval.0 / 2).clamp(Duration::from_millis(5), Duration::from_millis(100));
    let (mut daemon, view, beginning) = set_up_parts(settings, output, events, search_time)?;
    let started = daemon.attach(view);
    daemon.begin(started, beginning);
    Ok(daemon)
}

fn set_up_parts(
    settings: Settings,
    output: Output,
    events: Rc<Events>,
    search_time: Duration,
) -> Result<(Daemon, View, Beginning), DaemonError> {
    let proc = Proc::new("/proc").map_err(DaemonError::Proc)?.with_own_socket_mount();
    let view = selftest::look(&proc).map_err(DaemonError::Blind)?;
    let mut users = Users::new().map_err(DaemonError::System)?;
    let found = ledger::find(&output).unless_ahead(proc.boot_id().as_deref(), now());
    let new_id = new_ids(found.beginning.last_id);
    let outside = Outside {
        new_id: Box::new(new_id.clone()),
        user_name: Box::new(move |uid| users.name(uid, boottime())),
        boottime: Box::new(boottime),
        cputime: Box::new(|| read_clock(ClockId::ThreadCPUTime)),
    };
    let masker = Masker::new(&settings.mask);
    let mut pipeline =
        Pipeline::new(&proc, settings.select.clone(), masker, outside, search_time, descriptors());
    if settings.hash {
        // Who prints once what stands has time to wait.
        pipeline.hash(hash::WAIT.max(search_time / 100));
    }
    if let Some(choice) = &settings.executions {
        pipeline.follow_executions(choice.clone());
    }
    let (ledger, beginning) =
        Ledger::new(output, found, host(proc.boot_id()), new_id, now()).map_err(DaemonError::System)?;
    let schedule = Schedule { interval: settings.interval.0, due: Instant::now() };
    let watchdog = sd_notify::watchdog_enabled().map(|patience| Watchdog { every: patience / 3, fed: None });
    let daemon = Daemon {
        proc,
        pipeline,
        ledger,
        settings,
        schedule,
        watchdog,
        failing: None,
        last_tick: None,
        late: 0,
        late_told: 0,
        events,
        steps: Steps::default(),
        last_awake: Duration::ZERO,
        sees_all: view.all_owners,
    };
    Ok((daemon, view, beginning))
}

fn nap() {
    std::thread::sleep(Duration::from_millis(5));
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
        let choice = self.pipeline.attach(&self.proc, Some(Rc::clone(&self.events)), prefer, all, now());
        let mut warnings = view.warnings;
        let proc = self.pipeline.state_of(Kind::Proc);
        let proc_off = proc.strip_prefix("off: ").filter(|_| self.settings.executions.is_some());
        warnings
            .extend(proc_off.map(|why| format!("no program's start and end is told: the source proc {why}")));
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
            events: self.states(),
            netns_scope: if all { "all" } else { "own" },
            namespaces: self.pipeline.namespaces() as u64,
            stream: "new",
            stream_reason: None,
            previous_end: None,
            executable_sha256: selftest::executable_sha256(),
            warnings,
        }
    }

    /// Of each kind of notices whether it is on in our own namespace.
    fn states(&self) -> BTreeMap<&'static str, String> {
        Kind::ALL.into_iter().map(|kind| (kind.name(), self.pipeline.state_of(kind))).collect()
    }

    /// The first record, and what became of what the run before followed.
    fn begin(&mut self, mut started: Started, beginning: Beginning) {
        let Beginning { stream, reason, previous, boot, live, .. } = beginning;
        let at = now();
        (started.stream, started.stream_reason) = (stream, reason);
        started.previous_end = previous.map(|(_, is_clean)| if is_clean { "clean" } else { "unclean" });
        self.push(vec![Event { at, what: What::Started(Box::new(started)) }]);
        if let Some((from, _)) = previous {
            let this_boot = self.proc.boot_id();
            if boot == this_boot {
                // The clock may have been set while nobody watched.
                let _ = self.steps.look(from);
            }
            let at = self.moment();
            let told = resume(&mut self.pipeline, live, from, &this_boot, at);
            self.push(told);
        }
    }

    /// Both clocks, now; tells before anything else if the wall clock was set.
    fn moment(&mut self) -> Moment {
        let at = now();
        if let Some(by_us) = self.steps.look(at) {
            self.ledger.push(Event { at, what: What::ClockStepped { by_us } });
        }
        at
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
        let at = self.moment();
        self.tell_a_stall(at);
        match self.pipeline.tick(&self.proc, at) {
            Ok(events) => {
                if self.failing.is_some() {
                    log::warn!("polls work again");
                }
                self.tell_failed_polls(at);
                self.push(events);
            }
            Err(error) => self.note_failed_poll(&error, at),
        }
        self.ledger.flush(at)?;
        self.ledger.turn(at, || self.pipeline.live());
        Ok(())
    }

    fn push(&mut self, events: Vec<Event>) {
        for mut event in events {
            let mut blind = None;
            if let What::Coverage(coverage) = &mut event.what {
                coverage.late = self.late - std::mem::replace(&mut self.late_told, self.late);
                blind = self.lost_attribution(coverage, event.at);
            }
            self.ledger.push(event);
            blind.into_iter().for_each(|gap| self.ledger.push(gap));
        }
    }

    /// A watch that was able to name owners and names none any more sees half of what it is for.
    fn lost_attribution(&mut self, coverage: &Coverage, at: Moment) -> Option<Event> {
        let could = std::mem::replace(&mut self.sees_all, selftest::sees_all_owners(&self.proc));
        let detail = if could && !self.sees_all {
            "other users' descriptors may not be read any more".to_owned()
        } else if nobody_was_named(coverage) {
            "no connection of this minute has an owner".to_owned()
        } else {
            return None;
        };
        log::error!("{detail}");
        let from = coverage.span.map_or(at, |(from, _)| from);
        Some(Event::lost(from, at, "attribution_lost", Some(coverage.opens), Some(detail)))
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
            // Who cannot poll is not alive.
            let watchdog = self.watchdog.as_mut().filter(|_| self.failing.is_none());
            let nap = watchdog.map_or(left, |watchdog| watchdog.feed(now).min(left));
            let batches = self.events.wait(nap);
            self.observe(batches)?;
            self.follow_udp()?;
            if let Ok(signal) = signals.try_recv() {
                return Ok(Some(signal));
            }
            // Of what came before the tick one round is taken before it: a flood does not hold it up.
            if Instant::now() >= due {
                return Ok(None);
            }
        }
    }

    /// The last coverage. What has just ended is in no table any more, and its notice is on its way: it is waited for.
    fn cover_to_the_end(&mut self) -> Moment {
        let mut looks = 0;
        loop {
            let at = self.moment();
            looks += 1;
            if let Some(covered) = self.pipeline.cover(at, looks == LAST_LOOKS) {
                self.push(covered);
                return at;
            }
            let late = self.events.wait(LAST_LOOK);
            let _ = self.observe(late);
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
            let at = self.moment();
            let events = self.pipeline.observe(&self.proc, at, batch);
            if !events.is_empty() {
                self.push(events);
                self.ledger.flush(at)?;
            }
        }
        Ok(())
    }

    /// By the clock that counts suspended time: a stopped process and a sleeping machine alike saw nothing.
    fn tell_a_stall(&mut self, at: Moment) {
        let awake = read_clock(ClockId::Monotonic);
        let was_awake = awake.saturating_sub(std::mem::replace(&mut self.last_awake, awake));
        let Some(from) = self.last_tick.replace(at) else { return };
        let passed = at.boot.saturating_sub(from.boot);
        if passed.saturating_sub(self.schedule.interval) > clock::STALL {
            self.pipeline.lose_connects(at);
        }
        if let Some(cause) = clock::stall(passed, was_awake, self.schedule.interval) {
            self.push(vec![Event::lost(from, at, cause, None, None)]);
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
            self.push(vec![Event::lost(from, at, "read_failed", Some(count), Some(text))]);
        }
    }

    fn stop(&mut self, reason: String) -> Result<String, DaemonError> {
        let _ = self.drain();
        let at = self.moment();
        self.tell_a_stall(at);
        match self.pipeline.tick(&self.proc, at) {
            Ok(events) => self.push(events),
            Err(error) => self.note_failed_poll(&error, at),
        }
        self.tell_failed_polls(at);
        let settled = self.pipeline.settle(&self.proc, at);
        self.push(settled);
        let over = self.pipeline.end_executions(at);
        self.push(over);
        let at = self.cover_to_the_end();
        let mut totals = self.pipeline.totals();
        (totals.late, totals.lost) = (self.late, self.ledger.lost());
        let stopped = Event { at, what: What::Stopped { reason, totals: Box::new(totals) } };
        let summary = message(&stopped);
        self.ledger.push(stopped);
        match self.ledger.close(self.pipeline.live(), Duration::from_millis(50), &now, &nap) {
            true => Ok(summary),
            false => Err(DaemonError::Unwritten),
        }
    }
}

/// True if no connection that stood when it was seen has an owner. Of those that were over by then nobody expects one.
fn nobody_was_named(coverage: &Coverage) -> bool {
    let over = coverage.unattributed.get(Reason::TimeWait.name()).copied().unwrap_or(0);
    let unnamed = coverage.unattributed.values().sum::<u64>() - over;
    unnamed >= FEW && unnamed + over == coverage.opens
}

/// Goes on with what the run before followed, up to its last record at `from`; answers what is to be told of it.
pub fn resume(
    pipeline: &mut Pipeline,
    live: Vec<Live>,
    from: Moment,
    boot: &Option<String>,
    at: Moment,
) -> Vec<Event> {
    // Where a boot id could not be read, then or now, only a clock that began anew tells of another boot: one that is
    // taken for the same ends what is gone as `while_down`, but nothing that stands.
    let is_other = |then: &Option<String>| match (then, boot) {
        (Some(then), Some(now)) => then != now,
        _ => from.boot > at.boot,
    };
    let (over, stands): (Vec<_>, Vec<_>) = live.into_iter().partition(|live| is_other(&live.boot));
    let connections = |live: Vec<Live>| live.into_iter().map(|live| live.connection).collect::<Vec<_>>();
    let booted = Moment { wall: at.wall.checked_sub(at.boot).unwrap_or(at.wall), boot: Duration::ZERO };
    let mut told = vec![Event::lost(from, at, "not_watching", None, None)];
    told.extend(pipeline.end_with_the_boot(&connections(over), booted, at));
    told.extend(pipeline.restore(&connections(stands), at));
    told
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
