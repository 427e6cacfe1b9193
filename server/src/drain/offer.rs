//! The drain of a running process: requests over HTTP that only a reader of the data folder can
//! make.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::Broker;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::local::Token;
use crate::run::PooledInbox;

/// Path of the request.
pub(crate) const PATH: &str = "/drain";

/// Purpose of the token.
pub(super) const PURPOSE: &str = "weir drain";

/// Time after which a command that follows a drain gets the next figures.
const FOLLOWED: Duration = Duration::from_secs(1);
/// Time between two looks at the number of connections.
const LOOK: Duration = Duration::from_millis(50);

/// The request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub(crate) enum Order {
    /// Close the connections in slices.
    Begin {
        /// Connections in a second; `None` is that of the configuration.
        rate: Option<u32>,
        /// Stop the process after that.
        stop: bool,
    },
    /// Accept connections again.
    Cancel,
    /// Only the figures.
    Status,
    /// The figures after a moment, or when all connections are closed.
    Follow,
}

/// The progress of a drain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The process drains.
    pub(super) draining: bool,
    /// Connections that are open.
    pub(super) open: usize,
    /// Connections that the drain has closed.
    pub(super) closed: u64,
    /// Connections that it closes in a second.
    pub(super) per_second: u32,
    /// Seconds since it began.
    pub(super) secs: f64,
    /// The process stops when all are closed.
    pub(super) stops: bool,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    Done(Progress),
    Failed(String),
}

/// The drain of a process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Offer(Arc<Inner>);

struct Inner {
    broker: Arc<Broker<PooledInbox>>,
    token: Token,
    /// The process is to stop when all connections are closed.
    stops: AtomicBool,
}

impl Offer {
    /// The drain of `broker`, for callers that know the `secret` of the data folder.
    pub(crate) fn new(broker: Arc<Broker<PooledInbox>>, secret: &[u8; 32]) -> Self {
        let token = Token::of(PURPOSE, secret);
        Self(Arc::new(Inner { broker, token, stops: AtomicBool::new(false) }))
    }

    /// True when the text of `Authorization` is the token.
    pub(crate) fn permits(&self, given: &[u8]) -> bool {
        self.0.token.permits(given)
    }

    /// Follows an order. Returns the answer as JSON.
    pub(crate) async fn follow(&self, order: &Order) -> String {
        let answer = match self.followed(order).await {
            Ok(progress) => Answer::Done(progress),
            Err(error) => Answer::Failed(error.to_string()),
        };
        serde_json::to_string(&answer).unwrap_or_else(|error| format!(r#"{{"failed":"{error}"}}"#))
    }

    async fn followed(&self, order: &Order) -> Result<Progress, broker::DrainError> {
        let Inner { broker, stops, .. } = &*self.0;
        match order {
            Order::Begin { rate, stop } => {
                broker.drain(*rate)?;
                stops.fetch_or(*stop, Ordering::Relaxed);
            }
            Order::Cancel => {
                broker.cancel_drain()?;
                stops.store(false, Ordering::Relaxed);
            }
            Order::Status => {}
            // Its end is the end of the connections, or of the time.
            Order::Follow => drop(tokio::time::timeout(FOLLOWED, self.closed()).await),
        }
        Ok(self.progress())
    }

    fn progress(&self) -> Progress {
        let Inner { broker, stops, .. } = &*self.0;
        let stops = stops.load(Ordering::Relaxed);
        match broker.drain_report() {
            Some(report) => Progress {
                draining: true,
                open: report.open,
                closed: report.closed,
                per_second: report.per_second,
                secs: report.lasting.as_secs_f64(),
                stops,
            },
            None => Progress { open: broker.connections(), stops, ..Progress::default() },
        }
    }

    /// Resolves when the process drains no longer, or has closed all connections.
    async fn closed(&self) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            if self.0.broker.drain_report().is_none_or(|report| report.open == 0) {
                return;
            }
        }
    }

    /// Cancels `drained` when all connections are closed and the process is to stop after that.
    pub(crate) async fn stop_when_drained(self, drained: CancellationToken, stop: CancellationToken) {
        let mut looks = tokio::time::interval(FOLLOWED / 4);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            let progress = self.progress();
            if progress.stops && progress.draining && progress.open == 0 {
                drained.cancel();
            }
        }
    }
}
