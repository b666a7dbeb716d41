//! Reads one TOML table after another by the key table, collecting every error.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, ConfigErrors, Source};
use super::keys::{self, Key, Kind, Presence};
use super::values::{Problem, check_name, duration, in_range, list, problem, string, what};
use super::{closest, limits};
use crate::prefix::Prefix;

/// The kinds of file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// What one machine is.
    Node,
    /// What the cluster serves.
    Cluster,
}

impl FileKind {
    fn word(self) -> &'static str {
        match self {
            FileKind::Node => "node",
            FileKind::Cluster => "cluster",
        }
    }

    fn reader(self) -> &'static str {
        match self {
            FileKind::Node => "`holdfastd --config FILE`",
            FileKind::Cluster => "`holdfast apply -f FILE`",
        }
    }
}

/// Which kind of file this says it is (`kind = "node"` or `"cluster"`), errors elsewhere ignored.
pub fn kind_of(text: &str) -> Option<FileKind> {
    let (document, _) = DeTable::parse_recoverable(text);
    kind_in(document.get_ref())
}

fn kind_in(document: &DeTable<'_>) -> Option<FileKind> {
    match document.get("kind")?.get_ref().as_str()? {
        "node" => Some(FileKind::Node),
        "cluster" => Some(FileKind::Cluster),
        _ => None,
    }
}

/// Reads a file of this kind with `body`. `body` returns none if it reported an error.
pub(super) fn read_file<T>(
    text: &str,
    file: &str,
    kind: FileKind,
    body: impl FnOnce(&Table<'_, '_>) -> Option<T>,
) -> Result<T, ConfigErrors> {
    let report = Report { source: Source::new(file, text), found: RefCell::default() };
    if text.len() > limits::FILE_BYTES {
        let message = format!(
            "the file has {} bytes; a configuration has {} at the most",
            text.len(),
            limits::FILE_BYTES
        );
        report.add(&(0..0), Class::Value, message, "split what is served over several clusters");
        return Err(report.finish());
    }
    let (document, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        let span = error.span().unwrap_or(0..0);
        report.add(&span, Class::Syntax, format!("TOML: {}", error.message().trim()), "");
    }
    let section = match kind {
        FileKind::Node => &keys::NODE,
        FileKind::Cluster => &keys::CLUSTER,
    };
    let wrong_kind = kind_in(document.get_ref()).filter(|found| *found != kind);
    if let Some(found) = wrong_kind {
        // One sentence instead of an "unknown key" for every line.
        let span = document.get_ref().get("kind").map_or(0..0, Spanned::span);
        let message =
            format!("this is a {} file, a {} file is wanted here", found.word(), kind.word());
        report.add(&span, Class::Value, message, format!("{} reads it", found.reader()));
        return Err(report.finish());
    }
    let top = Table::new(&report, document.get_ref(), 0..0, section, String::new());
    let read = body(&top);
    top.finish();
    match read {
        Some(read) if report.found.borrow().is_empty() => Ok(read),
        _ => Err(report.finish()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// The text is no TOML.
    Syntax,
    /// A key is missing.
    Missing,
    /// A key or value is wrong.
    Value,
}

/// Collects what is wrong with one file.
pub(super) struct Report<'t> {
    source: Source<'t>,
    found: RefCell<Vec<(usize, Class, ConfigError)>>,
}

impl Report<'_> {
    fn add(&self, span: &Range<usize>, class: Class, message: String, hint: impl Into<String>) {
        let error = self.source.error(span, message, hint.into());
        self.found.borrow_mut().push((span.start, class, error));
    }

    /// How many errors there are so far.
    pub(super) fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// A value is wrong.
    pub(super) fn wrong(&self, span: &Range<usize>, message: String, hint: impl Into<String>) {
        self.add(span, Class::Value, message, hint);
    }

    /// A note about a place that is not an error of this file.
    pub(super) fn note(&self, span: &Range<usize>, message: String, hint: String) -> ConfigError {
        self.source.error(span, message, hint)
    }

    fn finish(self) -> ConfigErrors {
        let mut found = self.found.into_inner();
        let broken: Vec<usize> =
            found.iter().filter(|(_, c, _)| *c == Class::Syntax).map(|(_, _, e)| e.line).collect();
        if !broken.is_empty() {
            // What a broken line should have said is not missing, and is not wrong twice.
            found.retain(|(_, class, error)| match class {
                Class::Syntax => true,
                Class::Missing => false,
                Class::Value => !broken.contains(&error.line),
            });
        }
        found.sort_by_key(|(at, _, _)| *at);
        ConfigErrors(found.into_iter().map(|(_, _, error)| error).collect())
    }
}

