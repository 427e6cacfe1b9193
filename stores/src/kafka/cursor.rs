//! The cursors of a transactional export: a compacted topic with one partition, one key a log, the
//! newest record of a key in force. Records are written in the transaction of the delivery they
//! end.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::answer::{Verdict, answer, answer_to, code_of, verdict};
use super::client::{Context, settings};
use super::config::Config;
use crate::contract::{Result, StoreError};

pub(super) const PARTITION: i32 = 0;
const VERSION: u32 = 1;
/// Records read at first, from the end; more when the log is not among them.
const WINDOW: i64 = 2_000;
const POLL: Duration = Duration::from_millis(50);
/// One attempt of a call that is made until it succeeds.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The value of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    version: u32,
    /// Lease epoch of the writer.
    pub(super) epoch: u64,
    /// Everything below this offset of the log is committed. `None` before the first commit.
    pub(super) done_to: Option<u64>,
}

impl Cursor {
    pub(super) fn new(epoch: u64, done_to: Option<u64>) -> Self {
        Self { version: VERSION, epoch, done_to }
    }

    pub(super) fn encode(self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("a cursor is plain data")
    }

    fn decode(bytes: &[u8], topic: &str) -> Result<Self> {
        let cursor: Self = serde_json::from_slice(bytes).map_err(|error| {
            StoreError::NeedsOperator(format!(
                "topic {topic:?} holds what is not a cursor ({error}); set another `cursor_topic`"
            ))
        })?;
        if cursor.version != VERSION {
            return Err(StoreError::NeedsOperator(format!(
                "a cursor in topic {topic:?} has version {}, this program knows {VERSION}: use the program that wrote it",
                cursor.version
            )));
        }
        Ok(cursor)
    }
}

/// Creates the topic unless it is there.
pub(super) fn ensure_topic(config: &Config, topic: &str) -> Result<()> {
    let patience = Duration::from_millis(config.delivery_timeout_ms);
    let doing = format!("find topic {topic:?}");
    let consumer = consumer(config, "read_committed")?;
    let metadata = ask(&consumer, patience, &doing, || consumer.fetch_metadata(Some(topic), ATTEMPT))?;
    let error = metadata.topics().iter().find(|found| found.name() == topic).and_then(|found| found.error());
    match error.map(Code::from) {
        None => return Ok(()),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {}
        Some(code) => return Err(answer_to(&doing, code, &code.to_string())),
    }
    create_topic(config, topic, patience)
}

fn create_topic(config: &Config, topic: &str, patience: Duration) -> Result<()> {
    let doing = format!("create topic {topic:?}");
    let admin: AdminClient<DefaultClientContext> = settings(config).create().map_err(|error| answer(&doing, &error))?;
    // The replication that the brokers are set to.
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact")
        .set("segment.bytes", "1048576")
        .set("segment.ms", "3600000")
        .set("min.cleanable.dirty.ratio", "0.1");
    let options = AdminOptions::new().operation_timeout(Some(patience)).request_timeout(Some(patience));
    let created = tokio::runtime::Handle::current().block_on(admin.create_topics([&new], &options));
    match created.map_err(|error| answer(&doing, &error))?.into_iter().next() {
        Some(Err((_, code))) if code != Code::TopicAlreadyExists => Err(answer_to(&doing, code, &code.to_string())),
        _ => Ok(()),
    }
}

/// The records of the cursor topic that a read considers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// All, also those of transactions that are open or were aborted. Waits for no transaction.
    Written,
    /// Committed records. Waits for transactions of other logs that were begun before and are still
    /// open.
    Committed,
}

impl View {
    fn isolation(self) -> &'static str {
        match self {
            Self::Written => "read_uncommitted",
            Self::Committed => "read_committed",
        }
    }
}

