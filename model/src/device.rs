//! Who sent a reading.

use std::fmt;
use std::sync::Arc;

/// Longest device or tenant id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// A device of a tenant. Cheap to clone; ordered by tenant, then device id.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceKey {
    /// Tenant, from the credential, never from a payload.
    pub tenant: Arc<str>,
    /// Device id inside the tenant. May hold `/` (a route's `{device...}` takes several topic levels).
    pub id: Arc<str>,
}

impl DeviceKey {
    /// A checked key.
    ///
    /// # Errors
    /// [`IdError`] when either id is empty, longer than [`MAX_ID_BYTES`], or holds a control character, `+` or `#`.
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

/// Why a tenant or device id is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("id is empty")]
    Empty,
    /// Over [`MAX_ID_BYTES`].
    #[error("id is longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// A character no id may hold.
    #[error("id holds {0:?}, which is not allowed")]
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
