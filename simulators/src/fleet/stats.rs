//! Counters of a running fleet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

/// Number of histograms; devices are spread over them to avoid contention.
const SHARDS: usize = 8;

/// Counters of a fleet.
#[derive(Debug)]
pub struct Stats {
    pub(super) sent: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) quarantined: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) again: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) connected: AtomicU64,
    pub(super) in_flight: AtomicU64,
    latencies: [Mutex<Histogram<u64>>; SHARDS],
    last_failure: Mutex<String>,
}

/// The counters at one moment, and the latencies since the previous sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds after the start.
    pub at_secs: f64,
    /// Messages sent, without repetitions.
    pub sent: u64,
    /// Acknowledged without an error.
    pub acknowledged: u64,
    /// Acknowledged as unreadable.
    pub quarantined: u64,
    /// Acknowledged with an error.
    pub refused: u64,
    /// Sent more than once.
    pub again: u64,
    /// Messages received by subscription.
    pub received: u64,
    /// Successful connections.
    pub connects: u64,
    /// Failed attempts to connect, and connections that broke without a fault of the scenario.
    pub failures: u64,
    /// Current connections.
    pub connected: u64,
    /// Messages in flight now.
    pub in_flight: u64,
    /// Latency from the first transmission to the acknowledgement, microseconds.
    pub latency: Latency,
}

/// Percentiles in microseconds; zeros without samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_micros: u64,
    /// 99th percentile.
    pub p99_micros: u64,
    /// 99.9th percentile.
    pub p999_micros: u64,
    /// Maximum.
    pub max_micros: u64,
}

impl Default for Stats {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            sent: zero(),
            acknowledged: zero(),
            quarantined: zero(),
            refused: zero(),
            again: zero(),
            received: zero(),
            connects: zero(),
            failures: zero(),
            connected: zero(),
            in_flight: zero(),
            latencies: std::array::from_fn(|_| Mutex::new(histogram())),
            last_failure: Mutex::default(),
        }
    }
}

/// Microseconds up to an hour, two digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("the bounds are in order")
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

pub(super) fn subtract(counter: &AtomicU64, count: u64) {
    counter.fetch_sub(count, Ordering::Relaxed);
}

impl Stats {
    pub(super) fn latency(&self, device: u32, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies[device as usize % SHARDS].lock().saturating_record(micros);
    }

    pub(super) fn failed(&self, device: &str, what: &str) {
        add(&self.failures, 1);
        *self.last_failure.lock() = format!("{device}: {what}");
    }

    /// True when attempts to connect failed and none succeeded.
    pub(super) fn never_connected(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > 0 && self.connects.load(Ordering::Relaxed) == 0
    }

    /// The last failure, with the device's name.
    pub fn last_failure(&self) -> String {
        self.last_failure.lock().clone()
    }

    /// Takes a sample; latencies since the last call go into the sample and into `all`.
    pub(super) fn sample(&self, at: Duration, all: &mut Histogram<u64>) -> Sample {
        let mut recent = histogram();
        for shard in &self.latencies {
            let mut shard = shard.lock();
            recent.add(&*shard).expect("both have the same bounds");
            shard.reset();
        }
        all.add(&recent).expect("both have the same bounds");
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Sample {
            at_secs: at.as_secs_f64(),
            sent: now(&self.sent),
            acknowledged: now(&self.acknowledged),
            quarantined: now(&self.quarantined),
            refused: now(&self.refused),
            again: now(&self.again),
            received: now(&self.received),
            connects: now(&self.connects),
            failures: now(&self.failures),
            connected: now(&self.connected),
            in_flight: now(&self.in_flight),
            latency: Latency::of(&recent),
        }
    }
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            p50_micros: histogram.value_at_quantile(0.5),
            p99_micros: histogram.value_at_quantile(0.99),
            p999_micros: histogram.value_at_quantile(0.999),
            max_micros: histogram.max(),
        }
    }
}
