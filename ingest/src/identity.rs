//! What makes a message one and the same when a device sends it again.
//!
//! Chained XXH3-64, each part seeded with the hash of the part before, so that neither parts nor their bounds can be
//! confused. Stable across restarts and releases: a resent reading is recognised by it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Hash of `part` behind what `before` is the hash of.
pub(crate) fn chain(before: u64, part: &[u8]) -> u64 {
    xxh3_64_with_seed(part, before)
}

/// Hash of a number behind what `before` is the hash of.
pub(crate) fn chain_number(before: u64, number: u64) -> u64 {
    chain(before, &number.to_le_bytes())
}

/// A reading with a time of its own is the same whoever sends its message and however often.
pub(crate) fn timed(message: u64, device: &str, index: u64) -> u64 {
    chain_number(chain(message, device.as_bytes()), index)
}

/// A reading without one is the same only when its client sends the message again under the same packet id.
pub(crate) fn untimed(message: u64, device: &str, index: u64, client: &str, packet_id: u16) -> u64 {
    let sender = chain_number(chain(message, client.as_bytes()), u64::from(packet_id));
    timed(sender, device, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings in the log carry these: a release that changes them takes a resent reading for a new one.
    #[test]
    fn identities_are_those_of_every_release() {
        let message = chain(chain(chain(0, b"default"), b"devices/d1/telemetry"), br#"{"ts":1700000000,"t":21.5}"#);
        assert_eq!(timed(message, "d1", 0), 6_234_742_005_968_945_623);
        assert_eq!(untimed(message, "d1", 0, "c1", 7), 10_188_865_980_942_361_428);
    }

    #[test]
    fn device_place_client_and_packet_id_tell_readings_apart() {
        let all = [
            timed(1, "d1", 0),
            timed(1, "d1", 1),
            timed(1, "d2", 0),
            timed(2, "d1", 0),
            untimed(1, "d1", 0, "c", 1),
            untimed(1, "d1", 0, "c", 2),
            untimed(1, "d1", 0, "b", 1),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
