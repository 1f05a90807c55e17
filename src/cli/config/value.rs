//! Parses the values of the file: durations, sizes, signals, modes, users. Looks up nothing but
//! users and groups.
//!
//! The one rule: an error says only what is allowed instead, because the caller knows what was
//! found, and where. What a `show_…` function writes reads back as the same value.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use childminder::restart::StopScope;
use childminder::{Command, Contain, Limit, Restart, signal};
use toml::de::DeValue;

use super::socket::SocketPath;
use crate::cli::dress::Stamp;

pub(super) type Parsed<T> = Result<T, &'static str>;

const DURATION: &str =
    "a duration such as \"500ms\", \"5s\", \"1m30s\", \"1.5h\", or a number of seconds, up to 100 years";
const SOME_TIME: &str = "a duration above zero, such as \"500ms\", \"5s\" or \"1m30s\"";
const MAX_SIZE: &str = "a size such as \"10MiB\", \"10MB\", \"512k\", a number of bytes, at least 1, or \"unlimited\"";
const UNLIMITED: &str = "unlimited";
const TIMESTAMPS: &str = "true, false, \"local\", \"utc\" or \"monotonic\"";
const RECENT: &str = "0 or a size from \"16KiB\" to \"64MiB\"";
const SOCKET: &str = "a path, or false for none";
const UMASK: &str = "a mask in octal, such as \"022\" or 0o022, up to 0o777";
const MODE: &str = "a mode in octal without bits above 0777, such as \"0640\" or 0o640";
const OWNER: &str = "\"USER\", \"USER:GROUP\" or \":GROUP\", each a name or a number of this system";
const LIMIT: &str =
    "a number, a size such as \"10MiB\", \"unlimited\", or a table with `soft` and `hard`, soft not above hard";

/// Longer than any machine runs, and far from where an `Instant` would overflow.
const LONGEST: u128 = 100 * 365 * 86_400 * 1_000_000_000;

/// In nanoseconds, in descending order.
const TIME_UNITS: &[(&str, u128)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1000),
    ("ns", 1),
    ("", 1_000_000_000),
];

/// In bytes and in lower case. A letter alone means the same as with "iB", as in `dd(1)`.
const SIZE_UNITS: &[(&str, u128)] = &[
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("b", 1),
    ("", 1),
    ("g", 1 << 30),
    ("m", 1 << 20),
    ("k", 1 << 10),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1000),
];

/// The exact value of a text such as "1.5m", in the smallest unit.
fn scaled(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = u128::from(whole.parse::<u64>().ok()?) * factor;
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 18)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * factor / 10_u128.pow(digits);
    Some(whole + part)
}

/// A duration as in the file or on the command line: "500ms", "1.5m", "1m30s", or a number of
/// seconds.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let nanos = scaled(text, TIME_UNITS).or_else(|| several(text)).filter(|nanos| *nanos <= LONGEST)?;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(nanos % 1_000_000_000).ok()?))
}

/// The nanoseconds of a text such as "1m30s", with several units in descending order.
fn several(text: &str) -> Option<u128> {
    let (mut rest, mut nanos, mut last) = (text.trim_end(), 0, u128::MAX);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit_end = rest[number_end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| number_end + end);
        let part = rest[..unit_end].trim_end();
        let unit = part[number_end..].trim_start();
        let (_, factor) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
        if *factor >= last {
            return None;
        }
        (last, nanos) = (*factor, nanos + scaled(part, TIME_UNITS)?);
        rest = &rest[unit_end..];
    }
    Some(nanos)
}

/// Reads a size with or without a unit.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    u64::try_from(scaled(&text.to_ascii_lowercase(), SIZE_UNITS)?).ok()
}

pub(super) fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    // The seconds without a unit are never reached, because "ns" divides every number.
    let (unit, factor) = TIME_UNITS.iter().find(|(_, factor)| nanos % factor == 0 && nanos > 0).unwrap_or(&("s", 1));
    format!("{}{unit}", nanos / factor)
}

fn show_size(size: u64) -> String {
    let names = ["GiB", "MiB", "KiB", "B"].into_iter().zip(SIZE_UNITS);
    let fits = |(name, (_, factor)): (_, &(_, u128))| {
        (u128::from(size) % factor == 0).then(|| format!("{}{name}", u128::from(size) / factor))
    };
    names.into_iter().find_map(fits).unwrap_or_default()
}

