//! The listeners of a process.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use broker::{Listener, Ports, Socket};
use tls::{Acceptor, Port};
use tokio::net::TcpListener;

use super::activation::Passed;
use super::ports::Certificates;
use crate::config::{Config, ENCRYPTED, PLAIN, Role, Site};
use crate::data_dir::Addresses;

/// A listener for devices, with whether it is encrypted.
type OfDevices = (broker::Settings, Socket, bool);

/// Open listeners of the roles that the process has.
pub(super) struct Listeners {
    /// For devices, in the order of the configuration.
    pub(super) devices: Vec<OfDevices>,
    pub(super) grpc: Option<TcpListener>,
    pub(super) http: TcpListener,
    /// For the other processes of the fleet.
    pub(super) fleet: Option<TcpListener>,
}

impl Listeners {
    /// Binds all of them before anything else is opened, so that a port that is taken is reported
    /// at once.
    pub(super) async fn bind(config: &Config, passed: &mut Passed) -> anyhow::Result<Self> {
        let devices = if config.has(Role::Ingest) { bind_devices(config, passed)? } else { Vec::new() };
        let grpc = match config.has(Role::Api) {
            true => Some(listen(&config.grpc.address, || taken("grpc", &config.grpc.address)).await?),
            false => None,
        };
        let http = listen(&config.http.address, || taken("http", &config.http.address)).await?;
        // A process that only queries has nothing to answer.
        let fleet = match config.is_fleet() && (config.has(Role::Flusher) || config.has(Role::Ingest)) {
            true => {
                let key = || {
                    format!("cannot listen on {} (stop what has it, or change `fleet.address`)", config.fleet.address)
                };
                Some(listen(&config.fleet.address, key).await?)
            }
            false => None,
        };
        Ok(Self { devices, grpc, http, fleet })
    }

    /// The listeners for devices, with the handshakes of those that are encrypted.
    pub(super) fn into_ports(devices: Vec<OfDevices>, tls: Option<&Acceptor>, own: &Certificates) -> Ports {
        let listener = |(settings, socket, is_encrypted): OfDevices| {
            let own = own.get(&settings.name).map(|server| server.acceptor(Port::Mqtt));
            let tls = if is_encrypted { own.or_else(|| tls.cloned()) } else { None };
            Listener { socket, tls, settings }
        };
        devices.into_iter().map(listener).collect::<Vec<_>>().into()
    }

    fn of_devices(&self, name: &str) -> Option<SocketAddr> {
        self.devices.iter().find(|(settings, ..)| &*settings.name == name).and_then(|(_, socket, _)| socket.address())
    }

    /// The addresses of further listeners for devices, by name.
    fn named(&self) -> BTreeMap<String, String> {
        let further = self.devices.iter().filter(|(settings, ..)| ![PLAIN, ENCRYPTED].contains(&&*settings.name));
        further.map(|(settings, socket, _)| (settings.name.to_string(), socket.text())).collect()
    }

    /// Where they are, with the ports that the system chose.
    pub(super) fn addresses(&self, has_tls: bool) -> anyhow::Result<Addresses> {
        let of = |listener: &TcpListener| listener.local_addr().context("ask for a listener's address");
        let maybe = |listener: &Option<TcpListener>| listener.as_ref().map(of).transpose();
        Ok(Addresses {
            mqtt: self.of_devices(PLAIN),
            mqtts: self.of_devices(ENCRYPTED),
            listeners: self.named(),
            grpc: maybe(&self.grpc)?,
            http: of(&self.http)?,
            tls: has_tls,
            fleet: maybe(&self.fleet)?,
        })
    }
}

/// Binds the listeners for devices.
fn bind_devices(config: &Config, passed: &mut Passed) -> anyhow::Result<Vec<OfDevices>> {
    let named = |name: &str| broker::Settings { name: name.into(), ..broker::Settings::default() };
    let mqtt = &config.mqtt;
    let plain = broker::bind(address(&mqtt.address)?).with_context(|| taken("mqtt", &mqtt.address))?;
    let mut devices = vec![(named(PLAIN), plain.into(), false)];
    if !mqtt.tls_address.is_empty() {
        let text = &mqtt.tls_address;
        let encrypted = broker::bind(address(text)?)
            .with_context(|| format!("cannot listen on {text} (stop what has it, or change `mqtt.tls_address`)"))?;
        devices.push((named(ENCRYPTED), encrypted.into(), true));
    }
    for listener in &mqtt.listener {
        let name = &listener.name;
        let failed = || {
            format!(
                "cannot listen on {} (stop what has it, or change `address` of [[mqtt.listener]] {name})",
                listener.address
            )
        };
        let socket = match listener.site()? {
            Site::Tcp(address) => broker::bind(address).with_context(failed)?.into(),
            Site::Unix(path, mode) => broker::bind_unix(&path, mode).with_context(failed)?,
            Site::Systemd(socket) => {
                let (socket, address) = passed.socket(&socket).with_context(|| format!("[[mqtt.listener]] {name}"))?;
                if let Some(address) = address {
                    config.check_listener(listener, address)?;
                }
                ensure!(
                    address.is_some() || !listener.tls,
                    "[[mqtt.listener]] {name}: `tls` is for ports, and the socket of systemd is a Unix socket"
                );
                socket
            }
        };
        devices.push((listener.settings()?, socket, listener.tls));
    }
    Ok(devices)
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
