//! The small data, in one file: latest states, dead letters, retained messages, counts of expired
//! readings.
//!
//! Values are JSON behind a checksum: they are few, and an operator with the file alone can read
//! them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Inner;
use super::file::Outcome;
use crate::contract::{Result, StoreError};

pub(super) type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const LATEST: Bytes = TableDefinition::new("latest");
pub(super) const LETTERS: Bytes = TableDefinition::new("dead_letters");
pub(super) const RETAINED: Bytes = TableDefinition::new("retained");
/// Tenant to dead letters held.
pub(super) const LETTER_COUNTS: TableDefinition<'static, &'static str, u64> =
    TableDefinition::new("dead_letter_counts");
/// Tenant to bytes of dead letters held.
pub(super) const LETTER_BYTES: TableDefinition<'static, &'static str, u64> = TableDefinition::new("dead_letter_bytes");
/// Tenant to dead letters that the bound has deleted.
pub(super) const LETTERS_TRIMMED: TableDefinition<'static, &'static str, u64> =
    TableDefinition::new("dead_letters_trimmed");
/// (partition, tenant) to the rows that were deleted with it.
pub(super) const EXPIRED: TableDefinition<'static, (i64, &'static str), u64> = TableDefinition::new("expired");

/// Makes the tables that do not exist.
pub(super) fn prepare(database: &Database) -> Outcome<()> {
    let write = database.begin_write()?;
    for table in [LATEST, LETTERS, RETAINED] {
        write.open_table(table)?;
    }
    for table in [LETTER_COUNTS, LETTER_BYTES, LETTERS_TRIMMED] {
        write.open_table(table)?;
    }
    write.open_table(EXPIRED)?;
    write.commit()?;
    Ok(())
}

/// Returns the JSON of a row, and its checksum behind it.
pub(super) fn with_checksum<T: Serialize>(row: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(row).expect("plain fields are JSON");
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn checked<T: DeserializeOwned>(path: &Path, key: &[u8], bytes: &[u8]) -> Result<T> {
    let damaged =
        |what: &str| StoreError::Damaged(format!("{}: entry {}: {what}", path.display(), String::from_utf8_lossy(key)));
    let (json, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("it is cut short"))?;
    if crc32c::crc32c(json).to_le_bytes() != *crc {
        return Err(damaged("its checksum does not match"));
    }
    serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))
}

impl Inner {
    /// Returns the value of a row, sealed if values are sealed.
    pub(super) fn value<T: Serialize>(&self, table: &Bytes, key: &[u8], row: &T) -> Result<Vec<u8>> {
        self.sealing.seal(table, key, with_checksum(row))
    }

    /// Reads the row of a value; `None` when it cannot be read any longer.
    pub(super) fn row<T: DeserializeOwned>(&self, table: &Bytes, key: &[u8], value: &[u8]) -> Result<Option<T>> {
        let path = self.meta.path();
        let plain = self.sealing.open(path, table, key, value)?;
        plain.map(|plain| checked(path, key, &plain)).transpose()
    }

    /// Reads entries of a table, from a key up to another or to the end.
    pub(super) fn entries(
        &self,
        table: Bytes,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.meta.open()?.run(|meta| {
            let table = meta.begin_read()?.open_table(table)?;
            let range = match to {
                Some(to) => table.range::<&[u8]>(from..to)?,
                None => table.range::<&[u8]>(from..)?,
            };
            let mut all = Vec::new();
            for entry in range.take(limit) {
                let (key, value) = entry?;
                all.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(all)
        })
    }

    /// Gives `take` the entries of a table from a key on in one read, as long as it returns true.
    pub(super) fn scan(&self, table: Bytes, from: &[u8], mut take: impl FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        self.meta.open()?.run(|meta| {
            let table = meta.begin_read()?.open_table(table)?;
            for entry in table.range::<&[u8]>(from..)? {
                let (key, value) = entry?;
                if !take(key.value(), value.value()) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Gives `take` the values of these keys in one read, as long as it returns true.
    pub(super) fn values<'a>(
        &self,
        table: Bytes,
        mut keys: impl Iterator<Item = &'a [u8]>,
        mut take: impl FnMut(Option<&[u8]>) -> bool,
    ) -> Result<()> {
        self.meta.open()?.run(|meta| {
            let table = meta.begin_read()?.open_table(table)?;
            for key in keys.by_ref() {
                let value = table.get(key)?;
                if !take(value.as_ref().map(|value| value.value())) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Makes a change in one transaction, on disk when it returns.
    pub(super) fn change(&self, change: impl FnOnce(&WriteTransaction) -> Outcome<()>) -> Result<()> {
        self.meta.open()?.run(|meta| {
            let write = meta.begin_write()?;
            change(&write)?;
            write.commit()?;
            Ok(())
        })
    }

    /// Returns the rows of deleted partitions, by tenant.
    pub(super) fn expired(&self) -> Result<BTreeMap<Arc<str>, u64>> {
        self.meta.open()?.run(|meta| {
            let table = meta.begin_read()?.open_table(EXPIRED)?;
            let mut counts: BTreeMap<Arc<str>, u64> = BTreeMap::new();
            for entry in table.iter()? {
                let (key, rows) = entry?;
                *counts.entry(Arc::from(key.value().1)).or_default() += rows.value();
            }
            Ok(counts)
        })
    }

    /// Records the rows of a partition that is about to be deleted. Recording it again changes
    /// nothing.
    pub(super) fn record_expired(&self, partition: i64, rows: &[(Arc<str>, u64)]) -> Result<()> {
        self.change(|write| {
            let mut table = write.open_table(EXPIRED)?;
            for (tenant, rows) in rows {
                table.insert((partition, &**tenant), rows)?;
            }
            Ok(())
        })
    }
}
