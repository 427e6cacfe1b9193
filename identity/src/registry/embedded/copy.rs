//! A copy of the registry while it is in use.

use std::path::Path;

use redb::{Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, Value, WriteTransaction};

use super::file::Outcome;
use super::{EmbeddedRegistry, Result, rows};
use crate::registry::Error;

impl EmbeddedRegistry {
    /// Writes the registry, as it is at one moment, to a new file; durable when it returns. Changes
    /// go on meanwhile. Blocks the thread.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub fn copy_to(&self, path: &Path) -> Result<()> {
        let target = Database::create(path)
            .map_err(|error| Error::Unavailable(format!("cannot write {}: {error}", path.display())))?;
        self.0.file.run(|database| {
            let read = database.begin_read()?;
            let write = target.begin_write()?;
            copy_all(&read, &write)?;
            write.commit()?;
            Ok(())
        })
    }
}

fn copy_all(read: &ReadTransaction, write: &WriteTransaction) -> Outcome<()> {
    copy(read, write, rows::TENANTS)?;
    copy(read, write, rows::CREDENTIALS)?;
    copy(read, write, rows::USES)?;
    copy(read, write, rows::OF_DEVICES)?;
    copy(read, write, rows::OF_TENANTS)?;
    copy(read, write, rows::REQUESTS)?;
    copy(read, write, rows::REQUEST_TIMES)?;
    copy(read, write, rows::AUDIT)?;
    copy(read, write, rows::HEADS)?;
    copy(read, write, rows::CONTROL)?;
    copy(read, write, rows::PEPPERS)?;
    copy(read, write, rows::GROUPS)?;
    copy(read, write, rows::MEMBERS)?;
    copy(read, write, rows::DEVICES)?;
    copy(read, write, rows::DEVICE_TERMS)?;
    copy(read, write, rows::DEVICE_COUNTS)
}

fn copy<K: Key, V: Value>(
    read: &ReadTransaction,
    write: &WriteTransaction,
    table: TableDefinition<'static, K, V>,
) -> Outcome<()> {
    let from = read.open_table(table)?;
    let mut to = write.open_table(table)?;
    for entry in from.iter()? {
        let (key, value) = entry?;
        to.insert(key.value(), value.value())?;
    }
    Ok(())
}
