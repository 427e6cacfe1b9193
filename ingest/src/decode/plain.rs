//! A bare value: a number, a boolean or text.

use std::borrow::Cow;

use super::scratch::{Scratch, Slot};
use super::{Class, Refusal, is_not_finite};
use crate::limits::Limits;

/// The type of a bare value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Parsed {
    /// Empty, `null` or not a finite number.
    Absent,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Text, as it stands.
    Text,
}

/// Reads a bare value, named `field`. An empty payload has no value.
pub(crate) fn plain(
    payload: &[u8],
    field: &str,
    candidate: usize,
    limits: &Limits,
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let text = text(payload)?;
    scratch.begin_row(candidate, limits)?;
    scratch.set_name(field);
    let slot = match parse(&text) {
        Parsed::Absent => {
            scratch.absent += 1;
            return Ok(());
        }
        Parsed::Bool(v) => Slot::Bool(v),
        Parsed::Int(v) => Slot::Int(v),
        Parsed::Float(v) => Slot::Float(v),
        Parsed::Text => Slot::Text(scratch.put(&text)),
    };
    scratch.add(slot, limits)
}

/// Returns the text of a payload, without white space, NULs and a byte order mark around it. A
/// payload that is not UTF-8 is read as Latin-1.
pub(crate) fn text(payload: &[u8]) -> Result<Cow<'_, str>, Refusal> {
    let around = |c: char| c.is_whitespace() || matches!(c, '\0' | '\u{feff}');
    let text = match std::str::from_utf8(payload) {
        Ok(text) => Cow::Borrowed(text.trim_matches(around)),
        Err(_) => {
            let latin: String = payload.iter().map(|byte| char::from(*byte)).collect();
            Cow::Owned(latin.trim_matches(around).to_owned())
        }
    };
    // An image or packed bytes are not text.
    match text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        None => Ok(text),
        Some((at, c)) => Err(Refusal::new(Class::Text, format!("not text: {c:?} at character {at}"))),
    }
}

/// Parses trimmed text. A number may be written in any way; an integer outside `i64` stays text,
/// with all its digits.
pub(crate) fn parse(text: &str) -> Parsed {
    match text {
        "" | "null" => Parsed::Absent,
        "true" => Parsed::Bool(true),
        "false" => Parsed::Bool(false),
        text => number(text).unwrap_or(if is_not_finite(text) { Parsed::Absent } else { Parsed::Text }),
    }
}

/// Parses a number, written in any way.
pub(crate) fn number(text: &str) -> Option<Parsed> {
    let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    if !text.bytes().all(numeric) || !text.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    if let Ok(v) = text.parse() {
        return Some(Parsed::Int(v));
    }
    if !text.contains(['.', 'e', 'E']) {
        return None;
    }
    let v: f64 = text.parse().ok()?;
    Some(if v.is_finite() { Parsed::Float(v) } else { Parsed::Absent })
}

/// Parses a number that cannot be a serial number, a meter number or a code: at most 15 digits, no
/// leading zero, no `+`, no exponent.
pub(crate) fn plain_number(text: &str) -> Option<Parsed> {
    let magnitude = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    if !digits(whole) || !digits(fraction) || leading_zero || magnitude.len() > 16 || whole.len() + fraction.len() > 16
    {
        return None;
    }
    if magnitude.bytes().filter(u8::is_ascii_digit).count() > 15 {
        return None;
    }
    number(text)
}
