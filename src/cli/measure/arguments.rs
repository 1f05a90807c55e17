//! Reads the command line of `childminder measure`. Starts nothing and opens nothing.
//!
//! The one rule: a mistake names the option, what it wants and what it got.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use childminder::{CpuSet, Limits};
use lexopt::{Arg, Parser, ValueExt};

use crate::cli::config::parse_size;
use crate::cli::failure::Failure;
use crate::cli::options::{path_of, seconds};

/// The default time from SIGTERM to SIGKILL.
const KILL_TIME: Duration = Duration::from_secs(5);
/// The largest number of runs, whose figures are all kept until the end.
const MOST_RUNS: u64 = 1_000_000;

/// The settings of the command line.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) limits: Limits,
    pub(super) kill_time: Duration,
    pub(super) cores: Option<CpuSet>,
    pub(super) runs: usize,
    pub(super) jobs: usize,
    pub(super) input: Option<PathBuf>,
    pub(super) stdout: Option<PathBuf>,
    pub(super) stderr: Option<PathBuf>,
    pub(super) json: Option<Json>,
    pub(super) quiet: bool,
}

/// The place for the figures as JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Json {
    Stdout,
    File(PathBuf),
}

/// Reads the command line. `None` if it only asks for help.
pub(super) fn parse(mut parser: Parser) -> Result<Option<Arguments>, Failure> {
    let mut limits = Limits::default();
    let (mut kill_time, mut cores, mut runs, mut jobs, mut quiet) = (KILL_TIME, None, 1, 1, false);
    let (mut input, mut stdout, mut stderr, mut json) = (None, None, None, None);
    let program = loop {
        match parser.next()? {
            Some(Arg::Long("wall")) => limits.wall_time = Some(seconds(&mut parser, "wall")?),
            Some(Arg::Long("cpu")) => (limits.soft_cpu_time, limits.cpu_time) = cpu(&parser.value()?.string()?)?,
            Some(Arg::Long("memory")) => limits.memory = Some(size(&mut parser, "memory")?),
            Some(Arg::Long("processes")) => limits.processes = Some(count(&mut parser, "processes")?),
            Some(Arg::Long("output-limit")) => limits.output = Some(size(&mut parser, "output-limit")?),
            Some(Arg::Long("kill-time")) => kill_time = seconds(&mut parser, "kill-time")?,
            Some(Arg::Long("cores")) => {
                let list = parser.value()?.string()?.parse::<CpuSet>();
                cores = Some(list.map_err(|error| Failure::Usage(format!("--cores: {error}")))?);
            }
            Some(Arg::Long("runs")) => {
                runs = count(&mut parser, "runs")?;
                if runs > MOST_RUNS {
                    return Err(Failure::Usage(format!("--runs wants a number up to {MOST_RUNS}, not `{runs}`")));
                }
            }
            Some(Arg::Long("jobs")) => jobs = count(&mut parser, "jobs")?,
            Some(Arg::Long("input")) => input = Some(path_of(&mut parser, "input")?.into()),
            Some(Arg::Long("stdout")) => stdout = Some(path_of(&mut parser, "stdout")?.into()),
            Some(Arg::Long("stderr")) => stderr = Some(path_of(&mut parser, "stderr")?.into()),
            Some(Arg::Long("json")) => {
                let path = path_of(&mut parser, "json")?;
                json = Some(if path == "-" { Json::Stdout } else { Json::File(path.into()) });
            }
            Some(Arg::Short('q') | Arg::Long("quiet")) => quiet = true,
            Some(Arg::Short('h') | Arg::Long("help")) => return Ok(None),
            Some(Arg::Value(program)) => break program,
            Some(other) => return Err(other.unexpected().into()),
            None => return Err(Failure::Usage("no command to run; try --help".into())),
        }
    };
    if program.is_empty() {
        return Err(Failure::Usage("the command to run is empty".into()));
    }
    let runs = usize::try_from(runs).unwrap_or(usize::MAX);
    let jobs = usize::try_from(jobs).unwrap_or(usize::MAX).min(runs);
    let args = parser.raw_args()?.collect();
    Ok(Some(Arguments { program, args, limits, kill_time, cores, runs, jobs, input, stdout, stderr, json, quiet }))
}

