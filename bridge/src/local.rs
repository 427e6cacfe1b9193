//! The connection to the broker of this process.

use std::time::Duration;

use mqtt_client::{Connect, PropertyList, Version, id};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Config;
use crate::bridge::Attach;
use crate::end::End;
use crate::side::Side;

/// Time for this broker to take the bridge.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for the last packets to this broker.
const FAREWELL: Duration = Duration::from_secs(2);

/// Connects to the broker of this process, with a session that lasts. `window` is the number of
/// messages that it may send before they are acknowledged.
pub(crate) async fn connect(config: &Config, attach: &Attach, client_id: &str, window: u16) -> Result<Side, End> {
    let stream = attach().await.map_err(End::NotHere)?;
    let properties = PropertyList::new()
        .number(id::SESSION_EXPIRY, config.session_expiry_secs)
        .number(id::RECEIVE_MAXIMUM, window.into());
    let connect = Connect { version: Version::V5, client_id, properties: properties.as_bytes(), ..Connect::default() };
    let opened = Side::open(Box::new(stream), &connect, usize::MAX);
    match tokio::time::timeout(PATIENCE, opened).await {
        Ok(opened) => opened.map_err(|end| match end {
            End::Refused(reason) => End::NotHere(reason.to_string()),
            end => End::NotHere(end.to_string()),
        }),
        Err(_) => Err(End::NotHere(format!("it did not answer within {PATIENCE:?}"))),
    }
}

/// Sends what is left and DISCONNECT, and waits until this broker has handled it: acknowledgements
/// that have come from the other broker count.
pub(crate) async fn leave(mut side: Side) {
    mqtt_client::disconnect(&mut side.outbound.bytes, Version::V5, 0, &[]);
    let send = async {
        while !side.outbound.is_done() {
            side.outbound.write(&mut side.writer).await?;
        }
        side.writer.shutdown().await
    };
    let mut rest = [0; 4096];
    let discard = async { while side.reader.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    let both = async { tokio::join!(send, discard).0 };
    match tokio::time::timeout(FAREWELL, both).await {
        Ok(Ok(())) => {}
        // It had closed the connection before.
        Ok(Err(error)) => tracing::debug!("leave this broker: {error}"),
        Err(_) => tracing::debug!("this broker did not close the connection within {FAREWELL:?}"),
    }
}
