//! Tests that read whole files: the settings in them and the mistakes in them. They start nothing.

use std::path::Path;
use std::time::Duration;

use childminder::{Limit, Policy, Resource, Restart};

use super::value::Id;
use super::*;
use crate::cli::safe_path::Creation;

const EXAMPLE: &str = include_str!("example.toml");

fn parse_as(file: &str, bytes: &[u8]) -> Result<Config, Findings> {
    read_as(Path::new(file), bytes, Scope::Text)
}

fn read_as(file: &Path, bytes: &[u8], scope: Scope) -> Result<Config, Findings> {
    let source = source::Source { path: file.to_owned(), bytes: bytes.to_owned(), warning: None };
    let document = documents::Document::new(file, source, documents::Role::Main);
    read::config(&[document], scope).map(|(config, _)| config)
}

pub(super) fn parse(text: &str) -> Result<Config, Findings> {
    parse_as("/tmp/test.toml", text.as_bytes())
}

/// The only process of a file, or the first one.
pub(super) fn only_process(text: &str) -> ProcessConfig {
    parse(text).unwrap().into_processes().next().unwrap()
}

/// The mistakes in a file, without the file's name.
#[track_caller]
fn errors(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err("a file that is wrong").to_string();
    errors.lines().map(|line| line.strip_prefix("/tmp/test.toml:").expect(line).to_owned()).collect()
}

/// The single mistake of a process that has a command and these further keys.
#[track_caller]
pub(super) fn error(rest: &str) -> String {
    let mut errors = errors(&format!("[process.a]\ncommand = [\"true\"]\n{rest}\n"));
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.remove(0)
}

#[track_caller]
pub(super) fn expect_round_trip(config: &Config) {
    let text = config.effective(Values::Shown);
    // The text is read as a file of another folder.
    let again = parse_as("/usr/other.toml", text.as_bytes());
    let again = again.map_err(|errors| format!("{errors}\n{text}")).unwrap();
    let monitor =
        |config: &Config| (config.socket.clone(), config.access, config.kills_at_death, config.cgroup.clone());
    assert_eq!(monitor(&again), monitor(config));
    assert_eq!(again.into_processes().collect::<Vec<_>>(), config.processes().collect::<Vec<_>>(), "{text}");
}

