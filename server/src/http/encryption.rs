//! Orders of `weir encryption`, and the metrics of the keyring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{ConnectInfo, FromRequest, Request, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use envelope::Keyring;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::App;
use super::listener::Caller;
use crate::encryption::Order;

/// Follows an order of a client that knows the data folder.
pub(super) async fn encryption(
    Shared(app): Shared<Arc<App>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    request: Request,
) -> Response {
    let Some(offer) = app.site.startup.encryption() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "it is starting: try again once it is ready\n").into_response();
    };
    // Before anything else is read.
    if !request.headers().get(AUTHORIZATION).is_some_and(|given| offer.permits(given.as_bytes())) {
        let text = "run `weir encryption` on this machine as the user of the process\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    caller.admit();
    let order: Json<Order> = match Json::from_request(request, &()).await {
        Ok(order) => order,
        Err(rejection) => return rejection.into_response(),
    };
    match tokio::task::spawn_blocking(move || offer.follow(&order)).await {
        Ok(answer) => ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], answer).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Metrics of the keyring; without encryption there are none.
#[derive(Debug)]
pub(super) struct KeyringMetrics {
    keys: Keyring,
    held: Gauge,
    destroyed: Gauge,
    unreadable: Counter,
    discarded: Counter,
}

impl KeyringMetrics {
    pub(super) fn new(registry: &mut Registry, keys: &Keyring) -> Self {
        let metrics = Self {
            keys: keys.clone(),
            held: Gauge::default(),
            destroyed: Gauge::default(),
            unreadable: Counter::default(),
            discarded: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("weir_encryption");
        registry.register("keys", "Data keys of tenants", metrics.held.clone());
        registry.register("destroyed_tenants", "Tenants whose keys were destroyed", metrics.destroyed.clone());
        registry.register(
            "unreadable_records",
            "Records and rows read that cannot be opened since the keys of their tenant were destroyed",
            metrics.unreadable.clone(),
        );
        registry.register(
            "discarded_records",
            "Records and rows whose contents were discarded since the keys of their tenant were destroyed",
            metrics.discarded.clone(),
        );
        metrics
    }

    pub(super) fn update(&self) {
        let status = self.keys.status();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.held.set(count(status.tenants.iter().map(|held| held.keys).sum()));
        self.destroyed.set(count(status.tenants.iter().filter(|held| held.destroyed.is_some()).count()));
        self.unreadable.inner().store(status.unreadable, Ordering::Relaxed);
        self.discarded.inner().store(status.discarded, Ordering::Relaxed);
    }
}
