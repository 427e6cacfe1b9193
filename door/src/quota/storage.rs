//! The storage of a tenant: the bytes of its readings that its store holds, and of those that are
//! on their way there. A message is admitted when its readings fit.
//!
//! ```text
//! accepted   bytes of readings that were admitted since the start; it only grows
//! full_at    the value of `accepted` that the limit allows; the largest number while it is not known
//! marks      ends of the log, each with a value of `accepted`: what was admitted up to then lies
//!            below this end
//! ```
//! A store is asked from time to time ([`TenantMeter::stored`]), with the offset below which the
//! log was in the store before. The youngest mark up to there says how much of `accepted` the store
//! has counted; all that was admitted since is added to its answer. So it may be as old as it
//! likes: nothing is missing between two answers. Readings that were written to the store after the
//! offset was read count twice until the next answer.
//!
//! Readings that do not become part of the store leave the sum with their mark: merged ones, those
//! of a connection that ended before they were in the log, dead letters.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::tenant::Most;
use super::{DeviceMeter, Exceeded, Limits, Quota, TenantMeter};

/// Marks of a tenant. When there are more, every second one is forgotten: what lies between two
/// marks counts until the second one is passed.
const MARKS: usize = 64;

/// The storage of a tenant.
#[derive(Debug)]
pub(super) struct Storage {
    is_limited: AtomicBool,
    most: Most,
    accepted: AtomicU64,
    full_at: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes in the store, once it was asked.
    stored: Option<u64>,
    /// The part of `accepted` that is among them, or left out.
    counted: u64,
    /// `accepted` at the last mark.
    marked: u64,
    marks: VecDeque<Mark>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    end: u64,
    accepted: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            is_limited: AtomicBool::new(false),
            most: Most::default(),
            accepted: AtomicU64::new(0),
            full_at: AtomicU64::new(u64::MAX),
            state: Mutex::default(),
        }
    }
}

impl Storage {
    pub(super) fn set(&self, limits: &Limits) {
        let mut state = self.state.lock();
        let accepted = self.accepted.load(Ordering::Relaxed);
        if limits.storage_bytes.is_none() || !self.is_limited() {
            // What was admitted without a limit was not counted.
            *state = State { counted: accepted, marked: accepted, ..State::default() };
        }
        self.most.set(limits.storage_bytes);
        self.is_limited.store(limits.storage_bytes.is_some(), Ordering::Relaxed);
        self.fill(&state);
    }

    pub(super) fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed)
    }

    fn fill(&self, state: &State) {
        let full_at = match state.stored {
            Some(stored) if self.is_limited() => state.counted.saturating_add(self.most.get().saturating_sub(stored)),
            _ => u64::MAX,
        };
        self.full_at.store(full_at, Ordering::Relaxed);
    }

    /// Bytes of the readings in the store, and of those on their way; `None` while it is not known.
    pub(super) fn used(&self) -> Option<u64> {
        let state = self.state.lock();
        let on_their_way = self.accepted.load(Ordering::Relaxed).saturating_sub(state.counted);
        state.stored.map(|stored| stored.saturating_add(on_their_way))
    }

    /// Takes room; false when there is less.
    fn take(&self, bytes: u64) -> bool {
        if bytes == 0 {
            return true;
        }
        let full_at = self.full_at.load(Ordering::Relaxed);
        // A large message that does not fit refuses no small ones that do.
        let within = |accepted: u64| accepted.checked_add(bytes).filter(|after| *after <= full_at);
        self.accepted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }
}

impl TenantMeter {
    /// True while its storage is limited.
    pub fn limits_storage(&self) -> bool {
        self.storage.is_limited()
    }

    /// True once the store was asked since the limit is there.
    pub fn knows_storage(&self) -> bool {
        self.storage.state.lock().stored.is_some()
    }

    /// Notes the end of the log, about once a second. What was admitted until the note before has
    /// to be below it. Messages that wait for room in the log may not be: these count again when
    /// they are in the store.
    pub fn mark_storage(&self, end: u64) {
        let mut state = self.storage.state.lock();
        let accepted = std::mem::replace(&mut state.marked, self.storage.accepted.load(Ordering::Relaxed));
        if let Some(last) = state.marks.back_mut().filter(|last| last.end >= end) {
            last.accepted = accepted;
            return;
        }
        if state.marks.len() == MARKS {
            let kept: VecDeque<Mark> = state.marks.iter().skip(1).step_by(2).copied().collect();
            state.marks = kept;
        }
        state.marks.push_back(Mark { end, accepted });
    }

    /// Sets the bytes that the store holds. Everything below `done_to` in the log was in the store
    /// before it was asked; `None` when this process has no log.
    pub fn stored(&self, bytes: u64, done_to: Option<u64>) {
        let mut state = self.storage.state.lock();
        if !self.storage.is_limited() {
            return;
        }
        while let Some(mark) = state.marks.front().filter(|mark| done_to.is_some_and(|done| mark.end <= done)) {
            state.counted = mark.accepted;
            state.marks.pop_front();
        }
        state.stored = Some(bytes);
        self.storage.fill(&state);
    }
}

impl DeviceMeter {
    /// True while the size of readings has to be [stored](Self::store).
    pub fn limits_storage(&self) -> bool {
        self.tenant().limits_storage()
    }

    /// Admits readings of so many bytes ([`model::size`]), which are stored from now on.
    ///
    /// # Errors
    /// [`Exceeded`] when they do not fit into the storage of the tenant.
    pub fn store(&self, bytes: u64) -> Result<(), Exceeded> {
        let tenant = self.tenant();
        if tenant.storage.take(bytes) {
            return Ok(());
        }
        let limit = tenant.storage.most.get();
        Err(tenant.exceeded(Exceeded { quota: Quota::Storage, limit, retry_after: None }))
    }

    /// Gives the room back of readings that are not stored after all.
    pub fn unstore(&self, bytes: u64) {
        self.tenant().storage.accepted.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
