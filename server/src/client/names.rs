//! Resource names from the ids given on the command line.

use api::names;

/// Returns the resource name of a device.
pub(crate) fn device(tenant: &str, id: &str) -> String {
    names::device(tenant, id)
}

/// Returns the resource name of the devices whose ids match a pattern; `*` matches any characters.
pub(crate) fn device_pattern(tenant: &str, pattern: &str) -> String {
    let parts: Vec<String> = pattern.split('*').map(names::encode).collect();
    format!("{}/devices/{}", names::tenant(tenant), parts.join("*"))
}

/// Returns the resource name of a tenant.
pub(crate) fn tenant(tenant: &str) -> String {
    names::tenant(tenant)
}

/// Returns the resource name of a dead letter from the last part of it, which is shown in lists.
pub(crate) fn dead_letter(tenant: &str, letter: &str) -> String {
    if letter.starts_with("tenants/") {
        return letter.to_owned();
    }
    format!("{}/deadLetters/{letter}", names::tenant(tenant))
}

/// Returns the resource name of a child of a tenant, as an API key, from its collection and its id.
pub(crate) fn child(tenant: &str, collection: &str, id: &str) -> String {
    names::child(tenant, collection, id)
}

/// Returns the resource name of a credential of a device.
pub(crate) fn credential(tenant: &str, device: &str, id: &str) -> String {
    names::device_credential(tenant, device, id)
}

/// Returns the resource name of an export.
pub(crate) fn export(name: &str) -> String {
    names::export(name)
}

/// Returns the configured name in the resource name of an export.
pub(crate) fn export_id(name: &str) -> String {
    names::export_name(name).unwrap_or_else(|| name.to_owned())
}

/// Returns the device id in the resource name of a device.
pub(crate) fn device_id(name: &str) -> String {
    names::device_id(name).unwrap_or_else(|| name.to_owned())
}

/// Returns the last part of a resource name.
pub(crate) fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}
