//! The connection engine over real sockets, with a log whose durability the test decides.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod acknowledgements;
mod aliases;
mod authenticate;
mod clients;
mod conformance;
mod devices;
mod exactly_once;
mod expiry;
mod grants;
mod handover;
mod limits;
mod listeners;
mod memory;
mod order;
mod pace;
mod packet_size;
mod peer;
mod pending_wills;
mod proxy;
mod queues;
mod reasons;
mod resends;
mod revocation;
mod sessions;
mod shares;
mod strangers;
mod subscribers;
mod sys;
mod tenants;
mod tls;
mod versions;
mod websocket;
mod world;
