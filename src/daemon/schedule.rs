//! When the next tick is due, and when systemd's watchdog wants to be fed.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// systemd's watchdog, fed a few times in its patience and not at each tick: a notice costs as much as a tick.
pub(super) struct Watchdog {
    pub every: Duration,
    pub fed: Option<Instant>,
}

impl Watchdog {
    /// Feeds it if it is time to; answers how long it can wait.
    pub fn feed(&mut self, now: Instant) -> Duration {
        let left = self.fed.map_or(Duration::ZERO, |fed| self.every.saturating_sub(now - fed));
        if !left.is_zero() {
            return left;
        }
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        self.fed = Some(now);
        self.every
    }
}

/// Ticks at absolute times: one that comes late does not move those behind it; those that it ran over are skipped.
pub(super) struct Schedule {
    pub interval: Duration,
    pub due: Instant,
}

impl Schedule {
    /// Moves to the next tick that is not over; answers how many are.
    pub fn next(&mut self, now: Instant) -> u64 {
        self.due += self.interval;
        let behind = now.saturating_duration_since(self.due);
        let skipped = u32::try_from(behind.as_nanos() / self.interval.as_nanos().max(1)).unwrap_or(u32::MAX);
        let missed = if now > self.due { skipped + 1 } else { 0 };
        self.due += self.interval * missed;
        u64::from(missed)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_their_times_and_those_that_were_run_over_are_counted() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut schedule = Schedule { interval: ms(50), due: start };
        assert_eq!(schedule.next(start + ms(1)), 0);
        assert_eq!(schedule.due, start + ms(50));
        assert_eq!(schedule.next(start + ms(99)), 0, "late, but before the next");
        assert_eq!(schedule.due, start + ms(100));
        assert_eq!(schedule.next(start + ms(320)), 4, "those of 150, 200, 250 and 300 ms");
        assert_eq!(schedule.due, start + ms(350), "no drift");
    }
}
