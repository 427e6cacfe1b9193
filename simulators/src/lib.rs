//! A simulated fleet of devices, and an oracle that verifies stored readings.
//!
//! Receives: a scenario and the address of any MQTT broker; a ledger and the addresses of stores.
//! Promises: the same scenario, seed and start give the same readings; a message counts as
//! acknowledged only if it was; a store counts as clean only after a comparison of all values.
//! Hands on: ledgers, summaries, reports, findings.
//! Never: depends on a particular broker; relies on counts that a store reports.

pub mod bench;
pub mod broker;
pub mod credentials;
pub mod fleet;
pub mod ledger;
pub mod oracle;
pub mod plan;
pub mod replay;
pub mod report;
pub mod scenario;
