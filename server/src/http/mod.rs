//! Health, metrics and the status page.

mod backup;
mod drain;
mod encryption;
mod exposition;
mod gauges;
mod guard;
mod listener;
mod order;
mod process;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::extract::{DefaultBodyLimit, State as Shared};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use envelope::Keyring;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::backup::offer;
use crate::client;
use crate::data_dir::Addresses;
use crate::run::startup::Startup;
use crate::run::state::Metrics;
use encryption::KeyringMetrics;
use gauges::{Gauges, LogGauges};
use listener::Listener;
use process::Process;

/// Time for clients to read the last answers at a stop.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Time that the metrics wait for the books.
const BOOKS: Duration = Duration::from_secs(1);

/// Maximum size of an order, in bytes.
const ORDER_BYTES: usize = 64 << 10;

/// Newest dead letters on the page.
const LETTERS: usize = 5;

/// Bytes of a dead letter's payload on the page.
const PREVIEW: usize = 120;

/// Sources of the answers.
pub(crate) struct Site {
    /// Progress of the start, which is served from the first moment on.
    pub(crate) startup: Startup,
    /// Metrics of all parts.
    pub(crate) metrics: Metrics,
    /// Names of the projections that have a line in the books.
    pub(crate) in_books: Vec<String>,
    /// Addresses of the listeners.
    pub(crate) addresses: Addresses,
    /// The data folder.
    pub(crate) data_dir: PathBuf,
    /// Names of the process in requests, besides addresses and local names.
    pub(crate) hosts: Arc<[String]>,
    /// Keys of encryption at rest.
    pub(crate) keys: Option<Keyring>,
    /// Callers of the API authenticate: the page, which asks for no key, shows no data of tenants.
    pub(crate) hides_tenants: bool,
}

struct App {
    site: Site,
    begun: Instant,
    registry: Registry,
    process: Mutex<Process>,
    gauges: Mutex<Gauges>,
    /// Gauges of the log of each pool.
    of_pools: Mutex<BTreeMap<Arc<str>, LogGauges>>,
    keyring: Option<KeyringMetrics>,
    /// Held while the books are read for the metrics.
    reading: tokio::sync::Mutex<()>,
    /// Held while the metrics are written: many requests at once leave threads for devices.
    writing: tokio::sync::Mutex<()>,
}

/// Serves until `stop`.
///
/// # Errors
/// When the listener breaks.
pub(crate) async fn serve(
    (listener, tls): (TcpListener, Option<tls::Acceptor>),
    max_connections: usize,
    site: Site,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut registry = Registry::default();
    site.metrics.register(&mut registry);
    let process = Mutex::new(Process::new(&mut registry));
    let gauges = Mutex::new(Gauges::new(&mut registry, &site.in_books));
    let keyring = site.keys.as_ref().map(|keys| KeyringMetrics::new(&mut registry, keys));
    let hosts = Arc::clone(&site.hosts);
    let of_pools = site.metrics.pools.iter().map(|(pool, _)| {
        let labelled = registry.sub_registry_with_label(("pool".into(), pool.to_string().into()));
        (Arc::clone(pool), LogGauges::new(labelled))
    });
    let of_pools = Mutex::new(of_pools.collect());
    let app = Arc::new(App {
        site,
        begun: Instant::now(),
        registry,
        process,
        gauges,
        of_pools,
        keyring,
        reading: tokio::sync::Mutex::default(),
        writing: tokio::sync::Mutex::default(),
    });
    let router = Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/page.js", get(async || ([(CONTENT_TYPE, "text/javascript")], include_str!("page.js"))))
        .route("/page.css", get(async || ([(CONTENT_TYPE, "text/css")], include_str!("page.css"))))
        .route("/status.json", get(status))
        .route("/health", get(live))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route(offer::PATH, post(backup::backup))
        .route(crate::encryption::PATH, post(encryption::encryption))
        .route(crate::drain::PATH, post(drain::drain))
        .with_state(app)
        .layer(DefaultBodyLimit::max(ORDER_BYTES))
        .layer(axum::middleware::from_fn_with_state(hosts, guard::guard));
    let router = router.into_make_service_with_connect_info::<listener::Caller>();
    let serving = axum::serve(Listener::new(listener, tls, max_connections), router)
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = serving => served.context("serve http"),
        () = async { stop.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
    }
}