pub(super) fn text(value: &DeValue<'_>) -> Parsed<String> {
    value.as_str().filter(|text| !text.contains('\0')).map(str::to_owned).ok_or("a string without NUL")
}

/// Text that is not blank: a program, a script or a path.
pub(super) fn some_text(value: &DeValue<'_>) -> Parsed<String> {
    text(value).ok().filter(|text| !text.trim().is_empty()).ok_or("a string that is not empty")
}

/// A path that is kept as it is written, or `false`.
pub(super) fn socket(value: &DeValue<'_>) -> Parsed<SocketPath> {
    match value.as_bool() {
        Some(false) => Ok(SocketPath::None),
        Some(true) => Err(SOCKET),
        None => some_text(value).map(|path| SocketPath::At(path.into())).map_err(|_| SOCKET),
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Parsed<bool> {
    value.as_bool().ok_or("true or false")
}

/// `true` means the local time, and `false` none.
pub(super) fn timestamps(value: &DeValue<'_>) -> Parsed<Option<Stamp>> {
    match (value.as_bool(), value.as_str()) {
        (Some(true), _) => Ok(Some(Stamp::Local)),
        (Some(false), _) => Ok(None),
        (None, text) => text.and_then(Stamp::parse).map(Some).ok_or(TIMESTAMPS),
    }
}

/// `true` for "json".
pub(super) fn format(value: &DeValue<'_>) -> Parsed<bool> {
    match value.as_str() {
        Some("text") => Ok(false),
        Some("json") => Ok(true),
        _ => Err("\"text\" or \"json\""),
    }
}

pub(super) fn duration(value: &DeValue<'_>) -> Parsed<Duration> {
    match value {
        DeValue::String(text) => parse_duration(text),
        DeValue::Integer(_) => integer(value).and_then(|seconds| parse_duration(&seconds.to_string())),
        DeValue::Float(seconds) => parse_duration(seconds.as_str()),
        _ => None,
    }
    .ok_or(DURATION)
}

/// A duration in which something has to happen.
pub(super) fn some_time(value: &DeValue<'_>) -> Parsed<Duration> {
    duration(value).ok().filter(|time| !time.is_zero()).ok_or(SOME_TIME)
}

/// The largest size of a file. The highest number means no limit.
pub(super) fn max_size(value: &DeValue<'_>) -> Parsed<u64> {
    let size = match value.as_str() {
        Some(UNLIMITED) => Some(u64::MAX),
        Some(text) => parse_size(text),
        None => integer(value),
    };
    size.filter(|size| *size > 0).ok_or(MAX_SIZE)
}

pub(super) fn show_max_size(size: u64) -> String {
    if size == u64::MAX { UNLIMITED.into() } else { show_size(size) }
}

/// The number of bytes of lines that are remembered. The longest piece of a line fits.
pub(super) fn recent(value: &DeValue<'_>) -> Parsed<u32> {
    let size = value.as_str().map_or_else(|| integer(value), parse_size);
    let size = size.and_then(|size| u32::try_from(size).ok());
    size.filter(|size| *size == 0 || (16 << 10..=64 << 20).contains(size)).ok_or(RECENT)
}

/// A number that is not negative.
fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn number_up_to(value: &DeValue<'_>, max: u32) -> Option<u32> {
    integer(value).and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= max)
}

/// A number within these bounds.
pub(super) fn number(value: &DeValue<'_>, min: u32, max: u32, allowed: &'static str) -> Parsed<u32> {
    number_up_to(value, max).filter(|number| *number >= min).ok_or(allowed)
}

/// A number from 0 to 100, with a percent sign or without.
pub(super) fn percent(value: &DeValue<'_>) -> Parsed<u32> {
    let text = value.as_str().and_then(|text| text.strip_suffix('%'));
    let number = text.map_or_else(|| number_up_to(value, 100), |text| text.trim_end().parse().ok());
    number.filter(|number| *number <= 100).ok_or("a percentage from 0 to 100, such as \"25%\"")
}

pub(super) fn instances(value: &DeValue<'_>) -> Parsed<u32> {
    number_up_to(value, 10_000).filter(|number| *number > 0).ok_or("a number from 1 to 10000")
}

pub(super) fn keep(value: &DeValue<'_>) -> Parsed<u32> {
    number_up_to(value, 1000).ok_or("a number from 0 to 1000")
}

pub(super) fn umask(value: &DeValue<'_>) -> Parsed<u32> {
    octal(value).ok_or(UMASK)
}

pub(super) fn mode(value: &DeValue<'_>) -> Parsed<u32> {
    octal(value).ok_or(MODE)
}

/// The bits of a mode.
fn octal(value: &DeValue<'_>) -> Option<u32> {
    // A bare number counts only if it is visibly octal, because 22 in decimal would be 0o26.
    let digits = match value {
        DeValue::String(text) => text.strip_prefix("0o").unwrap_or(text),
        DeValue::Integer(number) if number.radix() == 8 => number.as_str(),
        _ => "",
    };
    let bits = u32::from_str_radix(digits, 8).ok();
    bits.filter(|bits| *bits <= 0o777 && !digits.starts_with('+'))
}

/// The numbers of a user and a group, written as for `chown(1)`.
pub(super) fn owner(value: &DeValue<'_>) -> Parsed<(Option<u32>, Option<u32>)> {
    let parse = || {
        let text = match value {
            DeValue::String(text) => text.to_string(),
            other => number_up_to(other, u32::MAX - 1)?.to_string(),
        };
        let (user, group) = text.split_once(':').map_or((&*text, None), |(user, group)| (user, Some(group)));
        let user = if user.is_empty() && group.is_some() { None } else { Some(Id::from_text(user).uid().ok()?) };
        let group = group.map(|group| Id::from_text(group).gid()).transpose().ok()?;
        Some((user, group))
    };
    parse().ok_or(OWNER)
}

pub(super) fn stop_signal(value: &DeValue<'_>) -> Parsed<i32> {
    let number = number_up_to(value, 64).map(|number| number.to_string());
    let text = value.as_str().or(number.as_deref());
    text.and_then(signal::from_name).ok_or("a signal's name or number, such as \"TERM\", \"SIGINT\", \"RTMIN+3\" or 15")
}

/// A signal that a process can act on.
pub(super) fn reload_signal(value: &DeValue<'_>) -> Parsed<i32> {
    let signal = stop_signal(value)?;
    let can_act = !matches!(signal, libc::SIGKILL | libc::SIGSTOP);
    can_act.then_some(signal).ok_or("a signal that a process can act on, such as \"HUP\"")
}

pub(super) fn restart(value: &DeValue<'_>) -> Parsed<Restart> {
    let known = [Restart::Always, Restart::OnFailure, Restart::Never];
    let meant = known.into_iter().find(|restart| Some(show_restart(*restart)) == value.as_str());
    meant.ok_or("\"always\", \"on-failure\" or \"never\"")
}

pub(super) fn show_restart(restart: Restart) -> &'static str {
    match restart {
        Restart::OnFailure => "on-failure",
        Restart::Never => "never",
        _ => "always",
    }
}

