//! The certificate of the ports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::config::{Config, Role};
use crate::supervise::Supervisor;

/// Interval at which the certificate files are read.
const INTERVAL: Duration = Duration::from_secs(30);

/// Listeners with a certificate of their own have one of this many parts of the handshakes each.
const OTHERS: usize = 4;

/// The certificate of the configuration; `None` when the ports are not encrypted.
///
/// # Errors
/// Names the key, the file and what to do.
pub(super) fn open(config: &Config, metrics: tls::Metrics) -> anyhow::Result<Option<Arc<tls::Server>>> {
    let Some(files) = config.tls.files() else { return Ok(None) };
    // Devices present certificates to the registry, if it is there.
    Ok(Some(tls::Server::open(files, config.tls.limits(), config.auth.required, metrics)?))
}

/// The certificates of listeners that have one of their own, by the name of the listener.
pub(super) type Certificates = BTreeMap<Arc<str>, Arc<tls::Server>>;

/// The certificates of listeners for devices that are not those of `[tls]`.
///
/// # Errors
/// Names the listener, the key, the file and what to do.
pub(super) fn open_own(config: &Config, metrics: &tls::Metrics) -> anyhow::Result<Certificates> {
    let mut own = Certificates::new();
    let limits = config.tls.limits();
    let limits = tls::Limits { at_once: (limits.at_once / OTHERS).max(1), ..limits };
    for listener in &config.mqtt.listener {
        let Some(files) = listener.files(config).filter(|_| config.has(Role::Ingest)) else { continue };
        let server = tls::Server::open(files, limits, config.auth.required, metrics.clone())?;
        own.insert(listener.name.as_str().into(), server);
    }
    Ok(own)
}

/// Mutual TLS between the processes of a fleet.
#[derive(Clone)]
pub(super) struct FleetTls {
    /// Answers the others.
    pub(super) server: Arc<tls::Server>,
    /// Calls the others.
    pub(super) client: tls::Client,
}

/// Mutual TLS of the configuration; `None` when calls are not encrypted.
///
/// # Errors
/// Names the key, the file and what to do.
pub(super) fn open_fleet(config: &Config, metrics: tls::Metrics) -> anyhow::Result<Option<FleetTls>> {
    let Some((server, client)) = config.fleet.files().filter(|_| config.is_fleet()) else { return Ok(None) };
    let server = tls::Server::open(server, config.tls.limits(), false, metrics)?;
    Ok(Some(FleetTls { server, client: tls::Client::open(client, &["h2"])? }))
}

/// Spawns what reads changed files.
pub(super) fn watch(
    supervisor: &mut Supervisor,
    deadline: Duration,
    servers: impl IntoIterator<Item = Arc<tls::Server>>,
    fleet: Option<FleetTls>,
) {
    let servers: Vec<_> = servers.into_iter().collect();
    if !servers.is_empty() {
        let stop = supervisor.part("certificates", deadline);
        supervisor.spawn("certificates", "certificate files", async move {
            join_all(servers.iter().map(|server| server.watch(INTERVAL, stop.clone()))).await;
            Ok(())
        });
    }
    if let Some(FleetTls { server, client }) = fleet {
        let stop = supervisor.part("certificates of the fleet", deadline);
        supervisor.spawn("certificates of the fleet", "certificate files", async move {
            tokio::join!(server.watch(INTERVAL, stop.clone()), client.watch(INTERVAL, stop));
            Ok(())
        });
    }
}
