//! The CONNACK that accepts a client.

use crate::Config;
use crate::codec::connect::Connect;
use crate::codec::encode::{self, ConnackProperties};
use crate::codec::reason;

/// Returns the properties of a CONNACK that accepts the client.
pub(super) fn accepting<'a>(
    config: &Config,
    most_keep_alive: u16,
    asked: &'a Connect,
    assigned: Option<&'a str>,
) -> ConnackProperties<'a> {
    let keep_alive = keep_alive(most_keep_alive, asked);
    ConnackProperties {
        receive_maximum: Some(config.receive_maximum),
        maximum_packet_bytes: Some(config.max_packet_bytes),
        assigned_client: assigned,
        server_keep_alive_secs: (keep_alive != asked.keep_alive_secs).then_some(keep_alive),
        authentication_method: asked.authentication_method.as_deref(),
        ..ConnackProperties::default()
    }
}

pub(super) fn keep_alive(most: u16, asked: &Connect) -> u16 {
    match (asked.keep_alive_secs, most) {
        (asked, 0) => asked,
        (0, most) => most,
        (asked, most) => asked.min(most),
    }
}

/// True when the client accepts the CONNACK, with all that it has to be told.
pub(super) fn fits(config: &Config, most_keep_alive: u16, asked: &Connect, assigned: Option<&str>) -> bool {
    let Some(most) = asked.maximum_packet_bytes else { return true };
    // It is told another expiry than it asked for at most.
    let session_expiry_secs = asked.session_expiry_secs.filter(|secs| *secs > 0);
    let own = ConnackProperties { session_expiry_secs, ..accepting(config, most_keep_alive, asked, assigned) };
    let mut out = Vec::new();
    encode::connack(&mut out, asked.version, true, reason::SUCCESS, &own);
    out.len() <= most as usize
}
