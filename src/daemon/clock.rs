//! The clocks, and ids that follow them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use uuid::{ContextV7, Timestamp, Uuid};

use crate::connection::Moment;

/// Both clocks, now.
#[must_use]
pub fn now() -> Moment {
    loop {
        let (before, wall) = (boottime(), jiff::Timestamp::now());
        let boot = boottime();
        // Stopped between two readings, they would tell of two moments: of a step that never was.
        if boot.saturating_sub(before) < Duration::from_millis(10) {
            return Moment { wall, boot };
        }
    }
}

pub(super) fn boottime() -> Duration {
    read_clock(ClockId::Boottime)
}

pub(super) fn read_clock(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// UUIDv7s, each later than all before, also where the wall clock steps back; and than `after`.
pub fn new_ids(after: Option<Uuid>) -> impl FnMut(Moment) -> Uuid + Clone {
    let context = ContextV7::new().with_additional_precision();
    if let Some((seconds, nanos)) = after.and_then(|id| id.get_timestamp()).map(|t| t.to_unix()) {
        // The clock may have been set back since; and within that millisecond others may have been given.
        let next = u64::from(nanos / 1_000_000 + 1) * 1_000_000;
        let (seconds, nanos) = (seconds + next / 1_000_000_000, next % 1_000_000_000);
        let nanos = u32::try_from(nanos).unwrap_or(0);
        let _ = Uuid::new_v7(Timestamp::from_unix(&context, seconds, nanos));
    }
    let context = Arc::new(Mutex::new(context));
    move |at| {
        let context = context.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = u64::try_from(at.wall.as_second()).unwrap_or(0);
        let nanos = u32::try_from(at.wall.subsec_nanosecond()).unwrap_or(0);
        Uuid::new_v7(Timestamp::from_unix(&*context, seconds, nanos))
    }
}

/// Whether the wall clock is set, and whether the machine sleeps.
#[derive(Debug, Default)]
pub struct Steps {
    /// Wall clock at boot, µs, as it seemed last, and when that was.
    booted: Option<(i64, Duration)>,
}

/// A smaller step is none: clocks are slewed, and two clocks are not read at once.
const LEAST_STEP_US: i64 = 250_000;

impl Steps {
    /// By how much the wall clock was set since the last call, µs.
    pub fn look(&mut self, now: Moment) -> Option<i64> {
        let boot = i64::try_from(now.boot.as_micros()).unwrap_or(i64::MAX);
        let booted = now.wall.as_microsecond().saturating_sub(boot);
        let (before, at) = self.booted.replace((booted, now.boot))?;
        let by = booted - before;
        // A clock that is slewed moves by 0.05 % at most.
        let slewed = i64::try_from(now.boot.saturating_sub(at).as_micros() / 1_000).unwrap_or(i64::MAX);
        (by.abs() > LEAST_STEP_US.saturating_add(slewed)).then_some(by)
    }
}

/// A tick that comes this much too late, and ten intervals, is a gap.
pub(super) const STALL: Duration = Duration::from_secs(1);

/// Why a tick comes so late, if it does: the machine slept, or we were stopped. `passed` since the last, and as much of
/// that as the machine was awake.
pub(super) fn stall(passed: Duration, awake: Duration, interval: Duration) -> Option<&'static str> {
    let is_late = passed.saturating_sub(interval) > STALL.max(interval * 10);
    let slept = passed.saturating_sub(awake);
    is_late.then_some(if slept > passed / 2 { "suspended" } else { "stalled" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64, boot: u64) -> Moment {
        Moment { wall: jiff::Timestamp::from_second(second).unwrap(), boot: Duration::from_secs(boot) }
    }

    #[test]
    fn ids_rise_also_when_the_clock_steps_back_and_over_a_restart() {
        let mut new_id = new_ids(None);
        let mut last = new_id(now());
        for step in 0..10_000i64 {
            if step == 5_000 {
                new_id = new_ids(Some(last));
            }
            let id = new_id(at(1_900_000_000 - step % 7 * 1_000, 0));
            assert!(id > last && id.get_version_num() == 7, "{last} {id}");
            last = id;
        }
    }

    #[test]
    fn a_machine_that_slept_is_told_from_a_watcher_that_was_stopped() {
        let ms = Duration::from_millis;
        for (passed, awake, interval, cause) in [
            (1_000, 1_000, 50, None),
            (1_051, 1_051, 50, Some("stalled")),
            (3_600_000, 20, 50, Some("suspended")),
            (3_600_000, 3_000_000, 50, Some("stalled")),
            (5_000, 5_000, 1_000, None),
            (11_001, 11_001, 1_000, Some("stalled")),
        ] {
            assert_eq!(stall(ms(passed), ms(awake), ms(interval)), cause, "{passed} ms");
        }
    }

    #[test]
    fn a_step_is_told_once_and_slewing_is_none() {
        let mut steps = Steps::default();
        assert_eq!(steps.look(at(1_000, 10)), None);
        assert_eq!(steps.look(at(1_001, 11)), None);
        assert_eq!(steps.look(at(401, 12)), Some(-601_000_000));
        assert_eq!(steps.look(at(402, 13)), None);
        assert_eq!(steps.look(at(4_003, 3_613)), None, "a second in an hour is slewing");
        assert_eq!(steps.look(at(4_006, 3_614)), Some(2_000_000));
    }
}
