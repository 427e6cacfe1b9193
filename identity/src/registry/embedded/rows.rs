//! Tables and rows. Values are JSON behind a checksum: they are few, and an operator with the file
//! alone can read them.

use std::ops::Bound;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file::{Outcome, Stop};

type Table<K, V> = TableDefinition<'static, K, V>;
type Text = &'static str;
type Bytes = &'static [u8];

/// Id to tenant.
pub(super) const TENANTS: Table<Text, Bytes> = TableDefinition::new("tenants");
/// Id to credential.
pub(super) const CREDENTIALS: Table<Text, Bytes> = TableDefinition::new("credentials");
/// Id of a credential to the time of its last use.
pub(super) const USES: Table<Text, i64> = TableDefinition::new("uses");
/// Tenant, device, id of a credential.
pub(super) const OF_DEVICES: Table<(Text, Text, Text), ()> = TableDefinition::new("credentials_of_devices");
/// Tenant, class, id of a credential.
pub(super) const OF_TENANTS: Table<(Text, Text, Text), ()> = TableDefinition::new("credentials_of_tenants");
/// Tenant, request id to the creation.
pub(super) const REQUESTS: Table<(Text, Text), Bytes> = TableDefinition::new("requests");
/// Time, tenant, request id.
pub(super) const REQUEST_TIMES: Table<(i64, Text, Text), ()> = TableDefinition::new("request_times");
/// Tenant, sequence to hash and event.
pub(super) const AUDIT: Table<(Text, u64), Bytes> = TableDefinition::new("audit");
/// Tenant to the last event of its chain.
pub(super) const HEADS: Table<Text, Bytes> = TableDefinition::new("audit_heads");
/// Number to change.
pub(super) const CONTROL: Table<u64, Bytes> = TableDefinition::new("control");
/// Version of a pepper to its fingerprint.
pub(super) const PEPPERS: Table<u32, Bytes> = TableDefinition::new("peppers");

/// Tenant, id to group.
pub(super) const GROUPS: Table<(Text, Text), Bytes> = TableDefinition::new("groups");
/// Tenant, group, device.
pub(super) const MEMBERS: Table<(Text, Text, Text), ()> = TableDefinition::new("group_members");
/// Tenant, id to device.
pub(super) const DEVICES: Table<(Text, Text), Bytes> = TableDefinition::new("devices");
/// Tenant, term, device.
pub(super) const DEVICE_TERMS: Table<(Text, Text, Text), ()> = TableDefinition::new("device_terms");
/// Tenant to the count of its devices.
pub(super) const DEVICE_COUNTS: Table<Text, u64> = TableDefinition::new("device_counts");

/// Makes the tables that do not exist. When all exist nothing is written: a file that is opened
/// again while the disk is full can be read.
pub(super) fn prepare(database: &Database) -> Outcome<()> {
    match open_all(&database.begin_read()?) {
        Err(TableError::TableDoesNotExist(_)) => {}
        opened => return Ok(opened?),
    }
    let write = database.begin_write()?;
    write.open_table(TENANTS)?;
    write.open_table(CREDENTIALS)?;
    write.open_table(USES)?;
    write.open_table(OF_DEVICES)?;
    write.open_table(OF_TENANTS)?;
    write.open_table(REQUESTS)?;
    write.open_table(REQUEST_TIMES)?;
    write.open_table(AUDIT)?;
    write.open_table(HEADS)?;
    write.open_table(CONTROL)?;
    write.open_table(PEPPERS)?;
    write.open_table(GROUPS)?;
    write.open_table(MEMBERS)?;
    write.open_table(DEVICES)?;
    write.open_table(DEVICE_TERMS)?;
    write.open_table(DEVICE_COUNTS)?;
    write.commit()?;
    Ok(())
}

fn open_all(read: &ReadTransaction) -> Result<(), TableError> {
    read.open_table(TENANTS)?;
    read.open_table(CREDENTIALS)?;
    read.open_table(USES)?;
    read.open_table(OF_DEVICES)?;
    read.open_table(OF_TENANTS)?;
    read.open_table(REQUESTS)?;
    read.open_table(REQUEST_TIMES)?;
    read.open_table(AUDIT)?;
    read.open_table(HEADS)?;
    read.open_table(CONTROL)?;
    read.open_table(PEPPERS)?;
    read.open_table(GROUPS)?;
    read.open_table(MEMBERS)?;
    read.open_table(DEVICES)?;
    read.open_table(DEVICE_TERMS)?;
    read.open_table(DEVICE_COUNTS)?;
    Ok(())
}

/// Returns the JSON of a row, and its checksum behind it.
pub(super) fn seal<T: Serialize>(row: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(row).expect("plain fields are JSON");
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads a row; `place` names it in the error.
pub(super) fn unseal<T: DeserializeOwned>(place: &str, bytes: &[u8]) -> Outcome<T> {
    let json = bytes.split_last_chunk::<4>().filter(|(json, sum)| crc32fast::hash(json).to_le_bytes() == **sum);
    json.and_then(|(json, _)| serde_json::from_slice(json).ok()).ok_or_else(|| Stop::Damaged(format!("entry {place}")))
}

/// Reads the row of an id.
pub(super) fn get<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    id: &str,
) -> Outcome<Option<T>> {
    table.get(id)?.map(|bytes| unseal(id, bytes.value())).transpose()
}

/// Reads the row of an id of a tenant.
pub(super) fn get_of<T: DeserializeOwned>(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    tenant: &str,
    id: &str,
) -> Outcome<Option<T>> {
    table.get((tenant, id))?.map(|bytes| unseal(id, bytes.value())).transpose()
}

/// Reads rows of a tenant in order of their ids, those after `after`.
pub(super) fn list_of<T: DeserializeOwned>(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    tenant: &str,
    after: &str,
    limit: usize,
) -> Outcome<Vec<T>> {
    let mut found = Vec::new();
    for entry in table.range((Bound::Excluded((tenant, after)), Bound::Unbounded))?.take(limit) {
        let (key, bytes) = entry?;
        let (of, id) = key.value();
        if of != tenant {
            break;
        }
        found.push(unseal(id, bytes.value())?);
    }
    Ok(found)
}

/// Writes the row of an id.
pub(super) fn put<T: Serialize>(
    write: &WriteTransaction,
    table: TableDefinition<'static, &'static str, &'static [u8]>,
    id: &str,
    row: &T,
) -> Outcome<()> {
    write.open_table(table)?.insert(id, seal(row).as_slice())?;
    Ok(())
}
