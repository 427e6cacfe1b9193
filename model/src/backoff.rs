//! Waits between attempts.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Waits that double up to a longest one, with jitter, so that many callers do not return at the
/// same moment.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
    random: RandomState,
    draws: u64,
}

impl Backoff {
    /// Begins with `first`; no wait is longer than `max`. Neither is less than a millisecond.
    pub fn new(first: Duration, max: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        Self { next: first, max: max.max(first), random: RandomState::new(), draws: 0 }
    }

    /// Returns the next wait: between half of it and all of it.
    pub fn draw(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        self.draws += 1;
        let share = u32::try_from(self.random.hash_one(self.draws) % 1024).expect("below 1024");
        whole / 2 + whole * share / 2048
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_drawn_from_the_upper_half() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for whole in [100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.draw().as_millis();
            assert!(whole / 2 <= wait && wait <= whole, "{wait} of {whole}");
        }
    }
}
