//! Repetition of transactions on a server, bounded in count and time.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::transaction::Stop;
use super::{Error, Result};

/// Repetitions after a conflict with another transaction.
const CONFLICTS: u32 = 50;
/// Repetitions after a lost connection.
const LOSSES: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Tries {
    deadline: Instant,
    conflicts: u32,
    losses: u32,
    pause: Duration,
    in_doubt: bool,
}

impl Tries {
    /// No try begins after this time.
    pub(super) fn within(limit: Duration) -> Self {
        let deadline = Instant::now() + limit;
        Self { deadline, conflicts: 0, losses: 0, pause: FIRST_PAUSE, in_doubt: false }
    }

    /// True once the answer to a commit was lost.
    pub(super) fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// When there is to be none.
    pub(super) async fn after(&mut self, stop: Stop) -> Result<()> {
        let (error, is_last) = match stop {
            Stop::Refused(error) => (error, true),
            Stop::Again(error) => {
                self.conflicts += 1;
                (error, self.conflicts > CONFLICTS)
            }
            Stop::Lost(error) => {
                self.losses += 1;
                // A change that was perhaps made is looked for as long as there is time.
                (error, self.losses > LOSSES && !self.in_doubt)
            }
            Stop::InDoubt(error) => {
                self.in_doubt = true;
                (error, false)
            }
        };
        // Others that failed with this one do not come back together with it.
        let random = u32::try_from(RandomState::new().hash_one(self.conflicts) >> 32).unwrap_or_default();
        let pause = self.pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX));
        if is_last || Instant::now() + pause > self.deadline {
            return Err(match error {
                Error::Unavailable(reason) if self.in_doubt => Error::Unavailable(format!(
                    "{reason}; whether the change was made is not known: look for it before you repeat it"
                )),
                error => error,
            });
        }
        sleep(pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Error {
        Error::Unavailable("away".into())
    }

    fn tries() -> Tries {
        Tries::within(Duration::from_secs(60))
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_losses_are_few() {
        assert_eq!(tries().after(Stop::Refused(away())).await, Err(away()));
        let mut tries = tries();
        for _ in 0..LOSSES {
            tries.after(Stop::Lost(away())).await.unwrap();
        }
        assert_eq!(tries.after(Stop::Lost(away())).await, Err(away()));
    }

    #[tokio::test]
    async fn a_change_in_doubt_is_looked_for_until_time_is_up_and_then_said_to_be_unknown() {
        let mut tries = Tries::within(Duration::from_millis(100));
        tries.after(Stop::InDoubt(away())).await.unwrap();
        let error = loop {
            if let Err(error) = tries.after(Stop::Lost(away())).await {
                break error;
            }
        };
        assert!(tries.losses > LOSSES && error.to_string().contains("not known"), "{error}");
        let refused = Error::Exists("x".into());
        assert_eq!(tries.after(Stop::Refused(refused.clone())).await, Err(refused), "it was not made");
    }
}
