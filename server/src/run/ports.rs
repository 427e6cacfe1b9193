//! The certificate of the ports.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::supervise::Supervisor;

/// Interval at which the certificate files are read.
const INTERVAL: Duration = Duration::from_secs(30);

/// The certificate of the configuration; `None` when the ports are not encrypted.
///
/// # Errors
/// Names the key, the file and what to do.
pub(super) fn open(config: &Config, metrics: tls::Metrics) -> anyhow::Result<Option<Arc<tls::Server>>> {
    let Some(files) = config.tls.files() else { return Ok(None) };
    // Devices present certificates to the registry, if it is there.
    Ok(Some(tls::Server::open(files, config.tls.limits(), config.auth.required, metrics)?))
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
    tls: Option<Arc<tls::Server>>,
    fleet: Option<FleetTls>,
) {
    if let Some(server) = tls {
        let stop = supervisor.part("certificates", deadline);
        supervisor.spawn("certificates", "certificate files", async move {
            server.watch(INTERVAL, stop).await;
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
