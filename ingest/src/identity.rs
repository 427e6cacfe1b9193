//! Identities, by which a message that a device sends again is recognised.
//!
//! Chained XXH3-64, each part seeded with the hash of the part before, so that neither parts nor
//! their bounds can be confused. Stable across restarts and releases: a resent reading is
//! recognised by it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Returns the hash of `part` after the parts that `before` is the hash of.
pub(crate) fn chain(before: u64, part: &[u8]) -> u64 {
    xxh3_64_with_seed(part, before)
}

/// Returns the hash of a number after the parts that `before` is the hash of.
pub(crate) fn chain_number(before: u64, number: u64) -> u64 {
    chain(before, &number.to_le_bytes())
}

/// The identity of a reading with a device time: the same for every sender, however often the
/// message is sent.
pub(crate) fn timed(message: u64, device: &str, index: u64) -> u64 {
    chain_number(chain(message, device.as_bytes()), index)
}

/// The identity of a reading without a device time: the same only if its client sends the message
/// again under the same id.
pub(crate) fn untimed(message: u64, device: &str, index: u64, client: &str, id: Option<u64>) -> u64 {
    let sender = chain_number(chain(message, client.as_bytes()), id.unwrap_or(0));
    timed(sender, device, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings in the log carry them: a release that changes them would store a resent reading
    /// twice.
    #[test]
    fn identities_are_those_of_every_release() {
        let message = chain(chain(chain(0, b"default"), b"devices/d1/telemetry"), br#"{"ts":1700000000,"t":21.5}"#);
        assert_eq!(timed(message, "d1", 0), 6_234_742_005_968_945_623);
        assert_eq!(untimed(message, "d1", 0, "c1", Some(7)), 10_188_865_980_942_361_428);
    }

    #[test]
    fn device_place_client_and_message_id_distinguish_readings() {
        let all = [
            timed(1, "d1", 0),
            timed(1, "d1", 1),
            timed(1, "d2", 0),
            timed(2, "d1", 0),
            untimed(1, "d1", 0, "c", Some(1)),
            untimed(1, "d1", 0, "c", Some(2)),
            untimed(1, "d1", 0, "b", Some(1)),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
