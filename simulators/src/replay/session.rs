//! A recorded MQTT session: one JSON object a line, as `mosquitto_sub -v -F '%j'` or `-F '%J'`
//! prints them.

use anyhow::{Context, ensure};
use jiff::Timestamp;
use model::Nanos;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Recorded;
use super::table::instant;

#[derive(Deserialize)]
struct Line<'a> {
    tst: String,
    topic: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

pub(super) fn read(text: &str) -> anyhow::Result<Vec<Recorded>> {
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    lines.map(|(line, number)| message(line).with_context(|| format!("line {number}"))).collect()
}

fn message(line: &str) -> anyhow::Result<Recorded> {
    let line: Line<'_> = serde_json::from_str(line).context("no JSON object with `tst`, `topic` and `payload`")?;
    ensure!(!line.topic.is_empty(), "`topic` is empty");
    // `%j` has the payload as text, `%J` as JSON.
    let payload = match line.payload.map(RawValue::get) {
        None => Vec::new(),
        Some(text) if text.starts_with('"') => serde_json::from_str::<String>(text)?.into_bytes(),
        Some(json) => json.as_bytes().to_vec(),
    };
    Ok(Recorded { at: when(&line.tst)?, device: connection(&line.topic), topic: line.topic, payload })
}

/// `2026-11-20T12:00:00.123456Z+0000`, as mosquitto writes it, or any other form of a time.
fn when(text: &str) -> anyhow::Result<Nanos> {
    let plain = text.replacen('Z', "", usize::from(text.contains("Z+") || text.contains("Z-")));
    match Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.f%z", &plain) {
        Ok(at) => Ok(Nanos::try_from(at.as_nanosecond())?),
        Err(_) => instant(text),
    }
}

/// Messages of one topic keep their order: one connection for each.
fn connection(topic: &str) -> String {
    format!("replay-{}", topic.replace('/', "."))
}
