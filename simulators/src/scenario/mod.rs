//! What a fleet does, as a person writes it down.

mod check;
mod load;
mod shipped;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use load::load;
#[cfg(test)]
pub(crate) use load::parse;
pub use shipped::{SHIPPED, shipped};
pub(crate) use text::duration;
pub use text::parse_duration;

/// A fleet, what it sends, and what goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, in reports.
    pub name: String,
    /// What it shows, one line.
    #[serde(default)]
    pub about: String,
    /// Decides every value, every jitter and every fault.
    #[serde(default)]
    pub seed: u64,
    /// Readings fall due for this long.
    #[serde(with = "duration")]
    pub duration: Duration,
    /// How long after that devices may take to have everything acknowledged.
    #[serde(with = "duration", default = "default_drain")]
    pub drain: Duration,
    /// Devices that are alike.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
    /// What happens to many devices at once.
    #[serde(rename = "event", default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

/// Devices that are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many devices.
    pub count: u32,
    /// Device id: `{n}` is the number in the group from 0, `{n:5}` the same with five digits, `{group}` the group's name.
    #[serde(default = "default_id")]
    pub id: String,
    /// Where it publishes: `{device}` is the device id; with the format `value` also `{name}`.
    #[serde(default)]
    pub topic: Option<String>,
    /// Time between two messages of one device.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Part of the interval by which each message is early or late, at random: 0 to 0.5.
    #[serde(default)]
    pub jitter: f64,
    /// Other intervals for a while.
    #[serde(default, rename = "pace", skip_serializing_if = "Vec::is_empty")]
    pub paces: Vec<Pace>,
    /// The devices begin one after another, spread over this time.
    #[serde(with = "duration", default)]
    pub ramp: Duration,
    /// Quality of service: 0, 1 or 2.
    #[serde(default = "default_qos")]
    pub qos: u8,
    /// MQTT version: `3.1.1` or `5`.
    #[serde(default)]
    pub mqtt: Version,
    /// Whose MQTT client plays the devices.
    #[serde(default)]
    pub client: Client,
    /// The broker forgets the session when the connection ends.
    #[serde(default = "default_true")]
    pub clean_start: bool,
    /// MQTT 5: how long the broker keeps the session of a device that is away.
    #[serde(with = "duration", default)]
    pub session_expiry: Duration,
    /// MQTT keep-alive; 0 is none.
    #[serde(with = "duration", default = "default_keep_alive")]
    pub keep_alive: Duration,
    /// Unacknowledged messages of one device at most.
    #[serde(default = "default_in_flight")]
    pub in_flight: u16,
    /// A topic filter to subscribe to; what comes in is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<String>,
    /// MQTT user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// MQTT password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// How a payload looks.
    #[serde(default)]
    pub payload: Payload,
    /// What is measured, by name.
    pub values: BTreeMap<String, Model>,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Faults,
}

/// Another interval for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// From this time after the start.
    #[serde(with = "duration")]
    pub from: Duration,
    /// Until this time.
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

/// Whose MQTT client plays the devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// A small one of our own, which can do what a client library refuses to do.
    #[default]
    Lean,
    /// rumqttc, MQTT 3.1.1 at QoS 1: a client that people use.
    Rumqttc,
}

/// How a payload looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payload {
    /// Its form.
    pub format: Format,
    /// How the time is written.
    pub time: TimeFormat,
    /// With the device's own counter, `seq`.
    pub sequence: bool,
    /// Readings in one message, with the format `json`.
    pub batch: u32,
    /// With the format `template`: the text, with `{time}`, `{seq}`, `{device}` and `{NAME}` for each value.
    pub template: Option<String>,
}

/// Form of a payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One object, or an array of them.
    #[default]
    Json,
    /// As `json`; names with dots become objects in objects.
    Nested,
    /// One bare value for each message, each value in its turn, on a topic of its own.
    Value,
    /// A text with places for the values.
    Template,
}

/// How a device writes the time.
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
    /// Not at all.
    None,
}

