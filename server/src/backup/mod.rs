//! `weir backup` and `weir restore`: copies of a data folder, also of a running process.
//!
//! ```text
//! DIR/manifest.json   version, time, the offset that each sink had passed, steps for servers, and every file with its
//!                     size and SHA-256
//! DIR/log, spill      the log up to a durable end, with its cursors
//! DIR/store           the entries of the store that the cursors had passed
//! DIR/pools/NAME      the same of a pool
//! DIR/registry.redb   tenants, credentials and the audit
//! DIR/secret, peppers, audit-key, audit-key.pub, exports.json, servers.json
//! ```
//! **Order.** Each part that counts something as stored is copied before the part that stores it:
//! cursors before the store, the spill before Redis, this folder before MongoDB. A store that is
//! copied later holds at least what the cursors count, and a start stores the rest again from the
//! log. In the embedded store, entries beyond the cursors are left out, so that nothing is there
//! twice.
//!
//! **Whole or not at all.** Files are written to a folder of another name, synced, read back and
//! verified; then that folder is renamed.

pub(crate) mod command;
mod files;
pub(crate) mod manifest;
pub(crate) mod offer;
pub(crate) mod restore;
mod servers;
mod source;
mod take;

pub(crate) use offer::Offer;
pub(crate) use source::Open;
