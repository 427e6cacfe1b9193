//! Repeated searches for what any node of the fleet may handle.

use std::time::Duration;

use buffer::redis::{AccessError, Reply};
use tokio::sync::Notify;

use super::fleet::Shared;
use crate::reply;

/// The outcome of a search.
pub(crate) enum Found<T> {
    Some(Vec<T>),
    Again,
    /// There may be some after this time.
    Later(Option<Duration>),
}

impl<T> Found<T> {
    /// Reads the time until there may be some, in ms; empty when there is none.
    pub(crate) fn later(wait: Reply) -> Result<Self, AccessError> {
        let wait = reply::bytes(wait)?;
        let wait = (!wait.is_empty()).then(|| reply::parse(&wait)).transpose()?;
        Ok(Self::Later(wait.map(Duration::from_millis)))
    }
}

/// Searches until there is something, again when there may be, or on `news`, and at least five
/// times in a lease.
pub(crate) async fn until_found<T, F>(what: &str, shared: &Shared, news: &Notify, mut find: impl FnMut() -> F) -> Vec<T>
where
    F: Future<Output = Result<Found<T>, AccessError>>,
{
    let most = shared.config.lease / 5;
    loop {
        let wait = match find().await {
            Ok(Found::Some(found)) => return found,
            Ok(Found::Again) => continue,
            Ok(Found::Later(wait)) => wait.map_or(most, |wait| wait.clamp(Duration::from_millis(1), most)),
            Err(error) => {
                tracing::debug!("read {what}: {error}");
                most
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = news.notified() => {}
        }
    }
}