/// How a value goes on from reading to reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", deny_unknown_fields)]
pub enum Model {
    /// Always the same: a number, a boolean or a text.
    Constant {
        /// The value.
        value: toml::Value,
    },
    /// A step up or down each time.
    RandomWalk {
        /// First value.
        start: f64,
        /// Largest step.
        step: f64,
        /// Never below.
        #[serde(default = "lowest")]
        min: f64,
        /// Never above.
        #[serde(default = "highest")]
        max: f64,
        /// Digits after the point.
        #[serde(default = "default_digits")]
        digits: u8,
    },
    /// Highest at 14:00 UTC, lowest at 02:00, with noise.
    Daily {
        /// Mean of the day.
        mean: f64,
        /// Half the distance between lowest and highest.
        amplitude: f64,
        /// Largest noise.
        #[serde(default)]
        noise: f64,
        /// Digits after the point.
        #[serde(default = "default_digits")]
        digits: u8,
    },
    /// Rises evenly, then falls back.
    Sawtooth {
        /// Lowest.
        min: f64,
        /// Highest.
        max: f64,
        /// Time of one tooth.
        #[serde(with = "duration")]
        period: Duration,
        /// Digits after the point.
        #[serde(default = "default_digits")]
        digits: u8,
    },
    /// Counts up from a number, an integer.
    Counter {
        /// First value.
        #[serde(default)]
        start: i64,
        /// Added each time.
        #[serde(default = "one")]
        step: i64,
    },
    /// True with a probability.
    Flag {
        /// Of true: 0 to 1.
        probability: f64,
    },
    /// One of a few, at random: numbers, booleans or texts.
    Choice {
        /// Which.
        of: Vec<toml::Value>,
    },
    /// The lines of a column of a CSV file, from the top again after the last. Each device begins at a line of its own.
    Csv {
        /// The file, from the folder of the scenario.
        file: String,
        /// Name in the head line.
        column: String,
    },
}

/// What goes wrong, each with a probability for each message (0 to 1) unless it says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// The link breaks when the message is sent, before its acknowledgement is read.
    pub drop_before_ack: f64,
    /// The link breaks when the acknowledgement was read.
    pub drop_after_ack: f64,
    /// The same message is published twice, each with a packet id of its own.
    pub duplicate: f64,
    /// The message is sent again, marked as such, though it was acknowledged.
    pub resend: f64,
    /// The device goes on over a new connection and leaves the old one open.
    pub half_open: f64,
    /// One of the values comes as text.
    pub type_flip: f64,
    /// The payload is cut in the middle.
    pub malformed: f64,
    /// The payload is of `oversize_bytes`.
    pub oversize: f64,
    /// Size of an oversize payload.
    pub oversize_bytes: u32,
    /// The message goes out later, up to `late_by`.
    pub late: f64,
    /// How much later at most.
    #[serde(with = "duration")]
    pub late_by: Duration,
    /// The message goes out after the one that follows it.
    pub out_of_order: f64,
    /// Each device's clock is wrong by up to this, ahead or behind.
    #[serde(with = "duration")]
    pub clock_skew: Duration,
    /// Each device's clock gains or loses up to this part of the time: 0.001 is a second in a thousand.
    pub clock_drift: f64,
    /// The clock jumps by up to `clock_jump_by`, ahead or behind, and stays there.
    pub clock_jump: f64,
    /// How far at most.
    #[serde(with = "duration")]
    pub clock_jump_by: Duration,
    /// After each read from the connection the device waits this long before the next.
    #[serde(with = "duration")]
    pub slow_reader: Duration,
    /// The first wait before a new connection; it doubles up to `reconnect_max`.
    #[serde(with = "duration", skip_serializing_if = "Duration::is_zero")]
    pub reconnect: Duration,
    /// The longest wait before a new connection.
    #[serde(with = "duration", skip_serializing_if = "Duration::is_zero")]
    pub reconnect_max: Duration,
    /// All devices wait exactly as long: they come back at one moment.
    pub reconnect_in_step: bool,
}

/// What happens to many devices at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// Links break; the devices come back within `within`.
    Reconnect {
        /// When, after the start.
        #[serde(with = "duration")]
        at: Duration,
        /// Part of the devices: 0 to 1.
        #[serde(default = "default_share")]
        share: f64,
        /// They come back spread over this time; all at once when it is 0.
        #[serde(with = "duration", default)]
        within: Duration,
    },
    /// Devices are away, go on measuring, and send everything when they are back.
    Offline {
        /// When, after the start.
        #[serde(with = "duration")]
        at: Duration,
        /// How long.
        #[serde(with = "duration", rename = "for")]
        lasts: Duration,
        /// Part of the devices: 0 to 1.
        #[serde(default = "default_share")]
        share: f64,
    },
}

impl Scenario {
    /// Devices in all.
    pub fn devices(&self) -> usize {
        self.groups.iter().map(|g| g.count as usize).sum()
    }

    /// The same with `devices` of its devices and `time` of its time; intervals stay. At least one device a group.
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
    /// One that says only how to connect.
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

    /// Where it publishes.
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
    /// When it begins.
    pub fn at(&self) -> Duration {
        match self {
            Self::Reconnect { at, .. } | Self::Offline { at, .. } => *at,
        }
    }

    /// Part of the devices.
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
