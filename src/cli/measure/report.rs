//! The figures of the runs as JSON, and the problems that a user must know of. Writes nothing.
//!
//! The one rule: nothing that a program has written gets into the JSON.

use std::time::Duration;

use childminder::{EndedBy, Figure, Finished, Output, Remains};
use serde_json::{Map, Value, json};

/// Tells whether a limit of time has ended a run.
pub(super) fn is_time_limit(ended_by: EndedBy) -> bool {
    matches!(ended_by, EndedBy::WallTime | EndedBy::CpuTime | EndedBy::SoftCpuTime)
}

/// Tells whether a limit of any kind has ended a run.
pub(super) fn is_limit(ended_by: EndedBy) -> bool {
    is_time_limit(ended_by) || matches!(ended_by, EndedBy::Memory | EndedBy::Processes | EndedBy::Output)
}

/// Returns an array with one object for each run. `set_of` returns the processors of a run that had
/// its own.
pub(super) fn json(all: &[Finished], set_of: impl Fn(&Finished) -> Option<String>) -> String {
    let objects: Vec<Value> = all
        .iter()
        .map(|finished| {
            let mut object = match &finished.result {
                Ok(output) => figures(output),
                Err(error) => Map::from_iter([("error".into(), json!(error.to_string()))]),
            };
            object.insert("run".into(), json!(finished.index + 1));
            object.insert("cores".into(), json!(set_of(finished)));
            Value::Object(object)
        })
        .collect();
    format!("{:#}\n", Value::Array(objects))
}

fn figures(output: &Output) -> Map<String, Value> {
    let used = &output.used;
    let seconds = |time: Duration| json!(time.as_secs_f64());
    let time = |figure: Option<Figure<Duration>>| figure.map_or(Value::Null, |figure| seconds(figure.value));
    let number = |figure: Option<Figure<u64>>| json!(figure.map(|figure| figure.value));
    let pressure = used.pressure.map(|pressure| {
        json!({
            "cpu_s": seconds(pressure.cpu), "memory_s": seconds(pressure.memory), "io_s": seconds(pressure.io),
        })
    });
    let object = json!({
        "wall_s": seconds(output.exit.wall_time),
        "cpu_s": time(used.cpu_time()),
        "user_s": time(used.user_time),
        "system_s": time(used.system_time),
        "peak_memory": number(used.peak_memory),
        "peak_processes": number(used.peak_processes),
        "minor_faults": number(used.minor_faults),
        "major_faults": number(used.major_faults),
        "voluntary_switches": number(used.voluntary_switches),
        "involuntary_switches": number(used.involuntary_switches),
        "bytes_read": number(used.bytes_read),
        "bytes_written": number(used.bytes_written),
        "pressure": pressure,
        "ended_by": output.ended_by.to_string(),
        "code": output.exit.code(),
        "signal": output.exit.signal(),
        "covers": used.covers().map(|covers| covers.to_string()),
        "cpu_covers": used.cpu_time().map(|cpu| cpu.covers.to_string()),
        "peak_memory_covers": used.peak_memory.map(|peak| peak.covers.to_string()),
        "containment": output.containment.strength().to_string(),
        "containment_reason": output.containment.reason(),
    });
    match object {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Returns what went wrong with the runs themselves: a failure once, with the number of runs that
/// it has hit, and the processes that could not be killed.
pub(super) fn problems(all: &[Finished]) -> Vec<String> {
    let mut problems: Vec<(String, usize)> = Vec::new();
    for finished in all {
        let problem = match &finished.result {
            Err(error) => error.to_string(),
            Ok(output) => match &output.remains {
                Remains::Nobody => continue,
                remains => format!("some processes are still there: {remains}"),
            },
        };
        match problems.iter_mut().find(|(known, _)| *known == problem) {
            Some((_, count)) => *count += 1,
            None => problems.push((problem, 1)),
        }
    }
    let times = |count: usize| if count > 1 { format!(" ({count} runs)") } else { String::new() };
    problems.into_iter().map(|(problem, count)| problem + &times(count)).collect()
}
