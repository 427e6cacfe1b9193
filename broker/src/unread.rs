//! Clients that connect before the sessions of earlier starts are known: the store that has them
//! may be away at a start, and no device waits for it.
//!
//! A client that continues a session begins one without knowing of the other, and is told so: it
//! subscribes again. When the other is known, the messages that wait in it are added to the session
//! that the client has by then. A client that asked for a clean start gets none of them.

use std::sync::Arc;

use hashbrown::HashSet;
use parking_lot::Mutex;

/// Clients whose clean start is remembered. Of more, messages from before it may be delivered.
const BEGUN: usize = 100_000;

/// Tenants and client ids.
type Begun = HashSet<(Arc<str>, Arc<str>), foldhash::fast::RandomState>;

/// Clients with a clean start while the sessions of earlier starts are not known; None afterwards.
#[derive(Debug)]
pub(crate) struct Unread(Mutex<Option<Begun>>);

impl Default for Unread {
    fn default() -> Self {
        Self(Mutex::new(Some(Begun::default())))
    }
}

impl Unread {
    /// Notes that all sessions of earlier starts are known.
    pub(crate) fn end(&self) {
        *self.0.lock() = None;
    }

    /// Notes that a client asked for a clean start: what it had before is over.
    pub(crate) fn begin_anew(&self, tenant: &Arc<str>, client: &str) {
        if let Some(begun) = self.0.lock().as_mut().filter(|begun| begun.len() < BEGUN) {
            begun.insert((Arc::clone(tenant), client.into()));
        }
    }

    /// True when a client has asked for a clean start since the start.
    pub(crate) fn has_begun(&self, tenant: &Arc<str>, client: &Arc<str>) -> bool {
        self.0.lock().as_ref().is_some_and(|begun| begun.contains(&(Arc::clone(tenant), Arc::clone(client))))
    }
}
