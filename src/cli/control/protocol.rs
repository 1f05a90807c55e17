//! The control protocol, version 1. Reads and writes nothing but bytes in memory.
//!
//! A client connects to the supervisor's Unix socket and sends requests: one JSON object a line, in
//! UTF-8. A request of up to 64 KiB is always accepted, and a longer one may be refused. The
//! supervisor answers each request by one JSON object a line, in the order of the requests. It
//! reads the next request when the client has read the answer before it. A request of a client that
//! has closed its connection by then is not carried out.
//!
//! | request: `"command"` | answer, besides `"version":1,"ok":true` |
//! | --- | --- |
//! | `"status"`, `"tree":true` if wanted | `"processes"`: an array of objects |
//! | `"start"`, `"stop"`, `"restart"` | `"names"`: the processes that were meant |
//! | `"reset"` | `"names"`: the processes whose earlier failures are forgotten; one that has failed is stopped |
//! | `"signal"`, with `"signal":"HUP"` | `"names"`: the processes that were signalled; not their process groups |
//! | `"reload"` | `"added"`, `"removed"`, `"restarted"`, `"updated"`: arrays of names; `"notes"`, if there are any: an array of texts |
//! | `"reload"` with `"names"` or `"all"` | `"names"`: the processes that got their `reload-signal` |
//! | `"reopen"` | nothing more; the output files are opened anew, as by SIGUSR2 |
//! | `"shutdown"` | nothing more; the supervisor closes the connection when it is down |
//! | `"logs"`, `"follow":true` if wanted | before it, an object `"name"`, `"stream"`, `"line"`, `"time"` for each line; when following, there is no end |
//!
//! `"events"` is answered by an object for each change of a process, without an end: `"event"` says
//! what has happened, `"sequence"` is its number, and `"time"` its time. The first object is
//! `"listening"`, with the number of the last event before it. The events are `started` (`pid`),
//! `start-failed` (`error`), `exited` (`pid`, `code`, `signal`, `text`, `seconds`), `restarting`
//! (`delay`), `terminating` (`signal`), `killing`, `ready`, `unready`, `fault` (`error`), and
//! `state` (`state`) for a new state, each with `name`, and `reloaded` with the names of the answer
//! to `reload`.
//!
//! `"send"` writes `"data":"text\n"` to the stdin of one process, or `"bytes"`, a string with one
//! character up to U+00FF for each byte; `"end":true` closes the stdin after that. `"attach"` is
//! answered by `{"attached":"web","input":"tty"}` (or `"pipe"` or `null`), and then by an object
//! with `"stream"` and `"data"` or `"bytes"` for each piece of output of one process, until the
//! client closes its sending end. `"resize"` sets the `"rows"` and the `"columns"` of a process's
//! terminal.
//!
//! For `logs`, `"lines":10` means the last lines of each process, `"since":1795677600.5` those
//! since this time in seconds since 1970, and `"stream":"stderr"` those of one stream. When
//! following, a pattern may match no process yet.
//!
//! A line of more than 16 KiB comes in pieces, one object each. All but the first have
//! `"continued":true`, and all but the last `"cut":true`.
//!
//! - Each request must have `"version":1`.
//! - `"names":["web","worker:*"]` chooses processes by name, and `"all":true` chooses all of them.
//!   In a name `*` stands for any characters and `?` for one. `status` and `logs` without names
//!   mean all processes. A name that matches no process is an error, and nothing is done.
//! - With `"wait":30`, the answer to `start`, `stop`, `restart` and `reload` comes when the
//!   processes are running or down, or as an error after so many seconds. With `"progress":true`,
//!   lines with `"progress":{"done":1,"of":3}` come before the answer. The first one comes at once,
//!   also for `logs`.
//! - With `"rolling":true`, `restart` restarts one process after the other: the next one when the
//!   last one is ready. It is broken off if one does not come back.
//! - If a request was carried out but the wait for its result has failed, the answer has both: what
//!   was done, and the error, with `"ok":false`.
//! - A refused request is answered by `{"version":1,"ok":false,"error":"…"}`. For a file with
//!   mistakes the answer also has `"errors"`, an array of lines as `childminder check` prints them.
//!
//! In the answer to `status`, a process has these keys. A value that is unknown or makes no sense
//! is `null`.
//!
//! - `name`, and `pid`.
//! - `restarts`, the number of its restarts.
//! - `state`, one of `running`, `stopped`, `backing-off`, `stopping`, `unkillable`, `exited`,
//!   `failed`, `waiting`, and where somebody asks whether it is ready, `starting` and `ready`, and
//!   `running` if it is not ready any more.
//! - `ready`, true or false, if somebody asks for it.
//! - `since`, the seconds since its state changed, and `reason`, why it is in this state.
//! - `waits_for`, an array of texts: what has to happen before it starts or stops.
//! - `says`, what it says of itself (`STATUS=` of `sd_notify(3)`), and `foreign_messages`, the
//!   number of messages that others have sent in its name and that were dropped.
//! - `uptime` and `cpu`, in seconds, and `peak_memory`, in bytes.
//! - `retry_in`, the seconds until a process that backs off is started.
//! - `start_error`, the reason why the last start failed.
//! - `stop_error`, the reason why a process that is stopping is still there.
//! - `last_exit`, an object with `code` or `signal`, `text`, `time` (RFC 3339, in UTC), `ago` in
//!   seconds, and the `cpu` and `peak_memory` of that run.
//! - `containment`, the means by which the process and all its descendants are kept together: an
//!   object with `strength`, one of `cgroup`, `group`, `process`, and `reason`, which tells why it
//!   is not stronger.
//! - With `"tree":true`, for at most 100 processes at a time, `tree`: an array with the process
//!   itself and its descendants, as far as they are there. Each has `pid`, `name`, `state` (the
//!   letter of proc(5)) and `memory` in bytes.
//!
//! ```json
//! {"version":1,"command":"stop","names":["worker:*"],"wait":30}
//! {"names":["worker:1","worker:2"],"ok":true,"version":1}
//! ```
//!
//! The one rule: a request means exactly what is written here, or it is refused.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::clock;

