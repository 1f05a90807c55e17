//! `childminder completions` and `childminder man`: what shells complete, and the manual page. Both
//! are made from the help texts.
//!
//! The one rule: nothing about an option is written here, but how the supervisor is chosen. What a
//! help text does not say, a shell does not complete and the manual does not have.

mod shells;

use std::fmt::Write;

use lexopt::{Arg, Parser, ValueExt};

use super::control::{client, send};
use super::{Failure, HELP, check, measure, output, up};

const COMPLETIONS: &str = "\
childminder completions prints what a shell completes for this command.

usage: childminder completions bash | zsh | fish

  -h, --help   this text

For bash, put it into a file of /etc/bash_completion.d or ~/.local/share/bash-completion/completions; for zsh, into a
file `_childminder` in a folder of $fpath; for fish, into ~/.config/fish/completions/childminder.fish.
";

const MAN: &str = "\
childminder man prints the manual page of this command, for `man -l -`.

usage: childminder man

  -h, --help   this text
";

/// An option, as a help text describes it.
struct Opt<'h> {
    short: Option<&'h str>,
    long: &'h str,
    /// The word for its value, if it has one.
    value: Option<&'h str>,
    /// Whether the value may be left out.
    is_optional: bool,
    text: String,
}

/// A command with its help text.
struct Page {
    name: &'static str,
    help: String,
}

fn pages() -> Vec<Page> {
    let page = |name: &'static str, help: &str| Page { name, help: help.to_owned() };
    let mut pages =
        vec![page("run", HELP), page("up", up::HELP), page("check", check::HELP), page("measure", measure::HELP)];
    pages.extend(client::COMMANDS.map(|name| Page { name, help: client::help(name) }));
    pages.extend(send::COMMANDS.map(|name| page(name, send::help(name))));
    pages.extend([page("completions", COMPLETIONS), page("man", MAN)]);
    pages
}

impl Page {
    /// The first sentence: what the command does.
    fn summary(&self) -> String {
        if self.name == "run" {
            return "runs one process, and keeps it running".into();
        }
        let first = self.help.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let after = first.split_once(&format!("childminder {} ", self.name)).map_or(&*first, |(_, rest)| rest);
        after.split_once(". ").map_or(after, |(sentence, _)| sentence).trim_end_matches('.').to_owned()
    }

    /// Whether it takes the names of processes after its options.
    fn takes_names(&self) -> bool {
        usage(&self.help, self.name).iter().any(|line| line.contains(" NAME") || line.contains("[NAME"))
    }

    /// Whether it takes a command after its options.
    fn takes_a_command(&self) -> bool {
        usage(&self.help, self.name).iter().any(|line| line.contains(" COMMAND"))
    }

    /// The options, with their texts in one line.
    fn options(&self) -> Vec<Opt<'_>> {
        let mut options: Vec<Opt<'_>> = Vec::new();
        for line in self.help.lines() {
            let trimmed = line.trim_start();
            let Some((spec, text)) = trimmed.strip_prefix('-').and_then(|_| trimmed.split_once("  ")) else {
                // A text goes on in lines that are indented further.
                if let Some(last) = options.last_mut().filter(|_| line.starts_with("            ")) {
                    last.text += &format!(" {trimmed}");
                }
                continue;
            };
            let (short, long) = match spec.split_once(", ") {
                Some((short, long)) => (Some(short), long),
                None => (None, spec),
            };
            let (long, value, is_optional) = match (long.split_once("[="), long.split_once(' ')) {
                (Some((long, value)), _) => (long, Some(value.trim_end_matches(']')), true),
                (None, Some((long, value))) => (long, Some(value), false),
                (None, None) => (long, None, false),
            };
            options.push(Opt { short, long, value, is_optional, text: text.trim_start().to_owned() });
        }
        options
    }
}

impl Opt<'_> {
    fn is_path(&self) -> bool {
        matches!(self.value, Some("FILE" | "PATH" | "DIR"))
    }

    /// The words that its value may be: those between backquotes in its text.
    fn values(&self) -> Vec<&str> {
        if self.value.is_none() || self.is_path() {
            return Vec::new();
        }
        let quoted = self.text.split('`').skip(1).step_by(2);
        quoted.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')).collect()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.short.into_iter().chain([self.long])
    }
}

/// Runs one of the two commands.
pub(super) fn main(command: &str, mut arguments: Parser) -> Result<u8, Failure> {
    let mut shell = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Short('h') | Arg::Long("help") => {
                output::say(if command == "man" { MAN } else { COMPLETIONS })?;
                return Ok(0);
            }
            Arg::Value(value) if command == "completions" && shell.is_none() => shell = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let text = match shell.as_deref() {
        _ if command == "man" => man(),
        Some("bash") => shells::bash(),
        Some("zsh") => shells::zsh(),
        Some("fish") => shells::fish(),
        Some(other) => {
            return Err(Failure::Usage(format!("no completions for `{other}`; bash, zsh and fish are known")));
        }
        None => return Err(Failure::Usage("for which shell? bash, zsh or fish".into())),
    };
    output::say(&text)?;
    Ok(0)
}