/// The newest cursor of `log`.
pub(super) fn read(config: &Config, topic: &str, log: &str, view: View) -> Result<Option<Cursor>> {
    let patience = Duration::from_millis(config.delivery_timeout_ms);
    let doing = format!("read the cursor of log {log:?} from topic {topic:?}");
    let all = consumer(config, View::Written.isolation())?;
    let (low, high) = ask(&all, patience, &doing, || all.fetch_watermarks(topic, PARTITION, ATTEMPT))?;
    drop(all);
    if view == View::Committed {
        // The watermark of committed records stands before the first transaction that is still
        // open.
        let committed = consumer(config, view.isolation())?;
        ask(&committed, patience, &doing, || match committed.fetch_watermarks(topic, PARTITION, ATTEMPT)? {
            (_, stable) if stable >= high => Ok(()),
            _ => Err(KafkaError::OffsetFetch(Code::ConcurrentTransactions)),
        })?;
    }
    let mut window = WINDOW;
    loop {
        let start = high.saturating_sub(window).max(low);
        let consumer = consumer(config, view.isolation())?;
        let found = scan(&consumer, topic, log, start, patience, &doing)?;
        if found.is_some() || start <= low {
            return Ok(found);
        }
        window = window.saturating_mul(8);
    }
}

/// The newest cursor of `log` from `start` to the end.
fn scan(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    log: &str,
    start: i64,
    patience: Duration,
    doing: &str,
) -> Result<Option<Cursor>> {
    let fail = |error: KafkaError| answer(doing, &error);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, PARTITION, Offset::Offset(start)).map_err(fail)?;
    consumer.assign(&assignment).map_err(fail)?;
    let (mut found, mut last) = (None, Instant::now());
    loop {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                last = Instant::now();
                if message.key() == Some(log.as_bytes()) {
                    found = message.payload().map(|payload| Cursor::decode(payload, topic)).transpose()?;
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
            Some(Err(error)) if matches!(verdict(code_of(&error)), Verdict::Operator(_)) => return Err(fail(error)),
            Some(Err(_)) | None if last.elapsed() < patience => {}
            Some(Err(error)) => return Err(fail(error)),
            None => return Err(StoreError::busy(format!("cannot {doing}: no answer"))),
        }
    }
}

/// Asks the brokers which they are, as the settings say.
pub(super) fn reach(config: &Config, patience: Duration) -> Result<()> {
    const DOING: &str = "reach the brokers";
    let consumer = consumer(config, "read_uncommitted")?;
    ask(&consumer, patience, DOING, || consumer.fetch_metadata(None, POLL)).map(drop)
}

/// Makes a call until it succeeds, its failure needs an operator, or `patience` is over.
fn ask<T>(
    consumer: &BaseConsumer<Context>,
    patience: Duration,
    doing: &str,
    mut call: impl FnMut() -> KafkaResult<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let error = match call() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // Faults of the connection are reported to whom polls.
        drop(consumer.poll(POLL));
        if let Some((code, reason)) = consumer.context().fault() {
            return Err(answer_to(doing, code, &reason));
        }
        let passes = matches!(verdict(code_of(&error)), Verdict::Retry | Verdict::Restart) || is_new(&error);
        if !passes || begun.elapsed() > patience {
            return Err(answer(doing, &error));
        }
    }
}

/// A topic that was created a moment ago is not known to every broker yet.
fn is_new(error: &KafkaError) -> bool {
    matches!(code_of(error), Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}

fn consumer(config: &Config, isolation: &str) -> Result<BaseConsumer<Context>> {
    let mut client: ClientConfig = settings(config);
    client
        .set("group.id", "weir-cursors")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "50")
        .set("isolation.level", isolation);
    client.create_with_context(Context::default()).map_err(|error| answer("use Kafka", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_another_version_is_not_guessed() {
        let cursor = Cursor::new(3, Some(17));
        assert_eq!(Cursor::decode(&cursor.encode(), "t").unwrap(), cursor);
        assert_eq!(Cursor::decode(&Cursor::new(0, None).encode(), "t").unwrap().done_to, None);
        for bad in [&br#"{"version":2,"epoch":1,"done_to":1}"#[..], b"x"] {
            assert!(matches!(Cursor::decode(bad, "t"), Err(StoreError::NeedsOperator(_))));
        }
    }
}
