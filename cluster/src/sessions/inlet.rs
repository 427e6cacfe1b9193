//! A queue of what comes from the server, in memory, bounded by bytes.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Items that wait for their consumer.
#[derive(Debug)]
pub(crate) struct Inlet<T> {
    waiting: Mutex<(Vec<T>, usize)>,
    filled: Notify,
    emptied: Notify,
    most_bytes: usize,
}

impl<T> Inlet<T> {
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self { waiting: Mutex::new((Vec::new(), 0)), filled: Notify::new(), emptied: Notify::new(), most_bytes }
    }

    /// Adds items of this size together.
    pub(crate) fn push(&self, items: impl IntoIterator<Item = T>, bytes: usize) {
        let mut waiting = self.waiting.lock();
        waiting.0.extend(items);
        waiting.1 += bytes;
        if !waiting.0.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Waits until there is room for more.
    pub(crate) async fn room(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            // From here on it is woken, also when it does not wait yet.
            emptied.as_mut().enable();
            if self.waiting.lock().1 < self.most_bytes {
                return;
            }
            emptied.await;
        }
    }

    /// Waits for items and takes all. One task calls it.
    pub(crate) async fn next(&self) -> Vec<T> {
        loop {
            if let Some(items) = self.take() {
                return items;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Vec<T>> {
        let mut waiting = self.waiting.lock();
        if waiting.0.is_empty() {
            return None;
        }
        waiting.1 = 0;
        self.emptied.notify_waiters();
        Some(std::mem::take(&mut waiting.0))
    }
}
