//! Encodes readings as payloads.

use std::fmt::Write;

use jiff::Timestamp;
use model::{Nanos, Value};
use serde_json::json;

use super::Reading;
use crate::scenario::{Format, Payload, TimeFormat};

/// Rounds a time to the resolution of the payload.
pub(super) fn resolved(time: Nanos, format: TimeFormat) -> Option<Nanos> {
    let unit = resolution(format);
    (format != TimeFormat::None).then(|| time.div_euclid(unit) * unit)
}

/// Resolution of a time format in nanoseconds.
pub(super) fn resolution(format: TimeFormat) -> Nanos {
    match format {
        TimeFormat::S => 1_000_000_000,
        TimeFormat::Ms | TimeFormat::Rfc3339 => 1_000_000,
        TimeFormat::Us => 1_000,
        TimeFormat::Ns | TimeFormat::None => 1,
    }
}

/// The payload of a message; `{device}` in a template is `device`.
pub(super) fn encode(payload: &Payload, device: &str, readings: &[Reading]) -> Vec<u8> {
    let mut out = String::with_capacity(96 * readings.len());
    match payload.format {
        Format::Value => value(&mut out, &readings[0].values[0].1, true),
        Format::Template => template(&mut out, payload, device, &readings[0]),
        Format::Json if payload.batch == 1 => object(&mut out, payload, &readings[0]),
        Format::Json => {
            out.push('[');
            for (index, reading) in readings.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                object(&mut out, payload, reading);
            }
            out.push(']');
        }
        Format::Nested => nested(&mut out, payload, &readings[0]),
    }
    out.into_bytes()
}

fn object(out: &mut String, payload: &Payload, reading: &Reading) {
    out.push('{');
    if let Some(at) = reading.time {
        out.push_str("\"ts\":");
        time(out, at, payload.time, true);
        out.push(',');
    }
    if let Some(sequence) = reading.sequence {
        put(out, format_args!("\"seq\":{sequence},"));
    }
    for (index, (name, measured)) in reading.values.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        text(out, name);
        out.push(':');
        value(out, measured, false);
    }
    out.push('}');
}

fn nested(out: &mut String, payload: &Payload, reading: &Reading) {
    let mut root = serde_json::Map::new();
    for (name, measured) in &reading.values {
        let mut place = &mut root;
        let mut parts = name.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                place.insert(part.to_owned(), tree(measured));
                break;
            }
            let inner = place.entry(part).or_insert_with(|| json!({}));
            match inner {
                serde_json::Value::Object(object) => place = object,
                // A value and an object have the same name: the longer name is not split.
                _ => break,
            }
        }
    }
    let mut head = String::new();
    let bare = Reading { values: Vec::new(), ..reading.clone() };
    object(&mut head, payload, &bare);
    let body = serde_json::Value::Object(root).to_string();
    out.push_str(head.trim_end_matches('}'));
    out.push_str(&body[1..]);
}

fn tree(measured: &Value) -> serde_json::Value {
    match measured {
        Value::Float(v) => json!(v),
        Value::Int(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::Str(v) => json!(v),
    }
}

fn template(out: &mut String, payload: &Payload, device: &str, reading: &Reading) {
    let mut filled = payload.template.clone().unwrap_or_default().replace("{device}", device);
    let mut part = String::new();
    if let Some(at) = reading.time {
        time(&mut part, at, payload.time, false);
        filled = filled.replace("{time}", &part);
    }
    if let Some(sequence) = reading.sequence {
        filled = filled.replace("{seq}", &sequence.to_string());
    }
    for (name, measured) in &reading.values {
        part.clear();
        value(&mut part, measured, false);
        filled = filled.replace(&format!("{{{name}}}"), &part);
    }
    out.push_str(&filled);
}

fn time(out: &mut String, at: Nanos, format: TimeFormat, quoted: bool) {
    match format {
        TimeFormat::S => put(out, format_args!("{}", at.div_euclid(1_000_000_000))),
        TimeFormat::Ms => put(out, format_args!("{}", at.div_euclid(1_000_000))),
        TimeFormat::Us => put(out, format_args!("{}", at.div_euclid(1_000))),
        TimeFormat::Ns | TimeFormat::None => put(out, format_args!("{at}")),
        TimeFormat::Rfc3339 => {
            let quote = if quoted { "\"" } else { "" };
            let at = Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default();
            put(out, format_args!("{quote}{at:.3}{quote}"));
        }
    }
}

/// A float always has a point or an exponent, so that it differs from an integer.
fn value(out: &mut String, measured: &Value, bare: bool) {
    match measured {
        Value::Float(v) => put(out, format_args!("{v:?}")),
        Value::Int(v) => put(out, format_args!("{v}")),
        Value::Bool(v) => put(out, format_args!("{v}")),
        Value::Str(v) if bare => out.push_str(v),
        Value::Str(v) => text(out, v),
    }
}

fn text(out: &mut String, content: &str) {
    out.push_str(&serde_json::Value::from(content).to_string());
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a string takes everything");
}
