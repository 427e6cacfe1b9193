//! The summary of a run as text, JSON and HTML.

mod chart;
mod html;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::fleet::{Latency, Played, Sample};
use crate::oracle::{StoreReport, SubscriberReport};
use crate::scenario::Scenario;

pub use html::html;

/// Figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of the scenario.
    pub seed: u64,
    /// Start time, RFC 3339.
    pub started: String,
    /// Number of devices.
    pub devices: usize,
    /// Duration.
    pub lasted_secs: f64,
    /// The counters at the end.
    pub total: Sample,
    /// Latency from the first transmission to the acknowledgement, over the whole run.
    pub latency: Latency,
    /// Maximum number of connected devices.
    pub most_connected: u64,
    /// Average acknowledged messages per second while messages were due.
    pub acknowledged_per_second: f64,
    /// The last failure; empty without one.
    pub last_failure: String,
    /// True when it was interrupted (Ctrl-C).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// Reports about the verified stores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<StoreReport>,
    /// Reports about the subscribers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscribers: Vec<SubscriberReport>,
}

impl Summary {
    /// The summary of a scenario.
    pub fn new(scenario: &Scenario, played: &Played, stores: Vec<StoreReport>) -> Self {
        Self::of(&scenario.name, scenario.seed, scenario.duration, played, stores)
    }

    /// The summary of a replay.
    pub fn of_file(name: &str, played: &Played) -> Self {
        Self::of(name, 0, played.lasted, played, Vec::new())
    }

    /// The summary with the reports about its subscribers.
    #[must_use]
    pub fn with(self, subscribers: Vec<SubscriberReport>) -> Self {
        Self { subscribers, ..self }
    }

    /// True when no store and no subscriber has differences.
    pub fn is_clean(&self) -> bool {
        self.stores.iter().all(|store| store.findings.is_clean())
            && self.subscribers.iter().all(SubscriberReport::is_clean)
    }

    /// True when every message was acknowledged without an error.
    pub fn all_taken(&self) -> bool {
        self.total.acknowledged == self.total.sent
    }

    fn of(name: &str, seed: u64, duration: Duration, played: &Played, stores: Vec<StoreReport>) -> Self {
        let total = played.samples.last().cloned().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
        let acknowledged = (total.acknowledged + total.quarantined) as f64;
        let started = jiff::Timestamp::from_nanosecond(i128::from(played.start));
        Self {
            scenario: name.to_owned(),
            seed,
            started: started.map_or_else(|_| String::new(), |t| format!("{t:.3}")),
            devices: played.devices,
            lasted_secs: played.lasted.as_secs_f64(),
            acknowledged_per_second: acknowledged / played.lasted.min(duration).as_secs_f64().max(0.001),
            most_connected: played.samples.iter().map(|sample| sample.connected).max().unwrap_or(0),
            latency: played.latency,
            last_failure: played.last_failure.clone(),
            interrupted: played.interrupted,
            total,
            stores,
            subscribers: Vec::new(),
        }
    }

    /// Lines of name and value, the most important first.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        use crate::fleet::micros;
        let t = &self.total;
        let l = &self.latency;
        let mut lines = vec![
            ("devices", self.devices.to_string()),
            ("lasted", format!("{:.1} s", self.lasted_secs)),
            ("messages sent", t.sent.to_string()),
            ("acknowledged", format!("{} ({:.0}/s)", t.acknowledged, self.acknowledged_per_second)),
            ("acknowledged as unreadable", t.quarantined.to_string()),
            ("refused", t.refused.to_string()),
            ("never acknowledged", (t.sent - t.acknowledged - t.quarantined - t.refused).to_string()),
            ("sent again", t.again.to_string()),
            ("connections made", format!("{} (at one time {})", t.connects, self.most_connected)),
            ("connections failed", t.failures.to_string()),
            (
                "acknowledgement took",
                format!(
                    "p50 {}, p99 {}, p99.9 {}, at most {}",
                    micros(l.p50_micros),
                    micros(l.p99_micros),
                    micros(l.p999_micros),
                    micros(l.max_micros)
                ),
            ),
        ];
        if t.received > 0 {
            lines.push(("received by subscription", t.received.to_string()));
        }
        if !self.last_failure.is_empty() {
            lines.push(("last failure", self.last_failure.clone()));
        }
        lines
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interrupted = if self.interrupted { ", interrupted" } else { "" };
        writeln!(f, "{}, seed {}, started {}{interrupted}", self.scenario, self.seed, self.started)?;
        for (name, value) in self.lines() {
            writeln!(f, "  {name:<28}{value}")?;
        }
        self.stores.iter().try_for_each(|store| write!(f, "{store}"))?;
        self.subscribers.iter().try_for_each(|subscriber| write!(f, "{subscriber}"))
    }
}

#[cfg(test)]
mod tests;
