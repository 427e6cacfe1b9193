//! The processes of a fleet: who they are, and how they call and answer each other.
//!
//! One [`Member`] is a process: its node, its address, its roles, its pools and its start. Its name
//! `NODE@ADDRESS` is its name as the holder of leases, its node is its name as the owner of
//! clients. One [`Secret`] opens every call, about logs and about brokers, and one set of
//! connections carries the calls ([`Peers`], [`serve`]).
//!
//! A process is registered up to three times, each for `fleet.lease_ms`, because three things
//! depend on it in three ways:
//!
//! - **As a member** ([`Members`]), on the Redis of the shared pool, from its start until it has
//!   answered the last call. Nothing moves when it expires: the list names those to call, and the
//!   pools that they have.
//! - **As a flusher of a pool** ([`buffer::Catalogue::announce`]), on the Redis of that pool, which
//!   may be another one and must not wait for the first. Logs are divided among those registered. A
//!   flusher withdraws before it has given its logs back, while others still ask it about them.
//! - **As a node with the sessions of a pool** ([`crate::sessions`]), next to them, because the
//!   scripts that end a dead node and refuse its late changes read it in the same step. A node that
//!   was taken for dead begins a new start, which the other two have no use for.

mod exchange;
mod member;
mod metrics;
mod peers;
mod register;
mod secret;
mod serve;
#[cfg(test)]
mod tests;

pub use exchange::Exchange;
pub use member::Member;
pub use metrics::Metrics;
pub use peers::{Link, Peers, Refusal, pool_of};
pub use register::{Members, SecretError};
pub use secret::Secret;
pub use serve::serve;
