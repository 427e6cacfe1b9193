//! The rounds of an export: it joins its store, delivers, and begins again whenever an operator
//! changes its setting.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::deliver::{self, Stop};
use super::driver::{Driver, delivered};
use super::recount;
use crate::SinkState;
use crate::sink::Sink;

/// A delivery may take this long to end by itself after a change of the export's setting.
const GRACE: Duration = Duration::from_secs(5);
/// State of an export that an operator paused.
const PAUSED: &str = "paused by an operator";

impl<S: Sink> Driver<S> {
    /// Runs until `shutdown`, then flushes once more, unless the export is paused.
    pub(super) async fn export(&mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        // Each change of the setting ends a round.
        while !shutdown.is_cancelled() {
            if !self.is_allowed(shutdown).await || !self.join(shutdown).await? {
                continue;
            }
            if self.rewind_is_due() {
                self.rewind(shutdown).await?;
                continue;
            }
            self.follow_until(shutdown).await?;
            if shutdown.is_cancelled() {
                return self.last_flush().await;
            }
            self.interrupt().await?;
        }
        Ok(())
    }

    /// Waits while the export is paused. False when it has to be asked again.
    async fn is_allowed(&mut self, shutdown: &CancellationToken) -> bool {
        self.setting = self.control.get();
        let (shared, known) = (&self.delivery.shared, self.setting);
        let was_paused = shared.is_paused_by_operator();
        shared.set_paused_by_operator(known.is_some_and(|setting| setting.paused));
        match known {
            Some(setting) if !setting.paused => {
                if shared.running() && was_paused {
                    tracing::info!(log = %shared.log, export = %shared.name(), "the export is resumed");
                }
                return true;
            }
            Some(_) => {
                if shared.paused(PAUSED) {
                    tracing::info!(log = %shared.log, export = %shared.name(), "the export is paused; the log keeps the records");
                }
            }
            // It may be paused.
            None => {
                shared.paused("waiting for the settings of exports");
            }
        }
        tokio::select! {
            () = self.control.differs(known.as_ref()) => {}
            () = shutdown.cancelled() => {}
        }
        false
    }

    fn rewind_is_due(&self) -> bool {
        let asked = self.setting.and_then(|setting| setting.rewind);
        asked.is_some_and(|rewind| rewind.generation > self.delivery.shared.cursor().generation)
    }

    /// Sets the cursor back, as an operator has asked: the store's own first, so that a crash in
    /// between is followed by the same rewind, and not by a store that is ahead.
    async fn rewind(&mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        let Some(asked) = self.setting.and_then(|setting| setting.rewind) else { return Ok(()) };
        let delivery = Arc::clone(&self.delivery);
        let (log, shared) = (&delivery.log, &delivery.shared);
        let target = match log.offset_at(asked.to).await {
            Ok(offset) => offset.max(log.start()),
            Err(error) => return self.unread(error).await,
        };
        let mut cursor = shared.cursor();
        cursor.generation = asked.generation;
        let from = cursor.done_to;
        if target >= from {
            return delivery.move_cursor(&cursor).await;
        }
        delivery.sink.forget();
        let counted = recount::recount(&delivery, (target, from), shutdown, &mut self.backoff).await?;
        delivery.sink.forget();
        let Some(passed) = counted else { return Ok(()) };
        recount::take_back(&mut cursor, target, passed);
        let known = self.setting;
        let set_back = tokio::select! {
            set_back = delivery.rewind(target, shutdown) => set_back,
            () = self.control.differs(known.as_ref()) => false,
        };
        if !set_back {
            return Ok(());
        }
        if !delivery.rewind_cursor(&cursor).await? {
            // Trimmed meanwhile: the next round sets it back to the log's new start.
            return Ok(());
        }
        if let Err(error) = delivery.accepted.count_back(target).await {
            tracing::debug!(log = log.id(), %error, "the lag of the export is not exact until it is caught up");
        }
        tracing::info!(log = log.id(), export = %shared.name(), from, to = target, "the export is set back");
        self.begin_at_cursor();
        Ok(())
    }

