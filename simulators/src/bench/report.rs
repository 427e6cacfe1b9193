//! The report of a measurement.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Load;
use super::calls::Calls;
use super::connection::Outcome;

/// Figures of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Requested connections.
    pub connections: usize,
    /// Messages in flight on each connection.
    pub in_flight: usize,
    /// Measured seconds.
    pub seconds: f64,
    /// Seconds until all devices were connected.
    pub connect_seconds: f64,
    /// Messages acknowledged within the measured time.
    pub acknowledged: u64,
    /// Messages acknowledged per second.
    pub per_second: f64,
    /// PUBACK latency, microseconds.
    pub puback_p50_us: u64,
    /// PUBACK latency, microseconds.
    pub puback_p99_us: u64,
    /// PUBACK latency, microseconds.
    pub puback_p999_us: u64,
    /// PUBACK latency, microseconds.
    pub puback_max_us: u64,
    /// CPU time of the broker per message, microseconds.
    pub broker_cpu_us: Option<f64>,
    /// Resident memory of the broker at the end.
    pub broker_resident_bytes: Option<u64>,
    /// Calls to the server meanwhile.
    pub calls: Option<Calls>,
    /// Connections that ended early.
    pub failed_connections: usize,
    /// Error of the first connection that ended early.
    pub first_failure: String,
    #[serde(skip)]
    latencies: Histogram<u64>,
}

impl Report {
    pub(super) fn new(
        load: &Load,
        measured: Duration,
        connect: Duration,
        acknowledged: u64,
        cpu_micros: Option<u64>,
        resident: Option<u64>,
    ) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (count, cpu) = (acknowledged as f64, cpu_micros.map(|c| c as f64 / (acknowledged.max(1) as f64)));
        Self {
            connections: load.conns,
            in_flight: load.inflight,
            seconds: measured.as_secs_f64(),
            connect_seconds: connect.as_secs_f64(),
            acknowledged,
            per_second: count / measured.as_secs_f64(),
            puback_p50_us: 0,
            puback_p99_us: 0,
            puback_p999_us: 0,
            puback_max_us: 0,
            broker_cpu_us: cpu,
            broker_resident_bytes: resident,
            calls: None,
            failed_connections: 0,
            first_failure: String::new(),
            latencies: super::connection::histogram(),
        }
    }

    pub(super) fn add(&mut self, outcome: Outcome) -> anyhow::Result<()> {
        if let Some(latencies) = &outcome.latencies {
            self.latencies.add(latencies)?;
        }
        if let Some(failure) = outcome.failure {
            if self.failed_connections == 0 {
                self.first_failure = failure;
            }
            self.failed_connections += 1;
        }
        self.puback_p50_us = self.latencies.value_at_quantile(0.5);
        self.puback_p99_us = self.latencies.value_at_quantile(0.99);
        self.puback_p999_us = self.latencies.value_at_quantile(0.999);
        self.puback_max_us = self.latencies.max();
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} connections, {} in flight, {:.1} s", self.connections, self.in_flight, self.seconds)?;
        writeln!(f, "  acknowledged  {} = {:.0}/s", self.acknowledged, self.per_second)?;
        writeln!(
            f,
            "  PUBACK        p50 {} us, p99 {} us, p99.9 {} us, max {} us",
            self.puback_p50_us, self.puback_p99_us, self.puback_p999_us, self.puback_max_us
        )?;
        if let Some(cpu) = self.broker_cpu_us {
            writeln!(f, "  broker CPU    {cpu:.2} us per message")?;
        }
        if let Some(bytes) = self.broker_resident_bytes {
            writeln!(f, "  broker memory {:.1} MB", bytes as f64 / 1e6)?;
        }
        if let Some(Calls { answered, failed, p50_us, p99_us, max_us, .. }) = &self.calls {
            writeln!(
                f,
                "  calls         {answered} answered, {failed} failed, p50 {p50_us} us, p99 {p99_us} us, max {max_us} us"
            )?;
        }
        if self.failed_connections > 0 {
            writeln!(f, "  failed        {} connections: {}", self.failed_connections, self.first_failure)?;
        }
        Ok(())
    }
}
