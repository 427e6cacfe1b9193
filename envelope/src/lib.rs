//! Encryption at rest: the data keys of tenants, in envelopes under a key-encryption key.
//!
//! Receives: contents of one tenant with the place where they will lie, and sealed bytes with the
//! place where they lay.
//! Promises: a data key is durable before anything is sealed with it; sealed bytes are opened at
//! their own place and under their own tenant only; a nonce is used once; after
//! [`Keyring::destroy`] nothing of the tenant can be opened, and nothing more is sealed for it.
//! Hands on: sealed bytes to the log and to the store; the wrapped keys to one file of the data
//! folder.
//! Never: writes a key in plain, logs one, or takes a key that is missing for one that was
//! destroyed.
//!
//! ```text
//! key-encryption key (file, environment variable, or a command of a KMS)
//!   └─ wraps the master key            DIR/keyring, first line; made anew at each rotation
//!        └─ wraps the data keys        DIR/keyring, one line each; tenant and a random id
//!             └─ seal records, blocks, states …   AES-256-GCM, the place is authenticated
//! ```

mod command;
mod data_key;
mod error;
mod file;
mod kek;
mod keyring;
mod state;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;

pub use data_key::{HEAD_BYTES, OVERHEAD_BYTES};
pub use error::{KeyringError, SealError, UnsealError};
pub use file::check;
pub use kek::{Config, KekError};
pub use keyring::{FILE, Keyring, is_needed};
pub use state::{Status, TenantStatus};
