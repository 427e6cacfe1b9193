//! Whole sinks against a log and stores that fail in every way they may.

mod books;
mod crash;
mod delivery;
mod exports;
mod purged;
mod queries;
mod takeover;
mod traces;
