//! The connection engine over real sockets, with a log whose durability the test decides.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod acknowledgements;
mod authenticate;
mod clients;
mod devices;
mod expiry;
mod grants;
mod limits;
mod memory;
mod pace;
mod peer;
mod pending_wills;
mod resends;
mod revocation;
mod sessions;
mod strangers;
mod subscribers;
mod tenants;
mod tls;
mod world;
