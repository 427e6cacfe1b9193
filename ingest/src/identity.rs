//! Identities, by which a message that a device sends again is recognised.
//!
//! Everything that a client chooses for a message goes through SipHash-1-3 with the key of the
//! installation, each part after the hash of the part before, so that neither parts nor their
//! bounds can be confused, and no client can find two messages with one identity. Readings of a
//! message are told apart by XXH3-64, seeded with the message's hash. Stable across restarts, nodes
//! and releases: a resent reading is recognised by it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Hashes with the key of the installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u64; 2]);

impl Key {
    /// Returns the hash of `part` after the parts that `before` is the hash of.
    pub(crate) fn chain(self, before: u64, part: &[u8]) -> u64 {
        sip13([self.0[0], self.0[1] ^ before], part)
    }

    /// Returns the hash of a client of a tenant.
    pub(crate) fn client(self, tenant: &str, client: &str) -> u64 {
        self.chain(self.chain(CLIENT, tenant.as_bytes()), client.as_bytes())
    }

    /// Returns the client that stands for a stored message when it is replayed.
    pub(crate) fn replay(self, identity: u64) -> u64 {
        self.chain(REPLAY, &identity.to_le_bytes())
    }
}

/// First parts: hashes of clients, of replayed messages and of messages differ.
const CLIENT: u64 = 1;
const REPLAY: u64 = 2;

/// SipHash-1-3 (Aumasson and Bernstein, 2012): 64 bits, keyed.
fn sip13(key: [u64; 2], bytes: &[u8]) -> u64 {
    let mut state = Sip([
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ]);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        state.absorb(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The length modulo 256 is the last byte.
    last[7] = bytes.len().to_le_bytes()[0];
    state.absorb(u64::from_le_bytes(last));
    state.0[2] ^= 0xff;
    (0..3).for_each(|_| state.round());
    let [a, b, c, d] = state.0;
    a ^ b ^ c ^ d
}

struct Sip([u64; 4]);

impl Sip {
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        c = c.wrapping_add(d);
        b = b.rotate_left(13) ^ a;
        d = d.rotate_left(16) ^ c;
        a = a.rotate_left(32);
        c = c.wrapping_add(b);
        a = a.wrapping_add(d);
        b = b.rotate_left(17) ^ c;
        d = d.rotate_left(21) ^ a;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
}

/// Returns the hash of `part` after the parts that `before` is the hash of.
fn chain(before: u64, part: &[u8]) -> u64 {
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
        let key = Key([0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        let topic = key.chain(key.chain(0, b"default"), b"devices/d1/telemetry");
        let message = key.chain(topic, br#"{"ts":1700000000,"t":21.5}"#);
        assert_eq!(timed(message, "d1", 0), 8_602_915_143_775_621_951);
        assert_eq!(untimed(message, "d1", 0, "c1", Some(7)), 17_836_164_648_924_147_924);
        assert_eq!(key.client("default", "c1"), 7_379_334_941_550_661_804);
    }

    /// The hasher of the standard library is SipHash-1-3, with a key of zeros when it is not
    /// random.
    #[test]
    fn the_keyed_hash_is_siphash_1_3() {
        use std::hash::Hasher;
        for length in 0..70_u8 {
            let bytes: Vec<u8> = (0..length).map(|n| n.wrapping_mul(37)).collect();
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write(&bytes);
            assert_eq!(sip13([0, 0], &bytes), hasher.finish(), "{length} bytes");
        }
    }

    #[test]
    fn another_installation_has_other_identities() {
        let [a, b] = [Key([1, 2]), Key([1, 3])];
        assert_ne!(a.chain(0, b"x"), b.chain(0, b"x"));
        assert_ne!(a.client("t", "c"), b.client("t", "c"));
        assert_ne!(a.client("t", "c"), a.client("tc", ""));
        assert_ne!(a.replay(1), a.replay(2));
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
