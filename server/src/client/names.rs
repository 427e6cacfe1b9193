//! Resource names for device ids as people write them.

use api::names;

/// Name of a device.
pub(crate) fn device(tenant: &str, id: &str) -> String {
    names::device(tenant, id)
}

/// Name of the devices of an id in which `*` stands for any characters.
pub(crate) fn device_pattern(tenant: &str, pattern: &str) -> String {
    let parts: Vec<String> = pattern.split('*').map(names::encode).collect();
    format!("{}/devices/{}", names::tenant(tenant), parts.join("*"))
}

/// Name of a tenant.
pub(crate) fn tenant(tenant: &str) -> String {
    names::tenant(tenant)
}

/// Name of a dead letter from what the list shows, which is the last part of its name.
pub(crate) fn dead_letter(tenant: &str, letter: &str) -> String {
    if letter.starts_with("tenants/") {
        return letter.to_owned();
    }
    format!("{}/deadLetters/{letter}", names::tenant(tenant))
}

/// What people call a device.
pub(crate) fn device_id(name: &str) -> String {
    names::device_id(name).unwrap_or_else(|| name.to_owned())
}

/// The last part of a name.
pub(crate) fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}