#[test]
fn the_example_says_what_its_comments_say() {
    let config = parse(EXAMPLE).map_err(|errors| errors.to_string()).unwrap();
    assert_eq!(config.socket, Some(SocketPath::At("/tmp/childminder.sock".into())));
    assert_eq!(config.access, Access { mode: Some(0o600), gid: Some(0) });
    let processes: Vec<_> = config.processes().collect();
    let names: Vec<_> = processes.iter().map(|process| &*process.name).collect();
    assert_eq!(names, ["web", "worker:1", "worker:2", "job"]);
    let [web, _, worker, _] = &processes[..] else { unreachable!() };
    assert_eq!(web.settings.command, ["python3", "-m", "http.server", "8000"]);
    assert_eq!((&*web.policy, web.autostart), (&Policy::default(), true));
    // Everything that the file sets for `web` is the default.
    let plain = only_process("[process.web]\ncommand = [\"python3\", \"-m\", \"http.server\", \"8000\"]");
    assert_eq!(plain, *web);

    let settings = &worker.settings;
    assert_eq!(settings.command, ["/bin/sh", "-c", "echo worker 2 of $QUEUE; exec sleep 1000"]);
    let environment = [("LC_ALL", "C"), ("QUEUE", "mail-2")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(settings.environment, environment);
    assert_eq!((settings.umask, &settings.user), (Some(0o027), &Some(Id::Name("root".into()))));
    let both = |value| Limit { soft: Some(value), hard: Some(value) };
    let limits = [
        (Resource::AddressSpace, both(512 << 20)),
        (Resource::Core, Limit { soft: Some(0), hard: None }),
        (Resource::OpenFiles, both(1024)),
    ];
    assert_eq!(settings.limits, limits);
    let path = "/tmp/worker-2.log".into();
    let new = Creation { folders: true, ..Creation::default() };
    let max_age = Some(Duration::from_secs(30 * 86_400));
    let rotation = Rotation { max_size: 10 << 20, keep: 5, max_age, compress: true };
    assert_eq!(settings.stdout, Output::File { path, new, rotation });
    let new = Creation { mode: Some(0o640), uid: Some(0), gid: Some(0), folders: false };
    assert_eq!(settings.stderr, Output::Direct { path: "/tmp/worker-2.err".into(), new });
    assert_eq!(worker.policy.kill_time, Duration::from_secs(20));
    assert_eq!(worker.policy.min_restart_delay, Duration::from_millis(500));
    assert_eq!(worker.policy.max_restart_delay, Duration::from_secs(90));
    assert_eq!((worker.policy.restart, worker.policy.stop_signal), (Restart::OnFailure, 2));
    assert!(Commands::new(true, Default::default()).of(worker).is_ok());
}

#[test]
fn the_example_has_every_key() {
    let has = |key: &str| EXAMPLE.lines().any(|line| line.starts_with(&format!("{key} = ")));
    for key in read::PROCESS.iter().chain(&care::CARE).chain(&policy::POLICY).chain(&read::MONITOR) {
        assert!(has(key), "{key}");
    }
}

#[test]
fn effective_settings_read_back_the_same() {
    expect_round_trip(&parse(EXAMPLE).unwrap());
    expect_round_trip(&parse("[process]").unwrap());
    expect_round_trip(
        &parse(
            "[monitor]\nkill-time = 0\nwhen-killed = \"leave\"\ncgroup = \"./c\"\ncontain = \"group\"\nthreshold = 1.000000001\nmax-restart-delay = \"36500d\"\nsocket = \"s\"\n\
             [process.\"a:b\"]\ncommand = [\"{instance}\", \"\\\"\\\\ \\u007f\\n\\t\\u001b ß\", '''x'y''']\n\
             environment = { \"a.b\" = \"\", c = \"\\r\" }\nstop-signal = \"RTMIN+3\"\ngroups = []\n\
             limits = { fsize = \"18446744073709551614\", cpu = { soft = 1, hard = 2 } }\ngroup = 4242\n\
             [process.c]\nshell = \"x\"\nstdout = { file = \"x y.log\", max-size = 1000, keep = 0 }\nstderr = \"./x\"\n\
             directory = \".\"\nstop-signal = \"64\"\nrestart = \"never\"\nautostart = false\numask = 0o7\n\
             contain = \"cgroup\"\nleftovers = \"leave\"\n",
        )
        .map_err(|errors| errors.to_string())
        .unwrap(),
    );
}

#[test]
fn paths_count_from_the_file_and_processes_keep_its_order() {
    let text = "[process.z]\ncommand = [\"x\"]\ndirectory = \"usr\"\n[process.a]\ncommand = [\"x\"]\nstdout = \"tmp/x\"\n\
                [monitor]\nsocket = \"run/s\"\nkill-time = 9\n";
    let config = parse_as("/file", text.as_bytes()).unwrap();
    assert_eq!(config.socket, Some(SocketPath::At("/run/s".into())));
    let processes: Vec<_> = config.processes().collect();
    assert_eq!(processes.iter().map(|process| &process.name[..]).collect::<Vec<_>>(), ["z", "a"]);
    assert_eq!(processes[0].settings.directory.as_deref(), Some(Path::new("/usr")));
    assert_eq!(processes[1].settings.stdout.path(), Some(Path::new("/tmp/x")));
    // The defaults apply wherever [monitor] stands in the file.
    assert_eq!(processes[0].policy.kill_time, Duration::from_secs(9));
}

#[test]
fn a_program_with_a_slash_counts_from_the_file_too() {
    for (program, expected) in [
        ("./bin/x", "/srv/app/bin/x"),
        ("bin//x", "/srv/app/bin/x"),
        ("../x", "/srv/app/../x"),
        ("x-{instance}/x", "/srv/app/x-1/x"),
        ("/usr/./bin/../x", "/usr/bin/../x"),
        ("x", "x"),
    ] {
        let text = format!("[process.a]\ncommand = [\"{program}\", \"./x\"]\ndirectory = \"/usr\"\ninstances = 1\n");
        let config = parse_as("/srv/app/file", text.as_bytes()).unwrap();
        assert_eq!(config.processes().next().unwrap().settings.command, [expected, "./x"]);
        expect_round_trip(&config);
    }
}

#[test]
fn paths_are_not_glued() {
    let text = "[monitor]\nsocket = \"./run/./s\"\n[process.a]\ncommand = [\"x\"]\ndirectory = \"./usr/../bin/.\"\n\
                stdout = \"./tmp//x\"\nstderr = { file = \"./y\", direct = true }\n";
    let text = parse_as("/file", text.as_bytes()).unwrap().effective(Values::Shown);
    for path in ["\"/run/s\"", "\"/usr/../bin\"", "\"/tmp/x\"", "\"/y\""] {
        assert!(text.contains(path), "{path} in {text}");
    }
}

#[test]
fn a_socket_s_path_has_to_fit() {
    let longest = format!("/{}", "s".repeat(socket::LONGEST - 1));
    let read = |socket: &str| parse(&format!("[monitor]\nsocket = \"{socket}\"\n[process]\n"));
    assert_eq!(SocketPath::of(read(&longest).unwrap().socket).unwrap().as_os_str().len(), socket::LONGEST);
    assert!(read(&format!("/./{longest}")).is_ok(), "what is left out does not count");
    let error = read(&format!("{longest}s")).unwrap_err().to_string();
    let (count, limit) = (socket::LONGEST + 1, socket::LONGEST);
    let expected = format!("2:10: `socket` is the path \"{longest}s\" of {count} bytes, allowed are at most {limit}");
    assert_eq!(error, format!("/tmp/test.toml:{expected}"));
    // The length of the folder counts, too.
    let error = read(&"s".repeat(socket::LONGEST)).unwrap_err().to_string();
    assert!(error.contains("\"/tmp/sss") && error.contains(&format!(" of {} bytes", limit + 5)), "{error}");
}

#[test]
fn a_folder_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let file = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff/file"));
    let text = b"[process.a]\ncommand = [\"./x\"]\n";
    let process = read_as(file, text, Scope::Machine).unwrap().into_processes().next().unwrap();
    assert_eq!(process.settings.command[0].as_bytes(), b"/tmp/\xff/x");
}

