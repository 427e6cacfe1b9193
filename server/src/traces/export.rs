//! The task that sends spans to the collector.

use std::sync::Arc;
use std::time::Duration;

use model::trace::Span;
use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::trace::SpanExporter;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::convert;
use super::metrics::{Dropped, Metrics};

/// Spans in one request.
const BATCH: usize = 512;
/// A span waits this long for others, whose arrival does not wake the task.
const LINGER: Duration = Duration::from_millis(100);
/// Time to send the last spans of a process.
const LAST: Duration = Duration::from_secs(3);
/// Least time between two warnings about a full queue.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// Takes spans out of the queue; `O` sends them to the collector.
pub(crate) struct Exporter<O = opentelemetry_otlp::SpanExporter> {
    spans: mpsc::Receiver<Span>,
    otlp: O,
    endpoint: String,
    timeout: Duration,
    metrics: Arc<Metrics>,
    scope: InstrumentationScope,
    /// Spans dropped since the collector began to fail; `None` while it accepts them.
    failing: Option<u64>,
    /// Spans of the batch under way.
    in_hand: u64,
    /// Spans dropped by a full queue at the last warning, and its time.
    full: (u64, Option<Instant>),
}

/// Says that the collector's port and `tracing.endpoint` differ about TLS, and what to write.
pub(crate) async fn tls_differs(endpoint: &str) -> Option<String> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let (tls, default) = if scheme == "https" { (true, 443) } else { (false, 80) };
    let (host, port) = stores::tls::host_and_port(rest.trim_end_matches('/'), default);
    let difference = stores::tls::differs(host, port, tls).await?;
    let wanted = if tls { "http://" } else { "https://" };
    Some(format!("{}: write {wanted} in `tracing.endpoint`", difference.words()))
}

impl<O: SpanExporter> Exporter<O> {
    pub(super) fn new(
        spans: mpsc::Receiver<Span>,
        otlp: O,
        endpoint: String,
        timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let scope = InstrumentationScope::builder("weir").build();
        Self { spans, otlp, endpoint, timeout, metrics, scope, failing: None, in_hand: 0, full: (0, None) }
    }

    /// Time that [`Exporter::run`] may take after its `stop`.
    pub(crate) fn deadline(&self) -> Duration {
        2 * LAST + Duration::from_secs(1)
    }

    /// Runs until `stop`; then sends what is in the queue, for a bounded time.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.gather(&mut batch) => {}
            }
            let late = async {
                stop.cancelled().await;
                tokio::time::sleep(LAST).await;
            };
            tokio::select! {
                () = self.send(&mut batch) => self.check_queue(),
                () = late => {
                    self.give_up();
                    return Ok(());
                }
            }
        }
        self.spans.close();
        if tokio::time::timeout(LAST, self.drain(&mut batch)).await.is_err() {
            self.give_up();
        }
        Ok(())
    }

    /// Counts the spans that are not sent.
    fn give_up(&self) {
        let unsent = self.in_hand + self.spans.len() as u64;
        self.metrics.dropped(Dropped::Stopping).inc_by(unsent);
        tracing::debug!(unsent, "the last spans were not sent in time");
    }

    /// Waits for spans, and a little longer for more.
    async fn gather(&mut self, batch: &mut Vec<Span>) {
        if batch.is_empty() && self.spans.recv_many(batch, 1).await == 0 {
            // The queue is closed: no more spans will come.
            std::future::pending::<()>().await;
        }
        if self.spans.len() < BATCH {
            tokio::time::sleep(LINGER).await;
        }
        self.fill(batch);
    }

    /// Takes queued spans without waiting.
    fn fill(&mut self, batch: &mut Vec<Span>) {
        while batch.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
    }

    async fn drain(&mut self, batch: &mut Vec<Span>) {
        loop {
            self.fill(batch);
            if batch.is_empty() {
                return;
            }
            self.send(batch).await;
        }
    }

    /// Sends a batch once. It is dropped if the collector does not accept it.
    async fn send(&mut self, batch: &mut Vec<Span>) {
        let count = batch.len() as u64;
        self.in_hand = count;
        let spans = batch.drain(..).map(|span| convert::span(span, &self.scope)).collect();
        let sent = match tokio::time::timeout(self.timeout, self.otlp.export(spans)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        };
        self.in_hand = 0;
        match sent {
            Ok(()) => {
                self.metrics.exported.inc_by(count);
                if let Some(dropped) = self.failing.take() {
                    tracing::info!(endpoint = self.endpoint, dropped, "the collector accepts spans again");
                }
            }
            Err(error) => {
                self.metrics.dropped(Dropped::Unavailable).inc_by(count);
                let before = self.failing.unwrap_or(0);
                if self.failing.replace(before + count).is_none() {
                    let error = match tls_differs(&self.endpoint).await {
                        Some(difference) => format!("{error}; {difference}"),
                        None => error,
                    };
                    tracing::warn!(
                        endpoint = self.endpoint,
                        error,
                        "spans cannot be exported and are dropped; readings are not affected (see `tracing.endpoint`)"
                    );
                }
            }
        }
    }

    /// Warns now and then that the queue was full, unless the collector fails anyway.
    fn check_queue(&mut self) {
        let dropped = self.metrics.dropped(Dropped::QueueFull).get();
        let (reported, when) = self.full;
        let long_ago = when.is_none_or(|when| when.elapsed() >= WARN_AGAIN);
        if dropped > reported && self.failing.is_none() && long_ago {
            let dropped_spans = dropped - reported;
            tracing::warn!(
                dropped_spans,
                "spans are made faster than they can be exported: lower `tracing.ratio` or raise `tracing.queue_spans`"
            );
            self.full = (dropped, Some(Instant::now()));
        }
    }
}
