//! Rules for the fields of a change.

use ipnet::IpNet;
use model::{Nanos, device};

use crate::public_key::PublicKey;
use crate::registry::{Error, Result};
use crate::{KeyAlgorithm, Role};

const MAX_TEXT_BYTES: usize = 256;
const MAX_REQUEST_ID_BYTES: usize = 64;
const MAX_SCOPES: usize = 64;
const MAX_NETWORKS: usize = 64;

fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::Invalid { field, reason: reason.into() }
}

pub(super) fn tenant(id: &str) -> Result<()> {
    device::check_id(id).map_err(|error| invalid("tenant", error.to_string()))
}

/// The id of a device with a credential fills a level of topics, and begins its client ids.
pub(super) fn device(id: &str) -> Result<()> {
    device::check_id(id).map_err(|error| invalid("device", error.to_string()))?;
    if id.contains('/') || id.starts_with('$') {
        return Err(invalid("device", "use an id without '/' and a leading '$': it fills a level of topics"));
    }
    Ok(())
}

pub(super) fn public_key(pem: &str, algorithm: Option<KeyAlgorithm>) -> Result<PublicKey> {
    let key = PublicKey::parse(pem).map_err(|reason| invalid("public_key", reason))?;
    match algorithm {
        Some(algorithm) if algorithm != key.algorithm => {
            let (given, own) = (algorithm.as_str(), key.algorithm.as_str());
            Err(invalid("algorithm", format!("it is {given}, and the key is for {own}: leave it out, or use {own}")))
        }
        _ => Ok(key),
    }
}

pub(super) fn text(field: &'static str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(invalid(field, format!("it is longer than {MAX_TEXT_BYTES} bytes")));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(invalid(field, format!("it contains {c:?}, which is not allowed"))),
        None => Ok(()),
    }
}

pub(super) fn request_id(id: &str) -> Result<()> {
    let is_text = id.bytes().all(|byte| byte.is_ascii_graphic());
    if id.is_empty() || id.len() > MAX_REQUEST_ID_BYTES || !is_text {
        let reason = format!("use 1 to {MAX_REQUEST_ID_BYTES} visible ASCII characters, a UUID for example");
        return Err(invalid("request_id", reason));
    }
    Ok(())
}

pub(super) fn expires(expires: Option<Nanos>, now: Nanos) -> Result<()> {
    match expires {
        Some(expires) if expires <= now => Err(invalid("expire_time", "it has passed already")),
        _ => Ok(()),
    }
}

/// Returns the scopes in order, each once.
pub(super) fn scopes(role: Role, mut scopes: Vec<String>) -> Result<Vec<String>> {
    if scopes.len() > MAX_SCOPES {
        return Err(invalid("scopes", format!("there are more than {MAX_SCOPES}")));
    }
    for scope in &scopes {
        let shown: String = scope.chars().take(40).collect();
        if !Role::is_permission(scope) {
            return Err(invalid("scopes", format!("{shown:?} is not a permission")));
        }
        if !role.has(scope) {
            return Err(invalid("scopes", format!("the role {} does not have {shown:?}", role.as_str())));
        }
    }
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

/// Returns the networks in their usual form; an address alone is a network of one.
pub(super) fn networks(networks: &[String]) -> Result<Vec<String>> {
    if networks.len() > MAX_NETWORKS {
        return Err(invalid("allowed_networks", format!("there are more than {MAX_NETWORKS}")));
    }
    let network = |text: &String| {
        let shown: String = text.chars().take(50).collect();
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()));
        let parsed = parsed.map_err(|_| {
            invalid("allowed_networks", format!("cannot parse {shown:?} as a network: use 10.0.0.0/8 or 2001:db8::/32"))
        })?;
        match parsed.trunc() {
            network if network == parsed => Ok(network.to_string()),
            network => Err(invalid("allowed_networks", format!("{shown:?} has bits beyond its prefix: use {network}"))),
        }
    };
    networks.iter().map(network).collect()
}
