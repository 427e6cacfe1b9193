//! The position of a follower, for the callers that wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Where a follower is, and where callers wait for it to be.
#[derive(Debug)]
pub(crate) struct Progress {
    position: watch::Sender<LogPosition>,
    wanted: AtomicU64,
    delivered: watch::Sender<u64>,
    delivery_wanted: AtomicU64,
    wake: Notify,
}

/// Where a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// It has taken every record below.
    pub(crate) followed: u64,
    /// It waits for memory before it goes on.
    pub(crate) full: bool,
    /// It will not go on.
    pub(crate) ended: bool,
}

impl Progress {
    /// The progress of a follower that has taken and delivered everything below `followed`.
    pub(crate) fn new(followed: u64) -> Self {
        Self {
            position: watch::channel(LogPosition { followed, full: false, ended: false }).0,
            wanted: AtomicU64::new(0),
            delivered: watch::channel(followed).0,
            delivery_wanted: AtomicU64::new(0),
            wake: Notify::new(),
        }
    }

    pub(crate) fn position(&self) -> LogPosition {
        *self.position.borrow()
    }

    pub(crate) fn set(&self, position: LogPosition) {
        self.position.send_if_modified(|held| std::mem::replace(held, position) != position);
    }

    /// True while a caller waits for a record that is not taken yet.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > self.position().followed
    }

    /// Returns when [`Progress::is_wanted`] may have become true.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits until the follower has taken everything below `target`, for `limit` at most and not
    /// while it is full. Returns its position then.
    pub(crate) async fn reach(&self, target: u64, limit: Duration) -> LogPosition {
        self.follow_to(target, limit, |position| position.full).await
    }

    /// As [`reach`](Self::reach), and waits while the follower is full too: until the store has
    /// accepted what makes it full.
    pub(crate) async fn reach_when_not_full(&self, target: u64, limit: Duration) -> LogPosition {
        self.follow_to(target, limit, |_| false).await
    }

    async fn follow_to(&self, target: u64, limit: Duration, gives_up: impl Fn(&LogPosition) -> bool) -> LogPosition {
        if self.position().followed >= target {
            return self.position();
        }
        self.wanted.fetch_max(target, Ordering::AcqRel);
        self.wake.notify_one();
        let mut position = self.position.subscribe();
        let there = position.wait_for(|p| p.followed >= target || p.ended || gives_up(p));
        match tokio::time::timeout(limit, there).await {
            Ok(Ok(position)) => *position,
            Ok(Err(_)) | Err(_) => self.position(),
        }
    }

    /// Everything below `done_to` is durable in the store.
    pub(crate) fn set_delivered(&self, done_to: u64) {
        self.delivered.send_replace(done_to);
    }

    /// True while a caller waits for a record at or after `from` to be delivered.
    pub(crate) fn is_delivery_wanted(&self, from: u64) -> bool {
        self.delivery_wanted.load(Ordering::Acquire) > from
    }

    /// Waits until everything below `target` is delivered, for `limit` at most. False when it is
    /// not.
    pub(crate) async fn delivered(&self, target: u64, limit: Duration) -> bool {
        let reached = async {
            if self.reach(target, limit).await.followed < target {
                return false;
            }
            self.delivery_wanted.fetch_max(target, Ordering::AcqRel);
            self.wake.notify_one();
            let mut delivered = self.delivered.subscribe();
            delivered.wait_for(|done_to| *done_to >= target).await.is_ok()
        };
        tokio::time::timeout(limit, reached).await.unwrap_or(false)
    }
}