pub(crate) const VERSION: u64 = 1;
/// The longest line of a request, in bytes.
pub(crate) const MAX_REQUEST: usize = 64 * 1024;
/// The longest wait, in seconds. It is far from where a clock would overflow.
const MAX_WAIT: f64 = 365.0 * 86_400.0;

pub(crate) type Object = Map<String, Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Status { tree: bool },
    Start,
    Stop,
    Restart { rolling: bool },
    Reset,
    Signal(i32),
    Reload,
    Reopen,
    Shutdown,
    Logs(Query),
    Events,
    Send { end: bool },
    Attach,
    Resize { rows: u16, columns: u16 },
}

impl Action {
    /// Whether the answer goes on until the client ends.
    pub(crate) fn follows(&self) -> bool {
        matches!(self, Self::Logs(Query { follow: true, .. }) | Self::Events | Self::Attach)
    }
}

/// The lines that `logs` asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) follow: bool,
    /// How many of the last lines of each process; all by default.
    pub(crate) lines: Option<u64>,
    /// The time of the earliest line, in milliseconds since 1970.
    pub(crate) since: u64,
    /// The only stream: 1 or 2.
    pub(crate) stream: Option<u8>,
}

impl Query {
    /// Whether it asks for a line of this stream and time.
    pub(crate) fn wants(&self, line: &LogLine<'_>) -> bool {
        line.time >= self.since && self.stream.is_none_or(|stream| stream == line.stream)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) action: Action,
    pub(crate) names: Vec<String>,
    pub(crate) all: bool,
    pub(crate) wait: Option<Duration>,
    pub(crate) progress: bool,
    /// What `send` writes.
    pub(crate) data: Vec<u8>,
}

impl Request {
    /// A request without any option.
    pub(crate) fn new(action: Action) -> Self {
        Self { action, names: Vec::new(), all: false, wait: None, progress: false, data: Vec::new() }
    }