#[test]
fn line_ends_of_windows_are_line_ends() {
    let unix = "[process.a]\nshell = \"\"\"\nmode=fast\n[ $mode = fast ] \\\n  && echo yes\n\"\"\"\n\
                environment = { A = '''\none\ntwo''', B = \"\\r\\n\", C = \"\"\"\n\\r\n\"\"\" }\n";
    let processes = |text: &str| parse(text).unwrap().into_processes().collect::<Vec<_>>();
    let expected = processes(unix);
    let variables = [("A", "one\ntwo"), ("B", "\r\n"), ("C", "\r\n")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(expected[0].settings.environment, variables, "what is escaped stays");
    assert_eq!(processes(&unix.replace('\n', "\r\n")), expected);
    assert_eq!(processes(&unix.replace('\n', "\r\r\n")), expected, "converted twice");
    assert_eq!(processes(&format!("\u{feff}{unix}")), expected, "behind a byte-order mark");

    for wrong in
        [TEN_ERRORS, "umask = 3\n[process.a]\nshell = \"\"\"\na\n\"\"\"\numask = \"\"\"\n9\n\"\"\"", "x = \"a\n"]
    {
        assert_eq!(errors(&wrong.replace('\n', "\r\n")), errors(wrong));
        assert_eq!(errors(&format!("\u{feff}{wrong}")), errors(wrong));
    }
    // A CR within a line is still a mistake.
    assert_eq!(errors("[process.a]\nshell = \"\"\"\na\rb\"\"\"\n").len(), 1);
}

const TEN_ERRORS: &str = "\
[monitor]
kil-time = \"5s\"
threshold = \"5 parsecs\"

[process.web]
command = []
user = \"no-such-user\"
directory = 3

[process.db]
command = \"redis-server\"
autostart = \"yes\"
stop-signal = \"NOPE\"

[process.last]
umask = \"022\"
umask = \"027\"
";

#[test]
fn ten_errors_are_ten_messages() {
    let expected = [
        "2:1: unknown key `kil-time` in [monitor], the nearest known one is `kill-time`",
        "3:13: `threshold` is \"5 parsecs\", allowed is a duration such as \"500ms\", \"5s\", \"1m30s\", \"1.5h\", or a number \
         of seconds, up to 100 years",
        "6:11: `command` is an empty list, allowed is a list of strings: the program and its arguments; see also `shell`",
        "7:8: `user` is \"no-such-user\", allowed is the name of a user of this system, or a user's number",
        "8:13: `directory` is 3, allowed is a string that is not empty",
        "11:11: `command` is \"redis-server\", allowed is a list of strings: the program and its arguments; see also \
         `shell`",
        "12:13: `autostart` is \"yes\", allowed is true or false",
        "13:15: `stop-signal` is \"NOPE\", allowed is a signal's name or number, such as \"TERM\", \
         \"SIGINT\", \"RTMIN+3\" or 15",
        "15:10: neither `command` nor `shell`, allowed is one of them",
        "17:1: duplicate `umask`, allowed is once",
    ];
    assert_eq!(errors(TEN_ERRORS), expected);
}

#[test]
fn no_message_brings_control_characters() {
    for wrong in
        ["u\x1bsk = 1\nu\x1bsk = 1\n", "\"\\u001b\" = 1\n", "shell = \"\x1b\"\n", "\u{9b}31m\n", "shell = \u{7f}\n"]
    {
        for text in [wrong.to_owned(), format!("[process.a]\nshell = \"x\"\n{wrong}"), format!("[process.{wrong}]")] {
            let errors = errors(&text);
            let is_clean = |error: &String| !error.contains(char::is_control);
            assert!(errors.iter().all(is_clean), "{text:?}: {errors:#?}");
        }
    }
}

#[test]
fn of_thousands_of_mistakes_the_first_are_told() {
    let mistakes = "x = =\n".repeat(5000);
    // What follows the mistakes does not count.
    for text in [mistakes.clone(), mistakes + "[process.a]\nshell = 1\n"] {
        let errors = errors(&text);
        let (last, others) = errors.split_last().unwrap();
        assert!(last.ends_with(": more mistakes than can be told; there may be others from here on"), "{last}");
        assert!((500..=1000).contains(&others.len()), "{}", others.len());
        assert!(others[0].starts_with("1:5: ") && others.iter().all(|error| !error.contains("shell")));
    }
}

#[test]
fn a_mistake_is_told_once() {
    for (wrong, told) in [
        // Follow-up errors of the parser are left out.
        ("[process.a]\ncommand = [sh, -c]\n", "2:12: `sh`: string values must be quoted"),
        ("[process.a]\ncommand = [\"a\"\numask = \"7\"\n[process.b]\nx = 1\n", "2:11: unclosed array"),
        ("[process.a]\ncommand\n[process.b]\ncommand = [\"x\"]\n", "2:8: key with no value"),
        ("[process.a]\ncommand =\nautostart = true\n", "2:10: "),
        ("[process.a]\ncommand = [\"x\"]\numask = 022\n", "3:9: `0`: unexpected leading zero"),
        ("[process.a\ncommand = [\"x\"]\n", "1:1: unclosed table"),
        ("[process.a]\nshell = \"echo\numask = \"022\"\n", "2:14: invalid basic string"),
        ("[process.a]\nshell = \"x\"\nkill-time = 5s\n", "3:13: `5s`: string values must be quoted"),
        ("[process.]\nshell = \"x\"\n", "1:10: unquoted keys cannot be empty"),
        // A table that appears twice is one mistake, with all of its keys.
        ("[process.a]\nshell = \"x\"\n[process.a]\ncommand = [\"x\"]\nshell = \"y\"\n", "3:10: duplicate `a`"),
        // A misspelt key is not reported as a missing one, too.
        (
            "[process.a]\ncomand = [\"x\"]\n",
            "2:1: unknown key `comand` in [process.a], the nearest known one is `command`",
        ),
        ("[process.a]\nexec = [\"x\"]\n", "2:1: unknown key `exec` in [process.a], allowed are `command`, `shell`, "),
        ("[proces.a]\nexec = [\"x\"]\n", "1:2: unknown key `proces` in the file, the nearest known one is `process`"),
        // Delays that are in conflict only because one of them is a mistake are not reported.
        ("[monitor]\nmax-restart-delay = \"x\"\n[process.a]\nshell = \"x\"\nmin-restart-delay = \"2h\"", "2:21: "),
        ("[process.a]\nshell = \"x\"\nmin-restart-delay = \"2h\"\nmax-restart-delay = -1", "4:21: "),
        // A mistake is reported once for all instances.
        ("[process.a]\nshell = \"x\"\ninstances = 3\nstdout = \"/tmp/{instance}/\"", "4:10: "),
        ("process = 3", "1:11: `process` is 3, allowed is a table for each process"),
        ("[process]\na = 3", "2:5: `a` is 3, allowed is a table with `command` or `shell`"),
    ] {
        let errors = errors(wrong);
        assert!(errors.len() == 1 && errors[0].starts_with(told), "{wrong:?}: {told:?}: {errors:#?}");
    }
}

#[test]
fn a_file_has_a_process_or_says_that_it_has_none() {
    for (text, place) in
        [("", "1:1"), ("\n# cut here\n", "3:1"), ("[monitor]\nkill-time = 3", "2:14"), ("monitor = {}", "1:13")]
    {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&format!("{place}: there is no process in the file; ")), "{errors:?}");
    }
    for text in ["[process]", "process = {}", "[monitor]\n[process]\n"] {
        assert_eq!(parse(text).unwrap().processes().count(), 0);
    }
}

