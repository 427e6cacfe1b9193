//! Errors of the keyring. Their texts hold no key.

use std::path::PathBuf;

use aws_lc_rs::error::Unspecified;

use crate::kek::KekError;

/// The reason why a keyring cannot be opened or changed. Its text holds no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The key-encryption key cannot be used.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The file cannot be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is not as it was written.
    #[error(
        "{} is damaged: {reason}: restore it from a backup; without it nothing that is sealed can be read",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// There is sealed data and no key-encryption key.
    #[error(
        "{} belongs to sealed data: set `encryption.key_file` (or key_env, key_command) to the key of then; to write \
         new data in plain, set `encryption.read_only = true` as well",
        .0.display()
    )]
    Off(PathBuf),
    /// This process only reads the keyring.
    #[error("the keyring is only read here: the process that uses the data folder changes it")]
    Shared,
    /// The system has no random bytes.
    #[error("the system has no random bytes")]
    Random,
}

impl From<Unspecified> for KeyringError {
    fn from(_: Unspecified) -> Self {
        Self::Random
    }
}

/// The reason why contents are not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The keys of the tenant were destroyed: its contents are to be discarded.
    #[error("the keys of tenant {0} were destroyed")]
    Destroyed(String),
    /// A new key cannot be kept; it may work later.
    #[error("cannot make a key for tenant {tenant}: {reason}")]
    NoKey {
        /// The tenant.
        tenant: String,
        /// The reason.
        reason: String,
    },
}

/// The reason why sealed bytes are not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// The keys of the tenant were destroyed, on purpose.
    #[error("the keys of tenant {0} were destroyed")]
    Destroyed(String),
    /// The keyring has never held the key: it is another one.
    #[error(
        "sealed with key {id:08x} of tenant {tenant}, which the keyring does not hold: put the keyring of this data \
         back"
    )]
    Missing {
        /// The tenant.
        tenant: String,
        /// Id of the key.
        id: u32,
    },
    /// The bytes are not those that were sealed here.
    #[error("sealed bytes of tenant {0} are damaged")]
    Damaged(String),
}
