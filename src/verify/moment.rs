//! Times and ids as the log writes them, as numbers.
//! Knows no clock. RFC 3339 in UTC; RFC 9562 (UUID version 7 begins with milliseconds since 1970).

const DAY: i64 = 86_400;
/// Lengths of the months from March on, summed: leap days come last then.
const SINCE_MARCH: [i64; 12] = [306, 337, 0, 31, 61, 92, 122, 153, 184, 214, 245, 275];
const LENGTHS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Microseconds since 1970 of `2026-11-20T13:42:50.123456Z`, with none to nine decimals.
pub fn parse(text: &[u8]) -> Option<i64> {
    let (seconds, rest) = text.split_at_checked(19)?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2] = seconds
    else {
        return None;
    };
    let two = |tens: &u8, ones: &u8| Some(digit(*tens)? * 10 + digit(*ones)?);
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    let (month, day) = (two(m1, m2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    let of_day = hour * 3_600 + minute * 60 + second;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((days(year, month, day)? * DAY + of_day) * 1_000_000 + micros(rest)?)
}

/// True if `parse` would read it. Nearly all times are only held against their shape: every month has 28 days.
pub fn is_time(text: &[u8]) -> bool {
    let Some((seconds, rest)) = text.split_first_chunk::<19>() else { return false };
    let shape = b"0000-00-00T00:00:00";
    let fits = |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    let is_shaped = seconds.iter().zip(shape).fold(true, |good, pair| good & fits(pair));
    let decimals = match rest {
        [b'.', decimals @ .., b'Z'] => decimals,
        _ => return parse(text).is_some(),
    };
    let [.., m1, m2, _, d1, d2, _, h1, h2, _, n1, _, _, s1, _] = seconds;
    let is_in_range = matches!((m1, m2), (b'0', b'1'..=b'9') | (b'1', b'0'..=b'2'))
        && matches!((d1, d2), (b'0', b'1'..=b'9') | (b'1', _) | (b'2', b'0'..=b'8'))
        && matches!((h1, h2), (b'0' | b'1', _) | (b'2', b'0'..=b'3'))
        && matches!((n1, s1), (b'0'..=b'5', b'0'..=b'5'));
    let is_fraction = (1..=9).contains(&decimals.len()) && decimals.iter().all(u8::is_ascii_digit);
    is_shaped && is_fraction && is_in_range || parse(text).is_some()
}

#[inline]
fn digit(byte: u8) -> Option<i64> {
    byte.checked_sub(b'0').filter(|digit| *digit <= 9).map(i64::from)
}

/// Days since 1970.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let index = usize::try_from(month - 1).ok()?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = LENGTHS.get(index)? + i64::from(is_leap && month == 2);
    if !(1..=length).contains(&day) {
        return None;
    }
    // A year that begins in March.
    let year = year - i64::from(month <= 2);
    let whole = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some(whole + SINCE_MARCH.get(index)? + day - 1 - 719_468)
}

/// `Z`, or a dot, decimals and `Z`.
fn micros(rest: &[u8]) -> Option<i64> {
    let decimals = match rest {
        b"Z" => return Some(0),
        [b'.', decimals @ .., b'Z'] if (1..=9).contains(&decimals.len()) => decimals,
        _ => return None,
    };
    let (mut micros, mut unit) = (0, 100_000);
    for byte in decimals {
        micros += digit(*byte)? * unit;
        unit /= 10;
    }
    Some(micros)
}

/// A UUID in lower case with its hyphens.
pub fn parse_uuid(text: &[u8]) -> Option<u128> {
    let text: &[u8; 36] = text.try_into().ok()?;
    let mut id = 0_u128;
    for (index, byte) in text.iter().enumerate() {
        match (index, byte) {
            (8 | 13 | 18 | 23, b'-') => {}
            (8 | 13 | 18 | 23, _) => return None,
            (_, b'0'..=b'9') => id = id << 4 | u128::from(byte - b'0'),
            (_, b'a'..=b'f') => id = id << 4 | u128::from(byte - b'a' + 10),
            _ => return None,
        }
    }
    Some(id)
}

/// Microseconds since 1970 of a UUID of version 7; `None` for another.
pub fn of_uuid(id: u128) -> Option<i64> {
    let is_version_7 = id >> 76 & 0xf == 7 && id >> 62 & 3 == 2;
    let millis = i64::try_from(id >> 80).ok()?;
    is_version_7.then_some(millis * 1_000)
}

/// Bytes in hexadecimal digits, in lower case.
pub fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        for c in pair {
            let value = match c {
                b'0'..=b'9' => c - b'0',
                b'a'..=b'f' => c - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(bytes)
}

/// Bytes as hexadecimal digits.
pub fn hex<const N: usize>(bytes: &[u8; N], text: &mut [u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digit = |value: u8| DIGITS.get(usize::from(value & 15)).copied().unwrap_or(b'0');
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(*byte)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn jiff_agrees(second in -62_000_000_000_i64..253_000_000_000, micro in 0..1_000_000_i32) {
            let time = jiff::Timestamp::new(second, 0).unwrap() + jiff::SignedDuration::from_micros(micro.into());
            let text = format!("{time:.6}");
            if !text.starts_with('-') {
                prop_assert_eq!(parse(text.as_bytes()), Some(time.as_microsecond()), "{}", text);
                prop_assert!(is_time(text.as_bytes()));
            }
        }

        #[test]
        fn a_time_is_what_can_be_read(text in "20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9][.]?[0-9a]{0,10}Z?") {
            prop_assert_eq!(is_time(text.as_bytes()), parse(text.as_bytes()).is_some());
        }

        #[test]
        fn uuids_are_read_as_the_uuid_crate_reads_them(id: u128) {
            let text = uuid::Uuid::from_u128(id).to_string();
            prop_assert_eq!(parse_uuid(text.as_bytes()), Some(id));
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for bad in [
            "",
            "2026-11-20",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T13:42:50",
            "2026-11-20T13:42:50+01:00",
            "2026-11-20T13:42:50.Z",
            "2026-11-20 13:42:50Z",
            "2026-11-20T13:42:50.1234567890Z",
            "2026-11-20T13:42:5 Z",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
            assert!(!is_time(bad.as_bytes()), "{bad}");
        }
        assert_eq!(parse(b"2024-02-29T00:00:00.5Z"), Some(1_709_164_800_500_000));
        assert_eq!(parse(b"1970-01-01T00:00:00Z"), Some(0));
    }
}
