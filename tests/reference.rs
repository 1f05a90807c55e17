//! Tests what shells complete, and the manual page. The shells themselves read the completions, as
//! far as they are installed.
#![cfg(feature = "cli")]

mod up_util;

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use childminder::{Event, Pty, Reactor};
use up_util::{PROGRAM, Up, left_out, text};

fn childminder(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

/// What bash completes at the end of these words.
#[track_caller]
fn completed(up: &Up, words: &[&str]) -> Vec<String> {
    completed_in(up, words, &words.join(" "))
}

/// What bash completes at the end of this line, which it has cut into these words.
#[track_caller]
fn completed_in(up: &Up, words: &[&str], line: &str) -> Vec<String> {
    let folder = Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(childminder completions bash); COMP_WORDS=({}); COMP_CWORD={}; COMP_LINE='{line}'; \
         COMP_POINT={}; _childminder; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1,
        line.len()
    );
    let output =
        Command::new("bash").args(["-c", &script]).env("PATH", path).current_dir(&up.folder.0).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    text(&output.stdout).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_files_and_names() {
    if !Command::new("bash").args(["-c", "true"]).status().is_ok_and(|status| status.success()) {
        return left_out("there is no bash");
    }
    let up = Up::start(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\n[process.worker]\ncommand = [\"sleep\", \"1000\"]\ninstances = 2\n",
    );
    up.folder.write("some-file.toml", "");
    for (words, expected) in [
        (&["childminder", "st"][..], &["status", "start", "stop"][..]),
        (&["childminder", "up", "--ex"], &["--exit-when"]),
        (&["childminder", "up", "-c", "some"], &["some-file.toml"]),
        (&["childminder", "run", "--min"], &["--minrestartdelay"]),
        (&["childminder", "restart", "wo"], &["worker:1", "worker:2"]),
        (&["childminder", "attach", "we"], &["web"]),
        (&["childminder", "completions", "z"], &["zsh"]),
        (&["childminder", "logs", "--std"], &["--stdout", "--stderr"]),
        (&["childminder", "reload", "we"], &["web"]),
        (&["childminder", "up", "--exit-when", ""], &["all", "first", "failed"]),
        (&["childminder", "run", "--restart", "on"], &["on-failure"]),
        (&["childminder", "up", "--exit-when", "=", "fi"], &["first"]),
        (&["childminder", "up", "--timestamps", "="], &["local", "utc", "monotonic"]),
        (&["childminder", "logs", "--timestamps", "=", ""], &["local", "utc"]),
        // The value of `--timestamps` is never a word of its own.
        (
            &["childminder", "up", "--timestamps", "-"],
            &["-c", "--config", "--exit-when", "--timestamps", "-h", "--help"],
        ),
    ] {
        assert_eq!(completed(&up, words), expected, "{words:?}");
    }
    // As bash does it: the `:` is a word of its own, and only what comes after it is replaced.
    for (words, line) in [
        (&["childminder", "stop", "worker", ":"][..], "childminder stop worker:"),
        (&["childminder", "stop", "web", "worker", ":", "1"], "childminder stop web worker:1"),
    ] {
        let expected = if line.ends_with(':') { &["1", "2"][..] } else { &["1"] };
        assert_eq!(completed_in(&up, words, line), expected, "{line}");
    }
    for words in [
        &["childminder", "run", "slee"][..],
        &["childminder", "run", "-t", "5", "--env", "=", "A=1", "--raw", "slee"],
        &["childminder", "measure", "--wall", "5", "--", "slee"],
    ] {
        assert!(completed(&up, words).contains(&"sleep".to_owned()), "{words:?}");
    }
    // The command's own arguments are files.
    assert_eq!(completed(&up, &["childminder", "run", "ls", "--res"]), [""; 0]);
    let other = Up::start("[process.elsewhere]\ncommand = [\"sleep\", \"1000\"]\n");
    let (file, socket) = (other.folder.join("childminder.toml"), other.socket());
    let (file, socket) = (file.to_str().unwrap(), socket.to_str().unwrap());
    for place in [&["-c", file][..], &["--config", "=", file], &["--socket", socket], &["--socket", "=", socket]] {
        let words = [&["childminder", "stop"], place, &["e"]].concat();
        assert_eq!(completed(&up, &words), ["elsewhere"], "{words:?}");
    }
    other.shutdown();
    up.shutdown();
}

/// What fish completes at the end of this line.
#[track_caller]
fn completed_by_fish(up: &Up, line: &str) -> Vec<String> {
    let folder = Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let script = format!("childminder completions fish | source; complete -C '{line}'");
    let mut fish = Command::new("fish");
    fish.args(["--no-config", "-c", &script]).env("PATH", path).env("HOME", &up.folder.0).current_dir(&up.folder.0);
    let output = fish.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    // A description follows after a tab.
    text(&output.stdout).lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn fish_completes_commands_options_values_and_names() {
    if Command::new("fish").arg("--version").output().is_err() {
        return left_out("there is no fish");
    }
    let up = Up::start(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\n[process.worker]\ncommand = [\"sleep\", \"1000\"]\ninstances = 2\n",
    );
    up.folder.write("some-file.toml", "");
    let other = Up::start("[process.elsewhere]\ncommand = [\"sleep\", \"1000\"]\n");
    let file = other.folder.join("childminder.toml");
    let from_file = format!("childminder stop -c {} e", file.display());
    let from_socket = format!("childminder stop --socket={} e", other.socket().display());
    for (line, expected) in [
        ("childminder sta", &["start", "status"][..]),
        ("childminder up --exit-when ", &["all", "failed", "first"]),
        ("childminder up --exit-when=fi", &["--exit-when=first"]),
        ("childminder up --timestamps=m", &["--timestamps=monotonic"]),
        ("childminder up -c some", &["some-file.toml"]),
        ("childminder restart wo", &["worker:1", "worker:2"]),
        ("childminder reload we", &["web"]),
        ("childminder completions z", &["zsh"]),
        (&from_file, &["elsewhere"]),
        (&from_socket, &["elsewhere"]),
    ] {
        let mut completed = completed_by_fish(&up, line);
        completed.sort();
        assert_eq!(completed, expected, "{line}");
    }
    for line in ["childminder run slee", "childminder run --raw -t 5 --name x slee", "childminder measure slee"] {
        assert!(completed_by_fish(&up, line).contains(&"sleep".to_owned()), "{line}");
    }
    // A word of the command is not taken for one of ours.
    assert!(!completed_by_fish(&up, "childminder run echo stop we").contains(&"web".to_owned()));
    other.shutdown();
    up.shutdown();
}

/// Types lines into a zsh with its whole completion, and reads what it draws until all parts of
/// each line have been there.
fn type_into_zsh(up: &Up, lines: &[(String, &[&str])]) {
    let mut zsh = childminder::Command::new("zsh");
    let path = format!("{}:{}", Path::new(PROGRAM).parent().unwrap().display(), std::env::var("PATH").unwrap());
    zsh.args(["-f", "-i"]).env("PATH", path).env("HOME", &up.folder.0).env("TERM", "dumb").env_remove("FPATH");
    zsh.current_dir(&up.folder.0).pty(Pty::new().size(24, 200));
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.spawn_process(&zsh).unwrap();
    let setup = "PS1='$ ' zle_bracketed_paste=(); autoload -Uz compinit && compinit -u -D && \
                 source <(childminder completions zsh) && echo READ''Y\r";
    let (mut drawn, mut over) = (String::new(), false);
    let start = up_util::now();
    let mut steps = std::iter::once((setup.to_owned(), &["READY"][..])).chain(lines.iter().cloned()).peekable();
    let mut typed = false;
    while !over {
        if let (Some((line, _)), false) = (steps.peek(), typed) {
            drawn.clear();
            reactor.process(id).unwrap().write(0, line.as_bytes()).unwrap();
            typed = true;
        }
        reactor
            .turn(Some(Duration::from_secs(1)), |_, event| match event {
                Event::Data { data, .. } => drawn += &text(data),
                Event::Ended { .. } => over = true,
                _ => {}
            })
            .unwrap();
        if steps.next_if(|(_, parts)| parts.iter().all(|part| drawn.contains(part))).is_some() {
            typed = false;
            if steps.peek().is_none() {
                reactor.process(id).unwrap().kill_group().unwrap();
            }
        }
        assert!(
            start.elapsed() < up_util::WATCHDOG && (!over || steps.peek().is_none()),
            "{:?}: {drawn:?}",
            steps.peek()
        );
    }
}

#[test]
fn zsh_completes_options_values_and_names() {
    if Command::new("zsh").args(["-c", "true"]).output().is_err() {
        return left_out("there is no zsh");
    }
    let up = Up::start(
        "[process.web]\ncommand = [\"sleep\", \"1000\"]\n[process.worker]\ncommand = [\"sleep\", \"1000\"]\ninstances = 2\n",
    );
    let other = Up::start("[process.elsewhere]\ncommand = [\"sleep\", \"1000\"]\n");
    // Ctrl-U empties the line for the next one.
    let line = |line: &str| format!("\x15childminder {line}\t");
    let from_file = format!("stop -c {} e", other.folder.join("childminder.toml").display());
    type_into_zsh(
        &up,
        &[
            (line("up --exit-when "), &["all", "failed", "first"]),
            (line("up --exit-when=fi"), &["--exit-when=first "]),
            (line("up --timestamps=m"), &["--timestamps=monotonic "]),
            (line("run --restart on"), &["on-failure "]),
            (line("restart worker:"), &["worker:1", "worker:2"]),
            (line("reload we"), &["web "]),
            (line("run --raw -t 5 slee"), &["sleep "]),
            (line(&from_file), &["elsewhere "]),
        ],
    );
    other.shutdown();
    up.shutdown();
}

/// A zsh that knows no more of completion than what the script asks for.
const ZSH: &str = r#"
compdef() { print -r -- "compdef $*" }
_describe() { print -rl -- "${(@P)2}" }
childminder() { print -l 'NAME  STATE' 'web  running' 'worker:1  running' }
source $1
_childminder_names
"#;

#[test]
fn zsh_reads_its_completions_and_takes_the_colon_of_an_instance_for_a_part_of_the_name() {
    let file = std::env::temp_dir().join(format!("childminder-zsh-{}", std::process::id()));
    std::fs::write(&file, childminder(&["completions", "zsh"]).stdout).unwrap();
    let output = Command::new("zsh").args(["-f", "-c", ZSH, "zsh"]).arg(&file).output();
    std::fs::remove_file(file).unwrap();
    let Ok(output) = output else { return left_out("there is no zsh") };
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), "compdef _childminder childminder\nweb\nworker\\:1\n");
}

#[test]
fn each_shell_accepts_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = childminder(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let script = text(&output.stdout);
        for word in ["exit-when", "since", "attach", "threshold"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let file = std::env::temp_dir().join(format!("childminder-{shell}-{}", std::process::id()));
        std::fs::write(&file, script).unwrap();
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", text(&output.stderr)),
            Err(_) => left_out(&format!("there is no {shell}")),
        }
        std::fs::remove_file(file).unwrap();
    }
    let output = childminder(&["completions", "csh"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("bash, zsh and fish are known"));
}

#[test]
fn the_manual_has_every_command_and_option() {
    let page = text(&childminder(&["man"]).stdout);
    for part in [
        ".TH CHILDMINDER 1",
        ".SS up\n",
        ".SS attach\n",
        "\\fB\\-\\-exit\\-when\\fR \\fIWHICH\\fR",
        "childminder logs [OPTION]...",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    // No line is an unknown request.
    let known = [".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi"];
    for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
        assert!(known.iter().any(|request| line.starts_with(request)), "{line}");
    }
}
