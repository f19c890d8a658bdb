//! Times as people type them.

use std::time::Duration;

/// Reads `500ms`, `10s`, `1.5m`, `2h`, `7d`; a number alone is seconds, as ping(8) has it. At most 100 years.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("{text:?} is no time; use a number and us, ms, s, m, h or d, as 500ms or 10s");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, seconds) = UNITS
        .into_iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(bad)?;
    let number: f64 = number.parse().map_err(|_| bad())?;
    let time = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
    if time > MAX {
        return Err(format!("{text:?} is more than 100 years"));
    }
    Ok(time)
}

/// A time for people, in its two largest units: `3 d 4 h`, `12 min`, `0 s`.
pub(crate) fn words(time: Duration) -> String {
    let total = time.as_secs();
    let parts = [
        (total / 86_400, "d"),
        (total / 3600 % 24, "h"),
        (total / 60 % 60, "min"),
        (total % 60, "s"),
    ];
    let first = parts
        .iter()
        .position(|(n, _)| *n > 0)
        .unwrap_or(parts.len() - 1);
    let shown: Vec<String> = parts[first..]
        .iter()
        .take(2)
        .filter(|(n, unit)| *n > 0 || (total == 0 && *unit == "s"))
        .map(|(n, unit)| format!("{n} {unit}"))
        .collect();
    shown.join(" ")
}

/// Milliseconds for a message, at least 1: a 0 there means "the default".
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1000))
        .unwrap_or(u64::MAX)
        .max(1)
}

const UNITS: [(&str, f64); 8] = [
    ("", 1.0),
    ("us", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("min", 60.0),
    ("h", 3600.0),
    ("d", 86_400.0),
];
const MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_or_are_seconds() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("10m", 600_000),
            ("10", 10_000),
            ("0.2", 200),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "s",
            "-1s",
            "10 s",
            "1.2.3s",
            "10x",
            "ten",
            "1e3s",
            "nan",
            "inf",
            "99999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn people_read_the_two_largest_units() {
        for (secs, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3600, "1 h"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(words(Duration::from_secs(secs)), text);
        }
    }

    #[test]
    fn a_short_time_never_becomes_the_default() {
        assert_eq!(millis(Duration::from_micros(1)), 1);
        assert_eq!(millis(Duration::ZERO), 1);
    }
}
