//! What the lines of a process get before they are written: the time in front, or the form of a
//! JSON object. Writes nothing itself.
//!
//! The one rule: lines without either are not touched, and the clock is not read for them.

use std::ffi::OsString;
use std::fmt::Write;

use childminder::Escaped;
use rustix::time::{ClockId, clock_gettime};

use super::clock;
use super::failure::Failure;

/// The clock of the time in front of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// RFC 3339 in the time zone of this computer.
    Local,
    /// RFC 3339 in UTC.
    Utc,
    /// The seconds since the computer was started, without the time in which it was suspended.
    Monotonic,
}

impl Stamp {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Local, Self::Utc, Self::Monotonic].into_iter().find(|stamp| stamp.name() == text)
    }

    /// The value of an option `--timestamps`, or the local time if it has none.
    pub(crate) fn of_option(value: Option<OsString>) -> Result<Self, Failure> {
        let Some(value) = value else { return Ok(Self::Local) };
        let value = value.to_string_lossy();
        let mistake = || Failure::Usage(format!("--timestamps wants local, utc or monotonic, not `{value}`"));
        Self::parse(&value).ok_or_else(mistake)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Utc => "utc",
            Self::Monotonic => "monotonic",
        }
    }

    /// A time of day, in milliseconds since 1970.
    pub(crate) fn show(self, millis: u64) -> String {
        match self {
            Self::Local => clock::rfc3339(millis, Some(clock::local_offset(millis))),
            _ => clock::rfc3339(millis, None),
        }
    }

    /// The time now.
    pub(crate) fn now(self) -> String {
        match self {
            Self::Local | Self::Utc => self.show(clock::now()),
            Self::Monotonic => {
                let now = clock_gettime(ClockId::Monotonic);
                format!("{}.{:03}", now.tv_sec, now.tv_nsec / 1_000_000)
            }
        }
    }
}

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dress {
    pub(crate) stamp: Option<Stamp>,
    pub(crate) json: bool,
}

/// A line, or a piece of one, that is to become a JSON object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    /// `None` for a message of our own.
    pub(crate) name: Option<&'a str>,
    pub(crate) stream: &'a str,
    pub(crate) pid: Option<u32>,
    pub(crate) text: &'a [u8],
    pub(crate) continued: bool,
    pub(crate) cut: bool,
}

impl Dress {
    /// The time in front of a line of text, with a space behind it. It is empty if none is wanted.
    pub(crate) fn front(self) -> String {
        self.stamp.map(|stamp| stamp.now() + " ").unwrap_or_default()
    }

    /// The time in JSON. It is there in any case.
    pub(crate) fn time(self) -> String {
        self.stamp.unwrap_or(Stamp::Utc).now()
    }
}

impl Record<'_> {
    /// Adds the object, with a newline. `time` is that of [`Dress::time`].
    pub(crate) fn write(&self, time: &str, to: &mut Vec<u8>) {
        let Self { name, stream, pid, text, continued, cut } = *self;
        let mut line = String::from("{");
        for (key, is_so) in [("continued", continued), ("cut", cut)] {
            if is_so {
                // Writing to a string does not fail.
                let _ = write!(line, "\"{key}\":true,");
            }
        }
        let (text, name, pid) = (quoted(&Escaped(text).to_string()), name.map(quoted), pid.map(|pid| pid.to_string()));
        let null = || "null".to_owned();
        let (name, pid) = (name.unwrap_or_else(null), pid.unwrap_or_else(null));
        let _ = writeln!(
            line,
            "\"line\":{text},\"name\":{name},\"pid\":{pid},\"stream\":\"{stream}\",\"time\":\"{time}\"}}"
        );
        to.extend_from_slice(line.as_bytes());
    }
}

/// A text as a string of JSON. Characters that a terminal obeys or that rearrange the text are
/// escaped, wherever it goes.
fn quoted(text: &str) -> String {
    super::text::escaped_json(&serde_json::Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_one_line_whatever_is_in_it() {
        let mut written = Vec::new();
        let text = b"a\n\"\\\x1b\xff\xc2\x9b\xe2\x80\xae";
        let record = Record { name: Some("web"), stream: "stderr", pid: Some(42), text, continued: true, cut: true };
        record.write("T", &mut written);
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "{\"continued\":true,\"cut\":true,\"line\":\"a\\n\\\"\\\\\\u001b\\\\xff\\u009b\\u202e\",\"name\":\"web\",\"pid\":42,\
             \"stream\":\"stderr\",\"time\":\"T\"}\n"
        );
        let mut written = Vec::new();
        Record { name: None, stream: "childminder", pid: None, text: b"", continued: false, cut: false }
            .write("T", &mut written);
        assert_eq!(
            String::from_utf8(written).unwrap(),
            "{\"line\":\"\",\"name\":null,\"pid\":null,\"stream\":\"childminder\",\"time\":\"T\"}\n"
        );
    }

    #[test]
    fn a_clock_has_a_name() {
        for stamp in [Stamp::Local, Stamp::Utc, Stamp::Monotonic] {
            assert_eq!(Stamp::parse(stamp.name()), Some(stamp));
            assert!(stamp.now().len() >= 5);
        }
        assert_eq!(Stamp::parse("gmt"), None);
        assert!(Dress::default().front().is_empty());
    }
}
