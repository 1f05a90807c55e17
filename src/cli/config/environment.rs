//! The variables of a process: those of its environment files, and those of its table, with
//! variables replaced in them.
//!
//! The one rule: what comes later wins, and a value may only use what stands before it, or a
//! variable of the supervisor.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use toml::de::DeValue;

use super::env_file::{self, Variables};
use super::expand::{self, Problem};
use super::file_name::FileName;
use super::read::{Reader, Scope};
use super::report::{self, Report};
use super::section::Section;
use super::source::{self, NotText};
use super::value;
use crate::cli::paths;

/// The key for the files.
const FILES: &str = "environment-file";
const ALLOWED: &str = "a path, or a list of paths; the file of one with `?` in front may be missing";

impl Reader<'_, '_> {
    /// The variables of a table, sorted by name.
    pub(super) fn environment(&mut self, section: &Section<'_>) -> Vec<(String, String)> {
        let mut environment: Vec<(String, String)> = Vec::new();
        for (name, value) in self.environment_files(section).iter().flat_map(|variables| variables.iter()) {
            set(&mut environment, name.clone(), value.clone());
        }
        let table = section.table(self.report, "environment", "a table of strings");
        let written = table.into_iter().flatten().collect();
        for (name, value) in report::in_order(written, |(name, _)| name.span().start) {
            if name.get_ref().is_empty() || name.get_ref().contains(['=', '\0']) {
                let found = name.get_ref().escape_debug();
                self.report.add(name.span(), format!("`{found}` as a variable, allowed is a name without = and NUL"));
            }
            let shown = name.get_ref().escape_debug();
            let text = value::text(value.get_ref());
            if let Err(allowed) = text {
                let kind = report::kind(value.get_ref());
                self.report.add(value.span(), format!("`{shown}` is {kind}, allowed is {allowed}"));
            }
            let text = text.unwrap_or_default();
            let look_up = |name: &str| find(&environment, name).cloned().or_else(|| std::env::var(name).ok());
            let value = match expand::expand(&text, &look_up) {
                Ok(expanded) => expanded.into_owned(),
                Err(problem) => {
                    let what = match problem {
                        Problem::Unset(unset) => format!(
                            "uses `${unset}`, which is not set, allowed is a variable that stands before it or that the \
                             supervisor has, `${{{unset}:-DEFAULT}}`, or `$$` for a dollar"
                        ),
                        Problem::Unclosed => "has a `${` without a name and a `}`, allowed are `${NAME}`, \
                                              `${NAME:-DEFAULT}`, or `$$` for a dollar"
                            .to_owned(),
                    };
                    self.report.add(value.span(), format!("`{shown}` {what}"));
                    String::new()
                }
            };
            set(&mut environment, name.get_ref().to_string(), value);
        }
        environment
    }

    /// The variables of each environment file of a table.
    fn environment_files(&mut self, section: &Section<'_>) -> Vec<Variables> {
        let Some(value) = section.value(FILES) else { return Vec::new() };
        let elements = match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        };
        let mut files = Vec::new();
        for element in elements {
            let parsed = value::some_text(element.get_ref()).map_err(|_| ALLOWED);
            let Some(written) = self.report.check(element.span(), FILES, element.get_ref(), parsed) else { continue };
            let path = written.strip_prefix('?').unwrap_or(&written);
            match self.environment_file(path) {
                Ok(variables) => files.push(variables),
                Err(unreadable) if unreadable.is_missing && path.len() < written.len() => {}
                Err(unreadable) => {
                    let hint = match unreadable.is_missing {
                        true => format!("; the file of \"?{path}\" may be missing"),
                        false => String::new(),
                    };
                    let message =
                        format!("`{FILES}` is {written:?}, which cannot be read: {}{hint}", unreadable.message);
                    self.report.add(element.span(), message);
                }
            }
        }
        files
    }

    /// The variables of one file, which is read and reported once.
    fn environment_file(&mut self, written: &str) -> Result<Variables, source::Unreadable> {
        let path = paths::resolve(self.base, Path::new(written));
        if let Some(variables) = self.shared.environment_files.get(&path) {
            return Ok(Rc::clone(variables));
        }
        let source = source::read(&FileName::named(path.clone()))?;
        let (text, not_text) = match source::text(&source.bytes) {
            Ok(text) => (text, None),
            Err(NotText { before, message }) => (before, Some(message)),
        };
        let mut report = Report::new(&text);
        let parsed = env_file::parse(&text);
        match not_text {
            Some(message) => report.add(text.len()..text.len(), message.into()),
            None => parsed.mistakes.into_iter().for_each(|(span, what)| report.add(span, what)),
        }
        if self.scope >= Scope::Machine {
            for (span, variable) in parsed.dollars {
                let why =
                    "some programs replace variables in such a file; write it in single quotes, or in `environment`";
                report.warn(span, format!("`{variable}` stays as it is written: {why}"));
            }
        }
        let shown = shown(self.shown, written, &path);
        let mut findings = report.finish(&shown);
        findings.warn_first(&shown, source.warning);
        self.shared.findings.append(findings);
        let variables = Rc::new(parsed.variables);
        self.shared.environment_files.insert(path, Rc::clone(&variables));
        Ok(variables)
    }
}

/// The path of an environment file in messages: beside the file that names it.
fn shown(file: &Path, written: &str, path: &Path) -> PathBuf {
    match Path::new(written).is_absolute() {
        true => path.to_owned(),
        false => file.parent().unwrap_or(Path::new("")).join(written),
    }
}

fn find<'e>(environment: &'e [(String, String)], name: &str) -> Option<&'e String> {
    let at = environment.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
    Some(&environment[at].1)
}

/// Sets a variable in a list that is sorted by name.
fn set(environment: &mut Vec<(String, String)>, name: String, value: String) {
    match environment.binary_search_by(|(known, _)| known.cmp(&name)) {
        Ok(at) => environment[at].1 = value,
        Err(at) => environment.insert(at, (name, value)),
    }
}
