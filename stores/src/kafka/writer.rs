//! The writer of one log: its producer, its transaction, and what is known of records that Kafka
//! refused.
//!
//! A failed write ends its producer. Nothing of it is sent later, so the order of each device holds
//! when the readings are written again, and a transaction that was open is aborted by the next
//! producer, which has the same transactional id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseRecord, Producer as _};

use super::Kafka;
use super::answer::{Verdict, answer, answer_to, code_of, verdict};
use super::client::{self, Delivery, Failure, Producer, Ticket};
use super::cursor::{self, Cursor, View};
use super::encode::{Record, records};
use crate::contract::{DeviceBatch, Result, StoreError};

/// An abort that takes longer is left to the next producer.
const ABORT: Duration = Duration::from_secs(5);

/// The writer of one log.
#[derive(Default)]
pub(super) struct Writer {
    epoch: u64,
    live: Option<Live>,
    /// Everything below is committed, as the cursor topic records; transactional only.
    done_to: Option<u64>,
    /// Readings whose batch was refused: sent one by one.
    suspects: BTreeSet<u64>,
    /// Readings that were refused when they were sent alone, with the reason.
    refused: BTreeMap<u64, String>,
    /// The answer to the next write: a fault that aborted a transaction in which other writes were
    /// acknowledged.
    held: Option<StoreError>,
}

struct Live {
    producer: Producer,
    transaction: Transaction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// Begun, with nothing acknowledged in it yet.
    Begun,
    Written,
}

impl Writer {
    pub(super) fn join(&mut self, kafka: &Kafka, log: &str, epoch: u64) -> Result<Option<u64>> {
        *self = Self { epoch, ..Self::default() };
        if !kafka.config.transactional {
            return Ok(None);
        }
        self.open(kafka, log)?;
        Ok(self.done_to)
    }

    pub(super) fn write(&mut self, kafka: &Kafka, log: &str, batches: &[DeviceBatch], abandoned: bool) -> Result<()> {
        self.answered(kafka, abandoned)?;
        if let Some(error) = self.held.take() {
            return Err(error);
        }
        if kafka.config.transactional {
            self.open(kafka, log)?;
        }
        // After a commit whose outcome was not known, the delivery may be committed already.
        let records = records(&kafka.config, &kafka.topics, batches, self.done_to)?;
        if records.is_empty() {
            return Ok(());
        }
        loop {
            if let Some(reason) = records.iter().find_map(|record| self.refused.get(&record.offset)) {
                return Err(StoreError::Refused(reason.clone()));
            }
            self.open(kafka, log)?;
            self.begin(kafka)?;
            let Some(live) = &mut self.live else { return Err(StoreError::busy("the producer is not open")) };
            let Err(failure) = send(kafka, live, &records, &mut self.suspects) else {
                if live.transaction == Transaction::Begun {
                    live.transaction = Transaction::Written;
                }
                kafka.figures.wrote(&records);
                return Ok(());
            };
            kafka.figures.failures.inc();
            let news = self.learn(&failure);
            let verdict = verdict(failure.code);
            let error = answer_to("write to Kafka", failure.code, &failure.reason);
            if self.end(kafka, verdict == Verdict::Retry) {
                self.held = matches!(error, StoreError::NeedsOperator(_)).then(|| error.clone());
                return Err(StoreError::Aborted(error.to_string()));
            }
            // Once more, now with those that failed sent alone or refused.
            if !news {
                return Err(error);
            }
        }
    }

    pub(super) fn commit(&mut self, kafka: &Kafka, log: &str, done_to: u64, abandoned: bool) -> Result<()> {
        if !kafka.config.transactional {
            self.refused = self.refused.split_off(&done_to);
            return Ok(());
        }
        self.answered(kafka, abandoned)?;
        self.open(kafka, log)?;
        let written = self.live.as_ref().is_some_and(|live| live.transaction == Transaction::Written);
        if !written && self.done_to.is_some_and(|committed| committed >= done_to) {
            return Ok(());
        }
        self.begin(kafka)?;
        let Err(error) = self.commit_cursor(kafka, log, Some(done_to)) else {
            self.refused = self.refused.split_off(&done_to);
            kafka.figures.commits.inc();
            return Ok(());
        };
        // Whether it was committed is known when the next producer has the transactional id.
        self.end(kafka, true);
        self.open(kafka, log)?;
        if self.done_to == Some(done_to) {
            tracing::info!(export = %kafka.name, log, %error, "a commit was not answered, and is there");
            return Ok(());
        }
        Err(StoreError::Aborted(error.to_string()))
    }

