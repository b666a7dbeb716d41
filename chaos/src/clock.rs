//! The two clocks of the lab: the monotonic one that everything is judged by, and the wall clock
//! that the timestamps of BIRD and `ip monitor` are in.

use nix::time::{ClockId, clock_gettime};

fn read_ms(clock: ClockId) -> i64 {
    // Both clocks exist on every Linux.
    let now = clock_gettime(clock).expect("the clock can be read");
    now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000
}

/// Milliseconds of `CLOCK_MONOTONIC`. The same in all network namespaces of a machine.
pub fn now_ms() -> u64 {
    read_ms(ClockId::CLOCK_MONOTONIC) as u64
}

/// Unix time in milliseconds.
pub fn unix_ms() -> i64 {
    read_ms(ClockId::CLOCK_REALTIME)
}

/// Turns a wall-clock time into one of the monotonic clock, by how far the two are apart now.
pub fn monotonic_of(unix: i64) -> u64 {
    (now_ms() as i64 - (unix_ms() - unix)).max(0) as u64
}

/// Reads `YYYY-MM-DD?HH:MM:SS.frac` (UTC; `?` is a space or a T) as Unix milliseconds.
pub fn parse_utc(text: &str) -> Option<i64> {
    let field = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let separators: Vec<u8> =
        [4, 7, 10, 13, 16].iter().filter_map(|i| text.as_bytes().get(*i).copied()).collect();
    if !matches!(separators.as_slice(), [b'-', b'-', b' ' | b'T', b':', b':']) {
        return None;
    }
    let (year, month, day) = (field(0..4)?, field(5..7)?, field(8..10)?);
    let (hour, minute, second) = (field(11..13)?, field(14..16)?, field(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let millis = match text.get(19..20) {
        Some(".") => {
            let digits: String =
                text[20..].chars().take_while(char::is_ascii_digit).chain("000".chars()).collect();
            digits.get(..3)?.parse::<i64>().ok()?
        }
        _ => 0,
    };
    let days = days_since_epoch(year, month, day);
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_timestamps_of_both_programs() {
        assert_eq!(parse_utc("1970-01-01 00:00:00.001"), Some(1));
        assert_eq!(parse_utc("2026-08-02T12:34:56.789012"), Some(1_785_674_096_789));
        assert_eq!(parse_utc("2024-02-29 23:59:59"), Some(1_709_251_199_000));
        assert_eq!(parse_utc("2024-02-29 23:59:59.5"), Some(1_709_251_199_500));
        assert_eq!(parse_utc("yesterday"), None);
        assert_eq!(parse_utc("2024-13-01 00:00:00"), None);
    }

    #[test]
    fn the_clocks_are_brought_together() {
        let (now, unix) = (now_ms(), unix_ms());
        let there = monotonic_of(unix - 500);
        assert!(there.abs_diff(now - 500) < 50, "{there} {now}");
    }
}
