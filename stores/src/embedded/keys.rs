//! Keys. Ids hold no control characters, so a zero byte ends them and keys sort as their parts do.

use std::sync::Arc;

use model::DeviceKey;

use crate::block::{Block, BlockId, BlockMeta};
use crate::contract::StoreError;

/// Start of every block key of a device.
pub(super) fn device(device: &DeviceKey) -> Vec<u8> {
    let mut key = Vec::with_capacity(device.tenant.len() + device.id.len() + 64);
    key.extend_from_slice(device.tenant.as_bytes());
    key.push(0);
    key.extend_from_slice(device.id.as_bytes());
    key.push(0);
    key
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

/// A time as eight bytes that sort as times do.
pub(super) fn sortable(time: i64) -> [u8; 8] {
    (time.cast_unsigned() ^ 1 << 63).to_be_bytes()
}

/// What a block key says.
pub(super) struct BlockKey {
    pub(super) id: BlockId,
    pub(super) meta: BlockMeta,
}

/// Reads a block key.
pub(super) fn read_block(key: &[u8]) -> Result<BlockKey, StoreError> {
    split_block(key).ok_or_else(|| StoreError::Damaged(format!("a block key is malformed: {key:02x?}")))
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

/// The first key behind a letter, or of a tenant.
pub(super) fn letters_after(tenant: &str, after: Option<(&str, u64, &str)>) -> Vec<u8> {
    match after {
        Some((log, offset, stage)) => {
            let mut key = letter(tenant, log, offset, stage);
            key.push(0);
            key
        }
        None => [tenant.as_bytes(), &[0]].concat(),
    }
}

/// Behind every letter of a tenant.
pub(super) fn letters_end(tenant: &str) -> Vec<u8> {
    [tenant.as_bytes(), &[1]].concat()
}
