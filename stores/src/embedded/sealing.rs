//! Values that are sealed under the keys of their tenant.
//!
//! ```text
//! 0xE1, sealed bytes      a sealed value; what was sealed is a value as without encryption
//! 0xE2                    contents that were discarded, since the keys of the tenant are destroyed
//! anything else           a value in plain
//! ```
//! The name of the table and the key of the entry are authenticated: a value is valid in its own
//! place only. Keys stay in plain: tenants, device ids, times, logs and offsets, and the topics of
//! retained messages.

use std::borrow::Cow;
use std::path::Path;

use envelope::{HEAD_BYTES, Keyring, OVERHEAD_BYTES, SealError, UnsealError};
use redb::TableHandle;

use super::keys;
use crate::contract::{Result, StoreError};

const SEALED: u8 = 0xE1;
const DISCARDED: u8 = 0xE2;

/// Seals and opens the values of a store.
#[derive(Debug)]
pub(super) struct Sealing(Option<Keyring>);

/// Authenticated with a value.
fn place(table: &str, key: &[u8]) -> Vec<u8> {
    [table.as_bytes(), &[0], key].concat()
}

impl Sealing {
    pub(super) fn new(keys: Option<Keyring>) -> Self {
        Self(keys)
    }

    /// Makes the keys that these tenants do not have yet, so that sealing their values waits for
    /// the disk once and not for each tenant.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when new keys cannot be kept.
    pub(super) fn prepare<'a>(&self, tenants: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let Some(keyring) = self.0.as_ref().filter(|keyring| keyring.seals()) else { return Ok(()) };
        keyring.prepare(tenants).map_err(|error| StoreError::busy(error.to_string()))
    }

    /// Returns the value to store for `plain`.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when a new key cannot be kept.
    pub(super) fn seal(&self, table: &impl TableHandle, key: &[u8], plain: Vec<u8>) -> Result<Vec<u8>> {
        let Some(keyring) = self.0.as_ref().filter(|keyring| keyring.seals()) else { return Ok(plain) };
        let mut value = Vec::with_capacity(1 + plain.len() + OVERHEAD_BYTES);
        value.push(SEALED);
        value.resize(1 + HEAD_BYTES, 0);
        value.extend_from_slice(&plain);
        match keyring.seal(keys::tenant(key)?, &place(table.name(), key), &mut value, 1) {
            Ok(()) => Ok(value),
            Err(SealError::Destroyed(_)) => {
                keyring.note_discarded(1);
                Ok(vec![DISCARDED])
            }
            Err(error @ SealError::NoKey { .. }) => Err(StoreError::busy(error.to_string())),
        }
    }

    /// Returns a stored value in plain; `None` when it cannot be read any longer because the keys
    /// of its tenant were destroyed.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]; [`StoreError::NeedsOperator`] when its key is not in the keyring.
    pub(super) fn open<'a>(
        &self,
        path: &Path,
        table: &impl TableHandle,
        key: &[u8],
        value: &'a [u8],
    ) -> Result<Option<Cow<'a, [u8]>>> {
        let sealed = match value.split_first() {
            Some((&DISCARDED, [])) => return Ok(None),
            Some((&SEALED, sealed)) => sealed,
            _ => return Ok(Some(Cow::Borrowed(value))),
        };
        let Some(keyring) = &self.0 else {
            let file = path.display();
            return Err(StoreError::NeedsOperator(format!("{file} is sealed: set `encryption.key_file`")));
        };
        let mut bytes = sealed.to_vec();
        match keyring.open_sealed(keys::tenant(key)?, &place(table.name(), key), &mut bytes) {
            Ok(plain) => {
                let length = plain.len();
                bytes.drain(..HEAD_BYTES);
                bytes.truncate(length);
                Ok(Some(Cow::Owned(bytes)))
            }
            Err(UnsealError::Destroyed(_)) => {
                keyring.note_unreadable(1);
                Ok(None)
            }
            Err(error @ UnsealError::Missing { .. }) => {
                Err(StoreError::NeedsOperator(format!("{}: {error}", path.display())))
            }
            Err(error @ UnsealError::Damaged(_)) => Err(StoreError::Damaged(format!("{}: {error}", path.display()))),
        }
    }

    /// True when the tenant of a key has values that cannot be read any longer.
    pub(super) fn has_gone(&self, key: &[u8]) -> bool {
        let keyring = self.0.as_ref();
        keyring.is_some_and(|keyring| keys::tenant(key).is_ok_and(|tenant| keyring.has_destroyed(tenant)))
    }

    /// True when a value has no contents: they were discarded.
    pub(super) fn is_discarded(value: &[u8]) -> bool {
        value == [DISCARDED]
    }

    /// True when a value cannot be read any longer.
    pub(super) fn is_gone(&self, key: &[u8], value: &[u8]) -> bool {
        match (value.split_first(), &self.0) {
            (Some((&DISCARDED, [])), _) => true,
            (Some((&SEALED, sealed)), Some(keyring)) => {
                keys::tenant(key).is_ok_and(|tenant| keyring.is_destroyed(tenant, sealed))
            }
            _ => false,
        }
    }
}
