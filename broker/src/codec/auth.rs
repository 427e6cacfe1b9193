//! AUTH (section 3.15) from a client.

use super::properties::{self, Carrier, id};
use super::{DecodeError, Reader, Version, reason};

/// An AUTH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// 0x18 continues an exchange, 0x19 begins another one.
    pub reason: u8,
    /// Authentication method.
    pub method: &'a str,
    /// Authentication data, when given.
    pub data: Option<&'a [u8]>,
}

/// Reads the body of an AUTH.
///
/// # Errors
/// [`DecodeError`], also for the reason that only servers send.
pub fn decode(body: &[u8], version: Version) -> Result<Auth<'_>, DecodeError> {
    if version == Version::V4 {
        return Err(DecodeError::malformed("packet type 15 is reserved in MQTT 3.1.1"));
    }
    let mut reader = Reader::new(body);
    // Without reason and properties it is a success.
    let reason = if reader.is_empty() { reason::SUCCESS } else { reader.u8()? };
    let own = if reader.is_empty() { &[] } else { properties::read(&mut reader, Carrier::Auth)? };
    reader.end()?;
    if !matches!(reason, reason::CONTINUE_AUTHENTICATION | reason::REAUTHENTICATE) {
        return Err(DecodeError::protocol("a client sends AUTH with the reasons 0x18 and 0x19 only"));
    }
    let method = properties::text(own, id::AUTHENTICATION_METHOD);
    let method = method.ok_or(DecodeError::protocol("AUTH without an authentication method"))?;
    Ok(Auth { reason, method, data: properties::binary(own, id::AUTHENTICATION_DATA) })
}
