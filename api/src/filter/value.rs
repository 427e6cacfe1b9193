//! Values in filters and how they compare.

use std::cmp::Ordering;

use jiff::Timestamp;
use model::Nanos;

use crate::glob::Glob;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
    /// `:`, contains.
    Has,
}

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Text,
    /// A list of texts.
    Texts,
    /// Texts by key: `field.key`. The field itself is the list of the keys.
    Map,
    Number,
    Boolean,
    /// RFC 3339.
    Time,
    /// Seconds, such as `2.5s`.
    Length,
}

/// The value that a field is compared with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// Text with wildcards, for equality.
    Pattern(Glob),
    /// Text, for order and for `:`.
    Text(String),
    Number(f64),
    Boolean(bool),
    Nanos(Nanos),
    /// `*`: any value.
    Present,
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Actual<'a> {
    Text(&'a str),
    Number(f64),
    Boolean(bool),
    Nanos(Nanos),
}

/// Parses the value that a field of type `kind` is compared with.
///
/// # Errors
/// The problem, for the caller.
pub(super) fn operand(kind: Type, comparator: Comparator, text: &str, quoted: bool) -> Result<Operand, String> {
    use Comparator::{Equal, Has, NotEqual};
    if comparator == Has && text == "*" && !quoted {
        return Ok(Operand::Present);
    }
    let ordered = !matches!(comparator, Equal | NotEqual | Has);
    match kind {
        Type::Texts | Type::Map if ordered => Err("a list has no order: use `:` instead".into()),
        Type::Text if ordered => Ok(Operand::Text(text.to_owned())),
        Type::Text if comparator == Has && !text.contains('*') => Ok(Operand::Text(text.to_owned())),
        Type::Text | Type::Texts | Type::Map => Ok(Operand::Pattern(Glob::new(text))),
        Type::Number => match text.parse() {
            Ok(number) if f64::is_finite(number) => Ok(Operand::Number(number)),
            _ => Err(format!("`{text}` is not a number")),
        },
        Type::Boolean if ordered => Err("true and false have no order: use `=`".into()),
        Type::Boolean => text.parse().map(Operand::Boolean).map_err(|_| format!("`{text}` is neither true nor false")),
        Type::Time => time(text).map(Operand::Nanos),
        Type::Length => length(text).map(Operand::Nanos),
    }
}

fn time(text: &str) -> Result<Nanos, String> {
    let problem = || format!("`{text}` is not a time: use RFC 3339 such as 2026-01-31T12:00:00Z");
    let time: Timestamp = text.parse().map_err(|_| problem())?;
    Nanos::try_from(time.as_nanosecond()).map_err(|_| problem())
}

fn length(text: &str) -> Result<Nanos, String> {
    let seconds: Option<f64> = text.strip_suffix('s').and_then(|digits| digits.parse().ok());
    match seconds {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be far inside of i64")]
        Some(seconds) if seconds.abs() < 9e9 => Ok((seconds * 1e9).round() as Nanos),
        _ => Err(format!("`{text}` is not a duration: use seconds such as 2.5s")),
    }
}

/// True when the comparison of `actual` with `operand` holds.
pub(super) fn holds(comparator: Comparator, actual: Actual<'_>, operand: &Operand) -> bool {
    let order = match (actual, operand) {
        (_, Operand::Present) => return true,
        (Actual::Text(text), Operand::Pattern(glob)) => {
            return glob.matches(text) == (comparator != Comparator::NotEqual);
        }
        (Actual::Text(text), Operand::Text(word)) if comparator == Comparator::Has => {
            return text.contains(word.as_str());
        }
        (Actual::Text(text), Operand::Text(other)) => Some(text.cmp(other.as_str())),
        (Actual::Number(a), Operand::Number(b)) => a.partial_cmp(b),
        (Actual::Boolean(a), Operand::Boolean(b)) => Some(a.cmp(b)),
        (Actual::Nanos(a), Operand::Nanos(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let Some(order) = order else { return false };
    match comparator {
        Comparator::Less => order == Ordering::Less,
        Comparator::LessOrEqual => order != Ordering::Greater,
        Comparator::Greater => order == Ordering::Greater,
        Comparator::GreaterOrEqual => order != Ordering::Less,
        Comparator::Equal | Comparator::Has => order == Ordering::Equal,
        Comparator::NotEqual => order != Ordering::Equal,
    }
}
