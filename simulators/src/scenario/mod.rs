//! The definition of a scenario.

mod check;
mod load;
mod shipped;
mod subscriber;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use load::load;
#[cfg(test)]
pub(crate) use load::parse;
pub use shipped::{SHIPPED, shipped};
pub use subscriber::{Subscribers, matches};
pub(crate) use text::duration;
pub use text::parse_duration;

/// A fleet, its messages, and their faults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name in reports.
    pub name: String,
    /// Purpose, in one line.
    #[serde(default)]
    pub about: String,
    /// Seed of every value, every jitter and every fault.
    #[serde(default)]
    pub seed: u64,
    /// Time in which readings are due.
    #[serde(with = "duration")]
    pub duration: Duration,
    /// Time after that for the last acknowledgements.
    #[serde(with = "duration", default = "default_drain")]
    pub drain: Duration,
    /// A group of similar devices.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
    /// Events that affect many devices at once.
    #[serde(rename = "event", default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// A group of subscribers whose deliveries are verified.
    #[serde(rename = "subscriber", default, skip_serializing_if = "Vec::is_empty")]
    pub subscribers: Vec<Subscribers>,
}

/// A group of similar devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Name of the group.
    pub name: String,
    /// Number of devices.
    pub count: u32,
    /// Device id: `{n}` is the number in the group from 0, `{n:5}` the same with five digits,
    /// `{group}` the group's name.
    #[serde(default = "default_id")]
    pub id: String,
    /// Topic: `{device}` is the device id; with the format `value` also `{name}`.
    #[serde(default)]
    pub topic: Option<String>,
    /// Time between two messages of one device.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Share of the interval by which each message is early or late at random: 0 to 0.5.
    #[serde(default)]
    pub jitter: f64,
    /// Other intervals for some time.
    #[serde(default, rename = "pace", skip_serializing_if = "Vec::is_empty")]
    pub paces: Vec<Pace>,
    /// The starts of the devices are spread over this time.
    #[serde(with = "duration", default)]
    pub ramp: Duration,
    /// QoS: 0, 1 or 2.
    #[serde(default = "default_qos")]
    pub qos: u8,
    /// MQTT version: `3.1.1` or `5`.
    #[serde(default)]
    pub mqtt: Version,
    /// MQTT client of the devices.
    #[serde(default)]
    pub client: Client,
    /// The broker discards the session when the connection ends.
    #[serde(default = "default_true")]
    pub clean_start: bool,
    /// MQTT 5: session expiry interval.
    #[serde(with = "duration", default)]
    pub session_expiry: Duration,
    /// MQTT keep-alive; 0 turns it off.
    #[serde(with = "duration", default = "default_keep_alive")]
    pub keep_alive: Duration,
    /// Maximum number of unacknowledged messages of a device.
    #[serde(default = "default_in_flight")]
    pub in_flight: u16,
    /// Topic filter to subscribe to; received messages are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<String>,
    /// MQTT user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// MQTT password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Format of payloads.
    #[serde(default)]
    pub payload: Payload,
    /// Measured values by name.
    pub values: BTreeMap<String, Model>,
    /// Faults.
    #[serde(default)]
    pub faults: Faults,
}

/// Another interval for some time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Begin, after the start.
    #[serde(with = "duration")]
    pub from: Duration,
    /// End, after the start.
    #[serde(with = "duration")]
    pub until: Duration,
    /// Time between two messages.
    #[serde(with = "duration")]
    pub interval: Duration,
}

/// MQTT version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// 3.1.1.
    #[serde(rename = "3.1.1")]
    V3,
    /// 5.
    #[default]
    #[serde(rename = "5")]
    V5,
}

/// MQTT client of the devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// A lean client that can inject faults.
    #[default]
    Lean,
    /// rumqttc, MQTT 3.1.1 at QoS 1: a widely used client.
    Rumqttc,
}

/// Format of payloads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payload {
    /// Form of the payload.
    pub format: Format,
    /// Format of the time.
    pub time: TimeFormat,
    /// Adds the device's sequence, `seq`.
    pub sequence: bool,
    /// Readings in one message, with the format `json`.
    pub batch: u32,
    /// With the format `template`: the text, with `{time}`, `{seq}`, `{device}` and `{NAME}` for
    /// each value.
    pub template: Option<String>,
}

