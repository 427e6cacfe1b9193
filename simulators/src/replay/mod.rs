//! Plays a file, a table of measurements or a recorded MQTT session, with its own timing, faster,
//! or at full speed.

mod session;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use model::Nanos;

use crate::fleet::{self, Options, Outbox, Played, Start};
use crate::ledger::Recorder;
use crate::plan::{Device, Fate, Message, Trouble};
use crate::scenario::{Group, Version};

pub use table::Columns;

/// Options of a replay.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Speed relative to the recording; infinite is full speed.
    pub speed: f64,
    /// QoS; None uses that of a recorded session.
    pub qos: u8,
    /// MQTT version.
    pub mqtt: Version,
    /// Maximum number of unacknowledged messages of a connection.
    pub in_flight: u16,
    /// Columns of a table.
    pub columns: Columns,
    /// Time after the last message for the acknowledgements.
    pub drain: Duration,
}

/// A message of the file.
#[derive(Debug, Clone, PartialEq)]
struct Recorded {
    at: Nanos,
    /// Device that sends it.
    device: String,
    topic: String,
    payload: Vec<u8>,
}

/// Plays `file`.
///
/// # Errors
/// The error names the file and the invalid line.
pub fn replay(file: &Path, replay: &Replay, options: &Options) -> anyhow::Result<Played> {
    ensure!(replay.speed > 0.0, "`--speed` is {}: use a number above 0, or max", replay.speed);
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
    let recorded = if text.trim_start().starts_with('{') {
        session::read(&text).with_context(|| name.clone())?
    } else {
        table::read(&text, &replay.columns).with_context(|| name.clone())?
    };
    ensure!(!recorded.is_empty(), "{name} holds no messages");
    let (fleet, duration) = fleet(recorded, replay);
    crate::bench::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(options.threads).enable_all().build();
    let play = async {
        let start = Start::now()?;
        fleet::send(&name, fleet, Recorder::nowhere(), start, (duration, replay.drain), options).await
    };
    runtime.context("start the runtime")?.block_on(play)
}

/// One device for each that the file names, with its messages; and when the last falls due.
fn fleet(recorded: Vec<Recorded>, replay: &Replay) -> (Vec<(Device, Outbox)>, Duration) {
    let first = recorded.iter().map(|r| r.at).min().unwrap_or(0);
    let mut by_device: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    let mut last = Duration::ZERO;
    for record in recorded {
        let after = Duration::from_nanos(record.at.abs_diff(first));
        let due = Duration::try_from_secs_f64(after.as_secs_f64() / replay.speed).unwrap_or(Duration::MAX / 4);
        last = last.max(due);
        let messages = by_device.entry(record.device).or_default();
        messages.push(Message {
            number: messages.len() as u64,
            due,
            topic: Arc::from(record.topic),
            payload: record.payload,
            readings: Vec::new(),
            fate: Fate::Stored,
            trouble: Trouble::default(),
        });
    }
    let group = Group::plain("replay", replay.mqtt, replay.qos, replay.in_flight);
    let fleet = by_device.into_iter().zip(0..).map(|((device, mut messages), index)| {
        messages.sort_by_key(|message| message.due);
        let messages: Outbox = Box::new(messages.into_iter());
        (Device::plain(&device, index, group.clone()), messages)
    });
    (fleet.collect(), last)
}

#[cfg(test)]
mod tests;
