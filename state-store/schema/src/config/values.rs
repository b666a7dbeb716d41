//! Single values: what they may be, and how errors speak of them.

use std::ops::RangeInclusive;

use toml::de::{DeInteger, DeValue};

use super::keys::{Key, Kind, Refused};
use super::{closest, format_millis, limits, parse_millis};

/// Why a value is wrong, to be read after its key: `port` ... is 0; it must be 1 to 65535.
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) hint: String,
}

pub(super) fn problem(message: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem { message: message.into(), hint: hint.into() }
}

/// What is wrong with a name, if anything.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let begins = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if begins && name.chars().all(fits) && name.len() <= limits::NAME_CHARS {
        return Ok(());
    }
    Err(format!(
        "is \"{}\"; a name has 1 to {} letters, digits, `.`, `_` or `-` and begins with a letter or digit",
        name.escape_debug(),
        limits::NAME_CHARS
    ))
}

pub(super) fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Problem> {
    value.as_str().ok_or_else(|| {
        problem(format!("must be a text, not {}", what(value)), "write it in quotes")
    })
}

pub(super) fn what(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

pub(super) fn in_range(number: &DeInteger<'_>, range: &RangeInclusive<u32>) -> Option<u32> {
    let number = i128::from_str_radix(number.as_str(), number.radix()).ok()?;
    u32::try_from(number).ok().filter(|number| range.contains(number))
}

pub(super) fn duration(value: &DeValue<'_>, range: &RangeInclusive<u32>) -> Result<u32, Problem> {
    let millis = match value {
        DeValue::Integer(number) if number.as_str() == "0" => 0,
        DeValue::Integer(number) => {
            let message = format!("is {number} without a unit");
            return Err(problem(message, format!("\"{number}s\" or \"{number}ms\"?")));
        }
        DeValue::String(text) => parse_millis(text)
            .map_err(|e| problem(format!("is \"{}\": {e}", text.escape_debug()), ""))?,
        other => {
            let message = format!("must be a duration, not {}", what(other));
            return Err(problem(message, "for example \"3s\" or \"500ms\""));
        }
    };
    if range.contains(&millis) {
        return Ok(millis);
    }
    let shown = format_millis;
    let (from, to) = (shown(*range.start()), shown(*range.end()));
    Err(problem(format!("is {}; it must be from {from} to {to}", shown(millis)), ""))
}

pub(super) fn list<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Why a word is not among those a key can be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WordError {
    /// To be read after the key: `cannot be "tpc"`.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Key {
    /// This word, if the key can be it ([`Kind::OneOf`]).
    pub fn word(&self, text: &str) -> Result<&'static str, WordError> {
        let Kind::OneOf(words, refused) = &self.kind else {
            let message = "takes no words".to_owned();
            return Err(WordError { message, hint: String::new() });
        };
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Ok(*word);
        }
        if let Some(Refused { instead, .. }) = refused.iter().find(|r| r.name == text) {
            let message = format!("= \"{text}\" is not there yet");
            return Err(WordError { message, hint: (*instead).to_owned() });
        }
        let all = || words.iter().copied();
        let hint = match closest(text, all()) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => format!("it can be {}", list(all())),
        };
        Err(WordError { message: format!("cannot be \"{}\"", text.escape_debug()), hint })
    }

    /// A duration that this key can be, in milliseconds; none is `never`.
    pub fn millis(&self, text: &str) -> Result<Option<u32>, String> {
        let range = match &self.kind {
            Kind::MillisOrNever(_) if text == "never" => return Ok(None),
            Kind::MillisOrNever(range) | Kind::Millis(range) => range,
            _ => return Err("takes no duration".to_owned()),
        };
        let millis = parse_millis(text).map_err(|e| e.to_string())?;
        if range.contains(&millis) {
            return Ok(Some(millis));
        }
        let (from, to) = (format_millis(*range.start()), format_millis(*range.end()));
        Err(format!("it must be from {from} to {to}"))
    }

    /// A number that this key can be.
    pub fn number(&self, text: &str) -> Result<u32, String> {
        let Kind::Integer(range) = &self.kind else { return Err("takes no number".to_owned()) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            format!("it must be a whole number from {} to {}", range.start(), range.end())
        })
    }
}
