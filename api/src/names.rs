//! Resource names: `tenants/{tenant}`, `tenants/{tenant}/devices/{device}`,
//! `tenants/{tenant}/deadLetters/{letter}`, `tenants/{tenant}/apiKeys/{key}`,
//! `tenants/{tenant}/devices/{device}/credentials/{credential}`, `exports/{export}`.
//!
//! In ids, all characters but letters, digits and `-._~` are percent-encoded, so that an id may
//! contain `/`.

use std::fmt::Write;

/// Tenant segment that stands for the caller's own tenant.
pub const OWN: &str = "-";

/// Name of a tenant.
pub fn tenant(tenant: &str) -> String {
    format!("tenants/{}", encode(tenant))
}

/// Name of a device. `tenant` may be [`OWN`].
pub fn device(tenant: &str, id: &str) -> String {
    let mut name = String::with_capacity(tenant.len() + id.len() + 20);
    name.push_str("tenants/");
    encode_into(&mut name, tenant);
    name.push_str("/devices/");
    encode_into(&mut name, id);
    name
}

/// Name of an API key.
pub fn api_key(tenant: &str, id: &str) -> String {
    format!("tenants/{}/apiKeys/{}", encode(tenant), encode(id))
}

/// Name of a resource of a tenant, in a collection. `tenant` may be [`OWN`].
pub fn child(tenant: &str, collection: &str, id: &str) -> String {
    format!("tenants/{}/{collection}/{}", encode(tenant), encode(id))
}

/// Name of a credential of a device.
pub fn device_credential(tenant: &str, device: &str, id: &str) -> String {
    format!("{}/credentials/{}", self::device(tenant, device), encode(id))
}

/// Name of a dead letter. `tenant` may be [`OWN`].
pub fn dead_letter(tenant: &str, log: &str, offset: u64, stage: &str) -> String {
    format!("tenants/{}/deadLetters/{}:{offset}:{}", encode(tenant), encode(log), encode(stage))
}

/// Name of an export.
pub fn export(name: &str) -> String {
    format!("exports/{}", encode(name))
}

/// The configured name in the resource name of an export, decoded. `None` when `name` is not one.
pub fn export_name(name: &str) -> Option<String> {
    let id = name.strip_prefix("exports/")?;
    if id.is_empty() || id.contains('/') { None } else { decode(id) }
}

/// The device id in a device name, decoded. `None` when `name` is not a device name.
pub fn device_id(name: &str) -> Option<String> {
    let (_, id) = split_device(name)?;
    decode(id)
}

/// Percent-encodes an id.
pub fn encode(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    encode_into(&mut out, id);
    out
}

fn encode_into(out: &mut String, id: &str) {
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
}

/// Reverses [`encode`]. `None` when a `%` is not followed by two hexadecimal digits or the bytes
/// are not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// The encoded tenant of `tenants/{tenant}`.
pub(crate) fn split_tenant(name: &str) -> Option<&str> {
    let tenant = name.strip_prefix("tenants/")?;
    (!tenant.is_empty() && !tenant.contains('/')).then_some(tenant)
}

/// The encoded tenant and id of `tenants/{tenant}/devices/{device}`.
pub(crate) fn split_device(name: &str) -> Option<(&str, &str)> {
    split_child(name, "devices")
}

/// The encoded tenant and id of `tenants/{tenant}/{collection}/{id}`.
pub(crate) fn split_child<'a>(name: &'a str, collection: &str) -> Option<(&'a str, &'a str)> {
    let mut parts = name.split('/');
    let (kind, tenant, found, id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let good = kind == "tenants" && found == collection && !tenant.is_empty() && !id.is_empty();
    (good && parts.next().is_none()).then_some((tenant, id))
}

/// The encoded tenant, device and id of `tenants/{tenant}/devices/{device}/credentials/{id}`.
pub(crate) fn split_credential(name: &str) -> Option<(&str, &str, &str)> {
    let (device, id) = name.split_once("/credentials/")?;
    let (tenant, device) = split_device(device)?;
    (!id.is_empty() && !id.contains('/')).then_some((tenant, device, id))
}

/// Log, offset and stage of the last segment of a dead letter's name.
pub(crate) fn split_letter(id: &str) -> Option<(String, u64, String)> {
    let mut parts = id.split(':');
    let (log, offset, stage) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some((decode(log)?, offset.parse().ok()?, decode(stage)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_device_id_with_a_slash_is_one_segment() {
        let name = device(OWN, "zigbee/küche 1");
        assert_eq!(name, "tenants/-/devices/zigbee%2Fk%C3%BCche%201");
        assert_eq!(device_id(&name).as_deref(), Some("zigbee/küche 1"));
    }

    #[test]
    fn names_of_another_shape_are_none() {
        for bad in ["", "tenants/-", "tenants//devices/a", "tenants/-/devices/", "tenants/-/devices/a/b", "devices/a"] {
            assert_eq!(split_device(bad), None, "{bad}");
        }
        for bad in ["%", "%4", "%zz", "%ff", "%+1"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_id_comes_back(id in ".{1,40}", stage in ".{1,8}", offset: u64) {
            let encoded = encode(&id);
            prop_assert!(!encoded.contains('/'));
            prop_assert_eq!(decode(&encoded), Some(id.clone()));
            let letter = dead_letter("t", &id, offset, &stage);
            let (_, last) = split_child(&letter, "deadLetters").expect("a letter's name");
            prop_assert_eq!(split_letter(last), Some((id, offset, stage)));
        }
    }
}
