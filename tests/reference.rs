//! Tests what shells complete, and the manual page. The shells themselves read the completions, as
//! far as they are installed.
#![cfg(feature = "cli")]

mod up_util;

use std::process::{Command, Output};

use up_util::{PROGRAM, Up, text};

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
    let folder = std::path::Path::new(PROGRAM).parent().unwrap();
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
        eprintln!("skipped: there is no bash");
        return;
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
    let Ok(output) = output else { return eprintln!("skipped: there is no zsh") };
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
            Err(_) => eprintln!("skipped: there is no {shell}"),
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