/// Parses a `contain` of the file or of the command line.
pub(crate) fn parse_contain(text: &str) -> Option<Contain> {
    [Contain::Auto, Contain::Cgroup, Contain::Group].into_iter().find(|contain| show_contain(*contain) == text)
}

pub(super) fn contain(value: &DeValue<'_>) -> Parsed<Contain> {
    value.as_str().and_then(parse_contain).ok_or("\"auto\", \"cgroup\" or \"group\"")
}

pub(super) fn show_contain(contain: Contain) -> &'static str {
    match contain {
        Contain::Cgroup => "cgroup",
        Contain::Group => "group",
        _ => "auto",
    }
}

pub(super) fn stop_scope(value: &DeValue<'_>) -> Parsed<StopScope> {
    match value.as_str() {
        Some("group") => Ok(StopScope::All),
        Some("main") => Ok(StopScope::Main),
        _ => Err("\"group\" or \"main\""),
    }
}

pub(super) fn show_stop_scope(scope: StopScope) -> &'static str {
    match scope {
        StopScope::Main => "main",
        _ => "group",
    }
}

/// `true` for "kill", `false` for "leave".
pub(super) fn kill_or_leave(value: &DeValue<'_>) -> Parsed<bool> {
    let known = [true, false];
    let meant = known.into_iter().find(|kill| Some(show_kill_or_leave(*kill)) == value.as_str());
    meant.ok_or("\"kill\" or \"leave\"")
}

pub(super) fn show_kill_or_leave(kill: bool) -> &'static str {
    if kill { "kill" } else { "leave" }
}