    /// Parses a line. The error is a message for the client.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Object(object) = value else { return Err("a request is a JSON object".into()) };
        match object.get("version").map(Value::as_u64) {
            Some(Some(VERSION)) => {}
            Some(_) => return Err(format!("only version {VERSION} of the protocol is known here")),
            None => return Err("`version` is missing".into()),
        }
        const KNOWN: [&str; 18] = [
            "version", "command", "names", "all", "wait", "progress", "signal", "follow", "tree", "lines", "since",
            "stream", "rolling", "data", "bytes", "end", "rows", "columns",
        ];
        if let Some(unknown) = object.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(format!("unknown key `{}`", shortened(unknown)));
        }
        let flag = |key: &str| match object.get(key) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| format!("`{key}` is true or false")),
        };
        let text = |key: &str| match object.get(key).map(Value::as_str) {
            Some(Some(text)) => Ok(text),
            Some(None) => Err(format!("`{key}` is a string")),
            None => Err(format!("`{key}` is missing")),
        };
        let (tree, rolling) = (flag("tree")?, flag("rolling")?);
        let query = Query {
            follow: flag("follow")?,
            lines: lines(object.get("lines"))?,
            since: since(object.get("since"))?,
            stream: stream(object.get("stream"))?,
        };
        let action = match text("command")? {
            "status" => Action::Status { tree },
            "start" => Action::Start,
            "stop" => Action::Stop,
            "restart" => Action::Restart { rolling },
            "reset" => Action::Reset,
            "signal" => Action::Signal(signal(text("signal")?)?),
            "reload" => Action::Reload,
            "reopen" => Action::Reopen,
            "shutdown" => Action::Shutdown,
            "logs" => Action::Logs(query),
            "events" => Action::Events,
            "send" => Action::Send { end: flag("end")? },
            "attach" => Action::Attach,
            "resize" => Action::Resize { rows: cells(object.get("rows"))?, columns: cells(object.get("columns"))? },
            other => return Err(format!("unknown command `{}`", shortened(other))),
        };
        let request = Self {
            action,
            names: names(object.get("names"))?,
            all: flag("all")?,
            wait: wait(object.get("wait"))?,
            progress: flag("progress")?,
            data: decode(&object).unwrap_or_default(),
        };
        request.check()
    }

    fn check(self) -> Result<Self, String> {
        if !self.names.is_empty() && self.all {
            return Err("either `names` or `all`".into());
        }
        let named = !self.names.is_empty() || self.all;
        match self.action {
            Action::Send { .. } | Action::Attach | Action::Resize { .. } if !named => {
                Err("which process? `names` is missing".into())
            }
            Action::Start | Action::Stop | Action::Restart { .. } | Action::Reset | Action::Signal(_) if !named => {
                Err("which processes? `names` or `all` is missing".into())
            }
            Action::Reload if named && self.wait.is_some() => {
                Err("`wait` makes no sense here: whether a program has reloaded is not known".into())
            }
            Action::Reopen | Action::Shutdown if named => Err("`names` and `all` make no sense here".into()),
            _ => Ok(self),
        }
    }

    /// The request as a line, with its newline.
    pub(crate) fn to_line(&self) -> Vec<u8> {
        let command = match self.action {
            Action::Status { .. } => "status",
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Restart { .. } => "restart",
            Action::Reset => "reset",
            Action::Signal(_) => "signal",
            Action::Reload => "reload",
            Action::Reopen => "reopen",
            Action::Shutdown => "shutdown",
            Action::Logs(_) => "logs",
            Action::Events => "events",
            Action::Send { .. } => "send",
            Action::Attach => "attach",
            Action::Resize { .. } => "resize",
        };
        let mut object = Map::new();
        object.insert("version".into(), VERSION.into());
        object.insert("command".into(), command.into());
        if let Action::Signal(signal) = self.action {
            object.insert("signal".into(), signal.to_string().into());
        }
        if !self.names.is_empty() {
            object.insert("names".into(), self.names.clone().into());
        }
        if let Some(wait) = self.wait {
            object.insert("wait".into(), wait.as_secs_f64().into());
        }
        let follow = matches!(self.action, Action::Logs(Query { follow: true, .. }));
        if let Action::Logs(Query { lines, since, stream, .. }) = self.action {
            if let Some(lines) = lines {
                object.insert("lines".into(), lines.into());
            }
            if since > 0 {
                object.insert("since".into(), (since as f64 / 1000.0).into());
            }
            if let Some(stream) = stream {
                object.insert("stream".into(), stream_name(stream).into());
            }
        }
        if let Action::Resize { rows, columns } = self.action {
            object.insert("rows".into(), rows.into());
            object.insert("columns".into(), columns.into());
        }
        if !self.data.is_empty() {
            let (key, text) = encode(&self.data);
            object.insert(key.into(), text.into());
        }
        for (key, flag) in [
            ("end", self.action == Action::Send { end: true }),
            ("all", self.all),
            ("progress", self.progress),
            ("follow", follow),
            ("tree", self.action == Action::Status { tree: true }),
            ("rolling", self.action == Action::Restart { rolling: true }),
        ] {
            if flag {
                object.insert(key.into(), true.into());
            }
        }
        line(object)
    }
}

fn names(value: Option<&Value>) -> Result<Vec<String>, String> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let texts = value.as_array().map(|names| names.iter().map(|name| name.as_str().map(str::to_owned)));
    texts.and_then(Iterator::collect).ok_or_else(|| "`names` is an array of strings".into())
}

/// The number of rows or columns of a terminal.
fn cells(value: Option<&Value>) -> Result<u16, String> {
    let number = value.and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
    number.filter(|number| *number > 0).ok_or_else(|| "`rows` and `columns` are numbers from 1 to 65535".into())
}

