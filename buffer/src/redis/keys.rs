//! Names of keys. All keys of one script have the same hash tag, so that they are in one slot of a
//! cluster.

/// Keys of one log.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// Hash: see [`super::scripts`].
    pub(super) meta: String,
    /// Stream: the frames.
    pub(super) log: String,
    /// Stream with the same ids: cumulative bytes and time of each frame, for searches without
    /// reading frames.
    pub(super) marks: String,
    /// Hash: sink → epoch, done_to, sealed_to, tallies.
    pub(super) cursors: String,
    /// Hash with an expiry: the holder of the lease.
    pub(super) lease: String,
    /// Key with an expiry that the writer renews.
    pub(super) writer: String,
}

impl Keys {
    pub(super) fn of(prefix: &str, log: &str) -> Self {
        let key = |part: &str| format!("{prefix}:{{{log}}}:{part}");
        Self {
            meta: key("meta"),
            log: key("log"),
            marks: key("marks"),
            cursors: key("cursors"),
            lease: key("lease"),
            writer: key("writer"),
        }
    }
}

/// Keys shared by all logs.
#[derive(Debug, Clone)]
pub(super) struct Common {
    /// Hash: node → the last assigned epoch.
    pub(super) epochs: String,
    /// Hash: log → time of its creation, ms.
    pub(super) index: String,
    /// Hash: flusher → expiry of its registration, ms, and its address.
    pub(super) flushers: String,
    /// Hash: (sink, tenant, kind) → records of removed logs.
    pub(super) settled: String,
    /// Set: removed logs whose keys are to be deleted.
    pub(super) removed: String,
    /// Hash: removed log → its end, for its node.
    pub(super) ends: String,
    /// Hash: export → its setting, as JSON.
    pub(super) exports: String,
    /// String: key of the hashes by which resent messages are recognised.
    pub(super) key: String,
}

impl Common {
    pub(super) fn of(prefix: &str) -> Self {
        let key = |part: &str| format!("{prefix}:{{logs}}:{part}");
        Self {
            epochs: key("epochs"),
            index: key("index"),
            flushers: key("flushers"),
            settled: key("settled"),
            removed: key("removed"),
            ends: key("ends"),
            exports: key("exports"),
            key: key("key"),
        }
    }
}

/// The cluster's slot of a key: CRC-16/XMODEM of the hash tag, modulo 16,384 (Redis Cluster
/// specification).
pub(super) fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(key);
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::slot;

    /// Values of `CLUSTER KEYSLOT`.
    #[test]
    fn slots_are_those_of_the_servers() {
        assert_eq!(slot("123456789"), 12_739);
        assert_eq!(slot("weir:{123456789}:log"), 12_739);
        assert_eq!(slot("foo{}{bar}"), slot("foo{}{bar}"));
        assert_eq!(slot("foo"), 12_182);
    }
}
