//! A bare value: a number, a boolean or text.

use std::borrow::Cow;

use super::scratch::{Scratch, Slot};
use super::{Class, Refusal, foreign, is_not_finite};
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

/// Rules for bare values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bare {
    /// Text of another format is refused.
    pub(crate) checks_format: bool,
    /// A comma is part of a number.
    pub(crate) decimal_comma: bool,
}

/// Refuses text of another format: as one text it is of no use.
pub(crate) fn check_format(text: &str, rules: Bare) -> Result<(), Refusal> {
    if rules.checks_format
        && let Some(format) = foreign::recognise(text, rules.decimal_comma)
    {
        let reason =
            format!("not a bare value but {format}: add `format = \"value\"` to the route to store it as text");
        return Err(Refusal::new(Class::Text, reason));
    }
    Ok(())
}

/// Reads a bare value, named `field`. An empty payload has no value.
pub(crate) fn plain(
    payload: &[u8],
    rules: Bare,
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
        Parsed::Text => {
            check_format(&text, rules)?;
            Slot::Text(scratch.put(&text))
        }
    };
    scratch.add(slot, limits)
}

/// Returns the text of a payload, without white space, a byte order mark and the NULs of a C string
/// around it. A payload that is not UTF-8 is read as Latin-1, if that can be meant: bytes of a
/// number are not text.
pub(crate) fn text(payload: &[u8]) -> Result<Cow<'_, str>, Refusal> {
    let around = |c: char| c.is_whitespace() || c == '\u{feff}';
    let text = match std::str::from_utf8(payload) {
        Ok(text) => Cow::Borrowed(text.trim_start_matches(around).trim_end_matches(|c| around(c) || c == '\0')),
        Err(error) => Cow::Owned(latin(payload).ok_or_else(|| {
            let reason = format!("not text: not UTF-8 at byte {}, and not Latin-1", error.valid_up_to());
            Refusal::new(Class::Text, reason)
        })?),
    };
    if text.is_empty() && payload.contains(&0) {
        return Err(Refusal::new(Class::Text, "not text: only NUL bytes"));
    }
    // An image or packed bytes are not text.
    match text.char_indices().find(|(_, c)| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        None => Ok(text),
        Some((at, c)) => Err(Refusal::new(Class::Text, format!("not text: {c:?} at character {at}"))),
    }
}

/// Reads Latin-1: a number with a unit (`21°C`, `5 µm`), or words of ASCII and few other letters.
fn latin(payload: &[u8]) -> Option<String> {
    let end = payload.iter().rposition(|b| !matches!(b, 0 | b' ' | b'\r' | b'\n' | b'\t'))? + 1;
    let bytes = &payload[..end];
    let foreign: Vec<usize> = (0..bytes.len()).filter(|at| !bytes[*at].is_ascii()).collect();
    let ascii = bytes.iter().filter(|b| b.is_ascii_graphic()).count();
    let symbol = |b: u8| matches!(b, 0xB0 | 0xB1 | 0xB2 | 0xB3 | 0xB5 | 0x80 | 0xA3);
    let digits = bytes.iter().position(|b| !b.is_ascii_digit() && !matches!(b, b'.' | b',' | b'+' | b'-' | b' '));
    let is_measure = bytes[0] != b' '
        && digits.is_some_and(|at| bytes[..at].iter().any(u8::is_ascii_digit))
        && foreign.len() == 1
        && foreign.iter().all(|at| symbol(bytes[*at]));
    let letter = |at: usize| bytes.get(at).is_some_and(|b| b.is_ascii_alphabetic() || is_letter(*b));
    let in_word =
        |at: usize| symbol(bytes[at]) || (is_letter(bytes[at]) && (letter(at.wrapping_sub(1)) || letter(at + 1)));
    // Four and eight bytes are as long as a number: there nothing but one word counts.
    let one_word = || bytes[1..].iter().all(|b| b.is_ascii_lowercase() || (is_letter(*b) && *b >= 0xDF));
    let is_words = foreign.iter().all(|at| in_word(*at))
        && ascii >= 2 * foreign.len()
        && bytes.len() > 3
        && (!matches!(payload.len(), 4 | 8) || one_word());
    if !is_measure && !is_words {
        return None;
    }
    let text: Option<String> =
        bytes.iter().map(|b| if b.is_ascii() { Some(char::from(*b)) } else { super::text::latin(*b) }).collect();
    Some(text?.trim_start_matches(' ').to_owned())
}

/// True for a letter of Latin-1 beyond ASCII.
fn is_letter(byte: u8) -> bool {
    byte >= 0xC0 && !matches!(byte, 0xD7 | 0xF7 | 0xFF | 0xFE | 0xDE | 0xD0)
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
    // Out of the range of a float it stays text, with its digits.
    v.is_finite().then_some(Parsed::Float(v))
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
