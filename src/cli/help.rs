//! The text of `childminder --help` and `childminder run --help`.

pub(super) const HELP: &str = "\
childminder runs, watches and restarts processes.

usage: childminder run [OPTION]... [--] COMMAND [ARG]...   one process
       childminder measure [OPTION]... [--] COMMAND...     measures and limits runs; has a --help
       childminder up [OPTION]...                          all processes of a file; has a --help
       childminder check [OPTION]...                       reports the mistakes of the file, or its settings
       childminder status | start | stop | restart | signal | reset | reload | reopen | shutdown |
                   logs | events | send | attach           each talks to `up`, and has a --help
       childminder completions SHELL | man                 what a shell completes, and the manual page

childminder run:

  -t, --threshold SECS         a run shorter than this is an instant death (1)
  -k, --killtime SECS          the time from SIGTERM to SIGKILL (5)
  -m, --minrestartdelay SECS   the wait after the first instant death; it doubles with each further one (1)
  -M, --maxrestartdelay SECS   the longest wait (3600)
      --name NAME              the mark of its lines (the program's base name)
      --cwd DIR                its working directory
      --env KEY=VALUE          a variable added to its environment; may be repeated
      --clear-env              starts from an empty environment
      --raw                    a terminal gets its control characters as they are
      --timestamps[=CLOCK]     puts the time in front of each line: `local` (the default), `utc` or `monotonic`
      --user USER[:GROUP]      the user it runs as, by name or number; a number that is not in
                               the user database needs the group
      --restart WHEN           `always` (the default), `on-failure` or `never`
      --contain HOW            what keeps it and all that it starts together: `cgroup`, `group` (its process group),
                               or `auto` (the default), the first of these that can be had

This command prints each line of the process as `[NAME] line`. The process has a session of its own, without a terminal,
and its stdin is /dev/null. SIGTERM, SIGINT (Ctrl-C), SIGQUIT, a closed terminal and any other signal that would end
this command, except SIGPIPE and SIGXFSZ, stop the process and end this command with 0; a second one, at least 0.2 s
later, kills it. SIGPIPE and SIGXFSZ do nothing. SIGHUP restarts the process, SIGUSR1 writes its status to stderr, and
SIGTSTP (Ctrl-Z) suspends this command and the process until `fg`.

What the process has started is stopped with it, and if this command is killed, all of it is killed. As the first
process of a container this command is the parent of each process that has lost its own, and reaps it.

With `--restart never` this command ends with its child, and with `on-failure` as soon as the child succeeds: with the
child's exit code, 128+N for signal N, 127 if it was not found, 126 if it is not executable. With `never` that is so
also if a signal has ended it. Exit code 2 means a mistake
in the command line, and 125 any other failure of this command.

  -h, --help                   this text
  -V, --version                the version
";
