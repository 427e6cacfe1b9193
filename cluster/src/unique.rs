//! Numbers that tell starts and requests apart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A number that no other call and, but for chance, no other process returns: the time, the
/// process, and a count.
pub(crate) fn unique() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) ^ (u64::from(std::process::id()) << 44);
    let later = |last: u64| Some(now.max(last.wrapping_add(1)));
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).map_or(now, |last| now.max(last.wrapping_add(1)))
}
