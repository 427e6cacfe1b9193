//! The connection engine over real sockets, with a log whose durability the test decides.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod acknowledgements;
mod clients;
mod limits;
mod memory;
mod pending_wills;
mod resends;
mod sessions;
mod subscribers;
mod tenants;
mod world;
