//! Orders of clients that know the data folder.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::listener::Caller;

/// Reads an order that `command` sends. A request without the token that `permits` accepts is
/// refused; with it, the caller is known from then on.
///
/// # Errors
/// The answer to a request that is refused.
pub(super) async fn read<T: DeserializeOwned>(
    request: Request,
    caller: &Caller,
    permits: impl Fn(&[u8]) -> bool,
    command: &str,
) -> Result<T, Response> {
    // Before anything else is read.
    if !request.headers().get(AUTHORIZATION).is_some_and(|given| permits(given.as_bytes())) {
        let text = format!("run `{command}` on this machine as the user of the process\n");
        return Err((StatusCode::FORBIDDEN, text).into_response());
    }
    caller.admit();
    let read = Json::from_request(request, &()).await;
    read.map(|Json(order)| order).map_err(IntoResponse::into_response)
}
