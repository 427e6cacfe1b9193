//! A device's packets, from the settings of its group.

use mqtt_client::{Connect, PropertyList, Value, id};

use crate::credentials::Login;
use crate::scenario::{Group, Version};

/// Reason code of MQTT 5: the payload does not conform to its format.
pub(super) const FORMAT_INVALID: u8 = 0x99;

pub(super) fn version(group: &Group) -> mqtt_client::Version {
    match group.mqtt {
        Version::V3 => mqtt_client::Version::V4,
        Version::V5 => mqtt_client::Version::V5,
    }
}

/// Writes CONNECT. A credential of its own comes before that of its group.
pub(super) fn connect(out: &mut Vec<u8>, group: &Group, client_id: &str, login: Option<&Login<'_>>) {
    let expiry = u32::try_from(group.session_expiry.as_secs()).unwrap_or(u32::MAX);
    let properties = PropertyList::new().number(id::SESSION_EXPIRY, expiry);
    let (username, password) = match login {
        Some(Login { username, password }) => (Some(*username), password.as_deref()),
        None => (group.username.as_deref(), group.password.as_deref()),
    };
    let connect = Connect {
        version: version(group),
        is_bridge: false,
        client_id,
        clean_start: group.clean_start,
        keep_alive_secs: u16::try_from(group.keep_alive.as_secs()).unwrap_or(u16::MAX),
        will: None,
        username,
        password: password.map(str::as_bytes),
        properties: properties.as_bytes(),
    };
    mqtt_client::connect(out, &connect);
}

/// The Receive Maximum in the properties of a CONNACK, or the protocol's default.
pub(super) fn receive_maximum(properties: &[u8]) -> u16 {
    let found = mqtt_client::iterate(properties).find(|property| property.id == id::RECEIVE_MAXIMUM);
    match found.map(|property| property.value) {
        Some(Value::Number(number)) => u16::try_from(number).unwrap_or(u16::MAX).max(1),
        _ => u16::MAX,
    }
}