/// Form of a payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One object, or an array of them.
    #[default]
    Json,
    /// Like `json`; names with dots become nested objects.
    Nested,
    /// One bare value for each message, the values in turn, each on its own topic.
    Value,
    /// A text with placeholders for the values.
    Template,
}

/// Format of a device's time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeFormat {
    /// Seconds since 1970.
    S,
    /// Milliseconds.
    #[default]
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
    /// `2026-11-20T12:00:00.000Z`.
    Rfc3339,
    /// Without a time.
    None,
}

/// Model of a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", deny_unknown_fields)]
pub enum Model {
    /// A constant number, boolean or text.
    Constant {
        /// The value.
        value: toml::Value,
    },
    /// A random step up or down for each reading.
    RandomWalk {
        /// First value.
        start: f64,
        /// Largest step.
        step: f64,
        /// Minimum.
        #[serde(default = "lowest")]
        min: f64,
        /// Maximum.
        #[serde(default = "highest")]
        max: f64,
        /// Decimals.
        #[serde(default = "default_digits")]
        digits: u8,
    },
    /// Highest at 14:00 UTC, lowest at 02:00, with noise.
    Daily {
        /// Mean of the day.
        mean: f64,
        /// Half the difference between highest and lowest.
        amplitude: f64,
        /// Largest noise.
        #[serde(default)]
        noise: f64,
        /// Decimals.
        #[serde(default = "default_digits")]
        digits: u8,
    },
    /// Rises linearly, then drops back.
    Sawtooth {
        /// Lowest value.
        min: f64,
        /// Highest value.
        max: f64,
        /// Duration of one tooth.
        #[serde(with = "duration")]
        period: Duration,
        /// Decimals.
        #[serde(default = "default_digits")]
        digits: u8,
    },
    /// An integer that counts up.
    Counter {
        /// First value.
        #[serde(default)]
        start: i64,
        /// Increment.
        #[serde(default = "one")]
        step: i64,
    },
    /// True with a probability.
    Flag {
        /// Probability of true: 0 to 1.
        probability: f64,
    },
    /// A random choice of numbers, booleans or texts.
    Choice {
        /// Which.
        of: Vec<toml::Value>,
    },
    /// The lines of a column of a CSV file, repeated from the top. Each device starts at a
    /// different line.
    Csv {
        /// Path of the file, relative to the scenario.
        file: String,
        /// Name of the column in the header.
        column: String,
    },
}

/// Faults, each with a probability for each message (0 to 1) unless noted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// The connection breaks when the message is sent, before its acknowledgement is read.
    pub drop_before_ack: f64,
    /// The connection breaks after the acknowledgement was read.
    pub drop_after_ack: f64,
    /// The message is published twice with different packet ids.
    pub duplicate: f64,
    /// The message is sent again with DUP although it was acknowledged.
    pub resend: f64,
    /// The device continues on a new connection and leaves the old one open.
    pub half_open: f64,
    /// One of the values is sent as text.
    pub type_flip: f64,
    /// The payload is truncated.
    pub malformed: f64,
    /// The payload has `oversize_bytes`.
    pub oversize: f64,
    /// Size of an oversize payload.
    pub oversize_bytes: u32,
    /// The message is sent late, by up to `late_by`.
    pub late: f64,
    /// Maximum delay of a late message.
    #[serde(with = "duration")]
    pub late_by: Duration,
    /// The message is sent after the following one.
    pub out_of_order: f64,
    /// Maximum offset of each device's clock, ahead or behind.
    #[serde(with = "duration")]
    pub clock_skew: Duration,
    /// Maximum drift of each device's clock: 0.001 is a second in a thousand.
    pub clock_drift: f64,
    /// The clock jumps by up to `clock_jump_by`, ahead or behind, and stays there.
    pub clock_jump: f64,
    /// Maximum jump of the clock.
    #[serde(with = "duration")]
    pub clock_jump_by: Duration,
    /// Wait after each read from the connection.
    #[serde(with = "duration")]
    pub slow_reader: Duration,
    /// First wait before a new connection; it doubles up to `reconnect_max`.
    #[serde(with = "duration", skip_serializing_if = "Duration::is_zero")]
    pub reconnect: Duration,
    /// Longest wait before a new connection.
    #[serde(with = "duration", skip_serializing_if = "Duration::is_zero")]
    pub reconnect_max: Duration,
    /// Waits have no jitter, so that devices reconnect at the same moment.
    pub reconnect_in_step: bool,
}

