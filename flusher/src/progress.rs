//! How far a follower is, for those who wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// Where a follower is and where it is wanted.
#[derive(Debug)]
pub(crate) struct Progress {
    place: watch::Sender<Place>,
    wanted: AtomicU64,
    delivered: watch::Sender<u64>,
    delivery_wanted: AtomicU64,
    wake: Notify,
}

/// Where a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// It has taken every record below.
    pub(crate) followed: u64,
    /// It waits for memory before it goes on.
    pub(crate) full: bool,
    /// It will not go on.
    pub(crate) ended: bool,
}

impl Progress {
    /// Of a follower that has taken and delivered everything below `followed`.
    pub(crate) fn new(followed: u64) -> Self {
        Self {
            place: watch::channel(Place { followed, full: false, ended: false }).0,
            wanted: AtomicU64::new(0),
            delivered: watch::channel(followed).0,
            delivery_wanted: AtomicU64::new(0),
            wake: Notify::new(),
        }
    }

    pub(crate) fn place(&self) -> Place {
        *self.place.borrow()
    }

    pub(crate) fn set(&self, place: Place) {
        self.place.send_if_modified(|held| std::mem::replace(held, place) != place);
    }

    /// Somebody waits for a record that is not taken yet.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > self.place().followed
    }

    /// Returns when [`Progress::is_wanted`] may have become true.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits until the follower has taken everything below `target`, for `limit` at most and not while it is full.
    /// Returns where it then is.
    pub(crate) async fn reach(&self, target: u64, limit: Duration) -> Place {
        if self.place().followed >= target {
            return self.place();
        }
        self.wanted.fetch_max(target, Ordering::AcqRel);
        self.wake.notify_one();
        let mut place = self.place.subscribe();
        let there = place.wait_for(|p| p.followed >= target || p.full || p.ended);
        match tokio::time::timeout(limit, there).await {
            Ok(Ok(place)) => *place,
            Ok(Err(_)) | Err(_) => self.place(),
        }
    }

    /// Everything below is durable in the store.
    pub(crate) fn set_delivered(&self, done_to: u64) {
        self.delivered.send_replace(done_to);
    }

    /// Somebody waits for a record at or after `from` to be delivered.
    pub(crate) fn is_delivery_wanted(&self, from: u64) -> bool {
        self.delivery_wanted.load(Ordering::Acquire) > from
    }

    /// Waits until everything below `target` is delivered, for `limit` at most. False when it is not.
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
