//! Durations as people write them: `"500ms"`, `"3s"`, `"15m"`, `"1h"`, `"2d"`, `"1m30s"`, `0`.

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A number without a unit.
    #[error("a number alone has no unit; write `{0}ms` or `{0}s`")]
    Unit(String),
    /// Not a duration at all.
    #[error(
        "a duration is a whole number and a unit (ms, s, m, h, d), such as `500ms`, `3s` or `1m30s`"
    )]
    Syntax,
    /// Longer than 49 days (milliseconds are kept in 32 bits).
    #[error("that is longer than 49 days")]
    TooLong,
}

/// The units, longest first: milliseconds in one, and its name.
const UNITS: [(u32, &str); 5] =
    [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];

/// Reads a duration as milliseconds.
pub fn parse_millis(text: &str) -> Result<u32, DurationError> {
    let text = text.trim();
    if text == "0" {
        return Ok(0);
    }
    let (mut rest, mut total, mut last_unit) = (text, 0u64, u32::MAX);
    if rest.is_empty() {
        return Err(DurationError::Syntax);
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, behind) = behind.split_at(letters);
        if number.is_empty() {
            return Err(DurationError::Syntax);
        }
        if unit.is_empty() && behind.is_empty() && number.len() == text.len() {
            return Err(DurationError::Unit(number.to_owned()));
        }
        let millis = UNITS.iter().find(|(_, name)| *name == unit).map(|(millis, _)| *millis);
        // Units go down (`1m30s`), so that nobody has to guess what `30s1m` was meant to be.
        let millis = millis.filter(|m| *m < last_unit).ok_or(DurationError::Syntax)?;
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        total = number
            .checked_mul(u64::from(millis))
            .and_then(|part| total.checked_add(part))
            .ok_or(DurationError::TooLong)?;
        (rest, last_unit) = (behind, millis);
    }
    u32::try_from(total).map_err(|_| DurationError::TooLong)
}

/// Writes milliseconds in the largest unit that keeps them whole.
pub fn format_millis(millis: u32) -> String {
    match UNITS.iter().find(|(unit, _)| millis != 0 && millis.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("0", 0),
            ("500ms", 500),
            ("3s", 3_000),
            ("15m", 900_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1m30s", 90_000),
            (" 5s ", 5_000),
        ] {
            assert_eq!(parse_millis(text), Ok(millis), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        assert_eq!(parse_millis("30"), Err(DurationError::Unit("30".into())));
        for text in ["", "s", "3 s", "-3s", "1.5s", "3x", "30s1m", "1s1s", "3s4", "3S"] {
            assert_eq!(parse_millis(text), Err(DurationError::Syntax), "{text}");
        }
        for text in ["50d", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_millis(text), Err(DurationError::TooLong), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis: u32) {
            prop_assert_eq!(parse_millis(&format_millis(millis)), Ok(millis));
        }

        #[test]
        fn never_panics(text in "\\PC{0,12}") {
            let _ = parse_millis(&text);
        }
    }
}
