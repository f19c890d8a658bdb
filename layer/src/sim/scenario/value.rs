//! The values of a scenario file: times, percentages, and from-to.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

/// A time: `"250ms"`, `"2s"`, `"10m"`, `"50us"`; or two of them, from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration, pub(super) Duration);

/// A time that may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shift(pub(super) i64);

/// A part of a hundred, kept as part of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Percent(pub(super) u32);

/// A whole number, or two of them, from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) usize, pub(super) usize);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (low, high) = from.deserialize_any(OneOrTwo(duration))?;
        Ok(Self(low, high))
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let whole = |text: &str| text.parse().map_err(|_| format!("{text:?} is no number"));
        let (low, high) = from.deserialize_any(OneOrTwo(whole))?;
        Ok(Self(low, high))
    }
}

impl<'de> Deserialize<'de> for Shift {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(&text)),
        };
        let millis = duration(rest).map_err(de::Error::custom)?.as_millis();
        let millis = i64::try_from(millis).map_err(|_| de::Error::custom("it is too long"))?;
        Ok(Self(sign * millis))
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(from)?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(de::Error::custom("a percentage is from 0 to 100"));
        }
        // Within 0 and 1000 by the line above.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was checked to be from 0 to 100"
        )]
        Ok(Self((percent * 10.0).round() as u32))
    }
}

/// One value or an array of two.
struct OneOrTwo<T>(fn(&str) -> Result<T, String>);

impl<'de, T: Copy + PartialOrd> Visitor<'de> for OneOrTwo<T> {
    type Value = (T, T);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value, or two of them: [from, to]")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(T, T), E> {
        let value = (self.0)(text).map_err(E::custom)?;
        Ok((value, value))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<(T, T), E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<(T, T), A::Error> {
        let mut values = Vec::new();
        while let Some(text) = all.next_element::<Word>()? {
            values.push((self.0)(&text.0).map_err(de::Error::custom)?);
        }
        match values[..] {
            [low, high] if low <= high => Ok((low, high)),
            _ => Err(de::Error::custom("two values are wanted: [from, to]")),
        }
    }
}

/// A text or a number, as text.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Word;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a number")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Word, E> {
                Ok(Word(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Word, E> {
                Ok(Word(number.to_string()))
            }
        }
        from.deserialize_any(Any)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let micros = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000_u64,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|_| micros > 0);
    let time = number.and_then(|n| n.checked_mul(micros));
    time.map(Duration::from_micros)
        .ok_or_else(|| format!("{text:?} is no time; write 50us, 250ms, 2s, 10m or 1h"))
}
