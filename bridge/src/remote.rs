//! The connection to the other broker.

use std::io;
use std::time::Duration;

use mqtt_client::{Connect, PropertyList, Version, id};
use tokio::net::TcpStream;

use crate::Config;
use crate::bridge::Limits;
use crate::config::Address;
use crate::end::End;
use crate::side::{Side, Stream, version};
use crate::websocket;

/// Connects to the other broker, with a session that lasts. `is_bridge` sets the bit of bridges,
/// with which a broker of 3.1.1 sends back none of the bridge's own messages.
pub(crate) async fn connect(
    config: &Config,
    tls: Option<&tls::Client>,
    limits: Limits,
    is_bridge: bool,
) -> Result<Side, End> {
    let timeout = Duration::from_millis(config.connect_timeout_ms);
    let late = |what| move |_| End::Late(what, timeout);
    let failed = |error| End::Unreachable { address: config.address.clone(), error };
    let place = config.place().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let opened = tokio::time::timeout(timeout, open(&place, tls)).await;
    let stream = opened.map_err(late("a connection to the other broker"))?.map_err(failed)?;
    let password = password(config).await?;
    let version = version(config.version);
    let properties = PropertyList::new()
        .number(id::SESSION_EXPIRY, config.session_expiry_secs)
        .number(id::RECEIVE_MAXIMUM, config.max_in_flight.min(limits.receive_maximum).into())
        .number(id::MAXIMUM_PACKET_SIZE, limits.max_packet_bytes);
    let connect = Connect {
        version,
        is_bridge: is_bridge && version == Version::V4,
        client_id: &config.client_id,
        clean_start: false,
        keep_alive_secs: config.keep_alive_secs,
        will: None,
        username: Some(config.username.as_str()).filter(|username| !username.is_empty()),
        password: password.as_deref(),
        properties: properties.as_bytes(),
    };
    let opened = tokio::time::timeout(timeout, Side::open(stream, &connect, limits.max_packet_bytes as usize));
    opened.await.map_err(late("the CONNACK of the other broker"))?
}

pub(crate) async fn open(place: &Address, tls: Option<&tls::Client>) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((place.host.as_str(), place.port)).await?;
    stream.set_nodelay(true)?;
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(tls) => encrypt(place, tls, stream).await?,
    };
    match &place.path {
        None => Ok(stream),
        Some(path) => Ok(Box::new(websocket::connect(place, path, stream).await?)),
    }
}

async fn encrypt(place: &Address, tls: &tls::Client, stream: TcpStream) -> io::Result<Box<dyn Stream>> {
    let encrypted = tls.connect(&place.host, stream).await;
    let encrypted = encrypted.map_err(|error| {
        io::Error::other(format!(
            "the TLS handshake failed: {error}: check `ca`, `certificate` and the host in `address`"
        ))
    })?;
    Ok(Box::new(encrypted))
}

/// The password, without the end of a line.
pub(crate) async fn password(config: &Config) -> Result<Option<Vec<u8>>, End> {
    if !config.password.is_empty() {
        return Ok(Some(config.password.clone().into_bytes()));
    }
    if config.password_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let failed = |error| End::Password { path: config.password_file.display().to_string(), error };
    let path = config.password_file.clone();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
    let text = read.map_err(io::Error::other).and_then(|text| text).map_err(failed)?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.len() > usize::from(u16::MAX) {
        return Err(failed(io::Error::other("it holds no password of at most 65,535 bytes")));
    }
    Ok(Some(text.as_bytes().to_vec()))
}
