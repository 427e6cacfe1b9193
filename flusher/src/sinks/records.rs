//! The sinks of rare records: dead letters and retained messages.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::{Frame, Record};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
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

    /// The key of an item that replaces earlier ones with the same key; `None` when each counts.
    fn key(&self, _: &Self::Item) -> Option<Key> {
        None
    }

    /// True when the store need not see two items with the same key.
    fn cancels(&self, _earlier: &Self::Item, _later: &Self::Item) -> bool {
        false
    }
}

/// Tenant and topic.
type Key = (Arc<str>, String);

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
    /// Each with its size.
    items: Vec<(I, u64)>,
    /// Of each key the last.
    keyed: HashMap<Key, (I, u64), RandomState>,
    tallies: Tallies,
    open_bytes: u64,
    closed_bytes: u64,
}

impl<I> Default for State<I> {
    fn default() -> Self {
        let (items, keyed, tallies) = Default::default();
        Self { items, keyed, tallies, open_bytes: 0, closed_bytes: 0 }
    }
}

impl<I> State<I> {
    fn add<W: RecordWriter<Item = I>>(&mut self, writer: &W, item: I, bytes: u64) {
        let Some(key) = writer.key(&item) else {
            self.open_bytes += bytes;
            self.items.push((item, bytes));
            return;
        };
        let before = self.keyed.remove(&key);
        self.open_bytes -= before.as_ref().map_or(0, |(_, bytes)| *bytes);
        if before.is_none_or(|(before, _)| !writer.cancels(&before, &item)) {
            self.open_bytes += bytes;
            self.keyed.insert(key, (item, bytes));
        }
    }
}

impl<W: RecordWriter> RecordSink<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, state: Mutex::default() }
    }
}

#[async_trait]
impl<W: RecordWriter> Sink for RecordSink<W> {
    type Batch = Kept<W::Item>;
    type Item = W::Item;

    fn take(&self, frame: &Frame, from: u64, to: u64) {
        let mut state = self.state.lock();
        for (offset, record) in frame.records().filter(|(offset, _)| (from..to).contains(offset)) {
            count_passed(&mut state.tallies, &record);
            if let Some((item, bytes)) = self.writer.keep(offset, &record) {
                state.add(&self.writer, item, bytes as u64 + RECORD_BYTES);
            }
        }
    }

    fn load(&self) -> Load {
        let state = self.state.lock();
        Load {
            records: (state.items.len() + state.keyed.len()) as u64,
            bytes: state.open_bytes + state.closed_bytes,
            open_bytes: state.open_bytes,
        }
    }

    fn close(&self) -> Kept<W::Item> {
        let mut state = self.state.lock();
        let State { items, keyed, tallies, open_bytes, .. } = std::mem::take(&mut *state);
        state.closed_bytes = open_bytes;
        Kept { items: items.into_iter().chain(keyed.into_values()).map(|(item, _)| item).collect(), tallies }
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

    fn key(&self, item: &RetainedMessage) -> Option<Key> {
        Some((Arc::clone(&item.tenant), item.topic.clone()))
    }

    /// A message of sessions is stored once and cleared once. When a batch has both, mostly no
    /// store has seen it; one that has, after a crash, keeps a record that no session needs, and
    /// the next start clears it.
    fn cancels(&self, earlier: &RetainedMessage, later: &RetainedMessage) -> bool {
        later.payload.is_empty() && !earlier.payload.is_empty() && later.topic.starts_with(model::topic::MESSAGES)
    }

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

#[cfg(test)]
mod tests {
    use stores::testing::MemoryStore;

    use super::*;

    fn change(topic: &str, payload: &str) -> RetainedMessage {
        let (tenant, topic, payload) = ("t".into(), topic.to_owned(), payload.as_bytes().to_vec());
        RetainedMessage { tenant, topic, qos: 0, payload, properties: Vec::new(), received: 0 }
    }

    #[test]
    fn a_batch_has_the_last_change_of_each_topic_and_no_message_of_sessions_that_is_over() {
        let writer = RetainedWriter { store: Arc::new(MemoryStore::default()), purged: PurgedTenants::default() };
        let mut state = State::default();
        let message = |n: u64| format!("{}n/{n}", model::topic::MESSAGES);
        let (one, two, three) = (message(1), message(2), message(3));
        let changes =
            [("a", "1"), ("a", "2"), ("b", "1"), ("b", ""), (&one, "x"), (&two, "x"), (&one, ""), (&three, "")];
        for (topic, payload) in changes {
            state.add(&writer, change(topic, payload), 10);
        }
        let mut left: Vec<_> =
            state.keyed.values().map(|(m, _)| (&*m.topic, String::from_utf8_lossy(&m.payload).into_owned())).collect();
        left.sort();
        // The set of the last one is in an earlier batch.
        let wanted = [(&*two, "x"), (&*three, ""), ("a", "2"), ("b", "")];
        assert_eq!(left, wanted.map(|(topic, payload)| (topic, payload.to_owned())));
        assert_eq!(state.open_bytes, 40);
    }
}