    pub(super) fn rewind(&mut self, kafka: &Kafka, log: &str, epoch: u64, done_to: u64) -> Result<()> {
        if !kafka.config.transactional {
            return Ok(());
        }
        self.end(kafka, false);
        self.join(kafka, log, epoch)?;
        self.begin(kafka)?;
        self.commit_cursor(kafka, log, Some(done_to)).inspect_err(|_| {
            self.end(kafka, true);
        })
    }

    /// # Errors
    /// [`StoreError::Aborted`] when the answer to the call before never arrived: its readings may
    /// be in the transaction.
    fn answered(&mut self, kafka: &Kafka, abandoned: bool) -> Result<()> {
        if !abandoned || !kafka.config.transactional {
            return Ok(());
        }
        self.end(kafka, false);
        Err(StoreError::Aborted("the call before was cancelled".to_owned()))
    }

    /// Makes sure that there is a producer. A transactional one fences the former holder of the
    /// log, and knows the cursor.
    fn open(&mut self, kafka: &Kafka, log: &str) -> Result<()> {
        if self.live.is_some() {
            return Ok(());
        }
        if !kafka.config.transactional {
            let producer = client::producer(&kafka.config, None)?;
            self.live = Some(Live { producer, transaction: Transaction::None });
            return Ok(());
        }
        let topic = &kafka.cursor_topic;
        cursor::ensure_topic(&kafka.config, topic)?;
        // A holder with a lower epoch must not fence the one that took over. A transaction that a
        // killed holder left open is not waited for here: it ends with the takeover below.
        self.recorded(kafka, log, View::Written)?;
        let producer = client::producer(&kafka.config, Some(&format!("weir.{}.{log}", kafka.name)))?;
        initialise(kafka, &producer)?;
        let recorded = self.recorded(kafka, log, View::Committed)?;
        self.done_to = recorded.and_then(|cursor| cursor.done_to);
        self.live = Some(Live { producer, transaction: Transaction::None });
        if recorded.is_none_or(|cursor| cursor.epoch != self.epoch) {
            self.begin(kafka)?;
            self.commit_cursor(kafka, log, self.done_to).inspect_err(|_| {
                self.end(kafka, true);
            })?;
        }
        Ok(())
    }

    fn recorded(&self, kafka: &Kafka, log: &str, view: View) -> Result<Option<Cursor>> {
        let cursor = cursor::read(&kafka.config, &kafka.cursor_topic, log, view)?;
        match cursor {
            Some(cursor) if cursor.epoch > self.epoch => Err(StoreError::busy(format!(
                "log {log:?} belongs to the holder of lease epoch {} by topic {:?}; this process holds {}",
                cursor.epoch, kafka.cursor_topic, self.epoch
            ))),
            cursor => Ok(cursor),
        }
    }

    fn begin(&mut self, kafka: &Kafka) -> Result<()> {
        let Some(live) = &mut self.live else { return Err(StoreError::busy("the producer is not open")) };
        if !kafka.config.transactional || live.transaction != Transaction::None {
            return Ok(());
        }
        let begun = live.producer.begin_transaction();
        if let Err(error) = begun {
            self.live = None;
            return Err(answer("begin a transaction", &error));
        }
        live.transaction = Transaction::Begun;
        Ok(())
    }

    /// Adds the cursor to the transaction and commits it.
    fn commit_cursor(&mut self, kafka: &Kafka, log: &str, done_to: Option<u64>) -> Result<()> {
        let Some(live) = &mut self.live else { return Err(StoreError::busy("the producer is not open")) };
        let patience = kafka.patience();
        let value = Cursor::new(self.epoch, done_to).encode();
        let delivery = Arc::new(Delivery::default());
        let ticket = Box::new(Ticket { delivery: Arc::clone(&delivery), offset: u64::MAX });
        let record = BaseRecord::with_opaque_to(&kafka.cursor_topic, ticket)
            .partition(cursor::PARTITION)
            .key(log)
            .payload(&value[..]);
        let doing = "write the cursor";
        live.producer.send(record).map_err(|(error, _)| answer(doing, &error))?;
        delivery
            .wait(live.producer.context(), 1, patience)
            .map_err(|failure| answer_to(doing, failure.code, &failure.reason))?;
        let begun = Instant::now();
        loop {
            match live.producer.commit_transaction(patience) {
                Ok(()) => break,
                Err(error) if is_retriable(&error) && begun.elapsed() < patience => {}
                Err(error) => return Err(answer("commit", &error)),
            }
        }
        live.transaction = Transaction::None;
        self.done_to = done_to;
        Ok(())
    }

