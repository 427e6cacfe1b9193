//! The name of a node, and the start under which the fleet knows it.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::unique::unique;

/// This node. Its start changes when the fleet has taken it for dead.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: Arc<str>,
    /// Name of this process as a writer of batches, which stays.
    pub(crate) writer: String,
    present: RwLock<Present>,
}

/// A start of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) start: String,
    /// `NAME@START`.
    pub(crate) node: Arc<str>,
}

impl Present {
    fn new(name: &str) -> Self {
        let start = format!("{:016x}", unique());
        Self { node: format!("{name}@{start}").into(), start }
    }
}

impl Identity {
    pub(crate) fn new(name: &str) -> Self {
        let present = Present::new(name);
        Self { name: name.into(), writer: present.node.to_string(), present: RwLock::new(present) }
    }

    pub(crate) fn present(&self) -> Present {
        self.present.read().clone()
    }

    pub(crate) fn node(&self) -> Arc<str> {
        Arc::clone(&self.present.read().node)
    }

    /// Begins a new start.
    pub(crate) fn renew(&self) {
        *self.present.write() = Present::new(&self.name);
    }
}