/// A TOML table that is being read by its section of the key table.
pub(super) struct Table<'r, 'd> {
    pub(super) report: &'r Report<'r>,
    table: &'d DeTable<'d>,
    span: Range<usize>,
    section: &'static keys::Section,
    /// How errors name it: ` in [[listener]] "web"`.
    place: String,
    /// Which keys were asked for, by position; in debug builds all have to be.
    asked: Cell<u64>,
}

impl<'r, 'd> Table<'r, 'd> {
    fn new(
        report: &'r Report<'r>,
        table: &'d DeTable<'d>,
        span: Range<usize>,
        section: &'static keys::Section,
        inside: String,
    ) -> Table<'r, 'd> {
        let name = table.get("name").and_then(|name| name.get_ref().as_str());
        let place = match (section.title, name) {
            ("", _) => String::new(),
            (title, Some(name)) => format!(" in {title} \"{}\"{inside}", name.escape_debug()),
            (title, None) => format!(" in {title}{inside}"),
        };
        let this = Table { report, table, span, section, place, asked: Cell::new(0) };
        this.refuse_unknown_keys();
        this
    }

    fn refuse_unknown_keys(&self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.section.key(name).is_some() {
                continue;
            }
            let place = &self.place;
            if let Some(refused) = self.section.refused.iter().find(|r| r.name == name) {
                let message = format!("`{name}`{place} is not there yet");
                self.report.wrong(&key.span(), message, refused.instead);
                continue;
            }
            let known = || self.section.keys.iter().map(|key| key.name);
            let hint = match closest(name, known()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the keys here are {}", list(known())),
            };
            let message = format!("unknown key `{}`{place}", name.escape_debug());
            self.report.wrong(&key.span(), message, hint);
        }
    }

    /// Ends the reading. A key of the table that no reader asks for would be ignored silently.
    pub(super) fn finish(&self) {
        debug_assert_eq!(
            self.asked.get(),
            (1u64 << self.section.keys.len()) - 1,
            "a key of {:?} is in the key table, but nothing reads it",
            self.section.title
        );
    }

    fn key(&self, name: &str) -> &'static Key {
        let at = self.section.keys.iter().position(|key| key.name == name);
        let at = at.expect("readers ask for keys of the key table only");
        self.asked.set(self.asked.get() | 1 << at);
        &self.section.keys[at]
    }

    /// Where the value of a key stands; the table's header if the key is absent.
    pub(super) fn span_of(&self, name: &str) -> Range<usize> {
        self.table.get(name).map_or(self.span.clone(), Spanned::span)
    }

    /// Whether the key is written.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// The value of a key does not fit the others.
    pub(super) fn wrong(&self, name: &str, message: &str, hint: impl Into<String>) {
        let message = format!("`{name}`{} {message}", self.place);
        self.report.wrong(&self.span_of(name), message, hint);
    }

    fn missing(&self, key: &Key) {
        let message = format!("`{}` is missing{}", key.name, self.place);
        let example = match key.name {
            "kind" => "the first line says what the file is: kind = \"node\" or kind = \"cluster\"",
            _ => key.meaning,
        };
        self.report.add(&self.span, Class::Missing, message, example);
    }

    fn value<T>(
        &self,
        name: &str,
        read: impl Fn(&DeValue<'_>, &'static Key) -> Result<T, Problem>,
    ) -> Option<T> {
        let key = self.key(name);
        if let Some(value) = self.table.get(name) {
            match read(value.get_ref(), key) {
                Ok(read) => return Some(read),
                Err(p) => {
                    let message = format!("`{name}`{} {}", self.place, p.message);
                    self.report.wrong(&value.span(), message, p.hint);
                }
            }
            return None;
        }
        match key.presence {
            Presence::Required => {
                self.missing(key);
                None
            }
            Presence::Default(text) => {
                let value = DeValue::parse(text).expect("defaults in the key table are TOML");
                let read = read(value.get_ref(), key).ok();
                Some(read.expect("defaults in the key table are allowed values"))
            }
            Presence::Absent(_) => None,
        }
    }

    pub(super) fn name(&self, name: &str) -> Option<String> {
        self.value(name, |value, _| {
            let text = string(value)?;
            check_name(text).map_err(|message| problem(message, "for example `web-1`"))?;
            Ok(text.to_owned())
        })
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.value(name, |value, _| string(value).map(str::to_owned))
    }

    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        self.value(name, |value, _| {
            value.as_bool().ok_or_else(|| {
                problem(format!("must be true or false, not {}", what(value)), "without quotes")
            })
        })
    }

    pub(super) fn integer(&self, name: &str) -> Option<u32> {
        self.value(name, |value, key| {
            let Kind::Integer(range) = &key.kind else {
                unreachable!("{} is no integer", key.name)
            };
            let must = || format!("a whole number from {} to {}", range.start(), range.end());
            let number = value.as_integer().ok_or_else(|| {
                let hint = match value.as_str() {
                    Some(text) if text.parse::<u32>().is_ok() => "write it without quotes",
                    _ => "",
                };
                problem(format!("must be {}, not {}", must(), what(value)), hint)
            })?;
            in_range(number, range)
                .ok_or_else(|| problem(format!("is {number}; it must be {}", must()), ""))
        })
    }

    pub(super) fn millis(&self, name: &str) -> Option<u32> {
        self.value(name, |value, key| {
            let Kind::Millis(range) = &key.kind else { unreachable!("{} is no time", key.name) };
            duration(value, range)
        })
    }

    /// A duration, or none for `"never"`.
    pub(super) fn millis_or_never(&self, name: &str) -> Option<Option<u32>> {
        self.value(name, |value, key| {
            let Kind::MillisOrNever(range) = &key.kind else {
                unreachable!("{} is never never", key.name)
            };
            match value.as_str() {
                Some("never") => Ok(None),
                _ => duration(value, range).map(Some).map_err(|p| Problem {
                    hint: if p.hint.is_empty() { "or \"never\"".into() } else { p.hint },
                    ..p
                }),
            }
        })
    }

    pub(super) fn one_of(&self, name: &str) -> Option<&'static str> {
        self.value(name, |value, key| {
            key.word(string(value)?).map_err(|e| problem(e.message, e.hint))
        })
    }

    pub(super) fn address(&self, name: &str) -> Option<IpAddr> {
        self.value(name, |value, _| {
            let text = string(value)?;
            text.parse().map_err(|_| {
                let hint = match text.split_once('/') {
                    Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
                        format!("one address, without a prefix length: \"{address}\"")
                    }
                    _ => "for example \"203.0.113.10\"".to_owned(),
                };
                problem(format!("is \"{}\", which is no IP address", text.escape_debug()), hint)
            })
        })
    }

    pub(super) fn socket(&self, name: &str) -> Option<SocketAddr> {
        self.value(name, |value, _| {
            let text = string(value)?;
            let read: SocketAddr = text.parse().map_err(|_| {
                let hint = match text.parse::<IpAddr>() {
                    Ok(ip) => format!("add the port: \"{}\"", SocketAddr::new(ip, 8080)),
                    Err(_) => {
                        "an IP address and a port: \"192.0.2.1:8080\"; names are not resolved"
                            .to_owned()
                    }
                };
                problem(format!("is \"{}\", which is no ADDRESS:PORT", text.escape_debug()), hint)
            })?;
            if read.port() == 0 {
                return Err(problem(format!("is \"{read}\"; port 0 is no port"), "1 to 65535"));
            }
            Ok(read)
        })
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name, |value, _| {
            let text = string(value)?;
            if !text.starts_with('/') || text.contains('\0') {
                let message = format!("is \"{}\", which is no absolute path", text.escape_debug());
                return Err(problem(message, "it begins with `/`"));
            }
            Ok(PathBuf::from(text))
        })
    }

    pub(super) fn interface(&self, name: &str) -> Option<String> {
        self.value(name, |value, _| {
            let text = string(value)?;
            let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
            let most = limits::INTERFACE_CHARS;
            if text.is_empty()
                || text.len() > most
                || text.contains(bad)
                || text == "."
                || text == ".."
            {
                let message =
                    format!("is \"{}\", which is no name of an interface", text.escape_debug());
                return Err(problem(message, format!("1 to {most} bytes, as `ip link` shows it")));
            }
            Ok(text.to_owned())
        })
    }

    /// A list of prefixes, each with its place. Wrong ones are reported and left out.
    pub(super) fn prefixes(&self, name: &str) -> Option<Vec<(Prefix, Range<usize>)>> {
        self.key(name);
        let Some(value) = self.table.get(name) else { return Some(Vec::new()) };
        let Some(items) = value.get_ref().as_array() else {
            let hint = match value.get_ref().as_str() {
                Some(text) => format!("in brackets: {name} = [\"{}\"]", text.escape_debug()),
                None => format!("for example {name} = [\"198.51.100.0/28\"]"),
            };
            let message = format!("must be a list of prefixes, not {}", what(value.get_ref()));
            self.wrong(name, &message, hint);
            return None;
        };
        let mut prefixes = Vec::new();
        for item in items.iter() {
            let read = string(item.get_ref()).and_then(|text| {
                text.parse::<Prefix>().map_err(|e| {
                    problem(format!("holds a wrong prefix: {e}"), "for example \"198.51.100.0/28\"")
                })
            });
            match read {
                Ok(prefix) => prefixes.push((prefix, item.span())),
                Err(p) => {
                    let message = format!("`{name}`{} {}", self.place, p.message);
                    self.report.wrong(&item.span(), message, p.hint);
                }
            }
        }
        Some(prefixes)
    }

    /// The table under a key, if it is written.
    pub(super) fn table(&self, name: &str) -> Option<Table<'r, 'd>> {
        let Kind::Table(section) = self.key(name).kind else { unreachable!("{name} is no table") };
        let value = self.table.get(name)?;
        match value.get_ref().as_table() {
            Some(table) => {
                Some(Table::new(self.report, table, value.span(), section, self.place.clone()))
            }
            None => {
                let message = format!("must be a table, not {}", what(value.get_ref()));
                self.wrong(name, &message, format!("write {}", section.title));
                None
            }
        }
    }

    /// The tables under a key.
    pub(super) fn tables(&self, name: &str) -> Vec<Table<'r, 'd>> {
        let Kind::Tables(section) = self.key(name).kind else { unreachable!("{name} is no list") };
        let Some(value) = self.table.get(name) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            let message = format!("must be a list of tables, not {}", what(value.get_ref()));
            self.wrong(name, &message, format!("write {} with double brackets", section.title));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push(Table::new(
                    self.report,
                    table,
                    item.span(),
                    section,
                    self.place.clone(),
                )),
                None => {
                    let message = format!(
                        "`{name}` must be a list of tables, not of {}",
                        what(item.get_ref())
                    );
                    self.report.wrong(&item.span(), message, format!("write {}", section.title));
                }
            }
        }
        tables
    }
}