    /// Remembers the readings that a failure is about. True when something new is known.
    fn learn(&mut self, failure: &Failure) -> bool {
        if !matches!(verdict(failure.code), Verdict::TooLarge | Verdict::Refused) {
            return false;
        }
        let mut news = false;
        for (offset, code) in &failure.records {
            if failure.alone {
                let reason = format!("Kafka refuses the reading at offset {offset}: {code}");
                news |= self.refused.insert(*offset, reason).is_none();
            } else if matches!(verdict(*code), Verdict::TooLarge | Verdict::Refused) {
                news |= self.suspects.insert(*offset);
            }
        }
        news
    }

    /// Ends the producer. True when acknowledged writes of a transaction are lost with it. `away`:
    /// Kafka does not answer, so that an abort is left to the next producer.
    fn end(&mut self, kafka: &Kafka, away: bool) -> bool {
        let Some(live) = self.live.take() else { return false };
        if live.transaction != Transaction::None {
            kafka.figures.aborts.inc();
            if !away && let Err(error) = live.producer.abort_transaction(ABORT) {
                tracing::debug!(export = %kafka.name, %error, "the transaction is aborted by the next producer");
            }
        }
        live.transaction == Transaction::Written
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable() && !error.txn_requires_abort() && !error.is_fatal(),
        KafkaError::Flush(code) => *code == Code::OperationTimedOut,
        _ => false,
    }
}

/// Takes the transactional id over: transactions of the former holder are ended when it returns.
fn initialise(kafka: &Kafka, producer: &Producer) -> Result<()> {
    let begun = Instant::now();
    loop {
        match producer.init_transactions(kafka.patience()) {
            Ok(()) => return Ok(()),
            Err(error) if is_retriable(&error) && begun.elapsed() < kafka.patience() => {}
            Err(error) => {
                let fault = producer.context().fault();
                return Err(match fault {
                    Some((code, reason)) => answer_to("begin transactions", code, &reason),
                    None => answer("begin transactions", &error),
                });
            }
        }
    }
}

/// Sends records and waits until all are acknowledged; suspects alone.
fn send(
    kafka: &Kafka,
    live: &Live,
    records: &[Record],
    suspects: &mut BTreeSet<u64>,
) -> std::result::Result<(), Failure> {
    let (producer, patience) = (&live.producer, kafka.patience());
    let delivery = Arc::new(Delivery::default());
    for (sent, record) in records.iter().enumerate() {
        let alone = suspects.contains(&record.offset);
        if alone {
            delivery.wait(producer.context(), sent, patience)?;
        }
        enqueue(producer, &delivery, record, sent, patience)
            .and_then(|()| if alone { delivery.wait(producer.context(), sent + 1, patience) } else { Ok(()) })
            .map_err(|failure| Failure { alone, ..failure })?;
        if alone {
            suspects.remove(&record.offset);
        }
    }
    delivery.wait(producer.context(), records.len(), patience)
}

fn enqueue(
    producer: &Producer,
    delivery: &Arc<Delivery>,
    record: &Record,
    sent: usize,
    patience: Duration,
) -> std::result::Result<(), Failure> {
    loop {
        let ticket = Box::new(Ticket { delivery: Arc::clone(delivery), offset: record.offset });
        let next = BaseRecord::with_opaque_to(&record.topic, ticket)
            .key(&*record.key)
            .payload(&record.value[..])
            .timestamp(record.timestamp)
            .headers(record.headers());
        let Err((error, _)) = producer.send(next) else { return Ok(()) };
        match code_of(&error) {
            Code::QueueFull => delivery.wait_for_room(producer.context(), sent, patience)?,
            code => {
                let failure = Failure::of(code, &error.to_string());
                return Err(Failure { records: vec![(record.offset, code)], ..failure });
            }
        }
    }
}
