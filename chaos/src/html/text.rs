//! Text of the page: everything that comes from elsewhere is escaped, numbers are made readable.

/// Escapes text for HTML, also within attributes in double quotes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Neither HTML nor XML has a place for these.
            c if c.is_control() && c != '\n' && c != '\t' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// A whole number with commas: `12,345`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share as percent with two digits that count: `0.75 %`, `12 %`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 10.0 {
        return format!("{percent:.0} %");
    }
    let decimals = (1 - percent.log10().floor() as i32).clamp(1, 6) as usize;
    let text = format!("{percent:.decimals$}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Milliseconds as people say them: `7 ms`, `1.6 s`, `14 s`, `2 min 05 s`.
pub fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => {
            let text = format!("{:.1}", ms as f64 / 1000.0);
            format!("{} s", text.trim_end_matches(".0"))
        }
        10_000..120_000 => format!("{} s", (ms + 500) / 1000),
        _ => {
            let seconds = (ms + 500) / 1000;
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        }
    }
}

/// Unix time as `2026-08-02 12:34 UTC`.
pub fn date(unix_ms: i64) -> String {
    let minutes = unix_ms.div_euclid(60_000);
    let (days, minute) = (minutes.div_euclid(1_440), minutes.rem_euclid(1_440));
    // Years begin in March here, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_escaped_can_become_markup() {
        let bad = "</script><b a=\"x\" c='y'>&amp;\u{1}";
        let safe = escape(bad);
        assert!(!safe.contains(['<', '>', '"', '\'']), "{safe}");
        assert_eq!(escape("a & b"), "a &amp; b");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        let shares = [0.0, 0.0075, 0.003, 0.000_012_3, 0.5, 1.0];
        let expected = ["0 %", "0.75 %", "0.3 %", "0.0012 %", "50 %", "100 %"];
        assert_eq!(shares.map(percent), expected);
        let spans = [7, 1_000, 1_640, 14_499, 125_000];
        assert_eq!(spans.map(span), ["7 ms", "1 s", "1.6 s", "14 s", "2 min 05 s"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(1_785_674_096_789), "2026-08-02 12:34 UTC");
        assert_eq!(date(1_709_251_199_000), "2024-02-29 23:59 UTC");
    }
}
