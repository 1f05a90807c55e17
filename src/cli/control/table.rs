//! The status table for people. Prints nothing.
//!
//! The one rule: every row fits the width. Where it is narrow, the columns that matter least are
//! left out, and names are cut.

use serde_json::Value;

use crate::cli::text::visible;

const HEADER: [&str; 8] = ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "LAST EXIT", "CPU", "PEAK"];
/// The columns that are left out where there is no room for them, the least important one first.
const OPTIONAL: [usize; 6] = [7, 6, 4, 5, 2, 3];
/// A name is cut below this length only when all these columns are left out.
const SHORTEST_NAME: usize = 12;
/// The number of spaces between two columns.
const GAP: usize = 2;
/// The longest text in a cell, in characters. A name has at most 64, and a state and a signal have
/// fewer. One long cell makes its column wide in all rows.
const LONGEST: usize = 100;

/// The room that a table has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    /// The widest line, if there is a limit.
    pub(crate) width: Option<usize>,
    /// Whether states are coloured.
    pub(crate) colour: bool,
}

/// The processes of an answer as lines, with the header first. No line is wider than the room.
pub(crate) fn lines(processes: &[Value], room: Room) -> Vec<String> {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(processes.iter().map(row));
    let mut widths = [0; HEADER.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    if let Some(width) = room.width {
        fit(&mut widths, width);
    }
    let fitted = |line: String| match room.width {
        Some(width @ 1..) => cut(&line, width),
        _ => line,
    };
    let mut lines = vec![fitted(line(&rows[0], &widths))];
    for (row, process) in rows[1..].iter().zip(processes) {
        let line = fitted(line(row, &widths));
        lines.push(if room.colour { coloured(&line, widths[0] + GAP, row, process) } else { line });
        lines.extend(tree(process).into_iter().map(fitted));
    }
    lines
}

/// Makes the columns fit the width. A width of 0 leaves a column out.
fn fit(widths: &mut [usize; 8], width: usize) {
    let others = |widths: &[usize; 8]| -> usize {
        widths[1..].iter().filter(|width| **width > 0).map(|width| width + GAP).sum()
    };
    let wanted = widths[0].min(SHORTEST_NAME);
    for column in OPTIONAL {
        if others(widths) + wanted <= width {
            break;
        }
        widths[column] = 0;
    }
    widths[0] = widths[0].min(width.saturating_sub(others(widths)).max(HEADER[0].len()));
}

/// The line with its state in colour. The state begins at this column.
fn coloured(line: &str, start: usize, row: &[String; 8], process: &Value) -> String {
    let failed = !process["last_exit"].is_null() && process["last_exit"]["code"] != 0;
    let colour = match row[1].as_str() {
        "running" | "ready" => "32",
        "unkillable" | "failed" => "31",
        "exited" if failed => "31",
        "backing-off" | "stopping" | "starting" | "waiting" => "33",
        _ => return line.to_owned(),
    };
    // The name may have been cut, and has a character of several bytes then.
    let start = line.char_indices().nth(start).map_or(line.len(), |(at, _)| at);
    match line[start..].strip_prefix(row[1].as_str()) {
        Some(after) => format!("{}\x1b[{colour}m{}\x1b[0m{after}", &line[..start], row[1]),
        // The state itself was cut.
        None => line.to_owned(),
    }
}

/// The lines about the means by which a process and its descendants are kept together, and about
/// the members of its tree. There are none if the answer has no tree.
fn tree(process: &Value) -> Vec<String> {
    let Some(members) = process.get("tree") else { return Vec::new() };
    let (strength, reason) = (&process["containment"]["strength"], text(&process["containment"]["reason"]));
    let reason = |before| reason.map(|reason| format!(" ({before}{reason})")).unwrap_or_default();
    let kept = match strength.as_str() {
        Some("cgroup") => Some(format!("a cgroup{}", reason(""))),
        Some("group") => Some(format!("its process group{}", reason("no cgroup: "))),
        _ => None,
    };
    let mut lines = Vec::new();
    lines.extend(kept.map(|kept| format!("    kept together by {kept}")));
    let Some(members) = members.as_array() else {
        lines.push("    what belongs to it is not known".into());
        return lines;
    };
    if !members.is_empty() {
        lines.push("        PID  STATE  MEMORY  NAME".into());
    }
    lines.extend(members.iter().map(|member| {
        let cell = |key: &str| text(&member[key]).unwrap_or_else(|| "?".into());
        let pid = member["pid"].as_u64().unwrap_or_default();
        let memory = size(member["memory"].as_u64().unwrap_or_default());
        format!("    {pid:>7}  {:<5}  {memory:>6}  {}", cell("state"), cell("name"))
    }));
    lines
}

fn line(row: &[String; 8], widths: &[usize; 8]) -> String {
    let mut line = format!("{:<1$}", cut(&row[0], widths[0]), widths[0]);
    line += &format!("{:GAP$}{:<2$}", "", row[1], widths[1]);
    for (cell, width) in row[2..].iter().zip(&widths[2..]).filter(|(_, width)| **width > 0) {
        line += &format!("{:GAP$}{cell:>width$}", "");
    }
    line
}

/// Cuts a text in the middle, because its start and its end tell it apart. Instances differ at the
/// end.
fn cut(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let end = (width - 1) / 2;
    let start = width - 1 - end;
    name.chars().take(start).chain(['…']).chain(name.chars().skip(length - end)).collect()
}

fn row(process: &Value) -> [String; 8] {
    let seconds = |key: &str| process[key].as_f64();
    let dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".into());
    let uptime = seconds("uptime").map(duration);
    let retry = seconds("retry_in").map(|seconds| format!("in {}", duration(seconds)));
    // Of a process that does not run, its last run is shown.
    let last = &process["last_exit"];
    let ago = || last["ago"].as_f64().map(|seconds| format!("{} ago", duration(seconds)));
    let used = |key: &str| if process["pid"].is_null() { &last[key] } else { &process[key] };
    [
        text(&process["name"]).unwrap_or_else(|| "?".into()),
        text(&process["state"]).unwrap_or_else(|| "?".into()),
        dash(process["pid"].as_u64().map(|pid| pid.to_string())),
        dash(uptime.or(retry).or_else(ago)),
        dash(process["restarts"].as_u64().map(|restarts| restarts.to_string())),
        if process["start_error"].is_string() {
            "no start".to_owned()
        } else if process["stop_error"].is_string() {
            "no stop".to_owned()
        } else {
            last_exit(&process["last_exit"])
        },
        dash(used("cpu").as_f64().map(cpu)),
        dash(used("peak_memory").as_u64().map(size)),
    ]
}

/// A text that fits into one line of a terminal.
fn text(value: &Value) -> Option<String> {
    value.as_str().map(|text| visible(&cut(text, LONGEST)).into_owned())
}

fn last_exit(exit: &Value) -> String {
    match (exit["code"].as_i64(), text(&exit["signal"])) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => signal,
        (None, None) => (if exit.is_null() { "-" } else { "unknown" }).to_owned(),
    }
}

