//! Numbers as people read them.

/// Milliseconds, in the unit that suits them, to three digits.
pub(crate) fn time(ms: f64) -> String {
    match ms {
        ms if !ms.is_finite() => "?".into(),
        ms if ms < 1.0 => format!("{} µs", digits(1e3 * ms)),
        ms if ms < 1e3 => format!("{} ms", digits(ms)),
        ms => format!("{} s", digits(ms / 1e3)),
    }
}

/// Three significant digits.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A share in percent.
pub(crate) fn percent(share: f64) -> String {
    match 100.0 * share {
        percent if percent != 0.0 && percent.abs() < 1.0 => format!("{percent:.2} %"),
        percent => format!("{percent:.1} %"),
    }
}

/// How many times as long.
pub(crate) fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}

/// `1 token`, `2 tokens`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Bytes in the units of memory.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{} {name}", digits(bytes as f64 / unit as f64)),
        None => format!("{bytes} B"),
    }
}

/// The day of a time in seconds since 1970, in UTC: `2026-11-26`. Nothing for a time that is unknown
/// (0) or beyond the year 9999.
pub(crate) fn day(unix_s: u64) -> Option<String> {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = unix_s / 86_400;
    if unix_s == 0 || days > 2_932_896 {
        return None;
    }
    // Years that begin in March end with the leap day, so months have a formula.
    let days = days + 719_468;
    let (era, of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era =
        (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (DAYS_OF_400_YEARS - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    Some(format!("{year:04}-{month:02}-{day:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_choose_their_unit() {
        let texts = [0.0123, 0.6912, 1.0, 27.26, 512.4, 2500.0, f64::NAN].map(time);
        assert_eq!(texts, ["12.3 µs", "691 µs", "1.00 ms", "27.3 ms", "512 ms", "2.50 s", "?"]);
    }

    #[test]
    fn shares_and_bytes_are_short() {
        assert_eq!(
            [0.0, 0.0098, 0.0229, 1.5].map(percent),
            ["0.0 %", "0.98 %", "2.3 %", "150.0 %"]
        );
        assert_eq!([12, 49_152, 33_554_432].map(bytes), ["12 B", "48.0 KiB", "32.0 MiB"]);
        assert_eq!(plural(1, "token") + &plural(2, "pair"), "1 token2 pairs");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        // As `date -u -d @SECONDS +%F` has them.
        for (unix_s, expected) in [
            (1, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_795_679_387, "2026-11-26"),
            (1_798_761_599, "2026-12-31"),
            (4_107_542_400, "2100-03-01"),
            (253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(day(unix_s).as_deref(), Some(expected));
        }
        assert_eq!([day(0), day(u64::MAX)], [None, None]);
    }
}
