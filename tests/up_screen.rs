//! Tests what a terminal shows of the output of processes, by `childminder up` and `run`. Files and
//! pipes get all of it.
#![cfg(feature = "cli")]

mod up_util;

use std::process::{Command, Stdio};

use up_util::{Folder, PROGRAM, Up, on_a_terminal, on_a_terminal_of, text, until};

/// Output that would move the cursor, clear the screen, set the title, forge a message and colour
/// the following output.
const HOSTILE: &str = r"printf 'up\033[2A\033[2Jclear\033]0;title\007\n\rchildminder: [web] exited\n\033[31mred\n\010\010bs\n10%%\r20%%\n'";

fn write_script(folder: &Folder) {
    folder.write("hostile", &format!("{HOSTILE}\necho ready\nexec sleep 1000\n"));
}

/// The lines that were drawn, without the ones that start with one of `but`.
fn lines<'a>(drawn: &'a str, but: &[&str]) -> Vec<&'a str> {
    let lines = drawn.split("\r\n").filter(|line| !but.iter().any(|but| line.starts_with(but)));
    lines.filter(|line| !line.is_empty()).collect()
}

const SHOWN: [&str; 6] = ["upclear", "childminder: [web] exited", "\x1b[31mred\x1b[0m", "\\x08\\x08bs", "20%", "ready"];

#[test]
fn lines_stay_within_their_lines_on_a_terminal() {
    let folder = Folder::new();
    write_script(&folder);
    let process = |name: &str, extra: &str| {
        format!("[process.{name}]\ncommand = [\"sh\", \"./hostile\"]\ndirectory = \".\"\n{extra}")
    };
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{}", process("it", "")));
    let drawn = on_a_terminal(&folder.0, &["up"], &["ready\r\n"]);
    let marked = SHOWN.map(|line| format!("\x1b[36m[it]\x1b[0m {line}"));
    assert_eq!(lines(&drawn, &["childminder: ", "^C"]), marked, "{drawn:?}");

    // Without marks, only a line that looks like a message of ours has one.
    let to_stdout = process("it", "stdout = \"/dev/stdout\"\n");
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{to_stdout}"));
    let drawn = on_a_terminal(&folder.0, &["up"], &["ready\r\n"]);
    let mut unmarked = SHOWN.map(str::to_owned);
    unmarked[1] = format!("\x1b[36m[it]\x1b[0m {}", SHOWN[1]);
    assert_eq!(lines(&drawn, &["childminder: [it]", "^C"]), unmarked, "{drawn:?}");

    // With `raw`, the terminal gets all of it.
    let raw = process("it", "raw = true\n");
    folder.write("childminder.toml", &format!("[monitor]\nsocket = \"s\"\n{raw}"));
    let drawn = on_a_terminal(&folder.0, &["up"], &["ready\r\n"]);
    for part in ["up\x1b[2A\x1b[2Jclear\x1b]0;title\x07\r\n", "\x1b[31mred\r\n", "\x08\x08bs", "10%\r20%\r\n"] {
        assert!(drawn.contains(part), "{part:?} in {drawn:?}");
    }
}

#[test]
fn run_keeps_lines_within_their_lines_on_a_terminal() {
    let folder = Folder::new();
    write_script(&folder);
    let drawn = on_a_terminal(&folder.0, &["run", "sh", "./hostile"], &["ready\r\n"]);
    assert_eq!(lines(&drawn, &["childminder: ", "^C"]), SHOWN.map(|line| format!("[sh] {line}")), "{drawn:?}");
    let drawn = on_a_terminal(&folder.0, &["run", "--raw", "sh", "./hostile"], &["ready\r\n"]);
    assert!(drawn.contains("[sh] up\x1b[2A\x1b[2Jclear\x1b]0;title\x07\r\n[sh] \rchildminder: [web]"), "{drawn:?}");
}

#[test]
fn files_and_pipes_get_the_bytes_as_they_are() {
    let folder = Folder::new();
    write_script(&folder);
    let bytes = Command::new("sh").args(["-c", HOSTILE]).output().unwrap().stdout;
    let process = |name: &str, to: &str| {
        format!("[process.{name}]\ncommand = [\"sh\", \"./hostile\"]\ndirectory = \".\"\nstdout = \"{to}\"\n")
    };
    let up = Up::start_in(folder, &(process("a", "./log") + &process("b", "/dev/stdout")));
    let expected = text(&bytes) + "ready\n";
    until("all of it", || (up.folder.read("log") == expected && up.folder.read("out") == expected).then_some(()));
    let script = format!("{HOSTILE}; exit 0");
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--restart", "never", "sh", "-c", &script]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let marked: String = text(&bytes).split_inclusive('\n').map(|line| format!("[sh] {line}")).collect();
    assert_eq!(text(&output.stdout), marked);
    up.shutdown();
}

#[test]
fn a_reload_changes_what_a_terminal_gets_and_restarts_nothing() {
    let process = |raw: bool| format!("[process.a]\ncommand = [\"sleep\", \"1000\"]\nraw = {raw}\n");
    let up = Up::start(&process(false));
    let pid = up.pid_of("a");
    up.write_file(&process(true));
    assert_eq!(up.ok(&["reload", "--wait"]), "updated a\n");
    assert_eq!(up.pid_of("a"), pid);
    up.shutdown();
}

