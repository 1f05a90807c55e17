//! What the help texts say of each command and its options.
//!
//! The one rule: nothing about an option is written here. What a help text does not say is not
//! known.

use crate::cli::control::{client, send};
use crate::cli::help::HELP;
use crate::cli::{check, measure, up};

pub(super) const COMPLETIONS: &str = "\
childminder completions prints what a shell completes for this command.

usage: childminder completions bash | zsh | fish

  -h, --help   this text

For bash, put it into a file of /etc/bash_completion.d or ~/.local/share/bash-completion/completions; for zsh, into a
file `_childminder` in a folder of $fpath; for fish, into ~/.config/fish/completions/childminder.fish.
";

pub(super) const MAN: &str = "\
childminder man prints the manual page of this command, for `man -l -`.

usage: childminder man

  -h, --help   this text
";

/// An option, as a help text describes it.
pub(super) struct Opt<'h> {
    pub(super) short: Option<&'h str>,
    pub(super) long: &'h str,
    /// The word for its value, if it has one.
    pub(super) value: Option<&'h str>,
    /// Whether the value may be left out.
    pub(super) is_optional: bool,
    pub(super) text: String,
}

/// A command with its help text.
pub(super) struct Page {
    pub(super) name: &'static str,
    pub(super) help: String,
}

pub(super) fn pages() -> Vec<Page> {
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
    pub(super) fn summary(&self) -> String {
        if self.name == "run" {
            return "runs one process, and keeps it running".into();
        }
        let first = self.help.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        let after = first.split_once(&format!("childminder {} ", self.name)).map_or(&*first, |(_, rest)| rest);
        after.split_once(". ").map_or(after, |(sentence, _)| sentence).trim_end_matches('.').to_owned()
    }

    /// Whether it takes the names of processes after its options.
    pub(super) fn takes_names(&self) -> bool {
        usage(&self.help, self.name).iter().any(|line| line.contains(" NAME") || line.contains("[NAME"))
    }

    /// Whether it takes a command after its options.
    pub(super) fn takes_a_command(&self) -> bool {
        usage(&self.help, self.name).iter().any(|line| line.contains(" COMMAND"))
    }

    /// The options, with their texts in one line.
    pub(super) fn options(&self) -> Vec<Opt<'_>> {
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
    pub(super) fn is_path(&self) -> bool {
        matches!(self.value, Some("FILE" | "PATH" | "DIR"))
    }

    /// The words that its value may be: those between backquotes in its text.
    pub(super) fn values(&self) -> Vec<&str> {
        if self.value.is_none() || self.is_path() {
            return Vec::new();
        }
        let quoted = self.text.split('`').skip(1).step_by(2);
        quoted.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')).collect()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.short.into_iter().chain([self.long])
    }
}

/// The lines of a help text that show how the command is used.
pub(super) fn usage(help: &str, name: &str) -> Vec<String> {
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
}