/// Succeeds whenever the process can answer; checks nothing that it depends on.
async fn live() -> &'static str {
    "ok\n"
}

async fn ready(Shared(app): Shared<Arc<App>>) -> Response {
    let readiness = app.site.startup.readiness();
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [(CACHE_CONTROL, "no-store")], Json(readiness)).into_response()
}

async fn metrics(Shared(app): Shared<Arc<App>>, headers: HeaderMap) -> Response {
    app.process.lock().update(app.begun.elapsed());
    app.gauges.lock().update_disk(&app.site.data_dir);
    if let Some(keyring) = &app.keyring {
        keyring.update();
    }
    if let Some(state) = app.site.startup.state() {
        // Also sets the sinks' lag.
        state.readiness();
        for (pool, log) in state.log_states() {
            let (used, capacity, now) = (log.used_bytes, log.capacity_bytes, Instant::now());
            match pool {
                None => app.gauges.lock().update_log(used, capacity, now),
                Some(pool) => {
                    app.of_pools.lock().get_mut(&pool).into_iter().for_each(|g| g.update(used, capacity, now))
                }
            }
        }
        // One at a time, as clients need no credential, and other processes are asked. The earlier
        // figures stay when the books cannot be read in time.
        let reading = app.reading.try_lock();
        if reading.is_ok()
            && let Ok(Ok(lines)) = tokio::time::timeout(BOOKS, state.books()).await
        {
            app.gauges.lock().update_books(&lines);
        }
    }
    let _writing = app.writing.lock().await;
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode(&mut text, &app.registry);
    if !app.site.metrics.pools.is_empty() {
        text = exposition::joined(&text);
    }
    match encoded {
        Ok(()) if exposition::prefers_text(&headers) => {
            ([(CONTENT_TYPE, exposition::TEXT)], exposition::to_text(&text)).into_response()
        }
        Ok(()) => ([(CONTENT_TYPE, exposition::OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn status(app: Shared<Arc<App>>) -> Response {
    let Site { startup, metrics, addresses, .. } = &app.site;
    let Some(state) = startup.state() else { return ready(app).await };
    let mut status = state.whole_status();
    if app.site.hides_tenants {
        status.unrouted_topics.clear();
        status.repeated_takeovers.clear();
    }
    let mut object = client::status::json(&status);
    let readiness = startup.readiness();
    object["state"] = readiness.word().into();
    object["ready"] = readiness.ready.into();
    object["reasons"] = readiness.reasons.iter().map(ToString::to_string).collect();
    object["addresses"] = serde_json::json!(addresses);
    object["totals"] = serde_json::json!({
        "messages": metrics.broker.publishes.get(),
        "readings": metrics.ingest.readings.get(),
        "acknowledgements": metrics.broker.acknowledgements.get(),
        "received_bytes": metrics.broker.received.get(),
    });
    if app.site.hides_tenants {
        object["books"] = serde_json::json!({ "error": "shown to callers with a key: weir books" });
        object["dead_letters"] = serde_json::json!({ "error": "shown to callers with a key: weir dead-letters" });
        return ([(CACHE_CONTROL, "no-store")], Json(object)).into_response();
    }
    object["books"] = match state.books().await {
        Ok(lines) => lines
            .iter()
            .map(|line| {
                serde_json::json!({
                    "tenant": &*line.tenant, "sink": line.sink, "accepted": line.accepted, "stored": line.stored,
                    "merged": line.merged, "pending": line.pending, "dead_lettered": line.dead_lettered,
                    "balanced": line.balances(),
                })
            })
            .collect(),
        Err(error) => serde_json::json!({ "error": error.to_string() }),
    };
    object["dead_letters"] = match state.newest_dead_letters(LETTERS).await {
        Ok(letters) => letters
            .iter()
            .map(|letter| {
                let cut = &letter.payload[..letter.payload.len().min(PREVIEW)];
                serde_json::json!({
                    "received": client::time::show(letter.received), "topic": letter.topic, "stage": letter.stage,
                    "reason": letter.reason, "payload": String::from_utf8_lossy(cut),
                })
            })
            .collect(),
        Err(error) => serde_json::json!({ "error": error.to_string() }),
    };
    ([(CACHE_CONTROL, "no-store")], Json(object)).into_response()
}
