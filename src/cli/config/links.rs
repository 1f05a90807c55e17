//! What connects the processes of a file: which one waits for which, the groups, and how many may
//! start at once. Checks the names and starts nothing.
//!
//! The one rule: the connections are checked when all files are read, because a name may be in any
//! of them. A table with `instances` stands for all of them.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::ops::Range;

use childminder::restart::StartLimit;
use childminder::{Group, Order, OrderError, Strategy, When};
use toml::de::{DeTable, DeValue};

use super::care::{Care, Wait};
use super::instances::{numbered, numbers};
use super::policy::start_limit;
use super::report::Report;
use super::section::Section;
use super::show::{Quoted, join, show_start_limit};
use super::table::Table;
use super::value::{self, Parsed};

/// The connections of the processes, as the files say them.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// The number of instances of each table, by its name.
    tables: HashMap<String, Option<u32>>,
    references: Vec<Reference>,
    groups: Vec<GroupTable>,
    per_second: Option<u32>,
    at_once: Option<u32>,
}

/// A place where a name is used.
#[derive(Debug)]
struct Reference {
    document: usize,
    span: Range<usize>,
    key: &'static str,
    /// The table or group that uses it.
    by: String,
    name: String,
}

#[derive(Debug)]
struct GroupTable {
    document: usize,
    span: Range<usize>,
    name: String,
    members: Vec<String>,
    strategy: Strategy,
    limit: Option<StartLimit>,
    essential: bool,
}

impl Links {
    /// Notes a table and what it waits for.
    pub(super) fn add(
        &mut self,
        document: usize,
        name: &str,
        instances: Option<u32>,
        waits: Vec<(Wait, Range<usize>)>,
    ) {
        self.tables.insert(name.to_owned(), instances);
        self.references.extend(waits.into_iter().map(|(wait, span)| {
            let key = if wait.requires { "requires" } else { "after" };
            Reference { document, span, key, by: name.to_owned(), name: wait.on }
        }));
    }

    /// Reads `start-limit` of `[monitor]`.
    pub(super) fn read_limit(&mut self, report: &mut Report<'_>, monitor: &Section<'_>) {
        const ALLOWED: &str = "a number of starts a second, or a table such as { per-second = 50, at-once = 4 }";
        let Some(value) = monitor.value("start-limit") else { return };
        let starts = |value: &DeValue<'_>| value::number(value, 1, 100_000, ALLOWED);
        match value.get_ref() {
            DeValue::Table(table) => {
                let section = Section::new(report, "`start-limit`", table, &["per-second", "at-once"]);
                self.per_second = section.read(report, "per-second", starts);
                self.at_once = section.read(report, "at-once", starts);
            }
            other => self.per_second = report.check(value.span(), "start-limit", other, starts(other)),
        }
    }

    /// Reads the table of a group.
    pub(super) fn read_group(
        &mut self,
        report: &mut Report<'_>,
        document: usize,
        (name, span): (&str, Range<usize>),
        table: &DeTable<'_>,
    ) {
        let place = format!("[group.{}]", name.escape_debug());
        let section = Section::new(report, &place, table, &["members", "strategy", "restart-limit", "essential"]);
        if section.value("members").is_none() && !section.is_misspelt("members") {
            report.add(span.clone(), format!("{place} without `members`, allowed is a list of processes and groups"));
        }
        let mut members = Vec::new();
        if let Some(list) = section.value("members").and_then(|value| value.get_ref().as_array()) {
            for element in list.iter() {
                let read = value::some_text(element.get_ref());
                if let Some(member) = report.check(element.span(), "members", element.get_ref(), read) {
                    let (by, name) = (name.to_owned(), member.clone());
                    self.references.push(Reference { document, span: element.span(), key: "members", by, name });
                    members.push(member);
                }
            }
        } else {
            section.list(report, "members", "a list of names of processes and groups", value::some_text);
        }
        self.groups.push(GroupTable {
            document,
            span,
            name: name.to_owned(),
            members,
            strategy: section.read(report, "strategy", strategy).unwrap_or_default(),
            limit: start_limit(report, &section),
            essential: section.read(report, "essential", value::boolean).unwrap_or(false),
        });
    }

    /// The names of the processes that a name of the file stands for.
    pub(super) fn expand(&self, name: &str) -> Vec<String> {
        match self.tables.get(name) {
            Some(instances) => numbers(*instances).map(|instance| numbered(name, instance)).collect(),
            None => vec![name.to_owned()],
        }
    }