#[test]
fn broken_syntax_does_not_hide_the_rest() {
    let text = "[process.a]\numask\nuser = \"no-such-user\"\n[process.b]\nshell = \"x\"\nkill-time = 5s\nkeep = 1\n\
                [process.c]\nfoo\n[process.d]\nrestart = \"x\"\nshell = \"x\"\nlimits = { cpu = }\n";
    let places: Vec<_> =
        errors(text).iter().map(|line| line.split(": ").next().unwrap_or_default().to_owned()).collect();
    assert_eq!(places, ["2:6", "3:8", "6:13", "7:1", "9:4", "11:11", "13:18"]);
}

#[test]
fn each_key_says_what_is_allowed() {
    for (rest, told) in [
        ("kill-time = -1", "3:13: `kill-time` is -1, allowed is a duration"),
        ("kill-time = nan", "3:13: `kill-time` is nan, allowed is a duration"),
        ("threshold = \"1e3s\"", "3:13: `threshold` is \"1e3s\", allowed is a duration"),
        ("min-restart-delay = \"2h\"", "3:1: `min-restart-delay` is 2h, allowed is at most `max-restart-delay`"),
        ("max-restart-delay = 0.5", "3:1: `max-restart-delay` is 500ms, allowed is at least `min-restart-delay`"),
        ("restart = \"allways\"", "3:11: `restart` is \"allways\", allowed is \"always\", \"on-failure\" or \"never\""),
        ("umask = 22", "3:9: `umask` is 22, allowed is a mask in octal"),
        ("umask = 0o1000", "3:9: `umask` is 0o1000, allowed is a mask in octal"),
        ("limits = { nofiles = 1 }", "3:12: unknown key `nofiles` in `limits`, the nearest known one is `nofile`"),
        ("limits = { nofile = -1 }", "3:21: `nofile` is -1, allowed is a number"),
        ("limits = { core = { soft = 2, hard = 1 } }", "3:19: `core` is a table, allowed is a number"),
        ("limits = { core = { soft = 2 } }", "3:19: `core` is a table, allowed is a number"),
        ("limits.core = \"10 parsecs\"", "3:15: `core` is \"10 parsecs\", allowed is a number"),
        ("group = \"no-such-group\"", "3:9: `group` is \"no-such-group\", allowed is the name of a group"),
        (
            "groups = [\"root\", \"no-such-group\"]",
            "3:19: `groups` is \"no-such-group\", allowed is the name of a group",
        ),
        ("user = 4294967295", "3:8: `user` is 4294967295, allowed is the name of a user"),
        ("environment = { A = 1 }", "3:21: `A` is a number, allowed is a string"),
        ("environment = { \"A=B\" = \"\" }", "3:17: `A=B` as a variable, allowed is a name without = and NUL"),
        ("environment = \"A=B\"", "3:15: `environment` is \"A=B\", allowed is a table of strings"),
        ("shell = \"x\"", "3:1: both `command` and `shell`, allowed is one of them"),
        ("instances = 0", "3:13: `instances` is 0, allowed is a number from 1 to 10000"),
        ("stdout = \"nul\"", "3:10: `stdout` is \"nul\", allowed is \"prefix\", \"null\", \"inherit\", the path"),
        ("stdout = \"/tmp\"", "3:10: `stdout` is the file \"/tmp\", allowed is a file, not a directory"),
        ("stdout = \"/no/such/\"", "3:10: `stdout` is the file \"/no/such\", allowed is a file, not a directory"),
        ("stderr = { file = \"..\" }", "3:10: `stderr` is the file \"/tmp/..\", allowed is a file, not a directory"),
        ("stdout = { keep = 1 }", "3:10: `stdout` is a table without `file`, allowed is"),
        ("stdout = { file = \"x\", max-size = \"0\" }", "3:35: `max-size` is \"0\", allowed is a size"),
        ("stdout = { file = \"x\", direct = true, keep = 1 }", "3:39: rotation of a file with `direct = true`"),
        (
            "stdout = \"./x\"\nstderr = { file = \"x\", keep = 1 }",
            "4:10: `stderr` is the file \"/tmp/x\", allowed is a file",
        ),
        ("directory = \"\"", "3:13: `directory` is \"\", allowed is a string that is not empty"),
        ("[process.\"a b\"]\nshell = \"x\"", "3:10: `a b` as a name, allowed are 1 to 64 letters, digits"),
        ("[process.\"\"]\nshell = \"x\"", "3:10: `` as a name, allowed are"),
        ("[process.\"*\"]\nshell = \"x\"", "3:10: `*` as a name, allowed are"),
        ("[process.-a]\nshell = \"x\"", "3:10: `-a` as a name, allowed are"),
        ("[process.b]\ncommand = [\"\", \"x\"]", "4:11: `command` is a list, allowed is a list of strings"),
        ("[process.b]\ncommand = [\"x\", 1]", "4:17: `command` is 1, allowed is a string"),
        ("[process.b]\nshell = \" \"", "4:9: `shell` is \" \", allowed is a string that is not empty"),
        ("[process.b]\nshell = \"\\u0000\"", "4:9: `shell` is \"\\0\", allowed is a string that is not empty"),
        (
            "[process.\"b:2\"]\nshell = \"x\"\n[process.b]\nshell = \"x\"\ninstances = 2",
            "5:10: the name `b:2` again, allowed is one that [process.b:2] has not",
        ),
    ] {
        let error = error(rest);
        assert!(error.starts_with(told), "{rest:?}: {told:?}: {error:?}");
    }
}