#[test]
fn the_status_fits_any_terminal() {
    let long = "a-service-with-quite-a-long-name";
    let up = Up::start(&format!(
        "[process.{long}]\ncommand = [\"sleep\", \"1000\"]\n[process.b]\nshell = \"exit 3\"\nrestart = \"never\"\n"
    ));
    up.until_state("b", "exited");
    for columns in [40, 80, 200] {
        for args in [&["status"][..], &["status", "--watch"]] {
            let drawn = on_a_terminal_of(&up.folder.0, args, &["NAME", "exited"], columns);
            assert!(drawn.contains("\x1b[32mrunning\x1b[0m") && drawn.contains("\x1b[31mexited\x1b[0m"), "{drawn:?}");
            let picture = drawn.replace("\x1b[2J", "").replace("\x1b[H", "");
            for line in picture.split("\r\n") {
                let plain = ["\x1b[K", "\x1b[J", "\x1b[32m", "\x1b[31m", "\x1b[0m", "^C"];
                let line = plain.iter().fold(line.to_owned(), |line, code| line.replace(code, ""));
                assert!(line.chars().count() <= columns.into(), "{columns}: {line:?}");
            }
            assert_eq!(drawn.contains("PEAK"), columns > 40, "{drawn:?}");
            assert_eq!(drawn.contains(long), columns == 200, "{drawn:?}");
        }
    }
    up.shutdown();
}

/// Runs a process that shows prompts and a progress bar, by this command on terminals of several
/// widths. `between` is what the process does besides while its first prompt is shown.
fn expect_prompts(folder: &Folder, args: &[&str], mark: &str, between: &str) {
    let long = "x".repeat(300);
    let steps = format!(
        "wait_for() {{ while ! [ -e $1 ]; do sleep 0.02; done; }}; printf 'password? '; {between} wait_for 1; echo; \
         printf '10%%'; wait_for 2; printf '\r20%%'; wait_for 3; printf '\r100%%\n'; printf '{long}?'; wait_for 4; echo; \
         echo ready; exec sleep 1000"
    );
    folder.write("steps", &steps);
    for columns in [40, 80, 200] {
        let go = |name: &str| folder.write(name, "");
        for name in ["0", "1", "2", "3", "4"] {
            let _ = std::fs::remove_file(folder.join(name));
        }
        let end = format!("{}?", "x".repeat(usize::from(columns) - 7));
        let long_prompt = format!("{mark}{end}");
        let first = format!("{mark}password? ");
        let steps: [(&str, &dyn Fn()); 6] = [
            // The line of another process comes above it.
            (&first, &|| go("0")),
            (&format!("between\r\n{mark}password? "), &|| go("1")),
            (&format!("{mark}10%"), &|| go("2")),
            (&format!("{mark}20%"), &|| go("3")),
            (&long_prompt, &|| go("4")),
            (&format!("{mark}ready\r\n"), &|| {}),
        ];
        let drawn = up_util::steps_on_a_terminal(&folder.0, args, &steps, columns);
        // Each line comes once when it is complete, and nothing is left of what was drawn before.
        let lines: Vec<&str> = drawn.split("\r\n").map(|line| line.rsplit("\r\x1b[K").next().unwrap()).collect();
        for line in ["password? ", "100%", &format!("{long}?"), "ready"] {
            let line = format!("{mark}{line}");
            assert_eq!(lines.iter().filter(|shown| **shown == line).count(), 1, "{line} {drawn:?}");
        }
        assert!(!lines.iter().any(|line| line.ends_with("10%") || line.ends_with("20%")), "{drawn:?}");
    }
}

#[test]
fn a_prompt_and_a_progress_bar_are_shown_before_their_newline() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[monitor]\nsocket = \"s\"\n[process.it]\ncommand = [\"sh\", \"./steps\"]\ndirectory = \".\"\n\
         [process.other]\nshell = \"while ! [ -e 0 ]; do sleep 0.02; done; echo between; exec sleep 1000\"\ndirectory = \".\"\n",
    );
    expect_prompts(&folder, &["up"], "\x1b[36m[it]\x1b[0m ", "");
}

#[test]
fn run_shows_a_prompt_and_a_progress_bar_before_their_newline() {
    let folder = Folder::new();
    expect_prompts(&folder, &["run", "--name", "it", "sh", "./steps"], "[it] ", "wait_for 0; echo between >&2;");
}

#[test]
fn run_shows_the_prompt_of_a_process_that_ends_once() {
    let folder = Folder::new();
    folder.write("steps", "printf 'password? '; while ! [ -e go ]; do sleep 0.02; done");
    let go = || folder.write("go", "");
    let steps: [(&str, &dyn Fn()); 2] = [("[sh] password? ", &go), ("exited: exit status 0", &|| {})];
    let drawn = up_util::steps_on_a_terminal(&folder.0, &["run", "--restart", "never", "sh", "./steps"], &steps, 80);
    let lines: Vec<&str> = drawn.split("\r\n").map(|line| line.rsplit("\r\x1b[K").next().unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| **line == "[sh] password? ").count(), 1, "{drawn:?}");
}

#[test]
fn a_prompt_is_shown_although_another_process_never_ends_its_line() {
    let folder = Folder::new();
    folder.write(
        "childminder.toml",
        "[monitor]\nsocket = \"s\"\n[process.asks]\nshell = \"printf 'password? '; exec sleep 1000\"\n\
         [process.draws]\nshell = \"while :; do printf .; sleep 0.01; done\"\n",
    );
    drop(up_util::steps_on_a_terminal(&folder.0, &["up"], &[("password? ", &|| {})], 80));
}
