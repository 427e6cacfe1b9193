//! Rules for the fields of a change.

use std::collections::BTreeMap;

use ipnet::IpNet;
use model::time::SECOND;
use model::{Nanos, device};

use crate::public_key::PublicKey;
use crate::registry::{Error, GroupFilter, Result};
use crate::{KeyAlgorithm, Role};

const MAX_TEXT_BYTES: usize = 256;
const MAX_REQUEST_ID_BYTES: usize = 64;
const MAX_SCOPES: usize = 64;
const MAX_NETWORKS: usize = 64;
/// Groups that a key or a role is bound to.
const MAX_GROUPS: usize = 16;
const MAX_NAME_PART_BYTES: usize = 63;
const MAX_LABEL_KEY_BYTES: usize = 63;
const MAX_LABEL_VALUE_BYTES: usize = 128;
/// Longest time between two readings of a device that can be expected.
const LONGEST_INTERVAL: Nanos = 366 * 24 * 3600 * SECOND;
const MAX_PATTERNS: usize = 32;
const MAX_FEATURES: usize = 32;
const MAX_FEATURE_BYTES: usize = 64;
/// Features that Weir itself reads. Others are the operator's own.
const FEATURES: [&str; 0] = [];
/// Beginning of the names of features that Weir only keeps.
const OWN_FEATURES: &str = "x-";
/// Longest time until a deletion.
const LONGEST_GRACE: Nanos = 365 * 24 * 3600 * SECOND;

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

/// The id of a registered device is that of its readings.
pub(super) fn registered_device(id: &str) -> Result<()> {
    device::check_id(id).map_err(|error| invalid("device", error.to_string()))
}

/// Checks a label; without a value, its key.
pub(super) fn label(key: &str, value: Option<&str>) -> Result<()> {
    let shown: String = key.chars().take(40).collect();
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let begins_well = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !begins_well || key.len() > MAX_LABEL_KEY_BYTES || !key.bytes().all(is_good) {
        let reason = format!(
            "{shown:?} is not a key of a label: use 1 to {MAX_LABEL_KEY_BYTES} of a-z, 0-9, '-', '_' and '.', a letter \
             or digit first"
        );
        return Err(invalid("labels", reason));
    }
    let Some(value) = value else { return Ok(()) };
    if value.len() > MAX_LABEL_VALUE_BYTES {
        return Err(invalid("labels", format!("the value of {shown:?} is longer than {MAX_LABEL_VALUE_BYTES} bytes")));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(c) => Err(invalid("labels", format!("the value of {shown:?} contains {c:?}, which is not allowed"))),
        None => Ok(()),
    }
}

/// Checks the id of a type, which is part of names; empty is none.
pub(super) fn device_type(id: &str) -> Result<()> {
    if id.is_empty() { Ok(()) } else { name_part("device_type", "a device type", id) }
}

pub(super) fn interval(interval: Option<Nanos>) -> Result<()> {
    match interval {
        Some(interval) if !(SECOND..=LONGEST_INTERVAL).contains(&interval) => {
            Err(invalid("expected_interval", "use 1 second to 366 days"))
        }
        _ => Ok(()),
    }
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

pub(super) fn features(features: &BTreeMap<String, bool>) -> Result<()> {
    if features.len() > MAX_FEATURES {
        return Err(invalid("features", format!("there are more than {MAX_FEATURES}: remove one with NAME=none")));
    }
    for name in features.keys() {
        let shown: String = name.chars().take(40).collect();
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if name.len() > MAX_FEATURE_BYTES || !name.chars().all(is_plain) {
            let reason = format!(
                "{shown:?} is not a name of a feature: use at most {MAX_FEATURE_BYTES} of a-z, 0-9, '-', '_' and '.'"
            );
            return Err(invalid("features", reason));
        }
        let is_own = name.strip_prefix(OWN_FEATURES).is_some_and(|rest| !rest.is_empty());
        if !is_own && !FEATURES.contains(&name.as_str()) {
            let reason = format!("there is no feature {shown:?}: names of your own begin with {OWN_FEATURES:?}");
            return Err(invalid("features", reason));
        }
    }
    Ok(())
}

/// Returns the time from which data is removed: the one that was given, or that of the default.
pub(super) fn purge_time(given: Option<Nanos>, default: Nanos, now: Nanos) -> Result<Nanos> {
    let time = given.unwrap_or(now.saturating_add(default)).max(now);
    if time > now.saturating_add(LONGEST_GRACE) {
        return Err(invalid("purge_time", "it is more than 365 days ahead"));
    }
    Ok(time)
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

/// Returns the groups in order, each once. Only roles whose permissions are about devices are bound
/// to groups.
pub(super) fn groups(role: Role, mut groups: Vec<String>) -> Result<Vec<String>> {
    if groups.len() > MAX_GROUPS {
        return Err(invalid("groups", format!("there are more than {MAX_GROUPS}")));
    }
    if !groups.is_empty() && role > Role::Admin {
        let reason = format!("the role {} is that of a whole tenant: use ADMIN or less", role.as_str());
        return Err(invalid("groups", reason));
    }
    groups.iter().try_for_each(|id| group("groups", id))?;
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

/// Checks the id of a group, which is part of lists and of names.
pub(super) fn group(field: &'static str, id: &str) -> Result<()> {
    name_part(field, "a group", id)
}

fn name_part(field: &'static str, what: &str, id: &str) -> Result<()> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if id.is_empty() || id.len() > MAX_NAME_PART_BYTES || !id.bytes().all(is_good) {
        let reason = format!("use 1 to {MAX_NAME_PART_BYTES} letters, digits, '-', '_' and '.' for the id of {what}");
        return Err(invalid(field, reason));
    }
    Ok(())
}

/// Returns the filter with its patterns in order, each once; without any it is none.
pub(super) fn filter(filter: GroupFilter) -> Result<GroupFilter> {
    let GroupFilter::Patterns(mut patterns) = filter else { return Ok(filter) };
    if patterns.len() > MAX_PATTERNS {
        return Err(invalid("patterns", format!("there are more than {MAX_PATTERNS}")));
    }
    for pattern in &patterns {
        device::check_id(pattern).map_err(|error| invalid("patterns", error.to_string()))?;
    }
    patterns.sort_unstable();
    patterns.dedup();
    Ok(if patterns.is_empty() { GroupFilter::None } else { GroupFilter::Patterns(patterns) })
}

/// Returns devices in order, each once.
pub(super) fn members(mut devices: Vec<String>) -> Result<Vec<String>> {
    for id in &devices {
        device::check_id(id).map_err(|error| invalid("devices", error.to_string()))?;
    }
    devices.sort_unstable();
    devices.dedup();
    Ok(devices)
}