/// Reads the limits of the CPU time: the soft one and the hard one.
fn cpu(text: &str) -> Result<(Option<Duration>, Option<Duration>), Failure> {
    let seconds = |text: &str| text.parse::<f64>().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    let limits = match text.split_once(':') {
        None => seconds(text).map(|hard| (None, Some(hard))),
        Some((soft, hard)) => {
            let both = seconds(soft).zip(seconds(hard)).filter(|(soft, hard)| soft < hard);
            both.map(|(soft, hard)| (Some(soft), Some(hard)))
        }
    };
    limits.ok_or_else(|| {
        Failure::Usage(format!("--cpu wants SECS or SOFT:SECS, numbers that are not negative, not `{text}`"))
    })
}

fn size(parser: &mut Parser, option: &str) -> Result<u64, Failure> {
    let text = parser.value()?.string()?;
    parse_size(&text).ok_or_else(|| {
        Failure::Usage(format!("--{option} wants a size such as 512M or a number of bytes, not `{text}`"))
    })
}

fn count(parser: &mut Parser, option: &str) -> Result<u64, Failure> {
    let text = parser.value()?.string()?;
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| Failure::Usage(format!("--{option} wants a number from 1 on, not `{text}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Arguments, String> {
        let all = ["childminder"].iter().chain(args);
        let parsed = parse(Parser::from_iter(all)).map_err(|failure| failure.to_string())?;
        parsed.ok_or_else(|| "help".into())
    }

    #[test]
    fn every_option_is_read() {
        let args = "--wall 1.5 --cpu 2:3 --memory 64M --processes 9 --output-limit 10k --kill-time 0.5 --cores 0-1 \
                    --runs 4 --jobs 2 --input i --stdout o --stderr e --json - --quiet -- cmd --wall 7";
        let read = read(&args.split_whitespace().collect::<Vec<_>>()).unwrap();
        let mut limits = Limits::default();
        limits.wall_time = Some(Duration::from_millis(1500));
        limits.soft_cpu_time = Some(Duration::from_secs(2));
        limits.cpu_time = Some(Duration::from_secs(3));
        (limits.memory, limits.processes, limits.output) = (Some(64 << 20), Some(9), Some(10 << 10));
        assert_eq!((read.limits, read.kill_time), (limits, Duration::from_millis(500)));
        assert_eq!(read.cores.unwrap().to_string(), "0-1");
        assert_eq!((read.runs, read.jobs, read.json, read.quiet), (4, 2, Some(Json::Stdout), true));
        assert_eq!([read.input, read.stdout, read.stderr].map(Option::unwrap), ["i", "o", "e"].map(PathBuf::from));
        assert_eq!((read.program, read.args), ("cmd".into(), vec!["--wall".into(), "7".into()]));
    }

    #[test]
    fn there_are_never_more_jobs_than_runs() {
        assert_eq!(read(&["--jobs", "8", "true"]).unwrap().jobs, 1);
        assert_eq!(read(&["--jobs", "8", "--runs", "3", "true"]).unwrap().jobs, 3);
    }

    #[test]
    fn mistakes_are_named() {
        let cases: [(&[&str], &str); 11] = [
            (&[], "no command to run"),
            (&[""], "the command to run is empty"),
            (&["--wall", "x", "true"], "--wall wants"),
            (&["--cpu", "3:2", "true"], "--cpu wants SECS or SOFT:SECS"),
            (&["--cpu", "-1", "true"], "--cpu wants"),
            (&["--memory", "much", "true"], "--memory wants a size"),
            (&["--runs", "0", "true"], "--runs wants a number from 1 on, not `0`"),
            (&["--runs", "1000001", "true"], "--runs wants a number up to 1000000"),
            (&["--cores", "1-", "true"], "--cores: `1-` is no list"),
            (&["--json", "", "true"], "--json is empty"),
            (&["--nonsense", "true"], "--nonsense"),
        ];
        for (args, said) in cases {
            let error = read(args).map(|_| ()).unwrap_err();
            assert!(error.contains(said), "{args:?}: {error}");
        }
        assert_eq!(read(&["--help"]).map(|_| ()), Err("help".into()));
    }
}