/// Bytes as a key and a value: as `data` if they are text, and otherwise as `bytes`, with one
/// character for each byte, up to U+00FF.
pub(crate) fn encode(bytes: &[u8]) -> (&'static str, String) {
    match std::str::from_utf8(bytes) {
        Ok(text) => ("data", text.to_owned()),
        Err(_) => ("bytes", bytes.iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// The bytes of `data` or `bytes`, if there are any.
pub(crate) fn decode(object: &Object) -> Option<Vec<u8>> {
    let text = |key| object.get(key).and_then(Value::as_str);
    match (text("data"), text("bytes")) {
        (Some(text), _) => Some(text.as_bytes().to_vec()),
        (None, Some(bytes)) => bytes.chars().map(|char| u8::try_from(char).ok()).collect(),
        (None, None) => None,
    }
}

fn lines(value: Option<&Value>) -> Result<Option<u64>, String> {
    let Some(value) = value else { return Ok(None) };
    value.as_u64().map(Some).ok_or_else(|| "`lines` is a number of lines".into())
}

/// A time in seconds since 1970, as milliseconds.
fn since(value: Option<&Value>) -> Result<u64, String> {
    let Some(value) = value else { return Ok(0) };
    let seconds = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let millis = seconds.map(|since| (since + Duration::from_micros(500)).as_millis());
    millis.and_then(|since| u64::try_from(since).ok()).ok_or_else(|| "`since` is a number of seconds since 1970".into())
}

fn stream(value: Option<&Value>) -> Result<Option<u8>, String> {
    match value.map(Value::as_str) {
        None => Ok(None),
        Some(Some("stdout")) => Ok(Some(1)),
        Some(Some("stderr")) => Ok(Some(2)),
        Some(_) => Err("`stream` is \"stdout\" or \"stderr\"".into()),
    }
}

fn stream_name(stream: u8) -> &'static str {
    if stream == 2 { "stderr" } else { "stdout" }
}

fn wait(value: Option<&Value>) -> Result<Option<Duration>, String> {
    let Some(value) = value else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| *seconds <= MAX_WAIT);
    let wait = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    wait.map(Some).ok_or_else(|| "`wait` is a number of seconds, up to a year".into())
}

/// The number of a signal, given by its name or number.
pub(crate) fn signal(name: &str) -> Result<i32, String> {
    childminder::signal::from_name(name).ok_or_else(|| format!("unknown signal `{}`", shortened(name)))
}

/// A part of a request, shortened so that it can be quoted in an error.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect::<String>().escape_debug().to_string()
}

/// An object as a line of the protocol, with its newline.
pub(crate) fn line(object: Object) -> Vec<u8> {
    let mut line = Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}

fn answer(ok: bool) -> Object {
    Map::from_iter([("version".to_owned(), VERSION.into()), ("ok".to_owned(), ok.into())])
}

/// The start of the answer to a request that was carried out.
pub(crate) fn done() -> Object {
    answer(true)
}

/// The answer to `status`, as a line. It is built one process at a time, because the values of
/// thousands of processes would take megabytes.
pub(crate) fn processes(processes: impl Iterator<Item = Value>) -> Vec<u8> {
    let mut line = String::from("{\"ok\":true,\"processes\":[");
    for (index, process) in processes.enumerate() {
        line += if index == 0 { "" } else { "," };
        line += &process.to_string();
    }
    line += &format!("],\"version\":{VERSION}}}\n");
    line.into_bytes()
}

/// The answer to a request that was refused.
pub(crate) fn refused(error: &str) -> Object {
    let mut object = answer(false);
    object.insert("error".into(), error.into());
    object
}

/// The answer to a request that was carried out but whose result did not come in time or at all.
/// `done` is the answer without the error.
pub(crate) fn failed(mut done: Object, error: &str) -> Object {
    done.append(&mut refused(error));
    done
}

/// The progress of a wait: `done` processes out of `of`.
pub(crate) fn progress(done: usize, of: usize) -> Object {
    Map::from_iter([("version".to_owned(), VERSION.into()), ("progress".to_owned(), json!({ "done": done, "of": of }))])
}

/// A line that a process has written, or a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLine<'a> {
    /// 1 for stdout, 2 for stderr.
    pub(crate) stream: u8,
    /// Whether it continues the piece before it of the same stream.
    pub(crate) continued: bool,
    /// Whether the line goes on in the next piece.
    pub(crate) cut: bool,
    pub(crate) text: &'a [u8],
    /// When it was read, in milliseconds since 1970.
    pub(crate) time: u64,
}

