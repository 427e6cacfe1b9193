//! The sessions whose queues hold most of the memory: they give way first when it is short.
//!
//! A session is noted when its queue has grown to the next power of two, and again when it has
//! shrunk by two: a message costs nothing here.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::session::Session;

/// Queues of clients that are away are noted from this size on.
const AWAY_BYTES: usize = 1 << 10;
/// Queues of clients that are connected: they fill and empty all the time.
const CONNECTED_BYTES: usize = 64 << 10;

/// Sessions by the size of their queues.
#[derive(Debug, Default)]
pub(crate) struct Heavy(Mutex<BTreeMap<(u8, usize), Weak<Session>>>);

impl Heavy {
    /// Returns the power of two of a size; 0 for a queue that is not noted.
    pub(crate) fn class(bytes: usize, away: bool) -> u8 {
        let least = if away { AWAY_BYTES } else { CONNECTED_BYTES };
        if bytes < least { 0 } else { bytes.ilog2() as u8 }
    }

    /// Notes a session under a key of its own, until the registration is dropped.
    pub(crate) fn register(this: &Arc<Self>, class: u8, key: usize, session: Weak<Session>) -> Registration {
        this.0.lock().insert((class, key), session);
        Registration { heavy: Arc::clone(this), at: (class, key) }
    }

    /// Returns a session whose queue holds most, to within a factor of about two.
    pub(crate) fn heaviest(&self) -> Option<Arc<Session>> {
        // One that is being dropped leaves by itself.
        self.0.lock().values().rev().find_map(Weak::upgrade)
    }

    /// Returns at most so many of the sessions whose queues hold most.
    pub(crate) fn heaviest_of(&self, most: usize) -> Vec<Arc<Session>> {
        let heaviest: Vec<_> = self.0.lock().values().rev().take(most).cloned().collect();
        heaviest.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The place of a session.
#[derive(Debug)]
pub(crate) struct Registration {
    heavy: Arc<Heavy>,
    at: (u8, usize),
}

impl Registration {
    pub(crate) fn class(&self) -> u8 {
        self.at.0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let left = self.heavy.0.lock().remove(&self.at);
        // Outside of the lock: it may be the last reference.
        drop(left);
    }
}
