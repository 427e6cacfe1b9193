//! Settings.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Limits, Named, ServerFiles};

/// Settings of the ports: keys of `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// PEM file with the certificate of this server, and after it the certificates between it and
    /// the authority. With it, the gRPC and HTTP ports speak TLS, and so does `mqtt.tls_address`.
    /// `weir tls create` makes one. Changed files are used within half a minute, and at SIGHUP.
    pub certificate: PathBuf,
    /// PEM file with the private key of the certificate; only the user of the process should be
    /// able to read it.
    pub key: PathBuf,
    /// PEM file with the authorities of device certificates. A certificate that a device presents
    /// over MQTT has to be from one of them. Empty: with `auth.required`, the registry decides.
    pub client_ca: PathBuf,
    /// Time for a handshake, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Maximum number of handshakes at one time at the MQTT port; each other port, and each
    /// listener with a certificate of its own, has a quarter of it, and one address (IPv6: a /64)
    /// an eighth of a port's. Others wait their turn within the time; while they do, a handshake
    /// that takes longer than 2 seconds, or is of the address with the most, is ended. Each may
    /// hold up to 64 KiB, from the share of devices in `memory.max_bytes`.
    pub max_handshakes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: PathBuf::new(),
            handshake_timeout_ms: 10_000,
            max_handshakes: 2_048,
        }
    }
}

impl Config {
    /// True when ports speak TLS.
    pub fn is_used(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    /// The files; `None` when TLS is not used.
    pub fn files(&self) -> Option<ServerFiles> {
        let has_authorities = !self.client_ca.as_os_str().is_empty();
        self.is_used().then(|| ServerFiles {
            certificate: Named::new("tls.certificate", &self.certificate),
            key: Named::new("tls.key", &self.key),
            client_ca: has_authorities.then(|| Named::new("tls.client_ca", &self.client_ca)),
        })
    }

    /// The limits of handshakes.
    pub fn limits(&self) -> Limits {
        Limits { timeout: std::time::Duration::from_millis(self.handshake_timeout_ms), at_once: self.max_handshakes }
    }

    /// Checks that the keys are given together.
    ///
    /// # Errors
    /// Names the key and what to do.
    pub fn check(&self) -> Result<(), String> {
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        match (is_set(&self.certificate), is_set(&self.key)) {
            (true, false) => return Err("`tls.certificate` is given without `tls.key`: give both".into()),
            (false, true) => return Err("`tls.key` is given without `tls.certificate`: give both".into()),
            (false, false) if is_set(&self.client_ca) => {
                return Err("`tls.client_ca` needs `tls.certificate` and `tls.key`: give all three".into());
            }
            _ => {}
        }
        if self.handshake_timeout_ms == 0 || self.max_handshakes == 0 {
            return Err("`tls.handshake_timeout_ms` and `tls.max_handshakes` have to be at least 1".into());
        }
        Ok(())
    }
}