/// The object for a line that a process of this name has written.
pub(crate) fn log_line(name: &str, line: LogLine<'_>) -> Object {
    let mut object = Map::from_iter([
        ("version".to_owned(), VERSION.into()),
        ("name".to_owned(), name.into()),
        ("stream".to_owned(), stream_name(line.stream).into()),
        ("time".to_owned(), clock::rfc3339(line.time, None).into()),
        ("line".to_owned(), childminder::Escaped(line.text).to_string().into()),
    ]);
    for (key, is_so) in [("continued", line.continued), ("cut", line.cut)] {
        if is_so {
            object.insert(key.into(), true.into());
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for action in [
            Action::Status { tree: true },
            Action::Status { tree: false },
            Action::Start,
            Action::Stop,
            Action::Restart { rolling: false },
            Action::Restart { rolling: true },
            Action::Reset,
            Action::Signal(9),
            Action::Events,
            Action::Send { end: true },
            Action::Attach,
            Action::Resize { rows: 24, columns: 80 },
            Action::Reload,
            Action::Reopen,
            Action::Shutdown,
            Action::Logs(Query { follow: true, ..Query::default() }),
            Action::Logs(Query { follow: false, lines: Some(3), since: 1_795_677_600_123, stream: Some(2) }),
        ] {
            let named = !matches!(action, Action::Reload | Action::Reopen | Action::Shutdown);
            let request = Request {
                action,
                names: if named { vec!["web*".into(), "ä\n\"".into()] } else { Vec::new() },
                all: false,
                wait: Some(Duration::from_millis(1500)),
                progress: true,
                data: if action == (Action::Send { end: true }) { b"\xffa\n".to_vec() } else { b"text".to_vec() },
            };
            assert_eq!(Request::parse(&request.to_line()), Ok(request));
        }
    }

    #[test]
    fn only_a_piece_of_a_line_says_so() {
        for (continued, cut, marks) in [
            (false, false, ""),
            (false, true, r#""cut":true,"#),
            (true, true, r#""continued":true,"cut":true,"#),
            (true, false, r#""continued":true,"#),
        ] {
            let object = log_line("web", LogLine { stream: 2, continued, cut, text: b"x\xff", time: 0 });
            let expected = format!(
                "{{{marks}\"line\":\"x\\\\xff\",\"name\":\"web\",\"stream\":\"stderr\",\"time\":\"1970-01-01T00:00:00.000Z\",\"version\":1}}\n"
            );
            assert_eq!(String::from_utf8(line(object)).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let deep = "[".repeat(10_000);
        for (line, error) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("\u{0}", "not JSON"),
            (&*deep, "not JSON"),
            ("[1]", "a request is a JSON object"),
            ("{}", "`version` is missing"),
            (r#"{"version":2,"command":"stop"}"#, "only version 1"),
            (r#"{"version":"1"}"#, "only version 1"),
            (r#"{"version":1}"#, "`command` is missing"),
            (r#"{"version":1,"command":7}"#, "`command` is a string"),
            (r#"{"version":1,"command":"halt"}"#, "unknown command `halt`"),
            (r#"{"version":1,"command":"stop"}"#, "which processes?"),
            (r#"{"version":1,"command":"stop","all":"yes"}"#, "`all` is true or false"),
            (r#"{"version":1,"command":"stop","name":["a"]}"#, "unknown key `name`"),
            (r#"{"version":1,"command":"stop","names":"a"}"#, "`names` is an array of strings"),
            (r#"{"version":1,"command":"stop","names":["a",1]}"#, "`names` is an array of strings"),
            (r#"{"version":1,"command":"stop","names":["a"],"all":true}"#, "either `names` or `all`"),
            (r#"{"version":1,"command":"stop","all":true,"wait":-1}"#, "`wait` is a number"),
            (r#"{"version":1,"command":"stop","all":true,"wait":1e300}"#, "`wait` is a number"),
            (r#"{"version":1,"command":"signal","all":true}"#, "`signal` is missing"),
            (r#"{"version":1,"command":"signal","all":true,"signal":"0"}"#, "unknown signal `0`"),
            (r#"{"version":1,"command":"signal","all":true,"signal":"SIGNOPE"}"#, "unknown signal `SIGNOPE`"),
            (r#"{"version":1,"command":"shutdown","all":true}"#, "make no sense here"),
        ] {
            let said = Request::parse(line.as_bytes()).unwrap_err();
            assert!(said.contains(error), "{line}: {said}");
            assert!(said.len() < 200);
        }
        assert!(Request::parse(b"{\"version\":1,\"command\":\"\xff\"}").is_err());
    }
}
