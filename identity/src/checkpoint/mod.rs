//! Signed checkpoints of the audit chains.
//!
//! A checkpoint names the end of a chain. It is signed (Ed25519) and handed to a target outside of
//! Weir, so that a chain which was computed anew, cut or changed later is found by it. For each
//! target and tenant, checkpoints are a chain of their own: each has the hash of the one before.
//!
//! The signature covers this text:
//! ```text
//! weir audit checkpoint 1
//! signer {id of the sequence of checkpoints; empty for a single one}
//! tenant {tenant}
//! sequence {of the event}
//! hash {of the event}
//! time {nanoseconds since 1970}
//! previous {SHA-256 of this text of the checkpoint before; zeros for the first one}
//! key {id of the key}
//! ```
//! Each line ends with a line feed; bytes are hexadecimal digits.

mod keys;
mod signer;
mod target;
#[cfg(test)]
mod tests;
mod verify;

use model::Nanos;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hex;
use crate::registry::Checkpoint;
pub use keys::{CheckpointKey, CheckpointKeyError, CheckpointKeys};
pub use signer::{CheckpointOptions, Checkpoints, TargetStatus};
pub use target::{CheckpointTarget, Webhook};
pub use verify::{CheckedCheckpoints, CheckpointError, CheckpointFault, CheckpointReader};

/// A checkpoint with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    /// Id of the sequence of checkpoints that it belongs to: one for each target of a process.
    /// Empty for one that was signed for a call.
    pub signer: String,
    /// The tenant, or [`INSTALLATION`](crate::INSTALLATION).
    pub tenant: String,
    /// Sequence of the event.
    pub sequence: u64,
    /// Hash of the event.
    #[serde(with = "hex::text")]
    pub hash: [u8; 32],
    /// Time of the signature.
    pub time: Nanos,
    /// Hash of the checkpoint before; zeros for the first one.
    #[serde(with = "hex::text")]
    pub previous: [u8; 32],
    /// Id of the key.
    pub key: String,
    /// The signature.
    #[serde(with = "hex::text")]
    pub signature: [u8; 64],
}

impl SignedCheckpoint {
    /// Signs the end of a chain, as the next checkpoint after `previous`.
    pub(crate) fn sign(
        key: &CheckpointKey,
        signer: &str,
        tenant: &str,
        point: Checkpoint,
        time: Nanos,
        previous: Option<&Self>,
    ) -> Self {
        let mut checkpoint = Self {
            signer: signer.to_owned(),
            tenant: tenant.to_owned(),
            sequence: point.sequence,
            hash: point.hash,
            time,
            previous: previous.map(Self::digest).unwrap_or_default(),
            key: key.id().to_owned(),
            signature: [0; 64],
        };
        checkpoint.signature = key.sign(checkpoint.text().as_bytes());
        checkpoint
    }

    /// Returns the event.
    pub fn point(&self) -> Checkpoint {
        Checkpoint { sequence: self.sequence, hash: self.hash }
    }

    /// Returns the text that is signed.
    fn text(&self) -> String {
        let (hash, previous) = (hex::encode(&self.hash), hex::encode(&self.previous));
        let Self { signer, tenant, sequence, time, key, .. } = self;
        format!(
            "weir audit checkpoint 1\nsigner {signer}\ntenant {tenant}\nsequence {sequence}\nhash {hash}\ntime {time}\n\
             previous {previous}\nkey {key}\n"
        )
    }

    /// Returns the hash by which the next one names it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text()).into()
    }

    /// Returns it as a line of JSON, without the line feed.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("plain fields are JSON")
    }
}
