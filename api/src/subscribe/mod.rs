//! `Subscribe`: live events from the tail of the logs.
//!
//! The stream is pulled: HTTP/2's window decides when the next message is made, and until then nothing is read from the
//! log, so a slow reader costs its place in the log and nothing else. Readers that keep up share the decoded frames of
//! the log's ring. A reader whose place was trimmed is told so and the stream ends; nothing is skipped in silence.

mod follow;
mod snapshot;
mod start;

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, stream};
use model::Nanos;
use proto::v1::subscribe_response::{Closing, EventBatch, Heartbeat, Message};
use proto::v1::{Event, SubscribeRequest, SubscribeResponse};
use tokio::time::Instant;
use tonic::Status;

use crate::auth::Caller;
use crate::convert;
use crate::errors;
use crate::services::{Shared, StreamPlace};
use crate::token::{Kind, Query};
use follow::{Follow, News, Pull};
use snapshot::Snapshot;

pub(crate) use follow::write_places;
use start::Wanted;
pub(crate) use start::read_places;

/// After logs could not be opened.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What a subscriber reads.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

/// The query of a live stream: only the tenant and the selector count.
pub(crate) fn query(parent: &str, selector: &proto::v1::SeriesSelector) -> Query {
    let request =
        SubscribeRequest { parent: parent.to_owned(), selector: Some(selector.clone()), ..Default::default() };
    Query::new(Kind::Live, &request)
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
    let wanted = Wanted::read(caller, tenant, selector)?;
    let query = query(&request.parent, selector);
    let place = shared.open_stream()?;
    let snapshot = matches!(request.start, Some(proto::v1::subscribe_request::Start::Snapshot(true)));
    // Before the logs are opened: one that is made in between is news.
    let names = shared.backend.logs.names();
    let places = start::places(shared, query, request.start).await?;
    let live = Live {
        snapshot: snapshot.then(|| Snapshot::new(&wanted)),
        follow: Follow::new(places, wanted, names),
        shared: shared.clone(),
        query,
        beat_at: Instant::now() + pace.heartbeat,
        pace,
        over: false,
        _place: place,
    };
    Ok(Box::pin(stream::unfold(live, |mut live| async move {
        let message = live.next().await?;
        live.over |= message.is_err();
        Some((message, live))
    })))
}

/// How often it speaks.
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
    beat_at: Instant,
    over: bool,
    _place: StreamPlace,
}

/// What ended a wait.
enum Woken {
    Data,
    Logs,
    Time,
    Drain,
}

impl Live {
    /// The next message; `None` after the last one.
    async fn next(&mut self) -> Option<Result<SubscribeResponse, Status>> {
        if self.over {
            return None;
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
        let mut events: Vec<Event> = Vec::new();
        let mut send_at: Option<Instant> = None;
        let mut beat = false;
        loop {
            // Taken before the look at the log: what is durable by now is sent before a heartbeat that says so.
            let seen_at = convert::now();
            let pull = self.follow.pull(&mut events, self.pace.max_events).await?;
            match pull {
                Pull::Trimmed if events.is_empty() => return Ok(self.closing("SLOW_CONSUMER", Duration::ZERO)),
                Pull::Full | Pull::Trimmed => return Ok(self.batch(events, false, true)),
                Pull::More if events.is_empty() && Instant::now() >= self.beat_at => {
                    // Much is read and little of it wanted: the token moves on, the watermark does not.
                    return Ok(self.heartbeat(None));
                }
                Pull::More => continue,
                Pull::Empty if beat && events.is_empty() => return Ok(self.heartbeat(Some(seen_at))),
                Pull::Empty => {}
            }
            if !events.is_empty() && send_at.is_none() {
                send_at = Some(Instant::now() + self.pace.max_delay);
            }
            match self.wait(send_at.unwrap_or(self.beat_at)).await {
                Woken::Data => {}
                Woken::Logs => self.renew().await,
                Woken::Drain if events.is_empty() => return Ok(self.closing("DRAIN", Duration::from_secs(1))),
                Woken::Drain => return Ok(self.batch(events, false, true)),
                Woken::Time if !events.is_empty() => return Ok(self.batch(events, false, true)),
                // Look once more, so that the watermark is not as old as the wait was long.
                Woken::Time => beat = true,
            }
        }
    }

    async fn wait(&mut self, until: Instant) -> Woken {
        tokio::select! {
            biased;
            () = self.shared.draining.cancelled() => Woken::Drain,
            news = self.follow.news() => match news {
                News::Grown => Woken::Data,
                News::Logs => Woken::Logs,
                News::Closed => Woken::Drain,
            },
            () = tokio::time::sleep_until(until) => Woken::Time,
        }
    }

    async fn renew(&mut self) {
        match self.shared.backend.logs.open().await {
            Ok(logs) => self.follow.renew(&logs),
            Err(error) => {
                tracing::warn!(%error, "logs came or went and cannot be opened now; looking again");
                tokio::time::sleep(LOOK_AGAIN).await;
                self.follow.look_again();
            }
        }
    }

    fn token(&self) -> Vec<u8> {
        self.query.signed(&self.shared.config.token_secret, |writer| self.follow.write(writer))
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
