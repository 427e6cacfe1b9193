//! The sinks of rare records: dead letters and retained messages.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::{Frame, Record};
use parking_lot::Mutex;
use stores::contract::{DeadLetters, Deadletter, Retained, RetainedMessage};

use crate::PurgedTenants;
use crate::accounting::tallies::{Tallies, count_passed};
use crate::sink::{Load, Part, Refusal, Sink};

/// Records written at a time.
const PART_RECORDS: usize = 1_000;
/// Memory of a record besides its own bytes.
const RECORD_BYTES: u64 = 200;

/// Writes one kind of rare record to its store.
#[async_trait]
pub(crate) trait RecordWriter: Send + Sync + 'static {
    type Item: Clone + Send + Sync + 'static;
    /// The item of a record that is kept, and its size; `None` when it is passed over.
    fn keep(&self, offset: u64, record: &Record<'_>) -> Option<(Self::Item, usize)>;
    async fn write(&self, items: Vec<Self::Item>) -> stores::contract::Result<()>;
    fn on_refused(&self, item: &Self::Item, reason: &str) -> Refusal;
}

/// A sink of rare records.
pub(crate) struct RecordSink<W: RecordWriter> {
    writer: W,
    state: Mutex<State<W::Item>>,
}

#[derive(Debug)]
pub(crate) struct Kept<I> {
    items: Vec<I>,
    tallies: Tallies,
}

struct State<I> {
    open: Kept<I>,
    open_bytes: u64,
    closed_bytes: u64,
}

impl<W: RecordWriter> RecordSink<W> {
    pub(crate) fn new(writer: W) -> Self {
        let open = Kept { items: Vec::new(), tallies: Tallies::new() };
        Self { writer, state: Mutex::new(State { open, open_bytes: 0, closed_bytes: 0 }) }
    }
}

#[async_trait]
impl<W: RecordWriter> Sink for RecordSink<W> {
    type Batch = Kept<W::Item>;
    type Item = W::Item;

    fn take(&self, frame: &Frame, from: u64, to: u64) {
        let mut state = self.state.lock();
        for (offset, record) in frame.records().filter(|(offset, _)| (from..to).contains(offset)) {
            count_passed(&mut state.open.tallies, &record);
            if let Some((item, bytes)) = self.writer.keep(offset, &record) {
                state.open.items.push(item);
                state.open_bytes += bytes as u64 + RECORD_BYTES;
            }
        }
    }

    fn load(&self) -> Load {
        let state = self.state.lock();
        Load {
            records: state.open.items.len() as u64,
            bytes: state.open_bytes + state.closed_bytes,
            open_bytes: state.open_bytes,
        }
    }

    fn close(&self) -> Kept<W::Item> {
        let mut state = self.state.lock();
        state.closed_bytes = std::mem::take(&mut state.open_bytes);
        std::mem::replace(&mut state.open, Kept { items: Vec::new(), tallies: Tallies::new() })
    }

    fn cut(&self, batch: &Kept<W::Item>, index: usize) -> Option<Part<W::Item>> {
        match batch.items.chunks(PART_RECORDS).nth(index) {
            Some(items) if index > 0 => Some(part(items, Tallies::new())),
            items if index == 0 => Some(part(items.unwrap_or_default(), batch.tallies.clone())),
            _ => None,
        }
    }

    async fn write(&self, items: Vec<W::Item>) -> stores::contract::Result<()> {
        self.writer.write(items).await
    }

    async fn commit(&self, _: u64) -> stores::contract::Result<()> {
        // Durable when the write returned.
        Ok(())
    }

    fn halve(&self, _: &W::Item) -> Option<(W::Item, W::Item)> {
        None
    }

    fn on_refused(&self, item: &W::Item, reason: &str) -> Refusal {
        self.writer.on_refused(item, reason)
    }

    fn finish(&self, _: u64) {
        self.state.lock().closed_bytes = 0;
    }
}

fn part<I: Clone>(items: &[I], tallies: Tallies) -> Part<I> {
    Part { items: items.to_vec(), ..Part::begin(tallies) }
}

/// Messages that could not be read.
pub(crate) struct DeadLetterWriter {
    pub(crate) log: Arc<str>,
    pub(crate) store: Arc<dyn DeadLetters>,
    pub(crate) purged: PurgedTenants,
}

#[async_trait]
impl RecordWriter for DeadLetterWriter {
    type Item = Deadletter;

    fn keep(&self, offset: u64, record: &Record<'_>) -> Option<(Deadletter, usize)> {
        let Record::DeadLetter(letter) = record else { return None };
        let item = Deadletter {
            log: Arc::clone(&self.log),
            offset,
            tenant: Arc::clone(record.tenant()),
            device: letter.device.map(|d| Arc::clone(&d.id)),
            client: letter.client.to_owned(),
            topic: letter.topic.to_owned(),
            payload: letter.payload.to_vec(),
            received: letter.received,
            stage: crate::INGEST.to_owned(),
            reason: letter.reason.to_owned(),
            replayed: None,
        };
        Some((item, letter.payload.len() + letter.topic.len() + letter.reason.len() + letter.client.len()))
    }

    async fn write(&self, mut items: Vec<Deadletter>) -> stores::contract::Result<()> {
        items.retain(|letter| !self.purged.has(&letter.tenant));
        self.store.put(items).await
    }

    fn on_refused(&self, _: &Deadletter, _: &str) -> Refusal {
        Refusal::Pause
    }
}

pub(crate) struct RetainedWriter {
    pub(crate) store: Arc<dyn Retained>,
    pub(crate) purged: PurgedTenants,
}

#[async_trait]
impl RecordWriter for RetainedWriter {
    type Item = RetainedMessage;

    fn keep(&self, _: u64, record: &Record<'_>) -> Option<(RetainedMessage, usize)> {
        let item = retained_message(record)?;
        let bytes = item.payload.len() + item.properties.len() + item.topic.len();
        Some((item, bytes))
    }

    async fn write(&self, mut items: Vec<RetainedMessage>) -> stores::contract::Result<()> {
        items.retain(|message| !self.purged.has(&message.tenant));
        self.store.apply(items).await
    }

    fn on_refused(&self, _: &RetainedMessage, _: &str) -> Refusal {
        Refusal::Pause
    }
}

/// The retained message of a record; `None` for another kind.
pub(crate) fn retained_message(record: &Record<'_>) -> Option<RetainedMessage> {
    let Record::Retained(message) = record else { return None };
    Some(RetainedMessage {
        tenant: Arc::clone(record.tenant()),
        topic: message.topic.to_owned(),
        qos: message.qos,
        payload: message.payload.to_vec(),
        properties: message.properties.to_vec(),
        received: message.received,
    })
}