/// A duration in at most two units: `59s`, `3m07s`, `12h05m`, `400d03h`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, ..) => format!("{days}d{hours:02}h"),
    }
}

fn cpu(seconds: f64) -> String {
    let hundredths = (seconds * 100.0).round() as u64;
    if hundredths < 6000 { format!("{}.{:02}s", hundredths / 100, hundredths % 100) } else { duration(seconds) }
}

/// A size such as `4K`, `1.6M`, `123M`, `1.5G`.
fn size(bytes: u64) -> String {
    // The size in so many parts of a unit, rounded.
    let count = |parts: u128, unit: u128| (u128::from(bytes) * parts + unit / 2) / unit;
    for (name, unit) in [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)] {
        let tenths = count(10, unit);
        if tenths < 100 && name != "K" {
            return format!("{}.{}{name}", tenths / 10, tenths % 10);
        }
        if count(1, unit) < 1000 {
            return format!("{}{name}", count(1, unit));
        }
    }
    let tenths = count(10, 1 << 40);
    format!("{}.{}T", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn room(width: usize) -> Room {
        Room { width: Some(width), colour: false }
    }

    fn busy(name: &str) -> Value {
        json!({
            "name": name, "state": "backing-off", "pid": 4_194_304, "uptime": null, "retry_in": 3599.9, "restarts": 99_999_999,
            "last_exit": { "code": null, "signal": "SIGRTMIN+29", "text": "" }, "cpu": 1e8, "peak_memory": 123_456_789_012_u64,
        })
    }

    #[test]
    fn the_worst_row_fits() {
        for line in lines(&[busy("a-very-long-name-of-a-process:12"), busy("x")], room(80)) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(
            lines(&[busy("a-very-long-name-of-a-process:12")], Room::default())[1]
                .starts_with("a-very-long-name-of-a-process:12 ")
        );
        assert_eq!(cut("a-very-long-name:12", 10), "a-ver…e:12");
    }

    #[test]
    fn every_row_fits_every_width() {
        let rows = [busy("a-very-long-name-of-a-process:12"), busy("x")];
        for width in 1..200 {
            for line in lines(&rows, room(width)) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
        assert_eq!(
            lines(&rows, room(40)),
            [
                "NAME              STATE           UPTIME",
                "a-very-l…cess:12  backing-off  in 59m59s",
                "x                 backing-off  in 59m59s",
            ]
        );
    }

    #[test]
    fn a_state_has_its_colour_and_no_other_width() {
        let running = json!({ "name": "web", "state": "running", "pid": 42 });
        let failed = json!({ "name": "job", "state": "exited", "last_exit": { "code": 3 } });
        let rows = [running, failed];
        let coloured = lines(&rows, Room { width: Some(80), colour: true });
        assert!(coloured[1].starts_with("web   \x1b[32mrunning\x1b[0m  "), "{coloured:?}");
        assert!(coloured[2].starts_with("job   \x1b[31mexited\x1b[0m   "), "{coloured:?}");
        let plain: Vec<String> = coloured
            .iter()
            .map(|line| {
                ["\x1b[32m", "\x1b[31m", "\x1b[0m"].iter().fold(line.clone(), |line, code| line.replace(code, ""))
            })
            .collect();
        assert_eq!(plain, lines(&rows, room(80)));
    }

    #[test]
    fn says_what_a_person_wants() {
        let web = json!({
            "name": "web", "state": "running", "pid": 42, "uptime": 3725.5, "retry_in": null, "restarts": 1,
            "last_exit": { "code": 3, "signal": null, "text": "exit status 3" }, "cpu": 0.13, "peak_memory": 12_345_678,
        });
        let idle = json!({ "name": "idle", "state": "stopped", "pid": null, "restarts": 0, "last_exit": null });
        let gone = json!({ "name": "gone", "state": "backing-off", "retry_in": 2.5, "restarts": 0, "start_error": "no such file" });
        assert_eq!(
            lines(&[web, idle, gone], room(80)),
            [
                "NAME  STATE        PID  UPTIME  RESTARTS  LAST EXIT    CPU  PEAK",
                "web   running       42   1h02m         1     code 3  0.13s   12M",
                "idle  stopped        -       -         0          -      -     -",
                "gone  backing-off    -   in 2s         0   no start      -     -",
            ]
        );
    }

    #[test]
    fn a_tree_is_below_its_process() {
        let member = json!({ "pid": 42, "name": "a\n", "state": "S", "memory": 12_345_678 });
        let containment = json!({ "strength": "group", "reason": "no cgroup v2 hierarchy is mounted" });
        let web = json!({ "name": "web", "state": "running", "pid": 42, "tree": [member], "containment": containment });
        let unknown = json!({ "name": "x", "state": "running", "tree": null });
        let lines = lines(&[web, unknown], room(60));
        assert_eq!(
            lines[2..5],
            [
                "    kept together by its proce…roup v2 hierarchy is mounted)",
                "        PID  STATE  MEMORY  NAME",
                "         42  S         12M  a\\n",
            ]
        );
        assert_eq!(lines[6], "    what belongs to it is not known");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0.0, 59.9, 60.0, 3600.0, 86_400.0].map(duration), ["0s", "59s", "1m00s", "1h00m", "1d00h"]);
        assert_eq!(
            [1 << 12, 1 << 20, 1_740_000, 10_444_000, 1 << 30, 5 << 40].map(size),
            ["4K", "1.0M", "1.7M", "10M", "1.0G", "5.0T"]
        );
        assert_eq!([0.0, 59.99, 61.0].map(cpu), ["0.00s", "59.99s", "1m01s"]);
    }
}
