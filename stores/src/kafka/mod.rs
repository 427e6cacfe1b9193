//! Kafka: readings as records of an event bus.
//!
//! **A record** is one reading. Its key is the device, and the key chooses the partition, so that
//! the records of a device have the order in which its readings were received. Headers carry the
//! tenant, the message id (`log:offset`, the same each time that a reading is sent), the schema
//! and, for a traced reading, `traceparent`. The timestamp is the reading's.
//!
//! **At least once** is the rule: an idempotent producer, `acks=all`, a write returns when every
//! record of it is acknowledged. What is sent again after a fault has the same message id, and the
//! order of each device holds: a producer that failed is given up whole, so that nothing of it
//! overtakes.
//!
//! **Exactly once**, with `transactional`, for consumers that read committed records. Each log has
//! a transactional id of its own; a delivery is one transaction, which ends with a record of the
//! log's cursor in a compacted topic. A join takes the transactional id over, which fences the
//! former holder and ends its transactions, and only then reads the cursor. A commit whose answer
//! is lost is decided the same way. Readings below the recorded cursor are never sent.
//!
//! **Memory** is bounded by the queue of the library; a full queue is waited for. The library is
//! called on threads that may block, never on those of the runtime.
//!
//! The meaning of every answer stands in `answer`, nowhere else.

mod answer;
mod client;
mod config;
mod cursor;
mod encode;
mod metrics;
mod protobuf;
mod topic;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::registry::Registry;

use crate::contract::{DeviceBatch, Export, ExportType, Result, StoreError};
use crate::per_log::PerLog;
use crate::settings::SettingsError;
pub use config::{Compression, Config, Format, Sasl};
pub use metrics::{ExportLabel, Metrics};
use topic::Template;
use writer::Writer;

/// Writes readings to the topics of one Kafka.
pub struct KafkaExport {
    kafka: Arc<Kafka>,
    logs: PerLog<Writer>,
}

/// Settings and figures that the writers of all logs share.
#[derive(Debug)]
struct Kafka {
    name: String,
    config: Config,
    topics: Template,
    cursor_topic: String,
    figures: metrics::Figures,
}

impl Kafka {
    /// An error of the system, with the export and its key; that of a reading stays as it is.
    fn named(&self, error: StoreError) -> StoreError {
        let at = |reason: String| {
            let (brokers, name) = (self.config.brokers.join(", "), &self.name);
            format!("Kafka at {brokers} (export.{name}.brokers): {reason}")
        };
        match error {
            StoreError::Busy { reason, retry_after } => StoreError::Busy { reason: at(reason), retry_after },
            StoreError::NeedsOperator(reason) => StoreError::NeedsOperator(at(reason)),
            StoreError::Aborted(reason) => StoreError::Aborted(at(reason)),
            other => other,
        }
    }

    /// As [`Kafka::named`], with what the first broker's port shows about TLS.
    async fn explained(&self, error: StoreError) -> StoreError {
        let error = match error {
            StoreError::Busy { reason, retry_after } => {
                StoreError::Busy { reason: self.with_tls(reason).await, retry_after }
            }
            StoreError::NeedsOperator(reason) if reason.contains("SSL") => {
                StoreError::NeedsOperator(self.with_tls(reason).await)
            }
            other => other,
        };
        self.named(error)
    }

    async fn with_tls(&self, reason: String) -> String {
        let Config { brokers, tls, .. } = &self.config;
        let Some(first) = brokers.first() else { return reason };
        let (host, port) = crate::tls::host_and_port(first.trim(), 9092);
        match crate::tls::differs(host, port, *tls).await {
            Some(difference) => format!("{reason}; {}: set `tls` = {}", difference.words(), !tls),
            None => reason,
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.config.delivery_timeout_ms)
    }
}

impl ExportType for Config {
    const TYPE: &'static str = "kafka";
    type Metrics = Metrics;

    fn register(metrics: &Metrics, registry: &mut Registry) {
        metrics.register(registry);
    }

    fn check(&self, name: &str) -> std::result::Result<(), String> {
        Self::check(self, name).map_err(|error| error.fault)
    }

    async fn open(self, name: &str, metrics: Arc<Metrics>) -> std::result::Result<Arc<dyn Export>, String> {
        Ok(Arc::new(KafkaExport::new(name, self, &metrics).map_err(|error| error.fault)?))
    }
}

impl KafkaExport {
    /// An export called `name`; nothing is sent before a log is joined or written.
    ///
    /// # Errors
    /// [`SettingsError`] naming the key of a setting that cannot be used.
    pub fn new(name: &str, config: Config, metrics: &Metrics) -> std::result::Result<Self, SettingsError> {
        config.check(name)?;
        let fault = |fault: String| SettingsError::new(name, fault);
        let topics = Template::new(&config.topic).map_err(fault)?;
        let cursor_topic = topic::cursor_topic(&config.cursor_topic, name).map_err(fault)?;
        let kafka = Kafka { name: name.to_owned(), config, topics, cursor_topic, figures: metrics.of(name) };
        Ok(Self { kafka: Arc::new(kafka), logs: PerLog::default() })
    }
}

/// Longest wait for the brokers at a start.
const REACH: Duration = Duration::from_secs(4);

#[async_trait]
impl Export for KafkaExport {
    async fn ready(&self) -> Result<()> {
        let kafka = Arc::clone(&self.kafka);
        let asked = tokio::task::spawn_blocking(move || cursor::reach(&kafka.config, kafka.patience().min(REACH)));
        let asked = asked.await.unwrap_or_else(|error| Err(StoreError::busy(error.to_string())));
        match asked {
            Ok(()) => Ok(()),
            Err(error) => Err(self.kafka.explained(error).await),
        }
    }

    async fn join(&self, log: &str, epoch: u64) -> Result<Option<u64>> {
        let (kafka, id) = (Arc::clone(&self.kafka), log.to_owned());
        self.logs
            .run(log, move |writer, _| writer.join(&kafka, &id, epoch))
            .await
            .map_err(|error| self.kafka.named(error))
    }

    async fn write(&self, log: &str, batches: Vec<DeviceBatch>) -> Result<()> {
        let (kafka, id) = (Arc::clone(&self.kafka), log.to_owned());
        self.logs
            .run(log, move |writer, abandoned| writer.write(&kafka, &id, &batches, abandoned))
            .await
            .map_err(|error| self.kafka.named(error))
    }

    async fn commit(&self, log: &str, done_to: u64) -> Result<()> {
        let (kafka, id) = (Arc::clone(&self.kafka), log.to_owned());
        self.logs
            .run(log, move |writer, abandoned| writer.commit(&kafka, &id, done_to, abandoned))
            .await
            .map_err(|error| self.kafka.named(error))
    }

    async fn rewind(&self, log: &str, epoch: u64, done_to: u64) -> Result<()> {
        let (kafka, id) = (Arc::clone(&self.kafka), log.to_owned());
        self.logs
            .run(log, move |writer, _| writer.rewind(&kafka, &id, epoch, done_to))
            .await
            .map_err(|error| self.kafka.named(error))
    }
}

#[cfg(test)]
mod tests;
