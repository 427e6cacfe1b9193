//! The use of tenants with limits, exchanged with the other processes of a fleet once a second, so
//! that limits hold for all of them together (ADR 0019).

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::members::Exchange;
use door::quota::HOLD;
use identity::Gate;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

/// Time between two exchanges, and the longest wait for one.
const PERIOD: Duration = Duration::from_secs(1);
/// Time after which the others forget this process when it dies.
pub(super) const FORGET: Duration = Duration::from_secs(4);

/// Metrics of the exchange.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    processes: Gauge,
    failures: Counter,
    report_bytes: Gauge,
    left_out: Gauge,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let limits = registry.sub_registry_with_prefix("weir_limits");
        limits.register(
            "processes",
            "Processes that limits of tenants hold for together, as known last; 0 without an exchange",
            self.processes.clone(),
        );
        limits.register(
            "exchange_failures",
            "Exchanges of the use of tenants with the other processes that failed",
            self.failures.clone(),
        );
        limits.register("report_bytes", "Bytes of the last report to the other processes", self.report_bytes.clone());
        limits.register(
            "tenants_left_out",
            "Tenants without room in the last report: their limits hold for each process",
            self.left_out.clone(),
        );
    }
}

/// Exchanges until it is stopped. `kept` returns the numbers of sessions and of subscriptions that
/// a tenant has in this process.
pub(super) async fn run(
    exchange: Exchange,
    gate: Gate,
    kept: impl Fn(&str) -> (usize, usize),
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut health = Health { heard: Instant::now(), is_failing: false, unread: 0 };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let (report, left_out) = gate.tell_use(&kept);
        metrics.report_bytes.set(report.len() as i64);
        metrics.left_out.set(left_out as i64);
        let answered = tokio::select! {
            () = stop.cancelled() => break,
            answered = tokio::time::timeout(PERIOD, exchange.report(&report)) => answered,
        };
        match answered {
            Ok(Ok(others)) => {
                let unread = gate.hear_use(&others);
                metrics.processes.set(others.len() as i64 + 1);
                health.heard(unread);
                continue;
            }
            Ok(Err(error)) => health.missed(&error.to_string()),
            Err(_) => health.missed("Redis does not answer within a second"),
        }
        metrics.failures.inc();
        gate.miss_use();
    }
    // The others need not wait until it is forgotten.
    if !matches!(tokio::time::timeout(PERIOD, exchange.leave()).await, Ok(Ok(()))) {
        tracing::debug!("the other processes forget the use of tenants of this one in a few seconds");
    }
}

/// The state of the exchange, for the log: a line when it changes.
#[derive(Debug)]
struct Health {
    heard: Instant,
    is_failing: bool,
    unread: usize,
}

impl Health {
    fn heard(&mut self, unread: usize) {
        self.heard = Instant::now();
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("limits of tenants hold for all processes together again");
        }
        if std::mem::replace(&mut self.unread, unread) != unread && unread > 0 {
            tracing::warn!(
                processes = unread,
                "what other processes tell of the use of tenants cannot be read, and is not counted for their limits: \
                 run the same release everywhere"
            );
        }
    }

    fn missed(&mut self, reason: &str) {
        if !self.is_failing && self.heard.elapsed() > HOLD {
            self.is_failing = true;
            tracing::warn!(
                reason,
                "the use of tenants is not exchanged with other processes: each has an equal part of the rates, and \
                 counts connections, streams, sessions and subscriptions alone"
            );
        }
    }
}
