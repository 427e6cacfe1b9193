//! The client library: its settings, and the callbacks that it makes on threads of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{ProducerContext, ThreadedProducer};

use super::answer::{Verdict, answer, code_of, verdict};
use super::config::{Compression, Config, Sasl, is_set};
use crate::contract::Result;

/// How long a fault of the connection has to last before a wait ends with it.
const FAULT_PATIENCE: Duration = Duration::from_secs(1);
const WAKE: Duration = Duration::from_millis(50);

pub(super) type Producer = ThreadedProducer<Context>;

/// Settings that producers and consumers share.
pub(super) fn settings(config: &Config) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Warning);
    let timeout = config.delivery_timeout_ms.clamp(1_000, 60_000).to_string();
    client
        .set("bootstrap.servers", config.brokers.join(","))
        .set("client.id", &config.client_id)
        .set("socket.timeout.ms", timeout)
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.max.ms", "2000")
        // A topic that is still missing then is taken for one that is not created by itself.
        .set("topic.metadata.propagation.max.ms", (config.delivery_timeout_ms / 2).min(10_000).to_string());
    let protocol = match (config.tls, config.sasl) {
        (false, Sasl::None) => "plaintext",
        (true, Sasl::None) => "ssl",
        (false, _) => "sasl_plaintext",
        (true, _) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    let mechanism = match config.sasl {
        Sasl::None => None,
        Sasl::Plain => Some("PLAIN"),
        Sasl::ScramSha256 => Some("SCRAM-SHA-256"),
        Sasl::ScramSha512 => Some("SCRAM-SHA-512"),
    };
    if let Some(mechanism) = mechanism {
        client.set("sasl.mechanism", mechanism);
        client.set("sasl.username", &config.username).set("sasl.password", &config.password);
    }
    let files = [
        ("ssl.ca.location", &config.ca_file),
        ("ssl.certificate.location", &config.cert_file),
        ("ssl.key.location", &config.key_file),
    ];
    for (key, file) in files {
        if is_set(file) {
            client.set(key, file.to_string_lossy());
        }
    }
    if !config.key_password.is_empty() {
        client.set("ssl.key.password", &config.key_password);
    }
    client
}

/// A producer that keeps the order of each partition and repeats nothing by itself; with a
/// transactional id when `transactional_id` is given.
pub(super) fn producer(config: &Config, transactional_id: Option<&str>) -> Result<Producer> {
    let mut client = settings(config);
    let compression = match config.compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
        Compression::Gzip => "gzip",
        Compression::Snappy => "snappy",
    };
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // As producers in Java place keys, so that streams of both can be joined.
        .set("partitioner", "murmur2_random")
        .set("compression.codec", compression)
        .set("linger.ms", config.linger_ms.to_string())
        .set("batch.size", config.batch_bytes.to_string())
        .set("message.max.bytes", config.message_max_bytes.to_string())
        .set("queue.buffering.max.messages", config.queue_records.to_string())
        .set("queue.buffering.max.kbytes", config.queue_bytes.div_ceil(1024).to_string());
    match transactional_id {
        Some(id) => {
            client.set("transactional.id", id);
            client.set("transaction.timeout.ms", config.transaction_timeout_ms.to_string());
        }
        None => {
            // A record that is given up would leave a gap that later records of its device
            // overtake: the export gives up whole producers instead.
            client.set("message.timeout.ms", "0").set("enable.gapless.guarantee", "true");
        }
    }
    Producer::from_config_and_context(&client, Context::default()).map_err(|error| answer("use Kafka", &error))
}

/// Receives what the library has to report.
#[derive(Debug, Default)]
pub(super) struct Context {
    /// A fault that an operator has to repair, the last one that was reported.
    fault: Mutex<Option<(Code, String)>>,
}

impl Context {
    /// The last fault that an operator has to repair.
    pub(super) fn fault(&self) -> Option<(Code, String)> {
        self.fault.lock().clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = code_of(&error);
        tracing::debug!(%error, reason, "Kafka");
        if matches!(verdict(code), Verdict::Operator(_)) {
            *self.fault.lock() = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let code = result.as_ref().err().map(|(error, _)| code_of(error));
        ticket.delivery.ended(ticket.offset, code);
    }
}

/// Travels with a record through the library.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) delivery: Arc<Delivery>,
    /// Log offset of the reading.
    pub(super) offset: u64,
}

/// The outcome of the records of one write.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    ended: usize,
    failures: Vec<(u64, Code)>,
    /// A wait is over when as many have ended.
    awaited: usize,
}

impl Delivery {
    fn ended(&self, offset: u64, code: Option<Code>) {
        let mut progress = self.progress.lock();
        progress.ended += 1;
        progress.failures.extend(code.map(|code| (offset, code)));
        if progress.ended >= progress.awaited || code.is_some() {
            self.changed.notify_all();
        }
    }

    /// Waits until `count` records have ended.
    ///
    /// # Errors
    /// [`Failure`] when one fails, when none ends for `patience`, or when the connection has a
    /// fault that does not pass.
    pub(super) fn wait(&self, context: &Context, count: usize, patience: Duration) -> std::result::Result<(), Failure> {
        let mut progress = self.progress.lock();
        progress.awaited = count;
        let (mut last, mut since) = (progress.ended, Instant::now());
        loop {
            if !progress.failures.is_empty() {
                // The others of a batch fail with it.
                self.changed.wait_for(&mut progress, WAKE);
                return Err(Failure { records: progress.failures.clone(), ..Failure::of(Code::Fail, "") }.judged());
            }
            if progress.ended >= count {
                return Ok(());
            }
            if progress.ended != last {
                (last, since) = (progress.ended, Instant::now());
            }
            if since.elapsed() > FAULT_PATIENCE
                && let Some((code, reason)) = context.fault()
            {
                return Err(Failure::of(code, &reason));
            }
            if since.elapsed() > patience {
                let reason = format!("no acknowledgement within {} ms", patience.as_millis());
                return Err(Failure::of(Code::OperationTimedOut, &reason));
            }
            self.changed.wait_for(&mut progress, WAKE);
        }
    }

    /// Waits for room in the queue: until at least one more record has ended.
    pub(super) fn wait_for_room(
        &self,
        context: &Context,
        sent: usize,
        patience: Duration,
    ) -> std::result::Result<(), Failure> {
        let ended = self.progress.lock().ended;
        self.wait(context, (ended + 1).min(sent), patience)
    }
}

/// Why records were not delivered.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// The answer that decides.
    pub(super) code: Code,
    pub(super) reason: String,
    /// Log offsets of the records that failed, each with its own answer.
    pub(super) records: Vec<(u64, Code)>,
    /// A single record was under way, so that the answer is about it.
    pub(super) alone: bool,
}

impl Failure {
    pub(super) fn of(code: Code, reason: &str) -> Self {
        Self { code, reason: reason.to_owned(), records: Vec::new(), alone: false }
    }

    /// With the answer that decides chosen among those of the records: guilt, then an operator's,
    /// then the first.
    fn judged(mut self) -> Self {
        let rank = |code: Code| match verdict(code) {
            Verdict::TooLarge | Verdict::Refused => 0,
            Verdict::Operator(_) => 1,
            Verdict::Fenced => 2,
            Verdict::Restart => 3,
            Verdict::Retry => 4,
        };
        if let Some((_, code)) = self.records.iter().min_by_key(|(_, code)| rank(*code)) {
            self.code = *code;
            self.reason = code.to_string();
        }
        self
    }
}
