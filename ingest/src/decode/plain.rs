//! A bare value: a number, a boolean or text.

use model::ValueRef;

use super::{Refusal, Scratch};
use crate::limits::Limits;

/// Reads a bare value under `name`. Blanks, line ends, NULs and a byte order mark around it are left out; text that is not UTF-8 is
/// taken as Latin-1. An empty payload holds nothing.
pub(crate) fn plain(payload: &[u8], name: &str, limits: &Limits, scratch: &mut Scratch) -> Result<(), Refusal> {
    let latin;
    let text = match std::str::from_utf8(payload) {
        Ok(text) => text,
        Err(_) => {
            latin = payload.iter().map(|b| char::from(*b)).collect::<String>();
            &latin
        }
    };
    let text = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\0' | '\u{feff}'));
    scratch.begin_row(limits)?;
    scratch.path.push_str(name);
    match value(text) {
        Some(value) => scratch.add(value, limits),
        None => Ok(()),
    }
}

fn value(text: &str) -> Option<ValueRef<'_>> {
    if text.is_empty() || text == "null" {
        return None;
    }
    let number = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    if number && let Ok(v) = text.parse::<i64>() {
        return Some(ValueRef::Int(v));
    }
    // An integer that does not fit stays text, to the last digit.
    let whole = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if number
        && !whole
        && let Ok(v) = text.parse::<f64>()
    {
        return v.is_finite().then_some(ValueRef::Float(v));
    }
    match text {
        "true" => Some(ValueRef::Bool(true)),
        "false" => Some(ValueRef::Bool(false)),
        text => Some(ValueRef::Str(text)),
    }
}
