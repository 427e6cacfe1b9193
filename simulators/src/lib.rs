//! A fleet of devices, to try a broker with, and an oracle that says what landed.
//!
//! Receives: a scenario and the address of any MQTT broker; a ledger and the addresses of stores.
//! Promises: the same scenario, seed and start give the same readings; what it counts as acknowledged was acknowledged; what it
//! calls clean was compared value by value.
//! Hands on: ledgers, summaries, reports, findings.
//! Never: knows which broker it talks to; trusts a store's own word about what it holds.

pub mod bench;
pub mod fleet;
pub mod ledger;
pub mod oracle;
pub mod plan;
pub mod replay;
pub mod report;
pub mod scenario;
