//! A part of a queue that is not in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::{Budget, Held};

use super::packed::{Entry, Packed};
use crate::durable::{Duty, Ledger, StoredMessage};

/// Memory of the record of a message that several sessions get.
const SHARED_BYTES: usize = 72;

/// Messages next to each other in a session's queue, which are in the archive.
#[derive(Debug)]
pub(crate) struct Run {
    ledger: Arc<Ledger>,
    messages: Packed,
    /// The records of those that other sessions get, too.
    shared: VecDeque<Arc<StoredMessage>>,
    memory: Held,
    /// Memory that the session holds, and the part of it that is this run's.
    account: Arc<AtomicUsize>,
    counted: usize,
}

impl Run {
    pub(crate) fn new(ledger: Arc<Ledger>, memory: &Budget, account: Arc<AtomicUsize>) -> Self {
        let (messages, shared) = Default::default();
        Self { ledger, messages, shared, memory: memory.hold(), account, counted: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn is_of(&self, ledger: &Arc<Ledger>) -> bool {
        Arc::ptr_eq(&self.ledger, ledger)
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Ids of the first messages.
    pub(crate) fn ids(&self, most: usize) -> Vec<u64> {
        self.messages.iter().take(most).map(|entry| entry.id).collect()
    }

    pub(crate) fn first_id(&self) -> Option<u64> {
        self.messages.first_id()
    }

    /// Adds a message behind the others. A record that no other session needs is kept by its id.
    pub(crate) fn push(&mut self, number: u64, record: Arc<StoredMessage>) {
        let id = record.id();
        let is_shared = match Arc::try_unwrap(record) {
            Ok(record) => {
                record.leave();
                false
            }
            Err(record) => {
                self.shared.push_back(record);
                true
            }
        };
        self.messages.push(Entry { id, number, is_shared });
    }

    /// Adds a message of an earlier start, which no other session gets.
    pub(crate) fn push_own(&mut self, id: u64, number: u64) {
        self.messages.push(Entry { id, number, is_shared: false });
    }

    /// Removes the first message.
    pub(crate) fn pop(&mut self) -> Option<Duty> {
        let Entry { id, number, is_shared } = self.messages.pop()?;
        let record = match is_shared {
            true => self.shared.pop_front()?,
            false => self.ledger.journal.stored(&self.ledger.tenant, id),
        };
        Some(Duty { ledger: Arc::clone(&self.ledger), number, message: Some(record) })
    }

    /// Counts its memory. It is little, and takes the place of more.
    pub(crate) fn count(&mut self) {
        let bytes = size_of::<Self>() + self.messages.memory() + self.shared.len() * SHARED_BYTES;
        if self.memory.resize(bytes).is_ok() {
            self.account.fetch_add(bytes, Ordering::Relaxed);
            self.account.fetch_sub(self.counted, Ordering::Relaxed);
            self.counted = bytes;
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.account.fetch_sub(self.counted, Ordering::Relaxed);
        let messages = std::mem::take(&mut self.messages);
        if !messages.is_empty() {
            // Records that others get are cleared by the last of them.
            self.ledger.journal.clear_messages(&self.ledger.tenant, messages);
        }
    }
}
