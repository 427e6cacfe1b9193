//! Keys. Ids contain no control characters, so a zero byte ends them and keys sort as their parts
//! do.

use std::sync::Arc;

use model::DeviceKey;

use crate::block::{Block, BlockId, BlockMeta};
use crate::contract::StoreError;

/// Tenant, device: also the start of every block key of a device.
pub(super) fn device(device: &DeviceKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(device.tenant.len() + device.id.len() + 64);
    key.extend_from_slice(device.tenant.as_bytes());
    key.push(0);
    key.extend_from_slice(device.id.as_bytes());
    key.push(0);
    key
}

/// The first key that follows that of a device.
pub(super) fn after_device(key: &DeviceKey) -> Vec<u8> {
    let mut key = device(key);
    key.push(0);
    key
}

/// The start of the keys of a tenant, and the first key after them.
pub(super) fn of_tenant(tenant: &str) -> (Vec<u8>, Vec<u8>) {
    ([tenant.as_bytes(), &[0]].concat(), [tenant.as_bytes(), &[1]].concat())
}

/// Reads a key of [`device`].
pub(super) fn read_device(key: &[u8]) -> Result<DeviceKey, StoreError> {
    let split = || {
        let (tenant, rest) = text(key)?;
        let (id, _) = text(rest)?;
        Some(DeviceKey { tenant: tenant.into(), id: id.into() })
    };
    split().ok_or_else(|| StoreError::Damaged(format!("a device's key is malformed: {key:02x?}")))
}

/// Device, first time, log, first offset, part, last time, rows.
pub(super) fn block(block: &Block) -> Vec<u8> {
    let mut key = device(&block.id.device);
    key.extend_from_slice(&sortable(block.times[0]));
    key.extend_from_slice(block.id.log.as_bytes());
    key.push(0);
    key.extend_from_slice(&block.id.first_offset.to_be_bytes());
    key.extend_from_slice(&block.id.part.to_be_bytes());
    key.extend_from_slice(&sortable(block.times[block.times.len() - 1]));
    let rows = u32::try_from(block.times.len()).expect("a block has fewer than 2^32 rows");
    key.extend_from_slice(&rows.to_be_bytes());
    key
}

/// Returns a time as eight bytes that sort as times do.
pub(super) fn sortable(time: i64) -> [u8; 8] {
    (time.cast_unsigned() ^ 1 << 63).to_be_bytes()
}

/// A block key, taken apart.
pub(super) struct BlockKey {
    pub(super) id: BlockId,
    pub(super) meta: BlockMeta,
}

/// Reads a block key.
pub(super) fn read_block(key: &[u8]) -> Result<BlockKey, StoreError> {
    split_block(key).ok_or_else(|| StoreError::Damaged(format!("a block key is malformed: {key:02x?}")))
}

/// Reads the tenant and the number of rows of a block key.
pub(super) fn tenant_and_rows(key: &[u8]) -> Result<(&str, u32), StoreError> {
    let split = || Some((text(key)?.0, u32::from_be_bytes(*key.last_chunk::<4>()?)));
    split().ok_or_else(|| StoreError::Damaged(format!("a block key is malformed: {key:02x?}")))
}

fn split_block(key: &[u8]) -> Option<BlockKey> {
    let (tenant, rest) = text(key)?;
    let (id, rest) = text(rest)?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let (log, rest) = text(rest)?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (part, rest) = rest.split_first_chunk::<2>()?;
    let (last, rest) = rest.split_first_chunk::<8>()?;
    let rows = u32::from_be_bytes(rest.try_into().ok()?);
    let time = |bytes: [u8; 8]| (u64::from_be_bytes(bytes) ^ 1 << 63).cast_signed();
    let device = DeviceKey { tenant: tenant.into(), id: id.into() };
    let id = BlockId {
        device,
        log: Arc::from(log),
        first_offset: u64::from_be_bytes(*offset),
        part: u16::from_be_bytes(*part),
    };
    let meta = BlockMeta { place: key.into(), first_time: time(*first), last_time: time(*last), rows };
    Some(BlockKey { id, meta })
}

fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|b| *b == 0)?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

/// Reads the tenant, with which every key begins.
pub(super) fn tenant(key: &[u8]) -> Result<&str, StoreError> {
    let found = text(key).map(|(tenant, _)| tenant);
    found.ok_or_else(|| StoreError::Damaged(format!("a key has no tenant: {key:02x?}")))
}

/// Tenant, log, offset, stage.
pub(super) fn letter(tenant: &str, log: &str, offset: u64, stage: &str) -> Vec<u8> {
    let mut key = Vec::new();
    for part in [tenant, log] {
        key.extend_from_slice(part.as_bytes());
        key.push(0);
    }
    key.extend_from_slice(&offset.to_be_bytes());
    key.extend_from_slice(stage.as_bytes());
    key
}

/// A key of [`letter`], taken apart.
pub(super) struct LetterKey<'a> {
    pub(super) tenant: &'a str,
    pub(super) log: &'a str,
    pub(super) offset: u64,
    pub(super) stage: &'a str,
}

pub(super) fn read_letter(key: &[u8]) -> Option<LetterKey<'_>> {
    let (tenant, rest) = text(key)?;
    let (log, rest) = text(rest)?;
    let (offset, stage) = rest.split_first_chunk::<8>()?;
    Some(LetterKey { tenant, log, offset: u64::from_be_bytes(*offset), stage: std::str::from_utf8(stage).ok()? })
}

/// Tenant, topic. A topic holds no zero byte.
pub(super) fn retained(tenant: &str, topic: &str) -> Vec<u8> {
    [tenant.as_bytes(), &[0], topic.as_bytes()].concat()
}

/// Reads a key of [`retained`].
pub(super) fn read_retained(key: &[u8]) -> Result<(&str, &str), StoreError> {
    let split = || {
        let (tenant, topic) = text(key)?;
        Some((tenant, std::str::from_utf8(topic).ok()?))
    };
    split().ok_or_else(|| StoreError::Damaged(format!("a retained message's key is malformed: {key:02x?}")))
}

/// The first key after a letter, or of a tenant.
pub(super) fn letters_after(tenant: &str, after: Option<(&str, u64, &str)>) -> Vec<u8> {
    match after {
        Some((log, offset, stage)) => {
            let mut key = letter(tenant, log, offset, stage);
            key.push(0);
            key
        }
        None => of_tenant(tenant).0,
    }
}

/// After every letter of a log.
pub(super) fn letters_of_log_end(tenant: &str, log: &str) -> Vec<u8> {
    [tenant.as_bytes(), &[0], log.as_bytes(), &[1]].concat()
}
