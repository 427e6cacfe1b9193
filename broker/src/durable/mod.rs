//! Sessions that outlast the process.
//!
//! The state of a session that lasts is kept as records of Weir's own among the retained messages,
//! under topics that no client can set. They go through the log like everything else: what a client
//! is told has become durable before.
//!
//! ```text
//! $weir/sessions/NODE/SESSION              client id, expiry
//! $weir/subscriptions/NODE/SESSION/FILTER  options            before SUBACK
//! $weir/messages/NODE/MESSAGE              a message of QoS 1 or 2 with the sessions that get it:
//!                                          together with the message itself, before its PUBACK
//! $weir/released/NODE/SESSION              messages whose PUBREC has come, before PUBREL
//! $weir/receipts/NODE/SESSION/PACKET       a message of QoS 2 from the client, until its PUBREL
//! $weir/progress/NODE/SESSION              messages that the client has, a moment later
//! ```
//!
//! A session numbers its messages of QoS 1 and 2, and the packet id follows from the number. So a
//! message has the same packet id after a restart, and a client that has half of a QoS 2 exchange
//! ends it: it gets the message exactly once.
//!
//! A message is stored once for all its sessions. Its record is cleared when the last of them has
//! it: mostly long before a store has seen it, as both records are passed over then. One that waits
//! longer is in the store, and need not be in memory: [`crate::archive`].

mod journal;
mod ledger;
mod numbers;
mod outbox;
mod outline;
mod record;
mod restore;

pub(crate) use journal::{Handed, Journal, Put};
pub(crate) use ledger::{Duty, Ledger, StoredMessage};
pub(crate) use numbers::Numbers;
pub(crate) use outbox::Outbox;
pub use outline::Earlier;
pub(crate) use record::{MessageRecord, TakerRecord};
pub use record::{Progress, Subscription};
pub(crate) use restore::{Successor, restore_exchanges, sort};