    /// Ends the delivery in flight, and drops what was taken: the log has it. A delivery that makes
    /// progress may end by itself. One that is given up may be in the store in part: the next round
    /// joins the store again.
    async fn interrupt(&mut self) -> Result<(), Stop> {
        let grace = match self.delivery.shared.state() {
            SinkState::Running => GRACE,
            _ => Duration::ZERO,
        };
        if let Ok(Some(done)) = tokio::time::timeout(grace, self.in_flight.join_next()).await {
            delivered(done)?;
        }
        self.interrupt.cancel();
        while let Some(done) = self.in_flight.join_next().await {
            match delivered(done) {
                Ok(()) | Err(Stop::Interrupted) => {}
                Err(stop) => return Err(stop),
            }
        }
        self.interrupt = CancellationToken::new();
        drop(self.delivery.sink.close());
        self.delivery.sink.finish(self.delivery.shared.done_to());
        self.begin_at_cursor();
        Ok(())
    }

    /// Becomes the one writer of the log in the store. False when the setting changed first, or at
    /// a shutdown.
    ///
    /// A store that keeps a cursor of its own may be ahead of the log's: the holder ended between
    /// the store's commit and the move of the log's cursor. The log's cursor then follows first, so
    /// that nothing is written twice. A store that is behind was replaced or restored since, or was
    /// written without its cursor for a time: everything below the log's cursor was durable there
    /// once, and the log may not have it any longer. So the log's cursor stands; an operator can
    /// rewind the export.
    async fn join(&mut self, shutdown: &CancellationToken) -> Result<bool, Stop> {
        let known = self.setting;
        let committed = tokio::select! {
            committed = self.delivery.join(shutdown) => committed,
            () = self.control.differs(known.as_ref()) => None,
        };
        let Some(committed) = committed else { return Ok(false) };
        let (log, name) = (Arc::clone(&self.delivery.log), Arc::clone(self.delivery.shared.name()));
        let done_to = self.delivery.shared.done_to();
        match committed {
            Some(committed) if committed > log.confirm_end().await.0 => {
                let id = log.id();
                let reason = format!(
                    "it has records of log {id} up to offset {committed}, where the log ends earlier: the log was \
                     replaced; give the export another name, or clear its cursor in the store"
                );
                self.wait_for_operator(&reason, shutdown).await;
                return Ok(false);
            }
            Some(committed) if committed > done_to => self.adopt(committed, shutdown).await?,
            Some(committed) if committed < done_to && committed > 0 => tracing::warn!(
                log = log.id(),
                export = &*name,
                committed,
                done_to,
                "the store records less than was written to it; rewind the export if the store was replaced or restored"
            ),
            _ => {}
        }
        self.begin_at_cursor();
        Ok(!shutdown.is_cancelled())
    }

    /// Waits until it is worth another try, or the setting changes.
    async fn wait_for_operator(&mut self, reason: &str, shutdown: &CancellationToken) {
        let (delivery, known) = (Arc::clone(&self.delivery), self.setting);
        delivery.note_paused(reason);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(delivery.retry.paused_secs.max(1))) => {}
            () = self.control.differs(known.as_ref()) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Moves the log's cursor to where the store is: its last delivery was committed there, and
    /// nothing of it is written again. It was one batch, so its records became what they become in
    /// one batch, less those in the dead letters.
    async fn adopt(&mut self, committed: u64, shutdown: &CancellationToken) -> Result<(), Stop> {
        let mut cursor = self.delivery.shared.cursor();
        let range = (cursor.done_to, committed);
        let Some(found) = recount::recount(&self.delivery, range, shutdown, &mut self.backoff).await? else {
            return Ok(());
        };
        deliver::pass(&mut cursor, committed, &found.tallies, found.hours);
        self.delivery.move_cursor(&cursor).await?;
        let (log, export) = (self.delivery.log.id(), self.delivery.shared.name());
        tracing::info!(log, export = &**export, from = range.0, to = range.1, "the store has these records already");
        Ok(())
    }
}
