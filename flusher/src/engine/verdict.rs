//! The meaning of a store's answer. The only place that decides.

use std::time::Duration;

use stores::StoreError;

/// The consequence of a write that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try the same again, after this long if the store asked for it, else with back-off; without
    /// end.
    Retry { reason: String, after: Option<Duration> },
    /// Keep everything and report why; try again from time to time, in case an operator has removed
    /// the cause.
    Pause { reason: String },
    /// Keep everything and report why; only a restart tries again.
    Halt { reason: String },
    /// Write the halves, so that only the guilty items are left out.
    Split { reason: String },
    /// Write the whole batch again: everything written since the last commit is lost.
    Again { reason: String },
}

impl Verdict {
    /// Its name in metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Retry { .. } => "retry",
            Self::Pause { .. } => "pause",
            Self::Halt { .. } => "halt",
            Self::Split { .. } => "split",
            Self::Again { .. } => "again",
        }
    }
}

/// The table.
pub(crate) fn verdict(error: &StoreError) -> Verdict {
    match error {
        StoreError::Refused(reason) | StoreError::TooLarge(reason) => Verdict::Split { reason: reason.clone() },
        StoreError::NeedsOperator(reason) => Verdict::Pause { reason: reason.clone() },
        StoreError::Busy { reason, retry_after } => Verdict::Retry { reason: reason.clone(), after: *retry_after },
        StoreError::Damaged(_) => Verdict::Halt { reason: error.to_string() },
        StoreError::Aborted(reason) => Verdict::Again { reason: reason.clone() },
        StoreError::Moved => Verdict::Retry { reason: error.to_string(), after: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_is_ever_split() {
        let busy = StoreError::Busy { reason: "503".into(), retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(verdict(&busy), Verdict::Retry { reason: "503".into(), after: Some(Duration::from_secs(7)) });
        assert_eq!(verdict(&StoreError::NeedsOperator("401".into())).name(), "pause");
        assert_eq!(verdict(&StoreError::Refused("type".into())).name(), "split");
        assert_eq!(verdict(&StoreError::TooLarge("413".into())).name(), "split");
        assert_eq!(verdict(&StoreError::Damaged("crc".into())).name(), "halt");
        assert_eq!(verdict(&StoreError::Aborted("fenced".into())).name(), "again");
    }
}
