//! The connection engine over real sockets, with a log whose durability the test decides.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod acknowledgements;
mod aliases;
mod authenticate;
mod clients;
mod conformance;
mod connecting;
mod delivery;
mod devices;
mod drain;
mod exactly_once;
mod expiry;
mod grants;
mod handover;
mod internal;
mod leaving;
mod limits;
mod listeners;
mod memory;
mod order;
mod pace;
mod packet_size;
mod packets;
mod peer;
mod pending_wills;
mod proxy;
mod publishing;
mod queues;
mod reasons;
mod resends;
mod restarts;
mod revocation;
mod sessions;
mod shares;
mod strangers;
mod subscribers;
mod subscribing;
mod sys;
mod tenants;
mod tls;
mod versions;
mod view;
mod websocket;
mod wire;
mod world;
