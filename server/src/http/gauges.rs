//! Figures that are computed when the metrics are read.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use stores::contract::BookLine;

type FloatGauge = Gauge<f64, AtomicU64>;

/// Half-life of a sample in the rate at which the log fills.
const HALF_LIFE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sink {
    sink: String,
}

/// Gauges of the log, the disk and the books.
#[derive(Debug)]
pub(super) struct Gauges {
    log: LogGauges,
    available: Gauge,
    imbalance: Family<Sink, Gauge>,
}

/// Gauges of a log.
#[derive(Debug, Default)]
pub(super) struct LogGauges {
    capacity: Gauge,
    full_in: FloatGauge,
    filling: Option<Filling>,
}

impl LogGauges {
    /// Puts them into a registry.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        gauges.full_in.set(f64::INFINITY);
        let buffer = registry.sub_registry_with_prefix("weir_buffer");
        buffer.register_with_unit("capacity", "Bytes that the log may use", Unit::Bytes, gauges.capacity.clone());
        buffer.register_with_unit(
            "full_in",
            "Time until the log is full at its present rate; +Inf while it does not fill",
            Unit::Seconds,
            gauges.full_in.clone(),
        );
        gauges
    }

    pub(super) fn update(&mut self, used: u64, capacity: u64, at: Instant) {
        self.capacity.set(i64::try_from(capacity).unwrap_or(i64::MAX));
        let filling = Filling::after(self.filling, used, at);
        self.filling = Some(filling);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let left = capacity.saturating_sub(used) as f64;
        self.full_in.set(if filling.rate > 0.0 { left / filling.rate } else { f64::INFINITY });
    }
}

/// Rate at which the log fills.
#[derive(Debug, Clone, Copy)]
struct Filling {
    at: Instant,
    used: u64,
    /// Bytes a second; negative while the log empties.
    rate: f64,
}

impl Gauges {
    /// Puts them into a registry, at 0 for each projection `in_books`.
    pub(super) fn new(registry: &mut Registry, in_books: &[String]) -> Self {
        let gauges = Self { log: LogGauges::new(registry), available: Gauge::default(), imbalance: Family::default() };
        let weir = registry.sub_registry_with_prefix("weir");
        weir.register_with_unit(
            "data_available",
            "Free space of the data folder",
            Unit::Bytes,
            gauges.available.clone(),
        );
        weir.register(
            "books_imbalance_readings",
            "Readings accepted but not stored, merged, pending or dead-lettered, by sink",
            gauges.imbalance.clone(),
        );
        for sink in in_books {
            gauges.imbalance(sink).set(0);
        }
        gauges
    }

    fn imbalance(&self, sink: &str) -> Gauge {
        self.imbalance.get_or_create_owned(&Sink { sink: sink.to_owned() })
    }

    pub(super) fn update_log(&mut self, used: u64, capacity: u64, at: Instant) {
        self.log.update(used, capacity, at);
    }

    /// Reads the free space of the folder's file system.
    pub(super) fn update_disk(&self, folder: &std::path::Path) {
        if let Ok(disk) = rustix::fs::statvfs(folder) {
            self.available.set(i64::try_from(disk.f_bavail.saturating_mul(disk.f_frsize)).unwrap_or(i64::MAX));
        }
    }

    /// Sums the books of all tenants.
    pub(super) fn update_books(&self, lines: &[BookLine]) {
        let mut sums = std::collections::BTreeMap::<&str, i64>::new();
        for line in lines {
            let off = i64::try_from(line.accepted.abs_diff(line.accounted())).unwrap_or(i64::MAX);
            *sums.entry(&line.sink).or_default() += off;
        }
        for (sink, off) in sums {
            self.imbalance(sink).set(off);
        }
    }
}

impl Filling {
    fn after(before: Option<Self>, used: u64, at: Instant) -> Self {
        let Some(before) = before else { return Self { at, used, rate: 0.0 } };
        let passed = at.duration_since(before.at).as_secs_f64();
        if passed <= 0.0 {
            return before;
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let now = (used as f64 - before.used as f64) / passed;
        let old = 0.5_f64.powf(passed / HALF_LIFE.as_secs_f64());
        Self { at, used, rate: before.rate * old + now * (1.0 - old) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_fills_evenly_is_full_at_the_given_time_and_one_that_does_not_never_is() {
        let mut gauges = Gauges::new(&mut Registry::default(), &[]);
        let begun = Instant::now();
        for second in 0..600 {
            gauges.update_log(second * 1_000, 1_000_000, begun + Duration::from_secs(second));
        }
        let left = gauges.log.full_in.get();
        assert!((395.0..420.0).contains(&left), "{left}");
        for second in 600..1_200 {
            gauges.update_log(599_000 - (second - 599) * 100, 1_000_000, begun + Duration::from_secs(second));
        }
        assert!(gauges.log.full_in.get().is_infinite());
    }

    #[test]
    fn books_that_do_not_balance_are_counted_by_sink() {
        let gauges = Gauges::new(&mut Registry::default(), &[]);
        let line = |sink: &str, accepted, stored| BookLine {
            tenant: "t".into(),
            sink: sink.into(),
            accepted,
            stored,
            merged: 1,
            pending: 2,
            dead_lettered: 3,
            held: None,
            expected: stored,
            hours: Vec::new(),
        };
        gauges.update_books(&[line("history", 106, 100), line("history", 16, 7), line("latest", 6, 0)]);
        assert_eq!((gauges.imbalance("history").get(), gauges.imbalance("latest").get()), (3, 0));
    }

    #[test]
    fn every_projection_of_the_list_has_a_gauge_before_its_books_are_read() {
        let mut registry = Registry::default();
        let names = ["history", "influxdb", "bus"].map(str::to_owned);
        let gauges = Gauges::new(&mut registry, &names);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in &names {
            assert!(text.contains(&format!("weir_books_imbalance_readings{{sink=\"{name}\"}} 0")), "{text}");
            assert_eq!(gauges.imbalance(name).get(), 0);
        }
    }
}
