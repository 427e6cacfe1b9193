//! The time of day.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use model::Nanos;

/// Tells the time of day; tests hold it.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Nanos;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Nanos {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Nanos::try_from(now).unwrap_or(Nanos::MAX)
    }
}