#[test]
fn only_files_that_can_be_rotated_have_the_same_settings_everywhere() {
    let two = |path: &str| {
        format!("[process.a]\nshell = \"x\"\nstdout = {{ file = {path:?}, direct = true }}\nstderr = {path:?}\n")
    };
    for path in ["/dev/null", "/dev/stdout", "/dev/fd/2"] {
        assert!(parse(&two(path)).is_ok(), "{path}");
    }
    assert!(errors(&two("/tmp/x"))[0].contains("allowed is a file of its own"));
    // A file that the process opens itself may be missing, and so may its folder, until the process
    // is started.
    assert!(parse("[process.a]\nshell = \"x\"\nstdout = { file = \"/no/such/log\", direct = true }").is_ok());
}

#[test]
fn a_file_that_is_none_is_told_so() {
    let missing = Config::load(&FileName::named("/no/such/file.toml".into()), Scope::Text).unwrap_err().to_string();
    assert!(missing.starts_with("/no/such/file.toml: ") && missing.lines().count() == 1, "{missing}");
    let binary = parse_as("x", b"a = 1\n\xff\xfe").unwrap_err().to_string();
    assert_eq!(binary, "x:2:1: bytes that are no UTF-8, allowed is text in UTF-8");
    let windows = parse_as("x", b"\xff\xfe[\0p\0").unwrap_err().to_string();
    assert_eq!(windows, "x:1:1: text in UTF-16, allowed is text in UTF-8");
}

#[test]
fn no_cut_of_a_file_breaks_the_reader() {
    for end in (0..EXAMPLE.len()).step_by(3).filter(|end| EXAMPLE.is_char_boundary(*end)) {
        let _ = parse(&EXAMPLE[..end]);
        // A hole in the text shifts quotes and brackets against each other.
        let rest = EXAMPLE.get(end + 7..).unwrap_or_default();
        let _ = parse(&format!("{}{rest}", &EXAMPLE[..end]));
    }
}

#[test]
fn a_file_may_be_without_a_limit() {
    let read = |max_size: &str| {
        let text = format!("[process.a]\nshell = \"x\"\nstdout = {{ file = \"x\", max-size = {max_size} }}\n");
        parse(&text).unwrap().effective(Values::Shown)
    };
    assert!(read("\"unlimited\"").contains("max-size = \"unlimited\", keep = 5 }"));
    assert_eq!(parse(&read("\"unlimited\"")).unwrap().effective(Values::Shown), read("\"unlimited\""));
    assert!(error("stdout = { file = \"x\", max-size = \"none\" }").contains("at least 1, or \"unlimited\""));
}
