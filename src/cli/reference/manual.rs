//! The manual page, for troff.
//!
//! The one rule: nothing in a help text is a command of troff.

use std::fmt::Write;

use super::pages::{pages, usage};

/// A text for troff: nothing in it is a command.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines =
        escaped.lines().map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

pub(super) fn man() -> String {
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

#[cfg(test)]
mod tests {
    use super::roff;

    #[test]
    fn troff_takes_no_text_for_a_command() {
        assert_eq!(roff(".TH\n'x\na-b\\c"), "\\&.TH\n\\&'x\na\\-b\\ec");
    }
}