/// A text for troff: nothing in it is a command.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines =
        escaped.lines().map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

fn man() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!(
        ".TH CHILDMINDER 1 \"\" \"childminder {version}\"\n.SH NAME\nchildminder \\- {}\n.SH SYNOPSIS\n.nf\n",
        roff("runs, watches and restarts processes")
    );
    let pages = pages();
    for page in &pages {
        for usage in usage(&page.help, page.name) {
            let _ = writeln!(text, "{}", roff(&usage));
        }
    }
    text += ".fi\n.SH COMMANDS\n";
    for page in &pages {
        let _ = writeln!(text, ".SS {}", page.name);
        for paragraph in page.help.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            if paragraph.starts_with("usage: ") {
                continue;
            }
            if !paragraph.lines().any(|line| line.trim_start().starts_with('-')) {
                let _ = writeln!(text, ".PP\n{}", roff(paragraph.trim_end()));
            }
        }
        for option in page.options() {
            let value = match (option.value, option.is_optional) {
                (None, _) => String::new(),
                (Some(value), false) => format!(" \\fI{value}\\fR"),
                (Some(value), true) => format!("[=\\fI{value}\\fR]"),
            };
            let names: Vec<String> = option.names().map(|name| format!("\\fB{}\\fR", roff(name))).collect();
            let _ = writeln!(text, ".TP\n{}{value}\n{}", names.join(", "), roff(&option.text));
        }
    }
    text
}

/// The lines of a help text that show how the command is used.
fn usage(help: &str, name: &str) -> Vec<String> {
    let lines = help.lines().map(|line| line.trim_start().trim_start_matches("usage: "));
    let start = format!("childminder {name}");
    let is_usage =
        |line: &&str| line.starts_with(&start) && line[start.len()..].starts_with([' ', '\n']) || *line == start;
    let mut usage: Vec<String> = Vec::new();
    let in_usage = help.split("\n\n").find(|paragraph| paragraph.starts_with("usage: "));
    match in_usage {
        Some(paragraph) => {
            let lines = paragraph.lines().map(|line| line.trim_start().trim_start_matches("usage: "));
            usage.extend(lines.filter(is_usage).map(|line| line.split("   ").next().unwrap_or(line).to_owned()));
        }
        None => usage.extend(lines.filter(is_usage).take(1).map(str::to_owned)),
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_a_help_text_is_known() {
        for page in pages() {
            let options = page.options();
            assert!(!page.summary().is_empty() && !page.summary().contains('\n'), "{}", page.name);
            for word in page.help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
                let long = word.trim_end_matches([',', '.', ':', ']', ')', ';', '`']).split(['=', '[']).next().unwrap();
                let is_known = options.iter().any(|option| option.long == long);
                assert!(
                    is_known || page.name == "run" || page.help.contains(&format!("`{long}")),
                    "{} {word}",
                    page.name
                );
            }
            assert!(
                options.iter().any(|option| option.long == "--help" && option.short == Some("-h")),
                "{}",
                page.name
            );
            assert!(!usage(&page.help, page.name).is_empty(), "{}", page.name);
        }
    }

    #[test]
    fn an_option_is_read_as_it_is_written() {
        let up = Page { name: "up", help: up::HELP.to_owned() };
        let options = up.options();
        let of = |long: &str| options.iter().find(|option| option.long == long).unwrap();
        assert_eq!(
            (of("--config").short, of("--config").value, of("--config").is_path()),
            (Some("-c"), Some("FILE"), true)
        );
        assert_eq!((of("--timestamps").value, of("--timestamps").is_optional), (Some("CLOCK"), true));
        assert_eq!((of("--exit-when").value, of("--exit-when").is_path()), (Some("WHICH"), false));
        assert_eq!(of("--exit-when").values(), ["all", "first", "failed"]);
        assert_eq!(of("--timestamps").values(), ["local", "utc", "monotonic"]);
        assert!(of("--config").values().is_empty());
        let run = Page { name: "run", help: HELP.to_owned() };
        let user = run.options().into_iter().find(|option| option.long == "--user").unwrap().text;
        assert!(user.ends_with("needs the group") && !user.contains("  "), "{user}");
    }

    #[test]
    fn what_comes_after_the_options_is_known() {
        let pages = pages();
        let of = |takes: fn(&Page) -> bool| {
            pages.iter().filter(|page| takes(page)).map(|page| page.name).collect::<Vec<_>>()
        };
        assert_eq!(of(Page::takes_a_command), ["run", "measure"]);
        let mut names = of(Page::takes_names);
        names.sort_unstable();
        let expected =
            ["attach", "events", "logs", "reload", "reset", "restart", "send", "signal", "start", "status", "stop"];
        assert_eq!(names, expected);
    }

    #[test]
    fn troff_takes_no_text_for_a_command() {
        assert_eq!(roff(".TH\n'x\na-b\\c"), "\\&.TH\n\\&'x\na\\-b\\ec");
    }
}
