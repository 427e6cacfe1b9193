//! Line protocol: names and values as InfluxDB 2 reads them back unchanged, and the time of a
//! point.
//!
//! A name or value that the format cannot carry is refused with the reason, never changed. Outside
//! of texts the format has no escape for a backslash, so a backslash before a separator would
//! escape it; a line ends at a line break that is not inside a text.

use std::fmt::Write as _;

use model::Nanos;

use super::types::FieldValue;

const MILLI: i64 = 1_000_000;

/// Returns the time of a reading's point: its millisecond × 10^6 + (sequence mod 10^6), so that
/// readings of one millisecond stay distinct; without a sequence the time itself. Together with the
/// series it is the identity of the point.
pub(super) fn point_time(time: Nanos, seq: Option<u64>) -> Nanos {
    let Some(seq) = seq else { return time };
    let place = i64::try_from(seq % MILLI.unsigned_abs()).unwrap_or_default();
    (time - time.rem_euclid(MILLI)).saturating_add(place)
}

/// Appends a tag value.
///
/// # Errors
/// The reason why it cannot be written.
pub(super) fn tag_value(out: &mut String, text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.ends_with('\\') {
        return Err("ends in a backslash, which line protocol cannot write");
    }
    if text.chars().any(char::is_control) {
        return Err("contains a control character, which line protocol cannot write");
    }
    escape(out, text);
    Ok(())
}

/// Appends a field name.
///
/// # Errors
/// The reason why it cannot be written.
pub(super) fn field_name(out: &mut String, name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name == "time" {
        return Err("is reserved: InfluxDB silently drops a field of that name");
    }
    if name.chars().any(char::is_control) {
        return Err("contains a control character, which line protocol cannot write");
    }
    if name.ends_with('\\') {
        return Err("ends in a backslash, which line protocol cannot write");
    }
    if has_loose_backslash(name) {
        return Err(
            "contains a backslash before a comma, an equals sign, a quote or a space, which line protocol cannot write",
        );
    }
    escape(out, name);
    Ok(())
}

/// True when a backslash stands right before a character that is escaped with one.
fn has_loose_backslash(name: &str) -> bool {
    name.as_bytes().windows(2).any(|pair| pair[0] == b'\\' && matches!(pair[1], b',' | b'=' | b' ' | b'"'))
}

fn escape(out: &mut String, text: &str) {
    if !text.bytes().any(|b| matches!(b, b',' | b'=' | b' ')) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        if matches!(c, ',' | '=' | ' ') {
            out.push('\\');
        }
        out.push(c);
    }
}

/// Appends a field value.
///
/// # Errors
/// The reason why it cannot be written.
pub(super) fn field_value(out: &mut String, value: &FieldValue<'_>) -> Result<(), &'static str> {
    let written = match value {
        FieldValue::Float(v) if !v.is_finite() => return Err("is not a finite number"),
        FieldValue::Float(v) if *v != 0.0 && !(1e-5..1e17).contains(&v.abs()) => write!(out, "{v:e}"),
        FieldValue::Float(v) => write!(out, "{v}"),
        FieldValue::Integer(v) => write!(out, "{v}i"),
        FieldValue::Unsigned(v) => write!(out, "{v}u"),
        FieldValue::Boolean(v) => write!(out, "{v}"),
        FieldValue::String(text) => {
            string(out, text);
            Ok(())
        }
    };
    written.map_err(|_| "cannot be written")
}

fn string(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().any(|b| matches!(b, b'"' | b'\\')) {
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
    } else {
        out.push_str(text);
    }
    out.push('"');
}
