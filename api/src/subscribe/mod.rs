//! `Subscribe`: live events from the tail of the logs.
//!
//! The stream is pulled: the HTTP/2 window decides when the next message is made, and until then
//! nothing is read from the log, so a slow reader costs no memory. Readers that keep up share the
//! decoded frames of the log's ring. When the position of a reader has been trimmed, the stream
//! ends with a `Closing` message; no event is skipped in silence.

mod follow;
mod snapshot;
mod start;

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, stream};
use identity::ReachChanges;
use model::Nanos;
use proto::v1::subscribe_response::{Closing, EventBatch, Heartbeat, Message};
use proto::v1::{Event, SubscribeRequest, SubscribeResponse};
use tokio::time::Instant;
use tonic::Status;

use crate::auth::Caller;
use crate::convert;
use crate::errors;
use crate::services::{Shared, StreamPermit};
use crate::token::Query;
use follow::{Batch, Change, Follow, Pull};
use snapshot::Snapshot;

pub(crate) use follow::write_positions;
use start::Selection;
pub(crate) use start::read_positions;

/// Pause before logs that could not be opened are opened again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The stream of an answer.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

/// The query that tokens of a live stream belong to: only the tenant and the selector count.
pub(crate) fn query(key: &[u8; 32], parent: &str, selector: &proto::v1::SeriesSelector) -> Query {
    let request =
        SubscribeRequest { parent: parent.to_owned(), selector: Some(selector.clone()), ..Default::default() };
    Query::new(key, "Subscribe", &request)
}

/// Opens the stream.
pub(crate) async fn subscribe(
    shared: &Shared,
    caller: &Caller,
    mut request: SubscribeRequest,
) -> Result<Events, Status> {
    let tenant = caller.tenant(&mut request.parent)?;
    let pace = Pace::read(&request)?;
    let selector = request.selector.get_or_insert_default();
    let selection = Selection::read(caller, tenant, selector, shared.config.token_secret)?;
    let query = query(&shared.config.token_secret, &request.parent, selector);
    let permit = shared.open_stream()?;
    let rights = selection.visible().1.reach().changes();
    // Once more, since changes are seen from here on.
    selection.check()?;
    let snapshot = matches!(request.start, Some(proto::v1::subscribe_request::Start::Snapshot(true)));
    // Subscribed before the logs are opened, so that a log created in between is noticed.
    let names = shared.backend.logs.names();
    let positions = start::positions(shared, selection.visible().0, query, request.start).await?;
    let live = Live {
        snapshot: snapshot.then(|| Snapshot::new(&selection)),
        follow: Follow::new(positions, selection.clone(), names),
        selection,
        rights,
        shared: shared.clone(),
        query,
        beat_at: Instant::now() + pace.heartbeat,
        pace,
        over: false,
        _permit: permit,
    };
    Ok(Box::pin(stream::unfold(live, |mut live| async move {
        let message = live.next().await?;
        live.over |= message.is_err();
        Some((message, live))
    })))
}

/// Timing and size of the messages.
#[derive(Debug, Clone, Copy)]
struct Pace {
    max_events: usize,
    max_delay: Duration,
    heartbeat: Duration,
}

impl Pace {
    fn read(request: &SubscribeRequest) -> Result<Self, Status> {
        let seconds = Duration::from_secs;
        let max_events = match usize::try_from(request.max_batch_events) {
            Ok(0) => 500,
            Ok(n @ 1..=5000) => n,
            _ => return Err(errors::invalid("max_batch_events", "must be 1 to 5000")),
        };
        let delay = request.max_batch_delay.as_ref();
        let heartbeat = request.heartbeat_interval.as_ref();
        Ok(Self {
            max_events,
            max_delay: convert::wait(
                "max_batch_delay",
                delay,
                Duration::from_millis(20),
                (Duration::ZERO, seconds(10)),
            )?,
            heartbeat: convert::wait("heartbeat_interval", heartbeat, seconds(15), (seconds(1), seconds(60)))?,
        })
    }
}

/// A live stream.
struct Live {
    shared: Shared,
    query: Query,
    pace: Pace,
    snapshot: Option<Snapshot>,
    follow: Follow,
    selection: Selection,
    /// Changes of the devices that the caller sees.
    rights: ReachChanges,
    beat_at: Instant,
    over: bool,
    _permit: StreamPermit,
}

/// Reason for the end of a wait.
enum Woken {
    Data,
    Logs,
    Time,
    Drain,
}

