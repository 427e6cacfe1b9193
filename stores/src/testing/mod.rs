//! Stores in memory, for tests: they keep the contract, and fail, stall and crash where a test
//! wants it.
//!
//! [`MemoryStore`] passes the contract suite. A test that wants to see one port fail and not the
//! others gives each port a store of its own. Available with the feature `testing` only.

mod dead_letters;
mod faults;
mod growth;
mod history;
mod latest;
mod retained;
mod tenant;

use std::sync::Arc;

use async_trait::async_trait;

use crate::contract::{Result, Store};

pub use faults::{Faults, Hook};
pub use growth::{assert_linear, growth};
pub use retained::{load_in_parts, load_retained, messages_of, page_of};

/// A store in memory. Cheap to clone: clones share their content and their faults.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    history: Arc<history::Blocks>,
    latest: Arc<latest::States>,
    letters: Arc<dead_letters::Letters>,
    retained: Arc<retained::Messages>,
    faults: Arc<Faults>,
}

impl MemoryStore {
    /// A store whose writes pass `hook` before they take effect and after.
    pub fn new(hook: Arc<dyn Hook>) -> Self {
        Self { faults: Arc::new(Faults::new(hook)), ..Self::default() }
    }

    /// Returns the faults that a test may set.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn ready(&self) -> Result<()> {
        self.faults.answer()
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}
