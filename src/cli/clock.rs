//! The time of day: reads it, and writes it as in RFC 3339. Measures no durations.
//!
//! The one rule: a time is a number of milliseconds since 1970 in UTC until it is shown.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use tz::TimeZone;

/// The time of day, in milliseconds since 1970. It is 0 before that.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time zone of this computer at a time, in seconds east of Greenwich. It is that of `TZ`, if
/// this variable is set. If the zone is unknown, the local time is UTC.
pub(crate) fn local_offset(millis: u64) -> i32 {
    static ZONE: OnceLock<Option<TimeZone>> = OnceLock::new();
    let zone = ZONE.get_or_init(|| match std::env::var("TZ") {
        Ok(zone) if !zone.is_empty() => TimeZone::from_posix_tz(&zone).ok(),
        _ => TimeZone::local().ok(),
    });
    let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
    let local = zone.as_ref().and_then(|zone| zone.find_local_time_type(seconds).ok());
    local.map_or(0, |local| local.ut_offset())
}

/// A time as in RFC 3339 with milliseconds: `2026-11-26T07:20:00.123Z`. `offset` is the time zone,
/// in seconds east of Greenwich; `None` means UTC.
pub(crate) fn rfc3339(millis: u64, offset: Option<i32>) -> String {
    let local = i64::try_from(millis / 1000).unwrap_or(i64::MAX / 2).saturating_add(offset.unwrap_or(0).into());
    let (days, seconds) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let zone = match offset {
        None => "Z".into(),
        Some(offset) => {
            let sign = if offset < 0 { '-' } else { '+' };
            let minutes = offset.unsigned_abs() / 60;
            format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
        }
    };
    let (hour, minute, second, milli) = (seconds / 3600, seconds / 60 % 60, seconds % 60, millis % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}{zone}")
}

/// A time that a user has written: `2026-11-26`, `2026-11-26T07:20`, `2026-11-26 07:20:00.5+01:00`.
/// One without a zone is local. Times before 1970 are not accepted.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok()).flatten();
    let fields: Vec<i64> = date.split('-').map(number).collect::<Option<_>>()?;
    let [year, month @ 1..=12, day @ 1..=31] = fields[..] else { return None };
    let (time, zone) = match rest.strip_prefix(['T', ' ']) {
        None if rest.is_empty() => ("00:00", ""),
        None => return None,
        Some(rest) => rest.split_at(rest.find(['Z', '+', '-']).unwrap_or(rest.len())),
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let fields: Vec<i64> = time.split(':').map(number).collect::<Option<_>>()?;
    let (hour, minute, second) = match fields[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 60 || fraction.is_empty() {
        return None;
    }
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let written = u64::try_from(seconds * 1000 + number(&digits)?).ok()?;
    let offset = match zone {
        "Z" => 0,
        "" => local_offset(written).into(),
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let east = number(hours).filter(|hours| *hours < 24)? * 3600 + number(minutes).filter(|it| *it < 60)? * 60;
            if zone.starts_with('-') { -east } else { east }
        }
    };
    written.checked_add_signed(-offset * 1000)
}

/// The days from 1970-01-01 to a day: the reverse of [`date`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = (month + 9) % 12;
    era * 146_097 + 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The year, the month and the day, so many days after 1970-01-01 in the Gregorian calendar.
///
/// The years are counted from March on, so that the leap day is the last day of its year.
fn date(days: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(DAYS_IN_400_YEARS), days.rem_euclid(DAYS_IN_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let is_early = month >= 10;
    (400 * era + year + i64::from(is_early), if is_early { month - 9 } else { month + 3 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_the_rfc() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_677_600_123, "2026-11-26T07:20:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(millis, None), expected);
        }
        assert_eq!(rfc3339(951_782_399_999, Some(3600)), "2000-02-29T00:59:59.999+01:00");
        assert_eq!(rfc3339(951_782_400_000, Some(-12_600)), "2000-02-28T20:30:00.000-03:30");
        rfc3339(u64::MAX, Some(-1));
        for millis in [0, 951_782_399_999, 951_782_400_000, 1_795_677_600_123, 4_107_542_400_000] {
            assert_eq!(parse(&rfc3339(millis, None)), Some(millis));
            assert_eq!(parse(&rfc3339(millis, Some(5400))), Some(millis));
        }
        assert_eq!(parse("2026-11-26 07:20:00.5Z"), Some(1_795_677_600_500));
        let local = parse("2026-11-26").unwrap();
        assert_eq!(parse("2026-11-26T00:00:00"), Some(local));
        for text in [
            "",
            "2026",
            "2026-13-01",
            "2026-11-26T",
            "2026-11-26T7",
            "2026-11-26T24:00",
            "2026-11-26T07:20+1",
            "1969-01-01T00:00Z",
            "2026-11-26X",
            "+026-11-26",
            "ääääääää",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(now() > 1_700_000_000_000);
    }
}
