//! The moments that people type: `13:42`, `yesterday`, `2h ago`, `2026-11-20 13:42`, RFC 3339.
//! Knows no clock: the caller says what time it is, and with it where.
//! A local time that a change of clocks repeats is its first occurrence, one that it skips is an hour later (RFC 5545).

use jiff::civil::{DateTime, Time};
use jiff::{Error, Span, Timestamp, Zoned};

/// Parses a moment, as seen from `now` and in its zone.
///
/// RFC 3339 with an offset or `Z`; `2026-11-20 13:42[:50[.123]]` or a date alone (its first moment) in local time;
/// `13:42[:50]` of today; `now`, `today`, `yesterday`; `2h`, `1d 30m`, `2h ago`, all of them in the past.
///
/// # Errors
/// Says which forms there are.
pub fn parse_time(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let text = text.trim();
    parse_word(text, now)
        .or_else(|| text.parse().ok().map(Ok))
        .or_else(|| parse_local(text, now))
        .or_else(|| parse_age(text, now))
        .and_then(Result::ok)
        .ok_or_else(|| {
            format!(
                "{text:?} is no time: give 2026-11-20T13:42:50Z, \"2026-11-20 13:42\", 2026-11-20, 13:42, \
                 \"2h ago\", now, today or yesterday"
            )
        })
}

fn parse_word(text: &str, now: &Zoned) -> Option<Result<Timestamp, Error>> {
    let moment = match text {
        "now" => Ok(now.clone()),
        "today" => now.start_of_day(),
        "yesterday" => now.yesterday().and_then(|then| then.start_of_day()),
        _ => return None,
    };
    Some(moment.map(|then| then.timestamp()))
}

fn parse_local(text: &str, now: &Zoned) -> Option<Result<Timestamp, Error>> {
    let zone = now.time_zone();
    if let Ok(local) = text.parse::<DateTime>() {
        // Not midnight: where clocks change at midnight, the day begins at one.
        let has_time = text.contains(':');
        let moment =
            if has_time { local.to_zoned(zone.clone()) } else { local.date().to_zoned(zone.clone()) };
        return Some(moment.map(|then| then.timestamp()));
    }
    // Without the colon jiff would read 13 as an hour, where people may mean anything.
    let time = text.parse::<Time>().ok().filter(|_| text.contains(':'))?;
    Some(now.date().to_datetime(time).to_zoned(zone.clone()).map(|then| then.timestamp()))
}

fn parse_age(text: &str, now: &Zoned) -> Option<Result<Timestamp, Error>> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let age = text.parse::<Span>().ok()?.abs();
    Some(now.checked_sub(age).map(|then| then.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    /// 15:04:05 on a summer day in central Europe, where the clocks changed on 29 March and will on 25 October.
    fn now() -> Zoned {
        "2026-07-01T13:04:05Z".parse::<Timestamp>().unwrap().to_zoned(berlin())
    }

    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn every_documented_form_is_understood() {
        for (typed, expected) in [
            ("2026-11-20T13:42:50Z", "2026-11-20T13:42:50Z"),
            ("2026-11-20T13:42:50.123456+01:00", "2026-11-20T12:42:50.123456Z"),
            ("2026-11-20 13:42:50-05:00", "2026-11-20T18:42:50Z"),
            ("2026-11-20 13:42", "2026-11-20T12:42:00Z"),
            ("2026-06-20 13:42:50", "2026-06-20T11:42:50Z"),
            ("2026-06-20 13:42:50.25", "2026-06-20T11:42:50.25Z"),
            ("2026-06-20T13:42", "2026-06-20T11:42:00Z"),
            ("2026-06-20", "2026-06-19T22:00:00Z"),
            ("13:42", "2026-07-01T11:42:00Z"),
            (" 13:42:50 ", "2026-07-01T11:42:50Z"),
            ("now", "2026-07-01T13:04:05Z"),
            ("today", "2026-06-30T22:00:00Z"),
            ("yesterday", "2026-06-29T22:00:00Z"),
            ("2h ago", "2026-07-01T11:04:05Z"),
            ("2h", "2026-07-01T11:04:05Z"),
            ("90m", "2026-07-01T11:34:05Z"),
            ("1d 30m ago", "2026-06-30T12:34:05Z"),
            ("1 week ago", "2026-06-24T13:04:05Z"),
        ] {
            assert_eq!(parse_time(typed, &now()), Ok(expected.parse().unwrap()), "{typed}");
        }
    }

    #[test]
    fn a_change_of_clocks_is_minded() {
        for (typed, expected) in [
            // Repeated in autumn: the first; skipped in spring: an hour later.
            ("2026-10-25 02:30", "2026-10-25T00:30:00Z"),
            ("2026-03-29 02:30", "2026-03-29T01:30:00Z"),
            // Days are calendar days, hours are hours: 28 March had another offset.
            ("95d", "2026-03-28T14:04:05Z"),
            ("2280h", "2026-03-28T13:04:05Z"),
        ] {
            assert_eq!(parse_time(typed, &now()), Ok(expected.parse().unwrap()), "{typed}");
        }
    }

    #[test]
    fn a_day_begins_at_one_where_midnight_is_skipped() {
        // Chile until 2019: clocks went from 24:00 on Saturday to 01:00.
        let zone = TimeZone::posix("<-04>4<-03>,M8.2.6/24,M5.2.6/24").unwrap();
        let now = "2018-08-14T12:00:00Z".parse::<Timestamp>().unwrap().to_zoned(zone);
        assert_eq!(parse_time("2018-08-12", &now), Ok("2018-08-12T04:00:00Z".parse().unwrap()));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in
            ["", "13", "soon", "-2h", "2", "2x", "25:00", "2026-13-01", "2026-02-30", "99999y", "P2D", "ago"]
        {
            let said = parse_time(bad, &now());
            assert!(said.is_err(), "{bad}: {said:?}");
        }
    }
}
