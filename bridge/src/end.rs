//! Ends of a connection.

use std::fmt;
use std::io;
use std::time::Duration;

use mqtt_client::{DecodeError, Value, id, iterate};

/// The reason why the two brokers are not connected, or no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the process stops")]
    Stopped,
    #[error("cannot connect to {address}: {error}")]
    Unreachable { address: String, error: io::Error },
    #[error("{0} did not come within {1:?}")]
    Late(&'static str, Duration),
    #[error("cannot read `password_file` = {path}: {error}: let the user of the process read it")]
    Password { path: String, error: io::Error },
    #[error("the other broker refuses the connection: {0}")]
    Refused(Reason),
    #[error("the other broker closed the connection: {0}")]
    Disconnected(Reason),
    #[error("the other broker closed the connection without a reason")]
    Closed,
    #[error("the connection to the other broker broke: {0}")]
    Broken(io::Error),
    #[error("the other broker was silent for {0:?}")]
    Silent(Duration),
    #[error("the other broker violated the protocol: {0}")]
    Protocol(&'static str),
    #[error("this broker does not take the bridge: {0}")]
    NotHere(String),
    #[error("this broker closed the connection of the bridge: {0}")]
    LeftHere(String),
}

impl End {
    /// True for an end that a broker brings about which does not know the bit of bridges.
    pub(crate) fn may_be_for_bridges(&self) -> bool {
        matches!(self, Self::Closed | Self::Refused(Reason { code: 1 | 0x84, .. }))
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.0)
    }
}

/// A reason code with the words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) code: u8,
    text: Option<String>,
}

impl Reason {
    /// A reason code with the reason string among these properties.
    pub(crate) fn new(code: u8, properties: &[u8]) -> Self {
        let text = iterate(properties).find_map(|property| match property.value {
            Value::Text(text) if property.id == id::REASON_STRING => Some(text.to_owned()),
            _ => None,
        });
        Self { code, text }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.code {
            1 | 0x84 => "it does not speak this version of MQTT: set `version`",
            2 | 0x85 => "it does not accept the client id: set `client_id`",
            3 | 0x88 => "it is not available",
            4 | 0x86 => "it does not know the user name and the password",
            5 | 0x87 => "not authorized",
            0x8B => "it is shutting down",
            0x8D => "it heard nothing for too long",
            0x8E => "another client has connected with the same client id: give each bridge a `client_id` of its own",
            0x93 => "more messages in flight than it accepts",
            0x95 => "a packet was too large",
            0x97 => "a quota is exceeded",
            0x9C | 0x9D => "use another server",
            _ => "no further words",
        };
        write!(f, "{} (reason code {:#04x})", self.text.as_deref().unwrap_or(words), self.code)
    }
}
