//! Single values: what they may be, and how errors speak of them.

use std::ops::RangeInclusive;

use toml::de::{DeInteger, DeValue};

use super::{format_millis, limits, parse_millis};

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