    /// The table of a process.
    fn table_of<'a>(&self, process: &'a str) -> &'a str {
        let table = process.rsplit_once(':').map(|(table, _)| table);
        match table.filter(|table| !self.tables.contains_key(process) && self.tables.contains_key(*table)) {
            Some(table) => table,
            None => process,
        }
    }

    /// The order of all processes, and the mistakes in it, each with its place.
    pub(super) fn order(&self, tables: &[&Table], is_process: impl Fn(&str) -> bool) -> (Order, Vec<Mistake>) {
        let mut order = Order::new();
        for table in tables {
            let Some(care) = &table.care else { continue };
            for name in self.expand(&table.name) {
                for wait in &care.waits {
                    for on in self.expand(&wait.on) {
                        match wait.requires {
                            true => order.requires(name.clone(), on, wait.when),
                            false => order.after(name.clone(), on, wait.when),
                        };
                    }
                }
                if care.essential {
                    order.essential(name);
                }
            }
        }
        for group in &self.groups {
            let members = group.members.iter().flat_map(|member| self.expand(member));
            let mut made = Group::new(group.name.clone(), group.strategy, members);
            made.limit = group.limit;
            order.group(made);
            if group.essential {
                order.essential(group.name.clone());
            }
        }
        self.per_second.into_iter().for_each(|starts| _ = order.starts_per_second(starts));
        self.at_once.into_iter().for_each(|starts| _ = order.starts_under_way(starts));
        let errors = order.check(is_process).err().map_or_else(Vec::new, |errors| errors.0);
        let mut mistakes: Vec<_> = errors.iter().filter_map(|error| self.locate(error)).collect();
        mistakes.dedup();
        (order, mistakes)
    }

    fn locate(&self, error: &OrderError) -> Option<Mistake> {
        let reference = |by: &str, name: &str| {
            let (by, name) = (self.table_of(by), self.table_of(name));
            self.references.iter().rfind(|reference| reference.by == by && self.table_of(&reference.name) == name)
        };
        let (document, span, message) = match error {
            OrderError::Unknown { name, by } => {
                let reference = reference(by, name)?;
                let groups = if reference.key == "members" { " and no group" } else { "" };
                let message = format!(
                    "`{}` names `{}`, which is no process{groups} of the file",
                    reference.key,
                    name.escape_debug()
                );
                (reference.document, reference.span.clone(), message)
            }
            OrderError::Cycle(names) => {
                let next = names.get(1).or(names.first())?;
                let reference = reference(names.first()?, next)?;
                (reference.document, reference.span.clone(), error.to_string())
            }
            OrderError::SameName(name) => {
                let group = self.groups.iter().rfind(|group| group.name == *name)?;
                (group.document, group.span.clone(), error.to_string())
            }
            OrderError::TwoGroups(name) => {
                let table = self.table_of(name);
                let is_use = |it: &&Reference| it.key == "members" && self.table_of(&it.name) == table;
                let reference = self.references.iter().rfind(is_use)?;
                (reference.document, reference.span.clone(), error.to_string())
            }
            _ => return None,
        };
        Some(Mistake { document, span, message })
    }

    /// Writes the keys of `[monitor]`.
    pub(super) fn write_limit(&self, f: &mut impl Write) -> fmt::Result {
        let keys = [("per-second", self.per_second), ("at-once", self.at_once)];
        let keys: Vec<_> = keys.iter().filter_map(|(key, value)| Some(format!("{key} = {}", (*value)?))).collect();
        if keys.is_empty() { Ok(()) } else { writeln!(f, "start-limit = {{ {} }}", keys.join(", ")) }
    }

    /// Writes the tables of the groups.
    pub(super) fn write_groups(&self, f: &mut impl Write) -> fmt::Result {
        for group in &self.groups {
            let members = group.members.iter().flat_map(|member| self.expand(member));
            writeln!(f, "\n[group.{}]", Quoted(&group.name))?;
            writeln!(f, "members = [{}]", join(members.map(|member| Quoted(&member).to_string())))?;
            writeln!(f, "strategy = \"{}\"\nessential = {}", show_strategy(group.strategy), group.essential)?;
            if let Some(limit) = group.limit {
                writeln!(f, "restart-limit = {}", show_start_limit(limit))?;
            }
        }
        Ok(())
    }

    /// Writes what a process waits for.
    pub(super) fn write_waits(&self, f: &mut impl Write, care: &Care) -> fmt::Result {
        for (key, requires) in [("after", false), ("requires", true)] {
            let waits = care.waits.iter().filter(|wait| wait.requires == requires);
            let all = waits.flat_map(|wait| {
                let when = show_when(wait.when);
                self.expand(&wait.on)
                    .into_iter()
                    .map(move |on| format!("{{ name = {}, when = \"{when}\" }}", Quoted(&on)))
            });
            let all: Vec<_> = all.collect();
            if !all.is_empty() {
                writeln!(f, "{key} = [{}]", all.join(", "))?;
            }
        }
        if care.essential { writeln!(f, "essential = true") } else { Ok(()) }
    }
}

/// A mistake in the connections.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) document: usize,
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

fn strategy(value: &DeValue<'_>) -> Parsed<Strategy> {
    match value.as_str() {
        Some("each") => Ok(Strategy::Each),
        Some("all") => Ok(Strategy::All),
        Some("rest") => Ok(Strategy::Rest),
        _ => Err("\"each\", \"all\" or \"rest\""),
    }
}

fn show_strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Each => "each",
        Strategy::All => "all",
        Strategy::Rest => "rest",
    }
}

fn show_when(when: When) -> &'static str {
    match when {
        When::Started => "started",
        When::Completed => "completed",
        _ => "ready",
    }
}
