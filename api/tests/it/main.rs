//! The services over real connections, each test with a server of its own.

#![expect(clippy::unwrap_used, reason = "a panic ends the test")]

extern crate weir_api as api;

mod access;
mod aggregates;
mod brokers;
mod calls;
mod dead_letters;
mod devices;
mod exports;
mod fakes;
mod history;
mod live;
mod memory;
mod operations;
mod paged;
mod tokens;
mod traces;
mod world;