impl Live {
    /// Makes the next message; `None` after the last one.
    async fn next(&mut self) -> Option<Result<SubscribeResponse, Status>> {
        if self.over {
            return None;
        }
        if let Err(status) = self.check_rights() {
            return Some(Err(status));
        }
        if let Some(snapshot) = &mut self.snapshot {
            let page = match snapshot.page(&self.shared).await {
                Ok(page) => page,
                Err(status) => return Some(Err(status)),
            };
            let last = page.last;
            if last {
                self.snapshot = None;
            }
            return Some(Ok(self.batch(page.events, true, last)));
        }
        Some(self.live().await)
    }

    async fn live(&mut self) -> Result<SubscribeResponse, Status> {
        let mut batch = Batch::default();
        let mut send_at: Option<Instant> = None;
        let mut beat = false;
        loop {
            // Taken before the log is read: a heartbeat with this time follows everything durable
            // by then.
            let seen_at = convert::now();
            let pull = self.follow.pull(&mut batch, self.pace.max_events).await?;
            // Before anything claims that all events of the selection were sent.
            self.check_rights()?;
            match pull {
                Pull::Trimmed if batch.is_empty() => return Ok(self.closing("SLOW_CONSUMER", Duration::ZERO)),
                Pull::Full | Pull::Trimmed => return Ok(self.batch(batch.events, false, true)),
                Pull::More if batch.is_empty() && Instant::now() >= self.beat_at => {
                    // Many records were read and none selected: the token advances, the watermark
                    // does not.
                    return Ok(self.heartbeat(None));
                }
                Pull::More => continue,
                Pull::Empty if beat && batch.is_empty() => return Ok(self.heartbeat(Some(seen_at))),
                Pull::Empty => {}
            }
            if !batch.is_empty() && send_at.is_none() {
                send_at = Some(Instant::now() + self.pace.max_delay);
            }
            match self.wait(send_at.unwrap_or(self.beat_at)).await {
                Woken::Data => {}
                Woken::Logs => self.renew().await,
                Woken::Drain if batch.is_empty() => return Ok(self.closing("DRAIN", Duration::from_secs(1))),
                Woken::Drain => return Ok(self.batch(batch.events, false, true)),
                Woken::Time if !batch.is_empty() => return Ok(self.batch(batch.events, false, true)),
                // Reads once more, so that the watermark is not as old as the wait was long.
                Woken::Time => beat = true,
            }
        }
    }

    /// Ends the stream when a device that it names is one that the caller sees no longer.
    fn check_rights(&mut self) -> Result<(), Status> {
        if self.rights.happened() { self.selection.check() } else { Ok(()) }
    }

    async fn wait(&mut self, until: Instant) -> Woken {
        tokio::select! {
            biased;
            () = self.shared.draining.cancelled() => Woken::Drain,
            change = self.follow.changed() => match change {
                Change::Grown => Woken::Data,
                Change::Logs => Woken::Logs,
                Change::Closed => Woken::Drain,
            },
            () = self.rights.wait() => Woken::Data,
            () = tokio::time::sleep_until(until) => Woken::Time,
        }
    }

    async fn renew(&mut self) {
        match self.shared.backend.logs.open(Some(self.follow.tenant())).await {
            Ok(logs) => self.follow.renew(&logs),
            Err(error) => {
                tracing::warn!(%error, "cannot open the logs after a change; retrying");
                tokio::time::sleep(RETRY_PAUSE).await;
                self.follow.mark_changed();
            }
        }
    }

    fn token(&self) -> Vec<u8> {
        self.query.token(|writer| self.follow.write(writer))
    }

    fn batch(&mut self, events: Vec<Event>, snapshot: bool, with_token: bool) -> SubscribeResponse {
        self.shared.metrics.rows_sent.inc_by(events.len() as u64);
        self.beat_at = Instant::now() + self.pace.heartbeat;
        SubscribeResponse {
            message: Some(Message::Batch(EventBatch { events, snapshot })),
            resume_token: if with_token { self.token() } else { Vec::new() },
        }
    }

    fn heartbeat(&mut self, watermark: Option<Nanos>) -> SubscribeResponse {
        self.beat_at = Instant::now() + self.pace.heartbeat;
        let watermark_time = watermark.map(convert::timestamp);
        SubscribeResponse {
            message: Some(Message::Heartbeat(Heartbeat { watermark_time })),
            resume_token: self.token(),
        }
    }

    fn closing(&mut self, reason: &str, retry: Duration) -> SubscribeResponse {
        self.over = true;
        if reason == "SLOW_CONSUMER" {
            self.shared.metrics.slow_consumers.inc();
        }
        let retry_delay = Some(prost_types::Duration { seconds: retry.as_secs().cast_signed(), nanos: 0 });
        SubscribeResponse {
            message: Some(Message::Closing(Closing { retry_delay, reason: reason.to_owned() })),
            resume_token: self.token(),
        }
    }
}
