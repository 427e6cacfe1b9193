//! Metrics of messages by their outcome.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::decode::Class;
use crate::unrouted::Unrouted;

type ByReason = Family<[(&'static str, &'static str); 1], Counter>;

/// Metrics of the way from payloads to readings.
#[derive(Debug)]
pub struct Metrics {
    /// Messages read.
    pub messages: Counter,
    /// Readings staged.
    pub readings: Counter,
    /// Values of these readings.
    pub values: Counter,
    /// Readings without a value.
    pub empty: Counter,
    /// Values sent as null or NaN, without a name, or that their route cannot convert.
    pub nulls: Counter,
    /// Messages that could not be read.
    pub dead_letters: Counter,
    /// Messages with a reading of a device other than their sender.
    pub denied: Counter,
    /// Messages of new devices, or with new value names, beyond a limit of their tenant.
    pub over_quota: Counter,
    /// Messages that no route matches.
    pub plain: Counter,
    /// The topics of these messages.
    pub unrouted: Unrouted,
    /// Readings whose device time is too far in the future.
    pub clock_ahead: Counter,
    /// Readings with a device time that is implausible or cannot be read.
    pub times_unusable: Counter,
    /// Readings of a shape new to their connection.
    pub schema_misses: Counter,
    refused: ByReason,
}

impl Default for Metrics {
    fn default() -> Self {
        let refused = ByReason::default();
        for class in Class::ALL {
            // Every reason is exported from the start, at 0.
            drop(refused.get_or_create(&[("reason", class.name())]));
        }
        Self {
            messages: Counter::default(),
            readings: Counter::default(),
            values: Counter::default(),
            empty: Counter::default(),
            nulls: Counter::default(),
            dead_letters: Counter::default(),
            denied: Counter::default(),
            over_quota: Counter::default(),
            plain: Counter::default(),
            unrouted: Unrouted::default(),
            clock_ahead: Counter::default(),
            times_unusable: Counter::default(),
            schema_misses: Counter::default(),
            refused,
        }
    }
}

impl Metrics {
    /// Registers the metrics as `weir_ingest_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_ingest");
        r.register("messages", "Telemetry messages read", self.messages.clone());
        r.register("readings", "Readings staged for the log", self.readings.clone());
        r.register("values", "Values of readings staged for the log", self.values.clone());
        r.register("empty", "Readings without a value", self.empty.clone());
        r.register(
            "nulls",
            "Values sent as null or NaN, without a name, or that their route cannot convert",
            self.nulls.clone(),
        );
        r.register("dead_letters", "Messages that could not be read", self.dead_letters.clone());
        r.register("refused", "Messages that could not be read, by reason", self.refused.clone());
        let help = "Messages refused because of a limit of devices or series of their tenant";
        r.register("over_quota", help, self.over_quota.clone());
        r.register("denied", "Messages with a reading of a device other than their sender", self.denied.clone());
        r.register("plain", "Messages that no route matches", self.plain.clone());
        r.register("clock_ahead", "Readings whose device time was too far in the future", self.clock_ahead.clone());
        r.register(
            "times_unusable",
            "Readings whose device time was implausible or could not be read",
            self.times_unusable.clone(),
        );
        r.register("schema_misses", "Readings of a shape new to their connection", self.schema_misses.clone());
    }

    /// Returns the number of messages refused for a reason of this class.
    pub fn refused(&self, class: Class) -> u64 {
        self.refused.get_or_create(&[("reason", class.name())]).get()
    }

    pub(crate) fn refuse(&self, class: Class) {
        self.dead_letters.inc();
        self.refused.get_or_create(&[("reason", class.name())]).inc();
    }
}

/// Counts of one connection since its last turn.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    pub(crate) readings: u64,
    pub(crate) values: u64,
    pub(crate) empty: u64,
    pub(crate) nulls: u64,
    pub(crate) plain: u64,
    pub(crate) clock_ahead: u64,
    pub(crate) times_unusable: u64,
    pub(crate) schema_misses: u64,
}

impl Tally {
    /// Adds the counts to the metrics and resets them.
    pub(crate) fn flush(&mut self, metrics: &Metrics) {
        let Self { messages, readings, values, empty, nulls, plain, clock_ahead, times_unusable, schema_misses } =
            std::mem::take(self);
        for (counter, count) in [
            (&metrics.messages, messages),
            (&metrics.readings, readings),
            (&metrics.values, values),
            (&metrics.empty, empty),
            (&metrics.nulls, nulls),
            (&metrics.plain, plain),
            (&metrics.clock_ahead, clock_ahead),
            (&metrics.times_unusable, times_unusable),
            (&metrics.schema_misses, schema_misses),
        ] {
            if count > 0 {
                counter.inc_by(count);
            }
        }
    }
}