/// Events that affect many devices at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// Connections break; the devices reconnect within `within`.
    Reconnect {
        /// Time after the start.
        #[serde(with = "duration")]
        at: Duration,
        /// Share of the devices: 0 to 1.
        #[serde(default = "default_share")]
        share: f64,
        /// Time over which the reconnects are spread; 0 is all at once.
        #[serde(with = "duration", default)]
        within: Duration,
    },
    /// Devices are disconnected, continue to measure, and send the backlog when they are back.
    Offline {
        /// Time after the start.
        #[serde(with = "duration")]
        at: Duration,
        /// Duration.
        #[serde(with = "duration", rename = "for")]
        lasts: Duration,
        /// Share of the devices: 0 to 1.
        #[serde(default = "default_share")]
        share: f64,
    },
}

impl Scenario {
    /// Total number of devices.
    pub fn devices(&self) -> usize {
        self.groups.iter().map(|g| g.count as usize).sum()
    }

    /// Scales the devices by `devices`, at least one for each group, and the time by `time`;
    /// intervals are unchanged.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of devices, rounded")]
    pub fn scaled(mut self, devices: f64, time: f64) -> Self {
        let stretch = |d: &mut Duration| *d = d.mul_f64(time);
        stretch(&mut self.duration);
        for group in &mut self.groups {
            group.count = ((f64::from(group.count) * devices).round() as u32).max(1);
            stretch(&mut group.ramp);
            stretch(&mut group.faults.late_by);
            for pace in &mut group.paces {
                stretch(&mut pace.from);
                stretch(&mut pace.until);
            }
        }
        for event in &mut self.events {
            match event {
                Event::Reconnect { at, within, .. } => [at, within].map(stretch),
                Event::Offline { at, lasts, .. } => [at, lasts].map(stretch),
            };
        }
        self
    }
}

impl Group {
    /// A group that defines only the connection.
    pub(crate) fn plain(name: &str, mqtt: Version, qos: u8, in_flight: u16) -> Self {
        Self {
            name: name.to_owned(),
            count: 1,
            id: default_id(),
            topic: None,
            interval: Duration::from_secs(1),
            jitter: 0.0,
            paces: Vec::new(),
            ramp: Duration::ZERO,
            qos,
            mqtt,
            client: Client::Lean,
            clean_start: true,
            session_expiry: Duration::ZERO,
            keep_alive: default_keep_alive(),
            in_flight,
            subscribe: None,
            username: None,
            password: None,
            payload: Payload::default(),
            values: BTreeMap::new(),
            faults: Faults::default(),
        }
    }

    /// Topic of the group.
    pub fn topic(&self) -> &str {
        let usual = match self.payload.format {
            Format::Value => "devices/{device}/telemetry/{name}",
            Format::Json | Format::Nested | Format::Template => "devices/{device}/telemetry",
        };
        self.topic.as_deref().unwrap_or(usual)
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self { format: Format::Json, time: TimeFormat::Ms, sequence: true, batch: 1, template: None }
    }
}

impl Event {
    /// Time of the event.
    pub fn at(&self) -> Duration {
        match self {
            Self::Reconnect { at, .. } | Self::Offline { at, .. } => *at,
        }
    }

    /// Share of the devices.
    pub fn share(&self) -> f64 {
        match self {
            Self::Reconnect { share, .. } | Self::Offline { share, .. } => *share,
        }
    }
}

fn default_drain() -> Duration {
    Duration::from_secs(120)
}

fn default_id() -> String {
    "{group}-{n}".to_owned()
}

fn default_qos() -> u8 {
    1
}

fn default_true() -> bool {
    true
}

fn default_keep_alive() -> Duration {
    Duration::from_secs(60)
}

fn default_in_flight() -> u16 {
    16
}

fn default_digits() -> u8 {
    2
}

fn default_share() -> f64 {
    1.0
}

fn one() -> i64 {
    1
}

fn lowest() -> f64 {
    f64::MIN
}

fn highest() -> f64 {
    f64::MAX
}

#[cfg(test)]
mod tests;
