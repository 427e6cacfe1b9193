//! Orders of `weir drain`.

use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::listener::Caller;
use super::{App, order};
use crate::drain::Order;

/// Follows an order of a client that knows the data folder.
pub(super) async fn drain(
    Shared(app): Shared<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
) -> Response {
    let Some(offer) = app.site.startup.drain() else {
        let text = "it accepts no devices: it is starting, or does not have the role ingest\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let permits = |given: &[u8]| offer.permits(given);
    let order: Order = match order::read(request, &caller, permits, "weir drain").await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let answer = offer.follow(&order).await;
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], answer).into_response()
}
