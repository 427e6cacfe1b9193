//! What makes a message one and the same when a device sends it again.

use xxhash_rust::xxh3::Xxh3;

/// Hash of a message, stable across restarts and releases. With a time of its own a reading is the same whoever sends it and
/// however often; without one, only under the same client id and packet id.
pub(crate) fn message(tenant: &str, topic: &str, payload: &[u8], sender: Option<(&str, u16)>) -> u64 {
    let mut hash = Xxh3::new();
    for part in [tenant.as_bytes(), topic.as_bytes(), payload] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    if let Some((client, packet_id)) = sender {
        hash.update(client.as_bytes());
        hash.update(&packet_id.to_le_bytes());
    }
    hash.digest()
}

/// Identity of the reading at `index` of a message.
pub(crate) fn reading(message: u64, index: usize) -> u64 {
    message.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
