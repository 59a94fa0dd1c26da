//! SIGHUP: what of a configuration that was read again is taken over, and when.

use flexi_logger::LoggerHandle;
use sd_notify::NotifyState;

use super::clock::boottime;
use super::{Daemon, chain};
use crate::cli::WatchArgs;
use crate::config::{self, Settings};
use crate::connection::Moment;
use crate::event::{Event, What};
use crate::secrets::Masker;
use crate::sink::ReaderGone;

/// Settings that a reload takes over: those that the pipeline must know, and the others.
const SELECTION: [&str; 9] = [
    "ports",
    "transport",
    "udp-idle",
    "include",
    "exclude",
    "ignore-hash",
    "mask",
    "inbound",
    "ssh-anywhere",
];
const PACE: [&str; 2] = ["interval", "count"];

impl Daemon {
    /// SIGHUP: the log is opened again, the configuration read again; a wrong one changes nothing.
    pub(super) fn reload(&mut self, args: &WatchArgs, logger: &LoggerHandle) -> Result<(), ReaderGone> {
        let _ = sd_notify::notify(&[NotifyState::Reloading]);
        if let Err(error) = logger.reopen_output() {
            log::error!("cannot open the log again, the old one is kept: {error}");
        }
        let at = self.moment();
        let sleep = std::env::var("SLEEP").ok();
        let outcome = match config::load(args, sleep.as_deref()) {
            Ok(new) => Ok(self.apply(new, at)),
            Err(error) => {
                log::error!("{}; the old settings stay", chain(&error));
                Err(chain(&error))
            }
        };
        let (settings, events) = (self.settings.by_name(), self.states());
        self.push(vec![Event { at, what: What::Reloaded { outcome, settings, events } }]);
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        self.ledger.flush(at)
    }

    /// Takes what may change while running; answers which did. Where records go and how they look stays as it is.
    fn apply(&mut self, new: Settings, at: Moment) -> Vec<String> {
        let is_reloaded = |name: &String| SELECTION.iter().chain(&PACE).any(|reloaded| reloaded == name);
        let (changed, fixed): (Vec<_>, Vec<_>) =
            self.settings.differences(&new).into_iter().partition(is_reloaded);
        for name in fixed {
            log::warn!("{name} is another now: that takes a restart");
        }
        if changed.iter().any(|name| SELECTION.contains(&name.as_str())) {
            let masker = Masker::new(&new.mask);
            let spared = self.settings.events.spared(new.select.inbound);
            self.pipeline.hear_also(&self.proc, &self.events.spare_only(&spared), at);
            let ended = self.pipeline.select(new.select.clone(), masker, at);
            self.push(ended);
            // What flows carried that are not wanted any more has been asked by now.
            self.events.set_udp(new.select.udp, at.boot);
        }
        self.schedule.interval = new.interval.0;
        self.settings.take_reloaded(new);
        changed
    }

    /// The kernel's own words tell of UDP flows, or do not any more, as soon as the program is loaded anew for that.
    pub(super) fn follow_udp(&mut self) -> Result<(), ReaderGone> {
        let Some(without) = self.events.take_loaded(boottime) else { return Ok(()) };
        let at = self.moment();
        for what in without {
            log::warn!("{what}");
            if self.settings.select.udp {
                self.push(vec![Event::gap(at, "events_off", what)]);
            }
        }
        self.ledger.flush(at)
    }
}
