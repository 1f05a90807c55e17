//! The table of the runs for people, with the minimum, the median and the maximum of several.
//! Writes nothing.
//!
//! The one rule: no line is longer than 80 columns, whatever the figures are.

use std::time::Duration;

use childminder::{EndedBy, Finished, Output};

/// Returns the lines of the table.
pub(super) fn lines(all: &[Finished]) -> Vec<String> {
    let outputs: Vec<(usize, &Output)> =
        all.iter().filter_map(|finished| Some((finished.index + 1, finished.result.as_ref().ok()?))).collect();
    if outputs.is_empty() {
        return Vec::new();
    }
    let mut lines =
        vec![line("run", "ended by", ["wall", "cpu", "user", "system", "peak"].map(String::from), "covers")];
    for (number, output) in &outputs {
        let covers = output.used.covers().map_or_else(|| "-".into(), |covers| covers.to_string());
        lines.push(line(&number.to_string(), &ended_by(output), show(figures(output)), &covers));
    }
    if outputs.len() > 1 {
        let all: Vec<[Option<f64>; 5]> = outputs.iter().map(|(_, output)| figures(output)).collect();
        let column = |index: usize| {
            let mut column: Vec<f64> = all.iter().filter_map(|figures| figures[index]).collect();
            column.sort_by(f64::total_cmp);
            column
        };
        let columns: [Vec<f64>; 5] = std::array::from_fn(column);
        for (name, pick) in [("min", minimum as fn(&[f64]) -> Option<f64>), ("med", median), ("max", maximum)] {
            lines.push(line(name, "", show(std::array::from_fn(|index| pick(&columns[index]))), ""));
        }
    }
    lines
}

fn line(run: &str, ended_by: &str, [wall, cpu, user, system, peak]: [String; 5], covers: &str) -> String {
    let line = format!("{run:>6}  {ended_by:<10}  {wall:>8}  {cpu:>8}  {user:>8}  {system:>8}  {peak:>7}  {covers}");
    line.trim_end().to_owned()
}

fn ended_by(output: &Output) -> String {
    match (output.ended_by, output.exit.code(), output.exit.signal()) {
        (EndedBy::Exit, Some(code), _) => format!("exit {code}"),
        (EndedBy::Signal, _, Some(signal)) => format!("signal {signal}"),
        (reason, ..) => reason.to_string(),
    }
}

/// The times in seconds, and the peak in bytes.
fn figures(output: &Output) -> [Option<f64>; 5] {
    let used = &output.used;
    let seconds = |time: Duration| time.as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // three digits are shown
    let peak = used.peak_memory.map(|peak| peak.value as f64);
    let time = |figure: Option<childminder::Figure<Duration>>| figure.map(|figure| seconds(figure.value));
    [Some(seconds(output.exit.wall_time)), time(used.cpu_time()), time(used.user_time), time(used.system_time), peak]
}

fn show([wall, cpu, user, system, peak]: [Option<f64>; 5]) -> [String; 5] {
    let time = |seconds: Option<f64>| seconds.map_or_else(|| "-".into(), show_seconds);
    [time(wall), time(cpu), time(user), time(system), peak.map_or_else(|| "-".into(), show_bytes)]
}

/// At most eight columns.
fn show_seconds(seconds: f64) -> String {
    match seconds {
        ..999.9995 => format!("{seconds:.3}s"),
        ..99_999.95 => format!("{seconds:.1}s"),
        ..1_000_000.0 => format!("{seconds:.0}s"),
        _ => format!("{:.0}h", (seconds / 3600.0).min(999_999.0)),
    }
}

/// At most seven columns.
fn show_bytes(bytes: f64) -> String {
    let units = ["K", "M", "G", "T", "P", "E"];
    let mut value = bytes / 1024.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", units[unit])
}

fn minimum(sorted: &[f64]) -> Option<f64> {
    sorted.first().copied()
}

fn maximum(sorted: &[f64]) -> Option<f64> {
    sorted.last().copied()
}

fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => sorted.get(half).copied(),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_their_columns() {
        let times = [0.0, 0.0014, 59.9999, 999.9996, 1000.0, 99_999.96, 123_456.0, 999_999.6, 1e9, 1e30];
        let shown = times.map(show_seconds);
        assert!(shown.iter().all(|text| text.len() <= 8), "{shown:?}");
        assert_eq!((&shown[1][..], &shown[4][..]), ("0.001s", "1000.0s"));
        let sizes = [0.0, 1.0, 1536.0, 1023.99 * 1024.0, 5e8, 1e12, 1.8e19, 1e25];
        let shown = sizes.map(show_bytes);
        assert!(shown[..7].iter().all(|text| text.len() <= 7), "{shown:?}");
        assert_eq!((&shown[2][..], &shown[4][..]), ("1.5K", "476.8M"));
    }

    #[test]
    fn the_longest_line_fits() {
        let widest = ["999999.9s".into(), "99999.9s".into(), "99999.9s".into(), "99999.9s".into(), "1023.9M".into()];
        assert!(line("999999", "processes", widest, "reaped").len() <= 80);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(
            [&[][..], &[3.0], &[1.0, 2.0], &[1.0, 2.0, 9.0]].map(median),
            [None, Some(3.0), Some(1.5), Some(2.0)]
        );
    }
}
