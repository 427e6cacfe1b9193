//! The name of a node, and the start under which the fleet knows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;

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

/// A number that no other call and, but for chance, no other process returns: the time, the
/// process, and a count.
pub(crate) fn unique() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) ^ (u64::from(std::process::id()) << 44);
    let later = |last: u64| Some(now.max(last.wrapping_add(1)));
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).map_or(now, |last| now.max(last.wrapping_add(1)))
}
