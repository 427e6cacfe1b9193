//! Keep-alive: silence of the other broker, and answers that do not come.

use std::time::Duration;

use tokio::time::Instant;

use crate::end::End;

/// The times at which the other broker was heard and written to.
#[derive(Debug)]
pub(crate) struct Pulse {
    interval: Duration,
    /// Time for an answer that the bridge waits for.
    patience: Duration,
    heard: Instant,
    sent: Instant,
    /// PINGREQ was sent, and nothing has come since.
    asked: Option<Instant>,
}

impl Pulse {
    pub(crate) fn new(interval: Duration, patience: Duration) -> Self {
        let now = Instant::now();
        Self { interval, patience, heard: now, sent: now, asked: None }
    }

    /// Bytes have come.
    pub(crate) fn heard(&mut self) {
        self.heard = Instant::now();
        self.asked = None;
    }

    /// Bytes were sent.
    pub(crate) fn sent(&mut self) {
        self.sent = Instant::now();
    }

    /// Returns when to call [`Self::beat`]; `awaited` is true while an answer is awaited.
    pub(crate) fn due(&self, awaited: bool) -> Instant {
        let due = self.asked.unwrap_or(self.heard.min(self.sent)) + self.interval;
        if awaited { due.min(self.heard + self.patience) } else { due }
    }

    /// True when PINGREQ is to be sent. `reads` is false while the other broker is not read, so
    /// that nothing can be heard.
    ///
    /// # Errors
    /// [`End`], when an answer is late or the other broker is gone.
    pub(crate) fn beat(&mut self, awaited: bool, reads: bool) -> Result<bool, End> {
        let now = Instant::now();
        if !reads {
            self.heard();
        }
        if awaited && self.heard + self.patience <= now {
            return Err(End::Late("an answer of the other broker", self.patience));
        }
        match self.asked {
            Some(asked) if asked + self.interval <= now => Err(End::Silent(now - self.heard)),
            None if self.heard.min(self.sent) + self.interval <= now => {
                self.asked = Some(now);
                self.sent = now;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn silence_is_asked_about_once_and_then_is_the_end() {
        let mut pulse = Pulse::new(INTERVAL, Duration::from_secs(10));
        tokio::time::sleep_until(pulse.due(false)).await;
        assert!(matches!(pulse.beat(false, true), Ok(true)));
        pulse.heard();
        tokio::time::sleep_until(pulse.due(false)).await;
        assert!(matches!(pulse.beat(false, true), Ok(true)));
        assert!(matches!(pulse.beat(false, true), Ok(false)), "once");
        tokio::time::sleep_until(pulse.due(false)).await;
        assert!(matches!(pulse.beat(false, true), Err(End::Silent(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_not_read_is_not_silent_and_one_that_only_sends_is_pinged() {
        let mut pulse = Pulse::new(INTERVAL, Duration::from_secs(10));
        for _ in 0..3 {
            tokio::time::sleep_until(pulse.due(false)).await;
            assert!(matches!(pulse.beat(false, false), Ok(true)), "it has to hear of this side");
        }
        for _ in 0..3 {
            tokio::time::sleep(INTERVAL).await;
            pulse.heard();
            assert!(matches!(pulse.beat(false, true), Ok(true)), "nothing was sent");
            pulse.heard();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_to_come_in_time() {
        let mut pulse = Pulse::new(INTERVAL, Duration::from_secs(10));
        tokio::time::sleep_until(pulse.due(true)).await;
        assert!(matches!(pulse.beat(false, true), Ok(false)));
        assert!(matches!(pulse.beat(true, true), Err(End::Late(..))));
    }
}
