//! Devices and tenants.

use std::fmt;
use std::sync::Arc;

/// Maximum length of a device or tenant id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// A device of a tenant. Cheap to clone; ordered by tenant, then device id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceKey {
    /// Tenant, from the credential and never from a payload.
    pub tenant: Arc<str>,
    /// Device id within the tenant. May contain `/`, since a route's `{device...}` matches several
    /// topic levels.
    pub id: Arc<str>,
}

impl DeviceKey {
    /// Creates a checked key.
    ///
    /// # Errors
    /// [`IdError`] when either id is empty, longer than [`MAX_ID_BYTES`], or contains a control
    /// character, `+` or `#`.
    pub fn new(tenant: &str, id: &str) -> Result<Self, IdError> {
        check_id(tenant)?;
        check_id(id)?;
        Ok(Self { tenant: tenant.into(), id: id.into() })
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The reason why a tenant or device id is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The id is empty.
    #[error("id is empty")]
    Empty,
    /// The id is longer than [`MAX_ID_BYTES`].
    #[error("id is longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// The id contains a forbidden character.
    #[error("id contains {0:?}, which is not allowed")]
    Character(char),
}

/// Checks a tenant or device id.
///
/// # Errors
/// See [`DeviceKey::new`].
pub fn check_id(id: &str) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong);
    }
    match id.chars().find(|c| c.is_control() || matches!(c, '+' | '#')) {
        Some(c) => Err(IdError::Character(c)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_with_a_wildcard_or_a_control_character_is_refused() {
        assert_eq!(DeviceKey::new("t", "a+b"), Err(IdError::Character('+')));
        assert_eq!(DeviceKey::new("t", "a\nb"), Err(IdError::Character('\n')));
        assert_eq!(DeviceKey::new("t", ""), Err(IdError::Empty));
        assert_eq!(DeviceKey::new("t", &"x".repeat(257)), Err(IdError::TooLong));
        assert!(DeviceKey::new("t", "zigbee/küche").is_ok());
    }
}
