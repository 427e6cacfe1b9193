//! The listeners of a process.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::config::{Config, Role};
use crate::data_dir::Addresses;

/// Open listeners of the roles that the process has.
pub(super) struct Listeners {
    pub(super) mqtt: Option<TcpListener>,
    /// For devices, over TLS.
    pub(super) mqtts: Option<TcpListener>,
    pub(super) grpc: Option<TcpListener>,
    pub(super) http: TcpListener,
    /// For the other processes of the fleet.
    pub(super) fleet: Option<TcpListener>,
}

impl Listeners {
    /// Binds all of them before anything else is opened, so that a port that is taken is reported
    /// at once.
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let mqtt = match config.has(Role::Ingest) {
            true => {
                let mqtt = address(&config.mqtt.address)?;
                Some(broker::bind(mqtt).with_context(|| taken("mqtt", &config.mqtt.address))?)
            }
            false => None,
        };
        let mqtts = match config.mqtt.tls_address.as_str() {
            "" => None,
            _ if !config.has(Role::Ingest) => None,
            text => Some(broker::bind(address(text)?).with_context(|| {
                format!("cannot listen on {text} (stop what has it, or change `mqtt.tls_address`)")
            })?),
        };
        let grpc = match config.has(Role::Api) {
            true => Some(listen(&config.grpc.address, || taken("grpc", &config.grpc.address)).await?),
            false => None,
        };
        let http = listen(&config.http.address, || taken("http", &config.http.address)).await?;
        let fleet = match config.is_fleet() && config.has(Role::Flusher) {
            true => {
                let key = || {
                    format!("cannot listen on {} (stop what has it, or change `fleet.address`)", config.fleet.address)
                };
                Some(listen(&config.fleet.address, key).await?)
            }
            false => None,
        };
        Ok(Self { mqtt, mqtts, grpc, http, fleet })
    }

    /// Where they are, with the ports that the system chose.
    pub(super) fn addresses(&self, has_tls: bool) -> anyhow::Result<Addresses> {
        let of = |listener: &TcpListener| listener.local_addr().context("ask for a listener's address");
        let maybe = |listener: &Option<TcpListener>| listener.as_ref().map(of).transpose();
        Ok(Addresses {
            mqtt: maybe(&self.mqtt)?,
            mqtts: maybe(&self.mqtts)?,
            grpc: maybe(&self.grpc)?,
            http: of(&self.http)?,
            tls: has_tls,
            fleet: maybe(&self.fleet)?,
        })
    }
}

async fn listen(text: &str, taken: impl FnOnce() -> String) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address(text)?).await.with_context(taken)
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    text.parse().with_context(|| format!("{text:?} is not an address"))
}

fn taken(name: &str, address: &str) -> String {
    format!("cannot listen on {address} (stop what has it, or give another address with --{name})")
}
