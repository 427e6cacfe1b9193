//! Orders of `weir encryption`, and the metrics of the keyring.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use envelope::Keyring;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::listener::Caller;
use super::{App, order};
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
    let permits = |given: &[u8]| offer.permits(given);
    let order: Order = match order::read(request, &caller, permits, "weir encryption").await {
        Ok(order) => order,
        Err(refusal) => return refusal,
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
