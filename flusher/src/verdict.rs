//! What a store's answer means. The only place that decides.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use stores::StoreError;

use crate::config::Retry;

/// What to do with a write that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try the same again, after this long if the store said so, else with back-off; for ever.
    Retry { reason: String, after: Option<Duration> },
    /// Keep everything and say why; look now and then whether a person has repaired the cause.
    Pause { reason: String },
    /// Keep everything and say why; a restart tries again.
    Halt { reason: String },
    /// Write the halves, so that only the guilty items are left out.
    Split { reason: String },
}

impl Verdict {
    /// Its name in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Retry { .. } => "retry",
            Self::Pause { .. } => "pause",
            Self::Halt { .. } => "halt",
            Self::Split { .. } => "split",
        }
    }
}

/// The table.
pub(crate) fn verdict(error: &StoreError) -> Verdict {
    match error {
        StoreError::Refused(reason) | StoreError::TooLarge(reason) => Verdict::Split { reason: reason.clone() },
        StoreError::Paused(reason) => Verdict::Pause { reason: reason.clone() },
        StoreError::Busy { reason, retry_after } => Verdict::Retry { reason: reason.clone(), after: *retry_after },
        StoreError::Damaged(_) => Verdict::Halt { reason: error.to_string() },
        StoreError::Moved => Verdict::Retry { reason: error.to_string(), after: None },
    }
}

/// Waits that double, with jitter so that many sinks do not come back at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
    random: RandomState,
    draws: u64,
}

impl Backoff {
    pub(crate) fn new(retry: &Retry) -> Self {
        let first = Duration::from_millis(retry.first_ms.max(1));
        let max = Duration::from_millis(retry.max_ms.max(1)).max(first);
        Self { next: first, max, random: RandomState::new(), draws: 0 }
    }

    /// The next wait.
    pub(crate) fn draw(&mut self) -> Duration {
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
    fn only_a_refusal_is_ever_split() {
        let busy = StoreError::Busy { reason: "503".into(), retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(verdict(&busy), Verdict::Retry { reason: "503".into(), after: Some(Duration::from_secs(7)) });
        assert_eq!(verdict(&StoreError::Paused("401".into())).name(), "pause");
        assert_eq!(verdict(&StoreError::Refused("type".into())).name(), "split");
        assert_eq!(verdict(&StoreError::TooLarge("413".into())).name(), "split");
        assert_eq!(verdict(&StoreError::Damaged("crc".into())).name(), "halt");
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_drawn_from_the_upper_half() {
        let mut backoff = Backoff::new(&Retry { first_ms: 100, max_ms: 1_000, paused_secs: 1 });
        for whole in [100, 200, 400, 800, 1_000, 1_000] {
            let wait = backoff.draw().as_millis();
            assert!(whole / 2 <= wait && wait <= whole, "{wait} of {whole}");
        }
    }
}
