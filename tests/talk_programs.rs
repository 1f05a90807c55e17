//! Tests the examples of the chapter on talking to a child, each with the real program. The chapter
//! shows the bodies of these functions.

mod util;

use std::time::Duration;

use childminder::{Child, Command, Pty, TalkError};
use util::left_out;

fn python() -> Result<(), TalkError> {
    let python = Child::spawn(Command::new("python3").arg("-q").env("TERM", "dumb").pty(Pty::new()))?;
    python.set_time_limit(Some(Duration::from_secs(30)));
    python.set_plain(true);
    python.expect(&[">>> "])?;
    python.write("import math; math.factorial(20)\n")?;
    assert_eq!(python.expect(&[">>> "])?.text(), "2432902008176640000\n");
    python.write("1 / 0\n")?;
    assert!(python.expect(&[">>> "])?.text().ends_with("ZeroDivisionError: division by zero\n"));
    python.write("exit(3)\n")?;
    assert_eq!(python.wait()?.code(), Some(3));
    Ok(())
}

fn bc() -> Result<(), TalkError> {
    let bc = Child::spawn(Command::new("bc").arg("-q"))?;
    bc.set_time_limit(Some(Duration::from_secs(30)));
    bc.write("2 ^ 64\nscale = 3; 1 / 7\n")?;
    assert_eq!(bc.read_line()?.as_deref(), Some("18446744073709551616"));
    assert_eq!(bc.read_line()?.as_deref(), Some(".142"));
    bc.write("1 / 0\n")?;
    assert!(bc.stderr().read_line()?.is_some_and(|line| line.to_lowercase().contains("zero")));
    assert!(bc.wait()?.success());
    Ok(())
}

fn sqlite3() -> Result<(), TalkError> {
    let sqlite =
        Child::spawn(Command::new("sqlite3").arg(":memory:").env("TERM", "dumb").pty(Pty::new().size(24, 200)))?;
    sqlite.set_time_limit(Some(Duration::from_secs(30)));
    sqlite.set_plain(true);
    sqlite.expect(&["sqlite> "])?;
    sqlite.write("create table t (n); insert into t values (1), (2), (39); select sum(n) from t;\n")?;
    assert_eq!(sqlite.expect(&["sqlite> "])?.text(), "42\n");
    sqlite.write("select;\n")?;
    assert!(sqlite.expect(&["sqlite> "])?.text().contains("syntax error"));
    sqlite.write(".exit 3\n")?;
    assert_eq!(sqlite.wait()?.code(), Some(3));
    Ok(())
}

fn gdb() -> Result<(), TalkError> {
    let gdb = Child::spawn(Command::new("gdb").args(["-q", "-nx"]).env("TERM", "dumb").pty(Pty::new()))?;
    gdb.set_time_limit(Some(Duration::from_secs(60)));
    gdb.set_plain(true);
    gdb.expect(&["(gdb) "])?;
    gdb.write("print 6 * 7\n")?;
    assert_eq!(gdb.expect(&["(gdb) "])?.text(), "$1 = 42\n");
    gdb.write("info frame\n")?;
    assert_eq!(gdb.expect(&["(gdb) "])?.text(), "No stack.\n");
    gdb.write("quit 3\n")?;
    assert_eq!(gdb.wait()?.code(), Some(3));
    Ok(())
}

fn shell() -> Result<(), TalkError> {
    let bash = Command::new("bash").args(["--norc", "-i"]).env("PS1", "% ").env("TERM", "dumb").pty(Pty::new()).clone();
    let bash = Child::spawn(&bash)?;
    bash.set_time_limit(Some(Duration::from_secs(30)));
    bash.set_plain(true);
    for (typed, said) in [
        ("", "% "),
        ("(echo it runs; exec sleep 1000)\n", "it runs\n"),
        ("\x1a", "Stopped"), // Ctrl-Z
        ("bg; jobs\n", "Running"),
        ("kill %1; wait %1; echo status $?\n", "status 143\n"),
    ] {
        bash.write(typed)?;
        bash.expect(&[said])?;
    }
    Ok(())
}

type Example = (&'static str, fn() -> Result<(), TalkError>);

const EXAMPLES: [Example; 5] = [("python3", python), ("bc", bc), ("sqlite3", sqlite3), ("gdb", gdb), ("bash", shell)];

fn run(program: &str) {
    let (_, example) = EXAMPLES.iter().find(|(name, _)| *name == program).unwrap();
    match example() {
        Err(TalkError::Spawn(error)) if error.io_error().kind() == std::io::ErrorKind::NotFound => {
            left_out(&format!("{program} is not installed"));
        }
        result => result.unwrap(),
    }
}

/// The chapter shows each example as it is run here, in at most 15 lines.
#[test]
fn the_chapter_shows_these_examples() {
    let (chapter, here) = (include_str!("../src/guide/talking_to_a_child.md"), include_str!("talk_programs.rs"));
    let is_example = |(head, _): (&str, &str)| head.ends_with("() -> Result<(), TalkError> {");
    let examples = |text: &'static str| {
        let functions = text.split("\nfn ").skip(1).filter_map(|rest| Some(rest.split_once("\n}\n")?.0));
        let mut examples: Vec<_> = functions.filter(|text| text.split_once('\n').is_some_and(is_example)).collect();
        examples.sort_unstable();
        examples
    };
    let (shown, run) = (examples(chapter), examples(here));
    assert_eq!((shown.len(), &shown), (EXAMPLES.len(), &run));
    for example in run {
        assert!(example.lines().count() - 2 <= 15, "{example}");
    }
}

#[test]
fn drives_python() {
    run("python3");
}

#[test]
fn drives_bc() {
    run("bc");
}

#[test]
fn drives_sqlite3() {
    run("sqlite3");
}

#[test]
fn drives_gdb() {
    run("gdb");
}

#[test]
fn drives_a_shell_with_job_control() {
    run("bash");
}
