//! Values on the command line that are keys of the cluster file: the key table judges both.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use holdfast_schema::config::keys::{Key, Kind, Section};
use holdfast_schema::config::{check_name, parse_millis};

/// One of the words that a key can be.
#[derive(Clone, Copy)]
pub struct Word(&'static Key);

/// The words of a key.
pub fn word(section: &'static Section, key: &str) -> Word {
    Word(key_of(section, key))
}

fn key_of(section: &'static Section, key: &str) -> &'static Key {
    section.key(key).expect("the command line names keys of the key table only")
}

impl TypedValueParser for Word {
    type Value = &'static str;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<&'static str, clap::Error> {
        self.0.word(&value.to_string_lossy()).map_err(|e| {
            let arg = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("{arg}: `{}` {} ({})\n", self.0.name, e.message, e.hint);
            clap::Error::raw(ErrorKind::InvalidValue, message).with_cmd(cmd)
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        match &self.0.kind {
            Kind::OneOf(words, _) => Some(Box::new(words.iter().map(PossibleValue::new))),
            _ => None,
        }
    }
}

/// A duration that the key can be, in milliseconds.
pub fn millis(
    section: &'static Section,
    key: &str,
) -> impl Fn(&str) -> Result<u32, String> + Clone {
    let key = key_of(section, key);
    move |text| key.millis(text)?.ok_or_else(|| "it must be a duration".to_owned())
}

/// A duration that the key can be, in milliseconds, or `never`.
#[derive(Clone, Copy, Debug)]
pub struct MillisOrNever(pub Option<u32>);

/// A duration or `never`.
pub fn millis_or_never(
    section: &'static Section,
    key: &str,
) -> impl Fn(&str) -> Result<MillisOrNever, String> + Clone {
    let key = key_of(section, key);
    move |text| key.millis(text).map(MillisOrNever)
}

/// A number that the key can be.
pub fn number<T: TryFrom<u32>>(
    section: &'static Section,
    key: &str,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    let key = key_of(section, key);
    move |text| T::try_from(key.number(text)?).map_err(|_| "it is too large".to_owned())
}

/// A name, as all names of Holdfast are.
pub fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

/// The reason for forcing something.
pub fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the reason is recorded; say one".to_owned()),
        reason => Ok(reason.to_owned()),
    }
}

/// How long something may take or lives, in milliseconds; not 0.
pub fn time(text: &str) -> Result<u32, String> {
    match parse_millis(text).map_err(|e| e.to_string())? {
        0 => Err("it must be longer than 0".to_owned()),
        millis => Ok(millis),
    }
}

/// How long a token lives: whole seconds, up to 30 days.
pub fn expiry(text: &str) -> Result<u64, String> {
    let millis = time(text)?;
    if millis % 1_000 == 0 && millis <= 30 * 86_400_000 {
        Ok(u64::from(millis / 1_000))
    } else {
        Err("it must be whole seconds, from 1s to 30d".to_owned())
    }
}