pub(super) fn limit(value: &DeValue<'_>) -> Parsed<Limit> {
    let one = |value: &DeValue<'_>| match value.as_str() {
        Some(UNLIMITED) => Some(None),
        Some(text) => parse_size(text).map(Some),
        None => integer(value).map(Some),
    };
    let limit = match value.as_table() {
        None => one(value).map(|both| Limit { soft: both, hard: both }),
        Some(table) if table.len() == 2 => table
            .get("soft")
            .zip(table.get("hard"))
            .and_then(|(soft, hard)| Some(Limit { soft: one(soft.get_ref())?, hard: one(hard.get_ref())? })),
        Some(_) => None,
    };
    let in_order = |limit: &Limit| limit.soft.unwrap_or(u64::MAX) <= limit.hard.unwrap_or(u64::MAX);
    limit.filter(in_order).ok_or(LIMIT)
}

/// A user or a group, as it is written in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Id {
    /// A name in the system's database.
    Name(String),
    /// A number, which need not be in the database.
    Number(u32),
}

impl Id {
    fn new(value: &DeValue<'_>) -> Option<Self> {
        // The highest number means "unchanged" to the kernel.
        let number = number_up_to(value, u32::MAX - 1).map(Self::Number);
        number.or_else(|| some_text(value).ok().map(Self::Name))
    }

    /// Digits alone are a number, as for `chown(1)`.
    fn from_text(text: &str) -> Self {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        // The highest number means "unchanged" to the kernel.
        let number = text.parse().ok().filter(|number| is_number && *number != u32::MAX);
        number.map_or_else(|| Self::Name(text.to_owned()), Self::Number)
    }

    /// The text of the file.
    pub(super) fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Name(name) => name.into(),
            Self::Number(number) => number.to_string().into(),
        }
    }

    /// The number of the user.
    pub(super) fn uid(&self) -> io::Result<u32> {
        match self {
            Self::Name(name) => Command::new("").user(name)?.get_uid().ok_or_else(unknown),
            Self::Number(number) => Ok(*number),
        }
    }

    /// The number of the group.
    pub(super) fn gid(&self) -> io::Result<u32> {
        match self {
            Self::Name(name) => Command::new("").group(name)?.get_gid().ok_or_else(unknown),
            Self::Number(number) => Ok(*number),
        }
    }
}

fn unknown() -> io::Error {
    io::ErrorKind::NotFound.into()
}

pub(super) fn user(value: &DeValue<'_>) -> Parsed<Id> {
    Id::new(value).filter(|id| id.uid().is_ok()).ok_or("the name of a user of this system, or a user's number")
}

pub(super) fn group(value: &DeValue<'_>) -> Parsed<Id> {
    Id::new(value).filter(|id| id.gid().is_ok()).ok_or("the name of a group of this system, or a group's number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_exact_and_read_back() {
        for (text, nanos) in [
            ("0", 0),
            ("5", 5_000_000_000),
            ("500ms", 500_000_000),
            ("1.5m", 90_000_000_000),
            ("1 h", 3_600_000_000_000),
            ("0.1s", 100_000_000),
            ("1.000000001s", 1_000_000_001),
            ("7us", 7000),
            ("1m30s", 90_000_000_000),
            ("1h 30m", 5_400_000_000_000),
            ("1d2h3m4.5s", 93_784_500_000_000),
        ] {
            let duration = parse_duration(text).expect(text);
            assert_eq!(duration, Duration::from_nanos(nanos), "{text}");
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration), "{text}");
        }
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_duration(Duration::from_secs(3600)), "1h");
        assert_eq!(show_duration(Duration::ZERO), "0s");
        for bad in [
            "",
            "s",
            ".5s",
            "5.s",
            "-1s",
            "+1s",
            "30s1m",
            "1m1m",
            "1m30",
            "1m 30",
            "1h-1m",
            "5S",
            "1e3",
            "1.2.3s",
            "5 parsecs",
            "36501d",
            "99999999999999999999",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        for (text, size) in [
            ("1", 1),
            ("512k", 524_288),
            ("10MiB", 10 << 20),
            ("10MB", 10_000_000),
            ("1.5 kib", 1536),
            ("2G", 2 << 30),
            ("3kB", 3000),
        ] {
            assert_eq!(parse_size(text), Some(size), "{text}");
            assert_eq!(parse_size(&show_size(size)), Some(size), "{text}");
        }
        assert_eq!(show_size(10 << 20), "10MiB");
        assert_eq!(show_size(1001), "1001B");
        for bad in ["", "k", "-1", "10XB", "1e3", "18446744073709551616", "17179869184G"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }
}
