//! A check whether the other broker can be reached, without a connection of MQTT: that would take
//! over the session of a bridge that runs.

use std::time::Duration;

use crate::Config;
use crate::remote;

/// The reason why a bridge could not connect.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A key, or its file, has to change.
    #[error("{0}")]
    Settings(String),
    /// The other broker does not respond.
    #[error("{0}")]
    Away(String),
}

impl Config {
    /// Reads the files, and connects to the other broker, with the TLS handshake if there is one.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn reach(&self) -> Result<(), Fault> {
        self.check().map_err(Fault::Settings)?;
        let place = self.place().ok_or_else(|| Fault::Settings("`address` cannot be read".into()))?;
        let tls = place.is_encrypted.then(|| tls::Client::open(self.files(), &[])).transpose();
        let tls = tls.map_err(|error| Fault::Settings(error.to_string()))?;
        remote::password(self).await.map_err(|error| Fault::Settings(error.to_string()))?;
        let timeout = Duration::from_millis(self.connect_timeout_ms);
        let address = &self.address;
        match tokio::time::timeout(timeout, remote::open(&place, tls.as_ref())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Fault::Away(format!("cannot connect to {address}: {error}"))),
            Err(_) => Err(Fault::Away(format!("{address} does not respond within {timeout:?}"))),
        }
    }
}
