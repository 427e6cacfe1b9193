//! Backups on request of `weir backup`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::listener::Caller;
use super::{App, order};
use crate::backup::offer::Order;

/// Time between two line breaks, which keep the connection alive until the answer.
const ALIVE: Duration = Duration::from_secs(5);

/// Takes a backup for a client that knows the data folder. The answer begins at once and ends with
/// the backup.
pub(super) async fn backup(
    Shared(app): Shared<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
) -> Response {
    let Some(offer) = app.site.startup.backups() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "it is starting: take the backup once it is ready\n").into_response();
    };
    let permits = |given: &[u8]| offer.permits(given);
    let order: Order = match order::read(request, &caller, permits, "weir backup").await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let task = tokio::task::spawn_blocking(move || offer.take(&order));
    let lines = futures::stream::unfold(Some(task), async |task| {
        let mut task = task?;
        let (text, rest) = match tokio::time::timeout(ALIVE, &mut task).await {
            Err(_) => ("\n".to_owned(), Some(task)),
            Ok(Ok(answer)) => (answer, None),
            Ok(Err(error)) => (format!(r#"{{"failed":"the backup ended: {error}"}}"#), None),
        };
        Some((Ok::<_, Infallible>(Bytes::from(text)), rest))
    });
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], Body::from_stream(lines)).into_response()
}
